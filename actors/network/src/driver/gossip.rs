//! Gossip in the swarm's thread: intake with credits, verdicts, own messages, and presence, which the network judges
//! itself.

use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::gossipsub::{Event, Message, MessageId as GossipId, PublishError};
use tokio::sync::mpsc::error::TrySendError;
use tracing::{debug, trace, warn};
use types::gossip::{PresenceMessage, Topic};
use types::{TypeError, Wire};

use super::{Driver, Retry, wall_clock};
use crate::book::{CLOCK_SKEW_MS, Filed};
use crate::config::Quota;
use crate::event::{Gossip, MessageId, PeerEvent, Verdict};
use crate::gossip::decode;
use crate::handle::Publication;
use crate::metrics::{TopicCounters, count};
use crate::penalty::Fault;
use crate::quota::Bucket;
use crate::rates::{Arrival, Rates};
use crate::rules::{acceptance, own_id, topic_hash};

/// Presence records whose signatures are checked for one forwarding peer: 20 a second cost about two milliseconds.
const PRESENCE_RATE: Quota = Quota { burst: 100, refill: Duration::from_secs(5) };
/// Own messages that wait for a first subscriber.
const RETRIES_MAX: usize = 128;
/// First wait of such a message; doubles, five attempts make about three seconds.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_ATTEMPTS: u32 = 5;

impl Driver {
    fn topic_counters(&mut self, topic: Topic) -> &mut TopicCounters {
        self.topic_metrics.entry(topic.name()).or_default()
    }

    pub(super) fn on_gossip(&mut self, event: Event) {
        match event {
            Event::Message { propagation_source, message_id, message } => {
                self.on_message(propagation_source, &message_id, &message);
            }
            Event::SlowPeer { peer_id, failed_messages } => {
                debug!(peer = %peer_id, ?failed_messages, "peer does not keep up");
            }
            Event::GossipsubNotSupported { peer_id } => debug!(peer = %peer_id, "peer speaks no gossip of this chain"),
            Event::Subscribed { peer_id, topic } => trace!(peer = %peer_id, %topic, "subscribed"),
            Event::Unsubscribed { peer_id, topic } => trace!(peer = %peer_id, %topic, "unsubscribed"),
        }
    }

    fn on_message(&mut self, source: PeerId, gossip_id: &GossipId, message: &Message) {
        let (Some(id), Some(topic)) = (own_id(gossip_id), self.topics.get(&message.topic).copied()) else { return };
        let bytes = message.data.len();
        let counters = self.topic_counters(topic);
        count(&mut counters.received);
        counters.received_bytes = counters.received_bytes.saturating_add(bytes as u64);
        let arrival = self.arrive(source, topic, bytes);
        if arrival != Arrival::Fine {
            count(&mut self.topic_counters(topic).over_rate);
            self.settle(id, topic, source, Verdict::Ignore);
            if arrival == Arrival::Flood {
                self.penalise(source, Fault::GossipFlood);
            }
            return;
        }
        if topic == Topic::Presence {
            let verdict = self.judge_presence(source, &message.data);
            self.settle(id, topic, source, verdict);
            return;
        }
        if !self.pending.has_credit(&source, topic, bytes) {
            count(&mut self.topic_counters(topic).over_credit);
            self.settle(id, topic, source, Verdict::Ignore);
            return;
        }
        let decoded = match decode(topic, &message.data) {
            Ok(decoded) => decoded,
            Err(verdict) => {
                self.settle(id, topic, source, verdict);
                return;
            }
        };
        let lane = match topic {
            Topic::Consensus => &self.lanes.consensus,
            Topic::Block => &self.lanes.blocks,
            Topic::Verdict => &self.lanes.verdicts,
            Topic::Tx | Topic::Presence => &self.lanes.txs,
        };
        match lane.try_send(Gossip { id, source, message: decoded }) {
            Ok(()) => self.pending.insert(id, topic, source, bytes, Instant::now()),
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {
                count(&mut self.topic_counters(topic).lane_full);
                self.settle(id, topic, source, Verdict::Ignore);
            }
        }
    }

    /// Counts a message against its sender's rates. What a peer left behind when it went is dropped.
    fn arrive(&mut self, source: PeerId, topic: Topic, bytes: usize) -> Arrival {
        if !self.peers.contains_key(&source) {
            return Arrival::Refused;
        }
        let now = Instant::now();
        self.gossip_rates.entry(source).or_insert_with(|| Rates::new(now)).arrive(topic, bytes, now)
    }

    /// The node's verdict on a message it was given.
    pub(super) fn judge(&mut self, id: MessageId, verdict: Verdict) {
        match self.pending.take(&id) {
            Some(message) => self.settle(id, message.topic, message.source, verdict),
            None => count(&mut self.metrics.late_verdicts_total),
        }
    }

    /// Carries a verdict out: forward, forget, or forget and book the fault.
    fn settle(&mut self, id: MessageId, topic: Topic, source: PeerId, verdict: Verdict) {
        self.topic_counters(topic).judged(verdict);
        let gossip_id = GossipId::new(&id.0);
        let known = self.swarm.behaviour_mut().gossip.report_message_validation_result(
            &gossip_id,
            &source,
            acceptance(verdict),
        );
        if !known {
            count(&mut self.metrics.late_verdicts_total);
        }
        if verdict == Verdict::Reject {
            debug!(peer = %source, topic = topic.name(), %id, "message rejected");
            self.penalise(source, Fault::InvalidGossip);
        }
    }

    pub(super) fn expire_messages(&mut self, now: Instant) {
        while let Some((id, message)) = self.pending.expired(now) {
            count(&mut self.topic_counters(message.topic).expired);
            self.settle(id, message.topic, message.source, Verdict::Ignore);
        }
    }

    /// A presence record from gossip: whatever is old, early or too much is ignored; what is not signed as it says is
    /// rejected.
    fn judge_presence(&mut self, source: PeerId, data: &[u8]) -> Verdict {
        let now = Instant::now();
        let rate = self.presence_rates.entry(source).or_insert_with(|| Bucket::new(PRESENCE_RATE, now));
        if rate.take(now).is_err() {
            count(&mut self.topic_counters(Topic::Presence).over_credit);
            return Verdict::Ignore;
        }
        match PresenceMessage::from_bytes(data) {
            Ok(message) => self.file_presence(message, now),
            Err(TypeError::UnknownVersion { .. }) => Verdict::Ignore,
            Err(_) => Verdict::Reject,
        }
    }

    /// Checks a record and files it. The signatures come last, because they cost most.
    pub(super) fn file_presence(&mut self, message: PresenceMessage, now: Instant) -> Verdict {
        let Ok(peer) = PeerId::from_bytes(&message.presence.peer) else { return Verdict::Reject };
        let (time, wall) = (message.presence.time_ms, wall_clock());
        if wall.since(time).max(time.since(wall)) > CLOCK_SKEW_MS || !self.book.is_news(&peer, time) {
            return Verdict::Ignore;
        }
        if !message.verify(&self.config.genesis) {
            return Verdict::Reject;
        }
        if self.book.file(peer, message.clone(), now) == Filed::Fresh {
            let event = PeerEvent::Presence { peer, message: Box::new(message) };
            if self.lanes.peers.try_send(event).is_err() {
                trace!(peer = %peer, "peer event dropped");
            }
        }
        Verdict::Accept
    }

    /// Publishes an own message; without a subscriber it waits for one.
    pub(super) fn publish(&mut self, publication: Publication, attempt: u32) {
        let Publication { topic, data } = publication;
        let bytes = data.len() as u64;
        let hash = topic_hash(topic, &self.config.genesis);
        let result = self.swarm.behaviour_mut().gossip.publish(hash, data.clone());
        let room = self.retries.len() < RETRIES_MAX && attempt < RETRY_ATTEMPTS;
        let counters = self.topic_counters(topic);
        match result {
            Ok(_) => {
                count(&mut counters.published);
                counters.published_bytes = counters.published_bytes.saturating_add(bytes);
            }
            Err(PublishError::Duplicate) => count(&mut counters.publish_duplicate),
            Err(PublishError::NoPeersSubscribedToTopic) if room => {
                let at = Instant::now() + RETRY_FIRST.saturating_mul(1 << attempt.min(8));
                let publication = Publication { topic, data };
                self.retries.push_back(Retry { at, attempt: attempt.saturating_add(1), publication });
            }
            Err(error) => {
                count(&mut counters.publish_failed);
                // A node alone has nobody to publish to; that is not worth a warning each time.
                match error {
                    PublishError::NoPeersSubscribedToTopic => debug!(topic = topic.name(), "nobody to publish to"),
                    error => warn!(topic = topic.name(), bytes, %error, "own message not published"),
                }
            }
        }
    }

    pub(super) fn retry_publications(&mut self, now: Instant) {
        for _ in 0..self.retries.len() {
            let Some(retry) = self.retries.pop_front() else { return };
            if retry.at <= now {
                self.publish(retry.publication, retry.attempt);
            } else {
                self.retries.push_back(retry);
            }
        }
    }
}
