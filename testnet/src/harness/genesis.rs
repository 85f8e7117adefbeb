//! Another genesis document for a testnet that was made and not started yet.

use std::fs;

use anyhow::{Context, Result, ensure};
use types::genesis::Genesis;

use super::Cluster;

impl Cluster {
    /// The chain's genesis document.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn genesis(&self) -> Result<Genesis> {
        let path = self.dir().join("genesis.json");
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// Changes the genesis document of all nodes, before any is started. Roles in the nodes' settings stay as they are.
    ///
    /// # Errors
    /// When a node has been started, no chain could start from the changed document, or a file can't be written.
    pub fn amend_genesis(&mut self, change: impl FnOnce(&mut Genesis)) -> Result<()> {
        let mut genesis = self.genesis()?;
        change(&mut genesis);
        genesis.check()?;
        let text = format!("{}\n", serde_json::to_string_pretty(&genesis)?);
        let homes: Vec<_> = self.file().nodes.iter().map(|node| node.home.clone()).collect();
        for home in &homes {
            ensure!(!home.join("db").exists(), "{} was started already", home.display());
        }
        for folder in homes.iter().map(std::path::PathBuf::as_path).chain([self.dir()]) {
            let path = folder.join("genesis.json");
            fs::write(&path, &text).with_context(|| format!("writing {}", path.display()))?;
        }
        self.set_genesis_hash(genesis.hash().to_string())
    }
}
