//! Checks claims of others and votes on them.
//!
//! Inbox: 256 claims, one more is refused and comes again with the next block. At most as many checks at once as there are
//! permits; signatures of verdicts never wait here. A proof is verified off the async threads; a program is re-executed in a
//! sandboxed child. Restart: what was in work is asked for again by the scheduler; the guard never signs a second answer.
//!
//! What lies with this node (bytes not to be had, a resource limit, a panic of the verifier) is an abstention, never a "no".

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use network::PeerId;
use prover::worker::{JobError, WorkerConfig};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{Semaphore, oneshot};
use types::ids::{Height, JobId};
use types::job::{JobSpec, OutputRule};
use types::keys::PublicKey;
use types::statement::Statement;
use types::verdict::{Check, Claim, ProofVote, Verdict, VoteSubject};

use crate::api::views::Event;
use crate::app::blobs::{self, BlobError};
use crate::app::votes::VotesMsg;
use crate::crossings::Crossing;
use crate::mailbox::{Letter, Sent};
use crate::safety::consensus::ConsensusMsg;
use crate::wiring::Wiring;

/// Proofs checked at once: each takes some 20 ms of one core and 50 MB.
const CHECKS_MAX: usize = 2;
/// Programs re-executed at once: each is a child with the executor's memory.
const RUNS_MAX: usize = 2;
/// Claims in work or waiting for a permit.
const WORK_MAX: usize = 128;
/// A claim whose bytes do not come within this share of the voting time is abstained on.
const FETCH_SHARE: u64 = 2;

/// Messages.
#[derive(Debug)]
pub(crate) enum VerifierMsg {
    /// Check this claim and vote.
    Check(Box<ClaimToCheck>),
    /// A check is over.
    Done {
        /// Its slot.
        slot: (Height, JobId, u32),
    },
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

/// Its state.
#[derive(Debug)]
pub(crate) struct VerifierState {
    args: VerifierArgs,
    permits: Arc<Permits>,
    working: BTreeSet<(Height, JobId, u32)>,
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
        Ok(VerifierState { args, permits: Arc::new(Permits::new()), working: BTreeSet::new() })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        letter: Self::Msg,
        state: &mut VerifierState,
    ) -> Result<(), ActorProcessingErr> {
        match letter.message {
            VerifierMsg::Check(claim) => {
                let slot = (claim.subject.height, claim.subject.job, claim.subject.attempt);
                if state.working.len() >= WORK_MAX || !state.working.insert(slot) {
                    return Ok(());
                }
                let (args, permits) = (state.args.clone(), Arc::clone(&state.permits));
                tokio::spawn(async move {
                    let verdict = check(&args, &permits, &claim).await;
                    vote(&args, &claim.subject, verdict).await;
                    let _closed = args.wiring.mail.verifier.send_owed(VerifierMsg::Done { slot });
                });
            }
            VerifierMsg::Done { slot } => {
                state.working.remove(&slot);
            }
        }
        Ok(())
    }
}

/// Has the guard sign the verdict, then publishes it. A slot signed before gives the same vote again or none.
async fn vote(args: &VerifierArgs, subject: &VoteSubject, verdict: Verdict) {
    let vote = ProofVote { subject: subject.clone(), verdict, validator: args.key };
    let (reply, signed) = oneshot::channel();
    let message = ConsensusMsg::SignVerdict { vote: Box::new(vote), reply };
    // At most one message for each claim in work: bounded without a credit, and never lost to a flood of gossip.
    if args.wiring.mail.consensus.send_owed(message) != Sent::Accepted {
        tracing::warn!(job = %subject.job, "verdict not signed: consensus is not running");
        return;
    }
    match signed.await {
        Ok(Some(vote)) => {
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
            let _busy = args.wiring.mail.votes.send_owed(VotesMsg::Own(vote));
        }
        Ok(None) => tracing::info!(job = %subject.job, "this slot is signed already; no second verdict"),
        Err(_) => tracing::warn!(job = %subject.job, "verdict not signed: consensus restarted"),
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
        let blob = blobs::ensure(&args.wiring, hash, claim.hint, limit).await?;
        let Ok(_permit) = permits.checks.acquire().await else { return Ok(None) };
        let (statement, prover) = (claim.statement.clone(), claim.subject.prover);
        let length = blob.len() as u64;
        let checked = tokio::task::spawn_blocking(move || proof::verify(&blob, &statement, &prover)).await;
        Ok::<_, BlobError>(checked.ok().map(|c| (length, c)))
    };
    let (expected, verified) = tokio::join!(expected, verified);
    let verified = match verified {
        Ok(Some((length, Ok(verified)))) if length == bytes => verified,
        Ok(Some((length, Ok(_)))) => {
            tracing::warn!(%job, length, bytes, "the proof's length is not the committed one");
            return Verdict::Invalid(Check::Format);
        }
        Ok(Some((_, Err(rejection)))) if rejection.panicked => {
            tracing::warn!(%job, reason = %rejection.reason, "the verifier panicked; abstaining");
            return Verdict::Abstain;
        }
        Ok(Some((_, Err(rejection)))) => {
            tracing::warn!(%job, check = %rejection.check, reason = %rejection.reason, "proof refused");
            return Verdict::Invalid(rejection.check);
        }
        Ok(None) => return Verdict::Abstain,
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
    reason: types::verdict::FailureReason,
    steps: u64,
) -> Verdict {
    let job = claim.subject.job;
    match execute(args, permits, claim, Duration::from_millis(claim.voting_ms / FETCH_SHARE)).await {
        Err(RunFailure::Job(JobError::Failed { reason: found, steps: at, .. })) if found == reason && at == steps => {
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
    let fetch = |hash| blobs::ensure(&args.wiring, hash, None, fetch_limit);
    let here = |e: BlobError| RunFailure::Here(e.to_string());
    let program = fetch(claim.spec.program.hash).await.map_err(here)?;
    let arguments = match claim.spec.args {
        Some(blob) => Some(fetch(blob.hash).await.map_err(here)?),
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
