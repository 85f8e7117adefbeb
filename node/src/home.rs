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
            return Ok(Self { root });
        }
        match std::env::var_os("HOME") {
            Some(user) if !user.is_empty() => Ok(Self { root: PathBuf::from(user).join(".proofmesh") }),
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
    pub(crate) fn is_initialised(&self) -> bool {
        self.config_file().exists()
    }

    /// Refuses a folder in which `init` did not run.
    ///
    /// # Errors
    /// A configuration error with the remedy.
    pub(crate) fn require(&self) -> Result<(), Failure> {
        if self.is_initialised() {
            return Ok(());
        }
        Err(Failure::config(format!("{} is no home folder of a node: config.toml is missing", self.root.display()))
            .field("home")
            .value(self.root.display())
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
