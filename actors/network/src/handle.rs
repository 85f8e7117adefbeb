//! The node's handle on the network: cheap to clone, never blocks, every wait has a time limit.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use libp2p::metrics::Registry;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;
use types::gossip::{Presence, Topic};
use types::ids::{GenesisHash, Height, TimeMs};
use types::keys::{PublicKey, SecretKey, Signature};
use types::{Wire, rpc_sync};

use crate::error::RequestError;
use crate::event::{Delivery, GossipMessage, MessageId, ReplyToken, Verdict};
use crate::metrics::NetworkMetrics;
use crate::penalty::Fault;
use crate::shared::{PeerInfo, Shared, TopicMesh};

/// Time that a clean end may take before the thread is left to itself.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// An own message on its way out.
#[derive(Debug)]
pub(crate) struct Publication {
    pub(crate) topic: Topic,
    pub(crate) data: Vec<u8>,
}

/// An own request on its way out.
#[derive(Debug)]
pub(crate) struct OutgoingRequest {
    pub(crate) peer: PeerId,
    /// Chunks wait behind everything else.
    pub(crate) bulk: bool,
    pub(crate) data: Vec<u8>,
    pub(crate) reply: oneshot::Sender<Result<Vec<u8>, RequestError>>,
}

/// Rare instructions.
#[derive(Debug)]
pub(crate) enum Command {
    Penalise(PeerId, Fault),
    Dial(Multiaddr),
    Disconnect(PeerId),
    Shutdown(oneshot::Sender<()>),
}

/// Queues to the swarm's thread.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    pub(crate) publications: mpsc::Sender<Publication>,
    pub(crate) verdicts: mpsc::Sender<(MessageId, Verdict)>,
    pub(crate) requests: mpsc::Sender<OutgoingRequest>,
    pub(crate) responses: mpsc::Sender<(u64, Vec<u8>)>,
    pub(crate) commands: mpsc::Sender<Command>,
}

/// What never changes after the start.
#[derive(Debug)]
pub(crate) struct Fixed {
    pub(crate) peer_id: PeerId,
    pub(crate) genesis: GenesisHash,
    pub(crate) node_key: SecretKey,
    pub(crate) request_timeout: Duration,
    pub(crate) registry: Registry,
    pub(crate) thread: Mutex<Option<JoinHandle<()>>>,
}

/// The node's word about itself, for a presence record; peer id and addresses are the network's to fill in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PresenceInput {
    /// Last decided height.
    pub height: Height,
    /// Wall clock, milliseconds.
    pub time_ms: TimeMs,
    /// Prover key, if this node proves.
    pub prover: Option<PublicKey>,
    /// Validator key, if this node has one; it must then sign the record.
    pub validator: Option<PublicKey>,
}

/// The network, as the rest of the node sees it. The thread ends when all handles are gone.
#[derive(Clone)]
pub struct NetworkHandle {
    pub(crate) inputs: Inputs,
    pub(crate) shared: Arc<Shared>,
    pub(crate) fixed: Arc<Fixed>,
}

impl fmt::Debug for NetworkHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkHandle").field("peer_id", &self.fixed.peer_id).finish_non_exhaustive()
    }
}

impl NetworkHandle {
    /// This node's peer id.
    pub fn peer_id(&self) -> PeerId {
        self.fixed.peer_id
    }

    /// The chain.
    pub fn genesis(&self) -> &GenesisHash {
        &self.fixed.genesis
    }

    /// Addresses at which this node can be dialled, as far as it knows: configured external ones, else those listened
    /// on.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.shared.addresses()
    }

    /// Publishes a message. Queue of 1024; when it is full the message is dropped. A message without any subscriber is
    /// tried again for three seconds; one equal to a message of the last minute is not sent.
    pub fn publish(&self, message: &GossipMessage) -> Delivery {
        let publication = Publication { topic: message.topic(), data: message.to_bytes() };
        Delivery::of(self.inputs.publications.try_send(publication))
    }

    /// The verdict on a received message. Queue of 8192; a lost or late verdict counts as Ignore.
    pub fn report(&self, id: MessageId, verdict: Verdict) -> Delivery {
        Delivery::of(self.inputs.verdicts.try_send((id, verdict)))
    }

    /// Asks a connected peer. At most eight requests are in flight to one peer and 64 wait; chunks wait behind others.
    /// The peer's "busy" is an error, [`RequestError::Busy`].
    ///
    /// # Errors
    /// [`RequestError`]; a malformed answer also costs the peer points.
    pub async fn request(&self, peer: PeerId, request: rpc_sync::Request) -> Result<rpc_sync::Response, RequestError> {
        let limit = self.fixed.request_timeout;
        let (reply, answer) = oneshot::channel();
        let bulk = matches!(request, rpc_sync::Request::BlobChunk { .. });
        let outgoing = OutgoingRequest { peer, bulk, data: request.to_bytes(), reply };
        match Delivery::of(self.inputs.requests.try_send(outgoing)) {
            Delivery::Accepted => {}
            Delivery::Dropped => return Err(RequestError::Overloaded(peer)),
            Delivery::Closed => return Err(RequestError::Closed),
        }
        let bytes = match tokio::time::timeout(limit, answer).await {
            Ok(Ok(result)) => result?,
            Ok(Err(_)) => return Err(RequestError::Closed),
            Err(_) => return Err(RequestError::Timeout { peer, limit }),
        };
        match rpc_sync::Response::from_bytes(&bytes) {
            Ok(rpc_sync::Response::Busy { retry_ms }) => Err(RequestError::Busy { peer, retry_ms }),
            Ok(response) if answers(&request, &response) => Ok(response),
            Ok(_) => {
                self.penalise(peer, Fault::InvalidResponse);
                Err(RequestError::Broken { peer, reason: "the response is of another kind than the request".into() })
            }
            // An unknown version is a newer node, not a bad one.
            Err(error @ types::TypeError::UnknownVersion { .. }) => Err(RequestError::Malformed { peer, error }),
            Err(error) => {
                self.penalise(peer, Fault::InvalidResponse);
                Err(RequestError::Malformed { peer, error })
            }
        }
    }

    /// Answers a peer's request. Queue of 256; a dropped answer shows at the peer as a time-out.
    pub fn respond(&self, token: ReplyToken, response: &rpc_sync::Response) -> Delivery {
        Delivery::of(self.inputs.responses.try_send((token.0, response.to_bytes())))
    }

    /// Books a fault of a peer; the ledger decides on disconnect and ban.
    pub fn penalise(&self, peer: PeerId, fault: Fault) -> Delivery {
        Delivery::of(self.inputs.commands.try_send(Command::Penalise(peer, fault)))
    }

    /// Dials an address now, beside the dial plan.
    pub fn dial(&self, address: Multiaddr) -> Delivery {
        Delivery::of(self.inputs.commands.try_send(Command::Dial(address)))
    }

    /// Closes the connection to a peer; the dial plan may make a new one.
    pub fn disconnect(&self, peer: PeerId) -> Delivery {
        Delivery::of(self.inputs.commands.try_send(Command::Disconnect(peer)))
    }

    /// Names the validators of the current set: peers bound to these keys get reserved slots, a better score, and no
    /// bans.
    pub fn set_validators(&self, keys: impl IntoIterator<Item = PublicKey>) {
        self.shared.set_current_validators(keys.into_iter().collect());
    }

    /// A presence record to be signed by the validator (if it names one), then given to [`announce`](Self::announce).
    pub fn presence(&self, input: PresenceInput) -> Presence {
        let addresses = self.addresses().iter().map(ToString::to_string).filter(|a| a.len() <= 128).take(4).collect();
        Presence {
            peer: self.fixed.peer_id.to_bytes(),
            addresses,
            height: input.height,
            time_ms: input.time_ms,
            prover: input.prover,
            validator: input.validator,
        }
    }

    /// Signs a presence record with the node key and publishes it; to be called every five seconds or so. Peers refuse
    /// records whose time differs by more than two minutes from their clock.
    pub fn announce(&self, presence: Presence, validator_signature: Option<Signature>) -> Delivery {
        let message = presence.sign(&self.fixed.node_key, validator_signature, &self.fixed.genesis);
        if !message.verify(&self.fixed.genesis) {
            warn!("own presence record is not signed by the validator it names; not sent");
            return Delivery::Dropped;
        }
        Delivery::of(
            self.inputs.publications.try_send(Publication { topic: Topic::Presence, data: message.to_bytes() }),
        )
    }

    /// The validator key bound to a peer id by signed presence in the last ten minutes.
    pub fn validator_of(&self, peer: &PeerId) -> Option<PublicKey> {
        self.shared.snapshot().validators.get(peer).map(|(key, _)| *key)
    }

    /// The peer with the newest presence record that a validator key signed.
    pub fn peer_of(&self, validator: &PublicKey) -> Option<PeerId> {
        let snapshot = self.shared.snapshot();
        let records = snapshot.validators.iter().filter(|(_, (key, _))| key == validator);
        records.max_by_key(|(peer, (_, time))| (*time, **peer)).map(|(peer, _)| *peer)
    }

    /// Connected peers, as of the last quarter of a second.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.shared.snapshot().peers.clone()
    }

    /// The own mesh by topic, as of the last quarter of a second.
    pub fn mesh_status(&self) -> Vec<TopicMesh> {
        self.shared.snapshot().mesh.clone()
    }

    /// Counters, as of the last quarter of a second.
    pub fn metrics(&self) -> NetworkMetrics {
        self.shared.snapshot().metrics.clone()
    }

    /// libp2p's own metrics as OpenMetrics text, `# EOF` included.
    pub fn open_metrics(&self) -> String {
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &self.fixed.registry) {
            warn!(%error, "libp2p metrics can't be rendered");
            text.clear();
        }
        text
    }

    /// Sends what is queued, closes all connections and ends the thread. Later calls return at once.
    pub async fn shutdown(&self) {
        let (done, finished) = oneshot::channel();
        let sent = tokio::time::timeout(SHUTDOWN_LIMIT, self.inputs.commands.send(Command::Shutdown(done))).await;
        if matches!(sent, Ok(Ok(()))) && tokio::time::timeout(SHUTDOWN_LIMIT, finished).await.is_err() {
            warn!("network thread did not end in time");
            return;
        }
        let thread = self.fixed.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // The thread has said that it is done; what is left of it takes microseconds.
            if thread.join().is_err() {
                warn!("network thread panicked");
            }
        }
    }
}

/// Whether a response is of the kind that a request asks for.
fn answers(request: &rpc_sync::Request, response: &rpc_sync::Response) -> bool {
    use rpc_sync::{Request as Q, Response as A};
    matches!(
        (request, response),
        (Q::Status, A::Status { .. })
            | (Q::Blocks { .. }, A::Blocks(_))
            | (Q::ProposedBlock { .. }, A::ProposedBlock(_))
            | (Q::Votes { .. }, A::Votes { .. })
            | (Q::BlobManifest { .. }, A::BlobManifest(_))
            | (Q::BlobChunk { .. }, A::BlobChunk(_))
            | (Q::Verdicts { .. }, A::Verdicts(_))
            | (Q::Genesis, A::Genesis(_))
    )
}
