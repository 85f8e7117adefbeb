//! House rules that no compiler checks: which crate may depend on which, and what a source file may look like.
//!
//! Every rule is a function from text or cargo metadata to a list of violations; it is run on the checkout and, in a test
//! of its own, on bad input, so that a rule that stopped finding anything is noticed. Relies on `cargo metadata` and on
//! the folder layout below the workspace root.

#![allow(clippy::expect_used, reason = "in a helper of a test, too, a failed expectation is a failed test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// Longest source file, in lines.
const LINES_MAX: usize = 800;

/// Which of our crates a crate may name in its normal dependencies.
const LAYERS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("consensus", &["types"]),
    ("ledger", &["types"]),
    ("proof", &["types"]),
    ("storage", &["types"]),
    ("network", &["types"]),
    ("composition", &[]),
    ("prover", &["types", "proof", "composition"]),
    ("opencl", &["types", "proof", "composition", "prover"]),
    ("engine", &["types", "consensus", "ledger", "proof", "storage", "network", "prover"]),
    ("proofmesh", &["types", "consensus", "ledger", "proof", "storage", "network", "prover", "engine"]),
    ("testnet", &["types", "consensus", "ledger", "proof", "storage", "network", "prover", "engine", "proofmesh"]),
];

/// Crates of others that only the named crates of ours may name (a trailing `*` stands for any ending).
const RESERVED: &[(&str, &[&str])] = &[
    // `ledger` for one type: what the tree crate's reader trait returns.
    ("anyhow", &["ledger", "proofmesh", "testnet"]),
    ("axum", &["proofmesh"]),
    ("cairo-program-runner-lib", &["prover"]),
    ("cairo-vm", &["prover"]),
    ("clap", &["opencl", "proofmesh", "testnet"]),
    ("getrandom", &["network", "engine", "proofmesh", "testnet"]),
    ("jsonrpsee*", &["proofmesh"]),
    ("soketto", &["proofmesh"]),
    ("landlock", &["prover"]),
    ("libp2p*", &["network"]),
    ("ocl", &["opencl"]),
    ("ractor", &["engine"]),
    // In opencl for the inputs of its self-test, which is in the binary, and for the threads that fill its upload buffers.
    ("rand*", &["opencl", "testnet"]),
    ("rayon", &["composition", "opencl", "prover"]),
    ("rocksdb", &["storage"]),
    ("seccompiler", &["prover"]),
    ("stwo-cairo-adapter", &["prover"]),
    ("stwo-cairo-prover", &["prover"]),
    ("tokio*", &["network", "prover", "engine", "proofmesh", "testnet"]),
];

/// Features that make a verifier a prover.
const PROVER_FEATURES: &[&str] = &["prover", "parallel"];
/// Crates that may ask for them.
const PROVERS: &[&str] = &["composition", "opencl", "prover"];

/// What may not be named in `protocol/` outside tests: paths below `std`.
const PROTOCOL_STD: &[&str] = &["env", "fs", "net", "process", "thread"];
/// What may not be named in `protocol/` outside tests: words.
const PROTOCOL_WORDS: &[&str] = &["Instant", "SystemTime"];

/// Marks of unfinished work, split so that this file is not an example of them.
const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
/// Places outside the repository that nothing in it may refer to.
const OUTSIDE: &[&str] = &[concat!("/wor", "k/"), concat!("shar", "ed/"), concat!("DESIGN", ".md")];

/// Endings of the text files that the source rules read.
const TEXT_ENDINGS: &[&str] = &["rs", "sh", "py", "toml", "cairo", "md"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace root").to_path_buf()
}

/// All text files of ours: without hidden and target folders and without what set-up fetches.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a UTF-8 name").to_owned();
        if path.is_dir() {
            let fetched = name == "src" && folder.parent().is_some_and(|parent| parent.ends_with("patches"));
            if !(name.starts_with('.') || name == "target" || fetched) {
                sources(&path, found);
            }
        } else if TEXT_ENDINGS.iter().any(|ending| path.extension().is_some_and(|found| found == *ending)) {
            found.push(path);
        }
    }
}

/// The words of Rust code: identifiers in order, everything else dropped.
fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// Rust code without line comments and without the inline test module, which stands at the end of a file.
fn without_comments_and_tests(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let starts_module = |next: &&str| next.starts_with("mod ") && next.ends_with('{');
        if line == "#[cfg(test)]" && lines.peek().is_some_and(starts_module) {
            break;
        }
        code.push_str(line.split("//").next().unwrap_or_default());
        code.push('\n');
    }
    code
}

/// Names below `std` in the code, also inside `std::{a, b::c}`: the first segment of each path.
fn std_modules(code: &str) -> Vec<String> {
    let dense: String = code.chars().filter(|c| !c.is_whitespace()).collect();
    let mut modules = Vec::new();
    for (at, _) in dense.match_indices("std::") {
        let preceded = dense[..at].chars().next_back().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        // White space is gone, so `use std::` reads `usestd::`.
        if preceded && !dense[..at].ends_with("use") {
            continue;
        }
        let rest = &dense[at + "std::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0_usize;
            let mut segment = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => modules.push(std::mem::take(&mut segment)),
                    c if depth == 0 => segment.push(c),
                    _ => {}
                }
            }
            modules.push(segment);
        } else {
            modules.push(rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect());
        }
    }
    modules.iter().filter_map(|module| words(module).next()).map(str::to_owned).collect()
}

/// The rules for one text file, `path` being relative to the workspace root.
fn check_text(path: &str, text: &str) -> Vec<String> {
    let mut violations = Vec::new();
    let is_rust = path.ends_with(".rs");
    if is_rust && !text.starts_with("//!") {
        violations.push(format!("{path}: starts without //! (what it owns, what it relies on)"));
    }
    let lines = text.lines().count();
    if is_rust && lines > LINES_MAX {
        violations.push(format!("{path}: {lines} lines, the limit is {LINES_MAX}: split it by what it owns"));
    }
    for (number, line) in text.lines().enumerate() {
        let place = format!("{path}:{}", number + 1);
        if !path.ends_with(".md")
            && let Some(character) = line.chars().find(|c| !c.is_ascii())
        {
            violations.push(format!("{place}: {character:?} is not ASCII"));
        }
        for mark in UNFINISHED.iter().filter(|mark| words(line).any(|word| word == **mark)) {
            violations.push(format!("{place}: {mark}: finish it or leave it out"));
        }
        for outside in OUTSIDE.iter().filter(|outside| line.contains(**outside)) {
            violations.push(format!("{place}: {outside} is not in this repository"));
        }
    }
    let in_tests = path.contains("/tests/") || path.ends_with("/tests.rs");
    if is_rust && path.starts_with("protocol/") && !in_tests {
        let code = without_comments_and_tests(text);
        for module in std_modules(&code).iter().filter(|module| PROTOCOL_STD.contains(&module.as_str())) {
            violations.push(format!("{path}: std::{module} in protocol/: no clock, thread, file or socket there"));
        }
        for word in PROTOCOL_WORDS.iter().filter(|banned| words(&code).any(|word| word == **banned)) {
            violations.push(format!("{path}: {word} in protocol/: time is an argument"));
        }
    }
    violations
}

fn matches_pattern(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(name == pattern, |start| name.starts_with(start))
}

/// The rules for the manifests, on the output of `cargo metadata --no-deps`.
fn check_manifests(metadata: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, layer)) = LAYERS.iter().find(|(known, _)| *known == name) else {
            violations.push(format!("{name}: a crate without a layer: add it to the table, or make it a module"));
            continue;
        };
        if package["license"] != json!("Apache-2.0") {
            violations.push(format!("{name}: the licence is {}, not Apache-2.0", package["license"]));
        }
        if package["publish"] != json!([]) {
            violations.push(format!("{name}: publish = false is missing"));
        }
        let dependencies = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
        for dependency in dependencies.iter().filter(|dependency| dependency["kind"].is_null()) {
            let used = dependency["name"].as_str().unwrap_or_default();
            if LAYERS.iter().any(|(ours, _)| *ours == used) && !layer.contains(&used) {
                violations.push(format!("{name} depends on {used}: its layer allows {layer:?}"));
            }
            for (pattern, allowed) in RESERVED {
                if matches_pattern(pattern, used) && !allowed.contains(&name) {
                    violations.push(format!("{name} depends on {used}: allowed in {allowed:?} only"));
                }
            }
            let features = dependency["features"].as_array().map(Vec::as_slice).unwrap_or_default();
            for feature in features.iter().filter_map(Value::as_str) {
                if !PROVERS.contains(&name) && used.starts_with("stwo") && PROVER_FEATURES.contains(&feature) {
                    violations.push(format!("{name} asks {used} for the feature {feature}: only {PROVERS:?} may"));
                }
            }
        }
    }
    for (layer, _) in LAYERS {
        if !packages.iter().any(|package| package["name"] == json!(layer)) {
            violations.push(format!("{layer}: in the layer table but not in the workspace"));
        }
    }
    violations
}

fn report(violations: &[String]) {
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

#[test]
fn sources_follow_the_rules() {
    let root = root();
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    paths.sort();
    let rust = paths.iter().filter(|path| path.extension().is_some_and(|ending| ending == "rs")).count();
    assert!(rust >= LAYERS.len(), "only {rust} Rust files found: the walk is broken");
    let mut violations = Vec::new();
    for path in paths {
        let name = path.strip_prefix(&root).expect("below the root").to_str().expect("a UTF-8 path").to_owned();
        match std::fs::read_to_string(&path) {
            Ok(text) => violations.extend(check_text(&name, &text)),
            Err(error) => violations.push(format!("{name}: {error}")),
        }
    }
    report(&violations);
}

#[test]
fn manifests_follow_the_rules() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    report(&check_manifests(&serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")));
}

#[test]
fn a_bad_source_is_found() {
    let unfinished = UNFINISHED[0];
    let outside = format!("//! A header.\n// see {}notes", OUTSIDE[0]);
    let long = format!("//! A header.\n{}", "\n".repeat(LINES_MAX));
    for (path, text, expected) in [
        ("node/src/main.rs", "fn main() {}\n", "starts without //!"),
        ("node/src/main.rs", long.as_str(), "801 lines"),
        ("node/src/main.rs", "//! A header.\n// \u{2013}\n", ":2: '\u{2013}' is not ASCII"),
        ("scripts/run.sh", &format!("# {unfinished}: later"), "finish it"),
        ("README.md", &outside, "is not in this repository"),
        ("protocol/types/src/a.rs", "//! A header.\nuse std::fs;\n", "std::fs in protocol/"),
        ("protocol/types/src/a.rs", "//! A header.\nuse std::{io::{Read, Write}, net::{IpAddr}};\n", "std::net"),
        ("protocol/types/src/a.rs", "//! A header.\nfn f() { std :: thread\n::spawn(f); }\n", "std::thread"),
        ("protocol/types/src/a.rs", "//! A header.\nuse std::time::{Duration, Instant};\n", "Instant in protocol/"),
        ("protocol/types/src/a.rs", "//! A header.\nlet t = time::SystemTime::now();\n", "SystemTime in protocol/"),
    ] {
        let violations = check_text(path, text);
        assert_eq!(violations.len(), 1, "{path} with {text:?}: {violations:?}");
        assert!(violations[0].contains(expected), "{violations:?} lacks {expected:?}");
    }
}

#[test]
fn a_good_source_is_left_alone() {
    let tests = "//! A header.\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
    for (path, text) in [
        ("protocol/types/src/a.rs", "//! No std::fs here.\nuse std::{collections::BTreeMap, time::Duration};\n"),
        ("protocol/types/src/a.rs", tests),
        ("protocol/types/tests/a.rs", "//! A header.\nuse std::fs;\n"),
        ("storage/src/a.rs", "//! A header.\nuse std::fs;\nuse std::time::Instant;\n"),
        ("README.md", "submitted \u{2192} certified"),
    ] {
        assert_eq!(check_text(path, text), Vec::<String>::new(), "{path} with {text:?}");
    }
}

/// A workspace in which every crate of the table is in order.
fn good_metadata() -> Value {
    let package = |name: &str, ours: &[&str]| {
        let dependencies: Vec<Value> =
            ours.iter().map(|name| json!({"name": name, "kind": null, "features": []})).collect();
        json!({"name": name, "license": "Apache-2.0", "publish": [], "dependencies": dependencies})
    };
    json!({"packages": LAYERS.iter().map(|(name, ours)| package(name, ours)).collect::<Vec<_>>()})
}

#[test]
fn a_bad_manifest_is_found() {
    assert_eq!(check_manifests(&good_metadata()), Vec::<String>::new());

    let dependency = |name: &str| json!({"name": name, "kind": null, "features": []});
    let prover_feature = json!({"name": "stwo", "kind": null, "features": ["std", "prover"]});
    for (package, added, expected) in [
        ("types", dependency("consensus"), "types depends on consensus"),
        ("consensus", dependency("ledger"), "consensus depends on ledger"),
        ("network", dependency("storage"), "network depends on storage"),
        ("consensus", dependency("tokio"), "consensus depends on tokio"),
        ("proof", dependency("rayon"), "proof depends on rayon"),
        ("ledger", dependency("rand_chacha"), "ledger depends on rand_chacha"),
        ("ledger", dependency("rocksdb"), "ledger depends on rocksdb"),
        ("storage", dependency("libp2p-gossipsub"), "storage depends on libp2p-gossipsub"),
        ("prover", dependency("ractor"), "prover depends on ractor"),
        ("engine", dependency("anyhow"), "engine depends on anyhow"),
        ("proof", prover_feature, "proof asks stwo for the feature prover"),
    ] {
        let mut metadata = good_metadata();
        let packages = metadata["packages"].as_array_mut().expect("packages");
        let entry = packages.iter_mut().find(|entry| entry["name"] == json!(package)).expect("the package");
        entry["dependencies"].as_array_mut().expect("dependencies").push(added.clone());
        let violations = check_manifests(&metadata);
        assert_eq!(violations.len(), 1, "{package} with {added}: {violations:?}");
        assert!(violations[0].contains(expected), "{violations:?} lacks {expected:?}");

        // The same crate as a development dependency is nobody's business.
        let packages = metadata["packages"].as_array_mut().expect("packages");
        let entry = packages.iter_mut().find(|entry| entry["name"] == json!(package)).expect("the package");
        let last = entry["dependencies"].as_array_mut().and_then(|list| list.last_mut()).expect("the dependency");
        last["kind"] = json!("dev");
        assert_eq!(check_manifests(&metadata), Vec::<String>::new(), "{package} with {added} for tests");
    }

    for (field, value, expected) in [
        ("license", json!("MIT"), "not Apache-2.0"),
        ("publish", Value::Null, "publish = false"),
        ("name", json!("helpers"), "without a layer"),
    ] {
        let mut metadata = good_metadata();
        metadata["packages"][0][field] = value;
        let violations = check_manifests(&metadata);
        assert!(violations.iter().any(|violation| violation.contains(expected)), "{violations:?} lacks {expected:?}");
    }
}
