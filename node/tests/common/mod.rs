//! What the tests of the binary share: running commands, and a node process.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for a node to be where it should be.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn proofmesh(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_proofmesh"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs to the end; (exit code, answer or null, standard error).
pub(crate) fn run(arguments: &[&str]) -> (i32, Value, String) {
    let Output { status, stdout, stderr } = proofmesh(arguments).arg("--json").output().unwrap();
    let answer = serde_json::from_slice(&stdout).unwrap_or(Value::Null);
    (status.code().unwrap_or(-1), answer, String::from_utf8_lossy(&stderr).into_owned())
}

pub(crate) fn ok(arguments: &[&str]) -> Value {
    let (code, answer, errors) = run(arguments);
    assert_eq!(code, 0, "{arguments:?}: {answer} {errors}");
    answer
}

/// A node process that is killed when the test ends.
pub(crate) struct Node {
    child: Child,
    /// Its RPC address.
    pub(crate) rpc: String,
    /// Its log.
    pub(crate) log: PathBuf,
}

impl Node {
    pub(crate) fn start(home: &Path) -> Self {
        let port = free_port();
        let log = home.with_extension("log");
        let file = fs::File::create(&log).unwrap();
        let child =
            proofmesh(&["start", "--home", text(home), "--p2p", "127.0.0.1:0", "--rpc", &format!("127.0.0.1:{port}")])
                .stdout(Stdio::null())
                .stderr(file)
                .spawn()
                .unwrap();
        let node = Self { child, rpc: format!("http://127.0.0.1:{port}"), log };
        node.wait("an answer", |node| node.ask(&["status"]).is_some());
        node
    }

    /// The answer of a client's command, if the node gives one.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Option<Value> {
        let mut all = arguments.to_vec();
        all.extend(["--rpc", &self.rpc]);
        let (code, answer, _) = run(&all);
        (code == 0).then_some(answer)
    }

    pub(crate) fn height(&self) -> u64 {
        self.ask(&["status"]).and_then(|status| status["head"]["height"].as_u64()).unwrap_or(0)
    }

    pub(crate) fn wait(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !done(self) {
            let log = || fs::read_to_string(&self.log).unwrap_or_default();
            assert!(Instant::now() < until, "no {what} in time; log:\n{}", log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Sends SIGTERM and returns the exit code.
    pub(crate) fn stop(mut self) -> i32 {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let until = Instant::now() + Duration::from_secs(15);
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                let log = || fs::read_to_string(&self.log).unwrap_or_default();
                return status.code().unwrap_or_else(|| panic!("the node was ended by {status}; log:\n{}", log()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the node did not drain; log:\n{}", fs::read_to_string(&self.log).unwrap_or_default());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Gone already when the test stopped it.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A refusal, complete: exit code, stable code, and the four things that every refusal says.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Exit code.
    pub(crate) exit: i32,
    /// Stable name.
    pub(crate) code: String,
    /// One sentence.
    pub(crate) message: String,
    /// The field at fault.
    pub(crate) field: String,
    /// What was found.
    pub(crate) value: String,
    /// What would be accepted.
    pub(crate) limit: String,
    /// What to do.
    pub(crate) remedy: String,
}

/// Runs a command that must be refused with field, value, limit and remedy.
pub(crate) fn refused(arguments: &[&str]) -> Refused {
    refused_with(arguments, &[])
}

/// As [`refused`], with variables of the environment.
pub(crate) fn refused_with(arguments: &[&str], environment: &[(&str, &str)]) -> Refused {
    let mut command = proofmesh(arguments);
    command.arg("--json").envs(environment.iter().copied());
    let Output { status, stdout, stderr } = command.output().unwrap();
    let shown = format!("{arguments:?}: {} {}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    let answer: Value = serde_json::from_slice(&stdout).unwrap_or_else(|e| panic!("{e}: {shown}"));
    let part = |name: &str| {
        let text = answer["error"][name].as_str().unwrap_or_else(|| panic!("no {name}: {shown}"));
        assert!(!text.is_empty(), "{name} is empty: {shown}");
        text.to_owned()
    };
    let exit = status.code().unwrap_or_else(|| panic!("ended by a signal: {shown}"));
    assert_eq!(answer["error"]["exit"], exit, "{shown}");
    assert!(exit != 0, "{shown}");
    Refused {
        exit,
        code: part("code"),
        message: part("message"),
        field: part("field"),
        value: part("value"),
        limit: part("limit"),
        remedy: part("remedy"),
    }
}

/// Copies a folder with everything in it, modes included.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
}
