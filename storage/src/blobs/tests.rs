//! Uploads, transfers that survive restarts, references, retention, budget, damage.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::error::ErrorClass;
use crate::memory::MemoryStore;

const CHUNK: usize = BLOB_CHUNK_BYTES as usize;
const BUDGET: u64 = 64 << 20;
const T0: TimeMs = TimeMs(1_000_000);

/// A node's blobs, which can be stopped and started again.
struct Node {
    dir: tempfile::TempDir,
    store: MemoryStore,
}

impl Node {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), store: MemoryStore::new() }
    }

    fn start(&self, budget: u64) -> BlobStore {
        self.start_within(limits(budget))
    }

    fn start_within(&self, limits: BlobLimits) -> BlobStore {
        BlobStore::open(self.dir.path(), Arc::new(self.store.clone()), limits, T0).unwrap()
    }

    fn file(&self, area: &str, hash: &BlobHash) -> PathBuf {
        self.dir.path().join(area).join(hash.to_string())
    }
}

fn limits(budget: u64) -> BlobLimits {
    BlobLimits { budget, disk_reserve: 0 }
}

fn bytes(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| (i / 7 * 31 % 251) as u8 ^ seed).collect()
}

fn parts(blob: &[u8]) -> Vec<(u32, &[u8])> {
    (0u32..).zip(blob.chunks(CHUNK)).collect()
}

fn later(ms: u64) -> TimeMs {
    T0.plus(ms)
}

#[test]
fn what_is_put_is_read_by_its_hash_also_after_a_restart() {
    let node = Node::new();
    let blobs = node.start(BUDGET);
    for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5] {
        let blob = bytes(length, 1);
        let mut writer = blobs.writer().unwrap();
        blob.chunks(100_001).for_each(|part| writer.write(part).unwrap());
        let (hash, written) = writer.finish(T0).unwrap();
        assert_eq!((hash, written), (blob_hash(&blob), length as u64));
        assert_eq!(blobs.status(&hash), BlobStatus::Held { bytes: length as u64 });
        let again = node.start(BUDGET);
        assert_eq!(again.read(&hash).unwrap().unwrap(), blob);
        assert_eq!(*again.manifest(&hash).unwrap(), BlobManifest::of(&blob));
        for (number, part) in parts(&blob) {
            assert_eq!(again.chunk(&hash, number).unwrap().unwrap(), part);
        }
        assert!(again.chunk(&hash, 9).unwrap().is_none());
        assert_eq!(fs::metadata(node.file("whole", &hash)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let unknown = blob_hash(b"never seen");
    assert_eq!(blobs.status(&unknown), BlobStatus::Unknown);
    assert!(blobs.read(&unknown).unwrap().is_none() && blobs.chunk(&unknown, 0).unwrap().is_none());
    assert!(blobs.verify().unwrap().is_empty());
}

#[test]
fn a_transfer_resumes_after_a_restart_without_fetching_a_chunk_twice() {
    let node = Node::new();
    let blob = bytes(5 * CHUNK + 77, 2);
    let (hash, manifest) = (blob_hash(&blob), BlobManifest::of(&blob));
    let blobs = node.start(BUDGET);
    assert_eq!(blobs.begin_transfer(hash, &manifest, T0).unwrap(), [0, 1, 2, 3, 4, 5]);
    let parts = parts(&blob);
    for number in [5, 0, 3] {
        blobs.put_chunk(&hash, number, parts[number as usize].1, T0).unwrap();
    }
    assert_eq!(blobs.put_chunk(&hash, 3, parts[3].1, T0).unwrap(), 3, "a second time changes nothing");
    assert_eq!(blobs.status(&hash), BlobStatus::Partial { chunks: 6, missing: 3 });
    assert!(blobs.read(&hash).unwrap().is_none());
    drop(blobs);

    // A chunk whose bytes never reached the disk.
    let file = fs::OpenOptions::new().write(true).open(node.file("partial", &hash)).unwrap();
    file.write_all_at(&[0; 512], 3 * BLOB_CHUNK_BYTES).unwrap();

    let blobs = node.start(BUDGET);
    assert_eq!(blobs.begin_transfer(hash, &manifest, T0).unwrap(), [1, 2, 3, 4]);
    for number in [4, 1, 3] {
        assert!(blobs.put_chunk(&hash, number, parts[number as usize].1, T0).unwrap() > 0);
    }
    assert_eq!(blobs.put_chunk(&hash, 2, parts[2].1, T0).unwrap(), 0);
    assert_eq!(blobs.read(&hash).unwrap().unwrap(), blob);
    assert!(blobs.begin_transfer(hash, &manifest, T0).unwrap().is_empty());
    assert_eq!(blobs.put_chunk(&hash, 2, parts[2].1, T0).unwrap(), 0);
    assert!(!node.file("partial", &hash).exists());
}

#[test]
fn a_file_complete_but_for_its_name_is_completed_at_start() {
    let node = Node::new();
    let blob = bytes(2 * CHUNK, 3);
    let (hash, manifest) = (blob_hash(&blob), BlobManifest::of(&blob));
    let blobs = node.start(BUDGET);
    blobs.begin_transfer(hash, &manifest, T0).unwrap();
    drop(blobs);
    fs::write(node.file("partial", &hash), &blob).unwrap();
    assert_eq!(node.start(BUDGET).read(&hash).unwrap().unwrap(), blob);
}

#[test]
fn false_manifests_and_chunks_are_refused_and_change_nothing() {
    let node = Node::new();
    let blobs = node.start(BUDGET);
    let blob = bytes(2 * CHUNK + 9, 4);
    let (hash, manifest) = (blob_hash(&blob), BlobManifest::of(&blob));
    let other = BlobManifest::of(&bytes(2 * CHUNK + 9, 5));
    assert!(matches!(blobs.begin_transfer(hash, &other, T0), Err(StorageError::BadManifest { .. })));
    let part = parts(&blob)[0].1;
    assert!(matches!(blobs.put_chunk(&hash, 0, part, T0), Err(StorageError::NoTransfer(_))));
    blobs.begin_transfer(hash, &manifest, T0).unwrap();
    let mut wrong = part.to_vec();
    wrong[100] ^= 1;
    for (number, bytes) in [(0, wrong.as_slice()), (1, part), (7, part), (0, &part[1..])] {
        let refused = blobs.put_chunk(&hash, number, bytes, T0);
        assert!(matches!(refused, Err(StorageError::BadChunk { .. })), "{refused:?}");
    }
    assert_eq!(blobs.status(&hash), BlobStatus::Partial { chunks: 3, missing: 3 });
}

#[test]
fn a_manifest_with_a_false_length_gives_way_to_the_right_one_and_not_the_reverse() {
    let node = Node::new();
    let blobs = node.start(BUDGET);
    let (small, large) = (bytes(9, 1), bytes(2 * CHUNK + 9, 2));
    for (blob, last) in [(&small, 0), (&large, 2)] {
        let (hash, manifest) = (blob_hash(blob), BlobManifest::of(blob));
        let false_length = BlobManifest { bytes: manifest.bytes + 3, ..manifest.clone() };
        false_length.verify(&hash).unwrap();
        blobs.begin_transfer(hash, &false_length, T0).unwrap();
        let parts = parts(blob);
        for (number, part) in &parts[..last] {
            blobs.put_chunk(&hash, *number, part, T0).unwrap();
        }
        let end = parts[last].1;
        assert!(matches!(blobs.put_chunk(&hash, last as u32, end, T0), Err(StorageError::BadChunk { .. })));
        assert_eq!(blobs.begin_transfer(hash, &manifest, T0).unwrap(), [last as u32], "verified chunks stay");
        assert_eq!(blobs.put_chunk(&hash, last as u32, end, T0).unwrap(), 0);
        assert!(matches!(blobs.begin_transfer(hash, &false_length, T0), Err(StorageError::BadManifest { .. })));
        assert_eq!(blobs.read(&hash).unwrap().unwrap(), *blob);
    }
    // A long blob passed off as one of a single chunk, whose manifest proves nothing.
    let long = bytes(3 * CHUNK, 3);
    let (hash, manifest) = (blob_hash(&long), BlobManifest::of(&long));
    blobs.begin_transfer(hash, &BlobManifest { bytes: 5, chunks: vec![] }, T0).unwrap();
    assert_eq!(blobs.begin_transfer(hash, &manifest, T0).unwrap(), [0, 1, 2]);
    let used = 4096 + large.len() as u64 + long.len() as u64;
    assert_eq!(blobs.usage().used, used);
}

#[test]
fn unreferenced_blobs_expire_and_referenced_ones_never() {
    let node = Node::new();
    let blobs = node.start(BUDGET);
    let job = JobId::new([1; 32]);
    let (kept, dropped) = (blobs.put(b"kept", T0).unwrap(), blobs.put(b"dropped", T0).unwrap());
    let partial = bytes(2 * CHUNK, 6);
    let (hash, manifest) = (blob_hash(&partial), BlobManifest::of(&partial));
    blobs.begin_transfer(hash, &manifest, T0).unwrap();
    blobs.put_chunk(&hash, 0, parts(&partial)[0].1, later(1_000)).unwrap();
    blobs.refer(job, &[kept]).unwrap();
    assert_eq!(blobs.sweep(later(UNREFERENCED_MS - 1), TimeMs(0)).unwrap(), SweepReport::default());
    let report = blobs.sweep(later(UNREFERENCED_MS), TimeMs(u64::MAX - 1)).unwrap();
    assert_eq!(report, SweepReport { expired: 1, pruned: 0, freed: 7 });
    assert_eq!((blobs.status(&dropped), blobs.status(&kept)), (BlobStatus::Unknown, BlobStatus::Held { bytes: 4 }));
    assert_eq!(blobs.status(&hash), BlobStatus::Partial { chunks: 2, missing: 1 });
    blobs.sweep(later(UNREFERENCED_MS + 1_000), TimeMs(0)).unwrap();
    assert_eq!(blobs.status(&hash), BlobStatus::Unknown);
    assert!(!node.file("partial", &hash).exists() && !node.file("whole", &dropped).exists());
    assert!(matches!(blobs.put_chunk(&hash, 1, parts(&partial)[1].1, T0), Err(StorageError::NoTransfer(_))));
    let again = node.start(BUDGET);
    again.sweep(later(10 * UNREFERENCED_MS), TimeMs(u64::MAX - 1)).unwrap();
    assert_eq!(again.read(&kept).unwrap().unwrap(), b"kept");
}

#[test]
fn a_blob_goes_after_the_retention_of_its_last_job_and_says_so() {
    let node = Node::new();
    let blobs = node.start(BUDGET);
    let (first, second) = (JobId::new([1; 32]), JobId::new([2; 32]));
    let program = blobs.put(b"program", T0).unwrap();
    blobs.refer(first, &[program]).unwrap();
    blobs.refer(second, &[program]).unwrap();
    blobs.release(first, TimeMs(100)).unwrap();
    blobs.release(JobId::new([3; 32]), TimeMs(100)).unwrap();
    assert_eq!(blobs.referring_jobs(), [(first, Some(TimeMs(100))), (second, None)]);
    assert_eq!(blobs.sweep(later(9 * UNREFERENCED_MS), TimeMs(100)).unwrap(), SweepReport::default());
    assert_eq!(blobs.referring_jobs(), [(second, None)]);
    blobs.release(second, TimeMs(200)).unwrap();
    node.store.power_cut(0);
    drop(blobs);
    let blobs = node.start(BUDGET);
    assert_eq!(blobs.sweep(T0, TimeMs(199)).unwrap(), SweepReport::default());
    let report = blobs.sweep(T0, TimeMs(200)).unwrap();
    assert_eq!(report, SweepReport { expired: 0, pruned: 1, freed: 7 });
    assert_eq!(blobs.status(&program), BlobStatus::Pruned);
    assert_eq!(node.start(BUDGET).status(&program), BlobStatus::Pruned);
    assert_eq!(blobs.usage(), BlobUsage { used: 0, unreferenced: 0, limits: limits(BUDGET), blobs: 0 });
    blobs.put(b"program", T0).unwrap();
    assert_eq!(node.start(BUDGET).status(&program), BlobStatus::Held { bytes: 7 });
    blobs.sweep(later(UNREFERENCED_MS), TimeMs(201)).unwrap();
    assert_eq!(blobs.status(&program), BlobStatus::Unknown);
}

#[test]
fn a_reference_may_come_before_the_blob() {
    let node = Node::new();
    let blobs = node.start(BUDGET);
    let hash = blob_hash(b"later");
    blobs.refer(JobId::new([1; 32]), &[hash]).unwrap();
    blobs.put(b"later", T0).unwrap();
    assert_eq!(blobs.usage().unreferenced, 0);
    blobs.sweep(later(2 * UNREFERENCED_MS), TimeMs(0)).unwrap();
    assert_eq!(blobs.status(&hash), BlobStatus::Held { bytes: 5 });
}

#[test]
fn what_the_chain_needs_of_the_disk_is_left_alone() {
    let node = Node::new();
    let blob = bytes(10_000, 1);
    let held = node.start(BUDGET).put(&blob, T0).unwrap();
    // More than any disk has free: nothing new comes in, by either way; what is here stays readable.
    let blobs = node.start_within(BlobLimits { budget: BUDGET, disk_reserve: u64::MAX / 2 });
    let other = bytes(10_000, 2);
    let refused = |error: StorageError| matches!(error, StorageError::DiskReserve { needed, .. } if needed > 0);
    assert!(refused(blobs.put(&other, T0).unwrap_err()));
    let (hash, manifest) = (blob_hash(&other), BlobManifest::of(&other));
    assert!(refused(blobs.begin_transfer(hash, &manifest, T0).unwrap_err()));
    assert_eq!(blobs.status(&hash), BlobStatus::Unknown);
    assert_eq!(blobs.read(&held).unwrap(), Some(blob));
    assert_eq!(blobs.usage().used, 10_000);
    let free = blobs.disk_free().unwrap();
    let enough = node.start_within(BlobLimits { budget: BUDGET, disk_reserve: free / 2 });
    assert!(enough.put(&other, T0).is_ok());
}

#[test]
fn the_budget_is_kept_and_uploads_cannot_take_the_jobs_share() {
    let node = Node::new();
    let budget = 4 * 1_000_000;
    let blobs = node.start(budget);
    let big = bytes(900_000, 7);
    let hash = blobs.put(&big, T0).unwrap();
    let refused = blobs.put(&bytes(200_000, 8), T0).unwrap_err();
    assert_eq!(refused.class(), ErrorClass::Refused);
    assert!(refused.to_string().contains("no job refers to"), "{refused}");
    assert_eq!(blobs.usage(), BlobUsage { used: 900_000, unreferenced: 900_000, limits: limits(budget), blobs: 1 });
    assert_eq!(blobs.files("upload").unwrap().len(), 0, "a refused upload leaves nothing");
    blobs.refer(JobId::new([1; 32]), &[hash]).unwrap();
    assert_eq!(blobs.usage().unreferenced, 0);

    let wanted: Vec<_> = (0..4).map(|n| bytes(900_000, 20 + n)).collect();
    let hashes: Vec<_> = wanted.iter().map(|b| blob_hash(b)).collect();
    blobs.refer(JobId::new([2; 32]), &hashes).unwrap();
    for (blob, hash) in wanted.iter().zip(&hashes).take(3) {
        blobs.begin_transfer(*hash, &BlobManifest::of(blob), T0).unwrap();
    }
    let full = blobs.begin_transfer(hashes[3], &BlobManifest::of(&wanted[3]), T0);
    let used = 3_600_000;
    assert!(
        matches!(full, Err(StorageError::BudgetExceeded { used: u, needed: 900_000, .. }) if u == used),
        "{full:?}"
    );
    assert_eq!(blobs.usage().used, used);
    drop(blobs);
    let again = node.start(budget);
    assert_eq!(
        again.usage(),
        BlobUsage { used, unreferenced: 0, limits: limits(budget), blobs: 4 },
        "a restart counts alike"
    );
}

#[test]
fn a_proof_that_a_job_refers_to_is_stored_though_uploads_have_filled_their_share() {
    let node = Node::new();
    let budget = 4 * 1_000_000;
    let blobs = node.start(budget);
    blobs.put(&bytes(990_000, 1), T0).unwrap();
    let proof = bytes(700_000, 2);
    assert!(matches!(blobs.put(&proof, T0), Err(StorageError::BudgetExceeded { .. })), "the share is full");
    blobs.refer(JobId::new([1; 32]), &[blob_hash(&proof)]).unwrap();
    let hash = blobs.put(&proof, T0).unwrap();
    assert_eq!(blobs.read(&hash).unwrap().unwrap(), proof);
    let usage = BlobUsage { used: 1_690_000, unreferenced: 990_000, limits: limits(budget), blobs: 2 };
    assert_eq!(blobs.usage(), usage);
    // The whole budget holds for it as well, and one that was refused has given its room back.
    let huge = bytes(2_400_000, 3);
    blobs.refer(JobId::new([1; 32]), &[blob_hash(&huge)]).unwrap();
    assert!(matches!(blobs.put(&huge, T0), Err(StorageError::BudgetExceeded { .. })));
    assert_eq!(blobs.usage(), usage);
}

#[test]
fn many_tiny_blobs_are_bounded_too() {
    let node = Node::new();
    let blobs = node.start(16 * 4096);
    for n in 0..4u8 {
        blobs.put(&[n], T0).unwrap();
    }
    assert!(matches!(blobs.put(&[9], T0), Err(StorageError::BudgetExceeded { .. })));
}

#[test]
fn an_upload_over_the_limit_or_abandoned_leaves_nothing() {
    let node = Node::new();
    let blobs = node.start(1 << 30);
    let mut writer = blobs.writer().unwrap();
    let part = vec![1; 1 << 20];
    for _ in 0..32 {
        writer.write(&part).unwrap();
    }
    assert!(matches!(writer.write(&[1]), Err(StorageError::TooLarge { limit: BLOB_BYTES_MAX, .. })));
    assert_eq!(blobs.usage().used, BLOB_BYTES_MAX);
    drop(writer);
    assert_eq!((blobs.usage().used, blobs.files("upload").unwrap().len()), (0, 0));
    fs::write(node.dir.path().join("upload").join("7"), b"of a killed process").unwrap();
    assert_eq!(node.start(BUDGET).files("upload").unwrap().len(), 0);
}

#[test]
fn damaged_blobs_are_never_handed_out() {
    let node = Node::new();
    let blobs = node.start(BUDGET);
    let blob = bytes(2 * CHUNK + 5, 9);
    let damage = |hash: &BlobHash| {
        let file = fs::OpenOptions::new().write(true).open(node.file("whole", hash)).unwrap();
        file.write_all_at(&[0xff; 3], BLOB_CHUNK_BYTES + 1).unwrap();
    };
    let hash = blobs.put(&blob, T0).unwrap();
    damage(&hash);
    assert_eq!(blobs.verify().unwrap(), [hash]);
    assert!(blobs.chunk(&hash, 0).unwrap().is_some());
    assert!(matches!(blobs.chunk(&hash, 1), Err(StorageError::DamagedBlob(_))));
    assert_eq!(blobs.status(&hash), BlobStatus::Unknown);
    let hash = blobs.put(&blob, T0).unwrap();
    damage(&hash);
    assert!(matches!(blobs.read(&hash), Err(StorageError::DamagedBlob(_))));
    assert!(blobs.begin_transfer(hash, &BlobManifest::of(&blob), T0).unwrap().len() == 3, "it is fetched again");
    let hash = blobs.put(&blob, T0).unwrap();
    fs::OpenOptions::new().write(true).open(node.file("whole", &hash)).unwrap().set_len(100).unwrap();
    assert_eq!(node.start(BUDGET).status(&hash), BlobStatus::Unknown);
}

#[test]
fn manifests_lost_in_a_power_cut_are_computed_anew() {
    let node = Node::new();
    let blobs = node.start(BUDGET);
    let blob = bytes(3 * CHUNK, 10);
    let hash = blobs.put(&blob, T0).unwrap();
    let partial = bytes(3 * CHUNK, 11);
    blobs.begin_transfer(blob_hash(&partial), &BlobManifest::of(&partial), T0).unwrap();
    drop(blobs);
    node.store.power_cut(0);
    let blobs = node.start(BUDGET);
    assert_eq!(*blobs.manifest(&hash).unwrap(), BlobManifest::of(&blob));
    assert_eq!(blobs.status(&blob_hash(&partial)), BlobStatus::Unknown);
    assert_eq!(blobs.usage().blobs, 1);
}

#[test]
fn chunks_from_several_threads_make_one_blob() {
    let node = Node::new();
    let blobs = node.start(BUDGET);
    let blob = bytes(12 * CHUNK + 1, 12);
    let (hash, manifest) = (blob_hash(&blob), BlobManifest::of(&blob));
    blobs.begin_transfer(hash, &manifest, T0).unwrap();
    std::thread::scope(|scope| {
        for peer in 0..4 {
            let (blobs, parts) = (&blobs, parts(&blob));
            scope.spawn(move || {
                for (number, part) in parts.into_iter().filter(|(number, _)| number % 4 == peer || number % 3 == 0) {
                    blobs.put_chunk(&hash, number, part, T0).unwrap();
                }
            });
        }
    });
    assert_eq!(blobs.read(&hash).unwrap().unwrap(), blob);
}
