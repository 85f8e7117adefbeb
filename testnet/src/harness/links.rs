//! The wires between nodes, as proxies on loopback: each can be open, silent, cut or slow, in each direction of dialling.
//!
//! Every node is told the others' addresses as those of its own proxies, and announces an address at which nobody listens,
//! so that no two nodes come together beside the wires. Needs no privileges.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cluster::Cluster;
use super::process::Launch;

/// Longest wait of a copying thread before it looks at its wire again.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes copied at once.
const PIECE: usize = 16 << 10;
/// An address at which nobody listens.
const NOWHERE: &str = "/ip4/127.0.0.1/tcp/1";

/// Towards the dialling node.
const INWARD: usize = 0;
/// Towards the dialled node.
const OUTWARD: usize = 1;

/// What a wire does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Wire {
    /// Passes everything on.
    Open,
    /// Passes nothing on and says nothing about it; connections stay.
    Silent,
    /// Breaks connections, and refuses new ones.
    Cut,
}

#[derive(Debug)]
struct State {
    wire: AtomicU8,
    /// Pause after each piece, microseconds.
    pause_us: AtomicU64,
    /// Bytes passed on towards the dialling node, and towards the dialled one.
    passed: [AtomicU64; 2],
    over: AtomicBool,
}

impl State {
    fn is(&self, wire: Wire) -> bool {
        self.wire.load(Ordering::SeqCst) == wire as u8
    }
}

/// All wires of a network.
#[derive(Debug)]
pub struct Links {
    states: BTreeMap<(usize, usize), Arc<State>>,
    ports: BTreeMap<(usize, usize), u16>,
}

impl Links {
    /// Lays wires between the nodes of a network that is not started yet.
    ///
    /// # Errors
    /// When no ports are to be had.
    pub fn lay(cluster: &Cluster) -> Result<Self> {
        let count = cluster.file().nodes.len();
        let mut links = Self { states: BTreeMap::new(), ports: BTreeMap::new() };
        for (from, to) in (0..count).flat_map(|from| (0..count).map(move |to| (from, to))).filter(|(a, b)| a != b) {
            let target = port_of(&cluster.node(to)?.p2p)?;
            let listener = TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            links.ports.insert((from, to), listener.local_addr()?.port());
            let state = Arc::new(State {
                wire: AtomicU8::new(Wire::Open as u8),
                pause_us: AtomicU64::new(0),
                passed: [AtomicU64::new(0), AtomicU64::new(0)],
                over: AtomicBool::new(false),
            });
            links.states.insert((from, to), Arc::clone(&state));
            std::thread::spawn(move || accept(&listener, target, &state));
        }
        Ok(links)
    }

    /// What makes node `index` use its wires, added to `launch`.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn launch(&self, cluster: &Cluster, index: usize, mut launch: Launch) -> Result<Launch> {
        let mut peers = Vec::new();
        for ((_, to), port) in self.ports.iter().filter(|((from, _), _)| *from == index) {
            peers.push(format!("/ip4/127.0.0.1/tcp/{port}/p2p/{}", cluster.node(*to)?.peer_id));
        }
        launch.env.push(("PROOFMESH_P2P__BOOTSTRAP".into(), peers.join(",")));
        launch.env.push(("PROOFMESH_P2P__EXTERNAL".into(), NOWHERE.into()));
        Ok(launch)
    }

    /// Sets every wire between a node of one group and a node of another; wires within a group are opened.
    pub fn split(&self, groups: &[&[usize]], wire: Wire) {
        let group = |node: usize| groups.iter().position(|g| g.contains(&node));
        for ((from, to), state) in &self.states {
            let set = if group(*from) == group(*to) { Wire::Open } else { wire };
            state.wire.store(set as u8, Ordering::SeqCst);
        }
    }

    /// Opens every wire.
    pub fn heal(&self) {
        self.states.values().for_each(|state| state.wire.store(Wire::Open as u8, Ordering::SeqCst));
    }

    /// Slows what comes to `node`, and what it sends, down to about so many bytes a second on each wire; `None` ends it.
    pub fn slow(&self, node: usize, bytes_per_s: Option<u64>) {
        let pause = bytes_per_s.map_or(0, |rate| (PIECE as u64).saturating_mul(1_000_000) / rate.max(1));
        for (_, state) in self.states.iter().filter(|((from, to), _)| *from == node || *to == node) {
            state.pause_us.store(pause, Ordering::SeqCst);
        }
    }

    /// Bytes that `node` has received over its wires with `from`.
    pub fn received(&self, node: usize, from: usize) -> u64 {
        let passed = |pair: (usize, usize), side: usize| {
            let state = self.states.get(&pair)?;
            state.passed.get(side).map(|bytes| bytes.load(Ordering::SeqCst))
        };
        // Whichever of the two has dialled.
        passed((node, from), INWARD).unwrap_or(0) + passed((from, node), OUTWARD).unwrap_or(0)
    }

    /// Whether `node` has dialled others by its wires only.
    ///
    /// # Errors
    /// When the node does not answer, or it has not.
    pub fn check(&self, cluster: &Cluster, node: usize) -> Result<()> {
        let peers = cluster.ask(node, &["peers"])?;
        let peers = peers.as_array().context("peers: no list")?;
        ensure!(peers.len() + 1 == cluster.file().nodes.len(), "node {node} has {} peers", peers.len());
        for peer in peers.iter().filter(|p| p["direction"] == "outbound") {
            let port = port_of(peer["address"].as_str().context("peers: no address")?)?;
            let known = self.ports.iter().any(|((from, _), p)| *from == node && *p == port);
            ensure!(known, "node {node} is connected beside its wires: {peer}");
        }
        Ok(())
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.states.values().for_each(|state| state.over.store(true, Ordering::SeqCst));
    }
}

fn port_of(address: &str) -> Result<u16> {
    let port = address.split('/').skip_while(|part| *part != "tcp").nth(1);
    port.and_then(|p| p.parse().ok()).with_context(|| format!("no TCP port in {address}"))
}

fn accept(listener: &TcpListener, target: u16, state: &Arc<State>) {
    while !state.over.load(Ordering::SeqCst) {
        let Ok((dialler, _)) = listener.accept() else {
            std::thread::sleep(LOOK);
            continue;
        };
        if state.is(Wire::Cut) {
            continue;
        }
        let Ok(other) = TcpStream::connect(("127.0.0.1", target)) else { continue };
        for (from, to, side) in [(&dialler, &other, OUTWARD), (&other, &dialler, INWARD)] {
            let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
            let state = Arc::clone(state);
            std::thread::spawn(move || {
                // An end of either side is the end of both.
                copy(&from, &to, &state, side).ok();
                from.shutdown(Shutdown::Both).ok();
                to.shutdown(Shutdown::Both).ok();
            });
        }
    }
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, state: &State, side: usize) -> std::io::Result<()> {
    from.set_nonblocking(false)?;
    from.set_read_timeout(Some(LOOK))?;
    to.set_nodelay(true)?;
    let mut piece = vec![0; PIECE];
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => 0,
            Err(error) => return Err(error),
        };
        loop {
            if state.is(Wire::Cut) || state.over.load(Ordering::SeqCst) {
                return Ok(());
            }
            if !state.is(Wire::Silent) {
                break;
            }
            std::thread::sleep(LOOK);
        }
        to.write_all(piece.get(..read).unwrap_or_default())?;
        if let Some(passed) = state.passed.get(side) {
            passed.fetch_add(read as u64, Ordering::SeqCst);
        }
        let pause = state.pause_us.load(Ordering::SeqCst).saturating_mul(read as u64) / PIECE as u64;
        if pause > 0 {
            std::thread::sleep(Duration::from_micros(pause));
        }
    }
}
