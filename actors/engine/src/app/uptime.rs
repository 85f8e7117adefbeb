//! Uptime: a validator tells the chain now and then which other validators it reached since it last did.
//!
//! Reached is who was connected and had proven its validator key. The chain keeps when a validator last attested and when another
//! last said that it reached it. The ledger bounds the rate; this actor keeps far below it, at [`UptimeArgs::interval_ms`], spread
//! out so that validators do not speak all at once. What was said last is read from the chain, so a restart repeats nothing; it
//! first looks around for a while, so that it does not speak before the peers are back.
//!
//! Inbox: 8 looks, one more is dropped. Restart: starts to look around anew.

use std::collections::BTreeSet;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use types::ids::TimeMs;
use types::keys::{PublicKey, SecretKey};
use types::limits::VALIDATORS_MAX;
use types::transaction::Action;

use crate::app::mempool::MempoolMsg;
use crate::mailbox::{Letter, Sent};
use crate::task::Task;
use crate::wiring::{ChainView, Wiring, wall_clock};

/// Looks around before the first statement after a start; they come every five seconds.
const LOOKS_MIN: u32 = 6;
/// A statement that is in no block after this long is tried again, and expires after twice as long, ms.
const AGAIN_MS: u64 = 60_000;
/// Statements are spread over this share of the interval, by key.
const SPREAD: u64 = 8;
/// Longest wait for the mempool's answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Messages.
#[derive(Debug)]
pub(crate) enum UptimeMsg {
    /// These validators are connected now.
    Connected(Vec<PublicKey>),
}

/// The actor.
#[derive(Debug)]
pub(crate) struct Uptime;

/// What it is started with.
#[derive(Clone, Debug)]
pub(crate) struct UptimeArgs {
    /// Where everything is.
    pub(crate) wiring: Wiring,
    /// This validator's consensus key.
    pub(crate) observer: PublicKey,
    /// Key of the account that owns the validator; it signs and pays.
    pub(crate) account: SecretKey,
    /// Block time between two statements, ms; the ledger's least pause counts if that is longer.
    pub(crate) interval_ms: u64,
}

/// Its state.
#[derive(Debug)]
pub(crate) struct UptimeState {
    args: UptimeArgs,
    looks: u32,
    reached: BTreeSet<PublicKey>,
    /// When the statement of before was in a block, as last seen.
    attested: TimeMs,
    /// When the last statement was handed over, wall clock, and the task that waits for the answer.
    tried: Option<(TimeMs, Task)>,
}

impl Actor for Uptime {
    type Msg = Letter<UptimeMsg>;
    type State = UptimeState;
    type Arguments = UptimeArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        args: UptimeArgs,
    ) -> Result<UptimeState, ActorProcessingErr> {
        args.wiring.mail.uptime.attach(myself);
        Ok(UptimeState { args, looks: 0, reached: BTreeSet::new(), attested: TimeMs(0), tried: None })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        letter: Self::Msg,
        state: &mut UptimeState,
    ) -> Result<(), ActorProcessingErr> {
        let UptimeMsg::Connected(keys) = letter.message;
        let view = state.args.wiring.view();
        state.looks = state.looks.saturating_add(1);
        let others = keys.into_iter().filter(|key| *key != state.args.observer);
        state.reached.extend(others.take(VALIDATORS_MAX));
        // Bounds what is remembered: only validators of the present set may be named.
        state.reached.retain(|key| view.set.power_of(key).is_some());
        attest(state, &view)
    }
}

/// Makes the statement, if it is time.
fn attest(state: &mut UptimeState, view: &ChainView) -> Result<(), ActorProcessingErr> {
    let own = ledger::query::validators(&view.state)?.into_iter().find(|v| v.key == state.args.observer);
    let Some(own) = own.filter(|own| own.account == state.args.account.public() && own.power > 0) else {
        return Ok(());
    };
    if own.attested_ms != state.attested {
        if state.tried.take().is_some() {
            // What was said is in a block; the next statement is about the time from here on.
            state.reached.clear();
        }
        state.attested = own.attested_ms;
    }
    let now = wall_clock();
    let tried = state.tried.as_ref().is_some_and(|(at, _)| now.since(*at) < AGAIN_MS);
    let pause = state.args.interval_ms.max(view.params.empty_block_ms);
    let spread = u64::from(state.args.observer.as_bytes().first().copied().unwrap_or(0));
    let due = own.attested_ms.plus(pause).plus(pause.saturating_mul(spread) / (SPREAD * 256));
    if tried || state.looks < LOOKS_MIN || state.reached.is_empty() || (own.attested_ms.0 > 0 && now < due) {
        return Ok(());
    }
    let action = Action::Attest { observer: state.args.observer, reached: state.reached.iter().copied().collect() };
    let (reply, answer) = oneshot::channel();
    let expires_ms = view.head.time_ms.plus(AGAIN_MS.saturating_mul(2));
    let key = Box::new(state.args.account.clone());
    let message = MempoolMsg::Sign { action: Box::new(action), key, expires_ms, reply };
    if state.args.wiring.mail.mempool.send(message) != Sent::Accepted {
        // Tried again at the next look.
        return Ok(());
    }
    let reached = state.reached.len();
    let task = Task::spawn(async move {
        match tokio::time::timeout(ANSWER_LIMIT, answer).await {
            Ok(Ok(Ok(tx))) => tracing::debug!(%tx, reached, "uptime attested"),
            Ok(Ok(Err(error))) => tracing::info!(%error, "uptime statement refused; tried again later"),
            Ok(Err(_)) | Err(_) => {
                tracing::info!("the mempool did not answer; the uptime statement is tried again later")
            }
        }
    });
    state.tried = Some((now, task));
    Ok(())
}

#[cfg(test)]
mod tests {
    use types::transaction::Transaction;

    use super::*;
    use crate::testkit::{AGE_MS, TestChain, listen, next, owner, silent, validator};

    fn args(chain: &TestChain) -> UptimeArgs {
        let observer = validator(1).public();
        UptimeArgs { wiring: chain.wiring.clone(), observer, account: owner(1), interval_ms: 600_000 }
    }

    fn look(chain: &TestChain, seen: &[u8]) {
        let keys = seen.iter().map(|n| validator(*n).public()).collect();
        assert_eq!(chain.wiring.mail.uptime.send(UptimeMsg::Connected(keys)), Sent::Accepted);
    }

    /// Looks often enough to speak; itself and a stranger are never named.
    async fn looks(chain: &TestChain) {
        for n in 0..=LOOKS_MIN {
            look(chain, if n % 2 == 0 { &[1, 2, 99] } else { &[1, 3] });
            // The inbox is small.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn it_names_whom_it_reached_once_an_interval_also_over_a_restart() {
        let chain = TestChain::new();
        chain.block_after(AGE_MS, &[]);
        let mut mempool = listen(&chain.wiring.mail.mempool).await;
        let (actor, ended) = Actor::spawn(None, Uptime, args(&chain)).await.unwrap();
        look(&chain, &[2]);
        silent(&mut mempool).await;
        looks(&chain).await;
        let MempoolMsg::Sign { action, key, .. } = next(&mut mempool).await else { panic!("a statement") };
        let mut others = [validator(2).public(), validator(3).public()];
        others.sort_unstable();
        assert!(matches!(&*action, Action::Attest { reached, .. } if *reached == others), "{action:?}");
        // Handed over once, though it is in no block yet.
        looks(&chain).await;
        silent(&mut mempool).await;
        chain.block(&[Transaction::Signed(chain.sign(&key, *action))]);
        looks(&chain).await;
        silent(&mut mempool).await;
        actor.kill();
        ended.await.unwrap();
        Actor::spawn(None, Uptime, args(&chain)).await.unwrap();
        looks(&chain).await;
        silent(&mut mempool).await;
    }

    #[tokio::test]
    async fn the_interval_passes_and_a_foreign_account_stays_silent() {
        let chain = TestChain::new();
        chain.block(&[]);
        let mut mempool = listen(&chain.wiring.mail.mempool).await;
        let foreign = UptimeArgs { account: owner(2), ..args(&chain) };
        let (actor, ended) = Actor::spawn(None, Uptime, foreign).await.unwrap();
        looks(&chain).await;
        silent(&mut mempool).await;
        actor.kill();
        ended.await.unwrap();

        // The last statement is two hours old.
        let reached = vec![validator(2).public()];
        let statement = Action::Attest { observer: validator(1).public(), reached };
        chain.block(&[Transaction::Signed(chain.sign(&owner(1), statement))]);
        let (actor, ended) = Actor::spawn(None, Uptime, args(&chain)).await.unwrap();
        looks(&chain).await;
        let MempoolMsg::Sign { action, key, .. } = next(&mut mempool).await else { panic!("a statement") };
        actor.kill();
        ended.await.unwrap();

        // In a block of now, and the interval asked for is shorter than the ledger's least pause.
        chain.block_after(AGE_MS, &[]);
        chain.block(&[Transaction::Signed(chain.sign(&key, *action))]);
        let short = UptimeArgs { interval_ms: 1, ..args(&chain) };
        Actor::spawn(None, Uptime, short).await.unwrap();
        looks(&chain).await;
        silent(&mut mempool).await;
    }
}
