//! The hint texts that the libraries know, read from the libraries themselves, so that a new one is noticed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use cairo_vm::hint_processor::builtin_hint_processor::hint_code::HINT_CODES;
use serde_json::Value;

/// Name and text.
pub(crate) type Codes = BTreeMap<String, String>;

/// The hints that the virtual machine implements.
pub(crate) fn of_machine() -> Codes {
    HINT_CODES.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

/// The hints that the runner library implements: bootloaders, verifiers, demonstration programs. They are private to it, so
/// its source is read.
pub(crate) fn of_runner_library() -> Codes {
    let source = package_folder("cairo-program-runner-lib").join("src/hints/codes.rs");
    let text = std::fs::read_to_string(&source).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
    let codes = constants(&text);
    assert_eq!(codes.len(), text.matches("pub const ").count(), "every constant of {} is read", source.display());
    codes
}

/// The hints in a compiled Cairo 0 program, named by their place.
pub(crate) fn of_program(path: &Path) -> Codes {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let program: Value = serde_json::from_slice(&bytes).unwrap();
    let hints = program["hints"].as_object().unwrap();
    let listed = hints.iter().flat_map(|(at, list)| list.as_array().unwrap().iter().map(move |hint| (at, hint)));
    let name = |(index, (at, hint)): (usize, (&String, &Value))| {
        (format!("word {at}, hint {index}"), hint["code"].as_str().unwrap().to_owned())
    };
    listed.enumerate().map(name).collect()
}

fn package_folder(name: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // For this platform alone: what others need was never fetched on a new machine.
    let platform = ["--filter-platform", "x86_64-unknown-linux-gnu"];
    let arguments = [&["metadata", "--format-version", "1", "--locked", "--offline"], platform.as_slice()].concat();
    let output = Command::new(cargo).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = metadata["packages"].as_array().unwrap().iter().find(|package| package["name"] == name);
    let manifest = found.and_then(|package| package["manifest_path"].as_str()).unwrap();
    Path::new(manifest).parent().unwrap().to_path_buf()
}

/// `pub const NAME: &str = "TEXT";` with the escapes `\"` and `\\`, text over several lines.
fn constants(source: &str) -> Codes {
    let mut codes = Codes::new();
    for part in source.split("pub const ").skip(1) {
        let (name, rest) = part.split_once(": &str =").unwrap();
        let literal = rest.trim_start().strip_prefix('"').unwrap_or_else(|| panic!("{name} is no plain literal"));
        let mut text = String::new();
        let mut letters = literal.chars();
        loop {
            match letters.next().unwrap() {
                '"' => break,
                '\\' => match letters.next().unwrap() {
                    escaped @ ('"' | '\\') => text.push(escaped),
                    other => panic!("{name}: the escape \\{other} is not known here"),
                },
                letter => text.push(letter),
            }
        }
        codes.insert(name.to_owned(), text);
    }
    codes
}

#[test]
fn literals_are_read_with_their_escapes() {
    let codes = constants("pub const A: &str = \"x \\\"y\\\" \\\\\nz\";\npub const B: &str =\n    \"b\";");
    assert_eq!(codes["A"], "x \"y\" \\\nz");
    assert_eq!(codes["B"], "b");
}
