//! Exit codes of a real node whose stored data are damaged (5) or whose disk takes no more writes (6).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Resource, Rlimit};
use storage::Layout;
use storage::disk::FsDir;
use storage::log::{HEADER_BYTES, OVERHEAD_BYTES};
use storage::wal::Wal;
use testnet::harness::{Cli, NodeProcess, Options, binary};
use types::Wire;
use types::genesis::Genesis;
use types::ids::Height;

/// Longest wait for a node to be where it should be.
const PATIENCE: Duration = Duration::from_secs(90);
const CORRUPTION: i32 = 5;
const SAFETY: i32 = 6;

/// A node with a chain of its own.
struct Lonely {
    cli: Cli,
    home: PathBuf,
    rpc: String,
    log: PathBuf,
}

impl Lonely {
    fn new(name: &str) -> Result<Self> {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let (cli, home, port) = (Cli::new(binary()?), dir.join("home"), Options::on_free_ports(1)?.base_port);
        let (rpc, p2p) = (format!("127.0.0.1:{}", port + 1), format!("127.0.0.1:{port}"));
        cli.ok(&["init", "--home", &home.display().to_string(), "--rpc", &rpc, "--p2p", &p2p])?;
        Ok(Self { cli, home, rpc: format!("http://{rpc}"), log: dir.join("node.log") })
    }

    fn start(&self) -> Result<NodeProcess> {
        NodeProcess::start(&self.cli, &self.home, &self.log)
    }

    /// Waits until it has applied a block above `height`; returns the height.
    fn wait_above(&self, height: u64) -> Result<u64> {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.cli.ok(&["status", "--rpc", &self.rpc]).ok();
            match status.and_then(|s| s["head"]["height"].as_u64()) {
                Some(found) if found > height => return Ok(found),
                _ if Instant::now() > until => bail!("no block above {height}; log: {}", self.log.display()),
                _ => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Waits until a node ends by itself; returns its exit code.
    fn ended(&self, mut node: NodeProcess) -> Result<i32> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(code) = node.exited()? {
                return Ok(code);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("the node runs on; log: {}", self.log.display())
    }

    /// That the node says in its log why it ended.
    fn says(&self, words: &str) -> Result<()> {
        let text = fs::read_to_string(&self.log)?;
        ensure!(text.contains(words), "its log does not say '{words}':\n{text}");
        Ok(())
    }
}

/// Flips a bit in the payload of the first record of a log; returns the bytes of before.
fn flip_first_record(path: &Path) -> Result<Vec<u8>> {
    let before = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let mut bytes = before.clone();
    let place = HEADER_BYTES + OVERHEAD_BYTES;
    *bytes.get_mut(place).context("a log with a record")? ^= 1;
    fs::write(path, bytes)?;
    Ok(before)
}

fn only_file(dir: &Path) -> Result<PathBuf> {
    let mut files = fs::read_dir(dir)?.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|path| path.is_file());
    match files.as_slice() {
        [one] => Ok(one.clone()),
        other => bail!("one file in {}: {other:?}", dir.display()),
    }
}

#[test]
fn a_flipped_bit_in_guard_or_log_ends_with_5_and_a_repaired_node_goes_on() -> Result<()> {
    let lonely = Lonely::new("exit-corruption")?;
    let node = lonely.start()?;
    let height = lonely.wait_above(1)?;
    ensure!(node.stop()? == 0);

    let layout = Layout::new(&lonely.home);
    let guard = only_file(&layout.guard())?;
    let intact = flip_first_record(&guard)?;
    ensure!(lonely.ended(lonely.start()?)? == CORRUPTION, "a damaged guard");
    lonely.says("damaged")?;
    fs::write(&guard, &intact)?;
    // Cut short at a record's end or within one, a guard looks like one whose last write was torn; the chain knows better.
    for length in [HEADER_BYTES, intact.len() / 3] {
        fs::write(&guard, &intact[..length])?;
        ensure!(lonely.ended(lonely.start()?)? == CORRUPTION, "a guard cut to {length} bytes");
        lonely.says("has lost signatures")?;
    }
    fs::write(&guard, &intact)?;

    // The log of the next height, with records that were synced one after the other, as a node writes it.
    let genesis: Genesis = serde_json::from_slice(&fs::read(lonely.home.join("genesis.json"))?)?;
    let verified = lonely.cli.ok(&["db", "verify", "--home", &lonely.home.display().to_string()])?;
    let next = Height(verified["height"].as_u64().context("height")? + 1);
    let mut wal = Wal::open(Box::new(FsDir::open(layout.wal())?), genesis.hash())?;
    wal.start(next)?;
    for kind in [consensus::TimerKind::Propose, consensus::TimerKind::Prevote] {
        let record = consensus::wal::Record::Timeout { kind, round: types::ids::Round(0) };
        wal.append(1, &record.to_bytes())?;
        wal.flush()?;
    }
    drop(wal);
    let log = layout.wal().join(format!("{:020}.wal", next.0));
    let intact = flip_first_record(&log)?;
    ensure!(lonely.ended(lonely.start()?)? == CORRUPTION, "a damaged consensus log");
    fs::write(&log, intact)?;

    let node = lonely.start()?;
    ensure!(lonely.wait_above(height)? > height);
    ensure!(node.stop()? == 0);
    Ok(())
}

#[test]
fn a_disk_that_takes_no_more_ends_with_6_and_loses_nothing() -> Result<()> {
    let lonely = Lonely::new("exit-safety")?;
    let node = lonely.start()?;
    let height = lonely.wait_above(1)?;
    // From here on every write that makes a file longer than it may be fails, as on a full disk; its own log included.
    let pid = i32::try_from(node.pid()).ok().and_then(Pid::from_raw).context("process id")?;
    let none = Rlimit { current: Some(16), maximum: Some(16) };
    rustix::process::prlimit(Some(pid), Resource::Fsize, none)?;
    ensure!(lonely.ended(node)? == SAFETY, "writes fail");

    let node = lonely.start()?;
    ensure!(lonely.wait_above(height)? > height, "what was shown is still there, and the chain goes on");
    ensure!(node.stop()? == 0);
    Ok(())
}
