//! Schema versions, and damage that the check of the database must find.

use types::Wire;

use super::*;
use crate::memory::MemoryStore;
use crate::rocks::RocksStore;
use crate::test_chain::{Chain, root};

fn chain_in_memory(blocks: u64) -> MemoryStore {
    let store = MemoryStore::new();
    check_schema(&store).unwrap();
    Chain::new().fill(&store, blocks);
    store
}

fn put(store: &dyn Store, table: Table, key: &[u8], value: Option<Vec<u8>>) {
    let mut batch = Batch::new();
    match value {
        Some(value) => batch.put(table, key, value),
        None => batch.delete(table, key),
    }
    store.write(batch, Durability::Synced).unwrap();
}

#[test]
fn an_intact_chain_verifies_on_both_backends() {
    let dir = tempfile::tempdir().unwrap();
    let rocks = RocksStore::open(dir.path()).unwrap();
    Chain::new().fill(&rocks, 5);
    let mut seen = vec![];
    let report = verify(&rocks, &mut |height| seen.push(height.0)).unwrap();
    assert_eq!(seen, [1, 2, 3, 4, 5]);
    assert_eq!((report.schema, report.chain_id.as_str(), report.transactions), (1, "test-chain", 5));
    assert_eq!((report.head.state_root, report.lowest), (root(5), Some(Height(1))));
    assert_eq!((report.records["blocks"], report.records["set_changes"], report.records["job_records"]), (5, 1, 5));
    assert_eq!(verify(&chain_in_memory(5), &mut |_| ()).unwrap(), report);
}

#[test]
fn every_kind_of_damage_is_named() {
    let key = |height: u64| height.to_be_bytes().to_vec();
    let block = |store: &MemoryStore, change: &dyn Fn(&mut DecidedBlock)| {
        let mut decided = store.block(Height(4)).unwrap().unwrap();
        change(&mut decided);
        put(store, Table::Blocks, &4u64.to_be_bytes(), Some(decided.to_bytes()));
    };
    type Damage<'a> = Box<dyn Fn(&MemoryStore) + 'a>;
    let damages: Vec<(&str, Damage<'_>)> = vec![
        ("block 2 is damaged: missing", Box::new(|s| put(s, Table::Blocks, &key(2), None))),
        ("decided block", Box::new(|s| put(s, Table::Blocks, &key(2), Some(vec![1, 2, 3])))),
        ("parent", Box::new(|s| put(s, Table::Blocks, &key(2), s.block_bytes(Height(3)).unwrap()))),
        ("transactions", Box::new(|s| block(s, &|b| b.block.transactions.clear()))),
        ("time", Box::new(|s| block(s, &|b| b.block.header.time_ms = TimeMs(0)))),
        ("signature", Box::new(|s| block(s, &|b| b.certificate.round = types::ids::Round(7)))),
        ("power 2 of 3", Box::new(|s| block(s, &|b| b.certificate.signatures.truncate(2)))),
        ("certificate of the parent", Box::new(|s| block(s, &|b| b.block.last_commit = None))),
        ("another block", Box::new(|s| block(s, &|b| b.block.header.proposer = types::keys::PublicKey::new([0; 32])))),
        (
            "id is not indexed",
            Box::new(|s| {
                let id = s.block(Height(4)).unwrap().unwrap().block.id();
                put(s, Table::BlockIds, id.as_bytes(), None);
            }),
        ),
        (
            "transaction 0 is not indexed",
            Box::new(|s| {
                let id = s.block(Height(4)).unwrap().unwrap().block.transactions[0].id();
                put(s, Table::Txs, id.as_bytes(), None);
            }),
        ),
        ("change of the validator set", Box::new(|s| put(s, Table::SetChanges, &key(3), None))),
        (
            "head",
            Box::new(|s| {
                let mut head = s.head().unwrap().unwrap();
                head.height = Height(4);
                put(s, Table::Meta, crate::records::META_HEAD, Some(head.to_bytes()));
            }),
        ),
        ("6 records, the chain has 5", Box::new(|s| put(s, Table::Blocks, &key(9), Some(vec![])))),
        ("proof certificate", Box::new(|s| put(s, Table::JobRecords, &[7; 36], Some(vec![9])))),
        ("evidence", Box::new(|s| put(s, Table::Evidence, &[7; 32], Some(vec![9])))),
        ("signed messages", Box::new(|s| put(s, Table::Signed, &key(2), Some(vec![9])))),
    ];
    for (name, damage) in damages {
        let store = chain_in_memory(5);
        damage(&store);
        let error = verify(&store, &mut |_| ()).unwrap_err();
        assert_eq!(error.class(), crate::ErrorClass::Corruption, "{name}");
        let text = error.to_string();
        let expected = if name == "another block" { "is for block" } else { name };
        assert!(text.contains(expected), "{name}: {text}");
    }
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    assert_eq!(schema(&store).unwrap(), Some(SCHEMA_VERSION));
    put(&store, Table::Meta, META_SCHEMA, Some(7u32.to_le_bytes().to_vec()));
    drop(store);
    for _ in 0..2 {
        let refused = RocksStore::open(dir.path());
        assert!(matches!(refused, Err(StorageError::Newer { found: 7, known: SCHEMA_VERSION, .. })), "{refused:?}");
    }
}

#[test]
fn a_chain_without_a_schema_version_is_damage() {
    let store = chain_in_memory(1);
    for version in [None, Some(vec![1]), Some(vec![0; 4])] {
        put(&store, Table::Meta, META_SCHEMA, version);
        assert!(matches!(check_schema(&store), Err(StorageError::Corrupt { .. })));
    }
}

#[test]
fn an_empty_database_has_nothing_to_verify() {
    let store = MemoryStore::new();
    assert!(matches!(verify(&store, &mut |_| ()), Err(StorageError::NotInitialised)));
}
