//! The node with faults that a test asks for: it is the shipped program, and in addition dies at named points, notes what
//! it signs (see [`testnet::faults`]) and has a wrong wall clock, each only where an environment variable says so.

use std::process::ExitCode;
use std::sync::atomic::{AtomicI64, Ordering};

use testnet::faults;

/// Milliseconds by which the wall clock is wrong.
static CLOCK_MS: AtomicI64 = AtomicI64::new(0);

/// Takes the place of the C library's function in this binary, for the standard library and everything linked in.
///
/// # Safety
/// `time` must point to a `timespec` that may be written, as the C library's function asks.
#[allow(unsafe_code, reason = "a wall clock can be shifted for one process only below the standard library")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    // SAFETY: the call takes just these arguments, and the caller vouches for the pointer.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    let shift_ms = CLOCK_MS.load(Ordering::Relaxed);
    let is_wall = clock == libc::CLOCK_REALTIME || clock == libc::CLOCK_REALTIME_COARSE;
    if result != 0 || !is_wall || shift_ms == 0 {
        return i32::from(result != 0).wrapping_neg();
    }
    // SAFETY: the kernel has just written through the pointer, and nobody else holds it.
    let time = unsafe { &mut *time };
    let ns = time.tv_nsec.saturating_add(shift_ms.rem_euclid(1000).saturating_mul(1_000_000));
    time.tv_sec = time.tv_sec.saturating_add(shift_ms.div_euclid(1000)).saturating_add(ns.div_euclid(1_000_000_000));
    time.tv_nsec = ns.rem_euclid(1_000_000_000);
    0
}

fn main() -> ExitCode {
    let shift = std::env::var(faults::CLOCK_MS).ok().map_or(Ok(0), |text| text.parse());
    match (shift, faults::from_environment()) {
        (Ok(shift), Ok(crossings)) => {
            CLOCK_MS.store(shift, Ordering::Relaxed);
            node::main(|| crossings)
        }
        (Err(error), _) => refuse(&format!("{}: {error}", faults::CLOCK_MS)),
        (_, Err(error)) => refuse(&format!("{error:#}")),
    }
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("error: {why}");
    ExitCode::from(2)
}
