//! One node: the parts of the real one, and a shell that carries out their outputs and can die between any two of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use consensus::{Ahead, Guard, GuardRecord, Input, Machine, Output, Sync, SyncInput, TimerId};
use ledger::chain::CheckOutcome;
use ledger::{Event as LedgerEvent, Executed};
use storage::guard_file::GuardFile;
use storage::virtual_disk::MemoryDir;
use storage::wal::Wal;
use storage::{BlockCommit, MemoryStore, Snapshot, Store, StoreRead};
use types::block::{Block, DecidedBlock};
use types::codec::Wire;
use types::genesis::Genesis;
use types::ids::{BlockId, GenesisHash, Height, Round, TimeMs, TxId};
use types::keys::SecretKey;
use types::kv::{KvRead, Space};
use types::receipt::SetChange;
use types::transaction::Transaction;
use types::vote::CommitCertificate;

use super::actions::{Event, Packet, Step, Stop, Surroundings};
use super::duties::Desk;
use super::judge::{Judge, Violation};
use super::users::{self, EPOCH_MS};
use super::{Bug, dice::Dice};

/// Kind byte of the records in the log; their own codec has the version.
const LOG_RECORD: u8 = 1;
/// Blocks between two compactions of the guard file.
const COMPACT_EVERY: u64 = 8;

/// What survives a crash, and the node's place in the world.
pub(super) struct SimNode {
    pub(super) index: usize,
    pub(super) genesis: GenesisHash,
    pub(super) key: SecretKey,
    pub(super) prover: SecretKey,
    logs: MemoryDir,
    guards: MemoryDir,
    pub(super) store: MemoryStore,
    /// Its clock against the true one, milliseconds.
    skew_ms: u64,
    /// Grows with every crash: what was under way before is void.
    pub(super) life: u32,
    pub(super) live: Option<Live>,
    /// Effects carried out in all lives.
    pub(super) effects: u64,
    /// Dies at this effect.
    pub(super) dies_at: Option<u64>,
    bug: Option<Bug>,
}

/// What a crash takes away.
pub(super) struct Live {
    pub(super) machine: Machine,
    wal: Wal,
    guard_file: GuardFile,
    pub(super) sync: Sync,
    pub(super) desk: Desk,
    pub(super) mempool: BTreeMap<TxId, Transaction>,
    timers: BTreeMap<TimerId, u64>,
    generation: u64,
    pace: Option<u64>,
    started_ms: u64,
    pub(super) committed_ms: u64,
    certificate: Option<CommitCertificate>,
    /// Blocks of the next height that were executed here.
    executed: BTreeMap<BlockId, Executed>,
}

pub(super) fn broken(why: impl std::fmt::Display) -> Stop {
    Stop::Broken(Violation::Node(why.to_string()))
}

impl SimNode {
    pub(super) fn new(index: usize, genesis: &Genesis, bug: Option<Bug>, dice: &mut Dice) -> Step<Self> {
        let built = ledger::genesis::build(genesis).map_err(broken)?;
        let store = MemoryStore::new();
        store.init(genesis, &built.writes, built.root).map_err(broken)?;
        Ok(Self {
            index,
            genesis: genesis.hash(),
            key: users::validator(index),
            prover: users::prover(index),
            logs: MemoryDir::new(),
            guards: MemoryDir::new(),
            store,
            skew_ms: dice.between(0, 100),
            life: 0,
            live: None,
            effects: 0,
            dies_at: None,
            bug,
        })
    }

    pub(super) fn clock(&self, around: &Surroundings<'_>) -> TimeMs {
        TimeMs(EPOCH_MS).plus(around.now).plus(self.skew_ms)
    }

    pub(super) fn height(&self) -> Step<Height> {
        Ok(self.store.head().map_err(broken)?.map_or(Height(0), |head| head.height))
    }

    pub(super) fn live(&mut self) -> Step<&mut Live> {
        self.live.as_mut().ok_or_else(|| broken("a dead node was asked to work"))
    }

    /// Counts an effect, and dies here if that is the plan.
    fn effect(&mut self, around: &mut Surroundings<'_>) -> Step {
        self.effects += 1;
        around.judge.report.effects += 1;
        if self.dies_at.is_some_and(|at| self.effects >= at) { Err(Stop::Crash) } else { Ok(()) }
    }

    /// Comes up, from the disk alone.
    pub(super) fn boot(&mut self, around: &mut Surroundings<'_>) -> Step {
        let wal = Wal::open(Box::new(self.logs.clone()), self.genesis).map_err(broken)?;
        let (guard_file, load) = GuardFile::open(Box::new(self.guards.clone()), self.genesis).map_err(broken)?;
        let records: Result<Vec<_>, _> = load.records.iter().map(|r| GuardRecord::from_bytes(&r.bytes)).collect();
        let records = records.map_err(broken)?;
        let mut guard = Guard::restore(self.genesis, Some(self.key.clone()), records).map_err(broken)?;
        if load.torn_bytes > 0 {
            around.judge.report.torn += 1;
        }
        let head = self.height()?;
        guard.resume_after(head);
        let certificate = self.store.block(head).map_err(broken)?.map(|decided| decided.certificate);
        let mut sync = Sync::new(self.genesis);
        for peer in (0..around.nodes).filter(|peer| *peer != self.index) {
            sync.handle(self.clock(around), SyncInput::Joined { peer: peer as u64 });
        }
        self.live = Some(Live {
            machine: Machine::new(guard),
            wal,
            guard_file,
            sync,
            desk: Desk::new(self.genesis, self.bug == Some(Bug::VoteCountedTwice)),
            mempool: BTreeMap::new(),
            timers: BTreeMap::new(),
            generation: 0,
            pace: None,
            started_ms: around.now,
            committed_ms: around.now,
            certificate,
            executed: BTreeMap::new(),
        });
        around.later(1 + around.now % 50, Event::Tick);
        self.start_height(around)
    }

    /// Loses what was not synced; of each unsynced tail a drawn part survives.
    pub(super) fn power_cut(&mut self, dice: &mut Dice) {
        self.live = None;
        self.life = self.life.wrapping_add(1);
        self.dies_at = None;
        for dir in [&self.logs, &self.guards] {
            dir.fail_after(None);
            dir.power_cut(|_, unsynced| usize::try_from(dice.between(0, unsynced as u64)).unwrap_or(0));
        }
        self.store.power_cut(dice.index(3));
    }

    pub(super) fn view(&self) -> Snapshot {
        self.store.snapshot()
    }

    fn start_height(&mut self, around: &mut Surroundings<'_>) -> Step {
        let view = self.view();
        let height = self.height()?.next();
        let set = ledger::validator_set(&view, height).map_err(broken)?.ok_or_else(|| broken("no validator set"))?;
        let timeouts = ledger::state::params(&view).map_err(broken)?.timeouts;
        let now = self.clock(around);
        let live = self.live()?;
        live.pace = None;
        live.started_ms = around.now;
        let replay = live.wal.start(height).map_err(broken)?;
        if replay.torn_bytes > 0 {
            around.judge.report.torn += 1;
        }
        let local = SyncInput::Local { height: Height(height.0.saturating_sub(1)), set: set.clone() };
        let plan = live.sync.handle(now, local);
        let wal = replay.records.into_iter().map(|r| r.payload).collect();
        self.feed(around, Input::StartHeight { height, set, timeouts, wal })?;
        self.carry_out_sync(around, plan)
    }

    /// Feeds the machine and carries out what it wants.
    pub(super) fn feed(&mut self, around: &mut Surroundings<'_>, input: Input) -> Step {
        let now = self.clock(around);
        let outputs = self.live()?.machine.handle(now, input).map_err(broken)?;
        self.carry_out(around, outputs)
    }

    pub(super) fn carry_out(&mut self, around: &mut Surroundings<'_>, mut outputs: Vec<Output>) -> Step {
        if self.bug == Some(Bug::PublishBeforeSync) {
            // The planted fault: what others see goes first, what keeps it safe after.
            outputs.sort_by_key(|o| !matches!(o, Output::Publish(_) | Output::PublishProposal(_)));
        }
        for output in outputs {
            self.carry_out_one(around, output)?;
        }
        Ok(())
    }

    fn carry_out_one(&mut self, around: &mut Surroundings<'_>, output: Output) -> Step {
        if !matches!(output, Output::Flush) {
            self.effect(around)?;
        }
        let now = self.clock(around);
        match output {
            Output::AppendWal { record, .. } => self.live()?.wal.append(LOG_RECORD, &record).map_err(broken)?,
            Output::PersistGuard(record) => {
                let height = record.slot().height();
                self.live()?.guard_file.append(height, &record.to_bytes()).map_err(broken)?;
            }
            Output::Flush => self.flush(around)?,
            Output::Publish(message) => {
                around.judge.consensus(&message)?;
                around.broadcast(Packet::consensus(&message));
            }
            Output::PublishProposal(message) => {
                around.judge.proposal(&message.proposal)?;
                around.broadcast(Packet::proposal(&message));
            }
            Output::SetTimer { id, after_ms } => {
                let live = self.live()?;
                live.generation += 1;
                live.timers.insert(id, live.generation);
                let generation = live.generation;
                around.later(after_ms, Event::Timer { id, generation });
            }
            Output::CancelTimer(id) => {
                self.live()?.timers.remove(&id);
            }
            Output::CancelAllTimers => self.live()?.timers.clear(),
            Output::BuildBlock { height, round, .. } => self.build(around, now, height, round)?,
            Output::CheckBlock { height, round, block, certified } => {
                let after_ms = around.dice.between(1, 10);
                around.later(after_ms, Event::Check { height, round, block, certified });
            }
            Output::FetchBlock { height, block } => self.fetch(around, height, block),
            Output::Decided(decided) => self.commit(around, decided)?,
            Output::Evidence(evidence) => return Err(Judge::evidence(&evidence).into()),
            Output::EnteredRound { .. } => {}
        }
        Ok(())
    }

    /// Syncs the log, then the guard. Dying in the middle leaves written but unsynced bytes behind.
    fn flush(&mut self, around: &mut Surroundings<'_>) -> Step {
        for guard in [false, true] {
            let (logs, guards) = (self.logs.clone(), self.guards.clone());
            let dying = self.effect(around).is_err();
            if dying && around.dice.chance(300) {
                return Err(Stop::Crash);
            }
            if dying {
                if guard { &guards } else { &logs }.fail_after(Some(1));
            }
            let live = self.live()?;
            let flushed = if guard { live.guard_file.flush() } else { live.wal.flush() };
            match flushed {
                _ if dying => return Err(Stop::Crash),
                Ok(()) => {}
                Err(error) => return Err(broken(error)),
            }
        }
        Ok(())
    }

    fn build(&mut self, around: &mut Surroundings<'_>, now: TimeMs, height: Height, round: Round) -> Step {
        let view = self.view();
        let own = self.key.public();
        let live = self.live()?;
        let mut candidates: Vec<_> = live.mempool.values().cloned().collect();
        // Stable, and the pool is in order of ids.
        candidates.sort_by_key(|tx| tx.signed().map(|s| (s.content.sender, s.content.nonce)));
        let built = ledger::build_block(&view, live.certificate.as_ref(), own, now, &candidates).map_err(broken)?;
        for (id, error) in &built.dropped {
            if !error.code().may_pass_later() {
                live.mempool.remove(id);
            }
        }
        let after_ms = around.dice.between(1, 20);
        around.later(after_ms, Event::Feed(Box::new(Input::BlockBuilt { height, round, block: built.block })));
        Ok(())
    }

    /// Judges a block with the ledger, and withholds the answer when only this node's clock speaks against it.
    pub(super) fn check(
        &mut self,
        around: &mut Surroundings<'_>,
        height: Height,
        round: Round,
        block: Arc<Block>,
        certified: bool,
    ) -> Step {
        if self.live()?.machine.height() != height || self.height()?.next() != height {
            return Ok(());
        }
        let (view, now) = (self.view(), self.clock(around));
        let executed = if certified {
            ledger::apply_block(&view, &block).map_err(broken)?
        } else {
            match ledger::check_block(&view, &block, now).map_err(broken)? {
                CheckOutcome::Valid(executed) => *executed,
                CheckOutcome::Invalid(fault) => {
                    return Err(broken(format!("a block of an honest proposer is invalid: {fault}")));
                }
                CheckOutcome::Withhold(_) => {
                    around.later(50, Event::Check { height, round, block, certified });
                    return Ok(());
                }
            }
        };
        let block = block.id();
        self.live()?.executed.insert(block, executed);
        self.feed(around, Input::BlockChecked { height, round, block, valid: true })
    }

    fn commit(&mut self, around: &mut Surroundings<'_>, decided: DecidedBlock) -> Step {
        let view = self.view();
        let height = decided.block.header.height;
        let set = ledger::validator_set(&view, height).map_err(broken)?.ok_or_else(|| broken("no validator set"))?;
        let known = self.live()?.executed.remove(&decided.block.id());
        let mut executed = known.map_or_else(|| ledger::apply_block(&view, &decided.block).map_err(broken), Ok)?;
        self.live()?.executed.clear();
        if self.bug == Some(Bug::JobPaidTwice) {
            pay_again(&view, &mut executed).map_err(broken)?;
        }
        around.judge.decided(&decided, &set, executed.state_root)?;
        around.judge.executed(&executed)?;
        let header = decided.block.header.clone();
        let set_change = (header.next_validators != header.validators).then(|| SetChange {
            header,
            certificate: decided.certificate.clone(),
            new_set: executed.next_validators.clone(),
        });
        let certificates = decided.block.transactions.iter().filter_map(|tx| match tx {
            Transaction::Certify { certificate, .. } => Some(certificate.clone()),
            _ => None,
        });
        let certificates = certificates.collect();
        let certificate = decided.certificate.clone();
        let included: Vec<TxId> = decided.block.transactions.iter().map(Transaction::id).collect();
        let state_root = executed.state_root;
        self.store
            .commit_block(&BlockCommit { decided, writes: executed.writes, state_root, set_change, certificates })
            .map_err(broken)?;
        self.effect(around)?;
        let audit = ledger::query::audit(&self.view()).map_err(broken)?;
        if !audit.conserved {
            return Err(Violation::Credits(format!("height {height} on node {}: {audit:?}", self.index)).into());
        }
        self.after_commit(around, height, certificate, &included)
    }

    fn after_commit(
        &mut self,
        around: &mut Surroundings<'_>,
        height: Height,
        certificate: CommitCertificate,
        included: &[TxId],
    ) -> Step {
        let keep_verdicts = Height(height.0.saturating_sub(50));
        let live = self.live()?;
        live.certificate = Some(certificate);
        live.committed_ms = around.now;
        live.timers.clear();
        included.iter().for_each(|id| {
            live.mempool.remove(id);
        });
        live.wal.prune_below(height.next()).map_err(broken)?;
        live.desk.forget_below(keep_verdicts);
        live.machine.guard_forget(height.next(), keep_verdicts);
        if height.0.is_multiple_of(COMPACT_EVERY) {
            let records: Vec<_> = live.machine.guard().records().map(|r| (r.slot().height(), r.to_bytes())).collect();
            live.guard_file.rewrite(records.iter().map(|(h, bytes)| (*h, bytes.as_slice()))).map_err(broken)?;
            self.effect(around)?;
        }
        self.vote_on_claims(around)?;
        let view = self.view();
        let params = ledger::state::params(&view).map_err(broken)?;
        let pace = if ledger::has_work(&view).map_err(broken)? { params.block_ms } else { params.empty_block_ms };
        let live = self.live()?;
        live.generation += 1;
        let generation = live.generation;
        live.pace = Some(generation);
        let due = live.started_ms.saturating_add(pace).saturating_sub(around.now);
        around.later(due.max(1), Event::Pace { generation });
        Ok(())
    }

    /// Another validator is at the next height already: go there too.
    fn follow(&mut self, around: &mut Surroundings<'_>) -> Step {
        let live = self.live()?;
        if live.pace.is_some() && live.machine.ahead() != Ahead::Nobody {
            return self.start_height(around);
        }
        Ok(())
    }

    /// Something happens at this node.
    pub(super) fn on_event(&mut self, around: &mut Surroundings<'_>, event: Event) -> Step {
        match event {
            Event::Packet { from, packet } => {
                self.on_packet(around, from, packet)?;
                self.follow(around)
            }
            Event::Timer { id, generation } => {
                let live = self.live()?;
                if live.timers.get(&id) != Some(&generation) {
                    return Ok(());
                }
                live.timers.remove(&id);
                self.feed(around, Input::Timer(id))
            }
            Event::Feed(input) => self.feed(around, *input),
            Event::Check { height, round, block, certified } => self.check(around, height, round, block, certified),
            Event::Pace { generation } => {
                if self.live()?.pace != Some(generation) {
                    return Ok(());
                }
                self.start_height(around)
            }
            Event::Unanswered { peer } => {
                let now = self.clock(around);
                let plan = self.live()?.sync.handle(now, SyncInput::Failed { peer: peer as u64 });
                self.carry_out_sync(around, plan)
            }
            Event::Tick => self.tick(around),
        }
    }

    /// A certified block from sync: through the machine, at the height it runs.
    pub(super) fn apply_synced(&mut self, around: &mut Surroundings<'_>, decided: DecidedBlock) -> Step {
        if decided.certificate.height != self.height()?.next() {
            return Ok(());
        }
        if self.live()?.machine.height() < decided.certificate.height {
            self.start_height(around)?;
        }
        if self.live()?.machine.check_synced(&decided).is_ok() {
            around.judge.report.synced += 1;
            self.feed(around, Input::Synced(decided))?;
        }
        Ok(())
    }
}

/// The planted fault: every certified claim is paid once more, past the ledger.
fn pay_again(view: &dyn KvRead, executed: &mut Executed) -> Result<(), String> {
    for event in executed.events.clone() {
        let LedgerEvent::ClaimCertified { prover, price, .. } = event else { continue };
        let key = (Space::State, ledger::state::keys::account(&prover));
        let mut account = match executed.writes.get(&key) {
            Some(Some(bytes)) => ledger::state::records::Account::from_bytes(bytes).map_err(|e| e.to_string())?,
            _ => ledger::state::account(view, &prover).map_err(|e| e.to_string())?,
        };
        account.balance = account.balance.checked_add(price).ok_or("a balance past the range")?;
        executed.writes.insert(key, Some(account.to_bytes()));
    }
    Ok(())
}
