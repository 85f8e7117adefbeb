//! Bounds of the ledger that every node must agree on, each with its reason.

/// Registered provers at once. Bounds the snapshot that a job keeps of them (about 23 KiB) and the work of one
/// assignment.
pub const PROVERS_MAX: u32 = 512;
/// Largest weight of a prover in the assignment.
pub const PROVER_WEIGHT_MAX: u32 = 1_000;
/// Validators registered or still unbonding at once; the set itself is bounded by [`types::limits::VALIDATORS_MAX`].
pub const VALIDATOR_RECORDS_MAX: u32 = 1_000;
/// Time between two changes of one validator's power, ms of block time. Every change of the set is a link in the receipts of
/// all later jobs, so nobody makes them at will.
pub const POWER_PAUSE_MS: u64 = 3_600_000;
/// Time-driven transitions in one block; the rest follow in the next block, in order of their due time.
pub const TIMERS_PER_BLOCK_MAX: usize = 1_024;
/// Evidence transactions in one block. They pay no fee, so their number is bounded.
pub const EVIDENCE_PER_BLOCK_MAX: usize = 16;
/// Certify transactions in one block. They pay no fee and cost up to 100 signature checks each.
pub const CERTIFY_PER_BLOCK_MAX: usize = 128;
/// Block times are kept for one height in this many, for the age of evidence.
pub const TIME_GROUP: u64 = 64;
/// Declines kept for one attempt. Provers come and go, so their number at one time does not bound this; with it and the
/// parameter `attempts_max` (at most 1,000) a task's record stays below 80 KiB.
pub const DECLINES_MAX: usize = 1_024;
/// Records read by one page of a list.
pub const PAGE_SCAN_MAX: usize = 1_000;
/// Entries of one page of a list.
pub const PAGE_MAX: usize = 100;
/// In window `i`, ranks below this number may prove; after the last window everyone may.
pub const WINDOW_RANKS: [usize; 4] = [1, 2, 4, 8];
