//! Transactions that wait for a block, and the nonces of keys that this node signs with.
//!
//! Inbox: 4,096 messages; more are refused with `overloaded`. What gossip brings waits in an [`Intake`] for its turn, so that
//! no flood of it delays the offer for a block or a client's answer. Held: at most [`HELD_MAX`] transactions,
//! [`PER_SENDER_MAX`] of one sender, one per nonce; what the ledger would refuse is refused at once, with its reason, and what
//! can be refused by a look at the sender's account costs no signature. Every applied block sweeps out what was included or
//! can't be any more. Restart: starts empty; senders and peers send again.

use std::collections::BTreeMap;
use std::time::Instant;

use ledger::{LedgerError, TxCode};
use network::{MessageId, PeerId};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use types::ids::{TimeMs, TxId};
use types::keys::{PublicKey, SecretKey};
use types::transaction::{Action, SenderTx, Transaction};

use crate::api::ApiError;
use crate::app::ahead::{Ahead, Queue, first_free};
use crate::app::intake::{Done, Fate, Intake};
use crate::app::outbox::{Due, Outbox, PAUSE};
use crate::mailbox::{Letter, Sent};
use crate::safety::consensus::ConsensusMsg;
use crate::wiring::Wiring;

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
        /// Who sent it here.
        source: PeerId,
        /// The transactions.
        txs: Vec<Transaction>,
    },
    /// The next turn of what gossip brought.
    Turn,
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
    /// The next free nonce of an account, counting what waits here.
    NextNonce {
        /// The account.
        sender: PublicKey,
        /// The answer; an error when the state can't be read.
        reply: oneshot::Sender<Result<u64, ApiError>>,
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
    signed: BTreeMap<PublicKey, Queue>,
    /// Certificates and evidence, by id.
    unsigned: BTreeMap<TxId, Transaction>,
    ids: BTreeMap<TxId, Option<(PublicKey, u64)>>,
    ahead: Ahead,
    intake: Intake,
    /// A turn of the intake is under way in the mailbox.
    turning: bool,
    outbox: Outbox,
    /// Consensus knows that the block after the last applied one has work.
    told: bool,
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
            ahead: Ahead::default(),
            intake: Intake::default(),
            turning: false,
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
            MempoolMsg::Gossip { id, source, txs } => {
                let dropped = state.intake.push(source, id, txs, Instant::now());
                settle(state, dropped);
                turn_soon(state);
            }
            MempoolMsg::Turn => {
                state.turning = false;
                let mut intake = std::mem::take(&mut state.intake);
                let done = intake.turn(Instant::now(), |tx| judge(state, tx));
                state.intake = intake;
                settle(state, done);
                turn_soon(state);
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
                reply.send(next_nonce(state, &sender)).ok();
            }
            MempoolMsg::Has { id, reply } => {
                reply.send(state.ids.contains_key(&id)).ok();
            }
            MempoolMsg::Head => {
                sweep(state);
                state.intake.settle(Instant::now());
            }
            MempoolMsg::PauseOver => {
                let due = state.outbox.pause_over();
                publish(&state.wiring, due);
            }
        }
        state.wiring.metrics.mempool.set(i64::try_from(state.ids.len()).unwrap_or(i64::MAX));
        Ok(())
    }
}

/// Whether a refusal can be no matter of time or place.
pub(crate) fn is_false(error: &ApiError) -> bool {
    [TxCode::BadSignature, TxCode::WrongChain].iter().any(|code| error.code == code.name())
}

fn admit_and_publish(state: &mut MempoolState, tx: Transaction) -> Admission {
    let copy = tx.clone();
    let (id, new) = admit(state, tx).map_err(|refusal| *refusal.error)?;
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

/// Tells the network what became of messages; what is new in one that is not forwarded goes on in a message of this node's
/// own.
fn settle(state: &mut MempoolState, messages: impl IntoIterator<Item = Done>) {
    for Done { id, verdict, fresh } in messages {
        state.wiring.net.report(id, verdict);
        for tx in fresh {
            let due = state.outbox.push(tx);
            publish(&state.wiring, due);
        }
    }
    state.wiring.metrics.mempool_dropped.inc_by(state.intake.take_dropped());
}

/// Sees to it that what waits gets its turn, behind what is in the mailbox already.
fn turn_soon(state: &mut MempoolState) {
    if !state.turning && !state.intake.is_empty() {
        state.turning = state.wiring.mail.mempool.send_owed(MempoolMsg::Turn) == Sent::Accepted;
    }
}

/// Takes in one transaction that gossip brought.
fn judge(state: &mut MempoolState, tx: &Transaction) -> Fate {
    match admit(state, tx.clone()) {
        Ok((_, true)) => Fate::New,
        Ok((_, false)) => Fate::Known,
        // What is signed falsely or for another chain is so everywhere; every other refusal may be a matter of time.
        Err(Refusal { error, .. }) if is_false(&error) => Fate::False,
        Err(Refusal { dear, .. }) => Fate::Useless { dear },
    }
}

/// Why a transaction is not taken in.
struct Refusal {
    error: Box<ApiError>,
    /// Found by a signature or an execution, not by a look.
    dear: bool,
}

impl Refusal {
    fn cheap(error: impl Into<ApiError>) -> Self {
        Self { error: Box::new(error.into()), dear: false }
    }

    fn dear(error: impl Into<ApiError>) -> Self {
        Self { error: Box::new(error.into()), dear: true }
    }
}

/// Takes a transaction in; whether it is new.
fn admit(state: &mut MempoolState, tx: Transaction) -> Result<(TxId, bool), Refusal> {
    let id = tx.id();
    if state.ids.contains_key(&id) {
        return Ok((id, false));
    }
    if state.ids.len() >= if tx.signed().is_some() { HELD_MAX - UNSIGNED_RESERVED } else { HELD_MAX } {
        return Err(Refusal::cheap(full("transactions waiting on this node", state.ids.len(), HELD_MAX)));
    }
    let (view, known) = (state.wiring.view(), state.wiring.verified.clone());
    let place = tx.signed().map(|s| (s.content.sender, s.content.nonce));
    match (place, tx.signed()) {
        (Some((sender, nonce)), Some(signed)) => {
            let nothing = Queue::new();
            let own = state.signed.get(&sender).unwrap_or(&nothing);
            check_place(own, nonce).map_err(Refusal::cheap)?;
            let look = state.ahead.look((&view.state, &view.head), signed, own.len() as u64);
            look.map_err(Refusal::cheap)?;
            if !known.verify(signed) {
                let message = "the signature does not verify for the sender and this chain; sign it again";
                let (code, limit) = (TxCode::BadSignature.name(), "a signature of the sender");
                return Err(Refusal::dear(ApiError::field(code, "signature", sender, limit, message)));
            }
            let after = state.ahead.check_after((&view.state, &view.head), own, (sender, nonce), &tx, known.as_ref());
            after.map_err(Refusal::dear)?;
            state.signed.entry(sender).or_default().insert(nonce, (id, tx));
        }
        _ => {
            state.ahead.check_alone((&view.state, &view.head), &tx, known.as_ref()).map_err(Refusal::dear)?;
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

/// A taken nonce, too many of a sender.
fn check_place(own: &Queue, nonce: u64) -> Result<(), ApiError> {
    if let Some((other, _)) = own.get(&nonce) {
        let message =
            format!("transaction {other} with nonce {nonce} waits already; wait for it or use the next nonce");
        return Err(ApiError::field(TxCode::NonceUsed.name(), "nonce", nonce, "one transaction a nonce", message));
    }
    if own.len() >= PER_SENDER_MAX {
        return Err(full("transactions of one sender waiting on this node", own.len(), PER_SENDER_MAX));
    }
    Ok(())
}

fn full(what: &str, found: usize, limit: usize) -> ApiError {
    ApiError::field("overloaded", "mempool", found, limit, format!("too many {what}; try again in a few seconds"))
}

/// The nonce of the sender's next transaction.
fn next_nonce(state: &MempoolState, sender: &PublicKey) -> Result<u64, ApiError> {
    let account = ledger::query::account(&state.wiring.view().state, sender).map_err(LedgerError::from)?;
    Ok(state.signed.get(sender).map_or(account.nonce, |own| first_free(own, account.nonce)))
}

fn sign(state: &mut MempoolState, action: Action, key: &SecretKey, expires_ms: TimeMs) -> Admission {
    let sender = key.public();
    let nonce = next_nonce(state, &sender)?;
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
    let (view, known) = (state.wiring.view(), state.wiring.verified.as_ref());
    let mut refused = |tx: &Transaction| {
        let said = state.ahead.check_alone((&view.state, &view.head), tx, known);
        // A state that can't be read says nothing about the transaction.
        matches!(said, Err(LedgerError::Refused(_)))
    };
    let now = view.head.time_ms;
    let (mut gone, mut ready) = (Vec::new(), false);
    for (sender, own) in &state.signed {
        let nonce = ledger::query::account(&view.state, sender).map_or(0, |a| a.nonce);
        for (n, (id, tx)) in own {
            let expired = tx.signed().is_some_and(|s| s.content.expires_ms <= now);
            // The check against the state is dear; only the next in line can be included next.
            let next = *n == nonce && !expired;
            let out = next && refused(tx);
            ready |= next && !out;
            if *n < nonce || expired || out {
                gone.push(*id);
            }
        }
    }
    for (id, tx) in &state.unsigned {
        match refused(tx) {
            true => gone.push(*id),
            false => ready = true,
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

#[cfg(test)]
mod tests {
    use types::ids::Amount;

    use super::*;
    use crate::mailbox::Mailbox;
    use crate::testkit::{PATIENCE, TestChain, owner, user};

    async fn offered(mempool: &Mailbox<MempoolMsg>) -> Vec<TxId> {
        let (reply, offer) = oneshot::channel();
        assert_eq!(mempool.send_owed(MempoolMsg::Offer { reply }), Sent::Accepted);
        tokio::time::timeout(PATIENCE, offer).await.unwrap().unwrap().iter().map(Transaction::id).collect()
    }

    async fn submit(mempool: &Mailbox<MempoolMsg>, tx: Transaction) -> Admission {
        let (reply, answer) = oneshot::channel();
        assert_eq!(mempool.send(MempoolMsg::Submit { tx: Box::new(tx), reply }), Sent::Accepted);
        tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap()
    }

    fn pay(chain: &TestChain, sender: &SecretKey) -> Transaction {
        Transaction::Signed(chain.sign(sender, Action::Transfer { to: owner(1).public(), amount: Amount(1) }))
    }

    #[tokio::test]
    async fn a_heap_of_strangers_transactions_delays_neither_client_nor_block() {
        let chain = TestChain::new();
        let mempool = &chain.wiring.mail.mempool;
        Actor::spawn(None, Mempool, chain.wiring.clone()).await.unwrap();
        let stranger = SecretKey::from_seed([77; 32]);
        let (heap, first, last) = (pay(&chain, &stranger), pay(&chain, &user()), pay(&chain, &owner(2)));
        let source = PeerId::random();
        for n in 0..50 {
            let mut txs = vec![heap.clone(); 300];
            if n == 49 {
                txs.push(last.clone());
            }
            assert_eq!(mempool.send(MempoolMsg::Gossip { id: MessageId([n; 20]), source, txs }), Sent::Accepted);
        }
        assert_eq!(submit(mempool, first.clone()).await.unwrap(), first.id());
        assert_eq!(offered(mempool).await, [first.id()], "15,000 transactions still wait for their turn");
        let both = async {
            while offered(mempool).await.len() < 2 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            offered(mempool).await
        };
        assert!(tokio::time::timeout(PATIENCE, both).await.unwrap().contains(&last.id()), "their turn has come");
    }

    #[tokio::test]
    async fn an_account_that_cannot_pay_costs_no_signature() {
        let chain = TestChain::new();
        Actor::spawn(None, Mempool, chain.wiring.clone()).await.unwrap();
        let mempool = &chain.wiring.mail.mempool;
        let spoil = |tx: Transaction| match tx {
            Transaction::Signed(mut tx) => {
                tx.content.trace ^= 1;
                Transaction::Signed(tx)
            }
            other => other,
        };
        // Signed falsely, both: the one that could not pay is refused before anybody looks at that.
        let stranger = SecretKey::from_seed([77; 32]);
        let refused = submit(mempool, spoil(pay(&chain, &stranger))).await.unwrap_err();
        assert_eq!(refused.code, TxCode::Balance.name());
        let refused = submit(mempool, spoil(pay(&chain, &user()))).await.unwrap_err();
        assert_eq!(refused.code, TxCode::BadSignature.name());
    }
}
