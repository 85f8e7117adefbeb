//! Whether a device may be used: a count of failures in a row, and growing pauses. Time is an argument.

use std::time::{Duration, Instant};

/// Failures in a row after which a device is disabled.
const FAILURES_MAX: u32 = 3;
/// First pause of a disabled device; doubles up to [`PAUSE_MAX`] while it goes on failing.
const PAUSE: Duration = Duration::from_secs(600);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(6 * 3600);

/// Why and until when a device is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Disabled {
    /// The last failure.
    pub(super) reason: String,
    /// It is tried again from here on.
    pub(super) until: Instant,
}

/// The record of one device.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    /// Failures since the last proof.
    failures: u32,
    /// Failures since the start.
    total: u64,
    pauses: u32,
    disabled: Option<Disabled>,
}

impl Health {
    /// Notes a failure. `fatal` disables at once: a device that does not start, or computes wrongly.
    pub(super) fn failed(&mut self, now: Instant, reason: &str, fatal: bool) {
        self.failures = self.failures.saturating_add(1);
        self.total = self.total.saturating_add(1);
        // One that was tried again after a pause has one try.
        if fatal || self.failures >= FAILURES_MAX || self.pauses > 0 {
            let pause = PAUSE.saturating_mul(1u32.checked_shl(self.pauses).unwrap_or(u32::MAX)).min(PAUSE_MAX);
            self.pauses = self.pauses.saturating_add(1);
            self.failures = 0;
            let until = now.checked_add(pause).unwrap_or(now);
            self.disabled = Some(Disabled { reason: reason.to_owned(), until });
        }
    }

    /// Notes a proof: the device is as good as new.
    pub(super) fn succeeded(&mut self) {
        *self = Self { total: self.total, ..Self::default() };
    }

    /// Whether it may be used now.
    pub(super) fn usable(&self, now: Instant) -> bool {
        self.disabled.as_ref().is_none_or(|disabled| now >= disabled.until)
    }

    /// Why it is not used, while it is not.
    pub(super) fn disabled(&self, now: Instant) -> Option<&Disabled> {
        self.disabled.as_ref().filter(|disabled| now < disabled.until)
    }

    /// Failures since the start.
    pub(super) fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_disable_and_pauses_grow() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut health = Health::default();
        health.failed(at(0), "one", false);
        health.failed(at(1), "two", false);
        assert!(health.usable(at(1)));
        health.failed(at(2), "three", false);
        assert!(!health.usable(at(601)) && health.usable(at(602)));
        assert_eq!(health.disabled(at(3)).unwrap().reason, "three");
        assert!(health.disabled(at(602)).is_none());
        // Tried again, and failed again: one failure is enough now, and the pause is twice as long.
        health.failed(at(700), "four", false);
        assert!(!health.usable(at(700 + 1199)) && health.usable(at(700 + 1200)));
        for n in 0..20 {
            health.failed(at(10_000 + n), "again", false);
        }
        assert!(health.usable(at(10_019 + 6 * 3600)), "a pause has an end");
        health.succeeded();
        assert!(health.usable(at(10_020)));
        health.failed(at(10_021), "one", false);
        assert!(health.usable(at(10_021)), "a proof wipes the slate");
        assert_eq!(health.total(), 25);
    }

    #[test]
    fn a_fatal_failure_disables_at_once() {
        let now = Instant::now();
        let mut health = Health::default();
        health.failed(now, "self-test", true);
        assert!(!health.usable(now));
    }
}
