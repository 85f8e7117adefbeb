//! Real children of this test binary: proofs, runs, the sandbox, and every way a child can end.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use cairo_lang_casm::casm;
use types::felt::Felt;
use types::job::HashFunction;
use types::keys::PublicKey;
use types::verdict::FailureReason;

use super::sandbox::Bounds;
use super::{device_tests, *};
use crate::engine::ProveRequest;
use crate::execute::ExecuteRequest;
use crate::local::local_statement;
use crate::stages::Stage;
use crate::{limits, sample};

pub(crate) const ROLE: &str = "PROOFMESH_TEST_ROLE";
pub(crate) const LONG: Duration = Duration::from_secs(240);
/// Arguments that make this test binary run [`child_entry`] alone.
pub(crate) const ENTRY: [&str; 4] = ["worker::tests::child_entry", "--exact", "--nocapture", "--test-threads=1"];

/// The children of the tests below are this same test binary, told to run this one test.
#[test]
fn child_entry() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") => {
            let kind = std::env::args().rev().find_map(|argument| Kind::from_name(&argument)).unwrap();
            main(kind);
        }
        Ok("probe") => probe(),
        Ok("device") => device_tests::device(),
        Ok("device with bad kernels") => device_tests::with_bad_kernels(),
        Ok("device without driver") => device_tests::without_driver(),
        Ok("device probe") => device_tests::probe(),
        Ok("silent") => loop {
            std::thread::sleep(LONG);
        },
        _ => {}
    }
}

pub(crate) fn config(role: &str, memory_bytes: u64) -> (tempfile::TempDir, WorkerConfig) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = WorkerConfig::new(folder.path().join("scratch"), memory_bytes);
    config.arguments = ENTRY.map(OsString::from).into();
    config.environment = vec![(ROLE.into(), role.into())];
    (folder, config)
}

fn execution(program: Vec<u8>, max_steps: u64) -> ExecuteRequest {
    ExecuteRequest { program, args: None, hash_function: HashFunction::Poseidon, max_steps }
}

pub(crate) fn proof(rounds: u64) -> ProveRequest {
    proof_of(sample::fibonacci(rounds))
}

/// A proof request for a program.
pub(crate) fn proof_of(program: Vec<u8>) -> ProveRequest {
    ProveRequest {
        statement: local_statement(&program, None, None).unwrap(),
        prover: PublicKey::new([3; 32]),
        program,
        args: None,
        max_steps: limits::STEPS_MAX,
        memory_limit: None,
    }
}

pub(crate) fn kill(pid: u32) {
    signal(pid, rustix::process::Signal::KILL);
}

pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

pub(crate) fn alive(pid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}

/// Tries in the sandbox what a worker must not be able to do; exits with a bit for each thing that worked.
fn probe() -> ! {
    let bounds = Bounds { memory: 4 << 30, cpu_seconds: Some(20), nice: 5 };
    let landlock = sandbox::enter(&bounds).unwrap();
    let readable_before_filter = std::fs::File::open("/etc/passwd").is_ok();
    let seccomp = sandbox::lock_down(false);
    let mut worked = 0;
    let mut tried = |bit: i32, worked_here: bool| worked |= i32::from(worked_here) << bit;
    tried(0, landlock && readable_before_filter);
    tried(1, seccomp && std::fs::File::open("/etc/passwd").is_ok());
    tried(2, seccomp && std::fs::File::create("file").is_ok());
    tried(
        3,
        seccomp && TcpStream::connect("127.0.0.1:9").is_err_and(|e| e.kind() != std::io::ErrorKind::PermissionDenied),
    );
    tried(4, seccomp && std::process::Command::new("/bin/true").spawn().is_ok());
    tried(5, seccomp && std::thread::Builder::new().spawn(|| ()).is_ok());
    tried(6, Vec::<u8>::new().try_reserve_exact(8 << 30).is_ok());
    std::process::exit(worked);
}

#[test]
fn the_sandbox_holds() {
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(ENTRY)
        .env(ROLE, "probe")
        .current_dir(tempfile::tempdir().unwrap().path())
        .output()
        .unwrap()
        .status;
    assert_eq!(status.code(), Some(0), "each bit is something that should have been refused: {status}");
}

#[tokio::test]
async fn an_executor_answers_and_is_gone() {
    let (_folder, config) = config("worker", 2 << 30);
    let executed = execute(&config, &execution(sample::fibonacci(100), 10_000), LONG).await.unwrap();
    let expected = crate::felt::from_vm(&sample::fibonacci_number(100));
    assert_eq!(executed.output, [expected]);
    let error = execute(&config, &execution(sample::fibonacci(100), 50), LONG).await.unwrap_err();
    assert!(matches!(error, JobError::Failed { reason: FailureReason::StepLimit, steps: 50, .. }), "{error}");
    let error = execute(&config, &execution(b"rubbish".to_vec(), 50), LONG).await.unwrap_err();
    assert!(error.is_about_the_job() && error.to_string().contains("Cairo PIE"), "{error}");
    let inspection = inspect(&config, sample::fibonacci(7), None, LONG).await.unwrap();
    assert_eq!(inspection.builtins, ["output"]);
    assert_ne!(inspection.program_hash, Felt::ZERO);
}

#[tokio::test]
async fn a_store_at_a_huge_offset_is_contained() {
    let (_folder, config) = config("worker", 1 << 30);
    // 2^27 cells of 32 bytes are four times the limit.
    let context = casm! { [ap] = [fp - 3] + 134217728, ap++; [ap] = 1, ap++; [ap - 1] = [[ap - 2]]; ret; };
    let program = sample::cairo0_json(&sample::assemble(&context.instructions), &["output"], &[]);
    let error = execute(&config, &execution(program, 1000), LONG).await.unwrap_err();
    assert!(matches!(error, JobError::Resources { .. } | JobError::OutOfMemory { .. }), "{error}");
    assert!(!error.is_about_the_job());
}

#[tokio::test]
async fn an_endless_program_ends_at_its_time_limit() {
    let (_folder, config) = config("worker", 1 << 30);
    let endless = casm! { jmp rel 0; };
    let program = sample::cairo0_json(&sample::assemble(&endless.instructions), &["output"], &[]);
    let limit = Duration::from_millis(300);
    let error = execute(&config, &execution(program, u64::MAX), limit).await.unwrap_err();
    assert!(matches!(error, JobError::TimedOut { limit_ms: 300 } | JobError::Failed { .. }), "{error}");
}

#[tokio::test]
async fn a_worker_proves_stays_warm_and_survives_the_death_of_its_child() {
    let (_folder, mut config) = config("worker", 16 << 30);
    config.idle_limit = Duration::from_secs(60);
    let worker = Worker::new(config);
    assert_eq!(worker.status().state, WorkerState::Resting);
    let mut stages = Vec::new();
    let first = proof(200);
    let proven = worker.prove(first.clone(), LONG).await.unwrap().wait(|stage| stages.push(stage)).await.unwrap();
    proof::cairo::verify(&proven.blob, &first.statement, &first.prover).unwrap();
    assert!(stages.contains(&Stage::Composition) && stages.is_sorted(), "{stages:?}");
    let pid = worker.pid().unwrap();
    assert!(alive(pid));
    assert!(worker.status().sandbox.is_some());

    // A refusal leaves the child as it is, warm.
    let mut refused = proof(200);
    refused.memory_limit = Some(1 << 20);
    let error = worker.prove(refused, LONG).await.unwrap().wait(|_| ()).await.unwrap_err();
    assert!(matches!(error, JobError::Memory { limit: 1_048_576, .. }), "{error}");
    stages.clear();
    worker.prove(proof(201), LONG).await.unwrap().wait(|stage| stages.push(stage)).await.unwrap();
    assert!(!stages.contains(&Stage::Warming) && worker.pid() == Some(pid), "{stages:?}");

    // Killed from outside in the middle of a proof: an error that says so, and the next job has a new child.
    let mut job = worker.prove(proof(50_000), LONG).await.unwrap();
    while let Some(event) = job.next().await {
        match event {
            Event::Stage(Stage::TraceCommitment) => kill(pid),
            Event::Stage(_) => {}
            Event::Done(result) => assert!(matches!(*result, Err(JobError::OutOfMemory { .. })), "{result:?}"),
        }
    }
    assert!(!alive(pid));
    worker.prove(proof(202), LONG).await.unwrap().wait(|_| ()).await.unwrap();
    let second = worker.pid().unwrap();
    assert!(second != pid && worker.status().starts == 2);

    // A job whose reader goes away is cancelled, and its child with it.
    let mut job = worker.prove(proof(50_000), LONG).await.unwrap();
    assert!(matches!(job.next().await, Some(Event::Stage(_))));
    drop(job);
    let mut status = worker.watch();
    tokio::time::timeout(LONG, status.wait_for(|status| status.state == WorkerState::Resting)).await.unwrap().unwrap();
    assert!(!alive(second));
}

#[tokio::test]
async fn an_idle_worker_gives_its_memory_back() {
    let (_folder, mut config) = config("worker", 16 << 30);
    config.idle_limit = Duration::from_millis(200);
    let worker = Worker::new(config);
    worker.warm_up();
    let mut status = worker.watch();
    tokio::time::timeout(LONG, status.wait_for(|status| status.pid.is_some())).await.unwrap().unwrap();
    tokio::time::timeout(LONG, status.wait_for(|status| status.pid.is_none())).await.unwrap().unwrap();
    drop(worker);
    tokio::time::timeout(LONG, status.wait_for(|status| status.state == WorkerState::Stopped)).await.unwrap().unwrap();
}

#[tokio::test]
async fn memory_that_is_short_is_not_taken_for_tables() {
    let (_folder, mut config) = config("worker", 16 << 30);
    config.idle_limit = Duration::from_secs(3600);
    config.spare_bytes = u64::MAX;
    let worker = Worker::new(config);
    worker.warm_up();
    let mut stages = Vec::new();
    worker.prove(proof(200), LONG).await.unwrap().wait(|stage| stages.push(stage)).await.unwrap();
    assert!(stages.contains(&Stage::Warming), "the warm-up should not have been done: {stages:?}");
    // What the job had to take is given back at the next look, long before the idle time is over.
    let mut status = worker.watch();
    tokio::time::timeout(LONG, status.wait_for(|status| status.pid.is_none())).await.unwrap().unwrap();
    assert_eq!(worker.status().starts, 1);
}

#[tokio::test]
async fn a_child_that_is_no_worker_is_an_error() {
    let (_folder, mut config) = config("", 1 << 30);
    config.environment.clear();
    let error = execute(&config, &execution(sample::fibonacci(3), 1000), LONG).await.unwrap_err();
    assert!(matches!(error, JobError::Start { .. }), "{error}");
    config.program = Some("/nonexistent/binary".into());
    let error = execute(&config, &execution(sample::fibonacci(3), 1000), LONG).await.unwrap_err();
    assert!(matches!(error, JobError::Start { .. }), "{error}");
}

#[test]
fn a_record_with_another_version_is_refused() {
    let (mut ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut bytes = wire::frame(&wire::Request::WarmUp).unwrap();
    bytes[4] = 9;
    ours.write_all(&bytes).unwrap();
    drop(ours);
    assert!(wire::read::<wire::Request>(&mut theirs).is_err());
    let mut rest = Vec::new();
    theirs.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
}
