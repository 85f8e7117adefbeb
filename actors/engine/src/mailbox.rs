//! Bounded mailboxes over ractor's unbounded ones, and addresses that survive a restart of their actor.
//!
//! ractor queues without limit, so the bound is kept at the door: every message that comes from outside the actor carries a
//! credit, returned when the message is dropped, and `send` refuses when `bound` credits are out. What to do with a refused
//! message is the sender's stated policy. Messages that an actor owes itself (a timer it set, a task it started) are bounded
//! by what it started and pass without a credit.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use ractor::ActorRef;

/// A message with its credit.
#[derive(Debug)]
pub(crate) struct Letter<M> {
    /// The message.
    pub(crate) message: M,
    _credit: Option<Credit>,
}

#[derive(Debug)]
struct Credit(Arc<AtomicUsize>);

impl Drop for Credit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Sent {
    /// In the mailbox.
    Accepted,
    /// Refused: the bound is reached.
    Full,
    /// Refused: the actor is not running now.
    Closed,
}

#[derive(Debug)]
struct Inner<M: Send + 'static> {
    name: &'static str,
    bound: usize,
    waiting: Arc<AtomicUsize>,
    refused: AtomicU64,
    actor: RwLock<Option<ActorRef<Letter<M>>>>,
}

/// Address of an actor.
#[derive(Debug)]
pub(crate) struct Mailbox<M: Send + 'static> {
    inner: Arc<Inner<M>>,
}

impl<M: Send + 'static> Clone for Mailbox<M> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<M: Send + 'static> Mailbox<M> {
    /// An address without an actor yet; at most `bound` messages from outside wait in it.
    pub(crate) fn new(name: &'static str, bound: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                name,
                bound,
                waiting: Arc::new(AtomicUsize::new(0)),
                refused: AtomicU64::new(0),
                actor: RwLock::new(None),
            }),
        }
    }

    /// Name of the actor, for logs and metrics.
    pub(crate) fn name(&self) -> &'static str {
        self.inner.name
    }

    /// Messages from outside that wait now.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.inner.waiting.load(Ordering::Acquire)
    }

    /// Messages refused since start.
    pub(crate) fn refused(&self) -> u64 {
        self.inner.refused.load(Ordering::Relaxed)
    }

    /// Points the address at a running actor; called by the actor itself when it starts.
    pub(crate) fn attach(&self, actor: ActorRef<Letter<M>>) {
        *self.inner.actor.write().unwrap_or_else(PoisonError::into_inner) = Some(actor);
    }

    /// Sends from outside, within the bound.
    pub(crate) fn send(&self, message: M) -> Sent {
        let before = self.inner.waiting.fetch_add(1, Ordering::AcqRel);
        let credit = Credit(Arc::clone(&self.inner.waiting));
        if before >= self.inner.bound {
            self.inner.refused.fetch_add(1, Ordering::Relaxed);
            return Sent::Full;
        }
        self.post(Letter { message, _credit: Some(credit) })
    }

    /// Sends what the actor owes itself, or what another actor of this node sends at most once per event it has in hand.
    pub(crate) fn send_owed(&self, message: M) -> Sent {
        self.post(Letter { message, _credit: None })
    }

    fn post(&self, letter: Letter<M>) -> Sent {
        let actor = self.inner.actor.read().unwrap_or_else(PoisonError::into_inner);
        match actor.as_ref().map(|a| a.send_message(letter)) {
            Some(Ok(())) => Sent::Accepted,
            Some(Err(_)) | None => Sent::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use ractor::{Actor, ActorProcessingErr};
    use tokio::sync::{Semaphore, mpsc};

    use super::*;

    struct Slow;

    impl Actor for Slow {
        type Msg = Letter<u32>;
        type State = (Arc<Semaphore>, mpsc::Sender<u32>);
        type Arguments = (Mailbox<u32>, Arc<Semaphore>, mpsc::Sender<u32>);

        async fn pre_start(
            &self,
            myself: ActorRef<Self::Msg>,
            args: Self::Arguments,
        ) -> Result<Self::State, ActorProcessingErr> {
            args.0.attach(myself);
            Ok((args.1, args.2))
        }

        async fn handle(
            &self,
            _: ActorRef<Self::Msg>,
            letter: Self::Msg,
            state: &mut Self::State,
        ) -> Result<(), ActorProcessingErr> {
            state.0.acquire().await?.forget();
            state.1.send(letter.message).await?;
            Ok(())
        }
    }

    #[tokio::test]
    async fn the_bound_holds_and_credits_come_back() {
        let mailbox = Mailbox::new("slow", 2);
        assert_eq!(mailbox.send(0), Sent::Closed);
        let gate = Arc::new(Semaphore::new(0));
        let (out, mut seen) = mpsc::channel(16);
        let (actor, done) = Actor::spawn(None, Slow, (mailbox.clone(), Arc::clone(&gate), out)).await.unwrap();
        assert_eq!([mailbox.send(1), mailbox.send(2), mailbox.send(3)], [Sent::Accepted, Sent::Accepted, Sent::Full]);
        assert_eq!(mailbox.send_owed(4), Sent::Accepted);
        assert_eq!((mailbox.waiting(), mailbox.refused()), (2, 1));
        gate.add_permits(3);
        assert_eq!([seen.recv().await, seen.recv().await, seen.recv().await], [Some(1), Some(2), Some(4)]);
        while mailbox.waiting() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(mailbox.send(5), Sent::Accepted);
        actor.stop(None);
        done.await.unwrap();
        assert_eq!(mailbox.send(6), Sent::Closed);
    }
}
