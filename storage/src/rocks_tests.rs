//! RocksDB itself: reopening as after a kill, foreign tables, damage in its files.

use std::fs;

use types::ids::Height;

use super::*;
use crate::error::ErrorClass;
use crate::test_chain::{Chain, root};

/// Copies a database that is open and being written: what another process finds after this one was killed.
fn copy_as_killed(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

#[test]
fn every_committed_block_survives_a_kill_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    let mut chain = Chain::new();
    chain.fill(&store, 0);
    for height in 1..=4 {
        let head = store.commit_block(&chain.next()).unwrap();
        let copy = copy_as_killed(dir.path());
        let found = RocksStore::open(copy.path()).unwrap();
        assert_eq!(found.head().unwrap(), Some(head));
        meta::verify(&found, &mut |_| ()).unwrap();
        assert_eq!(found.block(Height(height)).unwrap(), store.block(Height(height)).unwrap());
    }
}

#[test]
fn a_log_torn_anywhere_gives_a_whole_earlier_block() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    Chain::new().fill(&store, 3);
    let log = |dir: &Path| {
        let logs =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "log"));
        logs.max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap()
    };
    let length = fs::metadata(log(dir.path())).unwrap().len();
    let mut heights = std::collections::BTreeSet::new();
    for cut in (0..length).step_by(97) {
        let copy = copy_as_killed(dir.path());
        fs::OpenOptions::new().write(true).open(log(copy.path())).unwrap().set_len(cut).unwrap();
        let found = RocksStore::open(copy.path()).unwrap();
        if let Some(head) = found.head().unwrap() {
            assert_eq!(head.state_root, root(head.height.0), "cut at {cut}");
            meta::verify(&found, &mut |_| ()).unwrap();
            heights.insert(head.height.0);
        }
    }
    assert_eq!(heights.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn a_second_opener_is_refused_while_the_first_lives() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    let snapshot = store.snapshot();
    drop(store);
    let second = RocksStore::open(dir.path());
    assert!(matches!(second, Err(StorageError::Database(_))), "the snapshot keeps it open");
    drop(snapshot);
    RocksStore::open(dir.path()).unwrap();
}

#[test]
fn tables_of_a_newer_program_do_not_hide_its_version() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = DB::open_cf(&db_options(), dir.path(), ["meta"]).unwrap();
    db.create_cf("of_the_future", &Options::default()).unwrap();
    db.put_cf(db.cf_handle("meta").unwrap(), crate::records::META_SCHEMA, 2u32.to_le_bytes()).unwrap();
    drop(db);
    assert!(matches!(RocksStore::open(dir.path()), Err(StorageError::Newer { found: 2, .. })));
}

#[test]
fn usage_counts_files_memory_tables_and_cache() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    let empty = store.usage();
    Chain::new().fill(&store, 20);
    let written = store.usage();
    assert!(written.memory_tables > empty.memory_tables, "{written:?}");
    for table in Table::ALL {
        store.db.flush_cf(family(&store.db, table).unwrap()).unwrap();
    }
    let flushed = store.usage();
    assert!(flushed.files > 0 && flushed.memory_tables < written.memory_tables, "{flushed:?}");
    for table in Table::ALL {
        store.records(table, &[], None, 1_000).unwrap();
    }
    let read = store.usage();
    assert!(read.cache > empty.cache + 1_000 && read.cache <= CACHE_BYTES as u64, "{read:?}");
}

#[test]
fn damage_in_the_sorted_files_is_reported_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    Chain::new().fill(&store, 20);
    for table in Table::ALL {
        store.db.flush_cf(family(&store.db, table).unwrap()).unwrap();
    }
    assert!(store.usage().files > 0);
    drop(store);
    let sorted: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "sst"))
        .collect();
    let largest = sorted.iter().max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap();
    let mut bytes = fs::read(largest).unwrap();
    let end = bytes.len().min(400);
    bytes[20..end].iter_mut().for_each(|b| *b ^= 0x5a);
    fs::write(largest, bytes).unwrap();
    let result = RocksStore::open(dir.path()).and_then(|store| meta::verify(&store, &mut |_| ()));
    assert_eq!(result.unwrap_err().class(), ErrorClass::Corruption);
}

#[test]
fn the_key_past_a_prefix() {
    assert_eq!(past(b"a"), Some(b"b".to_vec()));
    assert_eq!(past(&[1, 0xff, 0xff]), Some(vec![2]));
    assert_eq!(past(&[0xff, 0xff]), None);
    assert_eq!(past(b""), None);
}
