//! When the next height starts: a pure rule over the parameters and what there is to do.

use types::ids::{Height, TimeMs};
use types::params::Params;

/// Wall-clock time at which the next height starts, when the last one started at `started`: after `block_ms` while there is
/// work (a live job, a waiting transaction, or a block whose state change still lacks its root in a header), after
/// `empty_block_ms` otherwise.
pub(crate) fn next_start(started: TimeMs, params: &Params, work: bool) -> TimeMs {
    started.plus(if work { params.block_ms } else { params.empty_block_ms })
}

/// Whether another validator's message for the next height may start it here: at the pace of a busy chain, never faster.
pub(crate) fn may_follow(started: TimeMs, params: &Params, now: TimeMs) -> bool {
    // A clock that was set back says nothing about the pace.
    now < started || now >= started.plus(params.block_ms.saturating_mul(FOLLOW_EARLY_NUM) / FOLLOW_EARLY_DEN)
}

/// Whether messages for `next` from a third of the power or less may hasten it, when they did so last for the height and at the
/// time in `last`. All of them may be faulty, and would hold an idle chain at the pace of a busy one for ever: so they may
/// once in the time of an empty block. They may at all because a node that has restarted starts its height at once, and where
/// another one is away the rest must meet it in the same round.
pub(crate) fn may_follow_few(last: Option<(Height, TimeMs)>, next: Height, params: &Params, now: TimeMs) -> bool {
    last.is_none_or(|(height, at)| height == next || now < at || now >= at.plus(params.empty_block_ms))
}

/// Clocks and deliveries differ a little: a message may be followed from nine tenths of the pace on.
const FOLLOW_EARLY_NUM: u64 = 9;
const FOLLOW_EARLY_DEN: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_paced_and_idleness_waits() {
        let params = Params::standard();
        assert_eq!(next_start(TimeMs(1_000), &params, true), TimeMs(1_500));
        assert_eq!(next_start(TimeMs(1_000), &params, false), TimeMs(11_000));
        assert!(!may_follow(TimeMs(1_000), &params, TimeMs(1_400)));
        assert!(may_follow(TimeMs(1_000), &params, TimeMs(1_450)));
        assert!(may_follow(TimeMs(1_000), &params, TimeMs(10)), "the clock was set back");
    }

    #[test]
    fn a_few_hasten_one_height_in_the_time_of_an_empty_block() {
        let params = Params::standard();
        let may = |last: Option<(u64, u64)>, next: u64, now: u64| {
            may_follow_few(last.map(|(height, at)| (Height(height), TimeMs(at))), Height(next), &params, TimeMs(now))
        };
        assert!(may(None, 5, 1_000));
        assert!(may(Some((5, 1_000)), 5, 1_400), "all messages for one height count as one");
        assert!(!may(Some((5, 1_000)), 6, 10_999));
        assert!(may(Some((5, 1_000)), 6, 11_000));
        assert!(may(Some((5, 1_000)), 6, 999), "the clock was set back");
    }
}
