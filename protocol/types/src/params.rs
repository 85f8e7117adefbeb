//! Parameters of the chain. They live in the state from genesis on, so every node reads the same ones.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::codec::encode_body;
use crate::error::TypeError;
use crate::ids::{Amount, Digest};
use crate::limits::{BLOCK_MS_LEAST, VERDICT_HEIGHTS_KEPT, VOTING_MS};
use crate::signing::hash_parts;

/// Chain parameters. Times are milliseconds of block time unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Least time between two blocks while there is work.
    pub block_ms: u64,
    /// Time between two blocks while there is none.
    pub empty_block_ms: u64,
    /// Consensus timeouts of round 0 and what each round adds.
    pub timeouts: Timeouts,
    /// A proposal's time may be ahead of a voter's clock by this much.
    pub clock_drift_ms: u64,
    /// Prices and shares.
    pub fees: Fees,
    /// Assignment of tasks.
    pub assignment: Assignment,
    /// Time for verdicts after a commit is decided.
    pub voting_ms: u64,
    /// Evidence older than this is refused.
    pub evidence_ms: u64,
    /// Blobs of a job are kept this long after its end.
    pub retention_ms: u64,
    /// Largest step limit a job may declare.
    pub steps_max: u64,
    /// Longest deadline a job may declare.
    pub deadline_ms_max: u64,
    /// Live jobs at once; a submission beyond it is refused.
    pub live_jobs_max: u32,
    /// Share of a validator's stake taken for a proven equivocation, in thousandths.
    pub slash_permille: u32,
}

/// Consensus timeouts, milliseconds. The first three are the longest of round 0: a node that has measured how long proposals take
/// begins with less, and doubles it from round to round.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// Wait for a proposal.
    pub propose_ms: u64,
    /// Wait after mixed prevotes.
    pub prevote_ms: u64,
    /// Wait after mixed precommits.
    pub precommit_ms: u64,
    /// Added per round to each.
    pub delta_ms: u64,
    /// Own last vote is sent again after this long without progress.
    pub rebroadcast_ms: u64,
}

/// Prices in credits, shares in thousandths.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fees {
    /// Taken for every job.
    pub job_base: Amount,
    /// Taken per started 1,000 steps of the job's declared limit when escrowed, of the executed steps when paid.
    pub per_kilostep: Amount,
    /// Share of the price for the prover.
    pub prover_permille: u32,
    /// Share for the validators whose verdicts are in the certificate, by power.
    pub validators_permille: u32,
    /// Share for the account named by who recorded the certificate.
    pub certifier_permille: u32,
    /// Taken from the sender of any other transaction; paid to the proposer of the block.
    pub transaction: Amount,
}

/// How tasks are given to provers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// Length of rank 0's exclusive window; the following windows (ranks below 2, 4, 8, everyone) have the same length.
    pub window_ms: u64,
    /// Added to the window per million declared steps.
    pub window_ms_per_megastep: u64,
    /// Deposit that a registered prover locks, returned when it leaves.
    pub prover_deposit: Amount,
    /// First ineligibility after a lapsed lease; doubles with each further lapse, see `lapse_ms_max`.
    pub lapse_ms: u64,
    /// Longest ineligibility.
    pub lapse_ms_max: u64,
    /// A prover whose claim was rejected may commit nothing for this long; doubles with each further rejection, see
    /// `reject_ms_max`.
    pub reject_ms: u64,
    /// Longest such time, at most `lock_ms`: nobody leaves it by leaving.
    pub reject_ms_max: u64,
    /// The deposit of a prover stays locked for this long after a rejected claim, so that provers that are thrown away
    /// bind credits. It always returns.
    pub lock_ms: u64,
    /// Attempts after which a task, and so its job, fails. Counted are those that every prover declined, and voided ones
    /// whose prover had a claim for the task voided before. Rejected ones are not: they cost the prover its deposit for
    /// `lock_ms` and end with the job's deadline, so nobody can use up a job's attempts with provers to throw away.
    pub attempts_max: u32,
}

impl Params {
    /// Digest in every header.
    pub fn digest(&self) -> Digest {
        Digest::new(hash_parts("proofmesh params v1", &[&encode_body(self)]))
    }

    /// Parameters of a new network on fast links.
    pub fn standard() -> Self {
        Self {
            block_ms: 500,
            empty_block_ms: 10_000,
            timeouts: Timeouts {
                propose_ms: 3_000,
                prevote_ms: 1_000,
                precommit_ms: 1_000,
                delta_ms: 500,
                rebroadcast_ms: 2_000,
            },
            clock_drift_ms: 10_000,
            fees: Fees {
                job_base: Amount(1_000),
                per_kilostep: Amount(1),
                prover_permille: 800,
                validators_permille: 180,
                certifier_permille: 20,
                transaction: Amount(1),
            },
            assignment: Assignment {
                window_ms: 20_000,
                window_ms_per_megastep: 20_000,
                prover_deposit: Amount(10_000),
                lapse_ms: 30_000,
                lapse_ms_max: 3_600_000,
                reject_ms: 600_000,
                reject_ms_max: 24 * 3_600_000,
                lock_ms: 7 * 24 * 3_600_000,
                attempts_max: 16,
            },
            voting_ms: 60_000,
            evidence_ms: 7 * 24 * 3_600_000,
            retention_ms: 7 * 24 * 3_600_000,
            steps_max: 100_000_000,
            deadline_ms_max: 24 * 3_600_000,
            live_jobs_max: 1_000,
            slash_permille: 50,
        }
    }

    /// A verdict must stay guarded for as long as its claim can be in voting.
    fn check_voting(&self) -> Result<(), TypeError> {
        let bad = |limit| {
            let value = self.voting_ms.to_string();
            Err(TypeError::OutOfBounds { field: "params.voting_ms", value, limit })
        };
        let (least, most) = (*VOTING_MS.start(), *VOTING_MS.end());
        if !VOTING_MS.contains(&self.voting_ms) {
            return bad(format!("{least} to {most} (one hour); 60000 suits most networks"));
        }
        let guarded = VERDICT_HEIGHTS_KEPT.saturating_mul(self.block_ms.max(BLOCK_MS_LEAST));
        if self.voting_ms > guarded {
            return bad(format!(
                "{guarded}, the time of {VERDICT_HEIGHTS_KEPT} blocks at params.block_ms {}: a validator remembers its verdicts no \
                 longer; lower voting_ms or raise block_ms",
                self.block_ms
            ));
        }
        Ok(())
    }

    /// Refuses parameters that no ledger could work with.
    ///
    /// # Errors
    /// [`TypeError::OutOfBounds`] naming the field.
    pub fn check(&self) -> Result<(), TypeError> {
        let bad = |field, value: u64, limit: &str| {
            Err(TypeError::OutOfBounds { field, value: value.to_string(), limit: limit.into() })
        };
        let f = &self.fees;
        let shares = u64::from(f.prover_permille) + u64::from(f.validators_permille) + u64::from(f.certifier_permille);
        if shares != 1_000 {
            return bad("params.fees (prover + validators + certifier permille)", shares, "exactly 1000");
        }
        if self.block_ms > 60_000 {
            return bad("params.block_ms", self.block_ms, "at most 60000");
        }
        if self.empty_block_ms < self.block_ms {
            return bad("params.empty_block_ms", self.empty_block_ms, "at least block_ms");
        }
        if self.timeouts.propose_ms == 0 || self.timeouts.prevote_ms == 0 || self.timeouts.precommit_ms == 0 {
            return bad("params.timeouts", 0, "above 0");
        }
        self.check_voting()?;
        if self.slash_permille > 1_000 {
            return bad("params.slash_permille", u64::from(self.slash_permille), "at most 1000");
        }
        let a = &self.assignment;
        if a.reject_ms > a.reject_ms_max {
            return bad("params.assignment.reject_ms", a.reject_ms, "at most reject_ms_max");
        }
        if a.reject_ms_max > a.lock_ms {
            return bad("params.assignment.reject_ms_max", a.reject_ms_max, "at most lock_ms");
        }
        if self.assignment.attempts_max == 0 || self.assignment.attempts_max > 1_000 {
            return bad(
                "params.assignment.attempts_max",
                u64::from(self.assignment.attempts_max),
                "between 1 and 1000",
            );
        }
        if self.steps_max == 0 || self.steps_max > 1 << 40 {
            return bad("params.steps_max", self.steps_max, "between 1 and 2^40");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_for_verdicts_is_bounded_and_fits_the_pace() {
        let check = |voting_ms, block_ms| Params { voting_ms, block_ms, ..Params::standard() }.check();
        assert_eq!(check(60_000, 500), Ok(()));
        assert_eq!(check(1_000_000, 0), Ok(()));
        assert_eq!(check(3_600_000, 36), Ok(()));
        for (voting_ms, block_ms, words) in [
            (0, 500, "params.voting_ms: 0 is outside the limit 1000 to 3600000 (one hour)"),
            (3_600_001, 500, "1000 to 3600000"),
            (u64::MAX, 0, "1000 to 3600000"),
            (1_000_001, 0, "params.voting_ms: 1000001 is outside the limit 1000000, the time of 100000 blocks"),
            (3_600_000, 35, "lower voting_ms or raise block_ms"),
        ] {
            let error = check(voting_ms, block_ms).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
