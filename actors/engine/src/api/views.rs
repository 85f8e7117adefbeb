//! What a node answers: plain structs, ready for JSON. Hashes and keys are lower-case hex, felts 0x-hex, amounts decimal
//! strings, heights and times numbers.

use prover::fleet::{DeviceStatus, Unmatched};
use serde::{Deserialize, Serialize};
use types::felt::Felt;
use types::ids::{Amount, BlobHash, BlockId, GenesisHash, Height, JobId, StateRoot, TimeMs, TxId};
use types::job::{JobStatus, Stage, TaskKind};
use types::keys::PublicKey;
use types::transaction::DeclineReason;
use types::verdict::{Check, FailureReason};

/// The last decided block.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeadView {
    /// Name of the chain.
    pub chain_id: String,
    /// Identity of the chain.
    pub genesis_hash: GenesisHash,
    /// Height.
    pub height: Height,
    /// Block id.
    pub hash: BlockId,
    /// State root after the block.
    pub state_root: StateRoot,
    /// Time of the block.
    pub time_ms: TimeMs,
}

/// A decided block.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BlockView {
    /// Height.
    pub height: Height,
    /// Block id.
    pub hash: BlockId,
    /// Parent block id.
    pub parent: BlockId,
    /// Time of the block.
    pub time_ms: TimeMs,
    /// Who built it.
    pub proposer: PublicKey,
    /// State root before the block, as its header has it.
    pub state_root_before: StateRoot,
    /// Round it was decided in.
    pub round: u32,
    /// Validators whose precommits are in the certificate.
    pub signers: Vec<PublicKey>,
    /// Its transactions.
    pub transactions: Vec<TxView>,
}

/// A transaction in a block.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TxView {
    /// Transaction id.
    pub tx_id: TxId,
    /// Kind, snake case: `transfer`, `submit_job`, `certify`, ...
    pub kind: String,
    /// Sender, if one signed it.
    pub sender: Option<PublicKey>,
    /// Nonce, if a sender signed it.
    pub nonce: Option<u64>,
}

/// A validator at a height.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ValidatorView {
    /// Consensus key.
    pub key: PublicKey,
    /// Voting power.
    pub power: u64,
    /// Account that is paid.
    pub account: Option<PublicKey>,
    /// Peer id bound to the key by a signed record, if known here.
    pub peer_id: Option<String>,
}

/// State of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum TxStatus {
    /// In a decided block.
    Decided {
        /// Its height.
        height: Height,
    },
    /// Known here, in no block yet.
    Pending,
    /// A submission whose input this node refused, as every node does.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
    /// Not known here.
    Unknown,
}

/// Answer to a submission.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SubmitView {
    /// Transaction id.
    pub tx_id: TxId,
    /// Where the transaction stands; `decided` is the acknowledgement.
    #[serde(flatten)]
    pub status: TxStatus,
    /// Job id, when a job was submitted. With a known idempotency key the id of the job submitted first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
}

/// A job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobView {
    /// Job id.
    pub job_id: JobId,
    /// Status.
    pub status: JobStatus,
    /// Stage; the last one reached when the job is terminal.
    pub stage: Stage,
    /// Who submitted it.
    pub sender: PublicKey,
    /// Height of the submission.
    pub submitted_height: Height,
    /// Block time of the submission.
    pub submitted_ms: TimeMs,
    /// The job expires at this block time.
    pub deadline_ms: TimeMs,
    /// Charged; nothing before the end.
    pub fee: Amount,
    /// Held back for the job while it runs: the most that it can cost.
    pub escrow: Amount,
    /// Its tasks.
    pub tasks: Vec<TaskView>,
    /// Why it failed or expired, if it did.
    pub error: Option<String>,
    /// Whether this node can hand out the receipt now.
    pub receipt_ready: bool,
}

/// A task of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskView {
    /// Index.
    pub index: u32,
    /// Kind.
    pub kind: TaskKind,
    /// `open`, `assigned`, `voting`, `certified`, `failed`, `closed`.
    pub state: String,
    /// Attempt, from 0.
    pub attempt: u32,
    /// Prover of the claim in voting or certified, else the one whose exclusive turn it is.
    pub prover: Option<PublicKey>,
    /// That prover's rank in this attempt.
    pub rank: Option<u32>,
    /// End of the current window or of voting, block time.
    pub deadline_ms: Option<TimeMs>,
    /// Proof blob committed.
    pub proof_hash: Option<BlobHash>,
    /// Progress of the proof where this node knows it (it proves itself), stage name and thousandths.
    pub progress: Option<ProgressView>,
    /// Claims voted down, and claims on which the vote ended without a decision.
    pub rejections: Vec<RejectionView>,
}

/// How far a proof is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressView {
    /// Stage: `fetch`, `run`, `trace`, `commit`, `constraints`, `quotients`, `fri`, `verify`.
    pub stage: String,
    /// Thousandths of the whole proof, by stages passed.
    pub permille: u32,
}

/// A claim that got no certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RejectionView {
    /// Attempt.
    pub attempt: u32,
    /// Who committed it.
    pub prover: PublicKey,
    /// The check that failed; `None` when the vote ended without a decision.
    pub check: Option<Check>,
}

/// Why a job waits, or how it ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainView {
    /// One line for people.
    pub summary: String,
    /// Details, one a line.
    pub reasons: Vec<String>,
    /// Provers by rank, with whether they may commit now and why not.
    pub ranks: Vec<RankView>,
}

/// A prover's place in a task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RankView {
    /// Rank, from 0.
    pub rank: u32,
    /// The prover.
    pub prover: PublicKey,
    /// Whether it may commit now.
    pub eligible_now: bool,
    /// Why not, or until when.
    pub note: String,
}

/// An account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccountView {
    /// Key.
    pub account: PublicKey,
    /// Credits that can be spent.
    pub balance: Amount,
    /// Next nonce in the ledger.
    pub nonce: u64,
    /// Next nonce counting what waits here.
    pub nonce_pending: u64,
}

/// A registered prover.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProverView {
    /// Account.
    pub account: PublicKey,
    /// Weight.
    pub weight: u32,
    /// Largest step limit it takes.
    pub steps_max: u64,
    /// Deposit locked.
    pub deposit: Amount,
    /// Behind all others until this block time, after lapsed leases.
    pub ineligible_until_ms: Option<TimeMs>,
    /// Claims certified since it registered, or since the last one that was rejected.
    pub certified: u32,
    /// Claims rejected, each before the deposit was free again after the one before.
    pub rejections: u32,
    /// May commit nothing until this block time, after a rejected claim.
    pub barred_until_ms: Option<TimeMs>,
    /// The deposit stays until this block time, after a rejected claim.
    pub locked_until_ms: Option<TimeMs>,
}

/// This node's own prover.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProverStatusView {
    /// `off`, `starting`, `idle`, `proving`, `backing_off`.
    pub state: String,
    /// Why: what it works on, or why it is idle.
    pub reason: String,
    /// Process id of the worker; of the first in `running`, if there are several.
    pub worker_pid: Option<u32>,
    /// Job it works on; the first in `running`.
    pub job_id: Option<JobId>,
    /// How far that is.
    pub progress: Option<ProgressView>,
    /// What the next proof is made on: `opencl` or `cpu`.
    pub backend: String,
    /// Why.
    pub backend_reason: String,
    /// Settings that name no device of this machine.
    #[serde(default)]
    pub problems: Vec<Unmatched>,
    /// Proofs that can be made at once.
    pub capacity: usize,
    /// All tasks in work.
    pub running: Vec<RunningView>,
    /// The OpenCL devices of this machine and what the node thinks of them.
    pub devices: Vec<DeviceStatus>,
}

impl ProverStatusView {
    /// A node that does not prove, and why.
    pub fn off(reason: &str) -> Self {
        Self {
            state: "off".into(),
            reason: reason.into(),
            worker_pid: None,
            job_id: None,
            progress: None,
            backend: "none".into(),
            backend_reason: reason.into(),
            problems: vec![],
            capacity: 0,
            running: vec![],
            devices: vec![],
        }
    }
}

/// One task in work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunningView {
    /// Its job.
    pub job_id: JobId,
    /// Attempt.
    pub attempt: u32,
    /// `opencl` or `cpu`; none when there is nothing left to prove.
    pub backend: Option<String>,
    /// The device.
    pub device: Option<String>,
    /// Process id of the worker.
    pub worker_pid: Option<u32>,
    /// How far it is.
    pub progress: Option<ProgressView>,
}

/// This node's network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetView {
    /// Own peer id.
    pub peer_id: String,
    /// Addresses listened on.
    pub listen: Vec<String>,
    /// Connected peers.
    pub peers: usize,
    /// Connected validators, this node included if it is one.
    pub validators_connected: usize,
    /// Validators of the next height.
    pub validators: usize,
    /// This node's own consensus key, if it is configured as a validator.
    pub validator: Option<PublicKey>,
    /// Voting power of that key at the next height; zero when it is not in the set.
    pub validator_power: u64,
    /// Since the last block was applied here, by this machine's clock.
    pub block_age_ms: u64,
    /// What to say when that is too long for the chain's pace.
    pub stalled: Option<String>,
    /// Mesh size by topic.
    pub mesh: Vec<(String, usize)>,
}

/// A connected peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerView {
    /// Peer id.
    pub peer_id: String,
    /// Remote address.
    pub address: String,
    /// `in` or `out`.
    pub direction: String,
    /// Validator key bound to it.
    pub validator: Option<PublicKey>,
    /// Last height it told.
    pub height: Option<Height>,
    /// Gossip score, thousandths.
    pub score_milli: i64,
    /// Round trip, ms.
    pub rtt_ms: Option<u64>,
}

/// An offence on record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EvidenceView {
    /// Identity of the offence, hex.
    pub offence: String,
    /// `votes`, `proposals` or `verdicts`.
    pub kind: String,
    /// Who did it.
    pub offender: PublicKey,
    /// Height of the offence.
    pub height: Height,
    /// Height of the block that records it.
    pub recorded_height: Height,
    /// Stake taken.
    pub slashed: Amount,
}

/// Price of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EstimateView {
    /// Price of the step limit asked about: what must be escrowed at least.
    pub fee: Amount,
    /// Largest step limit the chain takes.
    pub steps_max: u64,
    /// Longest deadline, ms.
    pub deadline_ms_max: u64,
    /// Provers that take such a job now.
    pub provers: usize,
}

/// Something that happened, for subscriptions. `seq` rises by one on this node; a gap means that a reader was too slow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventView {
    /// Sequence number.
    pub seq: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Events.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// A block was decided and applied.
    Head(HeadView),
    /// A job changed.
    Job(Box<JobView>),
    /// A verdict of this node on a claim.
    Verdict {
        /// The job.
        job_id: JobId,
        /// Attempt.
        attempt: u32,
        /// `valid`, `invalid` or `abstain`.
        verdict: String,
        /// The check that failed.
        check: Option<Check>,
    },
}

/// One part of a node's health.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ComponentHealth {
    /// `consensus`, `database`, `network`, `prover`, `system_resources`, `workers`.
    pub name: String,
    /// `healthy`, `degraded` or `unhealthy`.
    pub status: String,
    /// Why.
    pub message: String,
    /// Time the check took.
    pub response_time_ms: u64,
}

/// A node's health.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HealthView {
    /// Worst of the components.
    pub status: String,
    /// Components.
    pub components: Vec<ComponentHealth>,
    /// Whether the node follows consensus and can serve; `None` is ready, else why not.
    pub not_ready: Option<String>,
}

/// Why a program failed, in a job's `error`.
pub fn failure_text(reason: FailureReason, steps: u64) -> String {
    match reason {
        FailureReason::StepLimit => {
            format!("the program reached its step limit of {steps} steps; submit it with a larger max_steps")
        }
        FailureReason::Execution => format!("the program failed in the virtual machine after {steps} steps"),
        FailureReason::Hint => {
            format!("a hint of the program failed after {steps} steps; check the arguments it reads")
        }
        FailureReason::Output => format!(
            "the program ended after {steps} steps with another output than the job fixes; submit it with the output it has"
        ),
    }
}

/// Why an attempt was given away by so many provers, in a job's `error`.
pub fn declined_text(provers: usize, reason: DeclineReason) -> String {
    let why = match reason {
        DeclineReason::Memory => "its run or its proof needs more memory than they have; make the program smaller",
        DeclineReason::Busy => "they were busy or shutting down; submit it again",
        DeclineReason::Input => "the program or its arguments could not be had, or were refused; upload them again",
        DeclineReason::Worker => "their worker crashed, hung or was killed on it",
        DeclineReason::Unprovable => "the run is correct, but this proof system can't prove it",
    };
    format!("{provers} provers declined the last attempt: {why}")
}

/// A felt list in answers.
pub type Felts = Vec<Felt>;
