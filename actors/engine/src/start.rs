//! Puts an engine together: opens what is stored, wires the actors, starts the subtrees in the order of what they need.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use consensus::{Guard, GuardRecord, Machine, Slot};
use network::NetworkConfig;
use prover::fleet::{FleetConfig, LOOK_EVERY};
use prover::worker::{PulseLimits, WorkerConfig};
use ractor::{Actor, ActorRef};
use storage::blobs::BlobStore;
use storage::disk::FsDir;
use storage::guard_file::GuardFile;
use storage::wal::Wal;
use storage::{ErrorClass, Layout, RocksStore, StorageError, Store, StoreRead};
use thiserror::Error;
use tokio::sync::watch;
use types::Wire;
use types::ids::Height;
use types::vote::VoteKind;

use crate::api::EngineHandle;
use crate::api::views::ProverStatusView;
use crate::app::availability::{Availability, AvailabilityArgs};
use crate::app::blobs::Blobs;
use crate::app::fraud::Fraud;
use crate::app::mempool::Mempool;
use crate::app::prover::{Prover, ProverArgs};
use crate::app::scheduler::Scheduler;
use crate::app::uptime::{Uptime, UptimeArgs};
use crate::app::verifier::{Verifier, VerifierArgs};
use crate::app::votes::Votes;
use crate::config::EngineConfig;
use crate::edge::events::{EventRing, Events};
use crate::metrics::Metrics;
use crate::net::link::{Link, LinkArgs, NetSlot};
use crate::net::serve::Serve;
use crate::net::sync::SyncActor;
use crate::outcomes::Outcomes;
use crate::safety::blocks;
use crate::safety::consensus::{Consensus, ConsensusArgs, GUARD_KEEP};
use crate::safety::disk::{DISK_LANE, Disk, DiskHandle};
use crate::safety::thread::{ThreadActor, ThreadWork, lane};
use crate::safety::writer::{WRITER_LANE, Writer, WriterHandle};
use crate::supervisor::{Child, Policy, StopSignal, Subtree, Supervisor, SupervisorMsg};
use crate::verified::Verified;
use crate::wiring::{ChainView, Mail, Wiring, wall_clock};

/// Longest wait for a subtree to end.
const STOP_LIMIT: Duration = Duration::from_secs(4);

/// Why an engine does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A setting is wrong. Exit code 3.
    #[error("{0}")]
    Config(String),
    /// The home is locked, damaged or unusable; the class tells the exit code.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The guard file contradicts itself: this key must not sign. Exit code 5.
    #[error("{0}")]
    Guard(String),
    /// Stored state can't be read. Exit code 5.
    #[error("stored state can't be read: {0}")]
    State(String),
    /// The network did not start. Exit code 1.
    #[error("{0}")]
    Actor(String),
}

impl StartError {
    /// Whether stored data is damaged.
    pub fn is_corruption(&self) -> bool {
        match self {
            Self::Storage(error) => error.class() == ErrorClass::Corruption,
            Self::Guard(_) | Self::State(_) => true,
            Self::Config(_) | Self::Actor(_) => false,
        }
    }
}

/// The running supervisors.
pub(crate) struct Tree {
    supervisors: Mutex<Vec<(&'static str, ActorRef<SupervisorMsg>)>>,
}

/// The order in which subtrees end: intake first, then what works, then what keeps.
const STOP_ORDER: [&str; 4] = ["network", "app", "safety", "edge"];

impl Tree {
    /// Ends all subtrees in [`STOP_ORDER`].
    pub(crate) async fn stop(&self) {
        let mut supervisors = std::mem::take(&mut *self.supervisors.lock().unwrap_or_else(PoisonError::into_inner));
        supervisors.sort_by_key(|(name, _)| STOP_ORDER.iter().position(|n| n == name));
        for (name, supervisor) in supervisors {
            supervisor.stop_children_and_wait(None, Some(STOP_LIMIT)).await;
            if let Err(error) = supervisor.stop_and_wait(None, Some(STOP_LIMIT)).await {
                tracing::debug!(subtree = name, %error, "its supervisor had ended before");
            }
        }
    }
}

#[cfg(test)]
impl Tree {
    /// The children of a subtree by name, those that run with their actor.
    pub(crate) async fn children(&self, subtree: &str) -> Vec<(&'static str, Option<ractor::ActorCell>)> {
        let supervisors = self.supervisors.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some((_, supervisor)) = supervisors.into_iter().find(|(name, _)| *name == subtree) else { return vec![] };
        let (reply, answer) = tokio::sync::oneshot::channel();
        supervisor.send_message(SupervisorMsg::Children { reply }).unwrap();
        answer.await.unwrap()
    }
}

/// Starts an engine. The home must be locked by the caller.
///
/// # Errors
/// [`StartError`].
pub async fn start(config: EngineConfig) -> Result<EngineHandle, StartError> {
    let layout = Layout::new(&config.home);
    let genesis_hash = config.genesis.hash();
    let opened = open(&config, &layout)?;
    let network = network_config(&config)?;
    let (chain_sender, chain) = watch::channel(Arc::new(opened.view));
    let idle = ProverStatusView::off("this node does not prove (node.prover is false)");
    let (status_sender, prover_status) = watch::channel(idle);
    let wiring = Wiring {
        genesis: Arc::new(config.genesis.clone()),
        genesis_hash,
        validator: config.consensus_key.as_ref().map(types::keys::SecretKey::public),
        prover: config.prover.as_ref().map(|p| p.key.public()),
        account: config.account.public(),
        chain,
        store: opened.store,
        blobs: opened.blobs,
        net: NetSlot::new(config.crossings.clone()),
        mail: Mail::new(),
        ring: EventRing::default(),
        stop: StopSignal::default(),
        prover_status,
        verified: Arc::new(Verified::new(genesis_hash)),
        outcomes: Arc::new(Outcomes::new(genesis_hash)),
        metrics: Arc::new(Metrics::new().map_err(|e| StartError::Config(e.to_string()))?),
        crossings: config.crossings.clone(),
    };
    let tree = Tree { supervisors: Mutex::new(Vec::new()) };
    let started = async {
        spawn(&tree, edge(&wiring)).await?;
        spawn(&tree, app(&config, &layout, &wiring, status_sender)).await?;
        // The network before consensus: the first messages shall find peers.
        spawn(&tree, net(&config, network, &wiring)).await?;
        let machine = Machine::new(opened.guard);
        spawn(&tree, safety(&wiring, opened.disk, machine, chain_sender)).await
    };
    if let Err(error) = started.await {
        tree.stop().await;
        return Err(error);
    }
    Ok(EngineHandle::new(wiring, tree))
}

struct Opened {
    store: Arc<RocksStore>,
    blobs: BlobStore,
    disk: Disk,
    guard: Guard,
    view: ChainView,
}

fn open(config: &EngineConfig, layout: &Layout) -> Result<Opened, StartError> {
    let genesis_hash = config.genesis.hash();
    let state = |e: &dyn std::fmt::Display| StartError::State(e.to_string());
    let store = Arc::new(RocksStore::open(&layout.db())?);
    if store.head()?.is_none() {
        let first = ledger::genesis::build(&config.genesis).map_err(|e| StartError::Config(e.to_string()))?;
        store.init(&config.genesis, &first.writes, first.root)?;
    } else {
        // Refuses a store of another chain.
        store.init(&config.genesis, &types::kv::KvWrites::new(), types::ids::StateRoot::new([0; 32]))?;
    }
    let head = store.head()?.ok_or(StorageError::NotInitialised)?;
    let certificate = match head.height {
        Height(0) => None,
        height => Some(store.block(height)?.ok_or_else(|| state(&"the head's block is missing"))?.certificate),
    };
    // At a start the next height is due at once.
    let view = blocks::view(store.snapshot(), certificate, head.state_root, head.time_ms).map_err(|e| state(&e))?;
    let blobs = BlobStore::open(layout.blobs(), Arc::clone(&store) as Arc<dyn Store>, config.blobs, wall_clock())?;
    let wal = Wal::open(Box::new(folder(&layout.wal())?), genesis_hash)?;
    if let Some(logged) = wal.heights().last().filter(|h| **h > head.height.next()) {
        let detail = format!(
            "the consensus log is at height {logged}, the database at {}: the database has lost blocks",
            head.height
        );
        return Err(StartError::State(detail));
    }
    let guard_folder = folder(&layout.guard())?;
    if head.height.0 > 0 && config.consensus_key.is_some() && GuardFile::is_missing(&guard_folder)? {
        return Err(StartError::Guard(format!(
            "the signer guard in {} is missing while the chain is at height {}: restore it from this node's backup, or start \
             with a new consensus key; signing without it could sign twice",
            layout.guard().display(),
            head.height
        )));
    }
    let (guard_file, loaded) = GuardFile::open(Box::new(guard_folder), genesis_hash)?;
    let mut records = Vec::with_capacity(loaded.records.len());
    for record in &loaded.records {
        records.push(GuardRecord::from_bytes(&record.bytes).map_err(|e| StartError::Guard(e.to_string()))?);
    }
    let mut guard = Guard::restore(genesis_hash, config.consensus_key.clone(), records)
        .map_err(|e| StartError::Guard(e.to_string()))?;
    check_memory(&store, &guard, head.height)?;
    guard.resume_after(head.height);
    Ok(Opened { store, blobs, disk: Disk::new(wal, guard_file, config.crossings.clone()), guard, view })
}

/// A guard that was cut short reads like one whose last write was torn. But every precommit of this key in the last decided
/// blocks must be in it: it was durable before the signature left.
fn check_memory(store: &RocksStore, guard: &Guard, head: Height) -> Result<(), StartError> {
    let Some(key) = guard.public() else { return Ok(()) };
    for height in (head.0.saturating_sub(GUARD_KEEP).saturating_add(1)..=head.0).map(Height).filter(|h| h.0 > 0) {
        let Some(decided) = store.block(height)? else { continue };
        let certificate = decided.certificate;
        let slot = Slot::Vote { height, round: certificate.round, kind: VoteKind::Precommit };
        if certificate.signatures.iter().any(|(signer, _)| *signer == key) && guard.signed(&slot).is_none() {
            return Err(StartError::Guard(format!(
                "the signer guard does not hold the precommit of this key at height {height}, which is in that block's \
                 certificate: the guard has lost signatures; restore it from this node's backup, or start with a new \
                 consensus key; signing without it could sign twice"
            )));
        }
    }
    Ok(())
}

fn folder(path: &std::path::Path) -> Result<FsDir, StartError> {
    FsDir::open(path)
        .map_err(|e| StartError::Config(format!("{}: {e}; the home folder must be writable", path.display())))
}

fn network_config(config: &EngineConfig) -> Result<NetworkConfig, StartError> {
    let addresses = |list: &[String]| -> Result<Vec<_>, StartError> {
        list.iter().map(|a| network::parse_address(a).map_err(|e| StartError::Config(e.to_string()))).collect()
    };
    let node_key = types::keys::SecretKey::from_seed(config.node_key_seed);
    let mut out = NetworkConfig::new(config.genesis.hash(), node_key);
    if !config.listen.is_empty() {
        out.listen = addresses(&config.listen)?;
    }
    out.bootstrap = addresses(&config.bootstrap)?;
    out.external = addresses(&config.external)?;
    out.expected_validators = config.genesis.validators.len();
    out.loopback = config.testnet;
    Ok(out)
}

async fn spawn(tree: &Tree, subtree: Subtree) -> Result<(), StartError> {
    let name = subtree.name;
    let (supervisor, _) = Actor::spawn(None, Supervisor, subtree)
        .await
        .map_err(|e| StartError::Actor(format!("the {name} subtree did not start: {e}")))?;
    tree.supervisors.lock().unwrap_or_else(PoisonError::into_inner).push((name, supervisor));
    Ok(())
}

fn worker_config(layout: &Layout, exe: &std::path::Path, memory_bytes: u64) -> WorkerConfig {
    let mut config = WorkerConfig::new(layout.work(), memory_bytes);
    config.program = Some(exe.to_owned());
    config
}

fn edge(wiring: &Wiring) -> Subtree {
    let (mailbox, ring) = (wiring.mail.events.clone(), wiring.ring.clone());
    let events = Child::new("events", move || (Events, (mailbox.clone(), ring.clone())));
    Subtree {
        name: "edge",
        policy: Policy::Restart,
        children: vec![events],
        stop: wiring.stop.clone(),
        metrics: Arc::clone(&wiring.metrics),
    }
}

fn app(config: &EngineConfig, layout: &Layout, wiring: &Wiring, status: watch::Sender<ProverStatusView>) -> Subtree {
    let executor = worker_config(layout, &config.executor.worker_exe, config.executor.memory_bytes);
    let args =
        AvailabilityArgs { wiring: wiring.clone(), key: config.consensus_key.clone(), executor: executor.clone() };
    let mut children = vec![
        Child::of("blobs", wiring, || Blobs),
        Child::of("mempool", wiring, || Mempool),
        Child::new("availability", move || (Availability, args.clone())),
        Child::of("votes", wiring, || Votes),
        Child::of("fraud", wiring, || Fraud),
    ];
    if let Some(key) = &config.consensus_key {
        let run_limit = Duration::from_secs(config.executor.seconds_max);
        let args = VerifierArgs { wiring: wiring.clone(), key: key.public(), executor, run_limit };
        children.push(Child::new("verifier", move || (Verifier, args.clone())));
        if config.uptime_ms > 0 {
            let (observer, account, interval_ms) = (key.public(), config.account.clone(), config.uptime_ms);
            let args = UptimeArgs { wiring: wiring.clone(), observer, account, interval_ms };
            children.push(Child::new("uptime", move || (Uptime, args.clone())));
        }
    }
    if let Some(p) = &config.prover {
        let mut worker = worker_config(layout, &p.worker_exe, p.memory_bytes);
        worker.threads = p.threads;
        worker.idle_limit = Duration::from_millis(p.idle_ms);
        let (wiring, key) = (wiring.clone(), p.key.clone());
        let fleet = FleetConfig {
            cpu: worker,
            backend: p.backend,
            binary: p.gpu_exe.clone(),
            devices: p.devices.clone(),
            exclude: p.exclude.clone(),
            cache: layout.gpu(),
            pulses: PulseLimits::USUAL,
            look_every: LOOK_EVERY,
            warm: p.warm_at_start,
        };
        let args = ProverArgs { wiring, key, fleet, memory_bytes: p.memory_bytes, status: Arc::new(status) };
        children.push(Child::new("prover", move || (Prover, args.clone())));
    }
    children.push(Child::of("scheduler", wiring, || Scheduler));
    Subtree {
        name: "app",
        policy: Policy::Restart,
        children,
        stop: wiring.stop.clone(),
        metrics: Arc::clone(&wiring.metrics),
    }
}

fn safety(wiring: &Wiring, disk: Disk, machine: Machine, chain: watch::Sender<Arc<ChainView>>) -> Subtree {
    let (disk_lane, disk_actor) = lane("wal and signer", DISK_LANE, disk);
    let (writer_lane, writer_actor) =
        lane("store", WRITER_LANE, Writer::new(Arc::clone(&wiring.store), wiring.crossings.clone()));
    let args = ConsensusArgs {
        wiring: wiring.clone(),
        machine,
        disk: DiskHandle::new(disk_lane),
        writer: WriterHandle::new(writer_lane),
        chain,
    };
    let children = vec![
        thread_child("wal and signer", disk_actor),
        thread_child("store", writer_actor),
        Child::once("consensus", Consensus, args),
    ];
    Subtree {
        name: "safety",
        policy: Policy::StopNode,
        children,
        stop: wiring.stop.clone(),
        metrics: Arc::clone(&wiring.metrics),
    }
}

fn thread_child<W: ThreadWork>(name: &'static str, actor: ThreadActor<W>) -> Child {
    Child::once(name, actor, ())
}

fn net(config: &EngineConfig, network: NetworkConfig, wiring: &Wiring) -> Subtree {
    let (key, prover, own) = (config.consensus_key.clone(), wiring.prover, wiring.clone());
    let link = Child::new("link", move || {
        let args = LinkArgs { config: network.clone(), consensus_key: key.clone(), prover, wiring: own.clone() };
        (Link, args)
    });
    let children = vec![Child::of("serve", wiring, || Serve), link, Child::of("sync", wiring, || SyncActor)];
    Subtree {
        name: "network",
        policy: Policy::Restart,
        children,
        stop: wiring.stop.clone(),
        metrics: Arc::clone(&wiring.metrics),
    }
}

impl Child {
    /// A child that is started with the wiring alone.
    fn of<A: Actor<Arguments = Wiring>>(
        name: &'static str,
        wiring: &Wiring,
        make: impl Fn() -> A + Send + Sync + 'static,
    ) -> Self {
        let wiring = wiring.clone();
        Self::new(name, move || (make(), wiring.clone()))
    }
}

#[cfg(test)]
#[path = "start_tests.rs"]
mod tests;
