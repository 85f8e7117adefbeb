//! The home folder: where a node's configuration, genesis document, keys and data lie.

use std::path::{Path, PathBuf};

use types::genesis::Genesis;

use crate::failure::{Exit, Failure};
use crate::files;

/// Largest genesis file read, bytes: its record's own limit, doubled for JSON's overhead and spaces.
const GENESIS_FILE_MAX: u64 = 8 << 20;

/// What to do about a genesis document that is none.
const GENESIS_REMEDY: &str = "take the document from a node of the chain by: proofmesh init --bootstrap; or, before the \
    chain's start, correct it on all nodes alike";

/// A node's home folder.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    root: PathBuf,
    /// By flag or environment: then it must be there.
    is_named: bool,
}

impl Home {
    /// The folder named by flag or environment, else `~/.proofmesh`.
    ///
    /// # Errors
    /// A usage error when no folder is named and there is no home of the user.
    pub(crate) fn locate(flag: Option<&Path>) -> Result<Self, Failure> {
        if let Some(path) = flag {
            // Children run in folders of their own, where a relative path would mean another place.
            let root = std::path::absolute(path).map_err(|e| Failure::io(path, "locating home", &e).field("home"))?;
            return Ok(Self { root, is_named: true });
        }
        match std::env::var_os("HOME") {
            Some(user) if !user.is_empty() => {
                Ok(Self { root: PathBuf::from(user).join(".proofmesh"), is_named: false })
            }
            _ => Err(Failure::usage("no home folder: HOME is not set")
                .field("home")
                .remedy("give --home DIR or set PROOFMESH_HOME")),
        }
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The configuration file.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The genesis document.
    pub(crate) fn genesis_file(&self) -> PathBuf {
        self.root.join("genesis.json")
    }

    /// The folder of key files, mode 0700.
    pub(crate) fn keys_dir(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// The account's key file.
    pub(crate) fn account_key(&self) -> PathBuf {
        self.keys_dir().join("account.key")
    }

    /// The consensus key file.
    pub(crate) fn consensus_key(&self) -> PathBuf {
        self.keys_dir().join("consensus.key")
    }

    /// The node (peer) key file.
    pub(crate) fn node_key(&self) -> PathBuf {
        self.keys_dir().join("node.key")
    }

    /// Whether `init` ran here.
    ///
    /// # Errors
    /// A configuration error for a folder that can't be looked into: it may be anything.
    pub(crate) fn is_initialised(&self) -> Result<bool, Failure> {
        is_there(&self.config_file())
    }

    /// Refuses a folder that was named by flag or environment and is no home; the usual place may be empty.
    ///
    /// # Errors
    /// As [`Home::require`].
    pub(crate) fn require_named(&self) -> Result<(), Failure> {
        if self.is_named { self.require() } else { self.is_initialised().map(|_| ()) }
    }

    /// Refuses a folder in which `init` did not run.
    ///
    /// # Errors
    /// A configuration error with the remedy.
    pub(crate) fn require(&self) -> Result<(), Failure> {
        if self.is_initialised()? {
            return Ok(());
        }
        Err(Failure::config(format!("{} is no home folder of a node: config.toml is missing", self.root.display()))
            .field("home")
            .value(self.root.display())
            .limit("a folder that proofmesh init made")
            .remedy("run: proofmesh init --home DIR, or name the right folder by --home or PROOFMESH_HOME"))
    }

    /// The home's own genesis document.
    ///
    /// # Errors
    /// As [`read_genesis`].
    pub(crate) fn genesis(&self) -> Result<Genesis, Failure> {
        read_genesis(&self.genesis_file(), Exit::Config)
    }
}

/// Whether there is a file of this name.
///
/// # Errors
/// A configuration error when that can't be known: no permission to look, or another error of the disk.
pub(crate) fn is_there(path: &Path) -> Result<bool, Failure> {
    path.try_exists().map_err(|e| {
        let mut failure = Failure::io(path, "looking for", &e).field("home");
        failure.exit = Exit::Config;
        failure.remedy("run it as the user whose home it is, or name another folder by --home")
    })
}

/// Reads and checks a genesis document; failures have the exit code given.
///
/// # Errors
/// When the file can't be read, is too long, is no genesis JSON, or no chain can start from it.
pub(crate) fn read_genesis(path: &Path, exit: Exit) -> Result<Genesis, Failure> {
    let named = |mut failure: Failure| {
        failure.exit = exit;
        failure
    };
    let bytes = files::read_bounded(path, "genesis", GENESIS_FILE_MAX).map_err(named)?;
    let genesis: Genesis = serde_json::from_slice(&bytes).map_err(|e| {
        Failure::new(exit, "invalid", format!("{} is no genesis document: {e}", path.display()))
            .field("genesis")
            .value(path.display())
            .limit("the chain's genesis document, JSON")
            .remedy(GENESIS_REMEDY)
    })?;
    genesis.check().map_err(|e| Failure::of_type(exit, &e).remedy(GENESIS_REMEDY))?;
    Ok(genesis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_that_was_named_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let named = Home::locate(Some(&folder.path().join("typo"))).unwrap();
        let failure = named.require_named().unwrap_err();
        assert_eq!((failure.exit, failure.field.as_deref()), (Exit::Config, Some("home")));
        assert!(failure.message.contains("config.toml is missing"), "{failure}");
        let usual = Home { is_named: false, ..named };
        assert_eq!(usual.require_named(), Ok(()));
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_missing() {
        // A file in the place of the folder: nobody can look into it, whatever the permissions.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        for is_named in [true, false] {
            let home = Home { root: file.clone(), is_named };
            let failure = home.require_named().unwrap_err();
            assert_eq!((failure.exit, failure.code.as_str()), (Exit::Config, "io"), "{failure}");
            assert!(!failure.message.contains("missing"), "{failure}");
        }
    }
}
