//! Lives of jobs, step by step, with the credits that move.

use types::ids::{Amount, TimeMs};
use types::job::{JobStatus, Stage};
use types::transaction::{Action, DeclineReason, Transaction};
use types::verdict::{Check, Claim, FailureReason, Verdict};

use crate::execute::Event;
use crate::explain::{self, Standing, Waiting};
use crate::state::records::{JobError, Rejection};
use crate::testkit::*;
use crate::{TxCode, has_work, query, state};

#[test]
fn a_job_is_proved_certified_and_paid_once() {
    let mut c = Chain::new();
    let (alice, bob) = (user(1), user(2));
    let (job, order) = c.running_job(&alice);
    assert_eq!(c.balance(&alice), 100_000 - 1_500);
    assert!(has_work(&c.kv).unwrap());
    let view = query::job(&c.kv, &job).unwrap().unwrap();
    assert_eq!((view.status, view.stage, view.tasks[0].state), (JobStatus::Running, Stage::Prove, "assigned"));
    assert_eq!((view.tasks[0].prover, view.tasks[0].rank), (Some(order[0].public()), Some(0)));

    let early = c.commit_tx(&order[1], job, 0, proof_claim(50_500));
    assert_eq!(c.refused(&early), TxCode::NotEligible);
    let stale = c.commit_tx(&order[0], job, 1, proof_claim(50_500));
    assert_eq!(c.refused(&stale), TxCode::WrongAttempt);
    let much = c.commit_tx(&order[0], job, 0, proof_claim(STEPS + 1));
    assert_eq!(c.refused(&much), TxCode::OutOfBounds);
    let commit = c.commit_tx(&order[0], job, 0, proof_claim(50_500));
    let events = c.block(&[commit]);
    assert!(matches!(&events[..], [Event::ClaimCommitted { subject }] if *subject == c.subject(&job)));
    assert_eq!(query::in_voting(&c.kv).unwrap(), [c.subject(&job)]);

    let subject = c.subject(&job);
    let cancel = c.tx(&alice, Action::CancelJob { job });
    assert_eq!(c.refused(&cancel), TxCode::InVoting);
    let few = c.verdicts(&subject, &VALID[..2], &bob);
    assert_eq!(c.refused(&few), TxCode::Certificate);
    let mut other = subject.clone();
    other.claim = proof_claim(1);
    let forged = c.verdicts(&other, &VALID, &bob);
    assert_eq!(c.refused(&forged), TxCode::Certificate);

    let before: Vec<_> = (1..=4).map(|n| c.balance(&owner(n))).collect();
    let (prover_before, bob_before) = (c.balance(&order[0]), c.balance(&bob));
    let good = c.verdicts(&subject, &VALID, &bob);
    let events = c.block(std::slice::from_ref(&good));
    // 1,000 base + 51 started thousands; 18 % by power, 2 % to the certifier, the rest to the prover.
    let price = 1_051;
    let (validators, certifier) = (price * 180 / 1_000, price * 20 / 1_000);
    let each = validators / 3;
    assert!(events.contains(&Event::ClaimCertified {
        job,
        task: 0,
        attempt: 0,
        prover: order[0].public(),
        price: Amount(price)
    }));
    assert!(events.contains(&Event::JobEnded { job, status: JobStatus::Completed }));
    for n in 1..=4u8 {
        let gain = if n < 4 { each } else { 0 };
        assert_eq!(c.balance(&owner(n)), before[usize::from(n) - 1] + gain, "owner {n}");
    }
    assert_eq!(c.balance(&bob), bob_before + certifier);
    assert_eq!(c.balance(&order[0]), prover_before + price - certifier - 3 * each);
    assert_eq!(c.balance(&alice), 100_000 - price);
    let view = query::job(&c.kv, &job).unwrap().unwrap();
    assert_eq!((view.status, view.fee, view.receipt_ready), (JobStatus::Completed, Amount(price), true));
    assert_eq!(view.tasks[0].state, "certified");

    assert_eq!(c.refused(&good), TxCode::Recorded);
    let cancel = c.tx(&alice, Action::CancelJob { job });
    assert_eq!(c.refused(&cancel), TxCode::JobEnded);
    c.block(&[]);
    assert!(!has_work(&c.kv).unwrap());
    // The deadline's timer finds an ended job; after the retention time the records are dropped.
    c.advance(600_000, &[]);
    assert_eq!(query::job(&c.kv, &job).unwrap().unwrap().status, JobStatus::Completed);
    let (executed, _) = c.advance(7 * 24 * 3_600_000, &[]);
    assert!(matches!(&executed.events[..], [Event::JobPruned { job: j, blobs }] if *j == job && blobs.len() == 2));
    assert_eq!(query::job(&c.kv, &job).unwrap(), None);
    assert_eq!(query::list_jobs(&c.kv, Some(&alice.public()), None, None, 10).unwrap().items, []);
}

#[test]
fn a_rejected_prover_is_out_and_the_next_attempt_begins() {
    let mut c = Chain::new();
    let (job, order) = c.running_job(&user(1));
    let commit = c.commit_tx(&order[0], job, 0, proof_claim(10));
    c.block(&[commit]);
    let subject = c.subject(&job);
    let bad = Verdict::Invalid(Check::Claims);
    let votes = c.verdicts(&subject, &[(1, bad), (2, bad), (3, Verdict::Valid), (4, Verdict::Abstain)], &user(2));
    let events = c.block(std::slice::from_ref(&votes));
    let rejected = Event::ClaimRejected { job, task: 0, attempt: 0, prover: order[0].public(), check: Check::Claims };
    assert!(events.contains(&rejected));
    assert_eq!(c.refused(&votes), TxCode::Recorded);
    let view = query::job(&c.kv, &job).unwrap().unwrap();
    assert_eq!((view.status, view.tasks[0].attempt, view.tasks[0].rejections.len()), (JobStatus::Running, 1, 1));
    let next = c.order(&job);
    assert_eq!(next.len(), 2);
    assert!(next.iter().all(|k| k.public() != order[0].public()));
    let explained = explain::job(&c.kv, &job, c.now).unwrap().unwrap();
    let standing = explained.tasks[0].candidates.iter().find(|x| x.prover == order[0].public()).unwrap().standing;
    assert_eq!(standing, Standing::Rejected { check: Check::Claims });
    c.advance(1_000_000, &[]);
    assert_eq!(query::job(&c.kv, &job).unwrap().unwrap().status, JobStatus::Expired);
    assert_eq!(c.balance(&user(1)), 100_000);
}

#[test]
fn no_verdict_voids_the_attempt_and_the_last_one_fails_with_refund() {
    let mut g = genesis();
    g.params.assignment.attempts_max = 2;
    let mut c = Chain::with(&g);
    let (job, order) = c.running_job(&user(1));
    let commit = c.commit_tx(&order[0], job, 0, proof_claim(10));
    c.block(&[commit]);
    let subject = c.subject(&job);
    let (executed, _) = c.advance(60_000, &[]);
    assert!(executed.events.contains(&Event::AttemptVoided { job, task: 0, attempt: 0 }));
    let late = c.verdicts(&subject, &VALID, &user(2));
    assert_eq!(c.refused(&late), TxCode::NotInVoting);
    // Nobody is punished, but this task's next attempts are for others first.
    let view = query::job(&c.kv, &job).unwrap().unwrap();
    assert_eq!(view.tasks[0].rejections, [Rejection { attempt: 0, prover: order[0].public(), check: None }]);
    let next = c.order(&job);
    assert_eq!((next.len(), next[2].public()), (3, order[0].public()));
    let first = c.order(&job).remove(0);
    let record = state::prover(&c.kv, &order[0].public()).unwrap().unwrap();
    assert_eq!((record.lapses, record.rejections, record.locked_until), (0, 0, TimeMs(0)));
    let commit = c.commit_tx(&first, job, 1, proof_claim(10));
    c.block(&[commit]);
    c.advance(60_000, &[]);
    // A prover's first voided claim does not use up the job's attempts, its second does.
    for (attempt, counted) in [(2, 0), (3, 0), (4, 1)] {
        let task = state::task(&c.kv, &job, 0).unwrap().unwrap();
        assert_eq!((task.attempt, task.counted), (attempt, counted));
        let commit = c.commit_tx(&c.order(&job)[0], job, attempt, proof_claim(10));
        c.block(&[commit]);
        c.advance(60_000, &[]);
    }
    let view = query::job(&c.kv, &job).unwrap().unwrap();
    assert_eq!((view.status, view.error), (JobStatus::Failed, Some(JobError::AttemptsUsedUp { attempts: 2 })));
    assert_eq!(c.balance(&user(1)), 100_000);
    assert!(query::provers(&c.kv).unwrap().iter().all(|p| p.open == 0));
}

#[test]
fn a_program_that_fails_ends_the_job_and_pays_the_steps() {
    let mut c = Chain::new();
    let (job, order) = c.running_job(&user(1));
    let claim = Claim::Failure { reason: FailureReason::Execution, steps: 2_000 };
    let commit = c.commit_tx(&order[0], job, 0, claim);
    c.block(&[commit]);
    let votes = c.verdicts(&c.subject(&job), &VALID, &user(2));
    c.block(&[votes]);
    let view = query::job(&c.kv, &job).unwrap().unwrap();
    let error = JobError::ProgramFailed { reason: FailureReason::Execution, steps: 2_000 };
    assert_eq!((view.status, view.error, view.receipt_ready), (JobStatus::Failed, Some(error), false));
    assert_eq!(c.balance(&user(1)), 100_000 - 1_002);
}

#[test]
fn cancel_refunds_and_only_the_sender_may() {
    let mut c = Chain::new();
    let (job, _) = c.running_job(&user(1));
    let foreign = c.tx(&user(2), Action::CancelJob { job });
    assert_eq!(c.refused(&foreign), TxCode::NotOwner);
    let own = c.tx(&user(1), Action::CancelJob { job });
    let events = c.block(&[own]);
    assert_eq!(events.last(), Some(&Event::JobEnded { job, status: JobStatus::Cancelled }));
    assert_eq!(c.balance(&user(1)), 100_000 - 1);
    assert_eq!(crate::assign(&c.kv, &job, 0).unwrap(), None);
    assert_eq!(state::counters(&c.kv).unwrap().live_jobs, 0);
}

#[test]
fn a_claim_in_voting_freezes_expiry_until_its_verdict() {
    let mut c = Chain::new();
    let mut short = spec();
    short.deadline_ms = 30_000;
    let submission = c.submission(&user(1), &short);
    let events = c.block(&[submission]);
    let [Event::JobSubmitted { job, .. }] = events[..] else { panic!("{events:?}") };
    c.block(&[]);
    let order = c.order(&job);
    let commit = c.commit_tx(&order[0], job, 0, proof_claim(10));
    c.block(&[commit]);
    c.advance(40_000, &[]);
    assert_eq!(query::job(&c.kv, &job).unwrap().unwrap().status, JobStatus::Running);
    let votes = c.verdicts(&c.subject(&job), &VALID, &user(2));
    c.block(&[votes]);
    assert_eq!(query::job(&c.kv, &job).unwrap().unwrap().status, JobStatus::Completed);
    // Without a verdict it expires when the attempt is void.
    let submission = c.submission(&user(1), &short);
    let events = c.block(&[submission]);
    let [Event::JobSubmitted { job, .. }] = events[..] else { panic!("{events:?}") };
    c.block(&[]);
    let commit = c.commit_tx(&c.order(&job)[0], job, 0, proof_claim(10));
    c.block(&[commit]);
    c.advance(60_000, &[]);
    assert_eq!(query::job(&c.kv, &job).unwrap().unwrap().status, JobStatus::Expired);
}

#[test]
fn the_idempotency_key_charges_once() {
    let mut c = Chain::new();
    let alice = user(1);
    let mut wanted = spec();
    wanted.idempotency_key = Some("order-1".into());
    let submission = c.submission(&alice, &wanted);
    let events = c.block(&[submission]);
    let [Event::JobSubmitted { job, .. }] = events[..] else { panic!("{events:?}") };
    let again = c.sign(&alice, Action::SubmitJob(Box::new(wanted.clone())));
    assert_eq!(query::repeated(&c.kv, &again).unwrap(), Some(job));
    let balance = c.balance(&alice);
    let repeat = c.available(again.clone(), &[validator(1), validator(3)]);
    let events = c.block(&[repeat]);
    assert!(events.contains(&Event::JobRepeated { job, tx: again.id() }));
    assert_eq!(c.balance(&alice), balance);
    assert_eq!(query::list_jobs(&c.kv, None, None, None, 10).unwrap().items.len(), 1);
    let mut other = wanted.clone();
    other.max_steps -= 1;
    let conflict = c.submission(&alice, &other);
    assert_eq!(c.refused(&conflict), TxCode::IdempotencyConflict);
    // Another account has its own keys.
    let foreign = c.submission(&user(2), &other);
    c.block(&[foreign]);
    assert_eq!(query::list_jobs(&c.kv, None, None, None, 10).unwrap().items.len(), 2);
}

#[test]
fn a_submission_needs_more_than_a_third_and_fair_bounds() {
    let mut c = Chain::new();
    let alice = user(1);
    let tx = c.sign(&alice, Action::SubmitJob(Box::new(spec())));
    let plain = Transaction::Signed(tx.clone());
    assert_eq!(c.refused(&plain), TxCode::Availability);
    let one = c.available(tx.clone(), &[validator(1)]);
    assert_eq!(c.refused(&one), TxCode::Availability);
    let twice = c.available(tx.clone(), &[validator(1), validator(1)]);
    assert_eq!(c.refused(&twice), TxCode::Availability);
    let stranger = c.available(tx, &[validator(1), key(77)]);
    assert_eq!(c.refused(&stranger), TxCode::Availability);
    let mut s = spec();
    s.max_fee = Amount(1_099);
    let cheap = c.submission(&alice, &s);
    assert_eq!(c.refused(&cheap), TxCode::FeeTooLow);
    let mut s = spec();
    s.max_steps = c_params().steps_max + 1;
    s.max_fee = Amount(1_000_000);
    let long = c.submission(&alice, &s);
    assert_eq!(c.refused(&long), TxCode::OutOfBounds);
    let mut s = spec();
    s.max_fee = Amount(100_001);
    let rich = c.submission(&alice, &s);
    assert_eq!(c.refused(&rich), TxCode::Balance);
    let mut s = spec();
    s.deadline_ms = c_params().deadline_ms_max + 1;
    let slow = c.submission(&alice, &s);
    assert_eq!(c.refused(&slow), TxCode::OutOfBounds);
    assert_eq!(c.balance(&alice), 100_000);
}

fn c_params() -> types::params::Params {
    types::params::Params::standard()
}

#[test]
fn a_lapsed_lease_opens_the_next_ranks_and_puts_the_prover_behind() {
    let mut c = Chain::new();
    let (job, order) = c.running_job(&user(1));
    let start = c.now;
    // 20 s and 20 s for a million steps, of which 100,000 are declared.
    let window = 22_000;
    assert_eq!(crate::assign(&c.kv, &job, 0).unwrap().unwrap().window_ms, window);
    let explained = explain::job(&c.kv, &job, start).unwrap().unwrap();
    assert_eq!(explained.tasks[0].waiting, Waiting::Turn { prover: order[0].public(), until_ms: start.plus(window) });
    let (executed, _) = c.advance(window, &[]);
    assert_eq!(executed.events, [Event::LeaseLapsed { job, task: 0, attempt: 0, prover: order[0].public() }]);
    let record = state::prover(&c.kv, &order[0].public()).unwrap().unwrap();
    assert_eq!((record.lapses, record.ineligible_until, record.open), (1, c.now.plus(30_000), 0));
    let second = c.commit_tx(&order[1], job, 0, proof_claim(10));
    c.block(&[second]);
    assert_eq!(query::job(&c.kv, &job).unwrap().unwrap().tasks[0].rank, Some(1));
    let votes = c.verdicts(&c.subject(&job), &VALID, &user(2));
    c.block(&[votes]);
    // While it is behind, it is last in every new job.
    for _ in 0..4 {
        let (_, order_now) = c.running_job(&user(2));
        assert_eq!(order_now.last().unwrap().public(), order[0].public());
    }
}

#[test]
fn a_decline_passes_the_turn_at_once_and_all_declines_pause_for_a_window() {
    let mut c = Chain::new();
    let (job, order) = c.running_job(&user(1));
    let decline = |c: &Chain, k| c.tx(k, Action::Decline { job, task: 0, attempt: 0, reason: DeclineReason::Memory });
    let first = decline(&c, &order[0]);
    let events = c.block(&[first]);
    let until = c.now.plus(22_000);
    assert_eq!(events[1], Event::TaskAssigned { job, task: 0, attempt: 0, prover: Some(order[1].public()), until });
    let again = decline(&c, &order[0]);
    assert_eq!(c.refused(&again), TxCode::NotEligible);
    let gone = c.commit_tx(&order[0], job, 0, proof_claim(10));
    assert_eq!(c.refused(&gone), TxCode::NotEligible);
    assert_eq!(state::prover(&c.kv, &order[0].public()).unwrap().unwrap().lapses, 0);
    // Rank 2 declines ahead of its turn: the turn of the present one is untouched.
    let third = decline(&c, &order[2]);
    assert_eq!(c.block(&[third]).len(), 1);
    let second = decline(&c, &order[1]);
    c.block(&[second]);
    let explained = explain::job(&c.kv, &job, c.now).unwrap().unwrap();
    assert_eq!(explained.tasks[0].waiting, Waiting::Retry { at_ms: c.now.plus(22_000) });
    let (executed, _) = c.advance(22_000, &[]);
    assert_eq!(executed.events[0], Event::AttemptVoided { job, task: 0, attempt: 0 });
    assert_eq!(c.order(&job).len(), 3);
}

#[test]
fn declines_are_bounded_so_that_a_record_always_decodes() {
    let mut c = Chain::new();
    let (job, order) = c.running_job(&user(1));
    let mut task = state::task(&c.kv, &job, 0).unwrap().unwrap();
    for n in 0..1_024u32 {
        let mut id = [0xaa; 32];
        id[..4].copy_from_slice(&n.to_le_bytes());
        task.declines.insert(types::keys::PublicKey::new(id), DeclineReason::Busy);
    }
    let rejection = Rejection { attempt: 0, prover: user(3).public(), check: Some(Check::Stark) };
    task.rejections = vec![rejection; 1_000];
    let writes = {
        let mut overlay = state::Overlay::new(&c.kv);
        overlay.put(state::keys::task(&job, 0), &task);
        overlay.into_writes()
    };
    c.kv.apply(&writes);
    assert_eq!(state::task(&c.kv, &job, 0).unwrap().unwrap(), task);
    let more = c.tx(&order[0], Action::Decline { job, task: 0, attempt: 0, reason: DeclineReason::Busy });
    assert_eq!(c.refused(&more), TxCode::Full);
}

#[test]
fn late_and_leaving_provers() {
    let mut c = Chain::new();
    let (job, order) = c.running_job(&user(1));
    // One that registers later may come in when everyone may.
    let late = prover(4);
    let fund = c.tx(&user(2), Action::Transfer { to: late.public(), amount: Amount(30_000) });
    c.block(&[fund]);
    let register = c.tx(&late, Action::RegisterProver { weight: 5, steps_max: STEPS });
    c.block(&[register]);
    assert_eq!(c.balance(&late), 30_000 - 10_000 - 1);
    assert_eq!(c.order(&job).len(), 3);
    let early = c.commit_tx(&late, job, 0, proof_claim(10));
    assert_eq!(c.refused(&early), TxCode::NotEligible);
    // One that leaves while it has the turn is paid out when the turn ends.
    let exit = c.tx(&order[0], Action::ExitProver);
    let before = c.balance(&order[0]);
    c.block(&[exit]);
    assert_eq!(c.balance(&order[0]), before - 1);
    assert_eq!(c.order(&job)[0].public(), order[0].public());
    c.advance(22_000, &[]);
    assert_eq!(c.balance(&order[0]), before - 1 + 500);
    assert_eq!(state::prover(&c.kv, &order[0].public()).unwrap(), None);
    assert_eq!(c.order(&job).len(), 2);
    c.advance(4 * 22_000, &[]);
    let commit = c.commit_tx(&late, job, 0, proof_claim(10));
    c.block(&[commit]);
    let view = query::job(&c.kv, &job).unwrap().unwrap();
    assert_eq!((view.tasks[0].prover, view.tasks[0].rank), (Some(late.public()), None));
    let idle = explain::prover(&c.kv, &user(3).public(), c.now).unwrap();
    assert_eq!(idle.state, "not_registered");
}

#[test]
fn without_a_prover_the_job_waits_and_says_so() {
    let mut g = genesis();
    g.provers.clear();
    let mut c = Chain::with(&g);
    let submission = c.submission(&user(1), &spec());
    let events = c.block(&[submission]);
    let [Event::JobSubmitted { job, .. }] = events[..] else { panic!("{events:?}") };
    assert_eq!(explain::job(&c.kv, &job, c.now).unwrap().unwrap().tasks[0].waiting, Waiting::Seed);
    c.block(&[]);
    let waiting = explain::job(&c.kv, &job, c.now).unwrap().unwrap().tasks.remove(0).waiting;
    assert_eq!(waiting, Waiting::NoProver { max_steps: STEPS });
    let register = c.tx(&prover(1), Action::RegisterProver { weight: 1, steps_max: STEPS });
    c.block(&[register]);
    let commit = c.commit_tx(&prover(1), job, 0, proof_claim(10));
    c.block(&[commit]);
    let (executed, _) = c.advance(600_000, &[]);
    assert!(executed.events.contains(&Event::JobEnded { job, status: JobStatus::Expired }));
    assert_eq!(c.now.since(TimeMs(START_MS)) / 1_000, 602);
}

#[test]
fn lists_are_newest_first_and_paged() {
    let mut c = Chain::new();
    let mut ids = vec![];
    for _ in 0..5 {
        ids.push(c.running_job(&user(1)).0);
    }
    c.running_job(&user(2));
    let cancel = c.tx(&user(1), Action::CancelJob { job: ids[2] });
    c.block(&[cancel]);
    let mine = Some(user(1).public());
    let page = query::list_jobs(&c.kv, mine.as_ref(), None, None, 3).unwrap();
    let of = |p: &query::Page<query::JobView>| p.items.iter().map(|j| j.job_id).collect::<Vec<_>>();
    assert_eq!(of(&page), [ids[4], ids[3], ids[2]]);
    let rest = query::list_jobs(&c.kv, mine.as_ref(), None, page.cursor.as_deref(), 3).unwrap();
    assert_eq!((of(&rest), rest.cursor), (vec![ids[1], ids[0]], None));
    let cancelled = query::list_jobs(&c.kv, None, Some(JobStatus::Cancelled), None, 3).unwrap();
    assert_eq!(of(&cancelled), [ids[2]]);
    assert_eq!(query::live_jobs(&c.kv).unwrap().len(), 5);
}
