//! Counters of the network, copied out as a plain struct; libp2p's own metrics are rendered separately as OpenMetrics
//! text.

use std::collections::BTreeMap;

use types::gossip::Topic;

use crate::event::Verdict;

/// What happened on one topic since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TopicCounters {
    /// First copies received.
    pub received: u64,
    /// Bytes of these.
    pub received_bytes: u64,
    /// Verdict Accept.
    pub accepted: u64,
    /// Verdict Ignore, given by the node or for an overload.
    pub ignored: u64,
    /// Verdict Reject.
    pub rejected: u64,
    /// Ignored because the peer had no credit left (part of `ignored`).
    pub over_credit: u64,
    /// Ignored because the peer sent more than any honest one does (part of `ignored`).
    pub over_rate: u64,
    /// Ignored because the node's lane was full (part of `ignored`).
    pub lane_full: u64,
    /// Ignored because no verdict came in time (part of `ignored`).
    pub expired: u64,
    /// Own messages sent.
    pub published: u64,
    /// Bytes of these.
    pub published_bytes: u64,
    /// Own messages given up: no subscriber in time, or all send queues full.
    pub publish_failed: u64,
    /// Own messages that were equal to one seen in the last minute.
    pub publish_duplicate: u64,
    /// Peers in the own mesh now.
    pub mesh_peers: u64,
}

impl TopicCounters {
    pub(crate) fn judged(&mut self, verdict: Verdict) {
        let counter = match verdict {
            Verdict::Accept => &mut self.accepted,
            Verdict::Ignore => &mut self.ignored,
            Verdict::Reject => &mut self.rejected,
        };
        *counter = counter.saturating_add(1);
    }
}

/// Counters since the start, and gauges as of the last quarter of a second.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NetworkMetrics {
    /// Connected peers.
    pub peers: u64,
    /// Connected peers with a proven key of a current validator.
    pub validators: u64,
    /// Connections this node dialled.
    pub outbound: u64,
    /// Entries of the address book.
    pub known_peers: u64,
    /// Peers banned now.
    pub banned: u64,
    /// Connections made.
    pub connected_total: u64,
    /// Connections lost or closed.
    pub disconnected_total: u64,
    /// Dials that failed.
    pub dial_failures_total: u64,
    /// Connections refused by limits, bans or because one existed.
    pub refused_total: u64,
    /// Peers disconnected for their faults.
    pub fault_disconnects_total: u64,
    /// Bans given.
    pub bans_total: u64,
    /// Faults booked.
    pub faults_total: u64,
    /// Peers the mesh doctor bounced.
    pub doctor_bounces_total: u64,
    /// By topic.
    pub topics: BTreeMap<&'static str, TopicCounters>,
    /// Verdicts that came after their message had expired.
    pub late_verdicts_total: u64,
    /// Requests received from peers.
    pub requests_in_total: u64,
    /// Of these answered `Busy` by the network.
    pub requests_throttled_total: u64,
    /// Own requests.
    pub requests_out_total: u64,
    /// Of these without an answer.
    pub requests_failed_total: u64,
    /// Bytes of requests and responses read.
    pub request_bytes_in_total: u64,
    /// Bytes of requests and responses written.
    pub request_bytes_out_total: u64,
    /// Bytes of responses being sent now.
    pub response_bytes_in_flight: u64,
}

impl NetworkMetrics {
    /// The counters of a topic.
    pub fn topic(&self, topic: Topic) -> TopicCounters {
        self.topics.get(topic.name()).copied().unwrap_or_default()
    }
}

/// Adds one to a counter.
pub(crate) fn count(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}
