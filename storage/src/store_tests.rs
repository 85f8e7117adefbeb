//! The store's promises, made to both backends alike.

use types::evidence::Evidence;
use types::ids::Round;
use types::ids::{BlockId, Height, JobId};
use types::kv::{KvRead, Space};
use types::vote::{Vote, VoteKind};

use super::*;
use crate::memory::MemoryStore;
use crate::rocks::RocksStore;
use crate::test_chain::{Chain, genesis, genesis_writes, keys, root, verdict};

fn on_both(test: impl Fn(&dyn Store)) {
    test(&MemoryStore::new());
    let dir = tempfile::tempdir().unwrap();
    test(&RocksStore::open(dir.path()).unwrap());
}

#[test]
fn a_chain_is_found_again_by_height_id_and_transaction() {
    on_both(|store| {
        assert!(store.head().unwrap().is_none() && store.lowest_height().unwrap().is_none());
        let mut chain = Chain::new();
        let head = chain.fill(store, 5);
        assert_eq!((head.height, head.state_root), (Height(5), root(5)));
        assert_eq!(store.lowest_height().unwrap(), Some(Height(1)));
        let third = store.block(Height(3)).unwrap().unwrap();
        assert_eq!(store.height_of(&third.block.id()).unwrap(), Some(Height(3)));
        let transaction = &third.block.transactions[0];
        let (location, found) = store.transaction(&transaction.id()).unwrap().unwrap();
        assert_eq!((location, &found), (TxLocation { height: Height(3), index: 0 }, transaction));
        assert!(store.block(Height(6)).unwrap().is_none());
        assert!(store.height_of(&BlockId::new([0; 32])).unwrap().is_none());
        let heights = |from, count, bytes| -> Vec<u64> {
            store.blocks(Height(from), count, bytes).unwrap().iter().map(|b| b.block.header.height.0).collect()
        };
        assert_eq!(heights(2, 2, usize::MAX), [2, 3]);
        assert_eq!(heights(4, 9, usize::MAX), [4, 5]);
        assert_eq!(heights(1, 9, 1), [1]);
        assert!(heights(6, 1, 1).is_empty());
    });
}

#[test]
fn set_changes_and_certificates_are_kept_for_receipts() {
    on_both(|store| {
        Chain::new().fill(store, 5);
        let changes = store.set_changes(Height(1), Height(5)).unwrap();
        assert_eq!(changes.iter().map(|c| c.header.height.0).collect::<Vec<_>>(), [3]);
        assert_eq!(changes[0].new_set.validators().len(), 3);
        assert!(store.set_changes(Height(1), Height(2)).unwrap().is_empty());
        assert!(store.set_changes(Height(4), Height(9)).unwrap().is_empty());
        let job = JobId::new([2; 32]);
        assert_eq!(store.certificate(&job, 0).unwrap().unwrap().subject.job, job);
        assert!(store.certificate(&job, 1).unwrap().is_none());
        assert_eq!(store.certificates(&job).unwrap().len(), 1);
    });
}

#[test]
fn a_snapshot_stays_as_it_is_while_blocks_are_committed_and_moves_between_threads() {
    on_both(|store| {
        let mut chain = Chain::new();
        chain.fill(store, 2);
        let snapshot = store.snapshot();
        store.commit_block(&chain.next()).unwrap();
        let check = move || {
            assert_eq!(snapshot.head().unwrap().unwrap().height, Height(2));
            assert!(snapshot.block(Height(3)).unwrap().is_none());
            assert_eq!(snapshot.get(Space::State, b"account").unwrap(), Some(vec![2]));
            let rows = snapshot.scan(Space::State, b"height ", None, 10).unwrap();
            assert_eq!(rows.iter().map(|(k, _)| k.as_slice()).collect::<Vec<_>>(), [b"height 1", b"height 2"]);
            assert_eq!(snapshot.scan(Space::State, b"height ", Some(b"height 2"), 10).unwrap().len(), 1);
            assert_eq!(snapshot.scan(Space::State, b"height ", Some(b"a"), 1).unwrap().len(), 1);
            assert!(snapshot.scan(Space::State, b"height ", Some(b"i"), 1).unwrap().is_empty());
            assert_eq!(snapshot.get(Space::Tree, b"node").unwrap(), Some(vec![2; 3]));
        };
        std::thread::spawn(check).join().unwrap();
        assert_eq!(store.snapshot().get(Space::State, b"account").unwrap(), Some(vec![3]));
    });
}

#[test]
fn only_the_block_that_continues_the_chain_is_stored() {
    on_both(|store| {
        let mut chain = Chain::new();
        let first = chain.next();
        assert!(matches!(store.commit_block(&first), Err(StorageError::NotInitialised)));
        store.init(&chain.genesis, &genesis_writes(), root(0)).unwrap();
        let second = chain.next();
        assert!(matches!(store.commit_block(&second), Err(StorageError::NotNext { .. })));
        store.commit_block(&first).unwrap();
        assert!(matches!(store.commit_block(&first), Err(StorageError::NotNext { .. })));
        type Change = fn(&mut BlockCommit);
        let changes: [Change; 5] = [
            |c| c.decided.block.header.parent = BlockId::new([9; 32]),
            |c| c.decided.block.header.state_root = root(9),
            |c| c.decided.certificate.block = BlockId::new([9; 32]),
            |c| c.decided.certificate.height = Height(9),
            |c| c.decided.block.header.next_validators = Digest::new([9; 32]),
        ];
        for change in changes {
            let mut wrong = second.clone();
            change(&mut wrong);
            assert!(matches!(store.commit_block(&wrong), Err(StorageError::BlockMismatch { .. })));
            assert_eq!(store.head().unwrap().unwrap().height, Height(1));
        }
        store.commit_block(&second).unwrap();
    });
}

#[test]
fn a_database_belongs_to_one_chain() {
    on_both(|store| {
        let mut chain = Chain::new();
        let head = chain.fill(store, 1);
        store.init(&genesis(), &genesis_writes(), root(0)).unwrap();
        assert_eq!(store.head().unwrap(), Some(head));
        let mut other = genesis();
        other.chain_id = "another".into();
        assert!(matches!(store.init(&other, &genesis_writes(), root(0)), Err(StorageError::WrongChain { .. })));
    });
}

#[test]
fn verdicts_evidence_and_peers_come_and_go() {
    on_both(|store| {
        let (keys, chain) = (keys(), genesis().hash());
        let (job, other) = (JobId::new([1; 32]), JobId::new([2; 32]));
        for key in &keys {
            store.put_verdict(&verdict(job, key, &chain)).unwrap();
            store.put_verdict(&verdict(job, key, &chain)).unwrap();
        }
        store.put_verdict(&verdict(other, &keys[0], &chain)).unwrap();
        assert_eq!(store.verdicts(&job).unwrap().len(), 4);
        store.drop_verdicts(&job).unwrap();
        assert_eq!((store.verdicts(&job).unwrap().len(), store.verdicts(&other).unwrap().len()), (0, 1));

        let vote = |value: u8| {
            let value = Some(BlockId::new([value; 32]));
            let (height, round, validator) = (Height(1), Round(0), keys[0].public());
            Vote { kind: VoteKind::Prevote, height, round, value, validator }.sign(&keys[0], &chain)
        };
        let evidence = Evidence::Votes(vote(1), vote(2)).canonical();
        store.put_evidence(&evidence).unwrap();
        store.put_evidence(&Evidence::Votes(vote(1), vote(3)).canonical()).unwrap();
        assert_eq!(store.pending_evidence(9).unwrap().len(), 1, "one record per offence");
        store.drop_evidence(&evidence.offence()).unwrap();
        assert!(store.pending_evidence(9).unwrap().is_empty());

        let seen = |value| SignedMessages { votes: vec![vote(value)], proposals: vec![] };
        for height in 1..=5 {
            store.put_signed(Height(height), &seen(1)).unwrap();
        }
        store.put_signed(Height(5), &seen(2)).unwrap();
        assert_eq!(store.signed(Height(5)).unwrap(), Some(seen(2)));
        store.prune_signed(Height(4), 2).unwrap();
        assert_eq!([2, 3, 4].map(|h| store.signed(Height(h)).unwrap().is_some()), [false, true, true]);
        store.prune_signed(Height(4), 100).unwrap();
        assert_eq!([3, 4].map(|h| store.signed(Height(h)).unwrap().is_some()), [false, true]);

        store.put_peer(b"peer", b"address").unwrap();
        assert!(matches!(store.put_peer(&[0; 65], b""), Err(StorageError::TooLarge { value: 65, limit: 64, .. })));
        assert!(matches!(store.put_peer(b"peer", &[0; 4097]), Err(StorageError::TooLarge { limit: 4096, .. })));
        assert_eq!(store.peers(9).unwrap(), [(b"peer".to_vec(), b"address".to_vec())]);
        store.drop_peer(b"peer").unwrap();
        assert!(store.peers(9).unwrap().is_empty());
    });
}

#[test]
fn a_power_cut_takes_relaxed_writes_back_and_leaves_synced_ones() {
    let store = MemoryStore::new();
    let put = |value: &[u8], durability| {
        let mut batch = Batch::new();
        batch.put(Table::Peers, b"a", value);
        batch.put(Table::Peers, value, value);
        store.write(batch, durability).unwrap();
    };
    put(b"1", Durability::Relaxed);
    put(b"2", Durability::Synced);
    put(b"3", Durability::Relaxed);
    put(b"4", Durability::Relaxed);
    let mut removal = Batch::new();
    removal.delete(Table::Peers, b"a");
    store.write(removal, Durability::Relaxed).unwrap();
    let held = store.snapshot();
    store.power_cut(1);
    assert_eq!(store.record(Table::Peers, b"a").unwrap(), Some(b"3".to_vec()));
    assert_eq!(store.peers(9).unwrap().len(), 4);
    put(b"5", Durability::Relaxed);
    store.power_cut(0);
    let keys: Vec<_> = store.peers(9).unwrap().into_iter().map(|(k, _)| k).collect();
    assert_eq!(keys, [b"1", b"2", b"3", b"a"]);
    assert_eq!(held.peers(9).unwrap().len(), 4, "a snapshot does not follow");
}
