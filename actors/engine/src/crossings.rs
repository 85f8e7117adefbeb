//! Named points that a running node passes, for an observer that the caller installs at start. The shipped binary installs
//! none; tests install one that ends the process at a point, or notes what leaves the node.
//!
//! Owns the points' names and nothing else. An observer is called on the thread that passes the point, which waits for it:
//! what it does is its installer's affair.

use std::sync::Arc;

use network::GossipMessage;

/// A point in the life of a node.
#[derive(Clone, Copy, Debug)]
pub enum Crossing<'a> {
    /// A record was handed to the consensus log; it need not be durable yet.
    WalAppended,
    /// A signed slot was handed to the guard file; it need not be durable yet.
    GuardWritten,
    /// The consensus log is durable, the guard not yet.
    WalSynced,
    /// Log and guard are durable; what they are for has not left yet.
    GuardSynced,
    /// A message is about to be handed to the network.
    Publishing(&'a GossipMessage),
    /// A message was handed to the network.
    Published(&'a GossipMessage),
    /// A block is decided, and not stored.
    Decided,
    /// The batch of a decided block is about to be written.
    BatchBegins,
    /// The batch of a decided block is written; nobody was told.
    BatchWritten,
    /// The worker began a stage of a proof.
    Proving,
    /// An own proof is stored, its claim not submitted.
    Proved,
    /// An own verdict on a claim is signed and durable, not published.
    Voting,
    /// The votes on a claim make a certificate, which no block has yet.
    Certifying,
}

impl Crossing<'_> {
    /// Names of all points.
    pub const NAMES: [&'static str; 15] = [
        "wal-appended",
        "guard-written",
        "wal-synced",
        "guard-synced",
        "publishing-vote",
        "published-vote",
        "publishing-proposal",
        "published-proposal",
        "decided",
        "batch-begins",
        "batch-written",
        "proving",
        "proved",
        "voting",
        "certifying",
    ];

    /// The point's name: one of [`Crossing::NAMES`], or `published` for a message that is neither vote nor proposal.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::WalAppended => "wal-appended",
            Self::GuardWritten => "guard-written",
            Self::WalSynced => "wal-synced",
            Self::GuardSynced => "guard-synced",
            Self::Publishing(GossipMessage::Consensus(_)) => "publishing-vote",
            Self::Published(GossipMessage::Consensus(_)) => "published-vote",
            Self::Publishing(GossipMessage::Proposal(_)) => "publishing-proposal",
            Self::Published(GossipMessage::Proposal(_)) => "published-proposal",
            Self::Publishing(_) | Self::Published(_) => "published",
            Self::Decided => "decided",
            Self::BatchBegins => "batch-begins",
            Self::BatchWritten => "batch-written",
            Self::Proving => "proving",
            Self::Proved => "proved",
            Self::Voting => "voting",
            Self::Certifying => "certifying",
        }
    }
}

/// Called at each point.
type Observer = Arc<dyn Fn(Crossing<'_>) + Send + Sync>;

/// Who is told about the points; nobody by default.
#[derive(Clone, Default)]
pub struct Crossings(Option<Observer>);

impl Crossings {
    /// Tells `observer`.
    pub fn observed_by(observer: impl Fn(Crossing<'_>) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(observer)))
    }

    /// The node is at a point.
    pub(crate) fn at(&self, crossing: Crossing<'_>) {
        if let Some(observer) = &self.0 {
            observer(crossing);
        }
    }
}

impl std::fmt::Debug for Crossings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Crossings(observed)" } else { "Crossings(unobserved)" })
    }
}
