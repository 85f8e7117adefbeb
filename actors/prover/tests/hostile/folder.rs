//! A folder with a canary beside the place where children run, and the proof that nothing in it was touched.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What there is to know about one entry: kind and mode, length, times of change, of reading, content.
type Entry = (u32, u64, (i64, i64), (i64, i64), Vec<u8>);

/// The folder.
pub(crate) struct Guarded {
    folder: tempfile::TempDir,
}

impl Guarded {
    /// A folder with a canary that was last read long ago, so that any reading would show where the file system notes it.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("scratch")).unwrap();
        let guarded = Self { folder };
        fs::write(guarded.canary(), b"{\"tasks\": []}").unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(30 * 24 * 3600);
        let times = FileTimes::new().set_accessed(long_ago).set_modified(long_ago);
        File::options().write(true).open(guarded.canary()).unwrap().set_times(times).unwrap();
        guarded
    }

    /// Where children run.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.folder.path().join("scratch")
    }

    /// A file that programs try to read.
    pub(crate) fn canary(&self) -> PathBuf {
        self.folder.path().join("canary.json")
    }

    /// A file that programs try to write.
    pub(crate) fn target(&self) -> PathBuf {
        self.folder.path().join("written.json")
    }

    /// Everything below the folder.
    pub(crate) fn state(&self) -> BTreeMap<PathBuf, Entry> {
        let mut found = BTreeMap::new();
        collect(self.folder.path(), &mut found);
        found
    }
}

fn collect(path: &Path, found: &mut BTreeMap<PathBuf, Entry>) {
    let about = fs::symlink_metadata(path).unwrap();
    let (content, read) = if about.is_file() {
        // The time of reading was taken before this look; put it back, so that the next look compares the same.
        let content = fs::read(path).unwrap();
        let times = FileTimes::new().set_accessed(about.accessed().unwrap()).set_modified(about.modified().unwrap());
        File::options().write(true).open(path).unwrap().set_times(times).unwrap();
        (content, (about.atime(), about.atime_nsec()))
    } else {
        (Vec::new(), (0, 0))
    };
    let changed = (about.mtime(), about.mtime_nsec());
    found.insert(path.to_path_buf(), (about.mode(), about.len(), changed, read, content));
    if about.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), found);
        }
    }
}
