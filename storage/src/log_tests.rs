//! Torn tails and flipped bits at every byte of a log.

use proptest::prelude::*;

use super::*;
use crate::virtual_disk::MemoryDir;

const HEADER: LogHeader = LogHeader { magic: *b"TESTLOG1", genesis: GenesisHash::new([7; 32]), number: 12 };

/// A log of records each synced on its own; returns its bytes and the offsets where records begin.
fn sample() -> (Vec<u8>, Vec<usize>) {
    let dir = MemoryDir::new();
    let mut log = Log::create(&dir, "a", &HEADER, &[]).unwrap();
    let mut starts = vec![];
    for (kind, length) in [(1, 0), (2, 40), (3, 7), (4, 300)] {
        starts.push(log.bytes() as usize);
        log.append(kind, &vec![kind; length]).unwrap();
        log.flush().unwrap();
    }
    (dir.bytes("a").unwrap(), starts)
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_to_the_last_whole_record() {
    let (bytes, starts) = sample();
    for length in HEADER_BYTES..bytes.len() {
        let decoded = decode("a", &bytes[..length], &HEADER).unwrap();
        let whole = starts.iter().skip(1).chain([&bytes.len()]).filter(|end| **end <= length).count();
        assert_eq!(decoded.records.len(), whole, "length {length}");
        assert_eq!(decoded.intact_bytes + decoded.torn_bytes, length as u64);
    }
    for length in 0..HEADER_BYTES {
        let result = decode("a", &bytes[..length], &HEADER);
        assert!(matches!(result, Err(StorageError::Corrupt { .. })), "length {length}");
    }
}

#[test]
fn a_bit_flipped_before_the_last_record_is_an_error_and_within_it_is_cut() {
    let (bytes, starts) = sample();
    let last = *starts.last().unwrap();
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[place] ^= 1 << bit;
            let result = decode("a", &damaged, &HEADER);
            if place < HEADER_BYTES {
                assert!(result.is_err(), "byte {place}");
            } else if place < last {
                let offset = starts.iter().filter(|s| **s <= place).max().map(|s| *s as u64);
                let found = matches!(&result, Err(StorageError::LogCorrupt { offset: o, .. }) if Some(*o) == offset);
                assert!(found, "byte {place}: {result:?}");
            } else {
                let decoded = result.unwrap();
                assert_eq!(
                    (decoded.records.len(), decoded.intact_bytes),
                    (starts.len() - 1, last as u64),
                    "byte {place}"
                );
            }
        }
    }
}

#[test]
fn damage_within_the_last_unsynced_writes_is_cut_even_when_later_records_survive() {
    let dir = MemoryDir::new();
    let mut log = Log::create(&dir, "a", &HEADER, &[]).unwrap();
    log.append(1, b"synced").unwrap();
    log.flush().unwrap();
    let unsynced = log.bytes() as usize;
    log.append(2, b"page that never reached the disk").unwrap();
    log.append(3, b"page that did").unwrap();
    log.flush().unwrap();
    let mut bytes = dir.bytes("a").unwrap();
    bytes[unsynced..unsynced + 40].fill(0);
    let decoded = decode("a", &bytes, &HEADER).unwrap();
    assert_eq!(decoded.records.len(), 1);
    assert_eq!(decoded.intact_bytes, unsynced as u64);
}

#[test]
fn removed_doubled_and_foreign_records_do_not_fit() {
    let (bytes, starts) = sample();
    let mut removed = bytes[..starts[1]].to_vec();
    removed.extend_from_slice(&bytes[starts[2]..]);
    assert!(matches!(decode("a", &removed, &HEADER), Err(StorageError::LogCorrupt { .. })));
    let mut doubled = bytes.clone();
    doubled.extend_from_slice(&bytes[starts[3]..]);
    assert_eq!(decode("a", &doubled, &HEADER).unwrap().records.len(), 4);
    let other = LogHeader { number: 13, ..HEADER };
    let mut foreign = encode_header(&other);
    foreign.extend_from_slice(&bytes[HEADER_BYTES..starts[1]]);
    assert_eq!(decode("a", &foreign, &other).unwrap().records.len(), 0);
}

#[test]
fn headers_of_other_files_chains_and_versions_are_refused() {
    let (bytes, _) = sample();
    let other = |change: fn(&mut LogHeader)| {
        let mut header = HEADER;
        change(&mut header);
        decode("a", &bytes, &header)
    };
    assert!(matches!(other(|h| h.magic[0] ^= 1), Err(StorageError::Corrupt { .. })));
    assert!(matches!(other(|h| h.number = 1), Err(StorageError::Corrupt { .. })));
    let chain = other(|h| h.genesis = GenesisHash::new([8; 32]));
    assert!(matches!(chain, Err(StorageError::WrongChain { .. })));
    let mut newer = bytes;
    newer[8] = 9;
    let crc = crc32fast::hash(&newer[..HEADER_BYTES - 4]);
    newer[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(decode("a", &newer, &HEADER), Err(StorageError::Newer { found: 9, known: 1, .. })));
}

#[test]
fn a_failed_write_or_sync_ends_the_log() {
    for steps in 0..2 {
        let dir = MemoryDir::new();
        let mut log = Log::create(&dir, "a", &HEADER, &[]).unwrap();
        dir.fail_after(Some(steps));
        log.append(1, b"x").unwrap();
        assert!(matches!(log.flush(), Err(StorageError::Io { .. })));
        dir.fail_after(None);
        assert!(matches!(log.append(1, b"y"), Err(StorageError::Poisoned { .. })));
        assert!(matches!(log.flush(), Err(StorageError::Poisoned { .. })));
    }
}

#[test]
fn records_above_the_limit_are_refused_and_leave_the_log_usable() {
    let dir = MemoryDir::new();
    let mut log = Log::create(&dir, "a", &HEADER, &[]).unwrap();
    let long = vec![0; PAYLOAD_BYTES_MAX + 1];
    assert!(matches!(log.append(1, &long), Err(StorageError::TooLarge { .. })));
    log.append(1, &long[1..]).unwrap();
    log.append(2, b"after the buffer was written out").unwrap();
    log.flush().unwrap();
    drop(log);
    let (_, decoded) = Log::open(&dir, "a", &HEADER).unwrap();
    assert_eq!(decoded.records.len(), 2);
    assert_eq!(decoded.records[0].payload.len(), PAYLOAD_BYTES_MAX);
}

proptest! {
    /// Whatever is cut by a power failure, every flushed record is there afterwards, and the records are a prefix of what
    /// was appended; appending goes on.
    #[test]
    fn flushed_records_survive_power_cuts(
        batches in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..4), 1..6),
        kept in any::<prop::sample::Index>(),
    ) {
        let dir = MemoryDir::new();
        let mut log = Log::create(&dir, "a", &HEADER, &[]).unwrap();
        let (unsynced, synced) = batches.split_last().unwrap();
        let mut all = vec![];
        for batch in synced {
            for payload in batch {
                log.append(5, payload).unwrap();
                all.push(payload.clone());
            }
            log.flush().unwrap();
        }
        let flushed = all.len();
        for payload in unsynced {
            log.append(5, payload).unwrap();
            all.push(payload.clone());
        }
        log.write_out().unwrap();
        drop(log);
        dir.power_cut(|_, tail| if tail == 0 { 0 } else { kept.index(tail + 1) });
        let (mut log, decoded) = Log::open(&dir, "a", &HEADER).unwrap();
        let found: Vec<_> = decoded.records.iter().map(|r| r.payload.clone()).collect();
        prop_assert!(found.len() >= flushed);
        prop_assert_eq!(&found[..], &all[..found.len()]);
        log.append(6, b"more").unwrap();
        log.flush().unwrap();
        drop(log);
        let (_, again) = Log::open(&dir, "a", &HEADER).unwrap();
        prop_assert_eq!(again.records.len(), found.len() + 1);
        prop_assert_eq!(again.torn_bytes, 0);
    }
}
