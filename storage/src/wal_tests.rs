//! Files per height, on the virtual and on a real disk.

use super::*;
use crate::disk::FsDir;
use crate::virtual_disk::MemoryDir;

const CHAIN: GenesisHash = GenesisHash::new([1; 32]);

fn wal(dir: &MemoryDir) -> Wal {
    Wal::open(Box::new(dir.clone()), CHAIN).unwrap()
}

#[test]
fn each_height_has_its_file_and_pruning_removes_the_old_ones() {
    let dir = MemoryDir::new();
    let mut log = wal(&dir);
    for height in [3, 4, 5] {
        assert_eq!(log.start(Height(height)).unwrap().records, vec![]);
        log.append(1, &[height as u8]).unwrap();
        log.flush().unwrap();
    }
    log.prune_below(Height(5)).unwrap();
    drop(log);
    let mut log = wal(&dir);
    assert_eq!(log.heights().iter().copied().collect::<Vec<_>>(), [Height(5)]);
    let replay = log.start(Height(5)).unwrap();
    assert_eq!(replay, Replay { records: vec![Record { kind: 1, payload: vec![5] }], torn_bytes: 0 });
    log.prune_below(Height(9)).unwrap();
    assert_eq!(log.heights().len(), 1, "the open log stays");
}

#[test]
fn nothing_is_appended_without_an_open_height() {
    let mut log = wal(&MemoryDir::new());
    assert!(matches!(log.append(1, b""), Err(StorageError::Poisoned { .. })));
    assert!(log.flush().is_err());
}

#[test]
fn a_cut_during_creation_leaves_no_file() {
    let dir = MemoryDir::new();
    for steps in 0..3 {
        dir.fail_after(Some(steps));
        assert!(wal(&dir).start(Height(1)).is_err(), "steps {steps}");
        dir.fail_after(None);
        dir.power_cut(|_, tail| tail);
        assert_eq!(wal(&dir).start(Height(1)).unwrap().records, vec![]);
        dir.remove(&file_name(Height(1))).unwrap();
        dir.sync().unwrap();
    }
}

#[test]
fn unsynced_records_are_lost_and_flushed_ones_are_not() {
    let dir = MemoryDir::new();
    let mut log = wal(&dir);
    log.start(Height(1)).unwrap();
    log.append(1, b"flushed").unwrap();
    log.flush().unwrap();
    let before = dir.syncs();
    log.flush().unwrap();
    assert_eq!(dir.syncs(), before, "an empty flush costs nothing");
    log.append(2, b"not flushed").unwrap();
    drop(log);
    dir.power_cut(|_, tail| tail);
    assert_eq!(wal(&dir).start(Height(1)).unwrap().records.len(), 1);
}

#[test]
fn real_files_are_private_and_survive_reopening() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("wal");
    let open = || Wal::open(Box::new(FsDir::open(&path).unwrap()), CHAIN).unwrap();
    let mut log = open();
    log.start(Height(8)).unwrap();
    log.append(4, b"vote").unwrap();
    log.flush().unwrap();
    drop(log);
    let file = path.join(file_name(Height(8)));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.extend_from_slice(&[9; 30]);
    std::fs::write(&file, &bytes).unwrap();
    std::fs::write(path.join("00000000000000000009.wal.new"), b"half").unwrap();
    std::fs::write(path.join("9.wal"), b"not ours").unwrap();
    let mut log = open();
    assert_eq!(log.heights().len(), 1);
    let replay = log.start(Height(8)).unwrap();
    assert_eq!((replay.records.len(), replay.torn_bytes), (1, 30));
    log.append(5, b"next").unwrap();
    log.flush().unwrap();
    drop(log);
    let replay = open().start(Height(8)).unwrap();
    assert_eq!((replay.records.len(), replay.torn_bytes), (2, 0));
    assert!(!path.join("00000000000000000009.wal.new").exists());
    let other = Wal::open(Box::new(FsDir::open(&path).unwrap()), GenesisHash::new([2; 32])).unwrap().start(Height(8));
    assert!(matches!(other, Err(StorageError::WrongChain { .. })));
}
