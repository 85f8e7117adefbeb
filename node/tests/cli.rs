//! The shipped binary from outside: answers, exit codes, and the life of a node process over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{Node, free_port, ok, proofmesh, run, text};
use serde_json::Value;

#[test]
fn answers_and_exit_codes_without_a_node() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    let home = text(&home);
    let version = ok(&["version"]);
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));

    let (code, answer, _) = run(&["no-such-command"]);
    assert_eq!((code, &answer["error"]["code"]), (2, &"usage".into()));
    let (code, answer, _) = run(&["config", "check", "--home", home]);
    assert_eq!((code, &answer["error"]["field"]), (3, &"home".into()));
    let made = ok(&["init", "--home", home]);
    assert_eq!((&made["own_chain"], &made["validator"], &made["prover"]), (&true.into(), &true.into(), &true.into()));
    let (code, answer, _) = run(&["init", "--home", home]);
    assert_eq!((code, &answer["error"]["code"]), (1, &"exists".into()));
    assert_eq!(ok(&["config", "check", "--home", home])["genesis_hash"], made["genesis_hash"]);
    let shown = ok(&["config", "show", "--origin", "--home", home]);
    assert_eq!(shown["rpc.rate_per_s"]["origin"], "default");
    let keys = ok(&["keys", "show", "--home", home]);
    assert_eq!(keys["peer_id"], made["peer_id"]);
    assert!(keys["peer_id"].as_str().unwrap().starts_with("12D3"));
    let (code, answer, _) = run(&["db", "version", "--home", home]);
    assert_eq!((code, &answer["error"]["code"]), (1, &"no_data".into()));
    let (code, answer, _) = run(&["status", "--rpc", &format!("http://127.0.0.1:{}", free_port())]);
    assert_eq!((code, &answer["error"]["code"]), (1, &"unreachable".into()));

    let unknown = proofmesh(&["config", "check", "--home", home]).env("PROOFMESH_RPC__LISEN", "x").output().unwrap();
    assert_eq!(unknown.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("rpc.listen"));
    let key = Path::new(home).join("keys/consensus.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    for command in ["config", "start"] {
        let arguments = if command == "config" { vec!["config", "check"] } else { vec!["start"] };
        let (code, answer, errors) = run(&[arguments.as_slice(), &["--home", home]].concat());
        assert_eq!((code, &answer["error"]["code"]), (3, &"key_mode".into()), "{errors}");
    }
}

#[test]
fn verify_needs_nothing_but_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    ok(&["init", "--home", text(&home)]);
    let genesis = home.join("genesis.json");
    let receipt = folder.path().join("receipt.bin");
    fs::write(&receipt, b"no receipt").unwrap();
    let output =
        proofmesh(&["verify", text(&receipt), "--genesis", text(&genesis), "--json"]).env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["valid"], &answer["failed_check"]), (&false.into(), &"format".into()));
    let fields = [
        "reason",
        "job_id",
        "program_hash",
        "hash_function",
        "output",
        "input_binding",
        "security",
        "proof_system",
        "prover",
        "height",
        "power_signed",
        "power_total",
        "trust_root",
    ];
    for field in fields {
        assert!(answer.get(field).is_some(), "{field}");
    }
    let none = folder.path().join("none");
    assert_eq!(run(&["verify", text(&none), "--genesis", text(&genesis)]).0, 2);
    assert_eq!(run(&["verify", text(&receipt), "--genesis", text(&receipt)]).0, 2);
    assert_eq!(run(&["verify", text(&receipt)]).0, 2);
    assert_eq!(run(&["verify", text(&receipt), "--genesis", text(&genesis), "--checkpoint", "xyz"]).0, 2);
}

#[test]
fn a_node_lives_pays_and_drains() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    let home_text = text(&home);
    ok(&["init", "--home", home_text]);
    let node = Node::start(&home);
    node.wait("a block", |node| node.height() >= 1);

    let (code, answer, _) = run(&["start", "--home", home_text, "--rpc", &format!("127.0.0.1:{}", free_port())]);
    assert_eq!((code, &answer["error"]["code"]), (4, &"home_locked".into()));
    assert_eq!(run(&["db", "verify", "--home", home_text]).0, 4);

    let other = folder.path().join("other.key");
    let to = ok(&["keys", "generate", "--out", text(&other)])["public_key"].as_str().unwrap().to_string();
    let paid = node.ask(&["tx", "transfer", &to, "250", "--home", home_text]).expect("a transfer");
    assert_eq!(paid["status"], "decided", "{paid}");
    let account = node.ask(&["account", "show", &to]).unwrap();
    assert_eq!((&account["balance"], &account["nonce"]), (&"250".into(), &0.into()));

    // Signed without a node, sent later.
    let nonce = node.ask(&["account", "show", "--home", home_text]).unwrap()["nonce"].to_string();
    let file = folder.path().join("tx.json");
    let signed = ok(&["tx", "transfer", &to, "50", "--sign-only", "--nonce", &nonce, "--home", home_text]);
    fs::write(&file, signed.to_string()).unwrap();
    assert_eq!(node.ask(&["tx", "send", text(&file)]).expect("sent")["status"], "decided");
    assert_eq!(node.ask(&["account", "show", &to]).unwrap()["balance"], "300");
    let (code, answer, _) =
        run(&["tx", "transfer", &to, "1", "--home", home_text, "--rpc", &node.rpc, "--chain-id", "another"]);
    assert_eq!((code, &answer["error"]["field"]), (1, &"chain-id".into()));

    let height = node.height();
    assert_eq!(node.stop(), 0);
    let verified = ok(&["db", "verify", "--home", home_text]);
    assert!(verified["height"].as_u64().unwrap() >= height, "what was shown is on disk: {verified}");
    let node = Node::start(&home);
    node.wait("the same chain", |node| node.height() >= height);
    assert_eq!(node.ask(&["account", "show", &to]).unwrap()["balance"], "300");
    assert_eq!(node.stop(), 0);
}

#[test]
fn one_address_of_either_kind_is_enough_to_join() {
    let folder = tempfile::tempdir().unwrap();
    let first_home = folder.path().join("first");
    let made = ok(&["init", "--home", text(&first_home)]);
    let hash = made["genesis_hash"].as_str().unwrap();
    // Loopback addresses are only dialled in a testnet.
    let config = first_home.join("config.toml");
    let text_of = fs::read_to_string(&config).unwrap().replace("#testnet = false", "testnet = true");
    fs::write(&config, text_of).unwrap();
    let first = Node::start(&first_home);
    first.wait("blocks", |node| node.height() >= 2);
    let net = first.ask(&["status"]).unwrap();
    let p2p = net["net"]["listen"][0].as_str().unwrap().to_string();

    let wrong = "ab".repeat(32);
    let refused = folder.path().join("refused");
    let (code, answer, _) =
        run(&["init", "--home", text(&refused), "--bootstrap", &first.rpc, "--genesis-hash", &wrong]);
    assert_eq!((code, &answer["error"]["field"]), (1, &"genesis-hash".into()));
    assert!(!refused.exists(), "nothing is left of a refused init");

    for (name, address) in [("by-rpc", first.rpc.as_str()), ("by-p2p", p2p.as_str())] {
        let home = folder.path().join(name);
        let joined = ok(&["init", "--home", text(&home), "--bootstrap", address, "--genesis-hash", hash]);
        assert_eq!((&joined["genesis_hash"], &joined["validator"]), (&hash.into(), &false.into()), "{name}");
        let node = Node::start(&home);
        node.wait("a followed block", |node| node.height() >= 2);
        assert_eq!(node.stop(), 0, "{name}");
    }
    assert_eq!(first.stop(), 0);
}
