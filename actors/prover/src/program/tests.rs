//! Recognition of programs, and everything that is refused before a run.

use std::io::Write;

use serde_json::json;
use zip::write::SimpleFileOptions;

use super::*;
use crate::sample;

fn refused(bytes: &[u8]) -> ProgramError {
    match Program::load(bytes) {
        Ok(program) => panic!("accepted as {:?}", program.kind()),
        Err(error) => error,
    }
}

fn altered(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let mut value = serde_json::from_slice(&sample::fibonacci(3)).unwrap();
    change(&mut value);
    serde_json::to_vec(&value).unwrap()
}

fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn a_cairo0_program_is_recognised_with_its_words() {
    let program = Program::load(&sample::fibonacci(3)).unwrap();
    assert_eq!(program.kind(), ProgramKind::Cairo0);
    assert_eq!(program.builtins(), ["output"]);
    assert_eq!((program.main(), program.n_hints()), (0, 0));
    assert_eq!(program.words().len(), sample::fibonacci_words(3).len());
    let hashes =
        [HashFunction::Pedersen, HashFunction::Poseidon, HashFunction::Blake].map(|f| program.hash(f).unwrap());
    assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2]);
    let other = Program::load(&sample::fibonacci(4)).unwrap();
    assert_ne!(other.hash(HashFunction::Poseidon).unwrap(), hashes[1]);
}

#[test]
fn other_content_is_refused_with_what_would_be_accepted() {
    for (bytes, expected) in [
        (&b""[..], "empty"),
        (b"#!/bin/sh", "neither"),
        (b"[1, 2]", "neither"),
        (b"{}", "without data"),
        (br#"{"sierra_program": []}"#, "contract class"),
    ] {
        let text = refused(bytes).to_string();
        assert!(text.contains(expected) && text.contains("Cairo PIE"), "{text}");
    }
    assert!(matches!(refused(b"{\"data\": ["), ProgramError::Malformed { .. }));
    let huge = vec![b' '; limits::PROGRAM_BYTES_MAX + 1];
    assert!(matches!(refused(&huge), ProgramError::TooLarge { field: "program", .. }));
}

#[test]
fn cairo0_programs_that_cannot_run_as_a_task_are_refused() {
    let proof_mode = altered(|p| p["identifiers"]["__main__.__start__"] = json!({"pc": 0, "type": "label"}));
    assert!(refused(&proof_mode).to_string().contains("--proof_mode"));
    let no_main = altered(|p| p["identifiers"] = json!({}));
    assert!(matches!(refused(&no_main), ProgramError::Malformed { .. }));
    let outside = altered(|p| p["identifiers"]["__main__.main"]["pc"] = json!(10_000));
    assert!(matches!(refused(&outside), ProgramError::Malformed { field: "main", .. }));
    let order = altered(|p| p["builtins"] = json!(["range_check", "output"]));
    assert!(matches!(refused(&order), ProgramError::Malformed { field: "builtins", .. }));
    let unknown = altered(|p| p["builtins"] = json!(["segment_arena"]));
    assert!(matches!(refused(&unknown), ProgramError::Malformed { field: "builtins", .. }));
    let words = altered(|p| p["data"] = json!(vec!["0x1"; limits::PROGRAM_WORDS_MAX + 1]));
    assert!(matches!(refused(&words), ProgramError::TooLarge { field: "data", .. }));
    let prime = altered(|p| p["prime"] = json!("0x11"));
    assert!(matches!(refused(&prime), ProgramError::Malformed { .. }));
}

#[test]
fn a_hint_outside_the_list_refuses_the_program() {
    let words = sample::fibonacci_words(3);
    let hint = sample::SampleHint { at: 0, code: "import os\nos.remove('x')", variables: &[] };
    let bytes = sample::cairo0_json(&words, &["output"], &[hint]);
    assert_eq!(refused(&bytes), ProgramError::Hint { hint: "import os\nos.remove('x')".into() });
}

#[test]
fn zip_bombs_and_odd_archives_are_refused_before_they_are_parsed() {
    let zeros = vec![b' '; limits::PIE_JSON_BYTES_MAX + 1];
    let bomb = zip_of(&[("version.json", &zeros)]);
    assert!(bomb.len() < 1 << 20);
    assert!(matches!(refused(&bomb), ProgramError::TooLarge { field: "version.json", .. }));
    let names: Vec<String> = (0..=limits::PIE_ENTRIES_MAX).map(|i| i.to_string()).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    assert!(matches!(refused(&zip_of(&files)), ProgramError::TooLarge { field: "zip entries", .. }));
    assert!(matches!(refused(&zip_of(&[("other", b"x")])), ProgramError::Malformed { field: "version.json", .. }));
    assert!(matches!(refused(b"PK\x03\x04 and no archive"), ProgramError::Malformed { .. }));
}

#[test]
fn a_pie_whose_segments_span_too_much_is_refused() {
    let segment = |index: i64, size: usize| json!({"index": index, "size": size});
    let metadata = json!({
        "program": {"data": [1], "builtins": ["output"], "main": 0,
                    "prime": serde_json::Number::from_string_unchecked(
                        "3618502788666131213697322783095070105623107215331596699973092056135872020481".into())},
        "program_segment": segment(0, 1), "execution_segment": segment(1, 2), "ret_fp_segment": segment(3, 0),
        "ret_pc_segment": segment(4, 0), "builtin_segments": {"output": segment(2, 1)},
        "extra_segments": [segment(5, 1 << 40)],
    });
    let bytes =
        zip_of(&[("version.json", br#"{"cairo_pie": "1.1"}"#), ("metadata.json", metadata.to_string().as_bytes())]);
    assert!(matches!(refused(&bytes), ProgramError::TooLarge { field: "metadata.json segment sizes", .. }));
}

#[test]
fn a_loader_that_panics_is_a_malformed_file() {
    let mut file: serde_json::Value = serde_json::from_slice(&crate::sample::fibonacci(5)).unwrap();
    file["data"][0] = "0".into();
    let error = Program::load(&serde_json::to_vec(&file).unwrap()).unwrap_err();
    assert!(matches!(error, ProgramError::Malformed { .. }), "{error}");
    assert!(error.to_string().contains("its loader fails"), "{error}");
}
