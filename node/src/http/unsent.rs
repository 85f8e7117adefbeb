//! Room for answers that are being made or sent, in bytes: for all clients together, and for each client address a share of
//! it, so that one that asks and reads slowly leaves room for others.
//!
//! Room is taken before an answer is made, for the most that it may have, cut to its length once that is known, and given
//! back when its last byte has gone. A call that finds none waits a moment for others' answers to leave. A first answer
//! always fits.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::rate::network;
use super::refusal::Refusal;

/// Bytes of answers for all clients.
pub(crate) const UNSENT_MAX: usize = 128 << 20;
/// One client address may have this part of them.
const ADDRESS_SHARE: usize = 4;
/// Longest wait for room.
const WAIT: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Inner {
    most: usize,
    wait: Duration,
    taken: Mutex<Taken>,
    freed: Notify,
}

/// The room; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Unsent {
    inner: Arc<Inner>,
}

/// Room for one answer; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Room {
    unsent: Unsent,
    key: IpAddr,
    bytes: usize,
}

impl Unsent {
    /// Room for `most` bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self::waiting(most, WAIT)
    }

    fn waiting(most: usize, wait: Duration) -> Self {
        Self { inner: Arc::new(Inner { most, wait, taken: Mutex::default(), freed: Notify::new() }) }
    }

    /// Takes room for an answer of at most `bytes`, waiting a little for it.
    ///
    /// # Errors
    /// `overloaded` when there is none.
    pub(crate) async fn take(&self, address: IpAddr, bytes: usize) -> Result<Room, Refusal> {
        let (key, until) = (network(address), Instant::now() + self.inner.wait);
        loop {
            // Before the look, so that what is given back right after it is heard.
            let freed = self.inner.freed.notified();
            let refusal = match self.try_take(key, bytes) {
                Ok(room) => return Ok(room),
                Err(refusal) => refusal,
            };
            if timeout_at(until, freed).await.is_err() {
                return Err(refusal);
            }
        }
    }

    fn try_take(&self, key: IpAddr, bytes: usize) -> Result<Room, Refusal> {
        let (mut taken, most) = (self.taken(), self.inner.most);
        let (all, own) = (taken.all, taken.by.get(&key).copied().unwrap_or(0));
        let beyond = |held: usize, limit: usize| held > 0 && held.saturating_add(bytes) > limit;
        if beyond(own, most / ADDRESS_SHARE) {
            let message = format!(
                "answers of {own} bytes to this address wait to be read, and this one may have {bytes}; read them, then ask \
                 again"
            );
            return Err(Refusal::field("overloaded", "unsent_bytes", own, most / ADDRESS_SHARE, message));
        }
        if beyond(all, most) {
            let message = format!(
                "answers of {all} bytes wait to be read by this node's clients, and this one may have {bytes}; ask again \
                 in a few seconds, or ask another node"
            );
            return Err(Refusal::field("overloaded", "unsent_bytes", all, most, message));
        }
        taken.add(key, bytes);
        drop(taken);
        Ok(Room { unsent: self.clone(), key, bytes })
    }

    /// Bytes taken now.
    pub(crate) fn bytes(&self) -> usize {
        self.taken().all
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.inner.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn add(&mut self, key: IpAddr, bytes: usize) {
        self.all = self.all.saturating_add(bytes);
        let own = self.by.entry(key).or_default();
        *own = own.saturating_add(bytes);
    }

    fn give_back(&mut self, key: IpAddr, bytes: usize) {
        self.all = self.all.saturating_sub(bytes);
        if let Some(own) = self.by.get_mut(&key) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                self.by.remove(&key);
            }
        }
    }
}

impl Room {
    /// The answer has this length.
    pub(crate) fn fit(&mut self, bytes: usize) {
        let mut taken = self.unsent.taken();
        taken.give_back(self.key, self.bytes);
        taken.add(self.key, bytes);
        self.bytes = bytes;
        drop(taken);
        self.unsent.inner.freed.notify_waiters();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.unsent.taken().give_back(self.key, self.bytes);
        self.unsent.inner.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn an_address_has_its_share_and_all_have_the_whole() {
        let unsent = Unsent::waiting(400, Duration::from_millis(20));
        let one = address("192.0.2.1");
        let mut first = unsent.take(one, 90).await.unwrap();
        let refused = unsent.take(one, 20).await.unwrap_err().error;
        assert_eq!((refused.code.as_str(), refused.field.as_deref()), ("overloaded", Some("unsent_bytes")));
        assert_eq!((refused.value.as_deref(), refused.limit.as_deref()), (Some("90"), Some("100")));
        // It was shorter than it might have been.
        first.fit(10);
        let second = unsent.take(one, 90).await.unwrap();
        // A first answer fits though it is over the share; with it all room is taken.
        let long = unsent.take(address("192.0.2.2"), 300).await.unwrap();
        assert_eq!(unsent.bytes(), 400);
        let refused = unsent.take(address("192.0.2.3"), 1).await.unwrap_err().error;
        assert_eq!(refused.limit.as_deref(), Some("400"));
        drop((first, second, long));
        assert_eq!(unsent.bytes(), 0);
        assert!(unsent.taken().by.is_empty());
    }

    #[tokio::test]
    async fn who_waits_is_served_when_room_comes_back() {
        let unsent = Unsent::new(400);
        // One network of /64 is one client.
        let held = unsent.take(address("2001:db8::1"), 100).await.unwrap();
        let waiting = tokio::spawn({
            let unsent = unsent.clone();
            async move { unsent.take(address("2001:db8::2"), 100).await.map(|room| room.bytes) }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!waiting.is_finished());
        drop(held);
        assert_eq!(waiting.await.unwrap().unwrap(), 100);
    }
}
