//! Transactions that wait for a block, and the nonces of keys that this node signs with.
//!
//! Inbox: 4,096 messages; more are refused with `overloaded`. Held: at most [`HELD_MAX`] transactions, [`PER_SENDER_MAX`] of
//! one sender, one per nonce; what the ledger would refuse is refused at once, with its reason. Every applied block sweeps
//! out what was included or can't be any more. Restart: starts empty; senders and peers send again.

use std::collections::BTreeMap;
use std::sync::Arc;

use ledger::precheck::{Outlook, Prospect};
use ledger::{LedgerError, TxCode};
use network::{MessageId, Verdict as Judgement};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use types::ids::{BlockId, TimeMs, TxId};
use types::keys::{PublicKey, SecretKey};
use types::transaction::{Action, SenderTx, Transaction};

use crate::api::ApiError;
use crate::app::outbox::{Due, Outbox, PAUSE};
use crate::mailbox::{Letter, Sent};
use crate::safety::consensus::ConsensusMsg;
use crate::wiring::{ChainView, Wiring};

/// Transactions held.
pub(crate) const HELD_MAX: usize = 16_384;
/// Of these, room kept for certificates and evidence, which must get into a block when users flood the pool.
const UNSIGNED_RESERVED: usize = 1_024;
/// Transactions held of one sender. The first one admitted after a block executes those before it again, so this bounds the
/// work a sender can cause.
pub(crate) const PER_SENDER_MAX: usize = 64;
/// Transactions offered to one block; the block's own limits cut further.
const OFFERED_MAX: usize = 4_096;

/// Answer to a submission.
pub(crate) type Admission = Result<TxId, ApiError>;

/// Messages.
#[derive(Debug)]
pub(crate) enum MempoolMsg {
    /// From gossip, in one message; to be judged as one.
    Gossip {
        /// For the judgement.
        id: MessageId,
        /// The transactions.
        txs: Vec<Transaction>,
    },
    /// From this node: an RPC client, a certificate, evidence. Published when admitted.
    Own {
        /// The transaction.
        tx: Box<Transaction>,
    },
    /// From an RPC client, who waits for the answer. Published when admitted.
    Submit {
        /// The transaction.
        tx: Box<Transaction>,
        /// The answer.
        reply: oneshot::Sender<Admission>,
    },
    /// Sign this action with the key's next free nonce, then as [`MempoolMsg::Submit`].
    Sign {
        /// What is asked.
        action: Box<Action>,
        /// The node's own key.
        key: Box<SecretKey>,
        /// Expiry, block time.
        expires_ms: TimeMs,
        /// The answer.
        reply: oneshot::Sender<Admission>,
    },
    /// Transactions for a block, in an order that the ledger can follow.
    Offer {
        /// The answer.
        reply: oneshot::Sender<Vec<Transaction>>,
    },
    /// The next nonce of an account, counting what waits here.
    NextNonce {
        /// The account.
        sender: PublicKey,
        /// The answer; `None` when nothing of it waits here.
        reply: oneshot::Sender<Option<u64>>,
    },
    /// Whether a transaction waits here.
    Has {
        /// The transaction.
        id: TxId,
        /// The answer.
        reply: oneshot::Sender<bool>,
    },
    /// A block was applied.
    Head,
    /// The outbox has paused long enough.
    PauseOver,
}

/// The actor.
#[derive(Debug)]
pub(crate) struct Mempool;

/// Its state.
#[derive(Debug)]
pub(crate) struct MempoolState {
    wiring: Wiring,
    /// By sender and nonce.
    signed: BTreeMap<PublicKey, BTreeMap<u64, (TxId, Transaction)>>,
    /// Certificates and evidence, by id.
    unsigned: BTreeMap<TxId, Transaction>,
    ids: BTreeMap<TxId, Option<(PublicKey, u64)>>,
    outlook: Option<Ahead>,
    outbox: Outbox,
    /// Consensus knows that the block after the last applied one has work.
    told: bool,
}

/// What the next block would say, on the view of one applied block.
struct Ahead {
    block: BlockId,
    outlook: Outlook,
    /// What each sender's waiting transactions would leave behind.
    plans: BTreeMap<PublicKey, Plan>,
}

impl std::fmt::Debug for Ahead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ahead(of {})", self.block.short())
    }
}

#[derive(Default)]
struct Plan {
    prospect: Prospect,
    /// All waiting transactions of the sender with nonces below this are in it.
    next: u64,
}

impl Actor for Mempool {
    type Msg = Letter<MempoolMsg>;
    type State = MempoolState;
    type Arguments = Wiring;

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, wiring: Wiring) -> Result<MempoolState, ActorProcessingErr> {
        wiring.mail.mempool.attach(myself);
        Ok(MempoolState {
            wiring,
            signed: BTreeMap::new(),
            unsigned: BTreeMap::new(),
            ids: BTreeMap::new(),
            outlook: None,
            outbox: Outbox::default(),
            told: false,
        })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        letter: Self::Msg,
        state: &mut MempoolState,
    ) -> Result<(), ActorProcessingErr> {
        match letter.message {
            MempoolMsg::Gossip { id, txs } => {
                let judgement = take_in(state, txs);
                state.wiring.net.report(id, judgement);
            }
            MempoolMsg::Own { tx } => {
                let id = tx.id();
                if let Err(error) = admit_and_publish(state, *tx) {
                    tracing::debug!(tx = %id, %error, "own transaction not admitted");
                }
            }
            MempoolMsg::Submit { tx, reply } => {
                reply.send(admit_and_publish(state, *tx)).ok();
            }
            MempoolMsg::Sign { action, key, expires_ms, reply } => {
                reply.send(sign(state, *action, &key, expires_ms)).ok();
            }
            MempoolMsg::Offer { reply } => {
                reply.send(offer(state)).ok();
            }
            MempoolMsg::NextNonce { sender, reply } => {
                let last = state.signed.get(&sender).and_then(|own| own.last_key_value());
                reply.send(last.map(|(nonce, _)| nonce.saturating_add(1))).ok();
            }
            MempoolMsg::Has { id, reply } => {
                reply.send(state.ids.contains_key(&id)).ok();
            }
            MempoolMsg::Head => sweep(state),
            MempoolMsg::PauseOver => {
                let due = state.outbox.pause_over();
                publish(&state.wiring, due);
            }
        }
        state.wiring.metrics.mempool.set(i64::try_from(state.ids.len()).unwrap_or(i64::MAX));
        Ok(())
    }
}

fn admit_and_publish(state: &mut MempoolState, tx: Transaction) -> Admission {
    let copy = tx.clone();
    let (id, new) = admit(state, tx)?;
    if new {
        let due = state.outbox.push(copy);
        publish(&state.wiring, due);
    }
    Ok(id)
}

fn publish(wiring: &Wiring, due: Due) {
    for message in &due.messages {
        wiring.net.publish(message);
    }
    if due.pause {
        let mailbox = wiring.mail.mempool.clone();
        tokio::spawn(async move {
            tokio::time::sleep(PAUSE).await;
            let _closed = mailbox.send_owed(MempoolMsg::PauseOver);
        });
    }
}

/// Takes in what a gossip message brings. It is forwarded as it is when all of it is good and some of it new; when only part
/// of it is, that part goes on in a message of this node's own.
fn take_in(state: &mut MempoolState, txs: Vec<Transaction>) -> Judgement {
    let (mut fresh, mut judgement) = (vec![], Judgement::Accept);
    for tx in txs {
        let copy = tx.clone();
        match admit(state, tx) {
            Ok((_, true)) => fresh.push(copy),
            Ok((_, false)) => {}
            // A signature that fails here fails everywhere; every other refusal may be a matter of time.
            Err(error) if error.code == TxCode::BadSignature.name() => {
                judgement = Judgement::Reject;
                break;
            }
            Err(_) => judgement = Judgement::Ignore,
        }
    }
    match judgement {
        Judgement::Accept if fresh.is_empty() => return Judgement::Ignore,
        Judgement::Accept => {}
        Judgement::Ignore | Judgement::Reject => {
            for tx in fresh {
                let due = state.outbox.push(tx);
                publish(&state.wiring, due);
            }
        }
    }
    judgement
}

/// Takes a transaction in; whether it is new.
fn admit(state: &mut MempoolState, tx: Transaction) -> Result<(TxId, bool), ApiError> {
    let id = tx.id();
    if state.ids.contains_key(&id) {
        return Ok((id, false));
    }
    if state.ids.len() >= if tx.signed().is_some() { HELD_MAX - UNSIGNED_RESERVED } else { HELD_MAX } {
        return Err(full("transactions waiting on this node", state.ids.len(), HELD_MAX));
    }
    check_place(state, &tx)?;
    let view = look_ahead(state)?;
    let place = tx.signed().map(|s| (s.content.sender, s.content.nonce));
    match place {
        Some((sender, nonce)) => {
            check_after_own(state, &view, &tx, sender, nonce)?;
            state.signed.entry(sender).or_default().insert(nonce, (id, tx));
        }
        None => {
            check_alone(state, &view, &tx)?;
            state.unsigned.insert(id, tx);
        }
    }
    state.ids.insert(id, place);
    tell_consensus(state);
    Ok((id, true))
}

/// The next block has work. Told once a block; a full mailbox means that consensus is busy anyway.
fn tell_consensus(state: &mut MempoolState) {
    if !state.told {
        state.told = state.wiring.mail.consensus.send(ConsensusMsg::Work) == Sent::Accepted;
    }
}

/// Brings the outlook up to the last applied block, and returns that block's view.
fn look_ahead(state: &mut MempoolState) -> Result<Arc<ChainView>, ApiError> {
    let view = state.wiring.view();
    if state.outlook.as_ref().is_none_or(|ahead| ahead.block != view.head.id) {
        let outlook = Outlook::new(&view.state, view.head.time_ms)?;
        state.outlook = Some(Ahead { block: view.head.id, outlook, plans: BTreeMap::new() });
    }
    Ok(view)
}

/// What the ledger says to a transaction after the earlier ones of its sender that wait here.
fn check_after_own(
    state: &mut MempoolState,
    view: &ChainView,
    tx: &Transaction,
    sender: PublicKey,
    nonce: u64,
) -> Result<(), ApiError> {
    let Some(ahead) = state.outlook.as_mut() else { return Ok(()) };
    let known = state.wiring.verified.as_ref();
    let own = state.signed.get(&sender);
    let mut plan = ahead.plans.remove(&sender).filter(|plan| plan.next <= nonce).unwrap_or_default();
    for (_, (_, earlier)) in own.into_iter().flat_map(|own| own.range(plan.next..nonce)) {
        // One that is refused by now is passed over; the sweep drops it.
        if let Err(error @ LedgerError::State(_)) = ahead.outlook.admit(&view.state, &mut plan.prospect, earlier, known)
        {
            return Err(error.into());
        }
    }
    let last = own.and_then(|own| own.last_key_value()).map_or(0, |(last, _)| last.saturating_add(1));
    plan.next = last.min(nonce);
    let result = ahead.outlook.admit(&view.state, &mut plan.prospect, tx, known);
    if result.is_ok() {
        plan.next = nonce.saturating_add(1);
    }
    // A transaction that fills a hole comes before some that are not in the plan.
    if last <= nonce {
        ahead.plans.insert(sender, plan);
    }
    Ok(result?)
}

/// What the ledger says to a transaction that nothing here comes before.
fn check_alone(state: &MempoolState, view: &ChainView, tx: &Transaction) -> Result<(), ApiError> {
    let Some(ahead) = state.outlook.as_ref() else { return Ok(()) };
    let known = state.wiring.verified.as_ref();
    Ok(ahead.outlook.admit(&view.state, &mut Prospect::default(), tx, known)?)
}

/// What is cheap to refuse, before anything is executed: a taken or far nonce, too many of a sender, a false signature.
fn check_place(state: &MempoolState, tx: &Transaction) -> Result<(), ApiError> {
    let Some(signed) = tx.signed() else { return Ok(()) };
    let (sender, nonce) = (signed.content.sender, signed.content.nonce);
    if let Some(own) = state.signed.get(&sender) {
        if let Some((other, _)) = own.get(&nonce) {
            let message =
                format!("transaction {other} with nonce {nonce} waits already; wait for it or use the next nonce");
            return Err(ApiError::field(TxCode::NonceUsed.name(), "nonce", nonce, "one transaction a nonce", message));
        }
        if own.len() >= PER_SENDER_MAX {
            return Err(full("transactions of one sender waiting on this node", own.len(), PER_SENDER_MAX));
        }
    }
    if !state.wiring.verified.verify(signed) {
        let message = "the signature does not verify for the sender and this chain; sign it again";
        return Err(ApiError::field(
            TxCode::BadSignature.name(),
            "signature",
            sender,
            "a signature of the sender",
            message,
        ));
    }
    Ok(())
}

fn full(what: &str, found: usize, limit: usize) -> ApiError {
    ApiError::field("overloaded", "mempool", found, limit, format!("too many {what}; try again in a few seconds"))
}

fn sign(state: &mut MempoolState, action: Action, key: &SecretKey, expires_ms: TimeMs) -> Admission {
    let view = state.wiring.view();
    let sender = key.public();
    let account = ledger::query::account(&view.state, &sender).map_err(LedgerError::from)?;
    let mut nonce = account.nonce;
    if let Some(own) = state.signed.get(&sender) {
        while own.contains_key(&nonce) {
            nonce = nonce.saturating_add(1);
        }
    }
    let content = SenderTx { genesis: state.wiring.genesis_hash, sender, nonce, expires_ms, trace: 0, action };
    admit_and_publish(state, Transaction::Signed(content.sign(key)))
}

/// Certificates and evidence first: they end jobs and cost little; then each sender's transactions in nonce order, senders
/// in turn so that none crowds out the others.
fn offer(state: &MempoolState) -> Vec<Transaction> {
    let mut out: Vec<Transaction> = state.unsigned.values().take(OFFERED_MAX / 4).cloned().collect();
    let mut queues: Vec<_> = state.signed.values().map(|own| own.values()).collect();
    while !queues.is_empty() && out.len() < OFFERED_MAX {
        queues.retain_mut(|queue| match queue.next() {
            Some((_, tx)) if out.len() < OFFERED_MAX => {
                out.push(tx.clone());
                true
            }
            _ => false,
        });
    }
    out
}

/// Drops what was included or can't be any more, and tells consensus if the next block could hold something of the rest.
fn sweep(state: &mut MempoolState) {
    let view = match look_ahead(state) {
        Ok(view) => view,
        Err(error) => {
            tracing::warn!(%error, "the mempool can't read the state; it keeps what it has");
            return;
        }
    };
    let now = view.head.time_ms;
    let (mut gone, mut ready) = (Vec::new(), false);
    for (sender, own) in &state.signed {
        let nonce = ledger::query::account(&view.state, sender).map_or(0, |a| a.nonce);
        for (n, (id, tx)) in own {
            let expired = tx.signed().is_some_and(|s| s.content.expires_ms <= now);
            // The check against the state is dear; only the next in line can be included next.
            let next = *n == nonce && !expired;
            let refused = next && check_alone(state, &view, tx).is_err();
            ready |= next && !refused;
            if *n < nonce || expired || refused {
                gone.push(*id);
            }
        }
    }
    for (id, tx) in &state.unsigned {
        match check_alone(state, &view, tx) {
            Ok(()) => ready = true,
            Err(_) => gone.push(*id),
        }
    }
    for id in gone {
        match state.ids.remove(&id) {
            Some(Some((sender, nonce))) => {
                if let Some(own) = state.signed.get_mut(&sender) {
                    own.remove(&nonce);
                    if own.is_empty() {
                        state.signed.remove(&sender);
                    }
                }
            }
            Some(None) => {
                state.unsigned.remove(&id);
            }
            None => {}
        }
    }
    state.told = false;
    if ready {
        tell_consensus(state);
    }
}
