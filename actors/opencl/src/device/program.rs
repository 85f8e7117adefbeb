//! Building programs, with a cache on disk. Owns the key of a cached binary, the form of the file, and what happens when
//! either is unusable: a broken file is built again and replaced, a folder that cannot be written costs time, not work.

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use ocl::core::{self, Context, DeviceId, Program, ProgramInfo, ProgramInfoResult};

use super::list::DeviceInfo;
use crate::error::{Error, Result, first_lines};

/// Raised whenever the meaning of kernel arguments changes, so that no binary of an earlier version is loaded.
const KERNEL_VERSION: u32 = 3;
const MAGIC: &[u8; 8] = b"pmgpubin";
/// Bytes of the cache at most: several drivers' kernels of everything there is. What was used longest ago goes first.
const CACHE_BYTES_MAX: u64 = 1 << 30;

/// What the cache did since the runtime was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct CacheReport {
    /// Programs loaded from disk.
    pub loaded: u64,
    /// Programs compiled from source.
    pub compiled: u64,
    /// Files that were unreadable or wrong and were built again.
    pub broken: u64,
    /// Files that could not be written.
    pub unwritten: u64,
}

/// Builds programs for one device.
#[derive(Debug)]
pub(super) struct Builder {
    pub(super) context: Context,
    pub(super) device: DeviceId,
    pub(super) info: DeviceInfo,
    /// Folder of the cache; `None` switches it off.
    pub(super) folder: Option<PathBuf>,
}

/// Options for the OpenCL compiler. Integer code only: nothing about floating point.
pub(super) const BUILD_OPTIONS: &str = "-cl-std=CL1.2";

impl Builder {
    pub(super) fn key(&self, source: &str) -> String {
        let mut hasher = blake3::Hasher::new();
        let version = KERNEL_VERSION.to_string();
        let info = &self.info;
        let parts = [
            source,
            BUILD_OPTIONS,
            &info.name,
            &info.version,
            &info.driver,
            &info.platform,
            &info.platform_version,
            &version,
        ];
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The program of `source`, from the cache if it holds it; `what` names it in messages.
    pub(super) fn build(&self, what: &str, source: &str, report: &mut CacheReport) -> Result<Program> {
        let path = self.folder.as_ref().map(|folder| folder.join(format!("{}.bin", self.key(source))));
        if let Some(path) = path.as_deref()
            && let Some(binary) = read_binary(path, report)
        {
            match self.load(&binary) {
                Ok(program) => {
                    report.loaded += 1;
                    touch(path);
                    return Ok(program);
                }
                Err(error) => {
                    report.broken += 1;
                    tracing::warn!(%error, path = %path.display(), "the driver refuses a cached kernel: it is built again");
                }
            }
        }
        let program = self.compile(what, source)?;
        report.compiled += 1;
        if let Some(folder) = self.folder.as_deref() {
            bound(folder, CACHE_BYTES_MAX);
        }
        if let Some(path) = path.as_deref()
            && let Err(error) = binary_of(&program).and_then(|binary| write_binary(path, &binary))
        {
            report.unwritten += 1;
            tracing::warn!(error, path = %path.display(), "a kernel cannot be cached: it will be compiled at every start");
        }
        Ok(program)
    }

    fn options() -> Result<CString> {
        CString::new(BUILD_OPTIONS).map_err(|_| Error::Call { call: "options", reason: "a zero byte".to_owned() })
    }

    fn load(&self, binary: &[u8]) -> Result<Program> {
        let program = core::create_program_with_binary(&self.context, &[self.device], &[binary])
            .map_err(Error::call("create program from binary"))?;
        core::build_program(&program, Some(&[self.device]), &Self::options()?, None, None)
            .map_err(Error::call("build program from binary"))?;
        Ok(program)
    }

    fn compile(&self, what: &str, source: &str) -> Result<Program> {
        let failed = |log: String| Error::Build { device: self.info.name.clone(), what: what.to_owned(), log };
        let text = CString::new(source).map_err(|_| failed("a zero byte in the source".to_owned()))?;
        let program = core::create_program_with_source(&self.context, &[text])
            .map_err(Error::call("create program from source"))?;
        core::build_program(&program, Some(&[self.device]), &Self::options()?, None, None)
            .map_err(|error| failed(first_lines(&error.to_string())))?;
        Ok(program)
    }
}

fn binary_of(program: &Program) -> std::result::Result<Vec<u8>, String> {
    match core::get_program_info(program, ProgramInfo::Binaries) {
        Ok(ProgramInfoResult::Binaries(binaries)) => binaries
            .into_iter()
            .next()
            .filter(|binary| !binary.is_empty())
            .ok_or_else(|| "the driver gives none".to_owned()),
        Ok(_) => Err("the driver gives something else".to_owned()),
        Err(error) => Err(first_lines(&error.to_string())),
    }
}

/// The binary in the file at `path`; `None`, with a log line if there is a file, when it is not exactly what was written.
fn read_binary(path: &Path, report: &mut CacheReport) -> Option<Vec<u8>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            report.broken += 1;
            tracing::warn!(%error, path = %path.display(), "a cached kernel cannot be read: it is built again");
            return None;
        }
    };
    let binary = bytes.strip_prefix(MAGIC).and_then(|rest| rest.split_at_checked(blake3::OUT_LEN));
    if let Some((sum, binary)) = binary
        && blake3::hash(binary).as_bytes() == sum
    {
        return Some(binary.to_vec());
    }
    report.broken += 1;
    tracing::warn!(path = %path.display(), "a cached kernel is damaged: it is built again");
    None
}

/// Notes that a file was used. Where the folder cannot be written the order of use is that of creation.
fn touch(path: &Path) {
    // A failure only makes the file look older than it is.
    let _ = fs::File::options().append(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

/// Deletes the cache's files that were used longest ago until the others take `bytes_max` bytes at most. Files of another
/// kind in the folder are not ours.
fn bound(folder: &Path, bytes_max: u64) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let ours = |path: &Path| path.extension().is_some_and(|kind| kind == "bin" || kind == "tmp");
    let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
        .flatten()
        .filter(|entry| ours(&entry.path()))
        .filter_map(|entry| {
            let data = entry.metadata().ok()?;
            Some((data.modified().ok()?, data.len(), entry.path()))
        })
        .collect();
    files.sort();
    let mut bytes: u64 = files.iter().map(|(_, len, _)| len).sum();
    for (_, len, path) in files {
        if bytes <= bytes_max {
            return;
        }
        match fs::remove_file(&path) {
            Ok(()) => bytes -= len,
            // Another process may have been faster.
            Err(error) => tracing::warn!(%error, path = %path.display(), "a cached kernel cannot be deleted"),
        }
    }
}

/// Writes beside the final name and renames: readers see the old file or the new one.
fn write_binary(path: &Path, binary: &[u8]) -> std::result::Result<(), String> {
    let folder = path.parent().ok_or("no folder")?;
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(folder)?;
        // Two threads may compile the same at once.
        static WRITES: AtomicU64 = AtomicU64::new(0);
        let write = WRITES.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{}.{write}.tmp", std::process::id()));
        let mut file = fs::File::create(&temporary)?;
        file.write_all(MAGIC)?;
        file.write_all(blake3::hash(binary).as_bytes())?;
        file.write_all(binary)?;
        drop(file);
        fs::rename(&temporary, path)
    };
    write().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let start = SystemTime::now() - std::time::Duration::from_secs(1000);
        for (age, name) in ["a.bin", "b.bin", "c.1.tmp", "d.bin", "note.passed"].into_iter().enumerate() {
            fs::write(path(name), [0; 100]).expect("written");
            let file = fs::File::options().append(true).open(path(name)).expect("open");
            file.set_modified(start + std::time::Duration::from_secs(age as u64)).expect("set");
        }
        bound(folder.path(), 400);
        assert!(path("a.bin").exists(), "nothing is deleted without need");
        touch(&path("a.bin"));
        bound(folder.path(), 250);
        let left = ["a.bin", "b.bin", "c.1.tmp", "d.bin", "note.passed"].map(|name| path(name).exists());
        assert_eq!(left, [true, false, false, true, true]);
        bound(&path("none"), 0);
    }

    #[test]
    fn only_whole_files_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("below").join("a.bin");
        let mut report = CacheReport::default();
        assert_eq!(read_binary(&path, &mut report), None);
        assert_eq!(report.broken, 0, "absent is not broken");
        write_binary(&path, b"kernel").expect("written");
        assert_eq!(read_binary(&path, &mut report), Some(b"kernel".to_vec()));
        let whole = fs::read(&path).expect("read");
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).expect("cut");
            assert_eq!(read_binary(&path, &mut report), None, "{length} bytes");
        }
        for position in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[position] ^= 1;
            fs::write(&path, bytes).expect("changed");
            assert_eq!(read_binary(&path, &mut report), None, "byte {position}");
        }
        assert_eq!(report.broken, 2 * whole.len() as u64);
        assert!(write_binary(Path::new("/proc/nothing/a.bin"), b"x").is_err());
    }
}
