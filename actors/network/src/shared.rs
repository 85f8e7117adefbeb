//! What the swarm's thread and the handles share: a snapshot of the network's state, and the validator keys to look
//! for.

use std::collections::{BTreeSet, HashMap};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use types::gossip::Topic;
use types::ids::{Height, TimeMs};
use types::keys::PublicKey;

use crate::metrics::NetworkMetrics;

/// A connected peer.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerInfo {
    /// Its peer id.
    pub peer_id: PeerId,
    /// Remote address of the connection.
    pub address: Multiaddr,
    /// Whether this node dialled.
    pub outbound: bool,
    /// Validator key that vouched for the peer id, whether or not it is of the current set.
    pub validator: Option<PublicKey>,
    /// Prover key it names.
    pub prover: Option<PublicKey>,
    /// Last decided height of its presence record.
    pub height: Option<Height>,
    /// Topics it subscribed to.
    pub topics: Vec<Topic>,
    /// Gossip score; negative is bad.
    pub score: f64,
    /// Points of the fault ledger; 20 disconnect, 50 ban.
    pub fault_points: f64,
    /// Last ping.
    pub rtt: Option<Duration>,
    /// Name and version it gave.
    pub agent: String,
    /// Age of the connection.
    pub connected_for: Duration,
}

/// The own mesh of a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicMesh {
    /// The topic.
    pub topic: Topic,
    /// Peers in the mesh.
    pub mesh: Vec<PeerId>,
    /// Connected peers that subscribed to it.
    pub subscribed: usize,
}

/// State as of the last quarter of a second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) peers: Vec<PeerInfo>,
    pub(crate) mesh: Vec<TopicMesh>,
    pub(crate) metrics: NetworkMetrics,
    /// Unexpired bindings of peer ids, with the time of the record.
    pub(crate) validators: HashMap<PeerId, (PublicKey, TimeMs)>,
}

/// Shared state. Locks are held for copies only.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    snapshot: RwLock<Snapshot>,
    addresses: RwLock<Vec<Multiaddr>>,
    current_validators: RwLock<BTreeSet<PublicKey>>,
}

impl Shared {
    pub(crate) fn snapshot(&self) -> RwLockReadGuard<'_, Snapshot> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_snapshot(&self, snapshot: Snapshot) {
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }

    pub(crate) fn addresses(&self) -> Vec<Multiaddr> {
        self.addresses.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn addresses_mut(&self) -> RwLockWriteGuard<'_, Vec<Multiaddr>> {
        self.addresses.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn current_validators(&self) -> RwLockReadGuard<'_, BTreeSet<PublicKey>> {
        self.current_validators.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_current_validators(&self, keys: BTreeSet<PublicKey>) {
        *self.current_validators.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }
}
