//! The worker of a node: this binary's device behind the same protocol as the node's own worker. Owns how the device is
//! opened and tested; protocol, sandbox and the strict verification of every proof are `prover`'s.
//!
//! Two processes: `worker prove` drives the device and runs no program; its child `worker trace` runs programs in the full
//! sandbox and knows no driver.

use prover::fleet::driver;
use prover::worker::{Ahead, DeviceProcess, Kind, Opened, device_main, main};

use crate::cairo::{Cairo, check};
use crate::constraints;
use crate::device::{Options, open};
use crate::self_test;

/// The whole life of a worker process of this kind. Call it before any thread is started.
pub fn run(kind: Kind, options: &Options) -> ! {
    if kind != Kind::Prove {
        main(kind);
    }
    let setup = DeviceProcess {
        reach: driver::reach(|name| std::env::var_os(name)),
        tracer: vec!["worker".into()],
        tracer_environment: Vec::new(),
    };
    device_main(&setup, || {
        let runtime = open(options).map_err(|error| error.to_string())?;
        self_test::ensure(runtime, options.cache.as_deref()).map_err(|error| error.to_string())?;
        Ok(Opened {
            backend: Cairo::new(runtime),
            activity: Box::new(move || runtime.activity()),
            compile: Box::new(compile),
        })
    })
}

/// Threads that compile ahead; each may take some hundred MiB of the compiler's.
const COMPILERS_MAX: usize = 4;

/// Compiles the kernels of Cairo's constraints while no proof is in work, or with a proof that waits for some of them.
fn compile(ahead: &Ahead) -> Result<u32, String> {
    let count = |programs: usize| u32::try_from(programs).unwrap_or(u32::MAX);
    let threads = rayon::current_num_threads().div_ceil(2).min(COMPILERS_MAX);
    let may_go = || ahead.may_go() || constraints::are_awaited();
    let done = check::compile_ahead(threads, &may_go, &|ready, all| ahead.tell(count(ready), count(all)));
    done.map(count).map_err(|error| error.to_string())
}
