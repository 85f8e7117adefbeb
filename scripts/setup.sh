#!/usr/bin/env bash
# Sets up a fresh Debian machine for building proofmesh: system packages, the Rust toolchain, cargo-nextest, the patched
# crate and the bootloader assets. Safe to run again: a second run only looks and takes about a second.
#
# Usage: scripts/setup.sh [--checks]
#   --checks   also installs what only scripts/test.sh needs (shellcheck, oclgrind)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/env.sh
. "$root/scripts/env.sh"

# C and C++ compiler for RocksDB and zstd, libclang for the bindings generator, python3 for the asset step below; the
# OpenCL loader for the binary proofmesh-gpu, and PoCL, an OpenCL driver for the CPU, for its tests.
packages=(build-essential ca-certificates clang curl libclang-dev pkg-config python3 ocl-icd-opencl-dev pocl-opencl-icd)
nextest_version=0.9.143

patched_crate=stwo-cairo-common
patched_version=1.3.0
patched_sha256=eebe81829f8a38646df21c1865d528117f2f5ece765922fa0d9335d0af366b70
runner_crate=cairo-program-runner-lib
runner_version=1.3.1
runner_sha256=7ea514a5d0257c2b2abc19433cbb317c00606149c9187760f48368f2c9cd6223
# Programs of the runner crate that are bundled: path inside the crate, name of the stripped file.
assets=(
    "resources/compiled_programs/bootloaders/simple_bootloader_compiled.json simple_bootloader.json"
    "resources/compiled_programs/test_programs/simple_output_compiled.json simple_output.json"
)

patch_dir=$root/actors/prover/patches/$patched_crate
assets_dir=$root/actors/prover/assets
# Not inside a folder whose changes make cargo build again.
stamp=$root/actors/prover/patches/.setup-stamp

say() { echo "setup: $*"; }
die() {
    echo "setup: $1" >&2
    echo "       remedy: $2" >&2
    exit 1
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "system packages are missing (${missing_packages[*]}) and this user may not install them" \
            "run as root: apt-get install -y ${missing_packages[*]}"
    fi
}

install_packages() {
    local package
    missing_packages=()
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        local tool
        for tool in c++ clang curl python3; do
            command -v "$tool" >/dev/null || missing_packages+=("$tool")
        done
        ((${#missing_packages[@]} == 0)) && return
        die "this is not a Debian system and these tools are missing: ${missing_packages[*]}" \
            "install them and the development files of libclang, then run this script again"
    fi
    for package in "${packages[@]}"; do
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
            missing_packages+=("$package")
    done
    ((${#missing_packages[@]} == 0)) && return
    say "installing system packages: ${missing_packages[*]}"
    as_root apt-get update -qq || die "apt-get update failed" "check the network and /etc/apt/sources.list"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing_packages[@]}" || die "apt-get install failed" "read its message above, then run this script again"
}

install_toolchain() {
    local channel installed
    channel=$(sed -n 's/^channel *= *"\(.*\)"$/\1/p' "$root/rust-toolchain.toml")
    [[ -n $channel ]] || die "rust-toolchain.toml names no channel" "restore the file from the repository"
    if ! command -v rustup >/dev/null; then
        say "installing rustup by its official installer"
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
            RUSTUP_INIT_SKIP_PATH_CHECK=yes sh -s -- -y -q --no-modify-path --profile minimal --default-toolchain none ||
            die "the rustup installer failed" "check the network, or install rustup from your distribution"
    fi
    installed=$(rustup component list --toolchain "$channel" --installed 2>/dev/null || true)
    if [[ $installed != *rustc-* || $installed != *clippy-* || $installed != *rustfmt-* ]]; then
        say "installing the Rust toolchain $channel"
        rustup toolchain install "$channel" --profile minimal --component clippy --component rustfmt ||
            die "the toolchain could not be installed" "check the network, then run this script again"
    fi
    export RUSTUP_TOOLCHAIN=$channel
}

install_nextest() {
    cargo nextest --version >/dev/null 2>&1 && return
    say "building cargo-nextest $nextest_version (several minutes, once)"
    # Outside the checkout and with plain flags: nothing of our build configuration applies to a tool.
    (cd / && env -u RUSTFLAGS CARGO_TARGET_DIR="$target_base/tools" cargo install --locked \
        --no-default-features --features default-no-update "cargo-nextest@$nextest_version") ||
        die "cargo-nextest could not be built" "read the message above, then run this script again"
    rm -rf "${target_base:?}/tools"
}

# Prints the path of the downloaded archive of crate $1 version $2, whose SHA-256 must be $3.
crate_archive() {
    local archive sum seen=
    for archive in "${CARGO_HOME:-$HOME/.cargo}"/registry/cache/*/"$1-$2.crate"; do
        [[ -f $archive ]] || continue
        sum=$(sha256sum "$archive" | cut -d' ' -f1)
        if [[ $sum == "$3" ]]; then
            echo "$archive"
            return
        fi
        seen+=" $archive has $sum;"
    done
    die "no archive of $1 $2 with the expected SHA-256 $3:${seen:- none was downloaded}" \
        "delete the named file and run this script again; if it stays, the registry serves another file: do not build"
}

# Replaces folder $2 by folder $1 only if they differ: unchanged files keep their time, so nothing is rebuilt.
install_folder() {
    diff -rq "$1" "$2" >/dev/null 2>&1 && return
    rm -rf "$2"
    mkdir -p "$(dirname "$2")"
    mv "$1" "$2"
}

fetch_sources() {
    local work=$1 archive count entry from to
    say "fetching $patched_crate $patched_version and $runner_crate $runner_version"
    # A package of its own, outside the workspace: inside it the patch would hide the original. Our lock file keeps all
    # other versions as they are, so nothing is downloaded that the build does not need anyway.
    mkdir -p "$work/package/src"
    : >"$work/package/src/lib.rs"
    cp "$root/Cargo.lock" "$work/package/Cargo.lock"
    cat >"$work/package/Cargo.toml" <<MANIFEST
[package]
name = "fetch"
version = "0.0.0"
edition = "2024"
[dependencies]
$patched_crate = "=$patched_version"
$runner_crate = "=$runner_version"
[workspace]
MANIFEST
    (cd "$work/package" && cargo fetch --quiet --target x86_64-unknown-linux-gnu) ||
        die "the crates could not be fetched" "check the network, then run this script again"

    archive=$(crate_archive "$patched_crate" "$patched_version" "$patched_sha256")
    tar -xzf "$archive" -C "$work"
    local sources=$work/$patched_crate-$patched_version/src
    count=$(grep -o '\bto_int\b' "$sources/prover_types/simd.rs" | wc -l) || true
    ((count == 1)) || die "expected to_int once in $patched_crate's src/prover_types/simd.rs, found it $count times" \
        "the archive is not the one this script was written for; compare the version pinned in it"
    sed -i 's/\bto_int\b/to_simd/' "$sources/prover_types/simd.rs"
    install_folder "$sources" "$patch_dir/src"
    say "patched sources are in ${patch_dir#"$root"/}/src"

    archive=$(crate_archive "$runner_crate" "$runner_version" "$runner_sha256")
    tar -xzf "$archive" -C "$work"
    mkdir "$work/assets"
    for entry in "${assets[@]}"; do
        read -r from to <<<"$entry"
        python3 "$root/scripts/strip-program.py" "$work/$runner_crate-$runner_version/$from" "$work/assets/$to" ||
            die "scripts/strip-program.py failed on $from" "read its message above"
        mkdir -p "$assets_dir"
        cmp -s "$work/assets/$to" "$assets_dir/$to" || mv "$work/assets/$to" "$assets_dir/$to"
    done
    say "bundled programs are in ${assets_dir#"$root"/}"
}

# Everything that determines the fetched files: these scripts hold the versions, checksums and the patch.
fingerprint_inputs() { (cd "$root" && sha256sum scripts/setup.sh scripts/strip-program.py); }
# The fetched files themselves.
fingerprint_outputs() {
    (cd "$root" && find "${patch_dir#"$root"/}/src" "${assets_dir#"$root"/}" -type f -print0 |
        sort -z | xargs -0 sha256sum)
}

install_sources() {
    if [[ -f $stamp && -d $patch_dir/src ]] &&
        [[ $(cat "$stamp") == "$(fingerprint_inputs && fingerprint_outputs)" ]]; then
        return
    fi
    local work
    work=$(mktemp -d)
    # shellcheck disable=SC2064 # the folder's name is wanted as it is now
    trap "rm -rf '$work'" EXIT
    fetch_sources "$work"
    { fingerprint_inputs && fingerprint_outputs; } >"$stamp"
    rm -rf "$work"
    trap - EXIT
}

checks=false
case "${1-}" in
    "") ;;
    --checks) checks=true ;;
    *) echo "usage: scripts/setup.sh [--checks]" >&2 && exit 2 ;;
esac
if $checks; then packages+=(shellcheck oclgrind); fi

install_packages
install_toolchain
install_nextest
install_sources
say "ready (CPU level $cpu_level, binaries in $target_base/release)"
