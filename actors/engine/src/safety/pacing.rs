//! When the next height starts: a pure rule over the parameters and what there is to do.

use types::ids::TimeMs;
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
}
