//! The voter: malachite's core inside [`consensus::Machine`], inside an actor that carries out the machine's outputs in order.
//!
//! Inbox: 2,048 messages from outside; gossip beyond it is ignored and asked for again. Waits only for its own subtree: the
//! log, the guard and the store, each with a time limit whose end stops the node. A decision is committed after all outputs of
//! its input are carried out, so that this node's own precommit has left before. Restart: never; the node stops.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use consensus::guard::Refusal;
use consensus::{Acceptance, Ahead, Fatal, Guard, GuardRecord, Ignored, Input, Machine, Output, TimerId};
use ledger::Executed;
use network::{GossipMessage, MessageId, PeerId, Verdict};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use storage::{BlockCommit, SignedMessages};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use types::Wire;
use types::block::{Block, DecidedBlock};
use types::gossip::{ConsensusMessage, ProposalMessage};
use types::ids::{BlockId, Height, Round, TimeMs};
use types::receipt::SetChange;
use types::transaction::Transaction;
use types::verdict::{ProofVote, SignedProofVote};
use types::vote::{CommitCertificate, SignedProposal, SignedVote};

use super::credit::Credits;
use super::disk::{DiskError, DiskHandle};
use super::writer::WriterHandle;
use super::{blocks, counting, credit, pacing};
use crate::app::fraud::FraudMsg;
use crate::crossings::Crossing;
use crate::mailbox::Letter;
use crate::reads;
use crate::supervisor::StopReason;
use crate::task::Task;
use crate::wiring::{ChainView, Wiring, wall_clock};

/// Executed proposals kept for their commit; a height rarely sees more than two.
const EXECUTED_MAX: usize = 8;
/// The guard forgets votes this many heights below the committed one.
pub(crate) const GUARD_KEEP: u64 = 4;

/// Messages.
#[derive(Debug)]
pub(crate) enum ConsensusMsg {
    /// A vote or certificate from gossip; to be judged.
    Gossip {
        /// For the judgement.
        id: MessageId,
        /// The peer that sent it here.
        source: PeerId,
        /// The message.
        message: Box<ConsensusMessage>,
    },
    /// A proposal with its block from gossip; to be judged.
    Proposal {
        /// For the judgement.
        id: MessageId,
        /// The peer that sent it here.
        source: PeerId,
        /// The message.
        message: Box<ProposalMessage>,
    },
    /// Votes and proposals a peer sent on request.
    PeerVotes {
        /// The peer.
        peer: PeerId,
        /// The height asked for.
        height: Height,
        /// Votes.
        votes: Vec<SignedVote>,
        /// Proposals.
        proposals: Vec<SignedProposal>,
    },
    /// The bytes of a proposed block, from a peer.
    Fetched {
        /// The height it is proposed for.
        height: Height,
        /// The block.
        block: Box<Block>,
    },
    /// A decided block from sync, for the current height.
    Synced(Box<DecidedBlock>),
    /// There may be work for the next block.
    Work,
    /// The pace timer fired.
    Pace {
        /// Set number, so that a late tick of an earlier timer is ignored.
        generation: u64,
    },
    /// A consensus timer fired.
    Timer {
        /// Which.
        id: TimerId,
        /// Set number, as for `Pace`.
        generation: u64,
    },
    /// A block to propose is built.
    Built {
        /// For this height.
        height: Height,
        /// For this round.
        round: Round,
        /// The block with its effects.
        built: Box<(Block, Executed)>,
    },
    /// A proposed block is checked.
    Checked {
        /// The height.
        height: Height,
        /// The round.
        round: Round,
        /// The block.
        block: Arc<Block>,
        /// The answer.
        outcome: Box<blocks::Checked>,
    },
    /// Sign a verdict on a claim, guarded like a vote.
    SignVerdict {
        /// The verdict.
        vote: Box<ProofVote>,
        /// The signed verdict, or the one that fills the slot already; `None` when nothing may be signed there.
        reply: oneshot::Sender<Option<Box<SignedProofVote>>>,
    },
    /// What is known of a height's votes, for a peer.
    VotesOf {
        /// The height.
        height: Height,
        /// The answer.
        reply: oneshot::Sender<(Vec<SignedVote>, Vec<SignedProposal>)>,
    },
    /// A proposed block's bytes, for a peer.
    ProposedBlock {
        /// The height.
        height: Height,
        /// The block.
        block: BlockId,
        /// The answer.
        reply: oneshot::Sender<Option<Arc<Block>>>,
    },
}

/// The actor.
#[derive(Clone, Debug)]
pub(crate) struct Consensus;

/// What it is started with.
pub(crate) struct ConsensusArgs {
    /// Where everything is.
    pub(crate) wiring: Wiring,
    /// The machine, its guard restored.
    pub(crate) machine: Machine,
    /// The log and the guard file.
    pub(crate) disk: DiskHandle,
    /// The writer of blocks.
    pub(crate) writer: WriterHandle,
    /// Where the applied chain is announced.
    pub(crate) chain: watch::Sender<Arc<ChainView>>,
}

/// Its state.
pub(crate) struct ConsensusState {
    args: ConsensusArgs,
    myself: ActorRef<Letter<ConsensusMsg>>,
    timers: BTreeMap<TimerId, (u64, JoinHandle<()>)>,
    generation: u64,
    pace: Option<(u64, JoinHandle<()>)>,
    started_ms: TimeMs,
    /// The last height that was hastened by a third of the power or less, and when.
    followed_few: Option<(Height, TimeMs)>,
    executed: VecDeque<(BlockId, Executed)>,
    /// What each peer may still make this node check beside the running height.
    credits: Credits,
    /// Blocks being fetched, as many as the machine wants: at most its candidates of a height.
    fetching: BTreeMap<BlockId, Task>,
}

impl Actor for Consensus {
    type Msg = Letter<ConsensusMsg>;
    type State = ConsensusState;
    type Arguments = ConsensusArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        args: ConsensusArgs,
    ) -> Result<ConsensusState, ActorProcessingErr> {
        args.wiring.mail.consensus.attach(myself.clone());
        Ok(ConsensusState {
            args,
            myself,
            timers: BTreeMap::new(),
            generation: 0,
            pace: None,
            started_ms: TimeMs(0),
            followed_few: None,
            executed: VecDeque::new(),
            credits: Credits::default(),
            fetching: BTreeMap::new(),
        })
    }

    async fn post_start(&self, _: ActorRef<Self::Msg>, state: &mut ConsensusState) -> Result<(), ActorProcessingErr> {
        // The log of the next height may hold messages of ours: start it at once, whatever the pace.
        start_height(state).await
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        letter: Self::Msg,
        state: &mut ConsensusState,
    ) -> Result<(), ActorProcessingErr> {
        match letter.message {
            ConsensusMsg::Gossip { id, source, message } => gossip(state, id, source, *message).await?,
            ConsensusMsg::Proposal { id, source, message } => proposal(state, id, source, *message).await?,
            ConsensusMsg::PeerVotes { peer, height, votes, proposals } => {
                let taken = state.args.machine.take_votes(wall_clock(), height, votes, proposals);
                let (fault, outputs) = taken.inspect_err(|fatal| tell_damage(&state.args.wiring, fatal))?;
                if let Some(fault) = fault {
                    tracing::warn!(%peer, %height, %fault, "votes of a peer are provably wrong");
                    state.args.wiring.net.penalise(peer, network::Fault::InvalidSync);
                }
                finish(state, outputs).await?;
            }
            ConsensusMsg::Fetched { height, block } => {
                feed(state, Input::BlockFetched { height, block: *block }).await?
            }
            ConsensusMsg::Synced(decided) => synced(state, *decided).await?,
            ConsensusMsg::Work => {
                if state.pace.is_some() {
                    plan_start(state, true);
                }
            }
            ConsensusMsg::Pace { generation } => {
                if state.pace.as_ref().is_some_and(|(g, _)| *g == generation) {
                    start_height(state).await?;
                }
            }
            ConsensusMsg::Timer { id, generation } => {
                if state.timers.get(&id).is_some_and(|(g, _)| *g == generation) {
                    state.timers.remove(&id);
                    feed(state, Input::Timer(id)).await?;
                }
            }
            ConsensusMsg::Built { height, round, built } => {
                let (block, executed) = *built;
                remember(state, block.id(), executed);
                feed(state, Input::BlockBuilt { height, round, block }).await?;
            }
            ConsensusMsg::Checked { height, round, block, outcome } => {
                checked(state, height, round, block, *outcome).await?
            }
            ConsensusMsg::SignVerdict { vote, reply } => sign_verdict(state, *vote, reply).await?,
            ConsensusMsg::VotesOf { height, reply } => {
                reply.send(state.args.machine.votes_of(height)).ok();
            }
            ConsensusMsg::ProposedBlock { height, block, reply } => {
                reply.send(state.args.machine.proposed_block(height, block)).ok();
            }
        }
        Ok(())
    }
}

fn report(state: &ConsensusState, id: MessageId, acceptance: &Acceptance) {
    let verdict = match acceptance {
        Acceptance::Accept => Verdict::Accept,
        Acceptance::Ignore(reason) => {
            tracing::trace!(?reason, "consensus message ignored");
            Verdict::Ignore
        }
        Acceptance::Reject(fault) => {
            tracing::debug!(%fault, "consensus message rejected");
            Verdict::Reject
        }
    };
    state.args.wiring.net.report(id, verdict);
}

/// A vote or certificate from gossip.
async fn gossip(
    state: &mut ConsensusState,
    id: MessageId,
    source: PeerId,
    message: ConsensusMessage,
) -> Result<(), ActorProcessingErr> {
    let running = state.args.machine.height();
    if !state.credits.take(source, credit::price(&message, running), Instant::now()) {
        report(state, id, &Acceptance::Ignore(Ignored::Credit));
        return Ok(());
    }
    // The machine remembers a few heights of this run; the store remembers more.
    let height = credit::height_of(&message).filter(|height| !state.args.machine.remembers(*height));
    let stored = height.filter(|height| *height < running).map(|_| Box::new(message.clone()));
    let judged = state.args.machine.judge(wall_clock(), message);
    let (acceptance, outputs) = judged.inspect_err(|fatal| tell_damage(&state.args.wiring, fatal))?;
    report(state, id, &acceptance);
    // Late votes may convict their signer, and later certificates show that this node is behind: not forwarded, but taken in.
    if let (Acceptance::Ignore(Ignored::OldHeight), Some(message)) = (&acceptance, stored) {
        let _full = state.args.wiring.mail.late.send(FraudMsg::Late { from: source, message });
    }
    finish(state, outputs).await?;
    let late = matches!(acceptance, Acceptance::Ignore(Ignored::OldHeight | Ignored::LaterCertificate));
    if late || acceptance == Acceptance::Accept { follow(state).await } else { Ok(()) }
}

/// A proposal with its block from gossip.
async fn proposal(
    state: &mut ConsensusState,
    id: MessageId,
    source: PeerId,
    message: ProposalMessage,
) -> Result<(), ActorProcessingErr> {
    let (height, proposer) = (message.proposal.proposal.height, message.proposal.proposal.proposer);
    let old = height < state.args.machine.height();
    if old && !state.credits.take(source, credit::PROPOSAL, Instant::now()) {
        report(state, id, &Acceptance::Ignore(Ignored::Credit));
        return Ok(());
    }
    let stored = (old && !state.args.machine.remembers(height)).then(|| Box::new(message.proposal.clone()));
    let (now, made) = (wall_clock(), message.block.header.time_ms);
    let judged = state.args.machine.judge_proposal(now, message);
    let (acceptance, outputs) = judged.inspect_err(|fatal| tell_damage(&state.args.wiring, fatal))?;
    report(state, id, &acceptance);
    match (&acceptance, stored) {
        // Rare: each costs its sender, and the fourth the connection.
        (Acceptance::Reject(fault), _) => {
            tracing::warn!(%height, proposer = %proposer.short(), %fault, "proposal rejected");
        }
        (Acceptance::Ignore(Ignored::OldHeight), Some(proposal)) => {
            let _full = state.args.wiring.mail.late.send(FraudMsg::LateProposal { from: source, proposal });
        }
        (Acceptance::Accept, _) => {
            state.args.wiring.metrics.propagation_seconds.observe(now.since(made) as f64 / 1000.0);
        }
        _ => {}
    }
    finish(state, outputs).await?;
    if acceptance == Acceptance::Accept { follow(state).await } else { Ok(()) }
}

/// Other validators work on the next height: start it too, at the pace of a busy chain.
async fn follow(state: &mut ConsensusState) -> Result<(), ActorProcessingErr> {
    // Between two heights only: most messages come within one.
    if state.pace.is_none() {
        return Ok(());
    }
    let next = state.args.wiring.view().head.height.next();
    let ahead = state.args.machine.ahead();
    if ahead == Ahead::Nobody || state.args.machine.height() >= next {
        return Ok(());
    }
    let (params, now) = (state.args.wiring.view().params.clone(), wall_clock());
    if ahead == Ahead::Few {
        if !pacing::may_follow_few(state.followed_few, next, &params, now) {
            return Ok(());
        }
        if state.followed_few.is_none_or(|(height, _)| height != next) {
            state.followed_few = Some((next, now));
        }
    }
    if pacing::may_follow(state.started_ms, &params, now) {
        return start_height(state).await;
    }
    plan_start(state, true);
    Ok(())
}

/// Feeds one input and carries out its outputs, and whatever follows from a decision.
async fn feed(state: &mut ConsensusState, input: Input) -> Result<(), ActorProcessingErr> {
    let outputs = state.args.machine.handle(wall_clock(), input);
    let outputs = outputs.inspect_err(|fatal| tell_damage(&state.args.wiring, fatal))?;
    finish(state, outputs).await
}

/// What the log holds can't be true: that is damage, not a danger of signing twice.
fn tell_damage(wiring: &Wiring, fatal: &Fatal) {
    if matches!(fatal, Fatal::WalRecord { .. } | Fatal::WalHeight { .. } | Fatal::ReplayDiverged { .. }) {
        wiring.stop.stop(StopReason::Corruption(fatal.to_string()));
    }
}

/// Carries out what an input led to, and whatever follows from a decision.
async fn finish(state: &mut ConsensusState, outputs: Vec<Output>) -> Result<(), ActorProcessingErr> {
    if let Some(decided) = carry_out(state, outputs).await? {
        commit(state, decided).await?;
    }
    Ok(())
}

/// Carries out outputs in order; a decision is handed back, to be committed when all the others are done.
async fn carry_out(
    state: &mut ConsensusState,
    outputs: Vec<Output>,
) -> Result<Option<DecidedBlock>, ActorProcessingErr> {
    let mut decision = None;
    for output in outputs {
        match output {
            Output::AppendWal { record, .. } => state.args.disk.append(record).await?,
            Output::PersistGuard(record) => state.args.disk.guard(record.slot().height(), record.to_bytes()).await?,
            Output::Flush => {
                let started = Instant::now();
                let flushed = state.args.disk.flush().await;
                let status = if flushed.is_ok() { "ok" } else { "failed" };
                state.args.wiring.metrics.persistence.with_label_values(&["flush", status]).inc();
                flushed?;
                state.args.wiring.metrics.flush_seconds.observe(started.elapsed().as_secs_f64());
            }
            Output::Publish(message) => state.args.wiring.net.publish(&GossipMessage::Consensus(Box::new(message))),
            Output::PublishProposal(message) => {
                state.args.wiring.net.publish(&GossipMessage::Proposal(Box::new(message)))
            }
            Output::SetTimer { id, after_ms } => set_timer(state, id, after_ms),
            Output::CancelTimer(id) => {
                if let Some((_, task)) = state.timers.remove(&id) {
                    task.abort();
                }
            }
            Output::CancelAllTimers => cancel_timers(state),
            Output::BuildBlock { height, round, .. } => blocks::build(&state.args.wiring, &state.myself, height, round),
            Output::CheckBlock { height, round, block, certified } => {
                check(state, height, round, block, certified, Duration::ZERO);
            }
            Output::FetchBlock { height, block } => fetch(state, height, block),
            Output::Decided(decided) => decision = Some(decided),
            Output::Evidence(evidence) => {
                // A full mailbox loses it here; other validators have seen it too.
                let _full = state.args.wiring.mail.fraud.send(FraudMsg::Found(Box::new(evidence)));
            }
            Output::EnteredRound { height, round, proposer } => {
                if round.0 > 0 {
                    tracing::info!(%height, %round, proposer = %proposer.short(), "next round");
                    state.args.wiring.metrics.view_changes.with_label_values(&["timeout"]).inc();
                }
                state.args.wiring.metrics.round.set(i64::from(round.0));
            }
        }
    }
    Ok(decision)
}

/// Fetches a block, unless that is under way.
fn fetch(state: &mut ConsensusState, height: Height, block: BlockId) {
    state.fetching.retain(|_, task| !task.is_finished());
    if !state.fetching.contains_key(&block) {
        state.fetching.insert(block, blocks::fetch(&state.args.wiring, height, block));
    }
}

fn cancel_timers(state: &mut ConsensusState) {
    for (_, (_, task)) in std::mem::take(&mut state.timers) {
        task.abort();
    }
}

fn later(
    state: &mut ConsensusState,
    after: Duration,
    message: impl FnOnce(u64) -> ConsensusMsg,
) -> (u64, JoinHandle<()>) {
    state.generation = state.generation.wrapping_add(1);
    let generation = state.generation;
    let (mailbox, message) = (state.args.wiring.mail.consensus.clone(), message(generation));
    let task = tokio::spawn(async move {
        tokio::time::sleep(after).await;
        let _closed = mailbox.send_owed(message);
    });
    (generation, task)
}

fn set_timer(state: &mut ConsensusState, id: TimerId, after_ms: u64) {
    let entry = later(state, Duration::from_millis(after_ms), |generation| ConsensusMsg::Timer { id, generation });
    if let Some((_, old)) = state.timers.insert(id, entry) {
        old.abort();
    }
}

fn check(state: &ConsensusState, height: Height, round: Round, block: Arc<Block>, certified: bool, after: Duration) {
    // A block proposed again, or decided by sync after it was executed here, is not executed twice.
    let known = state.executed.iter().find(|(id, _)| *id == block.id()).map(|(_, e)| e.clone());
    let job = blocks::CheckJob { height, round, block, certified, known, after };
    blocks::check(&state.args.wiring, &state.myself, job);
}

async fn checked(
    state: &mut ConsensusState,
    height: Height,
    round: Round,
    block: Arc<Block>,
    outcome: blocks::Checked,
) -> Result<(), ActorProcessingErr> {
    let id = block.id();
    match outcome {
        blocks::Checked::Valid(executed) => {
            remember(state, id, executed);
            feed(state, Input::BlockChecked { height, round, block: id, valid: true }).await
        }
        blocks::Checked::Invalid(why) => {
            tracing::warn!(%height, %round, block = %id.short(), proposer = %block.header.proposer.short(), %why, "block is invalid: voting nil");
            feed(state, Input::BlockChecked { height, round, block: id, valid: false }).await
        }
        blocks::Checked::Withhold { why, again } => {
            tracing::info!(%height, %round, block = %id.short(), %why, ms = again.as_millis(), "block withheld");
            if state.args.machine.height() == height {
                check(state, height, round, block, false, again);
            }
            Ok(())
        }
        blocks::Checked::Failed(why) => Err(format!("executing a block failed on this node: {why}").into()),
    }
}

fn remember(state: &mut ConsensusState, id: BlockId, executed: Executed) {
    if state.executed.iter().all(|(known, _)| *known != id) {
        if state.executed.len() >= EXECUTED_MAX {
            state.executed.pop_front();
        }
        state.executed.push_back((id, executed));
    }
}

async fn synced(state: &mut ConsensusState, decided: DecidedBlock) -> Result<(), ActorProcessingErr> {
    let next = state.args.wiring.view().head.height.next();
    if decided.block.header.height != next {
        return Ok(());
    }
    if state.args.machine.height() < next {
        start_height(state).await?;
    }
    match state.args.machine.check_synced(&decided) {
        Ok(()) => feed(state, Input::Synced(decided)).await,
        Err(why) => {
            tracing::debug!(%next, %why, "synced block not taken");
            Ok(())
        }
    }
}

async fn sign_verdict(
    state: &mut ConsensusState,
    vote: ProofVote,
    reply: oneshot::Sender<Option<Box<SignedProofVote>>>,
) -> Result<(), ActorProcessingErr> {
    match state.args.machine.sign_proof_vote(vote) {
        Ok((signed, outputs)) => {
            carry_out(state, outputs).await?;
            reply.send(Some(Box::new(signed))).ok();
        }
        Err(refusal) => {
            // The vote that fills the slot may never have left; it is the only answer this node gives.
            let known = match refusal {
                Refusal::Conflict(slot) => state.args.machine.guard().signed(&slot).cloned(),
                _ => None,
            };
            tracing::info!(%refusal, again = known.is_some(), "another verdict is not signed");
            reply.send(if let Some(GuardRecord::Verdict(vote)) = known { Some(Box::new(vote)) } else { None }).ok();
        }
    }
    Ok(())
}

/// Stores a decided block and everything it changes, announces it, and plans the next height.
async fn commit(state: &mut ConsensusState, decided: DecidedBlock) -> Result<(), ActorProcessingErr> {
    let started = Instant::now();
    state.args.wiring.crossings.at(Crossing::Decided);
    let before = state.args.wiring.view();
    let block_id = decided.block.id();
    let height = decided.block.header.height;
    let known = state.executed.iter().position(|(id, _)| *id == block_id);
    let executed = match known.and_then(|i| state.executed.remove(i)) {
        Some((_, executed)) => executed,
        None => blocks::apply(&before, decided.block.clone()).await?,
    };
    state.executed.clear();
    let changed_jobs = reads::changed_jobs(&executed);
    let certificate = decided.certificate.clone();
    let n_transactions = decided.block.transactions.len();
    let commit = BlockCommit {
        set_change: set_change(&decided, &executed, &certificate),
        certificates: certificates(&decided.block, &executed),
        state_root: executed.state_root,
        writes: executed.writes,
        decided,
    };
    let (head, snapshot) = state.args.writer.commit(commit).await.inspect_err(|_| {
        state.args.wiring.metrics.persistence.with_label_values(&["commit", "failed"]).inc();
    })?;
    cancel_timers(state);
    state.fetching.clear();
    let view = Arc::new(blocks::view(snapshot, Some(certificate), head.state_root, wall_clock())?);
    let m = &state.args.wiring.metrics;
    m.height.set(i64::try_from(height.0).unwrap_or(i64::MAX));
    m.persistence.with_label_values(&["commit", "ok"]).inc();
    counting::applied(m, &before, &view, &executed.events);
    m.transactions.inc_by(n_transactions as u64);
    m.commit_seconds.observe(started.elapsed().as_secs_f64());
    m.block_seconds.observe(wall_clock().since(before.applied_ms) as f64 / 1000.0);
    tracing::info!(%height, block = %block_id.short(), txs = n_transactions, ms = started.elapsed().as_millis(), "block applied");
    let verdicts_from = Guard::verdicts_from(height);
    state.args.machine.guard_forget(Height(height.0.saturating_sub(GUARD_KEEP)), verdicts_from);
    state.args.disk.prune(height.next(), verdicts_from).await?;
    let (votes, proposals) = state.args.machine.votes_of(height);
    let messages = SignedMessages { votes, proposals };
    let _closed = state.args.wiring.mail.fraud.send_owed(FraudMsg::Decided { height, messages });
    let work = view.work;
    state.args.chain.send_replace(Arc::clone(&view));
    blocks::announce(&state.args.wiring, &view, &changed_jobs);
    plan_start(state, work);
    Ok(())
}

fn set_change(decided: &DecidedBlock, executed: &Executed, certificate: &CommitCertificate) -> Option<SetChange> {
    let header = &decided.block.header;
    (header.next_validators != header.validators).then(|| SetChange {
        header: header.clone(),
        certificate: certificate.clone(),
        new_set: executed.next_validators.clone(),
    })
}

fn certificates(block: &Block, executed: &Executed) -> Vec<types::verdict::ProofCertificate> {
    let recorded = block.transactions.iter().filter_map(|tx| match tx {
        Transaction::Certify { certificate, .. } => Some(certificate),
        _ => None,
    });
    recorded.filter(|c| reads::certified_in(executed, &c.subject)).cloned().collect()
}

/// Starts the next height now, or sets the timer for it.
fn plan_start(state: &mut ConsensusState, work: bool) {
    let view = state.args.wiring.view();
    let (now, at) = (wall_clock(), pacing::next_start(state.started_ms, &view.params, work));
    if let Some((_, old)) = state.pace.take() {
        old.abort();
    }
    // A clock that was set back must not stretch the wait beyond the pace.
    let pace = if work { view.params.block_ms } else { view.params.empty_block_ms };
    let wait = Duration::from_millis(at.since(now).min(pace));
    // Also a start that is due goes through the mailbox: votes that wait there are for the height just decided.
    let entry = later(state, wait, |generation| ConsensusMsg::Pace { generation });
    state.pace = Some(entry);
}

async fn start_height(state: &mut ConsensusState) -> Result<(), ActorProcessingErr> {
    if let Some((_, old)) = state.pace.take() {
        old.abort();
    }
    let view = state.args.wiring.view();
    let height = view.head.height.next();
    let replay = state.args.disk.start(height).await.inspect_err(|error| {
        if let DiskError::Corrupt(why) = error {
            state.args.wiring.stop.stop(StopReason::Corruption(why.clone()));
        }
    })?;
    if replay.torn_bytes > 0 {
        tracing::warn!(%height, bytes = replay.torn_bytes, "the last record of the consensus log was torn and is cut");
    }
    if !replay.records.is_empty() {
        tracing::info!(%height, records = replay.records.len(), "replaying the consensus log");
    }
    state.started_ms = wall_clock();
    let wal = replay.records.into_iter().map(|r| r.payload).collect();
    let input = Input::StartHeight { height, set: view.set.clone(), timeouts: view.params.timeouts.clone(), wal };
    // Messages held for this height may decide it at once; the recursion is one height deep for each such decision.
    Box::pin(feed(state, input)).await
}
