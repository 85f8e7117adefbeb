//! How long this node waits before it takes a round for lost.
//!
//! The chain's parameters say the longest wait. A dead proposer must not cost all of it at every turn, so this node measures how
//! long proposals take until they are here and checked, and begins with a wait that follows the slowest of the last
//! [`SAMPLES`] rather than the parameter: half the step per round, at least [`FLOOR_MS`], plus [`MARGIN`] times that sample.
//!
//! Timeouts are each node's own affair in Tendermint: safety does not depend on them, and liveness needs only that they grow from
//! round to round past any delay. They double with the round up to the parameter, and the parameters' step is added for every
//! round on top, so a few rounds later they are at least what they would be without measuring. A proposal that comes too late is
//! measured too, so a network that became slow is waited for again after one lost round.

use std::collections::VecDeque;

use types::ids::{Round, TimeMs};
use types::params::Timeouts;

use crate::machine::{TIMEOUT_MS_MAX, TimerKind};

/// Proposals remembered: eight turns of each of four validators.
const SAMPLES: usize = 32;
/// Fewer than these say nothing; the parameters count.
const SAMPLES_MIN: usize = 4;
/// Times the slowest proposal that is waited.
const MARGIN: u64 = 4;
/// Shortest wait, whatever was measured, milliseconds.
const FLOOR_MS: u64 = 50;
/// Doublings beyond this change nothing: the parameter is reached long before.
const DOUBLINGS_MAX: u32 = 16;
/// Rounds of a height whose beginning is remembered.
const ROUNDS_MAX: usize = 16;

/// What was measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waits {
    samples: VecDeque<u64>,
    /// Beginnings of the last rounds of the running height.
    rounds: VecDeque<(Round, TimeMs)>,
}

impl Waits {
    /// A new height: beginnings of rounds belong to the old one.
    pub(crate) fn new_height(&mut self) {
        self.rounds.clear();
    }

    /// A round begins.
    pub(crate) fn entered(&mut self, round: Round, now: TimeMs) {
        if self.rounds.len() >= ROUNDS_MAX {
            self.rounds.pop_front();
        }
        self.rounds.push_back((round, now));
    }

    /// Another validator's proposal for a round of the running height is here and checked.
    pub(crate) fn ready(&mut self, round: Round, now: TimeMs) {
        let Some((_, began)) = self.rounds.iter().find(|(r, _)| *r == round) else { return };
        if self.samples.len() >= SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(now.since(*began));
    }

    /// The timeout of a step, milliseconds.
    pub(crate) fn timeout_ms(&self, kind: TimerKind, round: Round, t: &Timeouts) -> u64 {
        let longest = match kind {
            TimerKind::Propose => t.propose_ms,
            TimerKind::Prevote => t.prevote_ms,
            TimerKind::Precommit => t.precommit_ms,
            TimerKind::Rebroadcast => t.rebroadcast_ms,
        };
        let base = match kind {
            TimerKind::Rebroadcast => longest,
            _ => {
                let doubled = self.first_ms(t).saturating_mul(2u64.saturating_pow(round.0.min(DOUBLINGS_MAX)));
                doubled.min(longest)
            }
        };
        base.saturating_add(t.delta_ms.saturating_mul(u64::from(round.0))).min(TIMEOUT_MS_MAX)
    }

    /// The wait of round 0, before the parameter cuts it.
    fn first_ms(&self, t: &Timeouts) -> u64 {
        match self.samples.iter().max() {
            Some(slowest) if self.samples.len() >= SAMPLES_MIN => {
                (t.delta_ms / 2).max(FLOOR_MS).saturating_add(slowest.saturating_mul(MARGIN))
            }
            _ => u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standard() -> Timeouts {
        types::params::Params::standard().timeouts
    }

    fn measured(waits: &[u64]) -> Waits {
        let mut w = Waits::default();
        for wait in waits {
            w.new_height();
            w.entered(Round(0), TimeMs(1_000));
            w.ready(Round(0), TimeMs(1_000 + wait));
        }
        w
    }

    #[test]
    fn the_parameters_count_until_enough_is_known() {
        for waits in [&[][..], &[10, 10, 10]] {
            let w = measured(waits);
            let of = |kind, round| w.timeout_ms(kind, Round(round), &standard());
            assert_eq!([0, 1, 2].map(|r| of(TimerKind::Propose, r)), [3_000, 3_500, 4_000]);
            assert_eq!(of(TimerKind::Precommit, 0), 1_000);
        }
    }

    #[test]
    fn the_slowest_lately_counts_and_rounds_grow_to_the_parameters_and_beyond() {
        let w = measured(&[10, 40, 20, 10]);
        let of = |kind, round| w.timeout_ms(kind, Round(round), &standard());
        assert_eq!([0, 1, 2, 3].map(|r| of(TimerKind::Propose, r)), [410, 1_320, 2_640, 4_500]);
        assert_eq!([0, 1, 2].map(|r| of(TimerKind::Prevote, r)), [410, 1_320, 2_000]);
        assert_eq!(of(TimerKind::Rebroadcast, 0), 2_000, "it is not about proposals");
        assert_eq!(of(TimerKind::Propose, u32::MAX), TIMEOUT_MS_MAX);
        let slow = measured(&[10, 10, 10, 5_000]);
        assert_eq!(slow.timeout_ms(TimerKind::Propose, Round(0), &standard()), 3_000, "never above the parameter");
        let mut again = slow;
        for _ in 0..SAMPLES {
            again.entered(Round(0), TimeMs(0));
            again.ready(Round(0), TimeMs(10));
            again.new_height();
        }
        assert_eq!(
            again.timeout_ms(TimerKind::Propose, Round(0), &standard()),
            290,
            "one slow proposal is forgotten in time"
        );
    }

    #[test]
    fn memory_is_bounded_and_strange_times_are_harmless() {
        let mut w = Waits::default();
        for round in 0..100 {
            w.entered(Round(round), TimeMs(500));
        }
        w.ready(Round(0), TimeMs(600));
        assert!(w.samples.is_empty(), "its beginning is forgotten");
        // The clock was set back.
        (0..100).for_each(|_| w.ready(Round(99), TimeMs(1)));
        assert_eq!((w.samples.len(), w.rounds.len()), (SAMPLES, ROUNDS_MAX));
        assert_eq!(w.timeout_ms(TimerKind::Propose, Round(0), &standard()), 250);
    }
}
