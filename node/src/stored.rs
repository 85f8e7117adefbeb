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
            .remedy("stop the process that holds the home folder, or name another by --home"),
        ErrorClass::Corruption => Failure::new(Exit::Corruption, "corruption", message).remedy(CORRUPTION_REMEDY),
        ErrorClass::Refused => Failure::new(Exit::Config, "storage", message),
        ErrorClass::Failure => {
            let remedy = remedy_by_words(&message).unwrap_or("see: proofmesh doctor");
            Failure::error("storage", message).remedy(remedy)
        }
    }
}
