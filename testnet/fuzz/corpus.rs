//! Writes the valid inputs of every fuzz target into a folder, as a corpus for cargo-fuzz.

use std::path::PathBuf;

use testnet::fuzz::TARGETS;

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| anyhow::anyhow!("usage: corpus FOLDER"))?;
    for target in TARGETS {
        let own = folder.join(target.name);
        std::fs::create_dir_all(&own)?;
        for (n, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(own.join(format!("seed-{n}")), seed)?;
        }
    }
    Ok(())
}
