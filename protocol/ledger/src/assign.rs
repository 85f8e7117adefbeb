//! Who may prove a task, and from when: a pure function of the ledger, the same on every node.
//!
//! Candidates are the provers registered at the job's submission (the job keeps a snapshot of them); their order is
//! weighted rendezvous hashing over (job, task, attempt, seed), where the seed is that of the block after the
//! submission, so that a submitter can't choose its prover. Provers whose leases lapsed shortly before, and those whose
//! claim for this very task was voided, stand behind all others, never outside, so that a task can't be left without
//! anyone. A prover whose claim was rejected is outside for this task, and barred from every other for a time that grows.
//!
//! # Contested tasks
//!
//! Registering costs a deposit that returns, so somebody may register provers only to spoil a job with bad claims or with
//! proofs whose bytes nobody gets. After [`CONTESTED_AFTER`](crate::limits::CONTESTED_AFTER) claims without a certificate
//! the order changes: first those with certified work at the submission, by its order of magnitude, then the others; among
//! equals the draw decides. Work counts since the last rejected claim, so whoever wants to stand in front of a prover of a
//! thousand claims has to have hundreds certified for every single bad one. Where nobody has certified work, the draw alone
//! decides, as before.
//!
//! # The hash, exactly
//!
//! For a prover of weight `w` and a uniform `u` in (0, 1] from its hash, `-log2(u) / w` is exponentially distributed
//! with rate proportional to `w`; the smallest of independent exponentials belongs to each prover with probability `w /
//! sum of weights`, and the order of all of them is the order of weighted draws without replacement. The logarithm is
//! computed in integers, bit by bit, with 40 fractional bits and no table, so every machine gets the same; the error of
//! one part in 2^40 is far below what any number of jobs could show. Quotients are compared by cross-multiplication.
//!
//! # Windows
//!
//! Rank 0 has the first window to itself, then ranks below 2, 4 and 8 may prove, then every registered prover that
//! takes the steps, also one that registered later. A prover that declines leaves the order, and the next rank takes
//! its place at once.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};

use types::codec::encode_body;
use types::ids::{Digest, JobId, TimeMs};
use types::job::JobStatus;
use types::keys::PublicKey;
use types::kv::KvRead;
use types::params;
use types::signing::hash_parts;

use crate::error::StateError;
use crate::limits::WINDOW_RANKS;
use crate::state;
use crate::state::records::{JobRecord, SnapshotEntry, TaskRecord, TaskState};

/// Fractional bits of the logarithm.
const LOG_BITS: u32 = 40;

/// Who may prove a task in its present attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The job.
    pub job: JobId,
    /// Index of the task.
    pub task: u32,
    /// The attempt.
    pub attempt: u32,
    /// Provers in rank order: rank 0 first.
    pub order: Vec<PublicKey>,
    /// Provers that may come in only when everyone may.
    pub latecomers: BTreeSet<PublicKey>,
    /// Those of the latecomers that a rejected claim, of any task, keeps from committing, and until when.
    pub barred: BTreeMap<PublicKey, TimeMs>,
    /// Provers that declined this attempt, or whose claim for this task was rejected.
    pub out: BTreeSet<PublicKey>,
    /// When the first window began.
    pub window_start: TimeMs,
    /// Length of a window.
    pub window_ms: u64,
}

/// What holds at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Number of the window, from 0; 4 is the last.
    pub index: usize,
    /// Ranks below this number may prove; `None`: everyone.
    pub ranks: Option<usize>,
    /// When the next window begins; `None` for the last.
    pub ends: Option<TimeMs>,
}

impl Assignment {
    /// The prover's rank, if it is in the order.
    pub fn rank_of(&self, prover: &PublicKey) -> Option<usize> {
        self.order.iter().position(|p| p == prover)
    }

    /// The window that `now` (block time) lies in. Without any ranked prover there is nobody to wait for: everyone may.
    pub fn window_at(&self, now: TimeMs) -> Window {
        let last = Window { index: WINDOW_RANKS.len(), ranks: None, ends: None };
        if self.order.is_empty() {
            return last;
        }
        let mut ends = self.window_start;
        for (index, ranks) in WINDOW_RANKS.iter().enumerate() {
            ends = ends.plus(self.window_ms);
            if now < ends {
                return Window { index, ranks: Some(*ranks), ends: Some(ends) };
            }
        }
        last
    }

    /// From when on the prover may commit a claim; `None` if it may not in this attempt.
    pub fn starts_at(&self, prover: &PublicKey) -> Option<TimeMs> {
        if self.out.contains(prover) {
            return None;
        }
        let windows_before = match self.rank_of(prover) {
            Some(rank) => WINDOW_RANKS.iter().take_while(|ranks| rank >= **ranks).count(),
            None if !self.latecomers.contains(prover) => return None,
            None if self.order.is_empty() => 0,
            None => WINDOW_RANKS.len(),
        };
        let wait = self.window_ms.saturating_mul(u64::try_from(windows_before).unwrap_or(u64::MAX));
        let from = self.window_start.plus(wait);
        Some(self.barred.get(prover).map_or(from, |until| from.max(*until)))
    }

    /// Whether the prover may commit a claim at `now` (block time). Once it may, it may until the attempt ends.
    pub fn may_prove(&self, prover: &PublicKey, now: TimeMs) -> bool {
        self.starts_at(prover).is_some_and(|from| now >= from)
    }

    /// Everyone who may commit a claim at `now` (block time), in rank order, latecomers last.
    pub fn eligible_at(&self, now: TimeMs) -> Vec<PublicKey> {
        self.order.iter().chain(&self.latecomers).filter(|p| self.may_prove(p, now)).copied().collect()
    }
}

/// The assignment of a task. `None` while the seed is not known, once a claim is in voting, once the job ended, or if
/// there is no such task.
///
/// # Errors
/// [`StateError`].
pub fn assign(view: &dyn KvRead, job: &JobId, task: u32) -> Result<Option<Assignment>, StateError> {
    let Some(record) = state::job(view, job)? else { return Ok(None) };
    let Some(of_task) = state::task(view, job, task)? else { return Ok(None) };
    if record.status != JobStatus::Running || of_task.state != TaskState::Open {
        return Ok(None);
    }
    order_of(view, job, task, &record, &of_task)
}

/// The order of an attempt whatever the task's state; `None` while the seed is not known or the job's snapshot is
/// dropped.
pub(crate) fn order_of(
    view: &dyn KvRead,
    job: &JobId,
    task: u32,
    record: &JobRecord,
    of_task: &TaskRecord,
) -> Result<Option<Assignment>, StateError> {
    let (Some(seed), JobStatus::Running) = (record.seed, record.status) else { return Ok(None) };
    let params = state::params(view)?;
    let registered = state::provers(view)?;
    let rejected = of_task.rejections.iter().filter(|r| r.check.is_some());
    let out: BTreeSet<_> = of_task.declines.keys().copied().chain(rejected.map(|r| r.prover)).collect();
    let voided: BTreeSet<_> = of_task.rejections.iter().filter(|r| r.check.is_none()).map(|r| r.prover).collect();
    // Whether a bar holds is asked for the beginning of the attempt: time alone then changes nothing in the order.
    let barred: BTreeMap<_, _> = registered
        .iter()
        .filter(|(_, p)| p.barred_until > of_task.window_start)
        .map(|(key, p)| (*key, p.barred_until))
        .collect();
    // A prover that leaves keeps only the turn it holds.
    let stays = |key: &PublicKey, exiting: bool| !exiting || of_task.lease.is_some_and(|l| l.prover == *key);
    let here: BTreeSet<_> = registered.iter().filter(|(key, p)| stays(key, p.exiting)).map(|(key, _)| *key).collect();
    let mut candidates = state::snapshot(view, &record.snapshot)?.entries;
    candidates.retain(|c| c.steps_max >= record.spec.max_steps && here.contains(&c.prover));
    let known: BTreeSet<_> = candidates.iter().map(|c| c.prover).collect();
    candidates.retain(|c| !out.contains(&c.prover) && !barred.contains_key(&c.prover));
    // A claim rejected since the submission took the work away; what was certified since gives none for this job.
    let graded: BTreeMap<_, _> = registered.iter().map(|(key, p)| (*key, p.grade())).collect();
    for candidate in &mut candidates {
        candidate.grade = candidate.grade.min(graded.get(&candidate.prover).copied().unwrap_or(0));
    }
    let latecomers: BTreeSet<_> = registered
        .iter()
        .filter(|(key, p)| p.steps_max >= record.spec.max_steps && !p.exiting && !out.contains(key))
        .map(|(key, _)| *key)
        .filter(|key| barred.contains_key(key) || !known.contains(key))
        .collect();
    let place = Place { job, task, attempt: of_task.attempt, seed: &seed, contested: of_task.contested() };
    Ok(Some(Assignment {
        job: *job,
        task,
        attempt: of_task.attempt,
        order: rendezvous(&candidates, &voided, &place),
        barred: barred.into_iter().filter(|(key, _)| latecomers.contains(key)).collect(),
        latecomers,
        out,
        window_start: of_task.window_start,
        window_ms: window_ms(&params.assignment, record.spec.max_steps),
    }))
}

/// Length of a window for a job of at most `max_steps` steps.
pub fn window_ms(params: &params::Assignment, max_steps: u64) -> u64 {
    let extra = u128::from(params.window_ms_per_megastep).saturating_mul(u128::from(max_steps)) / 1_000_000;
    params.window_ms.saturating_add(u64::try_from(extra).unwrap_or(u64::MAX))
}

/// What a draw is for.
struct Place<'a> {
    job: &'a JobId,
    task: u32,
    attempt: u32,
    seed: &'a Digest,
    contested: bool,
}

/// What goes before the draw, the smaller first. No voided claim for this task and certified work, where the task is
/// contested; neither lapses nor a voided claim; more of that work, where the task is contested.
type Class = (bool, bool, bool, Reverse<u8>);

struct Draw {
    class: Class,
    cost: u128,
    weight: u128,
    hash: [u8; 32],
    prover: PublicKey,
}

impl Draw {
    fn compare(&self, other: &Self) -> Ordering {
        // cost / weight < other.cost / other.weight without division; costs are below 2^47, weights at most 1,000.
        let (mine, theirs) = (self.cost.saturating_mul(other.weight), other.cost.saturating_mul(self.weight));
        let tie = || self.hash.cmp(&other.hash).then_with(|| self.prover.cmp(&other.prover));
        self.class.cmp(&other.class).then(mine.cmp(&theirs)).then_with(tie)
    }
}

fn rendezvous(candidates: &[SnapshotEntry], voided: &BTreeSet<PublicKey>, place: &Place<'_>) -> Vec<PublicKey> {
    let bytes = encode_body(&(place.job, place.task, place.attempt, place.seed));
    let draw = |c: &SnapshotEntry| {
        let hash = hash_parts("proofmesh assignment v1", &[&bytes, c.prover.as_bytes()]);
        let head = hash.first_chunk::<8>().map_or(0, |b| u64::from_be_bytes(*b));
        let grade = if place.contested { c.grade } else { 0 };
        let (contested, voided) = (place.contested, voided.contains(&c.prover));
        let class = (contested && voided, contested && grade == 0, c.lapsed || voided, Reverse(grade));
        Draw { class, cost: neg_log2(head), weight: u128::from(c.weight.max(1)), hash, prover: c.prover }
    };
    let mut draws: Vec<_> = candidates.iter().map(draw).collect();
    draws.sort_by(Draw::compare);
    draws.into_iter().map(|d| d.prover).collect()
}

/// `-log2((x + 1) / 2^64)` with [`LOG_BITS`] fractional bits, rounded up to the next multiple of 2^-40.
fn neg_log2(x: u64) -> u128 {
    let value = u128::from(x).saturating_add(1);
    // value = mantissa / 2^63 * 2^exponent with mantissa in [2^63, 2^64)
    let exponent = value.ilog2();
    let mut mantissa =
        if exponent >= 63 { value >> (exponent.saturating_sub(63)) } else { value << (63u32.saturating_sub(exponent)) };
    let mut log = u128::from(exponent);
    for _ in 0..LOG_BITS {
        // Squaring the mantissa doubles its logarithm; the carry is the next bit of the fraction.
        mantissa = mantissa.saturating_mul(mantissa) >> 63;
        let carry = mantissa >> 64;
        mantissa >>= carry;
        log = (log << 1) | carry;
    }
    (64u128 << LOG_BITS).saturating_sub(log)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn entry(n: u8, weight: u32, lapsed: bool) -> SnapshotEntry {
        SnapshotEntry { prover: PublicKey::new([n; 32]), weight, steps_max: 1, lapsed, grade: 0 }
    }

    fn drawn(candidates: &[SnapshotEntry], job: u8, attempt: u32, seed: [u8; 32]) -> Vec<PublicKey> {
        let (job, seed) = (JobId::new([job; 32]), Digest::new(seed));
        let place = Place { job: &job, task: 0, attempt, seed: &seed, contested: false };
        rendezvous(candidates, &BTreeSet::new(), &place)
    }

    #[test]
    fn the_logarithm_is_exact_to_forty_bits() {
        assert_eq!(neg_log2(u64::MAX), 0);
        assert_eq!(neg_log2((1 << 63) - 1), 1 << LOG_BITS);
        assert_eq!(neg_log2(0), 64 << LOG_BITS);
        for x in [1u64, 2, 3, 12_345, 1 << 40, (1 << 63) + 12_345, u64::MAX - 1, u64::MAX / 3] {
            let exact = 64.0 - (x as f64 + 1.0).log2();
            let ours = neg_log2(x) as f64 / (1u64 << LOG_BITS) as f64;
            assert!((exact - ours).abs() < 1e-10, "{x}: {exact} {ours}");
        }
    }

    #[test]
    fn every_rank_is_drawn_in_proportion_to_weight() {
        let candidates: Vec<_> = (1..=4u8).map(|n| entry(n, u32::from(n), false)).collect();
        let (mut first, mut second) = (BTreeMap::new(), BTreeMap::new());
        let rounds = 20_000u32;
        for i in 0..rounds {
            let mut seed = [0; 32];
            seed[..4].copy_from_slice(&i.to_le_bytes());
            let order = drawn(&candidates, 7, 0, seed);
            *first.entry(order[0]).or_insert(0u32) += 1;
            *second.entry(order[1]).or_insert(0u32) += 1;
        }
        let total = 10.0;
        for a in &candidates {
            let w = f64::from(a.weight);
            let share = f64::from(first[&a.prover]) / f64::from(rounds);
            // Five standard deviations of 20,000 draws are below 0.018.
            assert!((share - w / total).abs() < 0.018, "rank 0 of weight {w}: {share}");
            // Rank 1 of weighted draws without replacement.
            let expected: f64 = candidates
                .iter()
                .filter(|b| b.prover != a.prover)
                .map(|b| {
                    let v = f64::from(b.weight);
                    v / total * w / (total - v)
                })
                .sum();
            let share = f64::from(second[&a.prover]) / f64::from(rounds);
            assert!((share - expected).abs() < 0.018, "rank 1 of weight {w}: {share}, expected {expected}");
        }
    }

    #[test]
    fn order_is_independent_of_input_order_and_lapsed_come_last() {
        let mut candidates: Vec<_> = (1..=20u8).map(|n| entry(n, 1, n % 3 == 0)).collect();
        let draw = |c: &[SnapshotEntry], attempt| drawn(c, 1, attempt, [2; 32]);
        let order = draw(&candidates, 0);
        assert!(order[..14].iter().all(|p| p.as_bytes()[0] % 3 != 0));
        assert!(order[14..].iter().all(|p| p.as_bytes()[0] % 3 == 0));
        assert_ne!(order, draw(&candidates, 1));
        candidates.reverse();
        assert_eq!(order, draw(&candidates, 0));
        // Rendezvous: who leaves changes nothing for the rest.
        let gone = order[3];
        candidates.retain(|c| c.prover != gone);
        let rest: Vec<_> = order.into_iter().filter(|p| *p != gone).collect();
        assert_eq!(draw(&candidates, 0), rest);
    }

    #[test]
    fn windows_widen_and_never_close() {
        let order: Vec<_> = (0..10u8).map(|n| PublicKey::new([n; 32])).collect();
        let late = PublicKey::new([99; 32]);
        let gone = PublicKey::new([98; 32]);
        let a = Assignment {
            job: JobId::new([0; 32]),
            task: 0,
            attempt: 0,
            order: order.clone(),
            latecomers: [late].into(),
            barred: BTreeMap::new(),
            out: [gone].into(),
            window_start: TimeMs(1_000),
            window_ms: 10,
        };
        for (now, eligible, ends) in [
            (1_000, 1, Some(1_010)),
            (1_009, 1, Some(1_010)),
            (1_010, 2, Some(1_020)),
            (1_020, 4, Some(1_030)),
            (1_039, 8, Some(1_040)),
            (1_040, 11, None),
        ] {
            assert_eq!(a.eligible_at(TimeMs(now)).len(), eligible, "{now}");
            assert_eq!(a.window_at(TimeMs(now)).ends, ends.map(TimeMs), "{now}");
        }
        assert!(
            a.may_prove(&late, TimeMs(1_040))
                && !a.may_prove(&late, TimeMs(1_039))
                && !a.may_prove(&gone, TimeMs(9_999))
        );
        let empty = Assignment { order: vec![], ..a.clone() };
        assert!(empty.may_prove(&late, TimeMs(1_000)));
        for (barred, from) in [(1_005, 1_040), (1_500, 1_500)] {
            let a = Assignment { barred: [(late, TimeMs(barred))].into(), ..a.clone() };
            assert_eq!(a.starts_at(&late), Some(TimeMs(from)));
        }
    }

    #[test]
    fn a_contested_task_asks_for_certified_work_first() {
        // Keys 1 to 6 without work, 7 to 12 with some, 13 and 14 with more; every third has lapsed; 4, 7, 13 were voided.
        let grade = |n: u8| [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 5, 5][usize::from(n) - 1];
        let candidates: Vec<_> =
            (1..=14u8).map(|n| SnapshotEntry { grade: grade(n), ..entry(n, 1, n % 3 == 0) }).collect();
        let voided = [4, 7, 13].map(|n| PublicKey::new([n; 32])).into();
        let mut first = BTreeSet::new();
        for i in 0..32u8 {
            let (job, seed) = (JobId::new([1; 32]), Digest::new([i; 32]));
            let place = |contested| Place { job: &job, task: 0, attempt: 3, seed: &seed, contested };
            let order = rendezvous(&candidates, &voided, &place(true));
            let class = |p: &PublicKey| {
                let (n, voided) = (p.as_bytes()[0], voided.contains(p));
                (voided, grade(n) == 0, voided || n % 3 == 0, Reverse(grade(n)))
            };
            let classes: Vec<_> = order.iter().map(class).collect();
            assert!(classes.is_sorted(), "{classes:?}");
            assert_eq!(order[0].as_bytes()[0], 14);
            first.insert(order[1].as_bytes()[0]);
            // Without a dispute nobody's past counts but what it did to this task, and lapses.
            let order = rendezvous(&candidates, &voided, &place(false));
            let plain: Vec<_> = candidates.iter().map(|c| SnapshotEntry { grade: 0, ..*c }).collect();
            assert_eq!(order, rendezvous(&plain, &voided, &place(false)));
        }
        assert_eq!(first, [8, 10, 11].into(), "among equals the draw decides");
    }
}
