//! What every actor may look up: the chain as last applied, the store's reading side, the network of the moment, and the
//! addresses of the other actors.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ledger::Head;
use storage::RocksStore;
use storage::Snapshot;
use storage::blobs::BlobStore;
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
use crate::app::fraud::FraudMsg;
use crate::app::mempool::MempoolMsg;
use crate::app::prover::ProverMsg;
use crate::app::scheduler::SchedulerMsg;
use crate::app::uptime::UptimeMsg;
use crate::app::verifier::VerifierMsg;
use crate::app::votes::VotesMsg;
use crate::crossings::Crossings;
use crate::edge::events::EventRing;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::net::link::NetSlot;
use crate::net::serve::ServeMsg;
use crate::net::sync::SyncMsg;
use crate::outcomes::Outcomes;
use crate::safety::consensus::ConsensusMsg;
use crate::supervisor::StopSignal;
use crate::verified::Verified;

/// The chain after the last applied block: one consistent view, replaced as a whole.
pub(crate) struct ChainView {
    /// The last block; height 0 right after genesis.
    pub(crate) head: Head,
    /// Its commit certificate; none at height 0.
    pub(crate) certificate: Option<CommitCertificate>,
    /// The state after it.
    pub(crate) state: Snapshot,
    /// State root after it.
    pub(crate) root: types::ids::StateRoot,
    /// Parameters of the next block.
    pub(crate) params: Params,
    /// Validators of the next block.
    pub(crate) set: ValidatorSet,
    /// Whether the next block has work to do.
    pub(crate) work: bool,
    /// Wall clock when it was applied here.
    pub(crate) applied_ms: TimeMs,
}

impl std::fmt::Debug for ChainView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChainView(height {})", self.head.height)
    }
}

/// Addresses of the actors. The number is how many messages from outside may wait.
#[derive(Clone, Debug)]
pub(crate) struct Mail {
    /// Consensus: votes, proposals, synced blocks. Full: gossip is ignored, peers send again.
    pub(crate) consensus: Mailbox<ConsensusMsg>,
    /// Transactions that wait for a block. Full: refused with `overloaded`.
    pub(crate) mempool: Mailbox<MempoolMsg>,
    /// Submissions that gather availability signatures.
    pub(crate) availability: Mailbox<AvailabilityMsg>,
    /// Blobs to fetch.
    pub(crate) blobs: Mailbox<BlobsMsg>,
    /// Follows decided blocks.
    pub(crate) scheduler: Mailbox<SchedulerMsg>,
    /// Own proofs.
    pub(crate) prover: Mailbox<ProverMsg>,
    /// Claims of others to check.
    pub(crate) verifier: Mailbox<VerifierMsg>,
    /// Verdicts of all validators.
    pub(crate) votes: Mailbox<VotesMsg>,
    /// Equivocations.
    pub(crate) fraud: Mailbox<FraudMsg>,
    /// Messages of decided heights for the same actor; apart, so that a flood of them keeps no evidence out.
    pub(crate) late: Mailbox<FraudMsg>,
    /// Whom this validator reaches.
    pub(crate) uptime: Mailbox<UptimeMsg>,
    /// Catching up.
    pub(crate) sync: Mailbox<SyncMsg>,
    /// Peers' questions.
    pub(crate) serve: Mailbox<ServeMsg>,
    /// What happened.
    pub(crate) events: Mailbox<Event>,
}

impl Mail {
    /// Addresses without actors yet.
    pub(crate) fn new() -> Self {
        Self {
            consensus: Mailbox::new("consensus", 2048),
            mempool: Mailbox::new("mempool", 4096),
            availability: Mailbox::new("availability", 512),
            blobs: Mailbox::new("blobs", 512),
            scheduler: Mailbox::new("scheduler", 64),
            prover: Mailbox::new("prover", 64),
            verifier: Mailbox::new("verifier", 256),
            votes: Mailbox::new("votes", 1024),
            fraud: Mailbox::new("fraud", 256),
            late: Mailbox::new("fraud_late", 64),
            uptime: Mailbox::new("uptime", 8),
            sync: Mailbox::new("sync", 512),
            serve: Mailbox::new("serve", 256),
            events: Mailbox::new("events", 1024),
        }
    }
}

impl Mail {
    /// Messages refused by each mailbox since the start.
    pub(crate) fn refused(&self) -> [(&'static str, u64); 14] {
        fn one<M: Send + 'static>(mailbox: &Mailbox<M>) -> (&'static str, u64) {
            (mailbox.name(), mailbox.refused())
        }
        [
            one(&self.consensus),
            one(&self.mempool),
            one(&self.availability),
            one(&self.blobs),
            one(&self.scheduler),
            one(&self.prover),
            one(&self.verifier),
            one(&self.votes),
            one(&self.fraud),
            one(&self.late),
            one(&self.uptime),
            one(&self.sync),
            one(&self.serve),
            one(&self.events),
        ]
    }
}

impl Default for Mail {
    fn default() -> Self {
        Self::new()
    }
}

/// Everything shared; cheap to clone.
#[derive(Clone)]
pub(crate) struct Wiring {
    /// The genesis document.
    pub(crate) genesis: Arc<Genesis>,
    /// Identity of the chain.
    pub(crate) genesis_hash: GenesisHash,
    /// This node's consensus key, if it has one.
    pub(crate) validator: Option<PublicKey>,
    /// This node's prover key, if it proves.
    pub(crate) prover: Option<PublicKey>,
    /// Account that gets the certifier's share of certificates recorded here.
    pub(crate) account: PublicKey,
    /// The chain as last applied.
    pub(crate) chain: watch::Receiver<Arc<ChainView>>,
    /// Reading side of the store, and what is not part of the chain.
    pub(crate) store: Arc<RocksStore>,
    /// Blobs.
    pub(crate) blobs: BlobStore,
    /// The network of the moment.
    pub(crate) net: NetSlot,
    /// Addresses of the actors.
    pub(crate) mail: Mail,
    /// Events for readers.
    pub(crate) ring: EventRing,
    /// The end of the node.
    pub(crate) stop: StopSignal,
    /// What this node's prover does.
    pub(crate) prover_status: watch::Receiver<ProverStatusView>,
    /// Signatures verified here.
    pub(crate) verified: Arc<Verified>,
    /// Certificates checked here.
    pub(crate) outcomes: Arc<Outcomes>,
    /// Numbers.
    pub(crate) metrics: Arc<Metrics>,
    /// Told about the points this node passes.
    pub(crate) crossings: Crossings,
}

impl std::fmt::Debug for Wiring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wiring({})", self.genesis_hash.short())
    }
}

impl Wiring {
    /// The chain as last applied.
    pub(crate) fn view(&self) -> Arc<ChainView> {
        Arc::clone(&self.chain.borrow())
    }
}

/// Milliseconds since the epoch by this machine's clock.
pub(crate) fn wall_clock() -> TimeMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimeMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
