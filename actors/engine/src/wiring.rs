//! What every actor may look up: the chain as last applied, the store's reading side, the network of the moment, and the
//! addresses of the other actors.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ledger::Head;
use storage::blobs::BlobStore;
use storage::RocksStore;
use storage::Snapshot;
use tokio::sync::watch;
use types::genesis::Genesis;
use types::ids::{GenesisHash, TimeMs};
use types::keys::PublicKey;
use types::params::Params;
use types::validator::ValidatorSet;
use types::vote::CommitCertificate;

use crate::api::views::{Event, ProverStatusView};
use crate::app::availability::AvailabilityMsg;
use crate::app::blobs::BlobsMsg;
use crate::app::mempool::MempoolMsg;
use crate::app::prover::ProverMsg;
use crate::app::scheduler::SchedulerMsg;
use crate::app::verifier::VerifierMsg;
use crate::app::votes::VotesMsg;
use crate::edge::events::EventRing;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::net::link::NetSlot;
use crate::net::serve::ServeMsg;
use crate::net::sync::SyncMsg;
use crate::safety::consensus::ConsensusMsg;
use crate::supervisor::StopSignal;

/// The chain after the last applied block: one consistent view, replaced as a whole.
pub struct ChainView {
    /// The last block; height 0 right after genesis.
    pub head: Head,
    /// Its commit certificate; none at height 0.
    pub certificate: Option<CommitCertificate>,
    /// The state after it.
    pub state: Snapshot,
    /// State root after it.
    pub root: types::ids::StateRoot,
    /// Parameters of the next block.
    pub params: Params,
    /// Validators of the next block.
    pub set: ValidatorSet,
    /// Whether the next block has work to do.
    pub work: bool,
    /// Wall clock when it was applied here.
    pub applied_ms: TimeMs,
}

impl std::fmt::Debug for ChainView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChainView(height {})", self.head.height)
    }
}

/// Addresses of the actors. The number is how many messages from outside may wait.
#[derive(Clone, Debug)]
pub struct Mail {
    /// Consensus: votes, proposals, synced blocks. Full: gossip is ignored, peers send again.
    pub consensus: Mailbox<ConsensusMsg>,
    /// Transactions that wait for a block. Full: refused with `overloaded`.
    pub mempool: Mailbox<MempoolMsg>,
    /// Submissions that gather availability signatures.
    pub availability: Mailbox<AvailabilityMsg>,
    /// Blobs to fetch.
    pub blobs: Mailbox<BlobsMsg>,
    /// Follows decided blocks.
    pub scheduler: Mailbox<SchedulerMsg>,
    /// Own proofs.
    pub prover: Mailbox<ProverMsg>,
    /// Claims of others to check.
    pub verifier: Mailbox<VerifierMsg>,
    /// Verdicts of all validators.
    pub votes: Mailbox<VotesMsg>,
    /// Catching up.
    pub sync: Mailbox<SyncMsg>,
    /// Peers' questions.
    pub serve: Mailbox<ServeMsg>,
    /// What happened.
    pub events: Mailbox<Event>,
}

impl Mail {
    /// Addresses without actors yet.
    pub fn new() -> Self {
        Self {
            consensus: Mailbox::new("consensus", 2048),
            mempool: Mailbox::new("mempool", 4096),
            availability: Mailbox::new("availability", 512),
            blobs: Mailbox::new("blobs", 512),
            scheduler: Mailbox::new("scheduler", 64),
            prover: Mailbox::new("prover", 64),
            verifier: Mailbox::new("verifier", 256),
            votes: Mailbox::new("votes", 1024),
            sync: Mailbox::new("sync", 512),
            serve: Mailbox::new("serve", 256),
            events: Mailbox::new("events", 1024),
        }
    }
}

impl Default for Mail {
    fn default() -> Self {
        Self::new()
    }
}

/// Everything shared; cheap to clone.
#[derive(Clone)]
pub struct Wiring {
    /// The genesis document.
    pub genesis: Arc<Genesis>,
    /// Identity of the chain.
    pub genesis_hash: GenesisHash,
    /// This node's consensus key, if it has one.
    pub validator: Option<PublicKey>,
    /// This node's prover key, if it proves.
    pub prover: Option<PublicKey>,
    /// Account that gets the certifier's share of certificates recorded here.
    pub account: PublicKey,
    /// The chain as last applied.
    pub chain: watch::Receiver<Arc<ChainView>>,
    /// Reading side of the store, and what is not part of the chain.
    pub store: Arc<RocksStore>,
    /// Blobs.
    pub blobs: BlobStore,
    /// The network of the moment.
    pub net: NetSlot,
    /// Addresses of the actors.
    pub mail: Mail,
    /// Events for readers.
    pub ring: EventRing,
    /// The end of the node.
    pub stop: StopSignal,
    /// What this node's prover does.
    pub prover_status: watch::Receiver<ProverStatusView>,
    /// Numbers.
    pub metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Wiring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wiring({})", self.genesis_hash.short())
    }
}

impl Wiring {
    /// The chain as last applied.
    pub fn view(&self) -> Arc<ChainView> {
        Arc::clone(&self.chain.borrow())
    }
}

/// Milliseconds since the epoch by this machine's clock.
pub fn wall_clock() -> TimeMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimeMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
