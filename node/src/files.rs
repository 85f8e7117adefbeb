//! Reading under a bound, and writing whole files so that a crash leaves the old or the new one.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::failure::Failure;

/// Reads a file of at most `limit` bytes; `field` names it in errors.
///
/// # Errors
/// When it can't be read or is longer.
pub(crate) fn read_bounded(path: &Path, field: &str, limit: u64) -> Result<Vec<u8>, Failure> {
    let file = File::open(path).map_err(|e| Failure::io(path, "opening", &e).field(field))?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Failure::io(path, "reading", &e))?;
    if bytes.len() as u64 > limit {
        return Err(Failure::error("too_large", format!("{field}: {} is longer than {limit} bytes", path.display()))
            .field(field)
            .value(path.display())
            .limit(format!("{limit} bytes"))
            .remedy("name a shorter file"));
    }
    Ok(bytes)
}

/// Creates a folder and its parents with mode 0700, or leaves an existing one as it is.
///
/// # Errors
/// When it can't be created.
pub(crate) fn create_private_dir(path: &Path) -> Result<(), Failure> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).map_err(|e| Failure::io(path, "creating", &e))
}

/// Writes a file that must not exist yet, with the mode given, and syncs it.
///
/// # Errors
/// When it exists or can't be written.
pub(crate) fn create_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(|e| Failure::io(path, "creating", &e))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| Failure::io(path, "writing", &e))
}

/// Replaces a file by way of a temporary file beside it.
///
/// # Errors
/// When it can't be written.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".tmp-{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|e| {
        // The temporary file may not even exist; the error told is the one that matters.
        std::fs::remove_file(&temporary).ok();
        Failure::io(path, "writing", &e)
    })
}
