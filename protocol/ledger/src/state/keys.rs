//! Keys of the records in `Space::State`. One byte names the kind of record; numbers are big-endian so that scans run
//! in order, and complemented where the newest comes first.

use types::ids::{Digest, Height, JobId, TimeMs};
use types::keys::PublicKey;

use super::records::TimerKind;

const CHAIN: u8 = 0x01;
const PARAMS: u8 = 0x02;
const HEAD: u8 = 0x03;
const SUPPLY: u8 = 0x04;
const COUNTERS: u8 = 0x05;
const ACCOUNT: u8 = 0x10;
const ACCOUNT_JOB: u8 = 0x11;
const IDEMPOTENCY: u8 = 0x12;
const JOB: u8 = 0x20;
const TASK: u8 = 0x21;
const LIVE_JOB: u8 = 0x22;
const RECENT_JOB: u8 = 0x23;
const UNSEEDED: u8 = 0x24;
const SNAPSHOT: u8 = 0x25;
const SNAPSHOT_REFS: u8 = 0x26;
const PROVER: u8 = 0x30;
const VALIDATOR: u8 = 0x40;
const ERA: u8 = 0x41;
const UPTIME: u8 = 0x42;
const OFFENCE: u8 = 0x50;
const TIMER: u8 = 0x60;
const TIME_GROUP: u8 = 0x70;

fn key(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![tag];
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// [`super::records::Chain`].
pub fn chain() -> Vec<u8> {
    vec![CHAIN]
}

/// [`super::records::ParamsRecord`].
pub fn params() -> Vec<u8> {
    vec![PARAMS]
}

/// [`super::records::Head`].
pub fn head() -> Vec<u8> {
    vec![HEAD]
}

/// [`super::records::Supply`].
pub fn supply() -> Vec<u8> {
    vec![SUPPLY]
}

/// [`super::records::Counters`].
pub fn counters() -> Vec<u8> {
    vec![COUNTERS]
}

/// [`super::records::Account`].
pub fn account(account: &PublicKey) -> Vec<u8> {
    key(ACCOUNT, &[account.as_bytes()])
}

/// Prefix of all accounts.
pub fn accounts() -> Vec<u8> {
    vec![ACCOUNT]
}

/// Empty marker: `job` belongs to `account`. Newest first.
pub fn account_job(account: &PublicKey, height: Height, job: &JobId) -> Vec<u8> {
    key(ACCOUNT_JOB, &[account.as_bytes(), &(!height.0).to_be_bytes(), job.as_bytes()])
}

/// Prefix of an account's jobs.
pub fn account_jobs(account: &PublicKey) -> Vec<u8> {
    key(ACCOUNT_JOB, &[account.as_bytes()])
}

/// [`super::records::Idempotency`].
pub fn idempotency(account: &PublicKey, text: &str) -> Vec<u8> {
    key(IDEMPOTENCY, &[account.as_bytes(), text.as_bytes()])
}

/// [`super::records::JobRecord`].
pub fn job(job: &JobId) -> Vec<u8> {
    key(JOB, &[job.as_bytes()])
}

/// [`super::records::TaskRecord`].
pub fn task(job: &JobId, index: u32) -> Vec<u8> {
    key(TASK, &[job.as_bytes(), &index.to_be_bytes()])
}

/// Empty marker: the job is not terminal.
pub fn live_job(job: &JobId) -> Vec<u8> {
    key(LIVE_JOB, &[job.as_bytes()])
}

/// Prefix of the live jobs.
pub fn live_jobs() -> Vec<u8> {
    vec![LIVE_JOB]
}

/// Empty marker of a job by submission height. Newest first.
pub fn recent_job(height: Height, job: &JobId) -> Vec<u8> {
    key(RECENT_JOB, &[&(!height.0).to_be_bytes(), job.as_bytes()])
}

/// Prefix of all jobs by submission height.
pub fn recent_jobs() -> Vec<u8> {
    vec![RECENT_JOB]
}

/// Empty marker: the job waits for the seed of the next block.
pub fn unseeded(job: &JobId) -> Vec<u8> {
    key(UNSEEDED, &[job.as_bytes()])
}

/// Prefix of the jobs that wait for a seed.
pub fn all_unseeded() -> Vec<u8> {
    vec![UNSEEDED]
}

/// [`super::records::Snapshot`].
pub fn snapshot(digest: &Digest) -> Vec<u8> {
    key(SNAPSHOT, &[digest.as_bytes()])
}

/// [`super::records::SnapshotRefs`].
pub fn snapshot_refs(digest: &Digest) -> Vec<u8> {
    key(SNAPSHOT_REFS, &[digest.as_bytes()])
}

/// [`super::records::ProverRecord`].
pub fn prover(account: &PublicKey) -> Vec<u8> {
    key(PROVER, &[account.as_bytes()])
}

/// Prefix of all provers.
pub fn provers() -> Vec<u8> {
    vec![PROVER]
}

/// [`super::records::ValidatorRecord`].
pub fn validator(consensus: &PublicKey) -> Vec<u8> {
    key(VALIDATOR, &[consensus.as_bytes()])
}

/// Prefix of all validators, unbonding ones included.
pub fn validators() -> Vec<u8> {
    vec![VALIDATOR]
}

/// [`super::records::Era`].
pub fn era(index: u32) -> Vec<u8> {
    key(ERA, &[&index.to_be_bytes()])
}

/// [`super::records::Uptime`].
pub fn uptime(consensus: &PublicKey) -> Vec<u8> {
    key(UPTIME, &[consensus.as_bytes()])
}

/// [`super::records::Offence`].
pub fn offence(offence: &Digest) -> Vec<u8> {
    key(OFFENCE, &[offence.as_bytes()])
}

/// Prefix of all offences.
pub fn offences() -> Vec<u8> {
    vec![OFFENCE]
}

/// Empty marker: something is due at a time.
pub fn timer(due: TimeMs, kind: &TimerKind) -> Vec<u8> {
    key(TIMER, &[&due.0.to_be_bytes(), &types::codec::encode_body(kind)])
}

/// Prefix of all timers, in order of their due time.
pub fn timers() -> Vec<u8> {
    vec![TIMER]
}

/// The due time and what is due, from a timer's key.
pub fn parse_timer(bytes: &[u8]) -> Option<(TimeMs, TimerKind)> {
    let rest = bytes.strip_prefix(&[TIMER])?;
    let (due, body) = rest.split_first_chunk::<8>()?;
    let kind = types::codec::decode_body("timer", body).ok()?;
    Some((TimeMs(u64::from_be_bytes(*due)), kind))
}

/// [`super::records::GroupTime`] of heights from `group * TIME_GROUP`.
pub fn time_group(group: u64) -> Vec<u8> {
    key(TIME_GROUP, &[&group.to_be_bytes()])
}

/// Prefix of all time groups.
pub fn time_groups() -> Vec<u8> {
    vec![TIME_GROUP]
}

/// The last 32 bytes of a key that ends with an identifier.
pub fn trailing_id(bytes: &[u8]) -> Option<[u8; 32]> {
    bytes.last_chunk::<32>().copied()
}
