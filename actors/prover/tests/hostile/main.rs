//! Hostile programs in real, sandboxed children: each is refused or contained with its reason, and no file is touched.
//!
//! The children are this same test binary, told to run [`child_entry`], as a node's children are the node's own binary.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod codes;
mod folder;
mod hints;
mod programs;

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use prover::worker::{self, Event, JobError, Kind, Worker, WorkerConfig};
use prover::{ExecuteRequest, Executed, Fault, ProveRequest, limits, local_statement, sample};
use types::job::HashFunction;
use types::keys::PublicKey;
use types::verdict::FailureReason;

use folder::Guarded;

const ROLE: &str = "PROOFMESH_TEST_ROLE";
/// Longest wait for a child on a machine that does other things, too.
const LONG: Duration = Duration::from_secs(240);
/// Memory of a child, bytes.
const MEMORY: u64 = 2 << 30;

/// The children of the tests are this same test binary, told to run this one test.
#[test]
fn child_entry() {
    if std::env::var(ROLE).as_deref() == Ok("worker") {
        let kind = std::env::args().rev().find_map(|argument| Kind::from_name(&argument)).unwrap();
        worker::main(kind);
    }
}

fn config(guarded: &Guarded) -> WorkerConfig {
    let mut config = WorkerConfig::new(guarded.scratch(), MEMORY);
    config.arguments = ["child_entry", "--exact", "--nocapture", "--test-threads=1"].map(OsString::from).into();
    config.environment = vec![(ROLE.into(), "worker".into())];
    config
}

fn request(program: Vec<u8>, args: Option<String>, max_steps: u64) -> ExecuteRequest {
    ExecuteRequest { program, args: args.map(String::into_bytes), hash_function: HashFunction::Poseidon, max_steps }
}

async fn run(config: &WorkerConfig, request: &ExecuteRequest) -> Result<Executed, JobError> {
    worker::execute(config, request, LONG).await
}

/// What is at fault with an input that was refused.
fn fault(outcome: Result<Executed, JobError>) -> Fault {
    match outcome {
        Err(JobError::Input(fault)) => *fault,
        other => panic!("not refused as input: {other:?}"),
    }
}

/// A proof request for a program that loads.
fn proof(program: Vec<u8>, max_steps: u64) -> ProveRequest {
    ProveRequest {
        statement: local_statement(&program, None, None).unwrap(),
        prover: PublicKey::new([3; 32]),
        program,
        args: None,
        max_steps,
        memory_limit: None,
    }
}

/// A well-behaved program runs in the same place, after whatever came before.
async fn assert_still_works(config: &WorkerConfig) {
    let executed = run(config, &request(sample::fibonacci(30), None, 10_000)).await.unwrap();
    assert_eq!(executed.output.len(), 1);
}

#[tokio::test]
async fn bootloader_hints_with_paths_are_refused_and_touch_no_file() {
    let guarded = Guarded::new();
    let (config, before) = (config(&guarded), guarded.state());
    let (canary, target) = (guarded.canary().display().to_string(), guarded.target().display().to_string());
    let path_task = serde_json::json!({
        "tasks": [
            {"type": "CairoPiePath", "path": canary, "program_hash_function": "pedersen"},
            {"type": "RunProgramTask", "path": canary, "program_input": canary, "program_hash_function": "pedersen"},
        ],
        "fact_topologies_path": target, "output_preimage_dump_path": target, "single_page": true,
        "simple_bootloader_input": canary, "path": canary,
    });
    for code in [
        "LOAD_PRIVACY_SIMPLE_BOOTLOADER_INPUT",
        "DUMP_PRIVACY_SIMPLE_BOOTLOADER_OUTPUT_PREIMAGE",
        "BOOTLOADER_READ_UNPACKER_BOOTLOADER_INPUT",
        "simple_bootloader_input = bootloader_input",
        "import os\nos.system('touch written.json')",
        "open(program_input['path']).read()",
        "print(ids.x)",
    ] {
        for args in [path_task.to_string(), serde_json::json!({"path": canary}).to_string()] {
            let program = hints::program(code, &["x"]);
            let fault = fault(run(&config, &request(program, Some(args), 1_000)).await);
            assert_eq!(fault.field, "hints");
            assert!(code.starts_with(fault.value.as_deref().unwrap()), "{fault:?}");
            assert!(fault.limit.unwrap().contains("HINTS.md") && fault.remedy.contains("remove the hint"));
        }
    }
    assert_still_works(&config).await;
    assert_eq!(guarded.state(), before);
}

#[tokio::test]
async fn a_path_as_argument_is_never_opened() {
    let guarded = Guarded::new();
    let (config, before) = (config(&guarded), guarded.state());
    let canary = guarded.canary().display().to_string();
    let reader = hints::program("ids.x = program_input['x']", &["x"]);
    let executable = programs::cairo1(&[]);
    for (program, args) in [
        (&reader, canary.clone()),
        (&reader, serde_json::json!(canary).to_string()),
        (&reader, serde_json::json!([canary]).to_string()),
        (&executable, canary.clone()),
        (&executable, serde_json::json!([canary]).to_string()),
        (&executable, serde_json::json!({"x": canary}).to_string()),
    ] {
        let fault = fault(run(&config, &request(program.clone(), Some(args.clone()), 1_000)).await);
        assert_eq!(fault.field, "args", "{args}: {fault:?}");
        assert!(fault.limit.is_some() && !fault.remedy.is_empty());
    }
    // Of the right form: text where a number is read ends the program, and the path is nothing but text.
    let args = serde_json::json!({"x": canary}).to_string();
    match run(&config, &request(reader, Some(args), 1_000)).await {
        Err(JobError::Failed { reason: FailureReason::Hint, detail, .. }) => {
            assert!(detail.contains("program_input['x']") && detail.contains("no integer"), "{detail}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(guarded.state(), before);
}

#[tokio::test]
async fn archives_and_files_that_unpack_to_too_much_are_refused() {
    let guarded = Guarded::new();
    let (config, before) = (config(&guarded), guarded.state());
    let huge = vec![b' '; 100 << 20];
    let deep = [b"{\"data\": ".as_slice(), &b"[".repeat(8 << 20)].concat();
    for (program, field, words) in [
        (programs::bomb("version.json", limits::PIE_JSON_BYTES_MAX), "version.json", "unzipped"),
        (programs::bomb("metadata.json", limits::PIE_JSON_BYTES_MAX), "metadata.json", "unzipped"),
        (programs::bomb("memory.bin", limits::PIE_MEMORY_BYTES_MAX), "memory.bin", "unzipped"),
        (huge.clone(), "program", "33554432 bytes"),
        (deep, "program", "JSON"),
        (programs::many_words(limits::PROGRAM_WORDS_MAX + 1), "data", "words"),
        (b"PK\x03\x04".repeat(1 << 20), "program", "zip"),
        (sample::fibonacci(3)[..200].to_vec(), "program", "EOF"),
        (b"\x7fELF not a program".to_vec(), "program", "Cairo PIE"),
    ] {
        let length = program.len();
        let fault = fault(run(&config, &request(program, None, 1_000)).await);
        assert_eq!(fault.field, field, "{length} bytes: {fault:?}");
        assert!(fault.detail.contains(words), "{fault:?}");
        assert!(fault.value.is_some() && fault.limit.is_some() && !fault.remedy.is_empty(), "{fault:?}");
    }
    let long_args = ExecuteRequest { args: Some(huge), ..request(sample::fibonacci(3), None, 1_000) };
    assert_eq!(fault(run(&config, &long_args).await).field, "args");
    assert_still_works(&config).await;
    assert_eq!(guarded.state(), before);
}

#[tokio::test]
async fn memory_and_steps_without_end_are_contained() {
    let guarded = Guarded::new();
    let (config, before) = (config(&guarded), guarded.state());
    // 10^9 cells of 32 bytes are sixteen times the child's memory.
    let error = run(&config, &request(programs::store_at(1_000_000_000), None, 1_000)).await.unwrap_err();
    assert!(matches!(error, JobError::Resources { .. } | JobError::OutOfMemory { .. }), "{error}");
    assert!(!error.is_about_the_job(), "what another node with more memory finds is open");
    for (program, limit) in [(programs::endless(), 100_000), (sample::fibonacci(1_000_000_000 / 6), 300_000)] {
        match run(&config, &request(program, None, limit)).await {
            Err(JobError::Failed { reason: FailureReason::StepLimit, steps, detail }) => {
                assert_eq!(steps, limit);
                assert!(detail.contains(&limit.to_string()), "{detail}");
            }
            other => panic!("{other:?}"),
        }
    }
    // A program that asks for new segments for ever, and one that calls itself for ever.
    for program in [programs::endless_segments(), programs::endless_calls()] {
        let error = run(&config, &request(program, None, 2_000_000)).await.unwrap_err();
        let contained = matches!(
            error,
            JobError::Failed { reason: FailureReason::StepLimit, .. }
                | JobError::Resources { .. }
                | JobError::OutOfMemory { .. }
        );
        assert!(contained, "{error}");
    }
    let limit = Duration::from_millis(400);
    let error = worker::execute(&config, &request(programs::endless(), None, u64::MAX), limit).await.unwrap_err();
    assert!(matches!(error, JobError::TimedOut { limit_ms: 400 }), "{error}");
    assert_still_works(&config).await;
    assert_eq!(guarded.state(), before);
}

/// Whoever writes the worker's records on standard output or error, even before the worker itself speaks, is not heard.
#[tokio::test]
async fn records_on_stdout_and_stderr_are_only_text() {
    let guarded = Guarded::new();
    let plain = config(&guarded);
    let mut config = plain.clone();
    // Frames of plausible lengths and versions, then many lines; the real worker takes over afterwards.
    let script = r#"
        i=0
        while [ $i -lt 200 ]; do
            printf '\003\000\000\000\001\000\000'; printf '\003\000\000\000\001\000\000' >&2
            printf 'worker: {"Proven": true} memory allocation of\n' >&2
            i=$((i + 1))
        done
        exec "$0" "$@"
    "#;
    let own = std::env::current_exe().unwrap();
    config.program = Some("/bin/sh".into());
    config.arguments = ["-c".into(), script.into(), own.into_os_string()].into_iter().chain(plain.arguments).collect();
    assert_still_works(&config).await;
    let error = run(&config, &request(programs::endless(), None, 500)).await.unwrap_err();
    assert!(matches!(error, JobError::Failed { reason: FailureReason::StepLimit, steps: 500, .. }), "{error}");
    // A child that only talks there, and ends well, has said nothing.
    config.arguments = ["-c".into(), "printf '\\003\\000\\000\\000\\001\\000\\000'; exit 0".into()].into();
    let error = run(&config, &request(sample::fibonacci(3), None, 500)).await.unwrap_err();
    assert!(matches!(error, JobError::Start { .. }), "{error}");
    // One that sends rubbish as records on the descriptor itself is cut off.
    config.arguments = ["-c".into(), "printf '\\377\\377\\377\\377rubbish' >&0; sleep 60".into()].into();
    let error = run(&config, &request(sample::fibonacci(3), None, 500)).await.unwrap_err();
    assert!(matches!(&error, JobError::Start { detail } if detail.contains("announced")), "{error}");
}

#[tokio::test]
async fn a_program_under_proof_holds_no_file_and_dies_when_it_is_dropped() {
    let guarded = Guarded::new();
    let mut config = config(&guarded);
    config.memory_bytes = 6 << 30;
    let before = guarded.state();
    let worker = Worker::new(config);
    let mut job = worker.prove(proof(programs::endless(), limits::STEPS_MAX), LONG).await.unwrap();
    assert!(matches!(job.next().await, Some(Event::Stage(_))));
    let pid = worker.pid().unwrap();
    let place = Path::new("/proc").join(pid.to_string());
    for entry in std::fs::read_dir(place.join("fd")).unwrap() {
        // One that is closed in this very moment is none.
        let Ok(target) = std::fs::read_link(entry.unwrap().path()) else { continue };
        let target = target.display().to_string();
        let harmless = ["socket:", "pipe:", "/dev/null"].iter().any(|start| target.starts_with(start));
        assert!(harmless, "the child holds {target}");
    }
    assert_eq!(std::fs::read_link(place.join("cwd")).unwrap(), guarded.scratch().canonicalize().unwrap());
    assert_eq!(std::fs::read_to_string(place.join("oom_score_adj")).unwrap().trim(), "1000");
    let status = std::fs::read_to_string(place.join("status")).unwrap();
    assert!(status.lines().any(|line| line == "NoNewPrivs:\t1"), "{status}");
    println!("sandbox: {:?}", worker.status().sandbox);
    drop(job);
    let gone = async {
        while place.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.expect("the child is gone");
    assert_eq!(guarded.state(), before);
}
