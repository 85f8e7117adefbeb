//! Provers that are registered to be thrown away: what a rejected or voided claim costs whom, and that a job they are
//! set upon is completed all the same.

use proptest::prelude::*;
use types::Wire;
use types::genesis::{Genesis, GenesisAccount};
use types::ids::{Amount, JobId, TimeMs};
use types::job::JobStatus;
use types::keys::{PublicKey, SecretKey};
use types::transaction::{Action, DeclineReason, Transaction};
use types::verdict::{Check, Verdict};

use crate::execute::Event;
use crate::explain::{self, Standing, Waiting};
use crate::limits::{CONTESTED_AFTER, DECLINES_MAX, REJECTIONS_MAX};
use crate::state::records::{ProverRecord, Rejection, TaskState};
use crate::testkit::*;
use crate::{TxCode, query, state};

const BAD: [(u8, Verdict); 2] = [(1, Verdict::Invalid(Check::Stark)), (2, Verdict::Invalid(Check::Stark))];
/// Throw-away provers of an attack.
const THROWN: u8 = 40;
/// Time that a proof takes the honest prover.
const PROOF_MS: u64 = 10_000;
/// Pace of the blocks of an attack.
const STEP_MS: u64 = 1_000;

fn thrown(n: u8) -> SecretKey {
    key(100 + n)
}

fn record(c: &Chain, who: &SecretKey) -> ProverRecord {
    state::prover(&c.kv, &who.public()).unwrap().unwrap()
}

impl Chain {
    /// A claim of `who` for the job's present attempt, voted down.
    fn rejected(&mut self, who: &SecretKey, job: JobId) -> Vec<Event> {
        let attempt = state::task(&self.kv, &job, 0).unwrap().unwrap().attempt;
        let commit = self.commit_tx(who, job, attempt, proof_claim(10));
        self.block(&[commit]);
        let votes = self.verdicts(&self.subject(&job), &BAD, &user(2));
        self.block(&[votes])
    }

    /// A job from its submission to its certificate, by whoever is first.
    fn certified(&mut self, sender: &SecretKey) -> PublicKey {
        let (job, order) = self.running_job(sender);
        let commit = self.commit_tx(&order[0], job, 0, proof_claim(10));
        self.block(&[commit]);
        let votes = self.verdicts(&self.subject(&job), &VALID, &user(2));
        self.block(&[votes]);
        order[0].public()
    }
}

#[test]
fn a_rejected_claim_bars_for_growing_times_and_locks_the_deposit() {
    let mut c = Chain::new();
    let (first, order) = c.running_job(&user(1));
    let (second, _) = c.running_job(&user(1));
    let cheat = order[0].clone();
    c.rejected(&cheat, first);
    let p = c_params().assignment;
    let after = record(&c, &cheat);
    assert_eq!((after.rejections, after.barred_until), (1, c.now.plus(p.reject_ms)));
    assert_eq!((after.locked_until, after.deposit, after.open), (c.now.plus(p.lock_ms), Amount(500), 0));

    // Out for this task, barred from every other: from running ones, from new ones, also when everyone may.
    let (third, _) = c.running_job(&user(2));
    for job in [second, third] {
        assert!(!c.order(&job).iter().any(|k| k.public() == cheat.public()));
        let explained = explain::job(&c.kv, &job, c.now).unwrap().unwrap();
        let standing = explained.tasks[0].candidates.iter().find(|x| x.prover == cheat.public()).unwrap().standing;
        assert_eq!(standing, Standing::Barred { until_ms: after.barred_until });
    }
    let early = c.commit_tx(&cheat, second, 0, proof_claim(10));
    assert_eq!(c.refused(&early), TxCode::NotEligible);
    let explained = explain::prover(&c.kv, &cheat.public(), c.now).unwrap();
    assert_eq!((explained.state, explained.barred_until_ms), ("barred", Some(after.barred_until)));
    assert_eq!(explained.locked_until_ms, Some(after.locked_until));

    // Neither leaving nor registering again is a way out.
    let exit = c.tx(&cheat, Action::ExitProver);
    let (_, built) = c.advance(500, std::slice::from_ref(&exit));
    let refusal = &built.dropped[0].1;
    assert_eq!((refusal.code(), refusal.field()), (TxCode::DepositLocked, "deposit"));
    assert!(refusal.limit().contains(&after.locked_until.to_string()), "{refusal}");
    let again = c.tx(&cheat, Action::RegisterProver { weight: 1, steps_max: STEPS });
    assert_eq!(c.refused(&again), TxCode::Registered);

    // When the bar is over it may, and the next one is twice as long.
    let wait = after.barred_until.since(c.now);
    c.advance(wait, &[]);
    // The jobs before it expire by and by.
    c.advance(10_000, &[]);
    let (fourth, order) = c.running_job(&user(2));
    assert!(order.iter().any(|k| k.public() == cheat.public()));
    c.advance(4 * 22_000, &[]);
    c.rejected(&cheat, fourth);
    let twice = record(&c, &cheat);
    assert_eq!((twice.rejections, twice.barred_until), (2, c.now.plus(2 * p.reject_ms)));

    // In the end the whole deposit returns.
    let wait = twice.locked_until.since(c.now);
    c.advance(wait, &[]);
    let before = c.balance(&cheat);
    let exit = c.tx(&cheat, Action::ExitProver);
    c.block(&[exit]);
    assert_eq!(c.balance(&cheat), before + 500 - 1);
}

fn c_params() -> types::params::Params {
    types::params::Params::standard()
}

#[test]
fn bars_double_up_to_a_limit_and_are_forgotten_with_the_lock() {
    let mut c = Chain::new();
    let p = c_params().assignment;
    let cheat = prover(1);
    let mut bars = vec![];
    for _ in 0..10 {
        let (job, _) = c.running_job(&user(1));
        c.advance(4 * 22_000, &[]);
        c.rejected(&cheat, job);
        let cancel = c.tx(&user(1), Action::CancelJob { job });
        c.block(&[cancel]);
        let until = record(&c, &cheat).barred_until;
        bars.push(until.since(c.now) + 500);
        let wait = until.since(c.now);
        c.advance(wait, &[]);
    }
    let expected: Vec<_> = (0..10).map(|n| (p.reject_ms << n).min(p.reject_ms_max)).collect();
    assert_eq!(bars, expected);
    c.advance(p.lock_ms, &[]);
    let (job, _) = c.running_job(&user(1));
    c.advance(4 * 22_000, &[]);
    c.rejected(&cheat, job);
    assert_eq!(record(&c, &cheat).rejections, 1);
}

#[test]
fn certified_work_is_counted_and_lost_with_a_rejected_claim() {
    let mut g = genesis();
    g.provers.truncate(1);
    let mut c = Chain::with(&g);
    for n in 1..=4 {
        assert_eq!(c.certified(&user(1)), prover(1).public());
        assert_eq!(record(&c, &prover(1)).certified, n);
    }
    assert_eq!(
        [0, 1, 2, 3, 4, u32::MAX].map(|certified| ProverRecord { certified, ..record(&c, &prover(1)) }.grade()),
        [0, 1, 2, 2, 3, 32]
    );
    let (job, _) = c.running_job(&user(1));
    c.rejected(&prover(1), job);
    assert_eq!(record(&c, &prover(1)).certified, 0);
    // Nobody else is there: the job waits, says for what, and ends by its deadline.
    let (other, _) = c.running_job(&user(2));
    let waiting = explain::job(&c.kv, &other, c.now).unwrap().unwrap().tasks.remove(0).waiting;
    assert_eq!(waiting, Waiting::Barred { until_ms: record(&c, &prover(1)).barred_until });
    c.advance(600_000, &[]);
    assert_eq!(query::job(&c.kv, &job).unwrap().unwrap().status, JobStatus::Expired);
    // When the bar ends within an attempt, it may go on in this attempt.
    let mut long = spec();
    long.deadline_ms = 3 * 600_000;
    c.running_job(&user(1));
    let (third, _) = c.running_job(&user(1));
    c.rejected(&prover(1), third);
    let submission = c.submission(&user(2), &long);
    let events = c.block(&[submission]);
    let [Event::JobSubmitted { job, .. }] = events[..] else { panic!("{events:?}") };
    c.block(&[]);
    let wait = record(&c, &prover(1)).barred_until.since(c.now);
    c.advance(wait - 501, &[]);
    let commit = c.commit_tx(&prover(1), job, 0, proof_claim(10));
    assert_eq!(c.refused(&commit), TxCode::NotEligible);
    let commit = c.commit_tx(&prover(1), job, 0, proof_claim(10));
    c.block(&[commit]);
}

#[test]
fn who_was_leaving_already_waits_for_its_deposit_all_the_same() {
    let mut c = Chain::new();
    let (job, order) = c.running_job(&user(1));
    let cheat = order[0].clone();
    let commit = c.commit_tx(&cheat, job, 0, proof_claim(10));
    c.block(&[commit]);
    let exit = c.tx(&cheat, Action::ExitProver);
    c.block(&[exit]);
    let votes = c.verdicts(&c.subject(&job), &BAD, &user(2));
    c.block(&[votes]);
    let left = record(&c, &cheat);
    assert!(left.exiting && left.open == 0 && left.locked_until > c.now);
    let before = c.balance(&cheat);
    let wait = left.locked_until.since(c.now);
    c.advance(wait - 1, &[]);
    assert_eq!(c.balance(&cheat), before);
    let (executed, _) = c.advance(1, &[]);
    assert_eq!(c.balance(&cheat), before + 500);
    assert!(executed.events.contains(&Event::ProverChanged { prover: cheat.public() }));
    assert_eq!(state::prover(&c.kv, &cheat.public()).unwrap(), None);
    assert_eq!(state::counters(&c.kv).unwrap().provers, 2);
}

#[test]
fn a_turn_is_lost_with_the_bar_and_the_next_rank_goes_on_at_once() {
    let mut c = Chain::new();
    // Two jobs in which the same prover has the first turn.
    let mut by_first = std::collections::BTreeMap::new();
    let (one, other, cheat) = loop {
        let (job, order) = c.running_job(&user(1));
        let first = order[0].clone();
        if let Some(earlier) = by_first.insert(first.public(), job) {
            break (earlier, job, first);
        }
    };
    // The first job's turn may have passed; its prover may commit nevertheless.
    c.rejected(&cheat, one);
    let order = c.order(&other);
    assert_eq!(order.len(), 2);
    let explained = explain::job(&c.kv, &other, c.now).unwrap().unwrap();
    assert!(!matches!(explained.tasks[0].waiting, Waiting::Turn { prover, .. } if prover == cheat.public()));
    let commit = c.commit_tx(&order[0], other, 0, proof_claim(10));
    c.block(&[commit]);
    let votes = c.verdicts(&c.subject(&other), &VALID, &user(2));
    c.block(&[votes]);
    assert_eq!(query::job(&c.kv, &other).unwrap().unwrap().status, JobStatus::Completed);
    assert_eq!(record(&c, &cheat).open, 0);
}

#[test]
fn when_all_but_the_barred_decline_the_attempt_begins_anew() {
    let mut c = Chain::new();
    let (spoiled, order) = c.running_job(&user(1));
    c.rejected(&order[0], spoiled);
    let (job, order) = c.running_job(&user(1));
    assert_eq!(order.len(), 2);
    for who in &order {
        let decline = c.tx(who, Action::Decline { job, task: 0, attempt: 0, reason: DeclineReason::Busy });
        c.block(&[decline]);
    }
    let explained = explain::job(&c.kv, &job, c.now).unwrap().unwrap();
    assert!(matches!(explained.tasks[0].waiting, Waiting::Retry { .. }), "{:?}", explained.tasks[0].waiting);
    c.advance(22_000, &[]);
    let task = state::task(&c.kv, &job, 0).unwrap().unwrap();
    assert_eq!((task.attempt, task.counted, c.order(&job).len()), (1, 1, 2));
}

#[test]
fn what_a_task_remembers_is_bounded_however_many_claims_are_rejected() {
    let mut c = Chain::new();
    let (job, _) = c.running_job(&user(1));
    let mut task = state::task(&c.kv, &job, 0).unwrap().unwrap();
    let id = |n: u32| {
        let mut id = [0xaa; 32];
        id[..4].copy_from_slice(&n.to_le_bytes());
        PublicKey::new(id)
    };
    for n in 0..u32::try_from(DECLINES_MAX).unwrap() {
        task.declines.insert(id(n), DeclineReason::Busy);
    }
    let commit = c.commit_tx(&c.order(&job)[0], job, 0, proof_claim(10));
    c.block(&[commit]);
    task.state = state::task(&c.kv, &job, 0).unwrap().unwrap().state;
    assert!(matches!(task.state, TaskState::Voting(_)));
    for n in 0..=5_000u32 {
        let check = if n % 2 == 0 { Some(Check::Stark) } else { None };
        task.remember(Rejection { attempt: n, prover: id(n), check });
        assert!(task.rejections.len() <= REJECTIONS_MAX);
        assert_eq!(task.rejections.last().unwrap().attempt, n);
    }
    assert!(task.to_bytes().len() < 80 << 10, "{} bytes", task.to_bytes().len());
    assert_eq!(types::codec::Wire::from_bytes(&task.to_bytes()), Ok(task.clone()));
    // Voided ones are forgotten before rejected ones, the oldest first.
    assert!(task.rejections.iter().all(|r| r.check.is_some()), "{:?}", task.rejections.first());
    assert_eq!(task.rejections[0].attempt, 5_000 - 2 * 999);
}

/// What throw-away provers do with their claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoil {
    /// A proof that is voted down.
    Bad,
    /// A proof whose bytes nobody gets.
    Withheld,
}

/// When they commit them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// As soon as one may.
    AtOnce,
    /// As late as possible: one block before the honest proof is ready.
    AtLast,
}

/// One honest prover, and others that somebody registers to spoil a job.
struct Attack {
    chain: Chain,
    honest: SecretKey,
}

/// What became of the job.
#[derive(Debug)]
struct Outcome {
    status: JobStatus,
    by: Option<PublicKey>,
    attempts: u32,
    spoiled: usize,
}

impl Attack {
    /// The honest prover has had `certified` jobs certified when the others register, each with `weight` to its 1.
    fn new(chain_id: &str, certified: usize, weight: u32) -> Self {
        let mut g: Genesis = genesis();
        g.chain_id = chain_id.into();
        g.provers.truncate(1);
        let deposit = g.params.assignment.prover_deposit;
        let balance = Amount(deposit.0 + 1_000);
        g.accounts.extend((0..THROWN).map(|n| GenesisAccount { account: thrown(n).public(), balance }));
        let mut chain = Chain::with(&g);
        for _ in 0..certified {
            chain.certified(&user(2));
        }
        let register = |n| chain.tx(&thrown(n), Action::RegisterProver { weight, steps_max: 1_000_000 });
        let all: Vec<_> = (0..THROWN).map(register).collect();
        chain.block(&all);
        Self { chain, honest: prover(1) }
    }

    /// A job under attack, to its end. The honest prover works only while it may commit, and begins anew in every
    /// attempt.
    fn run(&mut self, spoil: Spoil, pace: Pace) -> Outcome {
        let c = &mut self.chain;
        let submission = c.submission(&user(1), &spec());
        let events = c.block(&[submission]);
        let [Event::JobSubmitted { job, .. }] = events[..] else { panic!("{events:?}") };
        let mut worked = 0;
        loop {
            let view = query::job(&c.kv, &job).unwrap().unwrap();
            let task = &view.tasks[0];
            if view.status.is_terminal() {
                assert_eq!(view.error, None, "a job under attack does not fail");
                assert!(c.now <= view.deadline_ms.plus(60_000), "a job outlives its deadline by a vote at most");
                let (by, attempts, spoiled) = (task.prover, task.attempt + 1, task.rejections.len());
                return Outcome { status: view.status, by, attempts, spoiled };
            }
            let mut candidates: Vec<Transaction> = vec![];
            if let Some(a) = crate::assign(&c.kv, &job, 0).unwrap() {
                // A block is a second later than its parent, and who may commit is asked for the block's time.
                let now = c.now.plus(STEP_MS);
                worked = if a.may_prove(&self.honest.public(), now) { worked + STEP_MS } else { 0 };
                let ready = worked >= PROOF_MS;
                let bad = (0..THROWN).map(thrown).find(|k| a.may_prove(&k.public(), now));
                if let Some(bad) = bad.filter(|_| pace == Pace::AtOnce || worked + STEP_MS >= PROOF_MS) {
                    candidates.push(c.commit_tx(&bad, job, a.attempt, proof_claim(10)));
                } else if ready {
                    candidates.push(c.commit_tx(&self.honest, job, a.attempt, proof_claim(10)));
                }
            } else if task.state == "voting" {
                worked = 0;
                if task.prover == Some(self.honest.public()) {
                    candidates.push(c.verdicts(&c.subject(&job), &VALID, &user(2)));
                } else if spoil == Spoil::Bad {
                    candidates.push(c.verdicts(&c.subject(&job), &BAD, &user(2)));
                }
            }
            // `advance` checks the block on a second store and the sum of all credits.
            let (_, built) = c.advance(STEP_MS, &candidates);
            assert_eq!(built.dropped, []);
        }
    }

    /// How much of the attackers' credits is bound, and until when at least.
    fn bound(&self) -> (u128, TimeMs) {
        let all = query::provers(&self.chain.kv).unwrap();
        let locked: Vec<_> = all.iter().filter(|p| p.locked_until_ms > self.chain.now).collect();
        let until = locked.iter().map(|p| p.locked_until_ms).min().unwrap_or(TimeMs(0));
        (locked.iter().map(|p| p.deposit.0).sum(), until)
    }
}

/// Were every attempt counted, sixteen of the forty would end the job as failed, for nothing but fees: each committed
/// one bad claim, left, and had its deposit back in the next block.
#[test]
fn forty_throw_away_provers_do_not_spoil_the_job_of_a_prover_with_work() {
    for (spoil, pace) in [
        (Spoil::Bad, Pace::AtOnce),
        (Spoil::Bad, Pace::AtLast),
        (Spoil::Withheld, Pace::AtOnce),
        (Spoil::Withheld, Pace::AtLast),
    ] {
        let mut attack = Attack::new("with-work", 1, 1);
        let outcome = attack.run(spoil, pace);
        assert_eq!(outcome.status, JobStatus::Completed, "{spoil:?} {pace:?}: {outcome:?}");
        assert_eq!(outcome.by, Some(attack.honest.public()));
        // The honest one may have drawn the first turn before the task was contested.
        assert!(outcome.spoiled <= CONTESTED_AFTER, "{spoil:?} {pace:?}: {outcome:?}");
        let (bound, _) = attack.bound();
        let spoiled = if spoil == Spoil::Bad { outcome.spoiled as u128 } else { 0 };
        assert_eq!(bound, spoiled * 10_000);
    }
}

/// In a network in which nobody has work yet, the forty can be in front every time, for they choose their weights: the
/// job goes on past sixteen rejected claims, until every one of them is out.
#[test]
fn without_anybodys_work_throw_away_provers_run_out_before_the_jobs_attempts_do() {
    let mut attack = Attack::new("without-work", 0, 1_000);
    let outcome = attack.run(Spoil::Bad, Pace::AtOnce);
    assert_eq!((outcome.status, outcome.by), (JobStatus::Completed, Some(attack.honest.public())), "{outcome:?}");
    assert!(outcome.spoiled > 16 && outcome.attempts as usize == outcome.spoiled + 1, "{outcome:?}");
    let (bound, until) = attack.bound();
    assert_eq!(bound, outcome.spoiled as u128 * 10_000);
    assert!(until.since(attack.chain.now) > c_params().deadline_ms_max);
    // The next job meets what is left of them.
    let next = attack.run(Spoil::Bad, Pace::AtOnce);
    assert_eq!(next.status, JobStatus::Completed, "{next:?}");
    assert!(next.spoiled <= usize::from(THROWN) - outcome.spoiled, "{next:?} after {outcome:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_draw_equal_provers_of_which_one_is_honest_complete_the_job(
        chain: u32, certified in 0usize..3, pace in prop_oneof![Just(Pace::AtOnce), Just(Pace::AtLast)],
    ) {
        // Without work the honest one is safe from those that hurry; see the README's known limits for the others.
        let pace = if certified == 0 { Pace::AtOnce } else { pace };
        let run = || Attack::new(&format!("draw-{chain}"), certified, 1).run(Spoil::Bad, pace);
        let outcome = run();
        prop_assert_eq!(outcome.status, JobStatus::Completed, "{:?}", &outcome);
        prop_assert_eq!(format!("{:?}", run()), format!("{outcome:?}"), "the same ledger, the same course");
    }
}
