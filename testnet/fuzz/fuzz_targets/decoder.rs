//! All targets in one binary: `FUZZ_TARGET` names the decoder that gets the bytes. Relies on `testnet::fuzz`, which the
//! stable runner uses as well.

#![no_main]

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use testnet::fuzz::{TARGETS, Target};

fn chosen() -> &'static Target {
    static CHOSEN: OnceLock<&'static Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let target = TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            panic!("FUZZ_TARGET is '{name}', it must be one of {}", names.join(", "))
        });
        // libFuzzer's hook aborts at every panic, also at one inside the boundary that decoders put around the libraries of
        // others (cairo-vm panics on some programs). What matters is a panic that leaves the decoder.
        set_hook(Box::new(|_| ()));
        target
    })
}

fuzz_target!(|bytes: &[u8]| {
    let target = chosen();
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))) {
        let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        eprintln!("the decoder {} broke its word: {}", target.name, words.unwrap_or("a panic without words"));
        std::process::abort();
    }
});
