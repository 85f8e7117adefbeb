//! Several nodes with one genesis document, in one folder.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::process::{Cli, Launch, NodeProcess};

/// Ports of test networks begin here; below are those of known services.
const PORTS_FROM: u16 = 10_000;
/// Time between two looks at a node.
const LOOK: Duration = Duration::from_millis(200);

/// How a testnet is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes, each validator and prover.
    pub nodes: u16,
    /// Node i listens on this port plus 10 i, and one more for RPC.
    pub base_port: u16,
    /// Least time between blocks while there is work, ms.
    pub block_ms: Option<u64>,
    /// Time between blocks while there is none, ms.
    pub empty_block_ms: Option<u64>,
    /// A prover's exclusive window, ms.
    pub window_ms: Option<u64>,
}

impl Options {
    /// `nodes` nodes on ports that are free now, and that the system gives to no outgoing connection: a node that was killed
    /// finds its own ports free again.
    ///
    /// # Errors
    /// When no free ports are found.
    pub fn on_free_ports(nodes: u16) -> Result<Self> {
        let span = nodes.saturating_add(2).saturating_mul(10);
        let end = first_outgoing_port()?.saturating_sub(span);
        for _ in 0..64 {
            let base = rand::rng().random_range(PORTS_FROM..end.max(PORTS_FROM + 1));
            let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
            if (0..nodes + 2).all(|i| free(base + 10 * i) && free(base + 10 * i + 1)) {
                return Ok(Self { nodes, base_port: base, block_ms: None, empty_block_ms: None, window_ms: None });
            }
        }
        bail!("no {nodes} free pairs of ports found")
    }
}

/// The first port that the system gives to outgoing connections.
fn first_outgoing_port() -> Result<u16> {
    let path = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    text.split_whitespace().next().and_then(|first| first.parse().ok()).with_context(|| format!("{path}: {text}"))
}

/// `testnet.json`: what runs where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TestnetFile {
    /// Name of the chain.
    pub chain_id: String,
    /// Identity of the chain.
    pub genesis_hash: String,
    /// File of the user's key.
    pub user_key: PathBuf,
    /// The last job submitted by the script.
    pub job_id: Option<String>,
    /// The nodes.
    pub nodes: Vec<NodeInfo>,
}

/// One node of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// Its home folder.
    pub home: PathBuf,
    /// Process id while it runs.
    pub pid: Option<u32>,
    /// RPC address, http://HOST:PORT.
    pub rpc: String,
    /// Multiaddress.
    pub p2p: String,
    /// Peer id.
    pub peer_id: String,
    /// Whether it validates.
    pub validator: bool,
    /// Whether it proves.
    pub prover: bool,
}

/// A testnet.
#[derive(Debug)]
pub struct Cluster {
    cli: Cli,
    dir: PathBuf,
    file: TestnetFile,
    running: Vec<Option<NodeProcess>>,
    launches: BTreeMap<usize, Launch>,
}

impl Cluster {
    /// Makes a new testnet in an empty or missing folder.
    ///
    /// # Errors
    /// When the binary refuses.
    pub fn create(cli: Cli, dir: &Path, options: &Options) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let mut arguments = vec!["testnet-init".to_owned(), "--dir".into(), dir.display().to_string()];
        arguments.extend([
            "--nodes".into(),
            options.nodes.to_string(),
            "--base-port".into(),
            options.base_port.to_string(),
        ]);
        for (flag, value) in [
            ("--block-ms", options.block_ms),
            ("--empty-block-ms", options.empty_block_ms),
            ("--window-ms", options.window_ms),
        ] {
            if let Some(value) = value {
                arguments.extend([flag.to_owned(), value.to_string()]);
            }
        }
        let answer = cli.ok(&arguments)?;
        let file: TestnetFile = serde_json::from_value(answer).context("reading the answer of testnet-init")?;
        let running = file.nodes.iter().map(|_| None).collect();
        let cluster = Self { cli, dir: dir.to_owned(), file, running, launches: BTreeMap::new() };
        cluster.save()?;
        Ok(cluster)
    }

    /// Takes up a testnet that was made before.
    ///
    /// # Errors
    /// When its `testnet.json` is missing or damaged, or a node of it still runs.
    pub fn open(cli: Cli, dir: &Path) -> Result<Self> {
        let path = dir.join("testnet.json");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let mut file: TestnetFile =
            serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        for node in &mut file.nodes {
            node.pid = None;
        }
        let running = file.nodes.iter().map(|_| None).collect();
        Ok(Self { cli, dir: dir.to_owned(), file, running, launches: BTreeMap::new() })
    }

    /// The command line.
    pub fn cli(&self) -> &Cli {
        &self.cli
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What runs where.
    pub fn file(&self) -> &TestnetFile {
        &self.file
    }

    /// One node.
    ///
    /// # Errors
    /// When there is no node of this number.
    pub fn node(&self, index: usize) -> Result<&NodeInfo> {
        self.file.nodes.get(index).with_context(|| format!("there is no node {index}"))
    }

    /// The log of a node.
    pub fn log(&self, index: usize) -> PathBuf {
        self.dir.join(format!("node{index}.log"))
    }

    /// Adds a node that neither validates nor proves, which knows the network by one address; it is not started.
    ///
    /// # Errors
    /// When the binary refuses.
    pub fn add_follower(&mut self, via: usize, port: u16) -> Result<usize> {
        let index = self.file.nodes.len();
        let home = self.dir.join(format!("node{index}"));
        let (home_text, hash) = (home.display().to_string(), self.file.genesis_hash.clone());
        let rpc = self.node(via)?.rpc.clone();
        let (own_rpc, own_p2p) = (format!("127.0.0.1:{}", port + 1), format!("127.0.0.1:{port}"));
        let init = ["init", "--home", &home_text, "--bootstrap", &rpc, "--genesis-hash", &hash];
        self.cli.ok(&[init.as_slice(), &["--rpc", &own_rpc, "--p2p", &own_p2p]].concat())?;
        let info = NodeInfo {
            name: format!("node{index}"),
            home,
            pid: None,
            rpc: format!("http://127.0.0.1:{}", port + 1),
            p2p: format!("/ip4/127.0.0.1/tcp/{port}"),
            peer_id: String::new(),
            validator: false,
            prover: false,
        };
        self.file.nodes.push(info);
        self.running.push(None);
        Ok(index)
    }

    /// Says how a node is started from now on.
    pub fn set_launch(&mut self, index: usize, launch: Launch) {
        self.launches.insert(index, launch);
    }

    /// Starts a node.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(&mut self, index: usize) -> Result<()> {
        let launch = self.launches.get(&index).cloned().unwrap_or_default();
        let process = NodeProcess::launch(&self.cli, &launch, &self.node(index)?.home, &self.log(index))?;
        if let Some(node) = self.file.nodes.get_mut(index) {
            node.pid = Some(process.pid());
        }
        if let Some(slot) = self.running.get_mut(index) {
            *slot = Some(process);
        }
        self.save()
    }

    /// Starts all nodes.
    ///
    /// # Errors
    /// When one can't be started.
    pub fn start_all(&mut self) -> Result<()> {
        (0..self.file.nodes.len()).try_for_each(|index| self.start(index))
    }

    fn take(&mut self, index: usize) -> Result<NodeProcess> {
        if let Some(node) = self.file.nodes.get_mut(index) {
            node.pid = None;
        }
        let process = self.running.get_mut(index).and_then(Option::take);
        process.with_context(|| format!("node {index} does not run"))
    }

    /// Kills a node at once.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        self.take(index)?.kill()?;
        self.save()
    }

    /// Stops a node; returns its exit code.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop(&mut self, index: usize) -> Result<i32> {
        let code = self.take(index)?.stop()?;
        self.save()?;
        Ok(code)
    }

    /// Stops all that run, all at once; returns the exit codes.
    ///
    /// # Errors
    /// When one can't be stopped.
    pub fn stop_all(&mut self) -> Result<Vec<(usize, i32)>> {
        let running: Vec<usize> = (0..self.running.len()).filter(|i| self.is_running(*i)).collect();
        for index in &running {
            if let Some(Some(process)) = self.running.get(*index) {
                // One that has ended by itself takes no signal; its exit code tells.
                process.signal(rustix::process::Signal::TERM).ok();
            }
        }
        let codes = running.into_iter().map(|index| Ok((index, self.take(index)?.drained()?))).collect();
        self.save()?;
        codes
    }

    /// Sends a signal to a node.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, index: usize, signal: rustix::process::Signal) -> Result<()> {
        match self.running.get(index) {
            Some(Some(process)) => process.signal(signal),
            _ => bail!("node {index} does not run"),
        }
    }

    /// Whether a node was started and not stopped since.
    pub fn is_running(&self, index: usize) -> bool {
        matches!(self.running.get(index), Some(Some(_)))
    }

    /// The exit code of a node that ended by itself.
    ///
    /// # Errors
    /// When the system can't tell.
    pub fn ended(&mut self, index: usize) -> Result<Option<i32>> {
        match self.running.get_mut(index) {
            Some(Some(process)) => process.exited(),
            _ => Ok(None),
        }
    }

    /// Runs a client command against a node.
    ///
    /// # Errors
    /// When the command fails.
    pub fn ask(&self, index: usize, command: &[&str]) -> Result<Value> {
        let mut arguments: Vec<&str> = command.to_vec();
        let rpc = self.node(index)?.rpc.clone();
        arguments.extend(["--rpc", &rpc]);
        self.cli.ok(&arguments)
    }

    /// The height a node is at, if it answers. What answers on its port and is on another chain is no node of ours.
    pub fn height(&self, index: usize) -> Option<u64> {
        let head = self.ask(index, &["status"]).ok()?["head"].take();
        let ours = head["genesis_hash"] == self.file.genesis_hash.as_str();
        head["height"].as_u64().filter(|_| ours)
    }

    /// Refuses to start while a port of a node is taken: what listens there would be taken for the node.
    ///
    /// # Errors
    /// For the first port that is not free, with what to do.
    pub fn check_ports(&self) -> Result<()> {
        for node in &self.file.nodes {
            let rpc = node.rpc.trim_start_matches("http://");
            let p2p = node.p2p.trim_start_matches("/ip4/").replace("/tcp/", ":");
            for address in [rpc, p2p.as_str()] {
                TcpListener::bind(address).with_context(|| {
                    format!(
                        "{} needs {address}, which is taken: stop what listens there (ss -ltnp shows it), or start another \
                         testnet with another --base-port and --dir",
                        node.name
                    )
                })?;
            }
        }
        Ok(())
    }

    /// Waits until `done` says so, looking a few times a second; an error names `what`, and shows a node that ended.
    ///
    /// # Errors
    /// When time is over or a running node ended by itself.
    pub fn wait<T>(&mut self, what: &str, limit: Duration, mut done: impl FnMut(&Self) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(value) = done(self) {
                return Ok(value);
            }
            for index in 0..self.running.len() {
                if let Some(code) = self.ended(index)? {
                    bail!(
                        "node {index} ended by itself with {code} while waiting for {what}; its log: {}",
                        self.log(index).display()
                    );
                }
            }
            if Instant::now() >= deadline {
                bail!("{what}: not within {} s; logs: {}", limit.as_secs(), self.dir.display());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until a node has applied `height`.
    ///
    /// # Errors
    /// As [`Cluster::wait`].
    pub fn wait_height(&mut self, index: usize, height: u64, limit: Duration) -> Result<u64> {
        let what = format!("height {height} on node {index}");
        self.wait(&what, limit, |c| c.height(index).filter(|h| *h >= height))
    }

    /// Waits until a job has ended; returns its last view.
    ///
    /// # Errors
    /// As [`Cluster::wait`].
    pub fn wait_job(&mut self, index: usize, job: &str, limit: Duration) -> Result<Value> {
        let what = format!("the end of job {job} on node {index}");
        self.wait(&what, limit, |c| {
            let view = c.ask(index, &["job", "status", job]).ok()?;
            (view["status"].as_str()? != "running").then_some(view)
        })
    }

    /// Remembers a job in `testnet.json`.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn set_job(&mut self, job: &str) -> Result<()> {
        self.file.job_id = Some(job.to_owned());
        self.save()
    }

    pub(super) fn set_genesis_hash(&mut self, hash: String) -> Result<()> {
        self.file.genesis_hash = hash;
        self.save()
    }

    fn save(&self) -> Result<()> {
        let path = self.dir.join("testnet.json");
        let text = serde_json::to_string_pretty(&self.file)?;
        let fresh = self.dir.join("testnet.json.new");
        fs::write(&fresh, format!("{text}\n"))?;
        fs::rename(&fresh, &path).with_context(|| format!("writing {}", path.display()))
    }
}
