//! What a child gives up before it touches a program: files, network, new processes, memory without bound.
//!
//! Three independent layers. Resource limits always apply. Landlock takes away every path, reading included. The system
//! call filter is a list of what remains; everything else fails with "not permitted". The last two are used where the
//! kernel has them, and the parent is told.
//!
//! A process that drives a device can't live in that: its driver opens device files, loads libraries, compiles kernels
//! (PoCL by starting a linker), keeps caches, and reserves more address space than there is memory. So no program runs
//! there: programs run in a child of it that is in the full sandbox (see `trace`), and [`enter_device`] takes from the
//! process itself what no driver needs: other users' and the node's own files, the network, other processes.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use bincode::{Decode, Encode};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
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
    begin(bounds)?;
    rustix::process::setrlimit(Resource::As, both(bounds.memory))?;
    rustix::process::setrlimit(Resource::Data, both(bounds.memory))?;
    rustix::process::setrlimit(Resource::Fsize, both(0))?;
    rustix::process::setrlimit(Resource::Nofile, both(OPEN_FILES_MAX))?;
    if let Some(seconds) = bounds.cpu_seconds {
        rustix::process::setrlimit(Resource::Cpu, both(seconds.max(1)))?;
    }
    Ok(enforced(nothing().and_then(RulesetCreated::restrict_self)))
}

/// Ties this process's life to that of the thread that started it.
///
/// # Errors
/// When the system refuses.
pub fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Gives the calling thread the lowest priority, for work that nobody waits for.
pub fn step_back() {
    const LOWEST: i32 = 19;
    // On Linux priorities are the threads'. Where it is refused, the work is as urgent as all other.
    let _ = rustix::process::nice(LOWEST);
}

/// What every child begins with: death with the parent, first to go when memory is short, no new privileges, no core dump,
/// low priority.
fn begin(bounds: &Bounds) -> io::Result<()> {
    die_with_parent()?;
    // When the machine runs out of memory, the kernel shall take this child and not the node. A kernel that forbids it still
    // has the other limits.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_MAX);
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::setrlimit(Resource::Core, both(0))?;
    // Priority is a courtesy to the node, not a wall.
    let _ = rustix::process::nice(bounds.nice);
    Ok(())
}

const fn both(value: u64) -> Rlimit {
    Rlimit { current: Some(value), maximum: Some(value) }
}

/// The newest interface whose rights are known here; an older kernel enforces those that it knows.
const LANDLOCK: ABI = ABI::V6;

/// Rules that take away every path, network address and abstract socket that this kernel's Landlock knows of.
fn nothing() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()
}

fn enforced(status: Result<RestrictionStatus, RulesetError>) -> bool {
    status.is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced)
}

/// Where drivers, their libraries and their settings lie. What of it is missing is left out.
const DRIVER_READS: [&str; 24] = [
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/bin",
    "/sbin",
    "/opt",
    "/nix/store",
    "/proc",
    "/sys",
    "/run/opengl-driver",
    "/run/nvidia-persistenced",
    "/run/udev",
    "/etc/OpenCL",
    "/etc/alternatives",
    "/etc/group",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/nvidia",
    "/etc/passwd",
    "/var/lib/dkms",
];
/// Device files, shared memory among them.
const DRIVER_WRITES: [&str; 1] = ["/dev"];

/// Paths that a driver needs beside the usual ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Files and folders to read and execute: the own binary, a driver in an unusual place.
    pub read: Vec<PathBuf>,
    /// Folders to write: caches.
    pub write: Vec<PathBuf>,
}

/// First step of a process that drives a device, on the main thread before any other thread exists. No limit on address
/// space: drivers reserve what the device could map. Host memory is bounded by the estimate before each proof, and by the
/// kernel, which takes this process first.
///
/// # Errors
/// A refused limit.
pub(crate) fn enter_device(bounds: &Bounds, reach: &Reach) -> io::Result<Sandbox> {
    begin(bounds)?;
    let reads = || DRIVER_READS.iter().map(PathBuf::from).chain(reach.read.iter().cloned());
    let writes = || DRIVER_WRITES.iter().map(PathBuf::from).chain(reach.write.iter().cloned());
    let rules = nothing()
        .and_then(|rules| rules.add_rules(path_beneath_rules(reads(), AccessFs::from_read(LANDLOCK))))
        .and_then(|rules| rules.add_rules(path_beneath_rules(writes(), AccessFs::from_all(LANDLOCK))));
    let landlock = enforced(rules.and_then(RulesetCreated::restrict_self));
    let seccomp = device_filter().is_ok_and(|filter| seccompiler::apply_filter(&filter).is_ok());
    Ok(Sandbox { landlock, seccomp })
}

/// System calls that no driver needs and that lead out of the process.
const DEVICE_REFUSED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsopen,
    libc::SYS_init_module,
    // Its rings would carry calls past this filter.
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];
/// The only kinds of sockets that drivers use: to their own services, and to the kernel.
const DEVICE_SOCKETS: [libc::c_int; 2] = [libc::AF_UNIX, libc::AF_NETLINK];

fn device_filter() -> Result<BpfProgram, seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = DEVICE_REFUSED.iter().map(|number| (*number, vec![])).collect();
    let others: Result<Vec<_>, _> = DEVICE_SOCKETS
        .iter()
        .map(|kind| SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, u64::from(kind.unsigned_abs())))
        .collect();
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(others?)?]);
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)?;
    Ok(BpfProgram::try_from(filter)?)
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
