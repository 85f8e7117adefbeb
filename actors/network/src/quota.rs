//! Token buckets: how many requests of a kind one peer may make.

use std::time::{Duration, Instant};

use types::Wire;
use types::limits::{BLOB_CHUNK_BYTES, CONSENSUS_BYTES_MAX};
use types::rpc_sync::{Request, Response};

use crate::config::{Quota, Quotas};

/// Kinds of request with a bucket each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Status,
    Blocks,
    Consensus,
    Manifest,
    Chunk,
    Verdicts,
    Genesis,
    /// A question for other peers.
    Peers,
    /// Broken off, or of a version unknown here: nobody's fault, until it is all that a peer sends.
    Odd,
}

impl Kind {
    const N: usize = 9;

    /// The kind of a request.
    pub(crate) const fn of(request: &Request) -> Self {
        match request {
            Request::Status => Self::Status,
            Request::Blocks { .. } => Self::Blocks,
            Request::ProposedBlock { .. } | Request::Votes { .. } => Self::Consensus,
            Request::BlobManifest { .. } => Self::Manifest,
            Request::BlobChunk { .. } => Self::Chunk,
            Request::Verdicts { .. } => Self::Verdicts,
            Request::Genesis => Self::Genesis,
        }
    }

    /// Bytes that an answer may have; what is being sent is bounded by them before the answer is known.
    pub(crate) const fn answer_bytes(self) -> usize {
        match self {
            Self::Blocks | Self::Consensus | Self::Genesis => Response::BYTES_MAX,
            Self::Chunk => BLOB_CHUNK_BYTES as usize + 1024,
            Self::Verdicts => CONSENSUS_BYTES_MAX,
            Self::Manifest => 8 << 10,
            Self::Status | Self::Peers | Self::Odd => 1 << 10,
        }
    }
}

/// Refusals after which a peer that goes on asking is at fault.
const REFUSALS_MAX: u32 = 64;

/// One bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    quota: Quota,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(crate) fn new(quota: Quota, now: Instant) -> Self {
        Self { quota, tokens: f64::from(quota.burst), at: now }
    }

    /// Takes a token, or says how long to wait for one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let rate = f64::from(self.quota.burst) / self.quota.refill.as_secs_f64().max(1e-3);
        let grown = now.saturating_duration_since(self.at).as_secs_f64() * rate;
        self.tokens = (self.tokens + grown).min(f64::from(self.quota.burst));
        self.at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64(((1.0 - self.tokens) / rate.max(1e-6)).min(60.0)))
    }

    /// Whether it is full again, so that forgetting it changes nothing.
    pub(crate) fn idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) > self.quota.refill
    }
}

/// The buckets of one peer.
#[derive(Debug)]
pub(crate) struct PeerQuota {
    /// In the order of [`Kind`].
    buckets: [Bucket; Kind::N],
    refusals: u32,
}

/// Answer to "may it ask?".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    Granted,
    /// Wait so long.
    Wait(Duration),
    /// Wait so long; and the peer ignored so many refusals that it is at fault.
    Flood(Duration),
}

impl PeerQuota {
    pub(crate) fn new(quotas: &Quotas, now: Instant) -> Self {
        let q = quotas;
        let kinds = [q.status, q.blocks, q.consensus, q.manifest, q.chunk, q.verdicts, q.genesis, q.peers, q.status];
        Self { buckets: kinds.map(|quota| Bucket::new(quota, now)), refusals: 0 }
    }

    pub(crate) fn admit(&mut self, kind: Kind, now: Instant) -> Admission {
        let Some(bucket) = self.buckets.get_mut(kind as usize) else { return Admission::Wait(Duration::from_secs(1)) };
        match bucket.take(now) {
            Ok(()) => {
                self.refusals = 0;
                Admission::Granted
            }
            Err(wait) => {
                self.refusals = self.refusals.saturating_add(1);
                if self.refusals.is_multiple_of(REFUSALS_MAX) { Admission::Flood(wait) } else { Admission::Wait(wait) }
            }
        }
    }

    /// Whether all buckets are full again.
    pub(crate) fn idle(&self, now: Instant) -> bool {
        self.buckets.iter().all(|b| b.idle(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_refuses_when_empty_and_refills() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Quota { burst: 5, refill: Duration::from_secs(10) }, start);
        for _ in 0..5 {
            assert!(bucket.take(start).is_ok());
        }
        let wait = bucket.take(start).unwrap_err();
        assert!(wait > Duration::from_millis(1900) && wait <= Duration::from_secs(2), "{wait:?}");
        assert!(bucket.take(start + Duration::from_millis(2001)).is_ok());
        assert!(bucket.take(start + Duration::from_millis(2002)).is_err());
        assert_eq!((0..100).filter(|_| bucket.take(start + Duration::from_secs(60)).is_ok()).count(), 5);
    }

    #[test]
    fn kinds_have_buckets_of_their_own_and_a_flood_is_a_fault() {
        let now = Instant::now();
        let mut quota = PeerQuota::new(&Quotas::default(), now);
        let granted = (0..200).filter(|_| quota.admit(Kind::Status, now) == Admission::Granted).count();
        assert_eq!(granted, 30);
        let floods = (0..128).filter(|_| matches!(quota.admit(Kind::Status, now), Admission::Flood(_))).count();
        assert_eq!(floods, 2);
        let votes = Kind::of(&Request::Votes { height: types::ids::Height(1) });
        assert_eq!(quota.admit(votes, now), Admission::Granted);
        assert!(!quota.idle(now));
        assert!(quota.idle(now + Duration::from_secs(20)));
    }
}
