//! One node process, and calls of the command line.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Names the binary to the harness alone: to a node it would look like a setting.
const BIN: &str = "PROOFMESH_BIN";
/// Time a node gets to drain after SIGTERM; it needs at most ten seconds.
const DRAIN: Duration = Duration::from_secs(15);

/// The node binary: `PROOFMESH_BIN`, or `proofmesh` beside the running executable or one folder up (where tests run).
///
/// # Errors
/// When there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(BIN) {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("finding the running executable")?;
    let candidates = own.ancestors().skip(1).take(2).map(|folder| folder.join("proofmesh"));
    candidates.into_iter().find(|p| p.is_file()).with_context(|| {
        format!(
            "no proofmesh binary beside {}: build it (cargo build --release -p proofmesh) or set PROOFMESH_BIN",
            own.display()
        )
    })
}

/// The binary that drives OpenCL devices, where a node looks for it: beside its own.
///
/// # Errors
/// When there is none.
pub fn gpu_binary() -> Result<PathBuf> {
    let path = binary()?.with_file_name("proofmesh-gpu");
    match path.is_file() {
        true => Ok(path),
        false => bail!("no {}: build it (cargo build --release -p opencl)", path.display()),
    }
}

/// Arranges that a child dies with the thread that started it.
pub(super) fn die_with_parent(command: &mut Command) {
    let set = || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec and only makes one system call; it allocates nothing and takes no lock.
    #[allow(unsafe_code, reason = "the death signal must be set between fork and exec")]
    unsafe {
        command.pre_exec(set);
    }
}

/// The shipped command line.
#[derive(Clone, Debug)]
pub struct Cli {
    bin: PathBuf,
}

impl Cli {
    /// Of this binary.
    pub fn new(bin: impl Into<PathBuf>) -> Self {
        Self { bin: bin.into() }
    }

    /// The binary.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Runs a command with `--json` and returns its exit code, its answer (`null` if it printed none) and its standard error.
    ///
    /// # Errors
    /// When the binary can't be run or its answer is no JSON.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<(i32, Value, String)> {
        let mut command = Command::new(&self.bin);
        command
            .args(arguments)
            .arg("--json")
            .env_remove(BIN)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        die_with_parent(&mut command);
        let output = command.output().with_context(|| format!("running {}", self.bin.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        // An answer is one JSON value; commands that follow something print one a line, the last being the end.
        let answer = match serde_json::from_str(text.trim()) {
            Ok(value) => value,
            Err(_) => match last {
                Some(line) => serde_json::from_str(line).with_context(|| format!("answer is no JSON: {line}"))?,
                None => Value::Null,
            },
        };
        let code = output.status.code().unwrap_or(-1);
        Ok((code, answer, String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// As [`Cli::run`], but a command that fails is an error with what it said.
    ///
    /// # Errors
    /// When it can't be run or exits with another code than 0.
    pub fn ok<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Value> {
        let (code, answer, errors) = self.run(arguments)?;
        if code != 0 {
            let words: Vec<_> = arguments.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect();
            bail!("proofmesh {} ended with {code}: {} {}", words.join(" "), answer, errors.trim());
        }
        Ok(answer)
    }
}

/// What a node is started with, beside its home. By default the shipped binary with nothing added.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// Another binary than the shipped one.
    pub bin: Option<PathBuf>,
    /// Variables added to the environment.
    pub env: Vec<(String, String)>,
    /// A command in front, which must end in running what follows it in its own place.
    pub within: Vec<String>,
}

/// A running node.
#[derive(Debug)]
pub struct NodeProcess {
    child: Child,
}

impl NodeProcess {
    /// Starts a node on a home folder; its log is appended to `log`.
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn start(cli: &Cli, home: &Path, log: &Path) -> Result<Self> {
        Self::launch(cli, &Launch::default(), home, log)
    }

    /// As [`NodeProcess::start`], with what `launch` adds.
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn launch(cli: &Cli, launch: &Launch, home: &Path, log: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let bin = launch.bin.as_deref().unwrap_or(cli.bin());
        let mut command = match launch.within.split_first() {
            None => Command::new(bin),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(bin);
                command
            }
        };
        command.envs(launch.env.iter().map(|(name, value)| (name, value)));
        command.arg("start").arg("--home").arg(home).env_remove(BIN).stdin(Stdio::null());
        command.stdout(file.try_clone()?).stderr(file);
        // A group of its own: Ctrl-C on the terminal reaches the harness alone, which then stops its nodes in order.
        command.process_group(0);
        die_with_parent(&mut command);
        let child = command.spawn().with_context(|| format!("starting {}", bin.display()))?;
        Ok(Self { child })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit code, once it has ended by itself.
    ///
    /// # Errors
    /// When the system can't tell.
    pub fn exited(&mut self) -> Result<Option<i32>> {
        Ok(self.child.try_wait()?.map(|status| status.code().unwrap_or(-1)))
    }

    /// Kills it at once, as a power cut would.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).context("process id")?;
        rustix::process::kill_process(pid, signal)?;
        Ok(())
    }

    /// Asks it to drain, and kills it if it does not within fifteen seconds. Returns its exit code.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn stop(self) -> Result<i32> {
        // A node that has ended by itself takes no signal; its exit code tells.
        self.signal(rustix::process::Signal::TERM).ok();
        self.drained()
    }

    /// Waits until it has drained after SIGTERM, and kills it if it does not within fifteen seconds. Returns its exit code.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn drained(mut self) -> Result<i32> {
        let deadline = Instant::now() + DRAIN;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code().unwrap_or(-1));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.child.kill()?;
        let status = self.child.wait()?;
        Ok(status.code().unwrap_or(-1))
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // A process that was stopped or killed before has been waited for; both calls then do nothing.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
