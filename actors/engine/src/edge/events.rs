//! The events actor: numbers what happened and keeps a bounded ring of it for subscriptions and pages.
//!
//! Inbox: 1,024 events, one more is dropped (a reader sees the gap in the numbers). Restart: numbering goes on, the ring
//! belongs to the address.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::broadcast;

use crate::api::views::{Event, EventView};
use crate::mailbox::{Letter, Mailbox};

/// Events a reader may be behind before it loses some.
const RING: usize = 1024;

/// Where readers subscribe.
#[derive(Clone, Debug)]
pub(crate) struct EventRing {
    sender: broadcast::Sender<EventView>,
    next: Arc<AtomicU64>,
}

impl Default for EventRing {
    fn default() -> Self {
        Self { sender: broadcast::channel(RING).0, next: Arc::new(AtomicU64::new(0)) }
    }
}

impl EventRing {
    /// A reader of all events from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<EventView> {
        self.sender.subscribe()
    }
}

/// The actor.
#[derive(Debug)]
pub(crate) struct Events;

impl Actor for Events {
    type Msg = Letter<Event>;
    type State = EventRing;
    type Arguments = (Mailbox<Event>, EventRing);

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        (mailbox, ring): Self::Arguments,
    ) -> Result<EventRing, ActorProcessingErr> {
        mailbox.attach(myself);
        Ok(ring)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        letter: Self::Msg,
        ring: &mut EventRing,
    ) -> Result<(), ActorProcessingErr> {
        let seq = ring.next.fetch_add(1, Ordering::Relaxed);
        // Without a reader there is nobody to tell.
        ring.sender.send(EventView { seq, event: letter.message }).ok();
        Ok(())
    }
}
