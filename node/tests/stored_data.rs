//! Stored data that is damaged, newer, of another chain, or in use: the exit code says which, and nothing is changed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Node, copy, free_port, ok, refused, run, text};
use serde_json::Value;
use storage::{Batch, Durability, RocksStore, Store, Table};

/// A home whose node was stopped after some blocks, twice, so that there are sorted files besides the log.
fn home_with_blocks(folder: &Path) -> PathBuf {
    let home = folder.join("home");
    ok(&["init", "--home", text(&home)]);
    // A chain of its own that does not wait ten seconds for an empty block.
    let path = home.join("genesis.json");
    let mut genesis: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    genesis["params"]["block_ms"] = 50.into();
    genesis["params"]["empty_block_ms"] = 50.into();
    fs::write(&path, genesis.to_string()).unwrap();
    for height in [10, 20] {
        let node = Node::start(&home);
        node.wait("some blocks", |node| node.height() >= height);
        assert_eq!(node.stop(), 0);
    }
    home
}

/// The first file of a folder whose name contains `part`.
fn file_in(folder: &Path, part: &str) -> PathBuf {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let found = names.iter().find(|path| path.file_name().unwrap().to_str().unwrap().contains(part));
    found.unwrap_or_else(|| panic!("no {part} in {names:?}")).clone()
}

fn start(home: &Path) -> Vec<String> {
    ["start", "--home", text(home), "--rpc", "127.0.0.1:0", "--p2p", "127.0.0.1:0"].map(str::to_owned).into()
}

fn heights(home: &Path) -> Value {
    ok(&["db", "verify", "--home", text(home)])["height"].clone()
}

fn flip(path: &Path, at: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(path).unwrap();
    let place = at(bytes.len());
    bytes[place] ^= 0xff;
    fs::write(path, bytes).unwrap();
}

#[test]
fn damaged_data_ends_with_exit_code_5_and_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let home = home_with_blocks(folder.path());
    let height = heights(&home);
    let copied = folder.path().join("copied");
    type Damage = fn(&Path);
    // Whether the node itself can tell at its start; the rest shows when everything is read.
    let cases: [(&str, bool, Damage); 10] = [
        ("CURRENT is gone", true, |h| fs::remove_file(h.join("db/CURRENT")).unwrap()),
        ("CURRENT is rubbish", true, |h| fs::write(h.join("db/CURRENT"), "rubbish").unwrap()),
        ("the manifest is gone", true, |h| fs::remove_file(file_in(&h.join("db"), "MANIFEST")).unwrap()),
        ("the manifest is rubbish", true, |h| fs::write(file_in(&h.join("db"), "MANIFEST"), "rubbish").unwrap()),
        ("a table is gone", true, |h| fs::remove_file(file_in(&h.join("db"), ".sst")).unwrap()),
        ("a table is cut", true, |h| {
            let table = fs::File::options().write(true).open(file_in(&h.join("db"), ".sst")).unwrap();
            table.set_len(table.metadata().unwrap().len() / 2).unwrap();
        }),
        ("a bit of every table is wrong", false, |h| {
            for entry in fs::read_dir(h.join("db")).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|ending| ending == "sst") {
                    flip(&path, |_| 30);
                }
            }
        }),
        ("the guard is damaged", true, |h| flip(&h.join("guard/guard.log"), |_| 100)),
        ("the guard's head is damaged", true, |h| flip(&h.join("guard/guard.log"), |_| 20)),
        ("the guard is gone", true, |h| fs::remove_file(h.join("guard/guard.log")).unwrap()),
    ];
    for (name, at_start, damage) in cases {
        copy(&home, &copied);
        damage(&copied);
        let arguments = start(&copied);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        // Twice: the first refusal must not have made something that looks whole.
        for _ in 0..2 {
            let refusal = match at_start {
                true => refused(&arguments),
                false => refused(&["db", "verify", "--home", text(&copied)]),
            };
            assert_eq!((refusal.exit, refusal.code.as_str()), (5, "corruption"), "{name}: {refusal:?}");
            assert!(refusal.remedy.contains("backup"), "{name}: {refusal:?}");
        }
        fs::remove_dir_all(&copied).unwrap();
    }
    assert_eq!(heights(&home), height);
}

#[test]
fn newer_data_is_refused_and_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let home = home_with_blocks(folder.path());
    let newer = storage::meta::SCHEMA_VERSION + 7;
    let write = |version: u32| {
        let store = RocksStore::open(&home.join("db")).unwrap();
        let mut batch = Batch::new();
        batch.put(Table::Meta, b"schema".as_slice(), version.to_le_bytes());
        store.write(batch, Durability::Synced).unwrap();
    };
    write(newer);
    let arguments = start(&home);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    for command in [arguments, vec!["db", "version", "--home", text(&home)]] {
        let refusal = refused(&command);
        assert_eq!((refusal.exit, refusal.code.as_str(), refusal.field.as_str()), (3, "newer_schema", "schema"));
        assert_eq!(refusal.value, newer.to_string());
        assert!(refusal.limit.contains(&storage::meta::SCHEMA_VERSION.to_string()), "{refusal:?}");
    }
    assert!(RocksStore::open(&home.join("db")).is_err(), "still newer, so nothing was rewritten");
}

#[test]
fn data_of_another_chain_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let home = home_with_blocks(folder.path());
    let own = fs::read(home.join("genesis.json")).unwrap();
    let other = folder.path().join("other");
    let made = ok(&["init", "--home", text(&other)]);
    fs::copy(other.join("genesis.json"), home.join("genesis.json")).unwrap();
    let arguments = start(&home);
    let refusal = refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((refusal.exit, refusal.code.as_str(), refusal.field.as_str()), (3, "wrong_chain", "genesis_hash"));
    assert_eq!(refusal.limit, made["genesis_hash"].as_str().unwrap());
    assert_ne!(refusal.value, refusal.limit);
    assert_eq!(refused(&["db", "verify", "--home", text(&home)]).exit, 3);
    fs::write(home.join("genesis.json"), own).unwrap();
    assert!(heights(&home).as_u64() >= Some(20), "nothing was changed");
}

#[test]
fn a_home_and_ports_in_use_are_told_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (home, other) = (folder.path().join("home"), folder.path().join("other"));
    ok(&["init", "--home", text(&home)]);
    ok(&["init", "--home", text(&other)]);
    // Loopback addresses are only shown in a testnet.
    let config = home.join("config.toml");
    let changed = fs::read_to_string(&config).unwrap().replace("#testnet = false", "testnet = true");
    fs::write(&config, changed).unwrap();
    let node = Node::start(&home);
    let rpc = node.rpc.strip_prefix("http://").unwrap();
    let listen = || node.ask(&["status"])?["net"]["listen"][0].as_str().map(str::to_owned);
    node.wait("a peer-to-peer address", |_| listen().is_some());
    // /ip4/127.0.0.1/tcp/PORT, perhaps with the peer id behind it.
    let address = listen().unwrap();
    let port = address.split('/').nth(4).unwrap();
    let p2p = format!("127.0.0.1:{port}");
    let free = format!("127.0.0.1:{}", free_port());

    for command in [
        vec!["start", "--home", text(&home), "--rpc", &free],
        vec!["db", "version", "--home", text(&home)],
        vec!["db", "verify", "--home", text(&home)],
    ] {
        let refusal = refused(&command);
        assert_eq!((refusal.exit, refusal.code.as_str(), refusal.field.as_str()), (4, "home_locked", "home"));
        assert!(refusal.message.contains("process") && refusal.value == text(&home), "{refusal:?}");
    }
    let taken = refused(&["start", "--home", text(&other), "--rpc", rpc, "--p2p", "127.0.0.1:0"]);
    assert_eq!((taken.exit, taken.code.as_str(), taken.field.as_str()), (1, "listen", "rpc.listen"));
    assert!(taken.value == rpc && taken.remedy.contains("--rpc"), "{taken:?}");
    let taken = refused(&["start", "--home", text(&other), "--rpc", &free, "--p2p", &p2p]);
    assert_eq!((taken.exit, taken.code.as_str(), taken.field.as_str()), (1, "listen", "p2p.listen"));
    assert!(taken.value == p2p && taken.remedy.contains("--p2p"), "{taken:?}");

    // The peer-to-peer port is no RPC port.
    let wrong = refused(&["status", "--rpc", &format!("http://{p2p}")]);
    assert_eq!((wrong.exit, wrong.field.as_str()), (1, "rpc"), "{wrong:?}");
    assert!(wrong.value.contains(port) && wrong.remedy.contains("port"), "{wrong:?}");
    assert!(node.ask(&["status"]).is_some(), "the node answers as before");
    assert_eq!(node.stop(), 0);
    let (exit, answer, _) = run(&["db", "version", "--home", text(&home)]);
    assert_eq!((exit, &answer["schema"]), (0, &1.into()), "free again");
}
