//! Errors of the storage crate in the words and exit codes of the command line.

use storage::{ErrorClass, StorageError};

use crate::failure::{Exit, Failure};

/// What to do about damaged data.
pub(crate) const CORRUPTION_REMEDY: &str =
    "restore the home from a backup; or start over in a new home folder with new keys, which syncs from its peers";

/// What to do about a refusal of the operating system, by its own words, which the storage errors pass on.
pub(crate) fn remedy_by_words(message: &str) -> Option<&'static str> {
    let remedies = [
        (
            "No space left on device",
            "free space on the disk of the home folder, then start again: what was signed or acknowledged is kept",
        ),
        (
            "Read-only file system",
            "the home folder must be on a file system that can be written: mount it so, or name another folder by --home",
        ),
    ];
    remedies.into_iter().find(|(words, _)| message.contains(words)).map(|(_, remedy)| remedy)
}

/// A storage error as a failure: its class decides the exit code.
pub(crate) fn failure(error: &StorageError) -> Failure {
    let message = error.to_string();
    match error.class() {
        ErrorClass::Locked => Failure::new(Exit::Locked, "home_locked", message)
            .field("home")
            .value(match error {
                StorageError::HomeLocked { path, .. } => path.as_str(),
                _ => "locked",
            })
            .limit("one process at a time")
            .remedy("stop the process that holds the home folder, or name another by --home"),
        ErrorClass::Corruption => corrupt(error, message),
        ErrorClass::Refused => refused(error, message),
        ErrorClass::Failure => {
            let remedy = remedy_by_words(&message).unwrap_or("see: proofmesh doctor");
            Failure::error("storage", message).remedy(remedy)
        }
    }
}

/// Damaged data: which, and where.
fn corrupt(error: &StorageError, message: String) -> Failure {
    let (field, value) = match error {
        StorageError::Corrupt { what, detail } => (what.clone(), detail.clone()),
        StorageError::LogCorrupt { file, offset, detail } => {
            (format!("log {file}"), format!("byte {offset}: {detail}"))
        }
        other => ("data".into(), other.to_string()),
    };
    Failure::new(Exit::Corruption, "corruption", message)
        .field(field)
        .value(value)
        .limit("what this node wrote, unchanged")
        .remedy(CORRUPTION_REMEDY)
}

/// Data that is whole, but not for this program or this chain.
fn refused(error: &StorageError, message: String) -> Failure {
    match error {
        StorageError::WrongChain { found, expected, .. } => Failure::new(Exit::Config, "wrong_chain", message)
            .field("genesis_hash")
            .value(found)
            .limit(expected)
            .remedy("restore the genesis.json that this home was made with, or use another home for the other chain"),
        StorageError::Newer { found, known, .. } => Failure::new(Exit::Config, "newer_schema", message)
            .field("schema")
            .value(found)
            .limit(format!("up to {known}"))
            .remedy("use the program version that wrote the data, or a newer one; nothing was changed"),
        _ => Failure::new(Exit::Config, "storage", message).remedy("see: proofmesh doctor"),
    }
}
