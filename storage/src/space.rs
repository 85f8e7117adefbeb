//! Free disk space.

use std::path::Path;

use crate::error::{Result, StorageError};

/// Space on the file system of a path, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskSpace {
    /// Free for this user.
    pub free: u64,
    /// Whole file system.
    pub total: u64,
}

/// Asks the system for the space around `path`, which must exist.
///
/// # Errors
/// [`StorageError::Io`].
pub fn disk_space(path: &Path) -> Result<DiskSpace> {
    let stat = rustix::fs::statvfs(path).map_err(|e| StorageError::io("ask for free space at", path)(e.into()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(DiskSpace { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_answers_for_a_folder_and_not_for_a_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        let space = disk_space(dir.path()).unwrap();
        assert!(space.total >= space.free && space.total > 0);
        assert!(matches!(disk_space(&dir.path().join("missing")), Err(StorageError::Io { .. })));
    }
}
