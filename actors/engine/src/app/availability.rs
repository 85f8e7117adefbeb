//! Submissions on their way into a block: gathers the validators' signatures that they hold the input.
//!
//! A validator signs only for blobs that it has fetched and inspected in a sandboxed child: kind and program hash must be what
//! the specification says. Signatures are gossiped, so any node that saw the submission completes it, even when the node that
//! accepted it is gone. Inbox: 512 messages. Held: [`HELD_MAX`] submissions, one for a sender's
//! nonce; one more is refused with `overloaded`. The work on a submission ends with it. Restart: peers' signatures and the
//! client's retry bring submissions back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ledger::TxCode;
use network::{GossipMessage, MessageId, PeerId, Verdict as Judgement};
use prover::worker::WorkerConfig;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{Semaphore, oneshot};
use types::gossip::TxMessage;
use types::ids::TxId;
use types::job::{JobSpec, OutputRule, ProgramKind};
use types::keys::SecretKey;
use types::transaction::{Action, AvailabilitySig, SignedTx, Transaction};

use crate::api::ApiError;
use crate::app::blobs;
use crate::app::mempool::{Admission, MempoolMsg};
use crate::mailbox::{Letter, Sent};
use crate::task::Task;
use crate::wiring::Wiring;

/// Submissions held.
const HELD_MAX: usize = 256;
/// Signatures held for submissions not seen yet.
const EARLY_MAX: usize = 1024;
/// Inputs inspected at once; those still being fetched hold no place.
const INSPECTIONS_MAX: usize = 2;
/// Time to fetch an input.
const FETCH_LIMIT: Duration = Duration::from_secs(30);
/// Time to inspect a program.
const INSPECT_LIMIT: Duration = Duration::from_secs(30);

/// Messages.
#[derive(Debug)]
pub(crate) enum AvailabilityMsg {
    /// A submission, from gossip or from an own client.
    Offer {
        /// For the judgement, if it came by gossip.
        id: Option<MessageId>,
        /// Who sent it here.
        source: Option<PeerId>,
        /// The signed submission.
        tx: Box<SignedTx>,
    },
    /// An own client's submission; the client waits.
    Submit {
        /// The signed submission.
        tx: Box<SignedTx>,
        /// Told once it is taken in or refused.
        reply: oneshot::Sender<Admission>,
    },
    /// A validator's signature, from gossip.
    Signature {
        /// For the judgement.
        id: MessageId,
        /// The submission.
        tx: TxId,
        /// The signature.
        signature: AvailabilitySig,
    },
    /// This validator's own answer about a submission.
    Checked {
        /// The submission.
        tx: TxId,
        /// Why it does not sign, if so.
        result: Result<(), String>,
    },
    /// Whether a submission is waiting here.
    Has {
        /// The submission.
        id: TxId,
        /// The answer.
        reply: oneshot::Sender<bool>,
    },
    /// A block was applied.
    Head,
}

/// The actor.
#[derive(Debug)]
pub(crate) struct Availability;

/// What it is started with.
#[derive(Clone, Debug)]
pub(crate) struct AvailabilityArgs {
    /// Where everything is.
    pub(crate) wiring: Wiring,
    /// Signs, if this node validates.
    pub(crate) key: Option<SecretKey>,
    /// How inspecting children are bounded.
    pub(crate) executor: WorkerConfig,
}

#[derive(Debug)]
struct Held {
    tx: SignedTx,
    signatures: BTreeMap<types::keys::PublicKey, AvailabilitySig>,
    handed_on: bool,
    /// Fetches and inspects the input.
    _work: Task,
}

/// Its state.
#[derive(Debug)]
pub(crate) struct AvailabilityState {
    args: AvailabilityArgs,
    held: BTreeMap<TxId, Held>,
    early: VecDeque<(TxId, AvailabilitySig)>,
    permits: Arc<Semaphore>,
}

impl Actor for Availability {
    type Msg = Letter<AvailabilityMsg>;
    type State = AvailabilityState;
    type Arguments = AvailabilityArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        args: AvailabilityArgs,
    ) -> Result<AvailabilityState, ActorProcessingErr> {
        args.wiring.mail.availability.attach(myself);
        let permits = Arc::new(Semaphore::new(INSPECTIONS_MAX));
        Ok(AvailabilityState { args, held: BTreeMap::new(), early: VecDeque::new(), permits })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        letter: Self::Msg,
        state: &mut AvailabilityState,
    ) -> Result<(), ActorProcessingErr> {
        match letter.message {
            AvailabilityMsg::Offer { id, source, tx } => {
                let judgement = match take(state, *tx, source) {
                    Ok((_, true)) => Judgement::Accept,
                    Ok((_, false)) => Judgement::Ignore,
                    Err(error) if error.code == TxCode::BadSignature.name() => Judgement::Reject,
                    Err(_) => Judgement::Ignore,
                };
                if let Some(id) = id {
                    state.args.wiring.net.report(id, judgement);
                }
            }
            AvailabilityMsg::Submit { tx, reply } => {
                let message = TxMessage::Offer((*tx).clone());
                let taken = take(state, *tx, None).map(|(id, _)| id);
                if taken.is_ok() {
                    state.args.wiring.net.publish(&GossipMessage::Tx(Box::new(message)));
                }
                reply.send(taken).ok();
            }
            AvailabilityMsg::Signature { id, tx, signature } => {
                let judgement = sign_in(state, tx, signature);
                state.args.wiring.net.report(id, judgement);
            }
            AvailabilityMsg::Checked { tx, result } => checked(state, tx, result),
            AvailabilityMsg::Has { id, reply } => {
                reply.send(state.held.contains_key(&id)).ok();
            }
            AvailabilityMsg::Head => sweep(state),
        }
        Ok(())
    }
}

/// Takes a submission in; whether it is new.
fn take(state: &mut AvailabilityState, tx: SignedTx, source: Option<PeerId>) -> Result<(TxId, bool), ApiError> {
    let id = tx.id();
    if state.held.contains_key(&id) {
        return Ok((id, false));
    }
    let view = state.args.wiring.view();
    ledger::precheck::check_submission(&view.state, &tx, view.head.time_ms)?;
    let Action::SubmitJob(spec) = &tx.content.action else {
        return Err(ApiError::new("not_a_submission", "only a job's submission gathers availability signatures"));
    };
    let spec = (**spec).clone();
    let slot = |tx: &SignedTx| (tx.content.sender, tx.content.nonce);
    if let Some((other, _)) = state.held.iter().find(|(_, held)| slot(&held.tx) == slot(&tx)) {
        let message =
            format!("submission {other} with this nonce gathers signatures already; wait for it or use the next nonce");
        return Err(ApiError::field(
            TxCode::NonceUsed.name(),
            "nonce",
            tx.content.nonce,
            "one submission a nonce",
            message,
        ));
    }
    if state.held.len() >= HELD_MAX {
        let message = "too many submissions gather signatures; try again in a few seconds";
        return Err(ApiError::field("overloaded", "submissions", state.held.len(), HELD_MAX, message));
    }
    let mut signatures = BTreeMap::new();
    for (_, signature) in state.early.iter().filter(|(tx, _)| *tx == id) {
        signatures.insert(signature.validator, *signature);
    }
    state.early.retain(|(tx, _)| *tx != id);
    let work = inspect(state, id, spec, source);
    state.held.insert(id, Held { tx, signatures, handed_on: false, _work: work });
    hand_on(state, id);
    Ok((id, true))
}

/// Fetches and inspects the input; a node without a vote fetches it too, so that it can serve it.
fn inspect(state: &AvailabilityState, id: TxId, spec: JobSpec, source: Option<PeerId>) -> Task {
    let (args, permits) = (state.args.clone(), Arc::clone(&state.permits));
    Task::spawn(async move {
        let result = check_input(&args, &permits, &spec, source).await;
        let _closed = args.wiring.mail.availability.send_owed(AvailabilityMsg::Checked { tx: id, result });
    })
}

/// Both blobs must be here, as long as the specification says, before a byte of them is read.
async fn check_input(
    args: &AvailabilityArgs,
    permits: &Semaphore,
    spec: &JobSpec,
    source: Option<PeerId>,
) -> Result<(), String> {
    let wiring = &args.wiring;
    let text = |e: blobs::BlobError| e.to_string();
    blobs::bring(wiring, spec.program, source, FETCH_LIMIT).await.map_err(|e| format!("program: {e}"))?;
    if let Some(blob) = spec.args {
        blobs::bring(wiring, blob, source, FETCH_LIMIT).await.map_err(|e| format!("args: {e}"))?;
    }
    let Ok(_permit) = permits.acquire().await else { return Err("stopping".into()) };
    if let Some(blob) = spec.args {
        let bytes = blobs::read(wiring, blob.hash).await.map_err(text)?;
        prover::args::Arguments::parse(spec.kind, Some(&bytes)).map_err(|e| e.to_string())?;
    }
    let program = blobs::read(wiring, spec.program.hash).await.map_err(text)?;
    let found = prover::worker::inspect(&args.executor, program, Some(spec.hash_function), INSPECT_LIMIT)
        .await
        .map_err(|e| e.to_string())?;
    if found.kind != spec.kind {
        return Err(format!("kind: {:?} in the specification, the program is {:?}", spec.kind, found.kind));
    }
    if found.program_hash != spec.program_hash {
        return Err(format!(
            "program_hash: {} in the specification, the program's is {}",
            spec.program_hash, found.program_hash
        ));
    }
    if spec.kind == ProgramKind::Pie {
        let OutputRule::Exact(words) = &spec.output_rule else {
            return Err("output_rule: a PIE needs its exact output".into());
        };
        if found.pie_output.as_ref() != Some(words) {
            return Err("output_rule: not the output of the PIE".into());
        }
    }
    Ok(())
}

fn checked(state: &mut AvailabilityState, id: TxId, result: Result<(), String>) {
    let Some(held) = state.held.get_mut(&id) else { return };
    match (result, &state.args.key) {
        (Err(why), _) => tracing::warn!(tx = %id, %why, "input refused or not to be had: no availability signature"),
        (Ok(()), None) => {}
        (Ok(()), Some(key)) => {
            let signature = AvailabilitySig::sign(&id, key, &state.args.wiring.genesis_hash);
            held.signatures.insert(signature.validator, signature);
            let message = TxMessage::Availability { tx: id, signature };
            state.args.wiring.net.publish(&GossipMessage::Tx(Box::new(message)));
            hand_on(state, id);
        }
    }
}

fn sign_in(state: &mut AvailabilityState, id: TxId, signature: AvailabilitySig) -> Judgement {
    let view = state.args.wiring.view();
    if view.set.power_of(&signature.validator).is_none() {
        return Judgement::Ignore;
    }
    if !signature.verify(&id, &state.args.wiring.genesis_hash) {
        return Judgement::Reject;
    }
    match state.held.get_mut(&id) {
        Some(held) => {
            held.signatures.insert(signature.validator, signature);
            hand_on(state, id);
        }
        None => {
            if state.early.len() >= EARLY_MAX {
                state.early.pop_front();
            }
            state.early.push_back((id, signature));
        }
    }
    Judgement::Accept
}

/// Gives a submission to the mempool once more than one third of the power holds its input.
fn hand_on(state: &mut AvailabilityState, id: TxId) {
    let view = state.args.wiring.view();
    let Some(held) = state.held.get_mut(&id) else { return };
    let signers = held.signatures.values().filter(|s| view.set.power_of(&s.validator).is_some());
    let availability: Vec<AvailabilitySig> = signers.copied().collect();
    let power = availability.iter().filter_map(|s| view.set.power_of(&s.validator)).fold(0, u64::saturating_add);
    if held.handed_on || !view.set.is_honest(power) {
        return;
    }
    let tx = Transaction::Submission { tx: held.tx.clone(), availability };
    if state.args.wiring.mail.mempool.send(MempoolMsg::Own { tx: Box::new(tx) }) == Sent::Accepted {
        held.handed_on = true;
    }
}

/// Drops submissions that are in a block, or that the ledger would not take any more.
fn sweep(state: &mut AvailabilityState) {
    let view = state.args.wiring.view();
    let stale = |held: &Held| ledger::precheck::check_submission(&view.state, &held.tx, view.head.time_ms).is_err();
    let gone: Vec<TxId> = state.held.iter().filter(|(_, held)| stale(held)).map(|(id, _)| *id).collect();
    for id in gone {
        state.held.remove(&id);
    }
    let waiting: Vec<TxId> = state.held.iter().filter(|(_, held)| !held.handed_on).map(|(id, _)| *id).collect();
    for id in waiting {
        hand_on(state, id);
    }
}

#[cfg(test)]
mod tests {
    use types::ids::{Amount, BlobHash};
    use types::job::BlobRef;

    use super::*;
    use crate::app::blobs::BlobsMsg;
    use crate::testkit::{TestChain, listen, next, owner, user};
    use crate::wiring::wall_clock;

    fn args(chain: &TestChain) -> AvailabilityArgs {
        let executor = WorkerConfig::new(chain.home().join("work"), 1 << 30);
        AvailabilityArgs { wiring: chain.wiring.clone(), key: Some(crate::testkit::validator(1)), executor }
    }

    fn offer(chain: &TestChain, tx: SignedTx) {
        let message = AvailabilityMsg::Offer { id: None, source: None, tx: Box::new(tx) };
        assert_eq!(chain.wiring.mail.availability.send(message), Sent::Accepted);
    }

    #[tokio::test]
    async fn inputs_nobody_has_keep_no_place_and_their_work_ends_with_them() {
        let chain = TestChain::new();
        let mut wishes = listen(&chain.wiring.mail.blobs).await;
        Actor::spawn(None, Availability, args(&chain)).await.unwrap();
        let mut waiting = Vec::new();
        for (sender, n) in [(user(), 1), (owner(1), 2), (owner(2), 3)] {
            let program = BlobRef { hash: BlobHash::new([n; 32]), bytes: 1_000 };
            offer(&chain, chain.submission(&sender, program));
            // Also the third is asked for while the first two are still being waited for.
            let BlobsMsg::Want { blob, reply, .. } = next(&mut wishes).await else { panic!("a wish") };
            assert_eq!(blob, program);
            waiting.push(reply);
        }
        // The nonce of the first is used by another transaction: its submission is over, and so is the work on it.
        let other = chain.sign(&user(), Action::Transfer { to: owner(1).public(), amount: Amount(1) });
        chain.block(&[Transaction::Signed(other)]);
        assert_eq!(chain.wiring.mail.availability.send_owed(AvailabilityMsg::Head), Sent::Accepted);
        tokio::time::timeout(crate::testkit::PATIENCE, waiting[0].closed()).await.unwrap();
        assert!(!waiting[1].is_closed() && !waiting[2].is_closed());
    }

    #[tokio::test]
    async fn an_input_of_another_length_is_refused_before_it_is_read() {
        let chain = TestChain::new();
        let held = b"a program of 26 bytes, no more".to_vec();
        let (hash, bytes) = chain.wiring.blobs.put(&held, wall_clock()).map(|h| (h, held.len() as u64)).unwrap();
        Actor::spawn(None, blobs::Blobs, chain.wiring.clone()).await.unwrap();
        let blob = BlobRef { hash, bytes: bytes + 1 };
        let error = blobs::bring(&chain.wiring, blob, None, FETCH_LIMIT).await.unwrap_err();
        assert_eq!(error, blobs::BlobError::Length { blob, found: bytes });
        assert_eq!(blobs::bring(&chain.wiring, BlobRef { hash, bytes }, None, FETCH_LIMIT).await, Ok(()));
    }
}
