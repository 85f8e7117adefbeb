//! Rates, quotas and calls under way by client address, in a map of bounded size.
//!
//! A token bucket per address (an IPv6 network of /64 counts as one). When the map is full, addresses that have nothing
//! under way and the oldest use go first: forgetting one gives it a full bucket, nothing more.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::refusal::Refusal;

/// Addresses remembered.
const ADDRESSES_MAX: usize = 8192;
/// Of these forgotten at once when the map is full.
const FORGET: usize = 1024;
/// Time over which uploads are counted.
const UPLOAD_WINDOW: Duration = Duration::from_secs(600);

/// What a client address may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Calls a second.
    pub(crate) rate_per_s: u32,
    /// Calls saved up at most.
    pub(crate) burst: u32,
    /// Calls under way at once.
    pub(crate) in_flight: u32,
    /// Bytes uploaded within ten minutes.
    pub(crate) upload_bytes: u64,
    /// Whether loopback has none of these limits.
    pub(crate) loopback_exempt: bool,
}

/// State of one address.
#[derive(Debug)]
struct Entry {
    tokens: f64,
    refilled: Instant,
    in_flight: u32,
    uploaded: u64,
    window_start: Instant,
}

/// All addresses seen lately.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    limits: Limits,
    entries: Arc<Mutex<HashMap<IpAddr, Entry>>>,
}

/// A call under way; dropping it ends it.
#[derive(Debug)]
pub(crate) struct CallPermit {
    addresses: Addresses,
    key: Option<IpAddr>,
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        if let Some(key) = self.key
            && let Some(entry) = self.addresses.lock().get_mut(&key)
        {
            entry.in_flight = entry.in_flight.saturating_sub(1);
        }
    }
}

impl Addresses {
    /// Nobody seen yet.
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, entries: Arc::default() }
    }

    /// Addresses remembered now.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Takes a token for a call.
    ///
    /// # Errors
    /// `rate_limited` when there is none, `overloaded` when too many calls are under way.
    pub(crate) fn call(&self, address: IpAddr, now: Instant) -> Result<CallPermit, Refusal> {
        let Some(key) = self.key(address) else {
            return Ok(CallPermit { addresses: self.clone(), key: None });
        };
        let limits = self.limits;
        let mut entries = self.lock();
        let entry = enter(&mut entries, key, &limits, now);
        if entry.in_flight >= limits.in_flight {
            let message = format!("{} calls of this address are under way; wait for one to end", entry.in_flight);
            return Err(Refusal::field("overloaded", "calls", entry.in_flight, limits.in_flight, message));
        }
        let earned = now.saturating_duration_since(entry.refilled).as_secs_f64() * f64::from(limits.rate_per_s);
        entry.tokens = (entry.tokens + earned).min(f64::from(limits.burst));
        entry.refilled = now;
        if entry.tokens < 1.0 {
            let message = format!("more than {} calls a second from this address; wait a second", limits.rate_per_s);
            return Err(Refusal::field("rate_limited", "calls", "over the rate", limits.rate_per_s, message));
        }
        entry.tokens -= 1.0;
        entry.in_flight = entry.in_flight.saturating_add(1);
        drop(entries);
        Ok(CallPermit { addresses: self.clone(), key: Some(key) })
    }

    /// Books uploaded bytes.
    ///
    /// # Errors
    /// `quota` when the address has uploaded its share of the last ten minutes.
    pub(crate) fn upload(&self, address: IpAddr, bytes: u64, now: Instant) -> Result<(), Refusal> {
        let Some(key) = self.key(address) else { return Ok(()) };
        let limits = self.limits;
        let mut entries = self.lock();
        let entry = enter(&mut entries, key, &limits, now);
        if now.saturating_duration_since(entry.window_start) >= UPLOAD_WINDOW {
            entry.window_start = now;
            entry.uploaded = 0;
        }
        let sum = entry.uploaded.saturating_add(bytes);
        if sum > limits.upload_bytes {
            let left = UPLOAD_WINDOW.saturating_sub(now.saturating_duration_since(entry.window_start)).as_secs();
            let message = format!("this address has uploaded its share of ten minutes; go on in {left} s");
            return Err(Refusal::field("quota", "bytes", sum, limits.upload_bytes, message));
        }
        entry.uploaded = sum;
        Ok(())
    }

    /// The address as counted; `None` when it has no limits.
    fn key(&self, address: IpAddr) -> Option<IpAddr> {
        let exempt = self.limits.loopback_exempt && address.to_canonical().is_loopback();
        (!exempt).then(|| network(address))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Entry>> {
        // Every change is a single assignment, so a panic elsewhere leaves no half-made entry.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one client: an IPv4 address, or an IPv6 network of /64. The machine itself keeps its address.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        other => other,
    }
}

/// The entry of an address, made if needed; makes room first.
fn enter<'a>(entries: &'a mut HashMap<IpAddr, Entry>, key: IpAddr, limits: &Limits, now: Instant) -> &'a mut Entry {
    if entries.len() >= ADDRESSES_MAX && !entries.contains_key(&key) {
        let mut idle: Vec<(Instant, IpAddr)> = entries
            .iter()
            .filter(|(_, e)| e.in_flight == 0)
            .map(|(k, e)| (e.refilled.max(e.window_start), *k))
            .collect();
        idle.sort_unstable();
        for (_, old) in idle.into_iter().take(FORGET) {
            entries.remove(&old);
        }
    }
    entries.entry(key).or_insert_with(|| Entry {
        tokens: f64::from(limits.burst),
        refilled: now,
        in_flight: 0,
        uploaded: 0,
        window_start: now,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { rate_per_s: 2, burst: 3, in_flight: 2, upload_bytes: 100, loopback_exempt: true };

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_then_the_rate() {
        let addresses = Addresses::new(LIMITS);
        let (now, a) = (Instant::now(), address("192.0.2.1"));
        for _ in 0..3 {
            addresses.call(a, now).unwrap();
        }
        let refused = addresses.call(a, now).unwrap_err();
        assert_eq!((refused.error.code.as_str(), refused.number()), ("rate_limited", -32025));
        addresses.call(address("192.0.2.2"), now).unwrap();
        addresses.call(a, now + Duration::from_millis(500)).unwrap();
        assert!(addresses.call(a, now + Duration::from_millis(500)).is_err());
    }

    #[test]
    fn calls_under_way_are_bounded_and_end_with_their_permit() {
        let addresses = Addresses::new(LIMITS);
        let (now, a) = (Instant::now(), address("2001:db8::1"));
        let first = addresses.call(a, now).unwrap();
        let _second = addresses.call(a, now).unwrap();
        // The same /64 is the same client.
        let refused = addresses.call(address("2001:db8::ffff"), now).unwrap_err();
        assert_eq!(refused.error.code, "overloaded");
        drop(first);
        addresses.call(a, now).unwrap();
    }

    #[test]
    fn loopback_is_exempt_only_when_told_so() {
        let now = Instant::now();
        let exempt = Addresses::new(LIMITS);
        for text in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            for _ in 0..10 {
                std::mem::forget(exempt.call(address(text), now).unwrap());
            }
        }
        assert_eq!(exempt.len(), 0);
        let strict = Addresses::new(Limits { loopback_exempt: false, ..LIMITS });
        let made: Vec<_> = (0..4).map(|_| strict.call(address("127.0.0.1"), now).map(drop)).collect();
        assert!(made[..3].iter().all(Result::is_ok) && made[3].is_err());
    }

    #[test]
    fn uploads_have_a_quota_in_a_window() {
        let addresses = Addresses::new(LIMITS);
        let (now, a) = (Instant::now(), address("192.0.2.1"));
        addresses.upload(a, 60, now).unwrap();
        let refused = addresses.upload(a, 60, now).unwrap_err();
        assert_eq!((refused.error.code.as_str(), refused.error.limit.as_deref()), ("quota", Some("100")));
        addresses.upload(a, 40, now).unwrap();
        addresses.upload(a, 100, now + UPLOAD_WINDOW).unwrap();
    }

    #[test]
    fn the_map_is_bounded() {
        let addresses = Addresses::new(LIMITS);
        let now = Instant::now();
        for n in 0..(ADDRESSES_MAX as u32 + 5_000) {
            let later = now + Duration::from_micros(u64::from(n));
            drop(addresses.call(IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + n)), later).unwrap());
        }
        assert!(addresses.len() <= ADDRESSES_MAX);
    }
}
