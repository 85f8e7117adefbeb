//! Checks claims of others and votes on them.
//!
//! Inbox: one notice a block with all claims in voting; what is in work or voted on already is left alone, so nothing depends on
//! a notice that was lost. At most [`WORK_MAX`] claims in work; the others begin when they are named again. At most as many
//! checks at once as there are permits; signatures of verdicts never wait here. A proof is verified off the async threads; a
//! program is re-executed in a sandboxed child. Work ends when its claim is decided. Restart: work ends with the actor, and the
//! next block names every open claim again; a slot that the guard has signed is not answered differently, its vote is sent
//! again.
//!
//! What lies with this node (bytes not to be had, a resource limit, a panic of the verifier) is an abstention, never a "no".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use network::PeerId;
use prover::worker::{JobError, WorkerConfig};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{Semaphore, oneshot};
use types::ids::{Height, JobId};
use types::job::{BlobRef, JobSpec, OutputRule};
use types::keys::PublicKey;
use types::statement::Statement;
use types::verdict::{Check, Claim, FailureReason, ProofVote, Verdict, VoteSubject};

use crate::api::views::Event;
use crate::app::blobs::{self, BlobError};
use crate::app::votes::VotesMsg;
use crate::crossings::Crossing;
use crate::mailbox::{Letter, Sent};
use crate::safety::consensus::ConsensusMsg;
use crate::task::Task;
use crate::wiring::Wiring;

/// Proofs checked at once: each takes some 20 ms of one core and 50 MB.
const CHECKS_MAX: usize = 2;
/// Programs re-executed at once: each is a child with the executor's memory.
const RUNS_MAX: usize = 2;
/// Claims in work or waiting for a permit.
const WORK_MAX: usize = 128;
/// Longest wait for a signature; flushing the guard has a shorter limit of its own, which stops the node.
const SIGN_LIMIT: Duration = Duration::from_secs(60);
/// A claim whose bytes do not come within this share of the voting time is abstained on.
const FETCH_SHARE: u64 = 2;

/// Commit height, job and attempt: what is voted on once.
type Slot = (Height, JobId, u32);

/// Messages.
#[derive(Debug)]
pub(crate) enum VerifierMsg {
    /// All claims in voting that this node has a vote on, the most urgent first.
    Open(Vec<ClaimToCheck>),
}

/// A claim in voting.
#[derive(Clone, Debug)]
pub(crate) struct ClaimToCheck {
    /// What is voted on.
    pub(crate) subject: VoteSubject,
    /// What the claim must say.
    pub(crate) statement: Statement,
    /// The job's specification.
    pub(crate) spec: JobSpec,
    /// Time for verdicts, ms.
    pub(crate) voting_ms: u64,
    /// Peer likely to have the proof.
    pub(crate) hint: Option<PeerId>,
}

/// The actor.
#[derive(Debug)]
pub(crate) struct Verifier;

/// What it is started with.
#[derive(Clone, Debug)]
pub(crate) struct VerifierArgs {
    /// Where everything is.
    pub(crate) wiring: Wiring,
    /// This node's consensus key.
    pub(crate) key: PublicKey,
    /// How re-execution children are bounded.
    pub(crate) executor: WorkerConfig,
    /// Longest re-execution.
    pub(crate) run_limit: Duration,
}

/// Bounds on work at once; runs have their own, so that a long one never keeps a proof from being checked.
#[derive(Debug)]
struct Permits {
    checks: Semaphore,
    runs: Semaphore,
}

impl Permits {
    fn new() -> Self {
        Self { checks: Semaphore::new(CHECKS_MAX), runs: Semaphore::new(RUNS_MAX) }
    }
}

/// Claims voted on, as far as they are still open. Shared with the tasks, which may outlive a notice but not the actor.
type Voted = Arc<Mutex<BTreeSet<Slot>>>;

/// Its state.
#[derive(Debug)]
pub(crate) struct VerifierState {
    args: VerifierArgs,
    permits: Arc<Permits>,
    /// One task a claim; one that ended without a vote, be it by a panic, makes room for another try.
    working: BTreeMap<Slot, Task>,
    voted: Voted,
}

impl Actor for Verifier {
    type Msg = Letter<VerifierMsg>;
    type State = VerifierState;
    type Arguments = VerifierArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        args: VerifierArgs,
    ) -> Result<VerifierState, ActorProcessingErr> {
        args.wiring.mail.verifier.attach(myself);
        let permits = Arc::new(Permits::new());
        Ok(VerifierState { args, permits, working: BTreeMap::new(), voted: Voted::default() })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        letter: Self::Msg,
        state: &mut VerifierState,
    ) -> Result<(), ActorProcessingErr> {
        let VerifierMsg::Open(claims) = letter.message;
        let open: BTreeSet<Slot> = claims.iter().map(slot_of).collect();
        // Dropped, the work on a decided claim ends, its child too.
        state.working.retain(|slot, task| open.contains(slot) && !task.is_finished());
        let voted = {
            let mut voted = state.voted.lock().unwrap_or_else(PoisonError::into_inner);
            voted.retain(|slot| open.contains(slot));
            voted.clone()
        };
        for claim in claims {
            let slot = slot_of(&claim);
            if state.working.len() >= WORK_MAX {
                break;
            }
            if !voted.contains(&slot) && !state.working.contains_key(&slot) {
                state.working.insert(slot, work(state, slot, claim));
            }
        }
        let pending = i64::try_from(state.working.len()).unwrap_or(i64::MAX);
        state.args.wiring.metrics.pending_votes.set(pending);
        Ok(())
    }
}

fn slot_of(claim: &ClaimToCheck) -> Slot {
    (claim.subject.height, claim.subject.job, claim.subject.attempt)
}

fn work(state: &VerifierState, slot: Slot, claim: ClaimToCheck) -> Task {
    let (args, permits, voted) = (state.args.clone(), Arc::clone(&state.permits), Arc::clone(&state.voted));
    Task::spawn(async move {
        let verdict = check(&args, &permits, &claim).await;
        if vote(&args, &claim.subject, verdict).await {
            voted.lock().unwrap_or_else(PoisonError::into_inner).insert(slot);
        }
    })
}

/// Has the guard sign the verdict, then publishes it. A slot signed before gives the vote of then again. Whether this node has
/// a vote on the claim now.
async fn vote(args: &VerifierArgs, subject: &VoteSubject, verdict: Verdict) -> bool {
    let vote = ProofVote { subject: subject.clone(), verdict, validator: args.key };
    let (reply, signed) = oneshot::channel();
    let message = ConsensusMsg::SignVerdict { vote: Box::new(vote), reply };
    // At most one message for each claim in work: bounded without a credit, and never lost to a flood of gossip.
    if args.wiring.mail.consensus.send_owed(message) != Sent::Accepted {
        tracing::warn!(job = %subject.job, "verdict not signed: consensus is not running");
        return false;
    }
    match tokio::time::timeout(SIGN_LIMIT, signed).await {
        Ok(Ok(Some(vote))) => {
            args.wiring.crossings.at(Crossing::Voting);
            let (name, check) = match vote.vote.verdict {
                Verdict::Valid => ("valid", None),
                Verdict::Invalid(check) => ("invalid", Some(check)),
                Verdict::Abstain => ("abstain", None),
            };
            tracing::info!(job = %subject.job, attempt = subject.attempt, verdict = name, check = ?check, "voted on a claim");
            args.wiring.metrics.votes.with_label_values(&[name]).inc();
            let event = Event::Verdict { job_id: subject.job, attempt: subject.attempt, verdict: name.into(), check };
            let _dropped = args.wiring.mail.events.send(event);
            args.wiring.mail.votes.send_owed(VotesMsg::Own(vote)) == Sent::Accepted
        }
        Ok(Ok(None)) => {
            tracing::info!(job = %subject.job, "the guard signs nothing in this slot; no verdict");
            true
        }
        Ok(Err(_)) | Err(_) => {
            tracing::warn!(job = %subject.job, "verdict not signed: consensus did not answer; trying again");
            false
        }
    }
}

async fn check(args: &VerifierArgs, permits: &Permits, claim: &ClaimToCheck) -> Verdict {
    let started = std::time::Instant::now();
    let verdict = match &claim.subject.claim {
        Claim::Proof { hash, bytes, steps } => check_proof(args, permits, claim, (*hash, *bytes, *steps)).await,
        Claim::Failure { reason, steps } => check_failure(args, permits, claim, *reason, *steps).await,
    };
    args.wiring.metrics.verify_seconds.observe(started.elapsed().as_secs_f64());
    verdict
}

async fn check_proof(
    args: &VerifierArgs,
    permits: &Permits,
    claim: &ClaimToCheck,
    (hash, bytes, steps): (types::ids::BlobHash, u64, u64),
) -> Verdict {
    let job = claim.subject.job;
    let limit = Duration::from_millis(claim.voting_ms / FETCH_SHARE);
    // Re-execution may begin before the proof is here: it needs the job's input alone.
    let expected = async {
        match claim.statement.output_rule {
            OutputRule::Quorum => Some(execute(args, permits, claim, limit).await),
            OutputRule::Prefix(_) | OutputRule::Exact(_) => None,
        }
    };
    let verified = async {
        let blob = blobs::ensure(&args.wiring, BlobRef { hash, bytes }, claim.hint, limit).await?;
        let Ok(_permit) = permits.checks.acquire().await else { return Ok(None) };
        let (statement, prover) = (claim.statement.clone(), claim.subject.prover);
        let checked = tokio::task::spawn_blocking(move || proof::verify(&blob, &statement, &prover)).await;
        Ok::<_, BlobError>(checked.ok())
    };
    let (expected, verified) = tokio::join!(expected, verified);
    let verified = match verified {
        Ok(Some(Ok(verified))) => verified,
        Ok(Some(Err(rejection))) if rejection.panicked => {
            tracing::warn!(%job, reason = %rejection.reason, "the verifier panicked; abstaining");
            return Verdict::Abstain;
        }
        Ok(Some(Err(rejection))) => {
            tracing::warn!(%job, check = %rejection.check, reason = %rejection.reason, "proof refused");
            return Verdict::Invalid(rejection.check);
        }
        Ok(None) => return Verdict::Abstain,
        Err(BlobError::Length { found, .. }) => {
            tracing::warn!(%job, found, bytes, "the proof's length is not the committed one");
            return Verdict::Invalid(Check::Format);
        }
        Err(error) => {
            tracing::warn!(%job, %error, "proof bytes not to be had; abstaining");
            return Verdict::Abstain;
        }
    };
    if steps == 0 || steps > claim.spec.max_steps || steps > verified.steps_bound {
        tracing::warn!(%job, steps, bound = verified.steps_bound, "the claim names more steps than the proof has");
        return Verdict::Invalid(Check::Output);
    }
    match expected {
        None => Verdict::Valid,
        Some(Ok(run)) if run.output == verified.output && run.steps == steps => Verdict::Valid,
        Some(Ok(run)) => {
            let (found, claimed) = (run.output.len(), verified.output.len());
            tracing::warn!(%job, found, claimed, "re-execution gives another output");
            Verdict::Invalid(Check::Input)
        }
        Some(Err(RunFailure::Job(why))) => {
            tracing::warn!(%job, %why, "the proof is of a run that fails here");
            Verdict::Invalid(Check::Input)
        }
        Some(Err(RunFailure::Here(why))) => {
            tracing::warn!(%job, %why, "re-execution is not possible here; abstaining");
            Verdict::Abstain
        }
    }
}

async fn check_failure(
    args: &VerifierArgs,
    permits: &Permits,
    claim: &ClaimToCheck,
    reason: FailureReason,
    steps: u64,
) -> Verdict {
    let job = claim.subject.job;
    match execute(args, permits, claim, Duration::from_millis(claim.voting_ms / FETCH_SHARE)).await {
        Err(RunFailure::Job(JobError::Failed { reason: found, steps: at, .. })) if found == reason && at == steps => {
            Verdict::Valid
        }
        Ok(run)
            if reason == FailureReason::Output
                && run.steps == steps
                && claim.spec.output_rule.broken_at(&run.output).is_some() =>
        {
            Verdict::Valid
        }
        Ok(_) | Err(RunFailure::Job(_)) => {
            tracing::warn!(%job, ?reason, steps, "re-execution does not confirm the reported failure");
            Verdict::Invalid(Check::Failure)
        }
        Err(RunFailure::Here(why)) => {
            tracing::warn!(%job, %why, "re-execution is not possible here; abstaining");
            Verdict::Abstain
        }
    }
}

/// Why a re-execution gave no output.
enum RunFailure {
    /// Every node finds the same.
    Job(JobError),
    /// It lies with this node.
    Here(String),
}

async fn execute(
    args: &VerifierArgs,
    permits: &Permits,
    claim: &ClaimToCheck,
    fetch_limit: Duration,
) -> Result<prover::Executed, RunFailure> {
    let fetch = |blob| blobs::ensure(&args.wiring, blob, None, fetch_limit);
    let here = |e: BlobError| RunFailure::Here(e.to_string());
    let program = fetch(claim.spec.program).await.map_err(here)?;
    let arguments = match claim.spec.args {
        Some(blob) => Some(fetch(blob).await.map_err(here)?),
        None => None,
    };
    let request = prover::ExecuteRequest {
        program,
        args: arguments,
        hash_function: claim.spec.hash_function,
        max_steps: claim.spec.max_steps,
    };
    let Ok(_permit) = permits.runs.acquire().await else { return Err(RunFailure::Here("stopping".into())) };
    match prover::worker::execute(&args.executor, &request, args.run_limit).await {
        Ok(run) => Ok(run),
        Err(error) if error.is_about_the_job() => Err(RunFailure::Job(error)),
        Err(error) => Err(RunFailure::Here(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use consensus::Guard;
    use tokio::sync::mpsc::Receiver;

    use super::*;
    use crate::testkit::{TestChain, listen, next, silent, validator};

    fn args(chain: &TestChain) -> VerifierArgs {
        let executor = WorkerConfig::new(chain.home().join("work"), 1 << 30);
        let run_limit = Duration::from_secs(1);
        VerifierArgs { wiring: chain.wiring.clone(), key: validator(1).public(), executor, run_limit }
    }

    /// The claim in voting; nobody has its bytes, so it is abstained on after half of `voting_ms`.
    fn open_claim(chain: &TestChain, voting_ms: u64) -> ClaimToCheck {
        let view = chain.wiring.view();
        let job = ledger::query::live_jobs(&view.state).unwrap()[0];
        let record = crate::reads::job(&view, &job).unwrap().unwrap();
        let subject = ledger::query::vote_subject(&view.state, &job, 0).unwrap().unwrap();
        let statement = crate::reads::statement(&chain.wiring, &job, &record);
        ClaimToCheck { subject, statement, spec: record.spec, voting_ms, hint: None }
    }

    fn hand(chain: &TestChain, voting_ms: u64) {
        let message = VerifierMsg::Open(vec![open_claim(chain, voting_ms)]);
        assert_eq!(chain.wiring.mail.verifier.send_owed(message), Sent::Accepted);
    }

    /// Signs what is asked for next, as consensus does; with `None` it drops the question.
    async fn sign(asked: &mut Receiver<ConsensusMsg>, guard: Option<&mut Guard>) -> Verdict {
        let ConsensusMsg::SignVerdict { vote, reply } = next(asked).await else { panic!("a verdict to sign") };
        let verdict = vote.verdict;
        if let Some(guard) = guard {
            reply.send(Some(Box::new(guard.sign_proof_vote(*vote).unwrap().0))).unwrap();
        }
        verdict
    }

    #[tokio::test]
    async fn a_claim_named_with_every_block_is_voted_on_once() {
        let chain = TestChain::new();
        chain.claim_in_voting();
        let mut asked = listen(&chain.wiring.mail.consensus).await;
        let mut votes = listen(&chain.wiring.mail.votes).await;
        let mut guard = Guard::new(chain.wiring.genesis_hash, Some(validator(1)));
        Actor::spawn(None, Verifier, args(&chain)).await.unwrap();
        hand(&chain, 400);
        hand(&chain, 400);
        // The first question is lost: no vote, so the claim is taken up again when it is named again.
        assert_eq!(sign(&mut asked, None).await, Verdict::Abstain);
        silent(&mut asked).await;
        hand(&chain, 400);
        sign(&mut asked, Some(&mut guard)).await;
        assert!(matches!(next(&mut votes).await, VotesMsg::Own(_)));
        hand(&chain, 400);
        silent(&mut asked).await;
    }

    #[tokio::test]
    async fn a_restarted_verifier_takes_up_what_is_still_open() {
        let chain = TestChain::new();
        chain.claim_in_voting();
        let mut asked = listen(&chain.wiring.mail.consensus).await;
        let mut votes = listen(&chain.wiring.mail.votes).await;
        let mut guard = Guard::new(chain.wiring.genesis_hash, Some(validator(1)));
        let (first, ended) = Actor::spawn(None, Verifier, args(&chain)).await.unwrap();
        hand(&chain, 1_200);
        first.kill();
        ended.await.unwrap();
        // The work of the first has ended with it.
        silent(&mut asked).await;
        Actor::spawn(None, Verifier, args(&chain)).await.unwrap();
        hand(&chain, 400);
        sign(&mut asked, Some(&mut guard)).await;
        assert!(matches!(next(&mut votes).await, VotesMsg::Own(_)));
        silent(&mut asked).await;
    }
}
