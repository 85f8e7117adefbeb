//! The seam between logs and the disk: files that grow at the end, and a folder of them.
//!
//! The node uses [`FsDir`]; the simulator and the tests use [`MemoryDir`](crate::virtual_disk::MemoryDir), which loses what
//! was not synced. Order of effects is the caller's; this file only promises that `sync` means "on stable storage".

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Largest log file read back, bytes. A log that would grow past it refuses records, see [`crate::log`].
pub const LOG_BYTES_MAX: u64 = 1 << 30;

/// A file that is only written at its end.
pub trait LogFile: Send {
    /// Writes `bytes` at the end; not durable before [`LogFile::sync`].
    ///
    /// # Errors
    /// What the system says; part of the bytes may have been written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Returns once everything appended is on stable storage.
    ///
    /// # Errors
    /// What the system says; nothing is known about unsynced bytes then, and a second call proves nothing.
    fn sync(&mut self) -> io::Result<()>;

    /// The whole content, at most [`LOG_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// What the system says; `InvalidData` for a longer file.
    fn read_all(&mut self) -> io::Result<Vec<u8>>;

    /// Cuts the file to `len` bytes.
    ///
    /// # Errors
    /// What the system says.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
}

/// A folder of log files. Names are plain file names chosen by this crate.
pub trait LogDir: Send {
    /// Names of the files, sorted.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes an empty file; an existing one of that name is emptied.
    ///
    /// # Errors
    /// What the system says.
    fn create(&self, name: &str) -> io::Result<Box<dyn LogFile>>;

    /// Opens an existing file.
    ///
    /// # Errors
    /// `NotFound`, and what else the system says.
    fn open(&self, name: &str) -> io::Result<Box<dyn LogFile>>;

    /// Renames a file; atomic, and replaces a file of the new name.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Returns once creations, renames and removals are on stable storage.
    ///
    /// # Errors
    /// What the system says.
    fn sync(&self) -> io::Result<()>;
}

/// A real folder, mode 0700, of files with mode 0600.
#[derive(Debug, Clone)]
pub struct FsDir {
    path: PathBuf,
}

impl FsDir {
    /// Opens the folder, and makes it if it is missing.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        make_private_dir(&path)?;
        Ok(Self { path })
    }
}

impl LogDir for FsDir {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = vec![];
        for entry in fs::read_dir(&self.path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        let path = self.path.join(name);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Box::new(FsFile { file }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(Box::new(FsFile { file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        sync_dir(&self.path)
    }
}

#[derive(Debug)]
struct FsFile {
    file: File,
}

impl LogFile for FsFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::End(0))?;
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn read_all(&mut self) -> io::Result<Vec<u8>> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut bytes = vec![];
        (&mut self.file).take(LOG_BYTES_MAX.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LOG_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "longer than any log written by this program"));
        }
        Ok(bytes)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

/// Makes a folder that only its owner can enter, with missing parents.
pub(crate) fn make_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes renames and removals in a folder durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
