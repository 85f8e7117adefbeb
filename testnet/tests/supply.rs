//! Rules for the crates of others: where they come from, under which licence, and which must not be there.
//!
//! Works on the list of `cargo tree` for this platform, which is exactly what is built. As with the house rules, each rule
//! is a function that is also run on bad input.

#![allow(clippy::expect_used, reason = "in a helper of a test, too, a failed expectation is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Licences that an Apache-2.0 program may link. MPL-2.0 asks for the sources of its own files only, which we leave as
/// they are.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "bzip2-1.0.6",
];

/// Crates whose manifests name a licence file only: name prefix, version, which licence the file holds.
const UNSTATED_LICENCES: &[(&str, &str, &str)] =
    &[("cairo-lang-", "2.21.0", "Apache-2.0"), ("cairo-lang-primitive-token", "1.0.0", "Apache-2.0")];

/// Crates that must not be in the graph, with the reason.
const BANNED: &[(&str, &str)] = &[
    ("native-tls", "a system library more to install"),
    ("openssl-sys", "a system library more to install"),
    ("libp2p-quic", "not a transport of the first version"),
];

/// Crates that must not be in the node's own graph: they would link libOpenCL into it, and it starts without one. The binary
/// `proofmesh-gpu` has them.
const NOT_IN_THE_NODE: &[&str] = &["cl-sys", "ocl", "ocl-core", "opencl"];

/// Crates of which one version only may be there, because types or global state of two would meet.
const SINGLE: &[&str] =
    &["cairo-air", "cairo-vm", "libp2p-core", "libp2p-gossipsub", "libp2p-swarm", "ractor", "stwo", "tokio"];

/// A licence expression by the rules of SPDX: `OR`, `AND`, `WITH`, parentheses; `/` is the old way to write `OR`.
struct Licence<'a> {
    tokens: Vec<&'a str>,
    at: usize,
    malformed: bool,
}

impl<'a> Licence<'a> {
    /// Whether the licences on the list satisfy the expression. An expression that does not parse is refused.
    fn allowed(expression: &str) -> bool {
        let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
        let mut parser = Licence { tokens: spaced.split_whitespace().collect(), at: 0, malformed: false };
        let allowed = parser.either();
        allowed && !parser.malformed && parser.at == parser.tokens.len()
    }

    fn next_is(&mut self, token: &str) -> bool {
        let found = self.tokens.get(self.at) == Some(&token);
        self.at += usize::from(found);
        found
    }

    fn either(&mut self) -> bool {
        let mut allowed = self.both();
        while self.next_is("OR") {
            allowed |= self.both();
        }
        allowed
    }

    fn both(&mut self) -> bool {
        let mut allowed = self.single();
        while self.next_is("AND") {
            allowed &= self.single();
        }
        allowed
    }

    fn single(&mut self) -> bool {
        if self.next_is("(") {
            let allowed = self.either();
            self.malformed |= !self.next_is(")");
            return allowed;
        }
        let Some(licence) = self.tokens.get(self.at).copied() else {
            self.malformed = true;
            return false;
        };
        self.at += 1;
        if self.next_is("WITH") {
            let exception = self.tokens.get(self.at).copied().unwrap_or_default();
            self.at += 1;
            return LICENCES.contains(&format!("{licence} WITH {exception}").as_str());
        }
        LICENCES.contains(&licence)
    }
}

/// The rules for the graph: lines of `NAME vVERSION (NOTE)|LICENCE`, where a note is a path, an origin or `proc-macro`.
fn check_graph(lines: &str, root: &str) -> Vec<String> {
    let mut violations = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in lines.lines().filter(|line| !line.is_empty()).collect::<BTreeSet<_>>() {
        let (package, licence) = line.split_once('|').unwrap_or((line, ""));
        let licence = licence.trim_end_matches(" (*)");
        let mut parts = package.split(' ');
        let (Some(name), Some(version)) = (parts.next(), parts.next().and_then(|version| version.strip_prefix('v')))
        else {
            violations.push(format!("{line:?} is no package line"));
            continue;
        };
        for note in parts.map(|note| note.trim_matches(['(', ')'])) {
            if note != "proc-macro" && !Path::new(note).starts_with(root) {
                violations.push(format!("{name} {version} comes from {note}, not from crates.io"));
            }
        }
        let unstated = |(prefix, at, _): &&(&str, &str, &str)| name.starts_with(prefix) && version == *at;
        let licence = match UNSTATED_LICENCES.iter().find(unstated) {
            Some((_, _, known)) if licence.is_empty() => known,
            _ => licence,
        };
        if !Licence::allowed(licence) {
            violations.push(format!("{name} {version} has the licence {licence:?}, which is not on the list"));
        }
        if let Some((_, reason)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            violations.push(format!("{name} {version} is banned: {reason}"));
        }
        versions.entry(name).or_default().insert(version);
    }
    for name in SINGLE {
        match versions.get(name).map_or(0, BTreeSet::len) {
            1 => {}
            0 => violations.push(format!("{name} is not there: this list is out of date")),
            _ => violations.push(format!("{name} is there in several versions: {:?}", versions[name])),
        }
    }
    violations
}

/// The rule for the node's graph: lines as above.
fn check_node(lines: &str) -> Vec<String> {
    let names: BTreeSet<&str> = lines.lines().filter_map(|line| line.split(' ').next()).collect();
    let found = NOT_IN_THE_NODE.iter().filter(|name| names.contains(**name));
    found
        .map(|name| format!("{name} would link libOpenCL into the node: it belongs into a binary of its own"))
        .collect()
}

fn root() -> &'static str {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().and_then(Path::to_str).expect("the workspace root")
}

/// The lines of `cargo tree` for some packages.
fn graph(packages: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--offline", "--prefix", "none", "--edges", "normal,build,dev"])
        .args(["--format", "{p}|{l}"])
        .args(packages)
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(lines.lines().count() > 100, "no graph was read");
    lines
}

#[test]
fn the_graph_follows_the_rules() {
    let violations = check_graph(&graph(&["--workspace"]), root());
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

#[test]
fn the_node_links_no_opencl() {
    assert_eq!(check_node(&graph(&["--package", "proofmesh"])), Vec::<String>::new());
    // The rule can fail: the binary for the devices breaks it.
    assert!(check_node(&graph(&["--package", "opencl"])).len() >= 3);
}

#[test]
fn licence_expressions_are_evaluated() {
    for (expression, expected) in [
        ("MIT", true),
        ("MIT/Apache-2.0", true),
        ("MIT OR GPL-3.0-only", true),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("GPL-3.0-only", false),
        ("MIT AND GPL-3.0-only", false),
        ("(MIT OR Apache-2.0) AND AGPL-3.0", false),
        ("MIT WITH Classpath-exception-2.0", false),
        ("MIT OR", false),
        ("(MIT", false),
        ("MIT Apache-2.0", false),
        ("none", false),
        ("", false),
    ] {
        assert_eq!(Licence::allowed(expression), expected, "{expression:?}");
    }
}

#[test]
fn a_bad_graph_is_found() {
    let mut good: Vec<String> = SINGLE.iter().map(|name| format!("{name} v1.0.0|MIT OR Apache-2.0")).collect();
    good.push("types v0.1.0 (/root/protocol/types)|Apache-2.0".to_owned());
    good.push("serde_derive v1.0.0 (proc-macro)|MIT (*)".to_owned());
    good.push("cairo-lang-casm v2.21.0|".to_owned());
    assert_eq!(check_graph(&good.join("\n"), "/root"), Vec::<String>::new());

    for (added, expected) in [
        ("a v1.0.0 (https://example.org/a#0123)|MIT", "not from crates.io"),
        ("a v1.0.0 (/elsewhere/a)|MIT", "not from crates.io"),
        ("a v1.0.0|GPL-3.0-only", "not on the list"),
        ("a v1.0.0|", "not on the list"),
        ("cairo-lang-casm v2.22.0|", "not on the list"),
        ("openssl-sys v0.9.0|MIT", "banned"),
        ("stwo v2.4.0|Apache-2.0", "several versions"),
        ("something else|MIT", "no package line"),
    ] {
        let violations = check_graph(&format!("{}\n{added}", good.join("\n")), "/root");
        assert_eq!(violations.len(), 1, "{added}: {violations:?}");
        assert!(violations[0].contains(expected), "{violations:?} lacks {expected:?}");
    }
    assert!(check_graph(&good[1..].join("\n"), "/root").iter().any(|violation| violation.contains("not there")));
}
