//! A folder in memory that forgets what was not synced: power cuts for the simulator and the tests.
//!
//! The model: appended bytes survive a power cut only up to the last `sync` of their file, plus a prefix of the rest that
//! the caller of [`MemoryDir::power_cut`] chooses (a torn write); creations, renames and removals survive only after the
//! folder's `sync`. A cut (`truncate`) is durable at once. Clones share one disk.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{LogDir, LogFile};

/// A virtual folder.
#[derive(Clone, Debug, Default)]
pub struct MemoryDir {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    files: BTreeMap<u64, FileState>,
    next_file: u64,
    syncs: u64,
    /// Appends and syncs until one fails; `None` never.
    fail_after: Option<u64>,
}

#[derive(Debug, Default, Clone)]
struct FileState {
    bytes: Vec<u8>,
    durable: usize,
}

impl Disk {
    fn step(&mut self) -> io::Result<()> {
        match self.fail_after.as_mut() {
            Some(0) => Err(io::Error::new(io::ErrorKind::StorageFull, "virtual disk failure")),
            Some(left) => {
                *left = left.saturating_sub(1);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn id_of(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl MemoryDir {
    /// An empty folder.
    pub fn new() -> Self {
        Self::default()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything unsynced. Of each file's unsynced tail the first `keep(name, unsynced bytes)` bytes survive, which
    /// makes torn records. Open files of before the cut must not be used any more.
    pub fn power_cut(&self, mut keep: impl FnMut(&str, usize) -> usize) {
        let mut disk = self.disk();
        let names = disk.durable_names.clone();
        let mut files = BTreeMap::new();
        for (name, id) in &names {
            let mut file = disk.files.get(id).cloned().unwrap_or_default();
            let unsynced = file.bytes.len().saturating_sub(file.durable);
            file.bytes.truncate(file.durable.saturating_add(keep(name, unsynced).min(unsynced)));
            file.durable = file.bytes.len();
            files.insert(*id, file);
        }
        disk.names = names;
        disk.files = files;
    }

    /// Lets `n` more appends and syncs succeed and all later ones fail; `None` heals the disk.
    pub fn fail_after(&self, n: Option<u64>) {
        self.disk().fail_after = n;
    }

    /// Number of file syncs so far.
    pub fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    /// The bytes of a file as a reader would see them now.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let disk = self.disk();
        let id = disk.names.get(name)?;
        disk.files.get(id).map(|file| file.bytes.clone())
    }

    /// Replaces a file's content, durably: damage done from outside.
    pub fn overwrite(&self, name: &str, bytes: Vec<u8>) {
        let mut disk = self.disk();
        let durable = bytes.len();
        let id = disk.names.get(name).copied().unwrap_or_else(|| {
            let id = disk.next_file;
            disk.next_file = id.saturating_add(1);
            id
        });
        disk.names.insert(name.to_owned(), id);
        disk.durable_names.insert(name.to_owned(), id);
        disk.files.insert(id, FileState { bytes, durable });
    }
}

impl LogDir for MemoryDir {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        let mut disk = self.disk();
        let id = disk.next_file;
        disk.next_file = id.saturating_add(1);
        disk.names.insert(name.to_owned(), id);
        disk.files.insert(id, FileState::default());
        Ok(Box::new(MemoryFile { dir: self.clone(), id }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        let id = self.disk().id_of(name)?;
        Ok(Box::new(MemoryFile { dir: self.clone(), id }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        let id = disk.id_of(from)?;
        disk.names.remove(from);
        disk.names.insert(to.to_owned(), id);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.id_of(name)?;
        disk.names.remove(name);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.step()?;
        disk.durable_names = disk.names.clone();
        // Open files keep working after their name is gone, as on a real disk, but these are short-lived here.
        let live: Vec<u64> = disk.names.values().copied().collect();
        disk.files.retain(|id, _| live.contains(id));
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryFile {
    dir: MemoryDir,
    id: u64,
}

impl MemoryFile {
    fn with<T>(&self, use_it: impl FnOnce(&mut FileState) -> T) -> io::Result<T> {
        let mut disk = self.dir.disk();
        disk.files.get_mut(&self.id).map(use_it).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl LogFile for MemoryFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.dir.disk().step()?;
        self.with(|file| file.bytes.extend_from_slice(bytes))
    }

    fn sync(&mut self) -> io::Result<()> {
        {
            let mut disk = self.dir.disk();
            disk.step()?;
            disk.syncs = disk.syncs.saturating_add(1);
        }
        self.with(|file| file.durable = file.bytes.len())
    }

    fn read_all(&mut self) -> io::Result<Vec<u8>> {
        self.with(|file| file.bytes.clone())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.with(|file| {
            file.bytes.truncate(len);
            file.durable = file.durable.min(len);
        })
    }
}
