//! Embeds the bootloader and the binding program that scripts/setup.sh fetched, compressed.
//!
//! The pinned digests make a build from other assets impossible: the verifier knows exactly these programs.

use std::path::{Path, PathBuf};

/// File name and BLAKE3 of what `scripts/strip-program.py` writes.
const ASSETS: [(&str, &str); 2] = [
    ("simple_bootloader.json", "5602cc60df6a1d063a93dc140e9f8ca0c7a30ae88f0fd5e038d3c2d9279fc646"),
    ("simple_output.json", "67d6a8f3c0ed5dd7cb1b6443e468313739e2713f4fc385ae60b41b5aa55bf92f"),
];

/// The assets change with a release, so the build may take its time.
const ZSTD_LEVEL: i32 = 19;

fn stop(message: &str) -> ! {
    eprintln!("{message}");
    std::process::exit(1);
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=assets");
    let out = std::env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_else(|| stop("cargo did not set OUT_DIR"));
    for (name, digest) in ASSETS {
        let path = Path::new("assets").join(name);
        let bytes = std::fs::read(&path).unwrap_or_else(|error| {
            stop(&format!("actors/prover/{}: {error}: run scripts/setup.sh once, then build again", path.display()))
        });
        let found = blake3::hash(&bytes).to_hex();
        if found.as_str() != digest {
            stop(&format!(
                "actors/prover/{}: digest is {found}, expected {digest}: remove the folder and run scripts/setup.sh again",
                path.display()
            ));
        }
        let packed =
            zstd::encode_all(bytes.as_slice(), ZSTD_LEVEL).unwrap_or_else(|error| stop(&format!("zstd: {error}")));
        let target = out.join(format!("{name}.zst"));
        if let Err(error) = std::fs::write(&target, packed) {
            stop(&format!("{}: {error}", target.display()));
        }
    }
}
