//! An actor whose work blocks: it owns one thread, fed through a bounded lane, and fails when the thread ends.
//!
//! Inbox: the lane, `bound` commands; a sender waits while it is full, which slows consensus instead of losing a write.
//! Restart: none by itself; the subtree's policy decides, and for the safety subtree that is to stop the node.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;

/// What runs on the thread: a loop over its commands. `Err` is the reason it can't go on.
pub(crate) trait ThreadWork: Send + 'static {
    /// Commands it takes.
    type Command: Send + 'static;

    /// Carries out one command.
    ///
    /// # Errors
    /// A text, when the work can't go on.
    fn run(&mut self, command: Self::Command) -> Result<(), String>;
}

/// Makes a lane of `bound` commands and the actor that will serve it.
pub(crate) fn lane<W: ThreadWork>(
    name: &'static str,
    bound: usize,
    work: W,
) -> (mpsc::Sender<W::Command>, ThreadActor<W>) {
    let (sender, receiver) = mpsc::channel(bound);
    (sender, ThreadActor { name, parts: Arc::new(Mutex::new(Some((work, receiver)))) })
}

type Parts<W> = (W, mpsc::Receiver<<W as ThreadWork>::Command>);

/// The actor. Cloned for the supervisor; its work can be taken once.
pub(crate) struct ThreadActor<W: ThreadWork> {
    name: &'static str,
    parts: Arc<Mutex<Option<Parts<W>>>>,
}

impl<W: ThreadWork> Clone for ThreadActor<W> {
    fn clone(&self) -> Self {
        Self { name: self.name, parts: Arc::clone(&self.parts) }
    }
}

impl<W: ThreadWork> std::fmt::Debug for ThreadActor<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ThreadActor({})", self.name)
    }
}

/// The thread ended; with the reason, unless every sender is gone.
#[derive(Debug)]
pub(crate) struct Ended(Option<String>);

/// Calls back when dropped without an answer: a panic unwinds through here.
struct Notice {
    actor: ActorRef<Ended>,
    told: bool,
}

impl Drop for Notice {
    fn drop(&mut self) {
        if !self.told && self.actor.send_message(Ended(Some("its thread panicked".into()))).is_err() {
            tracing::debug!("a thread ended after its actor");
        }
    }
}

impl<W: ThreadWork> Actor for ThreadActor<W> {
    type Msg = Ended;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((mut work, mut receiver)) = parts else {
            return Err(format!("{}: its state went with the thread that failed", self.name).into());
        };
        let mut notice = Notice { actor: myself, told: false };
        thread::Builder::new().name(self.name.into()).spawn(move || {
            let mut reason = None;
            while let Some(command) = receiver.blocking_recv() {
                if let Err(why) = work.run(command) {
                    reason = Some(why);
                    break;
                }
            }
            // From here on nothing unwinds; whoever is gone need not be told.
            notice.told = true;
            if notice.actor.send_message(Ended(reason)).is_err() {
                tracing::debug!("a thread ended after its actor");
            }
        })?;
        Ok(())
    }

    async fn handle(&self, myself: ActorRef<Self::Msg>, ended: Ended, (): &mut ()) -> Result<(), ActorProcessingErr> {
        match ended.0 {
            Some(why) => Err(why.into()),
            None => {
                myself.stop(Some("all its users are gone".into()));
                Ok(())
            }
        }
    }
}
