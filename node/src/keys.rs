//! Key files: 32-byte ed25519 seeds as hex, mode 0600 in a folder of mode 0700. Looser modes are refused, because a key
//! that others could read has to be taken as read.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use types::ids::parse_hex32;
use types::keys::SecretKey;

use crate::failure::{Exit, Failure};
use crate::files;

/// A key file is 64 digits and a line end.
const KEY_FILE_MAX: u64 = 66;

/// What a key is for; the three of a node differ, so that no signature of one can stand for another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum KeyKind {
    /// The peer's identity in the network.
    Node,
    /// Votes on blocks and proofs.
    Consensus,
    /// Owns credits; signs transactions and proofs.
    Account,
}

impl KeyKind {
    /// All kinds.
    pub(crate) const ALL: [Self; 3] = [Self::Node, Self::Consensus, Self::Account];

    /// Its name in commands and file names.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Consensus => "consensus",
            Self::Account => "account",
        }
    }
}

/// Draws a new key from the operating system.
///
/// # Errors
/// When the operating system gives no random bytes.
pub(crate) fn generate() -> Result<SecretKey, Failure> {
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed)
        .map_err(|e| Failure::error("random", format!("the operating system gives no random bytes: {e}")))?;
    Ok(SecretKey::from_seed(seed))
}

/// Writes a key to a new file of mode 0600; its folder is created with mode 0700 if missing.
///
/// # Errors
/// When the file exists (a key is never overwritten) or can't be written.
pub(crate) fn write(path: &Path, key: &SecretKey) -> Result<(), Failure> {
    if path.exists() {
        return Err(Failure::error("exists", format!("{} exists; a key file is never overwritten", path.display()))
            .field("key")
            .value(path.display())
            .remedy("move the file away first, or choose another name by --out"));
    }
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        files::create_private_dir(folder)?;
    }
    files::create_new(path, format!("{}\n", hex::encode(key.to_seed())).as_bytes(), 0o600)
}

/// Reads a key file.
///
/// # Errors
/// When it is missing, readable by others, or no key.
pub(crate) fn read(path: &Path) -> Result<SecretKey, Failure> {
    let metadata = fs::metadata(path).map_err(|e| {
        of_keys(Failure::io(path, "opening key file", &e).field("key").limit("a key file of mode 0600"))
            .remedy("make the keys by: proofmesh init, or proofmesh keys generate --out FILE")
    })?;
    check_mode(path, metadata.permissions().mode(), 0o600)?;
    let bytes = files::read_bounded(path, "key", KEY_FILE_MAX)?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    // The content is never part of an error: it may be most of a key.
    let seed = parse_hex32("key", text.trim_end()).map_err(|_| {
        Failure::config(format!("{} is no key file: it must hold 64 lower-case hex digits", path.display()))
            .field("key")
            .value(path.display())
            .limit("64 lower-case hex digits")
            .remedy("restore the file from a backup, or make a new key by: proofmesh keys generate --out FILE")
    })?;
    Ok(SecretKey::from_seed(seed))
}

/// Refuses a folder of keys that others may enter.
///
/// # Errors
/// A configuration error with the command that repairs it.
pub(crate) fn check_dir(path: &Path) -> Result<(), Failure> {
    let metadata = fs::metadata(path).map_err(|e| {
        of_keys(Failure::io(path, "opening key folder", &e).field("keys").limit("a folder of mode 0700"))
            .remedy("restore the folder from a backup, or make new keys by: proofmesh keys generate")
    })?;
    check_mode(path, metadata.permissions().mode(), 0o700)
}

/// Keys are part of the configuration.
fn of_keys(mut failure: Failure) -> Failure {
    failure.exit = Exit::Config;
    failure
}

fn check_mode(path: &Path, mode: u32, allowed: u32) -> Result<(), Failure> {
    let found = mode & 0o7777;
    if found & !allowed == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Config,
        "key_mode",
        format!(
            "{} has mode {found:04o}, so others may have read it; allowed is {allowed:04o} or stricter",
            path.display()
        ),
    )
    .field("mode")
    .value(format!("{found:04o}"))
    .limit(format!("{allowed:04o}"))
    .remedy(format!("chmod {allowed:o} {}; if the machine has other users, make new keys", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_and_loose_modes_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("keys/account.key");
        let key = generate().unwrap();
        write(&path, &key).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(read(&path).unwrap().public(), key.public());
        check_dir(path.parent().unwrap()).unwrap();
        assert_eq!(write(&path, &key).unwrap_err().code, "exists");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = read(&path).unwrap_err();
        assert_eq!(
            (refused.exit, refused.code.as_str(), refused.value.as_deref()),
            (Exit::Config, "key_mode", Some("0640"))
        );
        fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(check_dir(path.parent().unwrap()).unwrap_err().code, "key_mode");
    }

    #[test]
    fn an_error_never_shows_the_content() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("k");
        files::create_new(&path, "ABCDEF".repeat(10).as_bytes(), 0o600).unwrap();
        let refused = read(&path).unwrap_err();
        assert!(!refused.to_string().contains("ABCDEF"), "{refused}");
        let missing = read(&home.path().join("none")).unwrap_err();
        assert!(missing.remedy.is_some());
    }
}
