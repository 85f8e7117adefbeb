//! The home folder: where things lie, who may read them, and the lock that keeps a second process out.
//!
//! The lock is the system's advisory lock on the file `LOCK`, which goes with the process however it ends; the process id in
//! the file is for people. Children don't inherit it (the file closes on exec).

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::disk::make_private_dir;
use crate::error::{Result, StorageError};

/// Paths below a home folder. Names only: nothing is touched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout of a home folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The home folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Configuration file.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// Genesis document.
    pub fn genesis(&self) -> PathBuf {
        self.root.join("genesis.json")
    }

    /// Folder of secret keys.
    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// RocksDB.
    pub fn db(&self) -> PathBuf {
        self.root.join("db")
    }

    /// Consensus logs.
    pub fn wal(&self) -> PathBuf {
        self.root.join("wal")
    }

    /// The signer's guard.
    pub fn guard(&self) -> PathBuf {
        self.root.join("guard")
    }

    /// Blobs.
    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// Empty working folders of children.
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// What is kept per OpenCL driver: compiled kernels, measured speeds, the drivers' own caches. May be deleted.
    pub fn gpu(&self) -> PathBuf {
        self.root.join("gpu")
    }

    /// The lock file.
    pub fn lock(&self) -> PathBuf {
        self.root.join("LOCK")
    }
}

/// A home folder held by this process until it is dropped.
#[derive(Debug)]
pub struct Home {
    layout: Layout,
    _lock: File,
}

impl Home {
    /// Takes the home folder for this process alone, makes what is missing, and closes it to other users.
    ///
    /// # Errors
    /// [`StorageError::HomeLocked`] while another process holds it, [`StorageError::Io`].
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let layout = Layout::new(root);
        private_dir(layout.root())?;
        let lock = take_lock(&layout)?;
        let data = [layout.keys(), layout.db(), layout.wal(), layout.guard(), layout.blobs()];
        for dir in data.into_iter().chain([layout.work(), layout.gpu()]) {
            private_dir(&dir)?;
        }
        Ok(Self { layout, _lock: lock })
    }

    /// Where things lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}

/// Makes a folder of mode 0700, or narrows an existing one of this user to it.
fn private_dir(path: &Path) -> Result<()> {
    make_private_dir(path).map_err(StorageError::io("create", path))?;
    let mode = fs::metadata(path).map_err(StorageError::io("read the mode of", path))?.mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(StorageError::io("set mode 0700 on", path))?;
    }
    Ok(())
}

fn take_lock(layout: &Layout) -> Result<File> {
    let path = layout.lock();
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = open.map_err(StorageError::io("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let pid = (&mut file).take(20).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(StorageError::HomeLocked { path: layout.root().display().to_string(), pid });
        }
        Err(errno) => return Err(StorageError::io("lock", &path)(errno.into())),
    }
    write_pid(&mut file).map_err(StorageError::io("write", &path))?;
    Ok(file)
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorClass;

    #[test]
    fn a_home_is_held_once_and_free_again_after_drop() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("home");
        let home = Home::open(&root).unwrap();
        let second = Home::open(&root).unwrap_err();
        assert_eq!(second.class(), ErrorClass::Locked);
        let StorageError::HomeLocked { pid, path } = second else { panic!("{second}") };
        assert_eq!(pid, Some(std::process::id()));
        assert_eq!(path, root.display().to_string());
        drop(home);
        wait_until(|| Home::open(&root).is_ok());
    }

    /// Another test's child may hold a copy of our lock between its fork and its exec.
    fn wait_until(done: impl Fn() -> bool) {
        for _ in 0..500 {
            if done() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("not within five seconds");
    }

    #[test]
    fn folders_are_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("home");
        fs::create_dir(&root).unwrap();
        fs::create_dir(root.join("keys")).unwrap();
        fs::set_permissions(root.join("keys"), Permissions::from_mode(0o755)).unwrap();
        let home = Home::open(&root).unwrap();
        let layout = home.layout();
        for path in [layout.root(), &layout.keys(), &layout.db(), &layout.wal(), &layout.guard(), &layout.blobs()] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o700, "{}", path.display());
        }
        assert_eq!(fs::metadata(layout.lock()).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_lock_held_by_a_process_that_was_killed_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("home");
        drop(Home::open(&root).unwrap());
        let lock = Layout::new(&root).lock();
        let mut holder =
            std::process::Command::new("flock").arg("-x").arg(&lock).arg("sleep").arg("60").spawn().unwrap();
        wait_until(|| matches!(Home::open(&root), Err(StorageError::HomeLocked { .. })));
        let sleeper = fs::read_to_string(format!("/proc/{0}/task/{0}/children", holder.id())).unwrap();
        for pid in sleeper.split_whitespace() {
            let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        holder.kill().unwrap();
        holder.wait().unwrap();
        wait_until(|| Home::open(&root).is_ok());
    }
}
