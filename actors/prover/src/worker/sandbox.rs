//! What a child gives up before it touches a program: files, network, new processes, memory without bound.
//!
//! Three independent layers. Resource limits always apply. Landlock takes away every path, reading included. The system
//! call filter is a list of what remains; everything else fails with "not permitted". The last two are used where the
//! kernel has them, and the parent is told.

use std::collections::BTreeMap;
use std::io;

use bincode::{Decode, Encode};
use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope};
use rustix::process::{Resource, Rlimit, Signal};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use serde::Serialize;

/// Open files that a child may have: its three standard ones and the private descriptor, with room for none by accident.
const OPEN_FILES_MAX: u64 = 16;

/// The kernel's scale for what it ends first when memory runs out: this is its highest value.
const OOM_SCORE_MAX: &str = "1000";

/// Which layers a child got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Sandbox {
    /// Paths are out of reach (Landlock).
    pub landlock: bool,
    /// System calls are filtered (seccomp).
    pub seccomp: bool,
}

/// Bounds that the parent chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Address space, in bytes.
    pub(crate) memory: u64,
    /// Processor time, in seconds; `None` for a worker that lives for many jobs.
    pub(crate) cpu_seconds: Option<u64>,
    /// Added niceness.
    pub(crate) nice: i32,
}

/// First step, on the main thread before any other thread exists: death with the parent, limits, no new privileges,
/// Landlock.
///
/// # Errors
/// A refused resource limit: without it no program is run.
pub(crate) fn enter(bounds: &Bounds) -> io::Result<bool> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // When the machine runs out of memory, the kernel shall take this child and not the node. A kernel that forbids it still
    // has the limits below.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_MAX);
    rustix::thread::set_no_new_privs(true)?;
    let both = |value: u64| Rlimit { current: Some(value), maximum: Some(value) };
    rustix::process::setrlimit(Resource::As, both(bounds.memory))?;
    rustix::process::setrlimit(Resource::Data, both(bounds.memory))?;
    rustix::process::setrlimit(Resource::Core, both(0))?;
    rustix::process::setrlimit(Resource::Fsize, both(0))?;
    rustix::process::setrlimit(Resource::Nofile, both(OPEN_FILES_MAX))?;
    if let Some(seconds) = bounds.cpu_seconds {
        rustix::process::setrlimit(Resource::Cpu, both(seconds.max(1)))?;
    }
    // Priority is a courtesy to the node, not a wall.
    let _ = rustix::process::nice(bounds.nice);
    Ok(landlock())
}

/// Takes away every path, network address and abstract socket that this kernel's Landlock knows of.
fn landlock() -> bool {
    let abi = ABI::V6;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .and_then(|set| set.handle_access(AccessNet::from_all(abi)))
        .and_then(|set| set.scope(Scope::from_all(abi)))
        .and_then(|set| set.create())
        .and_then(|set| set.restrict_self());
    ruleset.is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced)
}

/// Last step, once the thread pool is up: from here on no file is opened and no process started, and no thread either
/// unless `threads`, which the prover needs: its library makes pools of its own.
pub(crate) fn lock_down(threads: bool) -> bool {
    let (Ok(first), Ok(second)) = (no_clone3(), filter(threads)) else {
        return false;
    };
    seccompiler::apply_filter_all_threads(&first).is_ok() && seccompiler::apply_filter_all_threads(&second).is_ok()
}

/// System calls that computing, memory, threads' waiting, and the private descriptor need.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
];

/// A filter cannot look into the structure that `clone3` takes. "Not implemented" sends the C library to `clone`, whose
/// flags can be seen; the main filter's "not permitted" would not.
fn no_clone3() -> Result<BpfProgram, seccompiler::Error> {
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let rules = BTreeMap::from([(libc::SYS_clone3, vec![])]);
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(BpfProgram::try_from(SeccompFilter::new(rules, SeccompAction::Allow, missing, arch)?)?)
}

fn filter(threads: bool) -> Result<BpfProgram, seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|number| (*number, vec![])).collect();
    // Memory may become anything but executable.
    let not_executable = |argument| {
        let execute = u64::from(libc::PROT_EXEC.unsigned_abs());
        let clear = SeccompCmpOp::MaskedEq(execute);
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, clear, 0).and_then(|c| SeccompRule::new(vec![c]))
    };
    rules.insert(libc::SYS_mmap, vec![not_executable(2)?]);
    rules.insert(libc::SYS_mprotect, vec![not_executable(2)?]);
    if threads {
        let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
        let only = SeccompCmpOp::MaskedEq(thread);
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, only, thread)?;
        rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![condition])?]);
    }
    // Allowed here, so that the other filter's answer stands.
    rules.insert(libc::SYS_clone3, vec![]);
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, arch)?;
    Ok(BpfProgram::try_from(filter)?)
}
