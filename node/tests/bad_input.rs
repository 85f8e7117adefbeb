//! Bad files, options and settings, refused by the binary alone: each names field, value, limit and remedy, has its exit
//! code, and leaves what was there as it was.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{Refused, copy, ok, refused, refused_with, run, text};
use serde_json::{Value, json};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testnet/programs").join(name)
}

fn home(folder: &Path) -> PathBuf {
    let home = folder.join("home");
    ok(&["init", "--home", text(&home)]);
    home
}

fn file(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn files_that_are_no_program_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(folder.path());
    let fibonacci = fs::read(example("fibonacci/fibonacci.json")).unwrap();
    let mut hint: Value = serde_json::from_slice(&fibonacci).unwrap();
    let (_, list) = hint["hints"].as_object_mut().unwrap().iter_mut().next().unwrap();
    list[0]["code"] = json!("import os\nos.remove('x')");
    let huge = file(folder.path(), "huge.json", b"");
    fs::File::options().write(true).open(&huge).unwrap().set_len(100 << 20).unwrap();
    let zip = fs::read(example("merkle-pie/merkle.pie.zip")).unwrap();
    let kept = file(folder.path(), "kept.bin", b"an earlier proof");
    for (name, content, field, value, limit) in [
        ("text.txt", b"hello".to_vec(), "program", "neither a JSON object nor a zip", "Cairo PIE"),
        ("empty.json", vec![], "program", "empty", "Cairo PIE"),
        ("contract.json", br#"{"sierra_program": []}"#.to_vec(), "program", "contract class", "Cairo 1 executable"),
        ("cut.json", fibonacci[..700].to_vec(), "program", "EOF", "whole file"),
        ("cut.zip", zip[..zip.len() / 2].to_vec(), "program", "zip", "whole file"),
        ("hint.json", hint.to_string().into_bytes(), "hints", "import os", "HINTS.md"),
    ] {
        let path = file(folder.path(), name, &content);
        for command in [
            vec!["job", "submit", text(&path), "--home", text(&home)],
            vec!["prove", text(&path), "--output", text(&kept)],
        ] {
            let refusal = refused(&command);
            assert_eq!((refusal.exit, refusal.code.as_str(), refusal.field.as_str()), (2, "usage", field), "{name}");
            assert!(refusal.value.contains(value), "{name}: {refusal:?}");
            assert!(refusal.limit.contains(limit), "{name}: {refusal:?}");
        }
    }
    for command in [vec!["job", "submit"], vec!["prove", "--output", text(&kept)]] {
        let refusal = refused(&[command.as_slice(), &[text(&huge), "--home", text(&home)]].concat());
        assert_eq!((refusal.exit, refusal.code.as_str(), refusal.field.as_str()), (2, "too_large", "program"));
        assert_eq!(refusal.limit, "33554432 bytes");
        let none = folder.path().join("none.json");
        let refusal = refused(&[command.as_slice(), &[text(&none), "--home", text(&home)]].concat());
        assert_eq!((refusal.exit, refusal.code.as_str(), refusal.field.as_str()), (2, "io", "program"));
    }
    assert_eq!(fs::read(&kept).unwrap(), b"an earlier proof", "a refused program replaces nothing");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("tmp")), "{left:?}");
}

#[test]
fn arguments_of_the_wrong_form_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(folder.path());
    let (cairo0, cairo1) = (example("fibonacci/fibonacci.json"), example("polynomial/polynomial.executable.json"));
    let pie = example("merkle-pie/merkle.pie.zip");
    let secret = file(folder.path(), "secret.txt", b"a password");
    for (program, args, value) in [
        (&cairo0, r#"{"n": "#, r#"{"n":"#),
        (&cairo0, "[1, 2]", "JSON object"),
        (&cairo1, r#"{"n": 5}"#, "JSON list"),
        (&cairo1, r#"["x"]"#, "\"x\""),
        (&cairo1, "[1.5]", "1.5"),
        (&cairo1, "[[1]]", "[1]"),
        (
            &cairo1,
            r#"["0x800000000000011000000000000000000000000000000000000000000000001"]"#,
            "no integer of the Stark field",
        ),
        (&pie, "[1]", "takes none"),
        (&cairo0, "no-such-file", "no-such-file"),
        (&cairo0, text(&secret), "10 bytes"),
    ] {
        let refusal = refused(&["job", "submit", text(program), "--args", args, "--home", text(&home)]);
        assert_eq!((refusal.exit, refusal.field.as_str()), (2, "args"), "{args}: {refusal:?}");
        assert!(refusal.value.contains(value), "{args}: {refusal:?}");
        assert!(refusal.limit.contains("JSON"), "{args}: {refusal:?}");
        assert!(!format!("{refusal:?}").contains("password"), "what a named file holds is not shown: {refusal:?}");
    }
}

#[test]
fn options_that_are_none_are_refused_before_anything_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(folder.path());
    let program = example("fibonacci/fibonacci.json");
    let (id, not_tx) = ("ab".repeat(32), file(folder.path(), "tx.txt", b"hello"));
    let submit = ["job", "submit", text(&program), "--args", r#"{"n": 5}"#];
    let with = |more: &[&'static str]| [submit.as_slice(), more].concat();
    for (command, field, value) in [
        (with(&["--max-fee", "-5"]), "max-fee", "-5"),
        (with(&["--max-fee=-5"]), "max-fee", "-5"),
        (with(&["--max-fee", "1.5"]), "max-fee", "1.5"),
        (with(&["--max-fee", "340282366920938463463374607431768211456"]), "max-fee", "340282"),
        (with(&["--expect-output-prefix", "-1"]), "expect-output-prefix", "-1"),
        (with(&["--expect-output-prefix", "1,x"]), "expect-output-prefix", "x"),
        (with(&["--expires-s", "0"]), "expires-s", "0"),
        (with(&["--rpc", "http://127.0.0.1:99999"]), "rpc", "99999"),
        (with(&["--rpc", "https://127.0.0.1:5"]), "rpc", "https"),
        (vec!["job", "status", "xyz"], "job_id", "xyz"),
        (vec!["job", "cancel", "AB"], "job_id", "AB"),
        (vec!["tx", "transfer", "abc", "5"], "public_key", "abc"),
        (vec!["tx", "transfer", &id, "-5"], "amount", "-5"),
        (vec!["tx", "transfer", &id, "1", "--expires-s", "90000"], "expires-s", "90000"),
        (vec!["tx", "send", text(&not_tx)], "tx", "tx.txt"),
    ] {
        let refusal = refused(&[command.as_slice(), &["--home", text(&home)]].concat());
        assert_eq!((refusal.exit, refusal.field.as_str()), (2, field), "{command:?}: {refusal:?}");
        assert!(refusal.value.contains(value), "{command:?}: {refusal:?}");
    }
    let unreachable = refused(&["status", "--rpc", &format!("http://127.0.0.1:{}", common::free_port())]);
    assert_eq!((unreachable.exit, unreachable.code.as_str()), (1, "unreachable"));
    assert!(unreachable.remedy.contains("--rpc"));
}

#[test]
fn settings_that_are_none_are_refused_wherever_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(folder.path());
    let config = home.join("config.toml");
    let good = fs::read_to_string(&config).unwrap();
    for (content, field, value) in [
        ("[rpc]\nlisen = \"127.0.0.1:1\"\n", "rpc.lisen", "rpc.lisen"),
        ("[rcp]\nlisten = \"127.0.0.1:1\"\n", "rcp.listen", "rcp.listen"),
        ("[rpc]\nrate_per_s = \"fast\"\n", "rpc.rate_per_s", "fast"),
        ("[rpc]\nrate_per_s = -1\n", "rpc.rate_per_s", "-1"),
        ("[rpc]\nconnections_max = 7\n", "rpc.connections_max", "7"),
        ("[rpc]\nlisten = \"localhost\"\n", "rpc.listen", "localhost"),
        ("[p2p]\nlisten = [\"/ip4/1.2.3.4/tcp/x\"]\n", "p2p.listen", "/ip4/1.2.3.4/tcp/x"),
        ("[log]\nformat = \"xml\"\n", "log.format", "xml"),
        ("[prover]\nbackend = \"cuda\"\n", "prover.backend", "cuda"),
        ("[prover]\ndevices = [\" \"]\n", "prover.devices", " "),
        ("[prover]\ndevices = [\"0\"]\nexclude = [\"0\"]\n", "prover.exclude", "0"),
        ("[rpc\n", "config", "config.toml"),
    ] {
        fs::write(&config, content).unwrap();
        for command in [["config", "check"].as_slice(), &["start"]] {
            let refusal = refused(&[command, &["--home", text(&home)]].concat());
            assert_eq!((refusal.exit, refusal.field.as_str()), (3, field), "{content}: {refusal:?}");
            assert!(refusal.value.contains(value), "{content}: {refusal:?}");
            assert!(refusal.message.contains("config.toml"), "the place is named: {refusal:?}");
        }
    }
    fs::write(&config, [0xff, 0xfe]).unwrap();
    assert_eq!(refused(&["start", "--home", text(&home)]).exit, 3);
    fs::write(&config, &good).unwrap();
    for (name, content, field) in [
        ("PROOFMESH_RPC__LISEN", "127.0.0.1:1", "rpc.lisen"),
        ("PROOFMESH_RPC__RATE_PER_S", "many", "rpc.rate_per_s"),
        ("PROOFMESH_RPC__LISTEN", "nowhere", "rpc.listen"),
        ("PROOFMESH_NODE__VALIDATOR", "perhaps", "node.validator"),
        ("PROOFMESH_PROVER__BACKEND", "gpu", "prover.backend"),
        ("PROOFMESH_STORAGE__BLOB_BUDGET_MIB", "1", "storage.blob_budget_mib"),
    ] {
        let refusal = refused_with(&["start", "--home", text(&home)], &[(name, content)]);
        assert_eq!((refusal.exit, refusal.field.as_str()), (3, field), "{name}: {refusal:?}");
        assert!(refusal.message.contains(name), "the variable is named: {refusal:?}");
    }
    let refusal = refused(&["start", "--home", text(&home), "--prover-backend", "metal"]);
    assert_eq!((refusal.exit, refusal.field.as_str(), refusal.value.as_str()), (3, "prover.backend", "metal"));
    assert!(refusal.limit.contains("opencl") && refusal.message.contains("flag"), "{refusal:?}");
    let none = folder.path().join("none");
    let refusal = refused_no_limit(&["start", "--home", text(&none)]);
    assert_eq!((refusal["exit"].as_i64(), refusal["field"].as_str()), (Some(3), Some("home")));
    assert!(refusal["remedy"].as_str().unwrap().contains("proofmesh init"));
    assert_eq!(fs::read_to_string(&config).unwrap(), good);
}

/// A refusal about a thing that has no limit.
fn refused_no_limit(arguments: &[&str]) -> Value {
    run(arguments).1["error"].clone()
}

#[test]
fn keys_that_others_could_read_or_that_are_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(folder.path());
    let both = |change: &dyn Fn(&Path)| -> Vec<Refused> {
        let copied = folder.path().join("copied");
        copy(&home, &copied);
        change(&copied.join("keys"));
        let commands = [["config", "check"].as_slice(), &["start"]];
        let refusals = commands.map(|command| refused(&[command, &["--home", text(&copied)]].concat()));
        fs::remove_dir_all(&copied).unwrap();
        refusals.into()
    };
    let mode = |path: PathBuf, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for name in ["node.key", "consensus.key", "account.key"] {
        for refusal in both(&|keys| mode(keys.join(name), 0o644)) {
            assert_eq!((refusal.exit, refusal.code.as_str(), refusal.value.as_str()), (3, "key_mode", "0644"));
            assert!(refusal.limit == "0600" && refusal.remedy.contains("chmod 600"), "{refusal:?}");
        }
        for refusal in both(&|keys| fs::remove_file(keys.join(name)).unwrap()) {
            assert_eq!((refusal.exit, refusal.field.as_str()), (3, "key"), "{refusal:?}");
            assert!(refusal.value.ends_with(name), "{refusal:?}");
        }
        let almost = "ABCDEF".repeat(10);
        for refusal in both(&|keys| fs::write(keys.join(name), &almost).unwrap()) {
            assert_eq!((refusal.exit, refusal.limit.as_str()), (3, "64 lower-case hex digits"), "{refusal:?}");
            assert!(!format!("{refusal:?}").contains("ABCDEF"), "a key's content is never shown: {refusal:?}");
        }
    }
    for refusal in both(&|keys| mode(keys.to_path_buf(), 0o755)) {
        assert_eq!((refusal.exit, refusal.code.as_str(), refusal.value.as_str()), (3, "key_mode", "0755"));
        assert!(refusal.limit == "0700" && refusal.remedy.contains("chmod 700"), "{refusal:?}");
    }
    for refusal in both(&|keys| fs::remove_dir_all(keys).unwrap()) {
        assert_eq!((refusal.exit, refusal.field.as_str()), (3, "keys"), "{refusal:?}");
    }
    let kept = home.join("keys/account.key");
    let refusal = run(&["keys", "generate", "--out", text(&kept)]).1;
    assert_eq!(refusal["error"]["code"], "exists", "a key is never overwritten");
}

#[test]
fn documents_that_no_chain_can_start_from_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(folder.path());
    let path = home.join("genesis.json");
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    type Change = fn(&mut Value);
    let cases: [(&str, &str, Change); 11] = [
        ("validators.key", "", |g| {
            let again = g["validators"][0].clone();
            g["validators"].as_array_mut().unwrap().push(again);
        }),
        ("validators.power", "0", |g| g["validators"][0]["power"] = json!(0)),
        ("validators.power", "9007199254740993", |g| g["validators"][0]["power"] = json!((1u64 << 53) + 1)),
        ("validators", "0", |g| g["validators"] = json!([])),
        ("accounts (sum of credits)", "2^120", |g| {
            g["accounts"][0]["balance"] = json!("1329227995784915872903807060280344576");
        }),
        ("accounts.account", "", |g| {
            let again = g["accounts"][0].clone();
            g["accounts"].as_array_mut().unwrap().push(again);
        }),
        ("provers.account", "", |g| {
            let again = g["provers"][0].clone();
            g["provers"].as_array_mut().unwrap().push(again);
        }),
        ("provers.weight", "0", |g| g["provers"][0]["weight"] = json!(0)),
        ("chain_id", "My Chain", |g| g["chain_id"] = json!("My Chain")),
        ("params.block_ms", "60001", |g| g["params"]["block_ms"] = json!(60_001)),
        ("genesis", "json", |g| g["surprise"] = json!(1)),
    ];
    let other = folder.path().join("other");
    let receipt = file(folder.path(), "receipt.bin", b"no receipt");
    for (field, value, change) in cases {
        let mut document = good.clone();
        change(&mut document);
        let bad = file(folder.path(), "bad.json", document.to_string().as_bytes());
        fs::write(&path, document.to_string()).unwrap();
        for (command, exit) in [
            (vec!["start", "--home", text(&home)], 3),
            (vec!["config", "check", "--home", text(&home)], 3),
            (vec!["init", "--home", text(&other), "--genesis", text(&bad)], 2),
            (vec!["verify", text(&receipt), "--genesis", text(&bad)], 2),
        ] {
            let refusal = refused(&command);
            assert_eq!((refusal.exit, refusal.field.as_str()), (exit, field), "{command:?}: {refusal:?}");
            assert!(refusal.value.contains(value), "{refusal:?}");
        }
        assert!(!other.exists(), "nothing is left of a refused init");
    }
    for content in [b"{".as_slice(), b"", b"[]", b"\xff\xfe"] {
        fs::write(&path, content).unwrap();
        let refusal = refused(&["start", "--home", text(&home)]);
        assert_eq!((refusal.exit, refusal.code.as_str(), refusal.field.as_str()), (3, "invalid", "genesis"));
    }
    fs::remove_file(&path).unwrap();
    let refusal = refused(&["start", "--home", text(&home)]);
    assert_eq!((refusal.exit, refusal.field.as_str()), (3, "genesis"));
}

#[test]
fn bytes_that_are_no_receipt_fail_by_the_name_of_the_check() {
    let folder = tempfile::tempdir().unwrap();
    let genesis = home(folder.path()).join("genesis.json");
    let version = |rest: &[u8]| [&[1u8, 0], rest].concat();
    for (name, content) in [
        ("empty", vec![]),
        ("one byte", vec![1]),
        ("text", b"no receipt".to_vec()),
        ("version", vec![9, 0]),
        ("zeros", vec![0; 4096]),
        ("ones", vec![0xff; 4096]),
        ("head only", version(&[])),
        ("zeros behind the head", version(&[0; 70_000])),
        ("lengths without end", version(&[0xff; 70_000])),
        ("too long", vec![1; (32 << 20) + 1]),
    ] {
        let receipt = file(folder.path(), "receipt.bin", &content);
        let (exit, answer, errors) = run(&["verify", text(&receipt), "--genesis", text(&genesis)]);
        assert_eq!((exit, &answer["valid"]), (1, &json!(false)), "{name}: {answer} {errors}");
        let check = answer["failed_check"].as_str().unwrap();
        assert!(["format", "chain"].contains(&check), "{name}: {answer}");
        assert!(answer["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{name}: {answer}");
        assert!(errors.is_empty(), "{name}: {errors}");
        let exported = folder.path().join("proof.bin");
        let export = ["receipt", "export", text(&receipt), "--format", "stwo-binary", "--output", text(&exported)];
        assert_eq!(run(&export).0, 1, "{name}");
        assert!(!exported.exists(), "{name}: nothing is written for a receipt that is none");
    }
}
