//! File systems of a test's own, seen by one node alone: a small disk that can be filled, and a home that can't be written.
//!
//! A mount namespace holds them, made by the tools of util-linux; where the user is not root, inside a user namespace.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use storage::space::disk_space;

use super::process::die_with_parent;

/// Bytes written at once to fill a disk up.
const PIECE: usize = 4096;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The beginning of a command that runs in a mount namespace of its own.
fn unshare() -> Vec<String> {
    let mut words = vec!["unshare".to_owned(), "--mount".into()];
    if !is_root() {
        words.extend(["--user".into(), "--map-root-user".into()]);
    }
    words
}

/// A small disk in the place of a home folder; gone when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    holder: Child,
    home: PathBuf,
}

impl SmallDisk {
    /// Makes a disk of so many mebibytes that holds a copy of `home`.
    ///
    /// # Errors
    /// When this machine allows no mounts in a namespace.
    pub fn over(home: &Path, mebibytes: u32) -> Result<Self> {
        let script = r#"set -e
            mkdir -p "$1.disk"; mount -t tmpfs -o "size=$2m,mode=0700" none "$1.disk"
            cp -a "$1/." "$1.disk/"; mount --bind "$1.disk" "$1"; echo ready; exec cat"#;
        let words = unshare();
        let (first, rest) = words.split_first().context("no command")?;
        let mut command = Command::new(first);
        command.args(rest).args(["sh", "-c", script, "sh"]).arg(home).arg(mebibytes.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        die_with_parent(&mut command);
        let mut holder = command.spawn().context("running unshare")?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().context("its output")?).read_line(&mut line)?;
        let disk = Self { holder, home: home.to_owned() };
        ensure!(
            line.trim() == "ready",
            "no small disk: unshare and mount must be allowed here (as root, or with user namespaces)"
        );
        Ok(disk)
    }

    /// The command that runs what follows it where this disk is seen.
    pub fn within(&self) -> Vec<String> {
        let mut words = vec!["nsenter".to_owned(), "--mount".into()];
        if !is_root() {
            words.extend(["--user".into(), "--preserve-credentials".into()]);
        }
        words.extend(["--target".into(), self.holder.id().to_string()]);
        words
    }

    /// Where the home on this disk is reached from outside.
    pub fn home(&self) -> PathBuf {
        let below = self.home.strip_prefix("/").unwrap_or(&self.home);
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(below)
    }

    fn filler(&self) -> PathBuf {
        self.home().join("filler")
    }

    /// Fills the disk until fewer than `left` bytes are free, and with 0 until nothing can be written; returns the number of
    /// bytes it took.
    ///
    /// # Errors
    /// When the file can't be written for another reason than that.
    pub fn fill(&self, left: u64) -> Result<u64> {
        let mut file = File::create(self.filler())?;
        let mut written = 0;
        while left == 0 || disk_space(&self.home())?.free >= left {
            match file.write(&[1; PIECE]) {
                Ok(bytes) => written += bytes as u64,
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error).context("filling the disk"),
            }
        }
        Ok(written)
    }

    /// Frees what was filled.
    ///
    /// # Errors
    /// When the file can't be removed.
    pub fn free(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.filler())?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A holder that has ended takes no signal; both calls then do nothing.
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

/// The command that runs what follows it where `home` can't be written.
pub fn read_only(home: &Path) -> Vec<String> {
    let script = r#"set -e
        mount --bind "$0" "$0"; mount -o remount,bind,ro "$0"; exec "$@""#;
    let mut words = unshare();
    words.extend(["sh".into(), "-c".into(), script.into(), home.display().to_string()]);
    words
}
