//! Every bound that two nodes must agree on, or that a peer can run into, in one place with its reason.

/// Largest block body, bytes. Two orders of magnitude above a busy block of jobs, small enough to gossip whole.
pub const BLOCK_BYTES_MAX: usize = 256 << 10;
/// Largest transaction, bytes: a job with 512 prefix felts (16 KiB) and 100 availability signatures (13 KiB) fits.
pub const TX_BYTES_MAX: usize = 64 << 10;
/// Transactions in a block; the byte limit usually bites first.
pub const BLOCK_TXS_MAX: usize = 2048;
/// Validators in a set. Bounds certificates (100 * 96 bytes) and receipts.
pub const VALIDATORS_MAX: usize = 100;
/// Sum of voting power; far below `u64::MAX / 3`, where threshold arithmetic would overflow.
pub const POWER_TOTAL_MAX: u64 = 1 << 53;
/// A consensus message (vote, proposal, round or polka certificate), bytes.
pub const CONSENSUS_BYTES_MAX: usize = 64 << 10;
/// A proof vote with its envelope, bytes.
pub const VERDICT_BYTES_MAX: usize = 2 << 10;
/// A presence record, bytes.
pub const PRESENCE_BYTES_MAX: usize = 2 << 10;
/// Presence records in one answer about known peers.
pub const PRESENCE_LIST_MAX: usize = 32;
/// Largest gossip frame: a block with its proposal.
pub const GOSSIP_BYTES_MAX: usize = 512 << 10;
/// Largest blob, bytes (program, arguments, proof).
pub const BLOB_BYTES_MAX: u64 = 32 << 20;
/// Chunk of a blob transfer, bytes; a power of two of at least 1 KiB, so that a chunk is a subtree of the BLAKE3 tree.
pub const BLOB_CHUNK_BYTES: u64 = 256 << 10;
/// Largest compressed proof blob, bytes; an honest one is below 1 MiB.
pub const PROOF_BYTES_MAX: u64 = 4 << 20;
/// Largest program file, bytes.
pub const PROGRAM_BYTES_MAX: u64 = BLOB_BYTES_MAX;
/// Largest arguments file, bytes.
pub const ARGS_BYTES_MAX: u64 = 4 << 20;
/// Output words that a job may fix in advance.
pub const OUTPUT_PREFIX_MAX: usize = 512;
/// Output words of a user's program: the bootloader's output of one task, kept in receipts and votes' checks.
pub const OUTPUT_WORDS_MAX: usize = 1 << 16;
/// Length of an idempotency key, bytes.
pub const IDEMPOTENCY_KEY_MAX: usize = 64;
/// Length of a free text reason, bytes.
pub const REASON_MAX: usize = 256;
/// Length of a chain id, bytes.
pub const CHAIN_ID_MAX: usize = 32;
/// How far in the future (block time) a transaction may expire, milliseconds: bounds the set of remembered ids.
pub const TX_EXPIRY_MS_MAX: u64 = 24 * 3600 * 1000;
/// Heights for which a validator remembers the verdicts it signed. Older slots it never signs again, so no claim may be in
/// voting for longer: see `Params::check`. At two blocks a second this is 14 hours.
pub const VERDICT_HEIGHTS_KEPT: u64 = 100_000;
/// No chain decides faster than this on average, milliseconds a block, whatever its pace allows.
pub const BLOCK_MS_LEAST: u64 = 10;
/// Shortest and longest time for verdicts on a claim, milliseconds of block time.
pub const VOTING_MS: std::ops::RangeInclusive<u64> = 1_000..=3_600_000;
/// Blocks in one sync response.
pub const SYNC_BLOCKS_MAX: usize = 64;
/// Bytes of one sync response.
pub const SYNC_BYTES_MAX: usize = 4 << 20;
/// Set changes carried by a receipt.
pub const SET_CHANGES_MAX: usize = 1024;
/// A receipt, bytes: a proof, votes, and its chain of set changes.
pub const RECEIPT_BYTES_MAX: usize = 32 << 20;

// A chunk must be a whole subtree of the hash; a block must fit its gossip frame with the proposal around it.
const _: () = assert!(BLOB_CHUNK_BYTES.is_power_of_two() && BLOB_CHUNK_BYTES >= 1024);
const _: () = assert!(BLOCK_BYTES_MAX + 4096 <= GOSSIP_BYTES_MAX);
const _: () = assert!(TX_BYTES_MAX < BLOCK_BYTES_MAX);
