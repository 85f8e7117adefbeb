//! Which blobs are held, who refers to them, and how much room they take. Pure bookkeeping: no files, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use types::blob::BlobManifest;
use types::ids::{BlobHash, JobId, TimeMs};

use crate::error::{Result, StorageError};

/// A blob counts at least this much, bytes, so that the budget bounds the number of files too.
pub(super) const COST_MIN: u64 = 4096;
/// Blobs that no job refers to may take up to the budget divided by this: uploads can't starve the jobs' own blobs.
const STAGED_SHARE: u64 = 4;

/// What is known of a blob that is here, whole or in part.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) manifest: Arc<BlobManifest>,
    /// Chunks that are here; `None` once the blob is whole.
    pub(super) have: Option<Vec<bool>>,
    /// Last upload or progress, by the wall clock.
    pub(super) touched: TimeMs,
}

impl Entry {
    fn cost(&self) -> u64 {
        self.manifest.bytes.max(COST_MIN)
    }

    /// Indexes of the chunks that are not here.
    pub(super) fn missing(&self) -> Vec<u32> {
        let absent = self.have.iter().flatten().zip(0u32..).filter(|(have, _)| !**have);
        absent.map(|(_, index)| index).collect()
    }
}

/// The bookkeeping. `used` and `staged` always equal the sums over what is listed and reserved.
#[derive(Debug, Default)]
pub(super) struct Index {
    budget: u64,
    entries: BTreeMap<BlobHash, Entry>,
    /// Who refers to a blob; with a time: until that block time.
    refs: BTreeMap<BlobHash, BTreeMap<JobId, Option<TimeMs>>>,
    jobs: BTreeMap<JobId, BTreeSet<BlobHash>>,
    /// Blobs that were dropped after their retention, and when.
    tombstones: BTreeMap<BlobHash, TimeMs>,
    used: u64,
    staged: u64,
    uploads: u64,
}

impl Index {
    /// Nothing held, and room for `budget` bytes.
    pub(super) fn new(budget: u64) -> Self {
        Self { budget, ..Self::default() }
    }

    pub(super) fn get(&self, hash: &BlobHash) -> Option<&Entry> {
        self.entries.get(hash)
    }

    pub(super) fn get_mut(&mut self, hash: &BlobHash) -> Option<&mut Entry> {
        self.entries.get_mut(hash)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&BlobHash, &Entry)> {
        self.entries.iter()
    }

    pub(super) fn is_referenced(&self, hash: &BlobHash) -> bool {
        self.refs.contains_key(hash)
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn staged(&self) -> u64 {
        self.staged
    }

    /// A number for the next upload's file.
    pub(super) fn next_upload(&mut self) -> u64 {
        self.uploads = self.uploads.saturating_add(1);
        self.uploads
    }

    /// Takes room for `cost` bytes, or says which budget has none.
    pub(super) fn reserve(&mut self, cost: u64, referenced: bool) -> Result<()> {
        let exceeded = |area, used, budget| Err(StorageError::BudgetExceeded { area, needed: cost, used, budget });
        if self.used.saturating_add(cost) > self.budget {
            return exceeded("the blob budget", self.used, self.budget);
        }
        let staging = self.budget / STAGED_SHARE;
        if !referenced && self.staged.saturating_add(cost) > staging {
            return exceeded("the share for blobs that no job refers to", self.staged, staging);
        }
        self.add(cost, referenced);
        Ok(())
    }

    /// Gives back what [`Index::reserve`] took.
    pub(super) fn free(&mut self, cost: u64, referenced: bool) {
        self.used = self.used.saturating_sub(cost);
        if !referenced {
            self.staged = self.staged.saturating_sub(cost);
        }
    }

    fn add(&mut self, cost: u64, referenced: bool) {
        self.used = self.used.saturating_add(cost);
        if !referenced {
            self.staged = self.staged.saturating_add(cost);
        }
    }

    /// Lists a blob. The caller has made room, or it is there already.
    pub(super) fn insert(&mut self, hash: BlobHash, entry: Entry) {
        self.remove(&hash);
        self.add(entry.cost(), self.is_referenced(&hash));
        self.entries.insert(hash, entry);
        self.tombstones.remove(&hash);
    }

    /// Takes a blob off the list; returns the room it took.
    pub(super) fn remove(&mut self, hash: &BlobHash) -> Option<Entry> {
        let entry = self.entries.remove(hash)?;
        self.free(entry.cost(), self.is_referenced(hash));
        Some(entry)
    }

    pub(super) fn add_ref(&mut self, hash: BlobHash, job: JobId, until: Option<TimeMs>) {
        let staged = self.entries.get(&hash).filter(|_| !self.is_referenced(&hash)).map(Entry::cost);
        self.staged = self.staged.saturating_sub(staged.unwrap_or(0));
        self.refs.entry(hash).or_default().insert(job, until);
        self.jobs.entry(job).or_default().insert(hash);
    }

    pub(super) fn remove_ref(&mut self, hash: &BlobHash, job: &JobId) {
        let Some(jobs) = self.refs.get_mut(hash) else { return };
        if jobs.remove(job).is_some() && jobs.is_empty() {
            self.refs.remove(hash);
            let cost = self.entries.get(hash).map_or(0, Entry::cost);
            self.staged = self.staged.saturating_add(cost);
        }
        if let Some(hashes) = self.jobs.get_mut(job) {
            hashes.remove(hash);
            if hashes.is_empty() {
                self.jobs.remove(job);
            }
        }
    }

    /// The blobs that a job refers to.
    pub(super) fn refs_of(&self, job: &JobId) -> Vec<BlobHash> {
        self.jobs.get(job).into_iter().flatten().copied().collect()
    }

    /// Jobs with references, and until when (`None`: the job lives).
    pub(super) fn jobs(&self) -> Vec<(JobId, Option<TimeMs>)> {
        let until = |job: &JobId, hashes: &BTreeSet<BlobHash>| {
            let untils = hashes.iter().filter_map(|hash| self.refs.get(hash)?.get(job).copied());
            // `None` is for ever, so it wins over every time.
            untils.reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten()
        };
        self.jobs.iter().map(|(job, hashes)| (*job, until(job, hashes))).collect()
    }

    /// References whose time has passed.
    pub(super) fn ended_refs(&self, block_time: TimeMs) -> Vec<(BlobHash, JobId)> {
        let ended = |(hash, jobs): (&BlobHash, &BTreeMap<JobId, Option<TimeMs>>)| {
            let ended = jobs.iter().filter(|(_, until)| until.is_some_and(|until| until <= block_time));
            ended.map(|(job, _)| (*hash, *job)).collect::<Vec<_>>()
        };
        self.refs.iter().flat_map(ended).collect()
    }

    pub(super) fn tombstone(&self, hash: &BlobHash) -> Option<TimeMs> {
        self.tombstones.get(hash).copied()
    }

    pub(super) fn bury(&mut self, hash: BlobHash, at: TimeMs) {
        self.tombstones.insert(hash, at);
    }

    /// Forgets tombstones set at or before a time, and returns them.
    pub(super) fn forget_tombstones(&mut self, before: TimeMs) -> Vec<BlobHash> {
        let old: Vec<_> = self.tombstones.iter().filter(|(_, at)| **at <= before).map(|(hash, _)| *hash).collect();
        for hash in &old {
            self.tombstones.remove(hash);
        }
        old
    }
}
