//! Errors of the storage crate in the words and exit codes of the command line.

use storage::{ErrorClass, StorageError};

use crate::failure::{Exit, Failure};

/// A storage error as a failure: its class decides the exit code.
pub(crate) fn failure(error: &StorageError) -> Failure {
    let message = error.to_string();
    match error.class() {
        ErrorClass::Locked => Failure::new(Exit::Locked, "home_locked", message)
            .field("home")
            .remedy("stop the process that holds the home folder, or name another by --home"),
        ErrorClass::Corruption => Failure::new(Exit::Corruption, "corruption", message)
            .remedy("see: proofmesh db verify; restore the home from a backup, or make a new one and let it sync"),
        ErrorClass::Refused => Failure::new(Exit::Config, "storage", message),
        ErrorClass::Failure => Failure::error("storage", message).remedy("see: proofmesh doctor"),
    }
}
