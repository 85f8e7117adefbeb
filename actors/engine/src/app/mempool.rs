//! Transactions that wait for a block, and the nonces of keys that this node signs with.
//!
//! Inbox: 4,096 messages; more are refused with `overloaded`. Held: at most [`HELD_MAX`] transactions, [`PER_SENDER_MAX`] of
//! one sender, one per nonce; what the ledger would refuse is refused at once, with its reason. Every applied block sweeps
//! out what was included or can't be any more. Restart: starts empty; senders and peers send again.

use std::collections::BTreeMap;
use std::sync::Arc;

use ledger::{LedgerError, TxCode};
use network::{GossipMessage, MessageId, Verdict as Judgement};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use types::gossip::TxMessage;
use types::ids::{TimeMs, TxId};
use types::keys::{PublicKey, SecretKey};
use types::transaction::{Action, SenderTx, Transaction};

use crate::api::ApiError;
use crate::mailbox::Letter;
use crate::safety::consensus::ConsensusMsg;
use crate::wiring::{ChainView, Wiring};

/// Transactions held.
pub(crate) const HELD_MAX: usize = 16_384;
/// Of these, room kept for certificates and evidence, which must get into a block when users flood the pool.
const UNSIGNED_RESERVED: usize = 1_024;
/// Transactions held of one sender. Admitting one executes those before it, so this bounds the work a sender can cause.
pub(crate) const PER_SENDER_MAX: usize = 64;
/// Transactions offered to one block; the block's own limits cut further.
const OFFERED_MAX: usize = 4_096;

/// Answer to a submission.
pub(crate) type Admission = Result<TxId, ApiError>;

/// Messages.
#[derive(Debug)]
pub(crate) enum MempoolMsg {
    /// From gossip; to be judged.
    Gossip {
        /// For the judgement.
        id: MessageId,
        /// The transaction.
        tx: Box<Transaction>,
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
    Head(Arc<ChainView>),
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
}

impl Actor for Mempool {
    type Msg = Letter<MempoolMsg>;
    type State = MempoolState;
    type Arguments = Wiring;

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, wiring: Wiring) -> Result<MempoolState, ActorProcessingErr> {
        wiring.mail.mempool.attach(myself);
        Ok(MempoolState { wiring, signed: BTreeMap::new(), unsigned: BTreeMap::new(), ids: BTreeMap::new() })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        letter: Self::Msg,
        state: &mut MempoolState,
    ) -> Result<(), ActorProcessingErr> {
        match letter.message {
            MempoolMsg::Gossip { id, tx } => {
                let judgement = match admit(state, *tx) {
                    Ok((_, true)) => Judgement::Accept,
                    Ok((_, false)) => Judgement::Ignore,
                    // What is signed falsely or for another chain is so everywhere; other refusals may be a matter of time.
                    Err(error) if is_false(&error) => Judgement::Reject,
                    Err(_) => Judgement::Ignore,
                };
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
            MempoolMsg::Head(view) => sweep(state, &view),
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
    let message = TxMessage::Transaction(tx.clone());
    let (id, new) = admit(state, tx)?;
    if new {
        state.wiring.net.publish(&GossipMessage::Tx(Box::new(message)));
    }
    Ok(id)
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
    let view = state.wiring.view();
    let now = view.head.time_ms;
    match tx.signed().map(|s| s.content.sender) {
        // Earlier transactions of the sender that wait here come before it in the block.
        Some(sender) => {
            let nonce = tx.signed().map_or(0, |s| s.content.nonce);
            let own = state.signed.get(&sender).map(|own| own.range(..nonce).map(|(_, (_, tx))| tx.clone()).collect());
            let pending: Vec<Transaction> = own.unwrap_or_default();
            ledger::precheck::check_after(&view.state, &pending, &tx, now)?;
        }
        None => ledger::precheck::check_transaction(&view.state, &tx, now)?,
    }
    let place = match tx.signed().map(|s| (s.content.sender, s.content.nonce)) {
        Some((sender, nonce)) => {
            state.signed.entry(sender).or_default().insert(nonce, (id, tx));
            Some((sender, nonce))
        }
        None => {
            state.unsigned.insert(id, tx);
            None
        }
    };
    state.ids.insert(id, place);
    // Work may be what the next block waits for. A full mailbox means consensus is busy anyway.
    let _busy = state.wiring.mail.consensus.send(ConsensusMsg::Work);
    Ok((id, true))
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
    let chain = state.wiring.genesis_hash;
    if signed.content.genesis != chain {
        let message = format!(
            "genesis: the transaction is signed for chain {}, this is {chain}; sign it for this chain",
            signed.content.genesis
        );
        return Err(ApiError::field(TxCode::WrongChain.name(), "genesis", signed.content.genesis, chain, message));
    }
    if !signed.verify(&chain) {
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

/// Drops what was included or can't be any more.
fn sweep(state: &mut MempoolState, view: &ChainView) {
    let now = view.head.time_ms;
    let mut gone = Vec::new();
    for (sender, own) in &state.signed {
        let nonce = ledger::query::account(&view.state, sender).map_or(0, |a| a.nonce);
        for (n, (id, tx)) in own {
            let expired = tx.signed().is_some_and(|s| s.content.expires_ms <= now);
            // The check against the state is dear; only the next in line can be included next.
            let refused = *n == nonce && ledger::precheck::check_transaction(&view.state, tx, now).is_err();
            if *n < nonce || expired || refused {
                gone.push(*id);
            }
        }
    }
    for (id, tx) in &state.unsigned {
        if ledger::precheck::check_transaction(&view.state, tx, now).is_err() {
            gone.push(*id);
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
}
