//! Files that are whole or absent, whatever happens while they are written.

use std::fs::{self, File};
use std::io::{ErrorKind, Result, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Writes a file and waits until it is on the disk.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    File::create(path).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
}

static UNSYNCED: AtomicBool = AtomicBool::new(false);

/// Waits until a folder's entries are on the disk. Where folders cannot be synced (SMB, FUSE,
/// Windows) that is no reason to stop: [`folders_are_unsynced`] says so.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if cannot(&error) || error.kind() == ErrorKind::PermissionDenied => {
            UNSYNCED.store(true, Ordering::Relaxed);
            Ok(())
        }
        result => result,
    }
}

/// Whether a folder could not be synced so far.
pub(crate) fn folders_are_unsynced() -> bool {
    UNSYNCED.load(Ordering::Relaxed)
}

/// Whether an error says that the file system has no such thing, and not that the thing failed.
pub(crate) fn cannot(error: &std::io::Error) -> bool {
    #[cfg(unix)]
    let known = matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | libc::ENOLCK | libc::EBADF)
    );
    #[cfg(not(unix))]
    let known = false;
    known || error.kind() == ErrorKind::Unsupported
}

/// Puts a whole file in its place: written beside it, synced, renamed, the folder synced.
///
/// # Errors
/// When the system refuses; what stood there before is untouched then, unless only the last sync
/// failed.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.draft"));
    write_synced(&draft, bytes)?;
    fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_no_draft_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.toml");
        replace_file(&path, b"one").unwrap();
        replace_file(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
