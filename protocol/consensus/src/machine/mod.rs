//! The consensus machine: one height after another, each decided by the core, with everything around it that must hold
//! across crashes.
//!
//! Relies on its shell to execute [`Output`]s in order, to answer [`Output::CheckBlock`] (or to withhold the answer: missing
//! bytes or a doubtful clock are no reason for "invalid"), and to start the next height when the decided block is committed.

mod effects;
mod inputs;
mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_malachitebft_core_consensus::{Error as CoreError, Input as CoreInput, Params, State, ValuePayload, process};
use bincode::{Decode, Encode};
use thiserror::Error;
use types::TypeError;
use types::block::{Block, DecidedBlock};
use types::evidence::Evidence;
use types::gossip::{ConsensusMessage, ProposalMessage};
use types::ids::{BlockId, GenesisHash, Height, Round, TimeMs};
use types::keys::PublicKey;
use types::params::Timeouts;
use types::validator::ValidatorSet;
use types::verdict::{ProofVote, SignedProofVote};
use types::vote::{CertificateError, CommitCertificate, SignedProposal, SignedVote, VoteKind};

use crate::admission::{Acceptance, Fault};
use crate::context::{Address, Chain, CoreHeight, CoreSet};
use crate::convert;
use crate::evidence::Watch;
use crate::guard::{Guard, GuardRecord};
use crate::held::Held;
use crate::waits::Waits;

/// Decided heights whose votes are still compared with late ones.
pub const DECIDED_WINDOW: u64 = 16;
/// Different blocks kept for one height; the ones proposed longest ago give way.
pub const CANDIDATES_MAX: usize = 32;
/// Votes, and proposals, handed out for one height.
pub const VOTES_OF_MAX: usize = 2048;
/// Longest timeout, milliseconds, whatever the round.
pub const TIMEOUT_MS_MAX: u64 = 60_000;

/// Purpose of a timer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub enum TimerKind {
    /// No proposal came in time.
    Propose,
    /// Prevotes do not agree.
    Prevote,
    /// Precommits do not agree.
    Precommit,
    /// Own last messages are due again.
    Rebroadcast,
}

/// Who is at a later height.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ahead {
    /// Nobody that this node knows of.
    Nobody,
    /// Validators with a third of the power or less: all of them may be faulty.
    Few,
    /// More than a third of the power: at least one that is not faulty.
    AnHonestOne,
}

/// Identity of a timer: setting one that runs replaces it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TimerId {
    /// Its height.
    pub height: Height,
    /// Its round.
    pub round: Round,
    /// What for.
    pub kind: TimerKind,
}

/// What the shell feeds.
#[derive(Clone, Debug)]
pub enum Input {
    /// Begins a height, at start-up or when the block below is committed. `wal` holds the records that the log has for this
    /// height, in order; empty on a new one.
    StartHeight {
        /// The height: above every earlier one.
        height: Height,
        /// Its validator set.
        set: ValidatorSet,
        /// Timeouts from the state's parameters.
        timeouts: Timeouts,
        /// Records to replay.
        wal: Vec<Vec<u8>>,
    },
    /// A consensus message from a peer, or from a peer's answer to `Request::Votes`.
    Message {
        /// The peer, opaque; for logs.
        from: Option<u64>,
        /// The message.
        message: ConsensusMessage,
    },
    /// A proposal with its block.
    Proposal(ProposalMessage),
    /// A proposal whose block did not come with it, from a peer's answer to `Request::Votes`.
    ProposalOnly(SignedProposal),
    /// The bytes asked for by [`Output::FetchBlock`].
    BlockFetched {
        /// The height it is proposed for.
        height: Height,
        /// The block.
        block: Block,
    },
    /// The answer to [`Output::BuildBlock`].
    BlockBuilt {
        /// Height asked for.
        height: Height,
        /// Round asked for.
        round: Round,
        /// The block, executed and valid here.
        block: Block,
    },
    /// The answer to [`Output::CheckBlock`]. `valid: false` only for what is wrong on every node for ever.
    BlockChecked {
        /// Height asked for.
        height: Height,
        /// Round asked for.
        round: Round,
        /// The block.
        block: BlockId,
        /// The answer.
        valid: bool,
    },
    /// A timer fired.
    Timer(TimerId),
    /// A decided block from sync, for the current height.
    Synced(DecidedBlock),
}

/// What the shell executes, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Appends a record to the log of this height.
    AppendWal {
        /// The height.
        height: Height,
        /// The record.
        record: Vec<u8>,
    },
    /// Appends a record to the guard file.
    PersistGuard(GuardRecord),
    /// Makes every record appended and persisted so far durable before anything that follows.
    Flush,
    /// Sends to all.
    Publish(ConsensusMessage),
    /// Sends to all.
    PublishProposal(ProposalMessage),
    /// Starts or restarts a timer.
    SetTimer {
        /// Which.
        id: TimerId,
        /// From now, milliseconds.
        after_ms: u64,
    },
    /// Stops a timer.
    CancelTimer(TimerId),
    /// Stops all timers.
    CancelAllTimers,
    /// Asks for a block to propose; answered by [`Input::BlockBuilt`].
    BuildBlock {
        /// For this height.
        height: Height,
        /// For this round.
        round: Round,
        /// After this long, milliseconds, the answer is useless.
        timeout_ms: u64,
    },
    /// Asks whether a block is valid; answered by [`Input::BlockChecked`], or withheld.
    CheckBlock {
        /// The height.
        height: Height,
        /// The round of its proposal, or of its certificate.
        round: Round,
        /// The block; its body is bound to its header already.
        block: Arc<Block>,
        /// More than two thirds committed to it: its time has been judged by others, only its effects are asked for.
        certified: bool,
    },
    /// Asks for a proposed block's bytes; answered by [`Input::BlockFetched`].
    FetchBlock {
        /// The height.
        height: Height,
        /// The block.
        block: BlockId,
    },
    /// The height is decided: commit, then start the next height. Always the last output of an input.
    Decided(DecidedBlock),
    /// A validator provably signed two messages for one slot.
    Evidence(Evidence),
    /// A round begins.
    EnteredRound {
        /// The height.
        height: Height,
        /// The round.
        round: Round,
        /// Who proposes in it.
        proposer: PublicKey,
    },
}

/// Why the node must stop: exit code 6 or 5, never a blind restart.
#[derive(Debug, Error)]
pub enum Fatal {
    /// A record of the consensus log can't be read.
    #[error("consensus log of height {height}: record {index} is corrupt ({error})")]
    WalRecord {
        /// The height.
        height: Height,
        /// Index of the record.
        index: usize,
        /// What is wrong.
        error: TypeError,
    },
    /// A record of the consensus log belongs to another height.
    #[error("consensus log of height {height}: record {index} belongs to height {found}")]
    WalHeight {
        /// The height of the log.
        height: Height,
        /// Index of the record.
        index: usize,
        /// The height found.
        found: Height,
    },
    /// Heights must rise.
    #[error("height {asked} was to be started after height {current}")]
    HeightOrder {
        /// Height asked for.
        asked: Height,
        /// Height running.
        current: Height,
    },
    /// Replaying the log led to another message than the logged one.
    #[error("consensus log of height {height}: replay diverged ({detail})")]
    ReplayDiverged {
        /// The height.
        height: Height,
        /// From the core.
        detail: String,
    },
    /// The core broke its own contract.
    #[error("consensus core: {0}")]
    Core(String),
    /// The core uses a block whose bytes this crate let go of.
    #[error("height {height}: the bytes of block {block} are needed and not held")]
    MissingBlock {
        /// The height.
        height: Height,
        /// The block.
        block: BlockId,
    },
    /// More than two thirds committed to a block that is invalid here.
    #[error("block {block} at height {height} is certified but invalid on this node")]
    CertifiedInvalid {
        /// The height.
        height: Height,
        /// The block.
        block: BlockId,
    },
}

/// Why a synced block was not taken.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum SyncRefused {
    /// No height has been started.
    #[error("no height has been started")]
    NotStarted,
    /// Its certificate proves nothing.
    #[error("{0}")]
    Certificate(#[from] CertificateError),
    /// Its body is not that of its header.
    #[error("{0}")]
    Block(crate::admission::Fault),
}

/// A proposed block.
struct Candidate {
    block: Arc<Block>,
    /// Highest round in which it was proposed.
    round: Round,
    /// The ledger's answer.
    valid: Option<bool>,
}

/// Everything of the machine but the core's state, so that the effect handler can borrow it while the core runs.
struct Inner {
    genesis: GenesisHash,
    guard: Guard,
    height: Height,
    timeouts: Timeouts,
    waits: Waits,
    /// Time of the input being handled, wall clock: for measuring, never for a decision.
    now: TimeMs,
    /// Sets of the decided heights still watched, and of the current one.
    sets: BTreeMap<Height, Arc<ValidatorSet>>,
    watch: Watch,
    candidates: BTreeMap<BlockId, Candidate>,
    /// Proposals whose bytes are missing: block and the rounds that named it.
    wanted: BTreeMap<BlockId, BTreeSet<Round>>,
    /// Certificate taken from sync, whose block is being checked.
    synced: Option<(Round, BlockId)>,
    /// A decision whose block has to be fetched again.
    undelivered: Option<CommitCertificate>,
    resends: BTreeMap<(Round, Option<VoteKind>), u8>,
    out: Vec<Output>,
    decided: Option<DecidedBlock>,
    wal_dirty: bool,
    guard_pending: Vec<GuardRecord>,
    /// Records that the log already has, while they are replayed.
    replayed: Option<BTreeSet<Vec<u8>>>,
    /// Proposal asked for while the log is replayed.
    build_pending: Option<Round>,
    /// The guard refused: no more messages of ours at this height.
    refused: bool,
    fatal: Option<Fatal>,
}

/// The machine.
pub struct Machine {
    core: Option<State<Chain>>,
    inner: Inner,
    held: Held,
}

impl Machine {
    /// A machine that waits for its first [`Input::StartHeight`]. Without a key in `guard` it follows and never signs.
    pub fn new(guard: Guard) -> Self {
        let nobody = Timeouts { propose_ms: 1, prevote_ms: 1, precommit_ms: 1, delta_ms: 0, rebroadcast_ms: 1 };
        let inner = Inner {
            genesis: *guard.genesis(),
            guard,
            height: Height(0),
            timeouts: nobody,
            waits: Waits::default(),
            now: TimeMs(0),
            sets: BTreeMap::new(),
            watch: Watch::new(),
            candidates: BTreeMap::new(),
            wanted: BTreeMap::new(),
            synced: None,
            undelivered: None,
            resends: BTreeMap::new(),
            out: Vec::new(),
            decided: None,
            wal_dirty: false,
            guard_pending: Vec::new(),
            replayed: None,
            build_pending: None,
            refused: false,
            fatal: None,
        };
        Self { core: None, inner, held: Held::default() }
    }

    /// Takes one input; `now` is the wall clock, used to measure how long proposals take, and in logs. It decides nothing.
    ///
    /// # Errors
    /// [`Fatal`]: the node must stop. Nothing from outside leads there.
    pub fn handle(&mut self, now: TimeMs, input: Input) -> Result<Vec<Output>, Fatal> {
        self.inner.now = now;
        match input {
            Input::StartHeight { height, set, timeouts, wal } => self.start_height(height, set, timeouts, &wal)?,
            Input::Message { from, message } => self.on_message(now, from, message)?,
            Input::Proposal(message) => self.on_proposal(message)?,
            Input::ProposalOnly(proposal) => self.on_proposal_only(proposal)?,
            Input::BlockFetched { height, block } => self.on_block_fetched(height, block),
            Input::BlockBuilt { height, round, block } => self.on_block_built(height, round, block)?,
            Input::BlockChecked { height, round, block, valid } => {
                self.on_block_checked(height, round, block, valid)?
            }
            Input::Timer(id) => self.on_timer(id)?,
            Input::Synced(decided) => self.on_synced(decided)?,
        }
        self.inner.finish()
    }

    /// Height being decided; 0 before the first start.
    pub const fn height(&self) -> Height {
        self.inner.height
    }

    /// Round being decided.
    pub fn round(&self) -> Round {
        self.core.as_ref().map_or(Round(0), |core| convert::wire_round(core.round()))
    }

    /// Whether this node signs at the current height.
    pub fn is_signing(&self) -> bool {
        self.inner.is_validator() && !self.inner.refused
    }

    /// The signer's guard.
    pub const fn guard(&self) -> &Guard {
        &self.inner.guard
    }

    /// Signs a verdict on a claim. The outputs make the signature durable; it may leave when they are executed.
    ///
    /// # Errors
    /// [`Refusal`](crate::guard::Refusal), with nothing to execute.
    pub fn sign_proof_vote(
        &mut self,
        vote: ProofVote,
    ) -> Result<(SignedProofVote, Vec<Output>), crate::guard::Refusal> {
        let (signed, record) = self.inner.guard.sign_proof_vote(vote)?;
        let outputs = record.map_or(Vec::new(), |record| vec![Output::PersistGuard(record), Output::Flush]);
        Ok((signed, outputs))
    }

    /// Lets go of what the guard remembers of votes and proposals below `consensus`, and of verdicts on commits below
    /// `verdicts`; nothing is ever signed there again. Starting a height lets go of votes below it by itself.
    pub fn guard_forget(&mut self, consensus: Height, verdicts: Height) {
        self.inner.guard.forget_below(consensus);
        self.inner.guard.forget_verdicts_below(verdicts);
    }

    /// Votes and proposals known for a current or recent height: the answer to `Request::Votes`.
    pub fn votes_of(&self, height: Height) -> (Vec<SignedVote>, Vec<SignedProposal>) {
        self.inner.watch.known(height, VOTES_OF_MAX)
    }

    /// A proposed block of the current height: the answer to `Request::ProposedBlock`.
    pub fn proposed_block(&self, height: Height, block: BlockId) -> Option<Arc<Block>> {
        if height != self.inner.height {
            return None;
        }
        self.inner.candidates.get(&block).map(|c| Arc::clone(&c.block))
    }

    /// Blocks of the current height that were named, or decided, but whose bytes are missing.
    pub fn wanted_blocks(&self) -> Vec<BlockId> {
        let decided = self.inner.undelivered.as_ref().map(|c| c.block);
        decided.into_iter().chain(self.inner.wanted.keys().copied()).collect()
    }

    /// Votes held for heights to come.
    #[cfg(test)]
    pub(crate) fn held_votes(&self) -> usize {
        self.held.votes_len()
    }

    /// Who works on heights to come already, by the votes held for them and the set of the current height.
    pub fn ahead(&self) -> Ahead {
        let (voters, set) = (self.held.voters(), self.inner.set());
        let power = |set: &ValidatorSet| voters.iter().filter_map(|key| set.power_of(key)).fold(0, u64::saturating_add);
        match set {
            _ if voters.is_empty() => Ahead::Nobody,
            Some(set) if set.is_honest(power(set)) => Ahead::AnHonestOne,
            _ => Ahead::Few,
        }
    }

    /// Whether a consensus message is good and worth forwarding.
    pub fn classify(&self, message: &ConsensusMessage) -> Acceptance {
        match self.admit_message(message) {
            Ok(place) => inputs::verdict_on(message, place),
            Err(answer) => answer,
        }
    }

    /// [`Machine::classify`] and [`Input::Message`] in one, so that no signature is checked twice. The answer may leave before
    /// the outputs are executed.
    ///
    /// # Errors
    /// As [`Machine::handle`].
    pub fn judge(&mut self, now: TimeMs, message: ConsensusMessage) -> Result<(Acceptance, Vec<Output>), Fatal> {
        self.inner.now = now;
        let answer = match self.admit_message(&message) {
            Ok(place) => {
                let answer = inputs::verdict_on(&message, place);
                self.take_message(message, place)?;
                answer
            }
            Err(answer) => answer,
        };
        Ok((answer, self.inner.finish()?))
    }

    /// [`Machine::classify_proposal`] and [`Input::Proposal`] in one.
    ///
    /// # Errors
    /// As [`Machine::handle`].
    pub fn judge_proposal(
        &mut self,
        now: TimeMs,
        message: ProposalMessage,
    ) -> Result<(Acceptance, Vec<Output>), Fatal> {
        self.inner.now = now;
        let answer = match self.admit_proposal_message(&message) {
            Ok(place) => {
                self.take_proposal_message(message, place)?;
                inputs::verdict(place)
            }
            Err(answer) => answer,
        };
        Ok((answer, self.inner.finish()?))
    }

    /// Takes in a peer's answer to `Request::Votes { height }`, up to the first thing that is provably wrong: that is named,
    /// and costs the peer. An answer for another height than the running one is only late.
    ///
    /// # Errors
    /// As [`Machine::handle`].
    pub fn take_votes(
        &mut self,
        now: TimeMs,
        height: Height,
        votes: Vec<SignedVote>,
        proposals: Vec<SignedProposal>,
    ) -> Result<(Option<Fault>, Vec<Output>), Fatal> {
        self.inner.now = now;
        let fault = self.on_votes_of(height, votes, proposals)?;
        Ok((fault, self.inner.finish()?))
    }

    /// Whether messages of a height are compared here: it runs, or was decided lately in this life of the node.
    pub fn remembers(&self, height: Height) -> bool {
        self.inner.sets.contains_key(&height)
    }

    /// Whether a proposal is good and worth forwarding.
    pub fn classify_proposal(&self, message: &ProposalMessage) -> Acceptance {
        match self.admit_proposal_message(message) {
            Ok(place) => inputs::verdict(place),
            Err(answer) => answer,
        }
    }

    /// Checks a decided block for the current height against its validator set.
    ///
    /// # Errors
    /// [`SyncRefused`]: whoever sent it is to blame, unless no height runs.
    pub fn check_synced(&self, decided: &DecidedBlock) -> Result<(), SyncRefused> {
        let height = self.inner.height;
        let set = self.inner.set().ok_or(SyncRefused::NotStarted)?;
        decided.certificate.verify(&self.inner.genesis, set, height, decided.block.id())?;
        crate::admission::check_block(&self.inner.genesis, height, &decided.block).map_err(SyncRefused::Block)
    }

    /// Runs the core on one input.
    fn feed(&mut self, input: CoreInput<Chain>) -> Result<(), Fatal> {
        let Some(core) = self.core.as_mut() else { return Ok(()) };
        let inner = &mut self.inner;
        // A node that may not sign keeps following; only its own messages end.
        core.params.enabled = inner.guard.public().is_some() && !inner.refused;
        let result: Result<(), CoreError<Chain>> =
            process!(input: input, state: core, metrics: &(), with: effect => inner.on_effect(effect));
        if let Some(fatal) = inner.fatal.take() {
            return Err(fatal);
        }
        match result {
            Ok(()) => Ok(()),
            Err(error @ CoreError::ReplayDivergence(..)) => {
                Err(Fatal::ReplayDiverged { height: inner.height, detail: error.to_string() })
            }
            // The core leaves its state as it was: one step is not made, which costs at most this node's part of a round.
            Err(error @ (CoreError::DriverProcess(_) | CoreError::MissingPolkaCertificate(..))) => {
                tracing::error!(height = %inner.height, %error, "consensus input could not be applied");
                Ok(())
            }
            Err(error) => Err(Fatal::Core(error.to_string())),
        }
    }

    fn new_core(&self, height: Height, set: CoreSet) -> State<Chain> {
        let key = self.inner.guard.public();
        let params = Params {
            address: Address(key.unwrap_or(PublicKey::new([0; 32]))),
            threshold_params: arc_malachitebft_core_types::ThresholdParams::default(),
            value_payload: ValuePayload::ProposalAndParts,
            enabled: key.is_some(),
        };
        // The core's own queues for later heights stay empty: this crate holds those messages itself.
        State::new(Chain, CoreHeight(height), set, params, 1, 1)
    }
}

impl Inner {
    fn is_validator(&self) -> bool {
        match (self.guard.public(), self.set()) {
            (Some(key), Some(set)) => set.power_of(&key).is_some(),
            _ => false,
        }
    }

    /// The validator set of the current height.
    fn set(&self) -> Option<&Arc<ValidatorSet>> {
        self.sets.get(&self.height)
    }

    /// Flushes the log, then the guard: a guard record is never on disk without the inputs that led to it, so replay always
    /// leads to the same message again.
    fn flush(&mut self) {
        if std::mem::take(&mut self.wal_dirty) {
            self.out.push(Output::Flush);
        }
        if !self.guard_pending.is_empty() {
            self.out.extend(self.guard_pending.drain(..).map(Output::PersistGuard));
            self.out.push(Output::Flush);
        }
    }

    fn finish(&mut self) -> Result<Vec<Output>, Fatal> {
        if let Some(fatal) = self.fatal.take() {
            return Err(fatal);
        }
        if let Some(decided) = self.decided.take() {
            self.flush();
            self.out.push(Output::Decided(decided));
        }
        Ok(std::mem::take(&mut self.out))
    }

    fn evidence(&mut self, evidence: Option<Evidence>) {
        self.out.extend(evidence.map(Output::Evidence));
    }
}
