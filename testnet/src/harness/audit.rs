//! Holds what stopped nodes have on disk against each other: one chain, no credit lost or made, no slot signed twice.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use consensus::GuardRecord;
use storage::disk::FsDir;
use storage::guard_file::GuardFile;
use storage::{Layout, RocksStore, Store, StoreRead};
use types::Wire;
use types::ids::{BlockId, Height, JobId};
use types::transaction::Transaction;

use crate::faults::signed::Signed;

/// What the nodes agree on.
#[derive(Debug)]
pub struct Audited {
    /// Height of the longest chain.
    pub height: u64,
    /// Height of the shortest.
    pub shortest: u64,
    /// Transactions in the longest.
    pub transactions: usize,
    /// Slots that the guard files hold.
    pub guarded: usize,
    /// Decided claims by job: how often a certificate of one of its tasks is in a block.
    pub recorded: BTreeMap<JobId, usize>,
}

/// Audits the homes of stopped nodes; what their guard files hold is added to `signed`.
///
/// # Errors
/// When a home can't be read, two chains differ, credits do not add up, a claim is recorded twice, or one key signed two
/// contents for a slot.
pub fn audit(homes: &[PathBuf], signed: &mut Signed) -> Result<Audited> {
    let mut chain: BTreeMap<Height, BlockId> = BTreeMap::new();
    let mut subjects = BTreeMap::new();
    let mut out = Audited { height: 0, shortest: u64::MAX, transactions: 0, guarded: 0, recorded: BTreeMap::new() };
    for home in homes {
        let layout = Layout::new(home);
        let store = RocksStore::open(&layout.db()).with_context(|| format!("opening {}", layout.db().display()))?;
        let head = store.head()?.context("a home without a chain")?;
        let genesis = store.genesis()?.context("a home without a genesis document")?.hash();
        for height in (1..=head.height.0).map(Height) {
            let block = store.block(height)?.with_context(|| format!("{}: no block {height}", home.display()))?.block;
            let id = block.id();
            match chain.get(&height) {
                Some(other) => ensure!(*other == id, "two blocks at {height}: {other} and {id} ({})", home.display()),
                None => {
                    chain.insert(height, id);
                    out.transactions += block.transactions.len();
                    for tx in &block.transactions {
                        if let Transaction::Certify { certificate, .. } = tx {
                            let s = &certificate.subject;
                            *subjects.entry((s.job, s.task, s.attempt)).or_insert(0usize) += 1;
                            *out.recorded.entry(s.job).or_default() += 1;
                        }
                    }
                }
            }
        }
        let sums = ledger::query::audit(&store.snapshot()).map_err(|e| anyhow::anyhow!("{}: {e}", home.display()))?;
        ensure!(sums.conserved, "{}: credits do not add up: {sums:?}", home.display());
        let (_, guard) = GuardFile::open(Box::new(FsDir::open(layout.guard())?), genesis)?;
        for record in &guard.records {
            signed.add(GuardRecord::from_bytes(&record.bytes)?).with_context(|| home.display().to_string())?;
        }
        out.guarded += guard.records.len();
        out.height = out.height.max(head.height.0);
        out.shortest = out.shortest.min(head.height.0);
    }
    if let Some((subject, times)) = subjects.into_iter().find(|(_, times)| *times > 1) {
        anyhow::bail!("claim {subject:?} is recorded {times} times");
    }
    Ok(out)
}
