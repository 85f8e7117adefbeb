//! Errors of the storage crate in the words and exit codes of the command line.

use storage::{ErrorClass, StorageError};

use crate::failure::{Exit, Failure};

/// What to do about damaged data.
pub(crate) const CORRUPTION_REMEDY: &str =
    "restore the home from a backup; or start over in a new home folder with new keys, which syncs from its peers";

/// A storage error as a failure: its class decides the exit code.
pub(crate) fn failure(error: &StorageError) -> Failure {
    let message = error.to_string();
    match error.class() {
        ErrorClass::Locked => Failure::new(Exit::Locked, "home_locked", message)
            .field("home")
            .remedy("stop the process that holds the home folder, or name another by --home"),
        ErrorClass::Corruption => Failure::new(Exit::Corruption, "corruption", message).remedy(CORRUPTION_REMEDY),
        ErrorClass::Refused => Failure::new(Exit::Config, "storage", message),
        ErrorClass::Failure => Failure::error("storage", message).remedy("see: proofmesh doctor"),
    }
}
