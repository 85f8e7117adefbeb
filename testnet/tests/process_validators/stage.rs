//! A network with hostile validators on it: honest node processes, one adversary process with the keys of the others, and
//! the safety assertion that every case ends with.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use testnet::harness::{Adversary, Cli, Cluster, Options, binary};
use testnet::rpc::Rpc;

/// Nobody waits longer for one thing.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
/// Blocks without any work follow each other at this pace, so that heights pass quickly.
const PACE_MS: u64 = 800;

/// The network.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    /// Numbers of the honest nodes.
    pub(crate) honest: Vec<usize>,
    /// Consensus keys of the adversary.
    pub(crate) cheats: BTreeSet<String>,
    adversary: Adversary,
    /// Height up to which all honest nodes were seen to agree.
    agreed: u64,
    /// Evidence transactions in the blocks up to there.
    evidence_in_blocks: usize,
}

/// A number in an answer.
pub(crate) fn number(value: &Value) -> Result<u64> {
    value.as_u64().with_context(|| format!("{value} is no number"))
}

impl Stage {
    /// `nodes` validators, the last `cheats` of which are the adversary's; the others are started as nodes.
    pub(crate) fn open(name: &str, nodes: u16, cheats: u16) -> Result<Self> {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("validators-{name}"));
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        let mut options = Options::on_free_ports(nodes)?;
        (options.block_ms, options.empty_block_ms) = (Some(300), Some(PACE_MS));
        options.window_ms = Some(5_000);
        let mut cluster = Cluster::create(Cli::new(binary()?), &dir, &options)?;
        let honest: Vec<usize> = (0..usize::from(nodes - cheats)).collect();
        let hostile: Vec<usize> = (honest.len()..usize::from(nodes)).collect();
        for index in &honest {
            cluster.start(*index)?;
        }
        for index in &honest {
            cluster.wait_height(*index, 1, LIMIT)?;
        }
        let keys = cluster.genesis()?.validators;
        let key = |index: &usize| keys.get(*index).map(|v| v.key.to_string()).context("key");
        let cheats = hostile.iter().map(key).collect::<Result<_>>()?;
        let mut arguments = vec!["validators".to_owned()];
        for index in &hostile {
            arguments.extend(["--home".into(), cluster.node(*index)?.home.display().to_string()]);
        }
        for index in &honest {
            arguments.extend(["--peer".into(), address(&cluster, *index)?]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let program = PathBuf::from(env!("CARGO_BIN_EXE_proofmesh-adversary"));
        let adversary = Adversary::start(&program, &arguments, &dir.join("adversary.log"))?;
        let mut stage = Self { cluster, honest, cheats, adversary, agreed: 0, evidence_in_blocks: 0 };
        stage.answer("joining")?;
        Ok(stage)
    }

    fn answer(&mut self, what: &str) -> Result<Value> {
        let mut answer = self.adversary.event(what, LIMIT + LIMIT, |e| e.get("ok").or(e.get("error")).is_some())?;
        if let Some(error) = answer.get("error") {
            bail!("{what}: {error}");
        }
        Ok(answer["ok"].take())
    }

    /// Has the adversary carry out a command.
    pub(crate) fn tell(&mut self, command: Value) -> Result<Value> {
        self.adversary.order(&command)?;
        self.answer(&command.to_string())
    }

    /// Address of a node for the adversary.
    pub(crate) fn address(&self, index: usize) -> Result<String> {
        address(&self.cluster, index)
    }

    /// Asks a node.
    pub(crate) fn rpc(&self, index: usize, method: &str, params: &Value) -> Result<Value> {
        Rpc::at(&self.cluster.node(index)?.rpc)?.call(method, params)
    }

    /// Height of a node.
    pub(crate) fn height(&self, index: usize) -> Result<u64> {
        number(&self.rpc(index, "chain_head", &json!([]))?["height"])
    }

    /// A decided block on a node.
    pub(crate) fn block(&self, index: usize, height: u64) -> Result<Value> {
        self.rpc(index, "chain_block", &json!([height]))
    }

    /// Waits until all honest nodes have applied a height.
    pub(crate) fn reach(&mut self, height: u64) -> Result<()> {
        for index in self.honest.clone() {
            let what = format!("height {height} on honest node {index}");
            self.cluster.wait(&what, LIMIT, |c| {
                let head = Rpc::at(&c.node(index).ok()?.rpc).ok()?.call("chain_head", &json!([])).ok()?;
                (head["height"].as_u64()? >= height).then_some(())
            })?;
        }
        Ok(())
    }

    /// Waits for `blocks` more blocks.
    pub(crate) fn advance(&mut self, blocks: u64) -> Result<u64> {
        let to = self.height(self.honest[0])? + blocks;
        self.reach(to)?;
        Ok(to)
    }

    /// Waits until the adversary knows a height: it is connected again to nodes that were restarted.
    pub(crate) fn followed(&mut self, height: u64) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while number(&self.tell(json!({ "do": "head" }))?["height"])? < height {
            ensure!(Instant::now() < deadline, "the adversary did not follow to height {height}");
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Offences on record at an honest node.
    pub(crate) fn offences(&self, index: usize) -> Result<Vec<Value>> {
        let list = self.rpc(index, "evidence_list", &json!([100]))?;
        list.as_array().cloned().context("evidence_list is no list")
    }

    /// What must hold whatever the adversary does: the chain goes on, honest nodes agree on every block, no credit appears
    /// or is lost, nobody honest is accused, and no offence is recorded twice.
    pub(crate) fn safe(&mut self) -> Result<()> {
        let top = self.advance(2)?;
        for height in self.agreed + 1..=top {
            let first = self.block(self.honest[0], height)?;
            for index in &self.honest[1..] {
                let other = self.block(*index, height)?;
                ensure!(first["hash"] == other["hash"], "fork at height {height}: {first} and on node {index} {other}");
            }
            let transactions = first["transactions"].as_array().context("transactions")?;
            self.evidence_in_blocks += transactions.iter().filter(|tx| tx["kind"] == "evidence").count();
        }
        self.agreed = top;
        for index in &self.honest {
            let all = self.offences(*index)?;
            let recorded = |o: &Value| o["recorded_height"].as_u64().is_some_and(|h| h <= top);
            let offences: Vec<&Value> = all.iter().filter(|o| recorded(o)).collect();
            for offence in &offences {
                let offender = offence["offender"].as_str().context("offender")?;
                ensure!(self.cheats.contains(offender), "honest validator accused on node {index}: {offence}");
            }
            let different: BTreeSet<_> = offences.iter().map(|o| o["offence"].to_string()).collect();
            ensure!(
                different.len() == self.evidence_in_blocks,
                "{} evidence transactions in blocks for {} offences on node {index}: {offences:?}",
                self.evidence_in_blocks,
                different.len()
            );
        }
        // The adversary's own ledger, rebuilt from genesis: it checks each block and adds all credits up.
        let own = self.tell(json!({ "do": "head" }))?;
        ensure!(own["conserved"] == true, "credits are not conserved: {own}");
        Ok(())
    }

    /// Waits until every honest node has exactly `count` offences on record, and sees that no more are added.
    pub(crate) fn expect_offences(&mut self, count: usize) -> Result<()> {
        for index in self.honest.clone() {
            let what = format!("{count} offences on record at node {index}");
            let waited = self.cluster.wait(&what, LIMIT, |c| {
                let rpc = Rpc::at(&c.node(index).ok()?.rpc).ok()?;
                (rpc.call("evidence_list", &json!([100])).ok()?.as_array()?.len() >= count).then_some(())
            });
            waited.with_context(|| format!("on record: {:?}", self.offences(index)))?;
        }
        self.safe()?;
        let found = self.offences(self.honest[0])?;
        ensure!(found.len() == count, "{} offences instead of {count}: {found:?}", found.len());
        Ok(())
    }

    /// Waits until a line of a node's log holds all of these texts.
    pub(crate) fn expect_log(&mut self, index: usize, texts: &[&str]) -> Result<()> {
        let log = self.cluster.log(index);
        self.cluster.wait(&format!("{texts:?} in {}", log.display()), LIMIT, |_| {
            let log = fs::read_to_string(&log).ok()?;
            log.lines().any(|line| texts.iter().all(|text| line.contains(text))).then_some(())
        })
    }

    /// Stops everything and has each honest node's data verified from genesis on, credits included.
    pub(crate) fn close(mut self) -> Result<()> {
        self.safe()?;
        for (index, code) in self.cluster.stop_all()? {
            ensure!(code == 0, "node {index} drained with {code}");
        }
        for index in &self.honest {
            let home = self.cluster.node(*index)?.home.display().to_string();
            let report = self.cluster.cli().ok(&["db", "verify", "--home", &home])?;
            ensure!(report["ok"] == true, "{report}");
        }
        Ok(())
    }
}

fn address(cluster: &Cluster, index: usize) -> Result<String> {
    let node = cluster.node(index)?;
    Ok(format!("{}/p2p/{}", node.p2p, node.peer_id))
}
