//! Messages between their arrival and their verdict: credits of the peers that sent them, and their expiry.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use libp2p::PeerId;
use types::TypeError;
use types::gossip::Topic;

use crate::event::{GossipMessage, MessageId, Verdict};
use crate::rules::VERDICT_LIMIT;

/// Unjudged bytes of one peer on all topics.
const PEER_BYTES_MAX: usize = 8 << 20;

/// Unjudged messages that one peer may have on a topic.
const fn credit(topic: Topic) -> usize {
    match topic {
        Topic::Consensus => 512,
        Topic::Block => 16,
        Topic::Tx | Topic::Verdict => 256,
        Topic::Presence => 1,
    }
}

/// A message that waits for its verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unjudged {
    pub(crate) topic: Topic,
    pub(crate) source: PeerId,
    bytes: usize,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    messages: HashMap<MessageId, Unjudged>,
    expiry: VecDeque<(Instant, MessageId)>,
    counts: HashMap<(PeerId, &'static str), usize>,
    bytes: HashMap<PeerId, usize>,
}

impl Pending {
    /// Whether the peer has credit for one more message of so many bytes.
    pub(crate) fn has_credit(&self, source: &PeerId, topic: Topic, bytes: usize) -> bool {
        let count = self.counts.get(&(*source, topic.name())).copied().unwrap_or(0);
        let held = self.bytes.get(source).copied().unwrap_or(0);
        count < credit(topic) && held.saturating_add(bytes) <= PEER_BYTES_MAX
    }

    /// Takes a message on.
    pub(crate) fn insert(&mut self, id: MessageId, topic: Topic, source: PeerId, bytes: usize, now: Instant) {
        if self.messages.insert(id, Unjudged { topic, source, bytes }).is_none() {
            *self.counts.entry((source, topic.name())).or_default() += 1;
            *self.bytes.entry(source).or_default() += bytes;
            self.expiry.push_back((now + VERDICT_LIMIT, id));
        }
    }

    /// Hands a message out for its verdict; `None` when it has expired or never was.
    pub(crate) fn take(&mut self, id: &MessageId) -> Option<Unjudged> {
        let message = self.messages.remove(id)?;
        let key = (message.source, message.topic.name());
        if let Some(count) = self.counts.get_mut(&key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&key);
            }
        }
        if let Some(held) = self.bytes.get_mut(&message.source) {
            *held = held.saturating_sub(message.bytes);
            if *held == 0 {
                self.bytes.remove(&message.source);
            }
        }
        Some(message)
    }

    /// The next message whose time is over.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<(MessageId, Unjudged)> {
        while let Some((deadline, id)) = self.expiry.front().copied() {
            let judged = !self.messages.contains_key(&id);
            if !judged && deadline > now {
                return None;
            }
            self.expiry.pop_front();
            if !judged {
                return self.take(&id).map(|message| (id, message));
            }
        }
        None
    }
}

/// Decodes a message, or says how to judge its bytes: an unknown version may be a newer node's and is ignored; bytes
/// that are no encoding at all are nobody's mistake but the sender's.
pub(crate) fn decode(topic: Topic, data: &[u8]) -> Result<GossipMessage, Verdict> {
    match GossipMessage::decode(topic, data) {
        Ok(Some(message)) => Ok(message),
        Ok(None) | Err(TypeError::UnknownVersion { .. }) => Err(Verdict::Ignore),
        Err(_) => Err(Verdict::Reject),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(n: usize) -> MessageId {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
        MessageId(bytes)
    }

    #[test]
    fn credits_are_per_peer_and_topic_and_return_with_the_verdict() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        let (peer, other) = (PeerId::random(), PeerId::random());
        for n in 0..credit(Topic::Block) {
            assert!(pending.has_credit(&peer, Topic::Block, 1000));
            pending.insert(id(n), Topic::Block, peer, 1000, now);
        }
        assert!(!pending.has_credit(&peer, Topic::Block, 1000));
        assert!(pending.has_credit(&peer, Topic::Consensus, 1000));
        assert!(pending.has_credit(&other, Topic::Block, 1000));
        assert!(!pending.has_credit(&peer, Topic::Consensus, PEER_BYTES_MAX));
        assert_eq!(pending.take(&id(0)).map(|m| m.source), Some(peer));
        assert_eq!(pending.take(&id(0)), None);
        assert!(pending.has_credit(&peer, Topic::Block, 1000));
    }

    #[test]
    fn messages_without_a_verdict_expire_in_order_and_leave_nothing_behind() {
        let (mut pending, now, peer) = (Pending::default(), Instant::now(), PeerId::random());
        for n in 0..3 {
            pending.insert(id(n), Topic::Tx, peer, 10, now + Duration::from_millis(n as u64));
        }
        pending.take(&id(1));
        assert_eq!(pending.expired(now), None);
        let over = now + VERDICT_LIMIT + Duration::from_secs(1);
        let expired: Vec<MessageId> = std::iter::from_fn(|| pending.expired(over)).map(|(id, _)| id).collect();
        assert_eq!(expired, vec![id(0), id(2)]);
        assert!(pending.messages.is_empty() && pending.counts.is_empty() && pending.bytes.is_empty());
        assert!(pending.expiry.is_empty());
    }

    #[test]
    fn unknown_versions_are_ignored_and_garbage_rejected() {
        assert_eq!(decode(Topic::Consensus, &[9, 9, 1, 2, 3]), Err(Verdict::Ignore));
        assert_eq!(decode(Topic::Consensus, &[1, 0, 77, 1]), Err(Verdict::Reject));
        assert_eq!(decode(Topic::Tx, &[]), Err(Verdict::Reject));
        assert_eq!(decode(Topic::Verdict, &[1, 0]), Err(Verdict::Reject));
    }
}
