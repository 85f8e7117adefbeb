//! A worker that proves on a device, with the processor's backend in the device's place: the processes, the sandboxes and
//! the protocol are the real ones, and no driver is needed.

use std::net::TcpStream;
use std::path::{Path, PathBuf};

use cairo_lang_casm::casm;

use super::sandbox::{Bounds, enter_device};
use super::tests::{ENTRY, LONG, ROLE, alive, config, kill, proof, proof_of};
use super::*;
use crate::{Simd, sample, stages::Stage};

/// The child in which programs run.
fn setup() -> DeviceProcess {
    DeviceProcess {
        reach: Reach { read: std::env::current_exe().into_iter().collect(), write: vec![] },
        tracer: ENTRY.map(Into::into).into(),
        tracer_environment: vec![(ROLE.into(), "worker".into())],
    }
}

/// Role of a child: a device that works.
pub(super) fn device() -> ! {
    let compile = |ahead: &Ahead| {
        for ready in 0..3 {
            ahead.tell(ready, 3);
            std::thread::sleep(std::time::Duration::from_millis(700));
            while !ahead.may_go() {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
        Ok(3)
    };
    device_main(&setup(), || {
        Ok(Opened { backend: Simd::default(), activity: Box::new(Activity::default), compile: Box::new(compile) })
    })
}

/// Role of a child: a device whose driver refuses a kernel.
pub(super) fn with_bad_kernels() -> ! {
    let compile = |_: &Ahead| Err("kernel add_opcode: the driver refuses it".into());
    device_main(&setup(), || {
        Ok(Opened { backend: Simd::default(), activity: Box::new(Activity::default), compile: Box::new(compile) })
    })
}

/// Role of a child: a device that can't be opened.
pub(super) fn without_driver() -> ! {
    device_main::<Simd>(&setup(), || Err("no driver for this device".into()))
}

/// Role of a child: tries what a process that drives a device must not be able to do, or must; exits with a bit for each
/// that went wrong.
pub(super) fn probe() -> ! {
    let folder = PathBuf::from(std::env::var_os("PROOFMESH_TEST_FOLDER").unwrap());
    let (own, secret) = (folder.join("cache"), folder.join("secret"));
    let reach = Reach { read: vec![], write: vec![own.clone()] };
    let bounds = Bounds { memory: 1 << 30, cpu_seconds: None, nice: 5 };
    let Sandbox { landlock, seccomp } = enter_device(&bounds, &reach).unwrap();
    let mut wrong = 0;
    let mut check = |bit: i32, is_wrong: bool| wrong |= i32::from(is_wrong) << bit;
    check(0, landlock && std::fs::read(&secret).is_ok());
    check(1, landlock && std::fs::write(folder.join("file"), "x").is_ok());
    let denied = |e: std::io::Error| e.kind() == std::io::ErrorKind::PermissionDenied;
    check(2, seccomp && !TcpStream::connect("127.0.0.1:9").is_err_and(denied));
    check(3, seccomp && !std::net::UdpSocket::bind("127.0.0.1:0").is_err_and(denied));
    // What drivers do.
    check(4, std::fs::write(own.join("kernel"), "x").is_err());
    check(5, std::fs::read_dir("/usr/lib").is_err() || std::fs::File::open("/dev/null").is_err());
    check(6, !std::process::Command::new("/bin/true").status().is_ok_and(|status| status.success()));
    check(7, std::os::unix::net::UnixStream::pair().is_err());
    println!("{wrong:b}, landlock {landlock}, seccomp {seccomp}");
    std::process::exit(wrong);
}

fn device_config(role: &str, memory_bytes: u64) -> (tempfile::TempDir, WorkerConfig) {
    let (folder, mut config) = config(role, memory_bytes);
    config.runs_apart = true;
    (folder, config)
}

/// The children of a process.
fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task")).unwrap();
    let lists = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>()).collect()
}

/// Whatever a program could do to its process, there is no file in it.
fn holds_no_file(pid: u32) {
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        // One that is closed in this very moment is none.
        let Ok(target) = std::fs::read_link(entry.unwrap().path()) else { continue };
        let target = target.display().to_string();
        let harmless = ["socket:", "pipe:", "/dev/null"].iter().any(|start| target.starts_with(start));
        assert!(harmless, "the child holds {target}");
    }
}

#[test]
fn a_device_process_keeps_what_drivers_need_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("cache")).unwrap();
    std::fs::write(folder.path().join("secret"), "a key").unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(ENTRY)
        .env(ROLE, "device probe")
        .env("PROOFMESH_TEST_FOLDER", folder.path())
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "each bit is something that went wrong: {text}");
}

#[tokio::test]
async fn programs_run_in_a_child_of_the_device_process_and_proofs_are_made_in_it() {
    let (_folder, config) = device_config("device", 4 << 30);
    let worker = Worker::new(config);
    worker.start().await.unwrap();
    let pid = worker.pid().unwrap();
    let tracers = children(pid);
    let [tracer] = tracers.as_slice() else { panic!("one child: {tracers:?}") };
    println!("sandbox of programs: {:?}", worker.status().sandbox);
    let status = std::fs::read_to_string(format!("/proc/{tracer}/status")).unwrap();
    assert!(status.lines().any(|line| line == "NoNewPrivs:\t1"), "{status}");

    let request = proof(200);
    let mut stages = Vec::new();
    let proven = worker.prove(request.clone(), LONG).await.unwrap().wait(|stage| stages.push(stage)).await.unwrap();
    proof::cairo::verify(&proven.blob, &request.statement, &request.prover).unwrap();
    let expected = [Stage::Warming, Stage::Running, Stage::Adapting, Stage::Trace];
    assert_eq!(stages[..4], expected, "{stages:?}");
    let here = crate::Engine::new().prove(request, Box::new(|_| ())).unwrap();
    assert_eq!((proven.output, proven.steps, proven.total_steps), (here.output, here.steps, here.total_steps));
    assert!(proven.blob == here.blob, "the same proof as in one process");

    // What is wrong with a program is told as by any worker, and the device's process does not care.
    let mut job = proof(200);
    job.max_steps = 50;
    let error = worker.prove(job, LONG).await.unwrap().wait(|_| ()).await.unwrap_err();
    assert!(matches!(error, JobError::Failed { steps: 50, .. }), "{error}");
    let mut job = proof(200);
    job.program.push(b' ');
    let error = worker.prove(job, LONG).await.unwrap().wait(|_| ()).await.unwrap_err();
    assert!(matches!(error, JobError::Input(_)), "{error}");

    // A store far out asks for 8 GiB, which is more than the child has: it may die of it, the device's process may not.
    let far = casm! { [ap] = [fp - 3] + 268435456, ap++; [ap] = 1, ap++; [ap - 1] = [[ap - 2]]; ret; };
    let far = sample::cairo0_json(&sample::assemble(&far.instructions), &["output"], &[]);
    let error = worker.prove(proof_of(far), LONG).await.unwrap().wait(|_| ()).await.unwrap_err();
    assert!(matches!(error, JobError::Resources { .. }), "{error}");
    assert_eq!(worker.pid(), Some(pid), "still there");

    // One that is killed in the middle of a run is replaced.
    let (endless, tracer) = (casm! { jmp rel 0; }, children(pid));
    let endless = sample::cairo0_json(&sample::assemble(&endless.instructions), &["output"], &[]);
    let mut job = worker.prove(proof_of(endless), LONG).await.unwrap();
    while let Some(event) = job.next().await {
        match event {
            Event::Stage(Stage::Running) => {
                for child in children(pid) {
                    holds_no_file(child);
                    kill(child);
                }
            }
            Event::Stage(_) => {}
            Event::Done(result) => assert!(matches!(*result, Err(JobError::Resources { .. })), "{result:?}"),
        }
    }
    worker.prove(proof(201), LONG).await.unwrap().wait(|_| ()).await.unwrap();
    assert!(worker.pid() == Some(pid) && children(pid) != tracer);

    // It takes its child along.
    let tracer = children(pid);
    kill(pid);
    let gone = async {
        while tracer.iter().any(|pid| alive(*pid)) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.unwrap();
}

#[tokio::test]
async fn a_device_that_does_not_open_says_why() {
    let (_folder, config) = device_config("device without driver", 4 << 30);
    let error = Worker::new(config).start().await.unwrap_err();
    assert!(matches!(&error, JobError::Start { detail } if detail.contains("no driver for this device")), "{error}");
}
