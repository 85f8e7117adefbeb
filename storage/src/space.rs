//! Free disk space, as an answer that callers act on before a write fails.

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

/// What the free space allows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DiskLevel {
    /// Everything.
    Enough,
    /// Blocks and votes, but no new jobs, transactions or blobs.
    Low,
    /// Nothing: stop voting cleanly while the logs can still be written.
    Critical,
}

/// Thresholds of free space, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskGuard {
    /// Below this: [`DiskLevel::Low`].
    pub low: u64,
    /// Below this: [`DiskLevel::Critical`].
    pub critical: u64,
}

impl Default for DiskGuard {
    /// Low below 1 GiB, critical below 256 MiB: the database's log, memory tables and one compaction fit in the latter.
    fn default() -> Self {
        Self { low: 1 << 30, critical: 256 << 20 }
    }
}

impl DiskGuard {
    /// What `space` allows.
    pub fn level(&self, space: DiskSpace) -> DiskLevel {
        if space.free < self.critical {
            DiskLevel::Critical
        } else if space.free < self.low {
            DiskLevel::Low
        } else {
            DiskLevel::Enough
        }
    }
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
    fn levels_follow_the_thresholds_and_the_system_answers() {
        let guard = DiskGuard { low: 100, critical: 10 };
        let level = |free| guard.level(DiskSpace { free, total: 1000 });
        assert_eq!(
            [level(9), level(10), level(99), level(100)],
            [DiskLevel::Critical, DiskLevel::Low, DiskLevel::Low, DiskLevel::Enough]
        );
        let dir = tempfile::tempdir().unwrap();
        let space = disk_space(dir.path()).unwrap();
        assert!(space.total >= space.free && space.total > 0);
        assert!(disk_space(Path::new("/no/such/folder")).is_err());
    }
}
