//! Who may prove a task, and from when: a pure function of the ledger, the same on every node.
//!
//! Candidates are the provers registered at the job's submission (the job keeps a snapshot of them); their order is
//! weighted rendezvous hashing over (job, task, attempt, seed), where the seed is that of the block after the
//! submission, so that a submitter can't choose its prover. Provers whose leases lapsed shortly before, and those whose
//! claim for this very task was voided, stand behind all others, never outside, so that a task can't be left without anyone.
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

use std::cmp::Ordering;
use std::collections::BTreeSet;

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
        Some(self.window_start.plus(wait))
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
    let behind: BTreeSet<_> = of_task.rejections.iter().filter(|r| r.check.is_none()).map(|r| r.prover).collect();
    // A prover that leaves keeps only the turn it holds.
    let stays = |key: &PublicKey, exiting: bool| !exiting || of_task.lease.is_some_and(|l| l.prover == *key);
    let here: BTreeSet<_> = registered.iter().filter(|(key, p)| stays(key, p.exiting)).map(|(key, _)| *key).collect();
    let mut candidates = state::snapshot(view, &record.snapshot)?.entries;
    candidates.retain(|c| c.steps_max >= record.spec.max_steps && here.contains(&c.prover));
    let known: BTreeSet<_> = candidates.iter().map(|c| c.prover).collect();
    candidates.retain(|c| !out.contains(&c.prover));
    for candidate in &mut candidates {
        candidate.lapsed |= behind.contains(&candidate.prover);
    }
    let latecomers = registered.iter().filter(|(key, p)| {
        p.steps_max >= record.spec.max_steps && !p.exiting && !known.contains(key) && !out.contains(key)
    });
    Ok(Some(Assignment {
        job: *job,
        task,
        attempt: of_task.attempt,
        order: rendezvous(&candidates, job, task, of_task.attempt, &seed),
        latecomers: latecomers.map(|(key, _)| *key).collect(),
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

struct Draw {
    lapsed: bool,
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
        self.lapsed.cmp(&other.lapsed).then(mine.cmp(&theirs)).then_with(tie)
    }
}

fn rendezvous(candidates: &[SnapshotEntry], job: &JobId, task: u32, attempt: u32, seed: &Digest) -> Vec<PublicKey> {
    let place = encode_body(&(job, task, attempt, seed));
    let draw = |c: &SnapshotEntry| {
        let hash = hash_parts("proofmesh assignment v1", &[&place, c.prover.as_bytes()]);
        let head = hash.first_chunk::<8>().map_or(0, |b| u64::from_be_bytes(*b));
        Draw { lapsed: c.lapsed, cost: neg_log2(head), weight: u128::from(c.weight.max(1)), hash, prover: c.prover }
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
        SnapshotEntry { prover: PublicKey::new([n; 32]), weight, steps_max: 1, lapsed }
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
            let order = rendezvous(&candidates, &JobId::new([7; 32]), 0, 0, &Digest::new(seed));
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
        let draw =
            |c: &[SnapshotEntry], attempt| rendezvous(c, &JobId::new([1; 32]), 0, attempt, &Digest::new([2; 32]));
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
        let empty = Assignment { order: vec![], ..a };
        assert!(empty.may_prove(&late, TimeMs(1_000)));
    }
}
