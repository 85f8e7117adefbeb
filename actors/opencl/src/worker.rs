//! The worker of a node: this binary's device behind the same protocol as the node's own worker. Owns how the device is
//! opened and tested; protocol, sandbox and the strict verification of every proof are `prover`'s.
//!
//! Two processes: `worker prove` drives the device and runs no program; its child `worker trace` runs programs in the full
//! sandbox and knows no driver.

use prover::fleet::driver;
use prover::worker::{DeviceProcess, Kind, Opened, device_main, main};

use crate::cairo::Cairo;
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
        Ok(Opened { backend: Cairo::new(runtime), activity: Box::new(move || runtime.activity()) })
    })
}
