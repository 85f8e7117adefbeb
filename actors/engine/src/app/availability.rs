//! Submissions on their way into a block: gathers the validators' signatures that they hold the input.
//!
//! A validator signs only for blobs that it has fetched and inspected in a sandboxed child: kind and program hash must be what
//! the specification says. Signatures are gossiped, so any node that saw the submission completes it, even when the node that
//! accepted it is gone. It is passed on to other peers as soon as part of its input has come, so that an input that is nowhere
//! costs the neighbours of its author something and nobody else. Inbox: 512 messages. Held: [`HELD_MAX`](super::places)
//! submissions, one for a sender's nonce; one more is refused with `overloaded`, or takes the place of one whose input nobody
//! has shown to hold. The work on a submission ends with it. One whose input can't be had and that nobody signed for is
//! dropped; so is one that every node refuses, and the reason is kept for who asks ([`REFUSED_MAX`], the oldest go first).
//! Restart: peers' signatures and the client's retry bring submissions back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ledger::TxCode;
use network::{GossipMessage, MessageId, PeerId, Verdict as Judgement};
use prover::Fault;
use prover::worker::{JobError, WorkerConfig};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use storage::blobs::BlobStatus;
use tokio::sync::{Semaphore, oneshot};
use types::gossip::TxMessage;
use types::ids::TxId;
use types::job::{BlobRef, JobSpec, OutputRule, ProgramKind};
use types::keys::SecretKey;
use types::transaction::{Action, AvailabilitySig, SignedTx, Transaction};

use crate::api::ApiError;
use crate::app::blobs;
use crate::app::mempool::{Admission, MempoolMsg, is_false};
use crate::app::places::{Holder, Place, place};
use crate::mailbox::{Letter, Sent};
use crate::task::Task;
use crate::wiring::Wiring;

/// Nonces that a submission may be ahead of its account: what comes before it waits in the mempools, or gathers signatures,
/// too.
const AHEAD_MAX: u64 = 16;
/// Signatures held for submissions not seen yet.
const EARLY_MAX: usize = 1024;
/// Reasons kept of submissions that were refused for their input.
const REFUSED_MAX: usize = 256;
/// Clients that wait for the outcome of one submission; further ones learn it by asking for its status.
const WAITING_MAX: usize = 8;
/// Inputs inspected at once; those still being fetched hold no place.
const INSPECTIONS_MAX: usize = 2;
/// Time to fetch an input.
const FETCH_LIMIT: Duration = Duration::from_secs(30);
/// Time between two looks whether part of an input has come.
const LOOK: Duration = Duration::from_millis(50);
/// Wait before an input that validators signed for is tried again here.
const AGAIN: Duration = Duration::from_secs(10);
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
        /// Told if its input is refused later; dropped otherwise.
        refused: oneshot::Sender<ApiError>,
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
    /// Part of a submission's input has come.
    Begun {
        /// The submission.
        tx: TxId,
    },
    /// This validator's own answer about a submission.
    Checked {
        /// The submission.
        tx: TxId,
        /// Why it does not sign, if so.
        result: Result<(), Unfit>,
    },
    /// Where a submission stands here.
    Standing {
        /// The submission.
        id: TxId,
        /// The answer.
        reply: oneshot::Sender<Standing>,
    },
    /// A block was applied.
    Head,
}

/// Why this node does not sign for an input.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// Every node finds the same.
    Everywhere(Box<ApiError>),
    /// It lies with this node.
    Here(String),
}

/// Where a submission stands on this node.
#[derive(Debug)]
pub(crate) enum Standing {
    /// It gathers signatures.
    Waiting,
    /// Its input was refused.
    Refused(ApiError),
    /// Not known here.
    Unknown,
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
    /// Given to the mempool since the last block.
    handed_on: bool,
    waiting: Vec<oneshot::Sender<ApiError>>,
    /// Place in the order of arrivals.
    arrival: u64,
    /// Who sent it here, if a peer did.
    source: Option<PeerId>,
    /// Part of its input has come.
    begun: bool,
    /// The gossip message that brought it, until it is judged.
    unjudged: Option<MessageId>,
    /// Fetches and inspects the input.
    work: Task,
}

/// Its state.
#[derive(Debug)]
pub(crate) struct AvailabilityState {
    args: AvailabilityArgs,
    held: BTreeMap<TxId, Held>,
    arrivals: u64,
    early: VecDeque<(TxId, AvailabilitySig)>,
    refused: VecDeque<(TxId, ApiError)>,
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
        let (held, early, refused) = (BTreeMap::new(), VecDeque::new(), VecDeque::new());
        Ok(AvailabilityState { args, held, arrivals: 0, early, refused, permits })
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
                    Ok((tx, true)) => {
                        // Judged when part of its input has come.
                        if let Some(held) = state.held.get_mut(&tx) {
                            held.unjudged = id;
                        }
                        return Ok(());
                    }
                    Ok((_, false)) => Judgement::Ignore,
                    Err(error) if is_false(&error) => Judgement::Reject,
                    Err(_) => Judgement::Ignore,
                };
                if let Some(id) = id {
                    state.args.wiring.net.report(id, judgement);
                }
            }
            AvailabilityMsg::Submit { tx, reply, refused } => {
                let message = TxMessage::Offer((*tx).clone());
                let taken = take(state, *tx, None).map(|(id, _)| id);
                if let Ok(id) = &taken {
                    state.args.wiring.net.publish(&GossipMessage::Tx(Box::new(message)));
                    if let Some(held) = state.held.get_mut(id).filter(|held| held.waiting.len() < WAITING_MAX) {
                        held.waiting.push(refused);
                    }
                }
                reply.send(taken).ok();
            }
            AvailabilityMsg::Signature { id, tx, signature } => {
                let judgement = sign_in(state, tx, signature);
                state.args.wiring.net.report(id, judgement);
            }
            AvailabilityMsg::Begun { tx } => begun(state, tx),
            AvailabilityMsg::Checked { tx, result } => checked(state, tx, result),
            AvailabilityMsg::Standing { id, reply } => {
                let refused = state.refused.iter().find(|(tx, _)| *tx == id).map(|(_, error)| error.clone());
                let standing = match refused {
                    _ if state.held.contains_key(&id) => Standing::Waiting,
                    Some(error) => Standing::Refused(error),
                    None => Standing::Unknown,
                };
                reply.send(standing).ok();
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
    if let Some((_, error)) = state.refused.iter().find(|(tx, _)| *tx == id) {
        return Err(error.clone());
    }
    let view = state.args.wiring.view();
    ledger::precheck::check_submission(&view.state, &tx, view.head.time_ms, AHEAD_MAX)?;
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
    make_place(state, source)?;
    let mut signatures = BTreeMap::new();
    for (_, signature) in state.early.iter().filter(|(tx, _)| *tx == id) {
        signatures.insert(signature.validator, *signature);
    }
    state.early.retain(|(tx, _)| *tx != id);
    let work = inspect(state, id, spec, source, Duration::ZERO);
    let held = Held {
        tx,
        signatures,
        handed_on: false,
        waiting: Vec::new(),
        arrival: state.arrivals,
        source,
        begun: false,
        unjudged: None,
        work,
    };
    state.held.insert(id, held);
    state.arrivals = state.arrivals.saturating_add(1);
    hand_on(state, id);
    Ok((id, true))
}

/// Sees to it that one more submission has a place.
fn make_place(state: &mut AvailabilityState, source: Option<PeerId>) -> Result<(), ApiError> {
    let mut held: Vec<_> = state.held.iter().collect();
    held.sort_by_key(|(_, held)| held.arrival);
    let holder = |(id, held): (&TxId, &Held)| Holder {
        id: *id,
        source: held.source,
        shown: held.begun || !held.signatures.is_empty(),
    };
    let held: Vec<_> = held.into_iter().map(holder).collect();
    match place(&held, source) {
        Place::Free => Ok(()),
        Place::Instead(other) => {
            tracing::info!(tx = %other, "submission dropped for others: nobody has shown to hold its input");
            drop_held(state, &other);
            Ok(())
        }
        Place::Full(found, limit) => {
            let message = "too many submissions gather signatures; try again in a few seconds";
            Err(ApiError::field("overloaded", "submissions", found, limit, message))
        }
    }
}

/// Gives up a submission; the message that brought it is not passed on.
fn drop_held(state: &mut AvailabilityState, id: &TxId) -> Option<Held> {
    let held = state.held.remove(id)?;
    if let Some(message) = held.unjudged {
        state.args.wiring.net.report(message, Judgement::Ignore);
    }
    Some(held)
}

/// Part of the input has come: the submission is worth passing on.
fn begun(state: &mut AvailabilityState, id: TxId) {
    let Some(held) = state.held.get_mut(&id) else { return };
    held.begun = true;
    if let Some(message) = held.unjudged.take() {
        state.args.wiring.net.report(message, Judgement::Accept);
    }
}

/// Fetches and inspects the input after a wait; a node without a vote fetches it too, so that it can serve it.
fn inspect(state: &AvailabilityState, id: TxId, spec: JobSpec, source: Option<PeerId>, after: Duration) -> Task {
    let (args, permits) = (state.args.clone(), Arc::clone(&state.permits));
    Task::spawn(async move {
        tokio::time::sleep(after).await;
        let arrival = async {
            while !(has_begun(&args.wiring, spec.program) && spec.args.is_none_or(|b| has_begun(&args.wiring, b))) {
                tokio::time::sleep(LOOK).await;
            }
            let _closed = args.wiring.mail.availability.send_owed(AvailabilityMsg::Begun { tx: id });
            std::future::pending::<std::convert::Infallible>().await
        };
        let result = tokio::select! {
            biased;
            never = arrival => match never {},
            result = check_input(&args, &permits, &spec, source) => result,
        };
        let _closed = args.wiring.mail.availability.send_owed(AvailabilityMsg::Checked { tx: id, result });
    })
}

/// Whether a verified part of a blob is here.
fn has_begun(wiring: &Wiring, blob: BlobRef) -> bool {
    match wiring.blobs.status(&blob.hash) {
        BlobStatus::Held { .. } => true,
        BlobStatus::Partial { chunks, missing } => missing < chunks,
        BlobStatus::Pruned | BlobStatus::Unknown => false,
    }
}

/// A refusal of the input that every node finds alike.
fn unfit(field: &str, value: impl ToString, limit: impl ToString, message: impl Into<String>) -> Unfit {
    Unfit::Everywhere(Box::new(ApiError::field("input_refused", field, value, limit, message)))
}

fn of_fault(fault: Fault) -> Unfit {
    let (value, limit) = (fault.value.unwrap_or_default(), fault.limit.unwrap_or_default());
    unfit(&fault.field, value, limit, format!("{}; {}", fault.detail, fault.remedy))
}

/// Why a blob is not here. That it has another length than announced is proven; everything else may change.
fn of_blob(field: &str, error: blobs::BlobError) -> Unfit {
    match error {
        blobs::BlobError::Length { blob, found } => {
            let named = blob.bytes;
            let message =
                format!("{field}: the specification says {named}, the blob has {found}; name the blob's own length");
            unfit(field, named, found, message)
        }
        other => Unfit::Here(format!("{field}: {other}")),
    }
}

/// Both blobs must be here, as long as the specification says, before a byte of them is read.
async fn check_input(
    args: &AvailabilityArgs,
    permits: &Semaphore,
    spec: &JobSpec,
    source: Option<PeerId>,
) -> Result<(), Unfit> {
    let wiring = &args.wiring;
    let here = |e: blobs::BlobError| Unfit::Here(e.to_string());
    let bring = |blob| blobs::bring(wiring, blob, source, FETCH_LIMIT);
    bring(spec.program).await.map_err(|e| of_blob("program.bytes", e))?;
    if let Some(blob) = spec.args {
        bring(blob).await.map_err(|e| of_blob("args.bytes", e))?;
    }
    let Ok(_permit) = permits.acquire().await else { return Err(Unfit::Here("stopping".into())) };
    if let Some(blob) = spec.args {
        let bytes = blobs::read(wiring, blob.hash).await.map_err(here)?;
        prover::args::Arguments::parse(spec.kind, Some(&bytes)).map_err(|e| of_fault(e.fault()))?;
    }
    let program = blobs::read(wiring, spec.program.hash).await.map_err(here)?;
    let found = prover::worker::inspect(&args.executor, program, Some(spec.hash_function), INSPECT_LIMIT).await;
    let found = found.map_err(|error| match error {
        JobError::Input(fault) => of_fault(*fault),
        other => Unfit::Here(other.to_string()),
    })?;
    if found.kind != spec.kind {
        let message =
            "kind: the program file is of another kind than the specification says; correct the specification";
        return Err(unfit("kind", format!("{:?}", spec.kind), format!("{:?}", found.kind), message));
    }
    if found.program_hash != spec.program_hash {
        let message = "program_hash: the program's hash is another one; correct the specification or the file";
        return Err(unfit("program_hash", spec.program_hash, found.program_hash, message));
    }
    if spec.kind == ProgramKind::Pie {
        let exact = matches!(&spec.output_rule, OutputRule::Exact(words) if found.pie_output.as_ref() == Some(words));
        if !exact {
            let message = "output_rule: a PIE's job names exactly the output in the file; name that output";
            return Err(unfit("output_rule", "another output", "the output of the PIE", message));
        }
    }
    Ok(())
}

fn checked(state: &mut AvailabilityState, id: TxId, result: Result<(), Unfit>) {
    let Some(held) = state.held.get_mut(&id) else { return };
    match (result, &state.args.key) {
        (Err(Unfit::Here(why)), _) if held.signatures.is_empty() => {
            tracing::warn!(tx = %id, %why, "input not to be had or looked at here, and nobody signed for it: dropped");
            let message = format!("{why}; upload the input again and submit again, or ask another node");
            let error = ApiError::new("input_unavailable", message);
            for waiting in drop_held(state, &id).map(|held| held.waiting).unwrap_or_default() {
                // The client may have gone.
                waiting.send(error.clone()).ok();
            }
        }
        (Err(Unfit::Here(why)), _) => {
            tracing::warn!(tx = %id, %why, "input not to be had or looked at here: no availability signature for now");
            if let (Action::SubmitJob(spec), source) = (&held.tx.content.action, held.source) {
                let spec = (**spec).clone();
                let work = inspect(state, id, spec, source, AGAIN);
                if let Some(held) = state.held.get_mut(&id) {
                    held.work = work;
                }
            }
        }
        (Err(Unfit::Everywhere(error)), _) => {
            tracing::warn!(tx = %id, why = %error, "input refused: no availability signature");
            refuse(state, id, *error);
        }
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

/// Gives up a submission whose input no honest node signs for: it must not keep its place until it expires, and who waits
/// for it learns why.
fn refuse(state: &mut AvailabilityState, id: TxId, error: ApiError) {
    for waiting in drop_held(state, &id).map(|held| held.waiting).unwrap_or_default() {
        // The client may have gone.
        waiting.send(error.clone()).ok();
    }
    if state.refused.len() >= REFUSED_MAX {
        state.refused.pop_front();
    }
    state.refused.push_back((id, error));
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

/// Drops submissions that are in a block, or that the ledger would not take any more. The others are handed on once more: the
/// mempool may have refused them for what stood before them in their sender's order.
fn sweep(state: &mut AvailabilityState) {
    let view = state.args.wiring.view();
    let stale =
        |held: &Held| ledger::precheck::check_submission(&view.state, &held.tx, view.head.time_ms, AHEAD_MAX).is_err();
    let gone: Vec<TxId> = state.held.iter().filter(|(_, held)| stale(held)).map(|(id, _)| *id).collect();
    for id in gone {
        drop_held(state, &id);
    }
    let waiting: Vec<TxId> = state.held.keys().copied().collect();
    for id in waiting {
        if let Some(held) = state.held.get_mut(&id) {
            held.handed_on = false;
        }
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
    async fn a_submission_whose_input_nobody_delivers_is_dropped_and_its_client_told() {
        let chain = TestChain::new();
        let mut wishes = listen(&chain.wiring.mail.blobs).await;
        Actor::spawn(None, Availability, args(&chain)).await.unwrap();
        let blob = BlobRef { hash: BlobHash::new([1; 32]), bytes: 1_000 };
        let tx = chain.submission(&user(), blob);
        let (reply, taken) = oneshot::channel();
        let (refused, told) = oneshot::channel();
        let submit = AvailabilityMsg::Submit { tx: Box::new(tx.clone()), reply, refused };
        assert_eq!(chain.wiring.mail.availability.send(submit), Sent::Accepted);
        assert_eq!(taken.await.unwrap().unwrap(), tx.id());
        let BlobsMsg::Want { reply, .. } = next(&mut wishes).await else { panic!("a wish") };
        reply.send(Err(blobs::BlobError::Late(blob.hash))).unwrap();
        let error = tokio::time::timeout(crate::testkit::PATIENCE, told).await.unwrap().unwrap();
        assert_eq!(error.code, "input_unavailable");
        let (reply, standing) = oneshot::channel();
        let ask = AvailabilityMsg::Standing { id: tx.id(), reply };
        assert_eq!(chain.wiring.mail.availability.send(ask), Sent::Accepted);
        assert!(matches!(standing.await.unwrap(), Standing::Unknown), "its place is free");
    }

    #[tokio::test]
    async fn an_input_that_validators_signed_for_is_tried_again() {
        let chain = TestChain::new();
        let mut wishes = listen(&chain.wiring.mail.blobs).await;
        Actor::spawn(None, Availability, args(&chain)).await.unwrap();
        let tx = chain.submission(&user(), BlobRef { hash: BlobHash::new([1; 32]), bytes: 1_000 });
        offer(&chain, tx.clone());
        let BlobsMsg::Want { blob, reply, .. } = next(&mut wishes).await else { panic!("a wish") };
        let signature = AvailabilitySig::sign(&tx.id(), &crate::testkit::validator(2), &chain.wiring.genesis_hash);
        let signed = AvailabilityMsg::Signature { id: MessageId([0; 20]), tx: tx.id(), signature };
        assert_eq!(chain.wiring.mail.availability.send(signed), Sent::Accepted);
        let (answer, standing) = oneshot::channel();
        let ask = AvailabilityMsg::Standing { id: tx.id(), reply: answer };
        assert_eq!(chain.wiring.mail.availability.send(ask), Sent::Accepted);
        assert!(matches!(standing.await.unwrap(), Standing::Waiting));
        reply.send(Err(blobs::BlobError::Late(blob.hash))).unwrap();
        let BlobsMsg::Want { blob: again, .. } = next(&mut wishes).await else { panic!("a wish") };
        assert_eq!(again, blob);
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
