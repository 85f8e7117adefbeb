#!/usr/bin/env bash
# Shows that the verifier stands alone: the crate `proof` builds on the stable language (bootstrap switched off), without the
# prover features, for a common CPU, in a target folder of its own, and without our patch of stwo-cairo-common. Then shows
# that the first check can fail: with the prover feature added it must be refused for its unstable language features.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$HOME/.cargo/bin:$PATH"
base="${CARGO_TARGET_DIR:-$HOME/.cache/proofmesh/target}"
# The shared target folder may be named by CPU level; this one lies beside it.
case "$base" in */x86-64-v[0-9]) base="$(dirname "$base")" ;; esac
export CARGO_TARGET_DIR="$base/verifier-check"
export RUSTC_BOOTSTRAP=-1
export RUSTFLAGS="-C target-cpu=x86-64-v3"
# The workspace's own configuration switches bootstrap on for the prover's crates; the environment goes before it.
mkdir -p "$CARGO_TARGET_DIR"

echo "verifier: builds without prover features and without bootstrap ..."
cargo check --quiet --locked -p proof

echo "verifier: builds from the unpatched crates, too ..."
copy="$(mktemp -d)"
log="$(mktemp)"
trap 'rm -rf "$copy" "$log"' EXIT
mkdir "$copy/protocol"
cp -r protocol/types protocol/proof "$copy/protocol/"
cp Cargo.lock rust-toolchain.toml "$copy/"
awk '
    /^\[/ { section = $0 }
    section == "[patch.crates-io]" { next }
    /^members = \[/ { print "members = [\"protocol/types\", \"protocol/proof\"]"; skip = 1; next }
    skip { if (/^\]/) skip = 0; next }
    { print }
' Cargo.toml > "$copy/Cargo.toml"
(cd "$copy" && cargo check --quiet -p proof)

echo "verifier: the check fails when the prover feature slips in ..."
if cargo check --quiet --locked -p proof --features stwo/prover > "$log" 2>&1; then
    echo "verifier: FAILED: with the prover feature the check passed, so it shows nothing" >&2
    exit 1
fi
if ! grep -q 'E0554' "$log"; then
    echo "verifier: FAILED: with the prover feature the check failed for another reason:" >&2
    tail -n 20 "$log" >&2
    exit 1
fi
echo "verifier: ok"
