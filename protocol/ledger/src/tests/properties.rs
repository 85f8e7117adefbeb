//! Random histories, valid and invalid transactions mixed, against what must hold whatever happens.

use std::collections::BTreeMap;

use proptest::prelude::*;
use types::block::transactions_root;
use types::evidence::Evidence;
use types::ids::{Amount, BlockId, Height, JobId, Round};
use types::job::JobStatus;
use types::keys::{PublicKey, SecretKey};
use types::signing::Domain;
use types::transaction::{Action, DeclineReason, Transaction};
use types::verdict::{Check, Claim, FailureReason, Verdict, VoteSubject};
use types::vote::{Vote, VoteKind};

use crate::chain::{BlockFault, CheckOutcome};
use crate::execute::Event;
use crate::testkit::*;
use crate::{money, query, state};

#[derive(Clone, Debug)]
enum Op {
    Transfer(u8, u8, u32),
    Submit { user: u8, steps: u32, fee: u32, key: Option<u8>, deadline: u32 },
    Cancel(u8, prop::sample::Index),
    Register(u8, u8),
    Update(u8, u8),
    Exit(u8),
    Commit { prover: u8, job: prop::sample::Index, attempt: u8, steps: u32, fails: bool },
    RankedCommit { job: prop::sample::Index, rank: u8, steps: u32 },
    Decline { prover: u8, job: prop::sample::Index, attempt: u8 },
    Certify { job: prop::sample::Index, valid: u8, invalid: u8, old: bool },
    Evidence { validator: u8, height: u8, round: u8, a: u8, b: u8 },
    RegisterValidator { user: u8, key: u8, power: u8, stake: u16 },
    UpdateValidator(u8, u8),
    ExitValidator(u8),
    WrongNonce(u8, u8),
}

fn submission() -> impl Strategy<Value = Op> {
    let steps = prop_oneof![9 => 1u32..200_000, 1 => Just(u32::MAX)];
    let deadline = prop_oneof![1 => 1u32..100_000, 3 => Just(600_000)];
    (1u8..4, steps, 1_100u32..1_500, prop::option::of(0u8..3), deadline)
        .prop_map(|(user, steps, fee, key, deadline)| Op::Submit { user, steps, fee, key, deadline })
}

/// Blocks of a history: time since the one before, and what is tried.
fn history() -> impl Strategy<Value = Vec<(u64, Vec<Op>)>> {
    let pause = prop_oneof![8 => Just(500u64), 2 => Just(22_000), 1 => Just(70_000)];
    prop::collection::vec((pause, prop::collection::vec(op(), 0..5)), 8..48)
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        2 => (1u8..4, 1u8..4, prop_oneof![Just(0), 1u32..50_000, Just(u32::MAX)])
            .prop_map(|(a, b, n)| Op::Transfer(a, b, n)),
        4 => submission(),
        1 => (1u8..4, index()).prop_map(|(u, j)| Op::Cancel(u, j)),
        1 => (1u8..6, 0u8..4).prop_map(|(p, w)| Op::Register(p, w)),
        1 => (1u8..6, 0u8..4).prop_map(|(p, w)| Op::Update(p, w)),
        1 => (1u8..6).prop_map(Op::Exit),
        3 => (1u8..6, index(), 0u8..3, 0u32..200_000, any::<bool>())
            .prop_map(|(prover, job, attempt, steps, fails)| Op::Commit { prover, job, attempt, steps, fails }),
        14 => (index(), prop_oneof![4 => Just(0u8), 1 => Just(1)], 1u32..90_000)
            .prop_map(|(job, rank, steps)| Op::RankedCommit { job, rank, steps }),
        3 => (1u8..6, index(), 0u8..3).prop_map(|(prover, job, attempt)| Op::Decline { prover, job, attempt }),
        14 => (index(), prop_oneof![1 => 0u8..5, 1 => Just(0), 2 => Just(3)], 0u8..4, prop::bool::weighted(0.2))
            .prop_map(|(job, valid, invalid, old)| Op::Certify { job, valid, invalid, old }),
        2 => (1u8..6, 0u8..8, 0u8..2, 0u8..3, 0u8..3)
            .prop_map(|(validator, height, round, a, b)| Op::Evidence { validator, height, round, a, b }),
        1 => (1u8..4, 5u8..8, 0u8..16, 0u16..2_000)
            .prop_map(|(user, key, power, stake)| Op::RegisterValidator { user, key, power, stake }),
        1 => (1u8..8, 0u8..14).prop_map(|(v, p)| Op::UpdateValidator(v, p)),
        1 => (1u8..8).prop_map(Op::ExitValidator),
        1 => (1u8..4, 0u8..4).prop_map(|(u, n)| Op::WrongNonce(u, n)),
    ]
}

/// A history and what it must keep, written without the ledger's own records.
struct Run {
    chain: Chain,
    jobs: Vec<JobId>,
    subjects: BTreeMap<JobId, VoteSubject>,
    ended: BTreeMap<JobId, JobStatus>,
    paid: BTreeMap<JobId, Amount>,
    max_fee: BTreeMap<JobId, Amount>,
    nonces: BTreeMap<PublicKey, u64>,
}

impl Run {
    fn sign(&mut self, who: &SecretKey, action: Action) -> types::transaction::SignedTx {
        // Nonces as if all earlier transactions of the block were accepted; a refused one makes gaps, which is a case
        // too.
        let next = self
            .nonces
            .entry(who.public())
            .or_insert_with(|| state::account(&self.chain.kv, &who.public()).unwrap().nonce);
        *next += 1;
        self.chain.sign_with(who, *next - 1, action)
    }

    fn tx(&mut self, who: &SecretKey, action: Action) -> Transaction {
        Transaction::Signed(self.sign(who, action))
    }

    fn transaction(&mut self, op: &Op) -> Option<Transaction> {
        let pick = |jobs: &[JobId], i: &prop::sample::Index| (!jobs.is_empty()).then(|| jobs[i.index(jobs.len())]);
        Some(match op {
            Op::Transfer(a, b, n) => {
                let action = Action::Transfer { to: user(*b).public(), amount: Amount(u128::from(*n)) };
                self.tx(&user(*a), action)
            }
            Op::Submit { user: u, steps, fee, key, deadline } => {
                let mut s = spec();
                s.max_steps = u64::from(*steps);
                s.max_fee = Amount(u128::from(*fee));
                s.deadline_ms = u64::from(*deadline);
                s.idempotency_key = key.map(|k| format!("k{k}"));
                let tx = self.sign(&user(*u), Action::SubmitJob(Box::new(s)));
                self.chain.available(tx, &[validator(1), validator(2), validator(3)])
            }
            Op::Cancel(u, j) => {
                let job = pick(&self.jobs, j)?;
                self.tx(&user(*u), Action::CancelJob { job })
            }
            Op::Register(p, w) => {
                self.tx(&prover(*p), Action::RegisterProver { weight: u32::from(*w), steps_max: 150_000 })
            }
            Op::Update(p, w) => {
                self.tx(&prover(*p), Action::UpdateProver { weight: u32::from(*w), steps_max: 120_000 })
            }
            Op::Exit(p) => self.tx(&prover(*p), Action::ExitProver),
            Op::Commit { prover: p, job, attempt, steps, fails } => {
                let job = pick(&self.jobs, job)?;
                let claim = match fails {
                    true => Claim::Failure { reason: FailureReason::Hint, steps: u64::from(*steps) },
                    false => proof_claim(u64::from(*steps)),
                };
                self.tx(&prover(*p), Action::CommitClaim { job, task: 0, attempt: u32::from(*attempt), claim })
            }
            Op::RankedCommit { job, rank, steps } => {
                let job = pick(&self.jobs, job)?;
                let a = crate::assign(&self.chain.kv, &job, 0).unwrap()?;
                let who = *a.order.get(usize::from(*rank))?;
                let who = (1..=9).map(prover).find(|k| k.public() == who).unwrap();
                self.tx(
                    &who,
                    Action::CommitClaim { job, task: 0, attempt: a.attempt, claim: proof_claim(u64::from(*steps)) },
                )
            }
            Op::Decline { prover: p, job, attempt } => {
                let job = pick(&self.jobs, job)?;
                let action =
                    Action::Decline { job, task: 0, attempt: u32::from(*attempt), reason: DeclineReason::Busy };
                self.tx(&prover(*p), action)
            }
            Op::Certify { job, valid, invalid, old } => {
                let job = pick(&self.jobs, job)?;
                let now = query::vote_subject(&self.chain.kv, &job, 0).unwrap();
                let subject = if *old {
                    self.subjects.get(&job).cloned()
                } else {
                    now.or_else(|| self.subjects.get(&job).cloned())
                }?;
                self.subjects.insert(job, subject.clone());
                let votes: Vec<_> = (1..=4u8)
                    .filter_map(|n| match n {
                        n if n <= *valid => Some((n, Verdict::Valid)),
                        n if n <= valid.saturating_add(*invalid) => Some((n, Verdict::Invalid(Check::Stark))),
                        _ => None,
                    })
                    .collect();
                self.chain.verdicts(&subject, &votes, &user(3))
            }
            Op::Evidence { validator: v, height, round, a, b } => {
                let vote = |value: u8| {
                    let value = Some(BlockId::new([value; 32]));
                    let height = Height(u64::from(*height));
                    let vote = Vote {
                        kind: VoteKind::Prevote,
                        height,
                        round: Round(u32::from(*round)),
                        value,
                        validator: validator(*v).public(),
                    };
                    vote.sign(&validator(*v), &self.chain.genesis)
                };
                Transaction::Evidence(Evidence::Votes(vote(*a), vote(*b)).canonical())
            }
            Op::RegisterValidator { .. } | Op::UpdateValidator(..) | Op::ExitValidator(..) => self.validator_tx(op)?,
            Op::WrongNonce(u, n) => {
                let action = Action::Transfer { to: user(1).public(), amount: Amount(1) };
                Transaction::Signed(self.chain.sign_with(&user(*u), u64::from(*n), action))
            }
        })
    }

    fn validator_tx(&mut self, op: &Op) -> Option<Transaction> {
        let owner_of = |v: u8| if v < 5 { owner(v) } else { user(1) };
        Some(match op {
            Op::RegisterValidator { user: u, key: k, power, stake } => {
                let possession = key(*k).sign(Domain::KeyPossession, &self.chain.genesis, user(*u).public().as_bytes());
                let (key, power, stake) = (key(*k).public(), u64::from(*power), Amount(u128::from(*stake)));
                self.tx(&user(*u), Action::RegisterValidator { key, power, stake, possession })
            }
            Op::UpdateValidator(v, p) => {
                let action = Action::UpdateValidator { key: validator(*v).public(), power: u64::from(*p) };
                self.tx(&owner_of(*v), action)
            }
            Op::ExitValidator(v) => {
                let action = Action::ExitValidator { key: validator(*v).public() };
                self.tx(&owner_of(*v), action)
            }
            _ => return None,
        })
    }

    fn step(&mut self, ms: u64, ops: &[Op]) {
        self.nonces.clear();
        let candidates: Vec<_> = ops.iter().filter_map(|op| self.transaction(op)).collect();
        self.chain.now = self.chain.now.plus(ms);
        let built = self.chain.build(&candidates);
        // Builder and checker agree: a block with a transaction that the builder refuses at that place is invalid for
        // ever.
        let outside = candidates.iter().find(|t| !built.block.transactions.contains(t));
        if let Some(bad) = outside {
            let mut block = built.block.clone();
            block.transactions.push(bad.clone());
            block.header.transactions = transactions_root(block.transactions.iter());
            let evidence = |t: &&Transaction| matches!(t, Transaction::Evidence(_));
            block.header.evidence = transactions_root(block.transactions.iter().filter(evidence));
            let dropped = self.chain.build(&block.transactions).dropped;
            match self.chain.check(&block) {
                CheckOutcome::Valid(_) => assert!(dropped.is_empty()),
                CheckOutcome::Invalid(BlockFault::Transaction { error, .. }) => assert_eq!(error, dropped[0].1),
                other => panic!("{other:?}"),
            }
        }
        // `commit` checks the block, the root and the sum of all credits.
        let executed = self.chain.commit(&built.block);
        for event in &executed.events {
            self.observe(event);
        }
        for (job, status) in &self.ended {
            let seen = query::job(&self.chain.kv, job).unwrap().map(|j| j.status);
            assert!(seen.is_none_or(|s| s == *status), "a terminal job changed");
        }
        let live = self.jobs.iter().filter(|j| !self.ended.contains_key(*j)).count();
        assert_eq!(live, query::live_jobs(&self.chain.kv).unwrap().len());
        assert_eq!(live, state::counters(&self.chain.kv).unwrap().live_jobs as usize);
    }

    fn observe(&mut self, event: &Event) {
        match event {
            Event::JobSubmitted { job, .. } => {
                assert!(!self.jobs.contains(job));
                self.jobs.push(*job);
                let record = query::job(&self.chain.kv, job).unwrap().unwrap();
                self.max_fee.insert(*job, record.max_fee);
            }
            Event::ClaimCommitted { subject } => {
                self.subjects.insert(subject.job, subject.clone());
            }
            Event::ClaimCertified { job, price, .. } => {
                let (Claim::Proof { steps, .. } | Claim::Failure { steps, .. }) = self.subjects[job].claim;
                assert_eq!(Some(*price), money::price(&types::params::Params::standard().fees, steps));
                assert!(*price <= self.max_fee[job]);
                assert_eq!(self.paid.insert(*job, *price), None, "paid twice");
            }
            Event::JobEnded { job, status } => {
                assert!(status.is_terminal());
                assert_eq!(self.ended.insert(*job, *status), None, "two terminal states");
                assert!(*status != JobStatus::Completed || self.paid.contains_key(job), "completed without payment");
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn credits_are_conserved_and_every_job_ends_once(steps in history()) {
        let mut g = genesis();
        g.params.assignment.attempts_max = 3;
        // So that the unbonding and dropping of records happen too.
        g.params.evidence_ms = 60_000;
        g.params.retention_ms = 90_000;
        (g.params.assignment.reject_ms, g.params.assignment.reject_ms_max) = (1_000, 8_000);
        g.params.assignment.lock_ms = 30_000;
        let mut run = Run {
            chain: Chain::with(&g),
            jobs: vec![],
            subjects: BTreeMap::new(),
            ended: BTreeMap::new(),
            paid: BTreeMap::new(),
            max_fee: BTreeMap::new(),
            nonces: BTreeMap::new(),
        };
        let submit = |user| Op::Submit { user, steps: 90_000, fee: 1_200, key: None, deadline: 600_000 };
        run.step(500, &[submit(1), submit(2), submit(3)]);
        for (ms, ops) in &steps {
            run.step(*ms, ops);
        }
        // With time alone every job ends, and nobody holds anything any more.
        for _ in 0..40 {
            run.step(70_000, &[]);
        }
        prop_assert_eq!(run.ended.len(), run.jobs.len());
        let audit = query::audit(&run.chain.kv).unwrap();
        prop_assert_eq!(audit.escrows, Amount::ZERO);
        prop_assert!(query::provers(&run.chain.kv).unwrap().iter().all(|p| p.open == 0 && !p.exiting));
        // Every record of a job is gone with it.
        use types::kv::{KvRead, Space};
        let left = |prefix: Vec<u8>| run.chain.kv.scan(Space::State, &prefix, None, 99).unwrap().len();
        for prefix in [state::keys::recent_jobs(), vec![0x20], vec![0x21], vec![0x25], vec![0x26], vec![0x12]] {
            prop_assert_eq!(left(prefix.clone()), 0, "records under {:?}", prefix);
        }
    }
}
