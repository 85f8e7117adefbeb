//! The guard file keeps what was flushed, through power cuts and compaction.

use super::*;
use crate::virtual_disk::MemoryDir;

const CHAIN: GenesisHash = GenesisHash::new([1; 32]);

fn open(dir: &MemoryDir) -> (GuardFile, GuardLoad) {
    GuardFile::open(Box::new(dir.clone()), CHAIN).unwrap()
}

fn heights(load: &GuardLoad) -> Vec<u64> {
    load.records.iter().map(|r| r.height.0).collect()
}

#[test]
fn flushed_records_are_loaded_in_order() {
    let dir = MemoryDir::new();
    assert!(GuardFile::is_missing(&dir).unwrap());
    let (mut guard, load) = open(&dir);
    assert_eq!(heights(&load), [0u64; 0]);
    assert!(!GuardFile::is_missing(&dir).unwrap());
    for height in [4, 4, 5] {
        guard.append(Height(height), &[height as u8; 3]).unwrap();
        guard.flush().unwrap();
    }
    guard.append(Height(6), b"never flushed").unwrap();
    drop(guard);
    dir.power_cut(|_, _| 0);
    let (_, load) = open(&dir);
    assert_eq!(heights(&load), [4, 4, 5]);
    assert_eq!(load.records[2].bytes, [5; 3]);
}

#[test]
fn compaction_keeps_recent_heights_and_any_interruption_keeps_old_or_new() {
    // Two syncs to read the old file, then an append, a sync of the new file and one of the folder: fail at each, then not.
    for steps in 0..=5 {
        let dir = MemoryDir::new();
        let (mut guard, _) = open(&dir);
        for height in 1..=9 {
            guard.append(Height(height), b"slot").unwrap();
        }
        guard.flush().unwrap();
        dir.fail_after(Some(steps));
        let done = guard.compact(Height(7));
        dir.fail_after(None);
        assert_eq!(done.is_ok(), steps == 5, "steps {steps}");
        let usable = guard.append(Height(10), b"slot").is_ok();
        assert_eq!(usable, steps < 2 || steps == 5, "steps {steps}");
        drop(guard);
        dir.power_cut(|_, tail| tail);
        let (_, load) = open(&dir);
        let kept: Vec<u64> = if done.is_ok() { vec![7, 8, 9] } else { (1..=9).collect() };
        assert_eq!(heights(&load), kept, "steps {steps}");
    }
}

#[test]
fn damage_before_a_synced_record_is_an_error() {
    let dir = MemoryDir::new();
    let (mut guard, _) = open(&dir);
    for height in 1..=3 {
        guard.append(Height(height), b"slot").unwrap();
        guard.flush().unwrap();
    }
    drop(guard);
    let mut bytes = dir.bytes(FILE).unwrap();
    let middle = bytes.len() - 40;
    bytes[middle] ^= 4;
    dir.overwrite(FILE, bytes);
    let result = GuardFile::open(Box::new(dir.clone()), CHAIN);
    assert!(matches!(result, Err(StorageError::LogCorrupt { .. })));
}
