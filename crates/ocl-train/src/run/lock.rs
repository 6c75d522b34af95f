//! One run in a folder at a time.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::Path;

use super::error::TrainError;

/// The lock on a run folder. The system lets go of it when the process ends, however that happens;
/// the file stays and means nothing by itself.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Locks an existing folder.
    ///
    /// # Errors
    /// [`TrainError::Locked`] while another process has it.
    pub fn take(run: &Path) -> Result<Self, TrainError> {
        let path = run.join(".lock");
        let fail = |source| TrainError::Folder { path: path.clone(), source };
        let mut file =
            File::options().create(true).append(true).read(true).open(&path).map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let owner = std::fs::read_to_string(&path).unwrap_or_default();
                return Err(TrainError::Locked {
                    path: run.to_owned(),
                    owner: owner.trim().into(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        // Who has it, for the message to others.
        file.set_len(0)
            .and_then(|()| writeln!(file, "process {}", std::process::id()))
            .map_err(fail)?;
        Ok(Self { _file: file })
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
