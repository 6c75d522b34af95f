//! One run in a folder at a time.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::Path;

use super::atomic_file::cannot;
use super::error::TrainError;

/// The lock on a run folder. The system lets go of it when the process ends, however that happens;
/// the file stays and means nothing by itself.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
    unguarded: Option<std::io::Error>,
}

impl RunLock {
    /// Locks an existing folder. Where the file system has no locks, as Lustre often and NFS, SMB and
    /// FUSE sometimes, it goes on without: [`RunLock::unguarded`] says so.
    ///
    /// # Errors
    /// [`TrainError::Locked`] while another process has it.
    pub fn take(run: &Path) -> Result<Self, TrainError> {
        let path = run.join(".lock");
        let fail = |source| TrainError::Folder { path: path.clone(), source };
        let mut file =
            File::options().create(true).append(true).read(true).open(&path).map_err(fail)?;
        let mut unguarded = None;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let owner = std::fs::read_to_string(&path).unwrap_or_default();
                return Err(TrainError::Locked {
                    path: run.to_owned(),
                    owner: owner.trim().into(),
                });
            }
            Err(TryLockError::Error(source)) if cannot(&source) => unguarded = Some(source),
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        // Who has it, for the message to others.
        file.set_len(0)
            .and_then(|()| writeln!(file, "process {}", std::process::id()))
            .map_err(fail)?;
        Ok(Self { _file: file, unguarded })
    }

    /// Why nothing keeps a second process out of the folder, where nothing does.
    pub fn unguarded(&self) -> Option<&std::io::Error> {
        self.unguarded.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_until_the_first_lets_go() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunLock::take(folder.path()).unwrap();
        let error = RunLock::take(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        RunLock::take(folder.path()).unwrap();
    }
}
