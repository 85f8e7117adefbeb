#!/usr/bin/env bash
# Measures a network of real nodes on this machine: sets up, builds, runs every measurement, prints a table and writes the
# figures to bench/latest.json in the target folder. Nothing else should run meanwhile.
set -euo pipefail

usage() {
    cat <<USAGE
usage: scripts/bench.sh [--quick] [--only NAMES] [--soak-s S] [--dir DIR] [--keep]
  --quick       shorter runs, all figures within five minutes after the build
  --only NAMES  some measurements, separated by commas: empty,transfers,ledger,catchup,blob,idle,jobs,cairo,soak
  --soak-s S    seconds of the load under which memory is watched (default 3600, with --quick 20)
  --dir DIR     homes of the measured nodes, on a file system on a disk (default: bench/nodes in the target folder)
  --keep        leave homes and logs of the last measurement there
USAGE
}
usage_error() {
    echo "bench.sh: $1" >&2
    usage >&2
    exit 2
}

arguments=()
dir=
while (($#)); do
    case $1 in
        --quick | --keep) arguments+=("$1") && shift ;;
        --only | --soak-s | --dir)
            (($# >= 2)) || usage_error "$1 needs a value"
            [[ -n $2 ]] || usage_error "$1 has an empty value"
            if [[ $1 == --dir ]]; then dir=$2; else arguments+=("$1" "$2"); fi
            shift 2
            ;;
        -h | --help) usage && exit 0 ;;
        *) usage_error "unknown option '$1'" ;;
    esac
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/env.sh
. "$root/scripts/env.sh"
bench=$target_base/bench
[[ -n $dir ]] || dir=$bench/nodes
[[ $dir == /* ]] || dir=$PWD/$dir

"$root/scripts/setup.sh"
echo "bench: building (cargo shows its progress)"
# Both packages in one call: cargo then builds the dependencies with the same features as the tests do.
(cd "$root" && cargo build --release --locked --package proofmesh --package testnet --bins) || {
    echo "bench: the build failed. Remedy: read the first error above; with too little memory, CARGO_BUILD_JOBS=1 helps" >&2
    exit 1
}
commit=$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
if [[ $commit != unknown && -n $(git -C "$root" status --porcelain 2>/dev/null) ]]; then
    commit=$commit-changed
fi
exec "$target_base/release/proofmesh-bench" --bin "$target_base/release/proofmesh" --dir "$dir" \
    --out "$bench/latest.json" --commit "$commit" "${arguments[@]}"
