//! All targets in one binary: `FUZZ_TARGET` names the decoder that gets the bytes. Relies on `testnet::fuzz`, which the
//! stable runner uses as well.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use testnet::fuzz::{TARGETS, Target};

fn chosen() -> &'static Target {
    static CHOSEN: OnceLock<&'static Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            panic!("FUZZ_TARGET is '{name}', it must be one of {}", names.join(", "))
        })
    })
}

fuzz_target!(|bytes: &[u8]| (chosen().run)(bytes));
