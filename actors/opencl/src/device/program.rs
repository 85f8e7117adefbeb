//! Building programs, with a cache on disk. Owns the key of a cached binary, the form of the file, and what happens when
//! either is unusable: a broken file is built again and replaced, a folder that cannot be written costs time, not work.

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use ocl::core::{self, Context, DeviceId, Program, ProgramInfo, ProgramInfoResult};

use super::list::DeviceInfo;
use crate::error::{Error, Result, first_lines};

/// Raised whenever the meaning of kernel arguments changes, so that no binary of an earlier version is loaded.
const KERNEL_VERSION: u32 = 2;
const MAGIC: &[u8; 8] = b"pmgpubin";

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
