//! Supervision of one subtree: restart with back-off, or stop the node.
//!
//! What may be lost decides which: an actor of the safety subtree that fails might sign twice or lose a block if it came back
//! without its state, so it takes the node down, exit code 6. The other subtrees rebuild from the store and the network.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::metrics::Metrics;

/// First wait before a restart; doubles with each failure up to [`BACK_OFF_MAX`].
const BACK_OFF: Duration = Duration::from_millis(500);
/// Longest wait before a restart.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// A child that ran this long has its back-off forgotten.
const STABLE: Duration = Duration::from_secs(60);

/// Why the engine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// It was asked to.
    Shutdown,
    /// Going on could break a promise to other nodes; do not restart blindly. Exit code 6.
    Safety(String),
    /// Stored data is damaged. Exit code 5.
    Corruption(String),
}

/// The one place where the end of the engine is announced; the first reason stays.
#[derive(Clone, Debug)]
pub(crate) struct StopSignal {
    sender: Arc<watch::Sender<Option<StopReason>>>,
}

impl Default for StopSignal {
    fn default() -> Self {
        Self { sender: Arc::new(watch::channel(None).0) }
    }
}

impl StopSignal {
    /// Announces the end; later reasons are dropped.
    pub(crate) fn stop(&self, reason: StopReason) {
        self.sender.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                match &reason {
                    StopReason::Shutdown => info!("engine stops: asked to"),
                    StopReason::Safety(why) => error!(%why, "safety stop: this node must not go on"),
                    StopReason::Corruption(why) => error!(%why, "stored data is damaged"),
                }
                *current = Some(reason);
            }
            first
        });
    }

    /// The reason, once there is one.
    pub(crate) fn reason(&self) -> Option<StopReason> {
        self.sender.borrow().clone()
    }

    /// Waits for the end.
    pub(crate) async fn stopped(&self) -> StopReason {
        let mut receiver = self.sender.subscribe();
        loop {
            if let Some(reason) = receiver.borrow_and_update().clone() {
                return reason;
            }
            if receiver.changed().await.is_err() {
                return StopReason::Shutdown;
            }
        }
    }
}

/// Starts a child linked to the supervisor given.
pub(crate) type Starter =
    Box<dyn Fn(ActorCell) -> Pin<Box<dyn Future<Output = Result<ActorCell, SpawnErr>> + Send>> + Send + Sync>;

/// A child of a supervisor.
pub(crate) struct Child {
    name: &'static str,
    start: Starter,
}

impl std::fmt::Debug for Child {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Child({})", self.name)
    }
}

impl Child {
    /// A child whose actor and arguments are made anew by `make` for each start.
    pub(crate) fn new<A, F>(name: &'static str, make: F) -> Self
    where
        A: Actor,
        F: Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    {
        let make = Arc::new(make);
        let start: Starter = Box::new(move |supervisor| {
            let make = Arc::clone(&make);
            Box::pin(async move {
                let (actor, arguments) = make();
                let (actor, _) = Actor::spawn_linked(None, actor, arguments, supervisor).await?;
                Ok(actor.get_cell())
            })
        });
        Self { name, start }
    }
}

impl Child {
    /// A child that can be started once: its arguments can't be made again.
    pub(crate) fn once<A: Actor>(name: &'static str, actor: A, arguments: A::Arguments) -> Self {
        let parts = Arc::new(Mutex::new(Some((actor, arguments))));
        let start: Starter = Box::new(move |supervisor| {
            let taken = parts.lock().unwrap_or_else(PoisonError::into_inner).take();
            Box::pin(async move {
                let (actor, arguments) =
                    taken.ok_or_else(|| SpawnErr::StartupFailed("it can be started only once".into()))?;
                let (actor, _) = Actor::spawn_linked(None, actor, arguments, supervisor).await?;
                Ok(actor.get_cell())
            })
        });
        Self { name, start }
    }
}

/// What happens when a child fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Policy {
    /// The node stops.
    StopNode,
    /// The child starts again after a back-off.
    Restart,
}

/// Supervisor of one subtree.
#[derive(Debug)]
pub(crate) struct Supervisor;

/// What a supervisor is started with.
#[derive(Debug)]
pub(crate) struct Subtree {
    /// Name in logs.
    pub(crate) name: &'static str,
    /// What happens when a child fails.
    pub(crate) policy: Policy,
    /// Children in starting order.
    pub(crate) children: Vec<Child>,
    /// Where the end of the node is announced.
    pub(crate) stop: StopSignal,
    /// Where restarts are counted.
    pub(crate) metrics: Arc<Metrics>,
}

/// State of a supervisor.
#[derive(Debug)]
pub(crate) struct Running {
    subtree: Subtree,
    cells: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    cell: Option<ActorCell>,
    started: Instant,
    back_off: Duration,
}

/// Messages a supervisor sends itself.
#[derive(Debug)]
pub(crate) enum SupervisorMsg {
    /// Start child `index` again.
    Start {
        /// Index in the subtree.
        index: usize,
    },
    /// The children by name, those that run with their actor.
    #[cfg(test)]
    Children {
        /// The answer.
        reply: tokio::sync::oneshot::Sender<Vec<(&'static str, Option<ActorCell>)>>,
    },
}

impl Actor for Supervisor {
    type Msg = SupervisorMsg;
    type State = Running;
    type Arguments = Subtree;

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, subtree: Subtree) -> Result<Running, ActorProcessingErr> {
        let mut cells = Vec::with_capacity(subtree.children.len());
        for child in &subtree.children {
            let cell = (child.start)(myself.get_cell()).await?;
            subtree.metrics.watch_restarts(child.name);
            cells.push(Slot { cell: Some(cell), started: Instant::now(), back_off: BACK_OFF });
        }
        Ok(Running { subtree, cells })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: SupervisorMsg,
        state: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMsg::Start { index } => start_again(&myself, state, index).await,
            #[cfg(test)]
            SupervisorMsg::Children { reply } => {
                let children = state.subtree.children.iter().zip(&state.cells);
                reply.send(children.map(|(child, slot)| (child.name, slot.cell.clone())).collect()).ok();
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, why) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell, error.to_string()),
            SupervisionEvent::ActorTerminated(cell, _, reason) => (cell, reason.unwrap_or_else(|| "ended".into())),
            _ => return Ok(()),
        };
        if state.subtree.stop.reason().is_some() {
            return Ok(());
        }
        let Some(index) = state.cells.iter().position(|s| s.cell.as_ref().is_some_and(|c| c.get_id() == cell.get_id()))
        else {
            return Ok(());
        };
        let (Some(child), Some(slot)) = (state.subtree.children.get(index), state.cells.get_mut(index)) else {
            return Ok(());
        };
        slot.cell = None;
        match state.subtree.policy {
            Policy::StopNode => {
                state.subtree.stop.stop(StopReason::Safety(format!(
                    "actor {} of the {} subtree failed: {why}",
                    child.name, state.subtree.name
                )));
            }
            Policy::Restart => {
                if slot.started.elapsed() >= STABLE {
                    slot.back_off = BACK_OFF;
                }
                let wait = slot.back_off;
                slot.back_off = (wait * 2).min(BACK_OFF_MAX);
                warn!(actor = child.name, %why, wait_ms = wait.as_millis(), "actor failed; starting it again");
                myself.send_after(wait, move || SupervisorMsg::Start { index });
            }
        }
        Ok(())
    }
}

/// Starts a child again; when that fails, it is tried again after the back-off.
async fn start_again(myself: &ActorRef<SupervisorMsg>, state: &mut Running, index: usize) {
    let (Some(child), Some(slot)) = (state.subtree.children.get(index), state.cells.get_mut(index)) else { return };
    match (child.start)(myself.get_cell()).await {
        Ok(cell) => {
            info!(actor = child.name, "restarted");
            state.subtree.metrics.restarted(child.name);
            slot.cell = Some(cell);
            slot.started = Instant::now();
        }
        Err(error) => {
            warn!(actor = child.name, %error, wait_ms = slot.back_off.as_millis(), "restart failed");
            let wait = slot.back_off;
            slot.back_off = (wait * 2).min(BACK_OFF_MAX);
            myself.send_after(wait, move || SupervisorMsg::Start { index });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::mailbox::{Letter, Mailbox, Sent};

    struct Fragile;

    impl Actor for Fragile {
        type Msg = Letter<bool>;
        type State = mpsc::Sender<&'static str>;
        type Arguments = (Mailbox<bool>, mpsc::Sender<&'static str>);

        async fn pre_start(
            &self,
            myself: ActorRef<Self::Msg>,
            args: Self::Arguments,
        ) -> Result<Self::State, ActorProcessingErr> {
            args.0.attach(myself);
            args.1.send("started").await?;
            Ok(args.1)
        }

        async fn handle(
            &self,
            _: ActorRef<Self::Msg>,
            letter: Self::Msg,
            state: &mut Self::State,
        ) -> Result<(), ActorProcessingErr> {
            assert!(!letter.message, "told to panic");
            state.send("handled").await?;
            Ok(())
        }
    }

    async fn tree(policy: Policy) -> (Mailbox<bool>, mpsc::Receiver<&'static str>, StopSignal) {
        let (out, seen) = mpsc::channel(16);
        let (mailbox, stop) = (Mailbox::new("fragile", 8), StopSignal::default());
        let address = mailbox.clone();
        let child = Child::new("fragile", move || (Fragile, (address.clone(), out.clone())));
        let metrics = Arc::new(Metrics::new().unwrap());
        let subtree = Subtree { name: "test", policy, children: vec![child], stop: stop.clone(), metrics };
        Actor::spawn(None, Supervisor, subtree).await.unwrap();
        (mailbox, seen, stop)
    }

    #[tokio::test]
    async fn a_panicking_actor_comes_back_under_the_same_address() {
        let (mailbox, mut seen, stop) = tree(Policy::Restart).await;
        assert_eq!(seen.recv().await, Some("started"));
        assert_eq!(mailbox.send(true), Sent::Accepted);
        assert_eq!(seen.recv().await, Some("started"));
        assert_eq!(mailbox.send(false), Sent::Accepted);
        assert_eq!(seen.recv().await, Some("handled"));
        assert_eq!(stop.reason(), None);
    }

    #[tokio::test]
    async fn a_failure_in_the_safety_subtree_stops_the_node() {
        let (mailbox, mut seen, stop) = tree(Policy::StopNode).await;
        assert_eq!(seen.recv().await, Some("started"));
        assert_eq!(mailbox.send(true), Sent::Accepted);
        assert!(matches!(stop.stopped().await, StopReason::Safety(why) if why.contains("fragile")));
        stop.stop(StopReason::Shutdown);
        assert!(matches!(stop.reason(), Some(StopReason::Safety(_))));
    }
}
