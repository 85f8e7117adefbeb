//! Values of the records in `Space::State`: each begins with its version, unknown versions are refused.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};
use types::codec::Wire;
use types::ids::{Amount, BlockId, Digest, GenesisHash, Height, JobId, TimeMs};
use types::job::{JobSpec, JobStatus, Stage, TaskKind};
use types::keys::PublicKey;
use types::params::Params;
use types::transaction::DeclineReason;
use types::validator::ValidatorSet;
use types::verdict::{Check, Claim, FailureReason};

macro_rules! record {
    ($type:ident, $name:literal, $max:expr) => {
        impl Wire for $type {
            const NAME: &'static str = $name;
            const VERSION: u16 = 1;
            const BYTES_MAX: usize = $max;
        }
    };
}

/// Identity of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Chain {
    /// Hash of the genesis document.
    pub genesis: GenesisHash,
    /// Name of the chain.
    pub chain_id: String,
}
record!(Chain, "chain record", 256);

/// Parameters in force.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ParamsRecord {
    /// The parameters.
    pub params: Params,
}
record!(ParamsRecord, "parameters record", 4 << 10);

/// The last block of this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Head {
    /// Its height; 0 after genesis.
    pub height: Height,
    /// Its id; the genesis hash at height 0.
    pub id: BlockId,
    /// Its time.
    pub time_ms: TimeMs,
    /// Its seed.
    pub seed: Digest,
    /// Whether it changed anything but this record: then one more block follows at once.
    pub changed: bool,
}
record!(Head, "head record", 256);

/// Sums of credits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Supply {
    /// All credits, fixed at genesis.
    pub total: Amount,
    /// Credits that nobody can spend any more: slashed stake.
    pub burned: Amount,
}
record!(Supply, "supply record", 128);

/// Numbers of things, for bounds that must not need a scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Counters {
    /// Jobs that are not terminal.
    pub live_jobs: u32,
    /// Registered provers, exiting ones included.
    pub provers: u32,
    /// Validator records, unbonding ones included.
    pub validators: u32,
    /// Eras of the validator set.
    pub eras: u32,
}
record!(Counters, "counters record", 128);

/// An account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Account {
    /// Credits to spend.
    pub balance: Amount,
    /// Nonce of the next transaction.
    pub nonce: u64,
}
record!(Account, "account record", 64);

/// What an idempotency key was used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Idempotency {
    /// The job.
    pub job: JobId,
    /// Hash of the specification.
    pub content: Digest,
}
record!(Idempotency, "idempotency record", 128);

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "code")]
pub enum JobError {
    /// The program fails; certified by the validators.
    ProgramFailed {
        /// Why.
        reason: FailureReason,
        /// Steps until then.
        steps: u64,
    },
    /// Every attempt was voided, rejected or declined.
    AttemptsUsedUp {
        /// Attempts made.
        attempts: u32,
    },
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct JobRecord {
    /// What was asked.
    pub spec: JobSpec,
    /// Who asked and pays.
    pub sender: PublicKey,
    /// Trace id of the submission.
    pub trace: u64,
    /// Height of the block with the submission.
    pub submitted_height: Height,
    /// Time of that block.
    pub submitted_ms: TimeMs,
    /// When it expires unless a claim is in voting.
    pub deadline: TimeMs,
    /// Status.
    pub status: JobStatus,
    /// Stage.
    pub stage: Stage,
    /// Credits held; 0 once terminal.
    pub escrow: Amount,
    /// Credits charged; 0 until paid.
    pub fee_paid: Amount,
    /// Seed of the block after the submission, once it is there.
    pub seed: Option<Digest>,
    /// Provers at the submission: key of a [`Snapshot`].
    pub snapshot: Digest,
    /// Number of tasks.
    pub tasks: u32,
    /// When it ended.
    pub ended: Option<TimeMs>,
    /// Why it failed.
    pub error: Option<JobError>,
}
record!(JobRecord, "job record", 64 << 10);

/// The exclusive turn of the first prover in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Lease {
    /// Who has it.
    pub prover: PublicKey,
    /// Until when.
    pub until: TimeMs,
}

/// A claim that was committed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Commit {
    /// Who committed.
    pub prover: PublicKey,
    /// The claim.
    pub claim: Claim,
    /// Height of the block with the commit.
    pub height: Height,
    /// Time of that block.
    pub time: TimeMs,
    /// Rank of the prover at that time; `None` for one that registered after the submission.
    pub rank: Option<u32>,
}

/// How far a task has come.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum TaskState {
    /// The job's seed is not known yet.
    Unseeded,
    /// May be proved; see the lease.
    Open,
    /// A claim is in voting.
    Voting(Commit),
    /// A claim was certified.
    Certified(Commit),
    /// The job ended without a certified claim.
    Closed,
}

/// A claim that got no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Rejection {
    /// Attempt of the claim.
    pub attempt: u32,
    /// Who committed it.
    pub prover: PublicKey,
    /// The check most power named as failed: the prover may not try this task again. `None` when the time for verdicts ended
    /// without a decision, which may be nobody's fault: the prover then stands behind all others for this task, so that one
    /// whose proofs nobody can fetch does not use up every attempt.
    pub check: Option<Check>,
}

/// A task of a job.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TaskRecord {
    /// Kind.
    pub kind: TaskKind,
    /// Attempt, from 0.
    pub attempt: u32,
    /// State.
    pub state: TaskState,
    /// When this attempt's windows began.
    pub window_start: TimeMs,
    /// The exclusive turn, while it lasts.
    pub lease: Option<Lease>,
    /// Who gave this attempt away.
    pub declines: BTreeMap<PublicKey, DeclineReason>,
    /// Claims rejected or voided so far.
    pub rejections: Vec<Rejection>,
    /// When the next attempt begins because everyone declined this one.
    pub retry_at: Option<TimeMs>,
}
record!(TaskRecord, "task record", 256 << 10);

/// A prover as a job's submission found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotEntry {
    /// The prover.
    pub prover: PublicKey,
    /// Its weight.
    pub weight: u32,
    /// Largest step limit it takes.
    pub steps_max: u64,
    /// Whether lapsed leases put it behind all others then.
    pub lapsed: bool,
}

/// All provers as a job's submission found them, stored once for all jobs that found the same, by content.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Snapshot {
    /// By rising key.
    pub entries: Vec<SnapshotEntry>,
}
record!(Snapshot, "prover snapshot", 64 << 10);

/// Live jobs that use a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotRefs {
    /// How many.
    pub refs: u32,
}
record!(SnapshotRefs, "prover snapshot use", 16);

/// A registered prover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ProverRecord {
    /// Weight in the assignment.
    pub weight: u32,
    /// Largest step limit it takes.
    pub steps_max: u64,
    /// Credits locked.
    pub deposit: Amount,
    /// Leases lapsed in a row.
    pub lapses: u32,
    /// Until when it stands behind all others in new assignments.
    pub ineligible_until: TimeMs,
    /// When it registered.
    pub registered: Height,
    /// It leaves as soon as `open` is 0.
    pub exiting: bool,
    /// Leases held and claims in voting.
    pub open: u32,
}
record!(ProverRecord, "prover record", 128);

/// A validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ValidatorRecord {
    /// Account that owns it and is paid.
    pub account: PublicKey,
    /// Voting power in the latest set; 0 while unbonding.
    pub power: u64,
    /// Credits locked.
    pub stake: Amount,
    /// Time of the block that last set its power; 0 since genesis.
    pub power_set: TimeMs,
    /// When the stake returns, once it left.
    pub unbonds: Option<TimeMs>,
}
record!(ValidatorRecord, "validator record", 128);

/// A validator set and the first height at which it counts.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Era {
    /// First height.
    pub from: Height,
    /// The set.
    pub set: ValidatorSet,
}
record!(Era, "validator set record", 8 << 10);

/// What the attestations say about a validator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Uptime {
    /// When it last attested.
    pub attested: TimeMs,
    /// When another validator last said it reached it.
    pub reached: TimeMs,
    /// How often others said so.
    pub count: u64,
}
record!(Uptime, "uptime record", 64);

/// Kind of offence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OffenceKind {
    /// Two votes.
    Votes,
    /// Two proposals.
    Proposals,
    /// Two verdicts.
    Verdicts,
}

/// A proven offence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Offence {
    /// Kind.
    pub kind: OffenceKind,
    /// Consensus key.
    pub offender: PublicKey,
    /// Height of the two messages.
    pub height: Height,
    /// Height of the block that recorded it.
    pub recorded: Height,
    /// Stake burned.
    pub slashed: Amount,
}
record!(Offence, "offence record", 128);

/// Time of a group of heights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GroupTime {
    /// Time of the first block of the group.
    pub time: TimeMs,
}
record!(GroupTime, "block time record", 16);

/// What happens when its time has come. A timer that no longer applies does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum TimerKind {
    /// The job expires.
    Deadline(JobId),
    /// The lease of an attempt lapses.
    Lease(JobId, u32, u32),
    /// The attempt in voting is void.
    Voting(JobId, u32, u32),
    /// The next attempt begins after everyone declined.
    Retry(JobId, u32, u32),
    /// A validator's stake returns.
    Unbond(PublicKey),
    /// The records of a terminal job are dropped.
    Prune(JobId),
}
