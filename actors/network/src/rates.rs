//! How much gossip one peer may send, whoever wrote it: far above what an honest node forwards, far below what a flood needs.
//!
//! Credits (see `gossip`) bound what waits for a verdict and say nothing against a peer, because a busy node is slow with
//! verdicts. These rates count arrivals, which the receiver's own pace can't change, so going on beyond them is a fault.

use std::time::{Duration, Instant};

use types::gossip::Topic;

use crate::config::Quota;
use crate::quota::Bucket;

/// Bytes in one unit of the byte bucket.
const UNIT: usize = 64 << 10;
/// All topics together: 16 MiB/s, 64 MiB at once. Four full blocks a second and a thousand transfers are below 2 MiB/s.
const BYTES: Quota = Quota { burst: 1024, refill: Duration::from_secs(4) };
/// Refused messages that make one fault; one counts once more for each [`WEIGHT`].
const REFUSED_PER_FAULT: u32 = 256;
/// Bytes.
const WEIGHT: usize = 16 << 10;

/// Messages of a topic. A hundred validators at two blocks a second cast 400 votes a second; a proof takes seconds, and its
/// hundred verdicts come at once; blocks come one at a time, with the rounds of a few heights at once after a pause.
const fn messages(topic: Topic) -> Quota {
    let (burst, refill_s) = match topic {
        Topic::Consensus => (8_192, 8),
        Topic::Block => (128, 4),
        Topic::Tx => (16_384, 4),
        Topic::Verdict => (8_192, 16),
        // Signatures are checked for a part of these only, see the driver.
        Topic::Presence => (1_024, 16),
    };
    Quota { burst, refill: Duration::from_secs(refill_s) }
}

/// What becomes of a message that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// Within the rates.
    Fine,
    /// Beyond them: drop it.
    Refused,
    /// Beyond them, and the peer has gone on for so long that it is at fault.
    Flood,
}

/// Arrivals from one peer.
#[derive(Debug)]
pub(crate) struct Rates {
    topics: [Bucket; Topic::ALL.len()],
    bytes: Bucket,
    /// Bytes not yet taken from the byte bucket, less than [`UNIT`].
    rest: usize,
    refused: u32,
}

impl Rates {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            topics: Topic::ALL.map(|topic| Bucket::new(messages(topic), now)),
            bytes: Bucket::new(BYTES, now),
            rest: 0,
            refused: 0,
        }
    }

    /// Books a message of so many bytes.
    pub(crate) fn arrive(&mut self, topic: Topic, bytes: usize, now: Instant) -> Arrival {
        let of_topic = self.topics.iter_mut().zip(Topic::ALL).find(|(_, known)| *known == topic);
        let counted = of_topic.is_none_or(|(bucket, _)| bucket.take(now).is_ok());
        self.rest = self.rest.saturating_add(bytes);
        let mut weighed = true;
        while self.rest >= UNIT {
            self.rest = self.rest.saturating_sub(UNIT);
            weighed &= self.bytes.take(now).is_ok();
        }
        if counted && weighed {
            return Arrival::Fine;
        }
        // Long messages weigh more: they cost more to receive.
        self.refused = self.refused.saturating_add(u32::try_from(bytes / WEIGHT).unwrap_or(u32::MAX)).saturating_add(1);
        if self.refused >= REFUSED_PER_FAULT {
            self.refused = 0;
            return Arrival::Flood;
        }
        Arrival::Refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(rates: &mut Rates, topic: Topic, bytes: usize, n: usize, now: Instant) -> [usize; 3] {
        let mut seen = [0; 3];
        for _ in 0..n {
            match rates.arrive(topic, bytes, now) {
                Arrival::Fine => seen[0] += 1,
                Arrival::Refused => seen[1] += 1,
                Arrival::Flood => seen[2] += 1,
            }
        }
        seen
    }

    #[test]
    fn a_busy_honest_forwarder_is_never_refused() {
        let start = Instant::now();
        let mut rates = Rates::new(start);
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            for (topic, bytes, n) in [
                (Topic::Consensus, 300, 800),
                (Topic::Block, 256 << 10, 20),
                (Topic::Tx, 320, 2_000),
                (Topic::Verdict, 500, 400),
                (Topic::Presence, 600, 60),
            ] {
                assert_eq!(arrivals(&mut rates, topic, bytes, n, now)[0], n, "{topic:?} in second {second}");
            }
        }
    }

    #[test]
    fn a_flood_is_refused_and_then_a_fault_on_every_topic() {
        let now = Instant::now();
        for topic in Topic::ALL {
            let mut rates = Rates::new(now);
            let burst = messages(topic).burst as usize;
            let [fine, refused, floods] = arrivals(&mut rates, topic, 100, burst + 2_560, now);
            assert_eq!((fine, refused, floods), (burst, 2_550, 10), "{topic:?}");
            // Another topic has a bucket of its own.
            let other = if topic == Topic::Consensus { Topic::Verdict } else { Topic::Consensus };
            assert_eq!(rates.arrive(other, 100, now), Arrival::Fine);
        }
    }

    #[test]
    fn large_messages_are_weighed() {
        let now = Instant::now();
        let mut rates = Rates::new(now);
        let [fine, ..] = arrivals(&mut rates, Topic::Tx, 64 << 10, 4_000, now);
        assert_eq!(fine, 1_024, "64 MiB at once");
        let [later, ..] = arrivals(&mut rates, Topic::Tx, 64 << 10, 4_000, now + Duration::from_secs(1));
        assert_eq!(later, 256, "16 MiB a second");
    }
}
