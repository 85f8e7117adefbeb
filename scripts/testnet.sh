#!/usr/bin/env bash
# A proofmesh network on this machine: sets up, builds, starts N node processes on loopback, proves a Cairo program and
# shows the certified receipt. Keeps running until Ctrl-C, or with --once stops by itself after the receipt was verified.
set -euo pipefail

usage() {
    cat <<USAGE
usage: scripts/testnet.sh [--nodes N] [--once] [--base-port P] [--dir DIR] [--fresh] [--block-ms MS] [--empty-block-ms MS]
  --nodes N            node processes, each validator and prover (default 4, at most 16; --once needs at least 4)
  --once               stop node 0 after the acknowledgement, verify another node's receipt offline, stop everything
  --base-port P        node i listens on P+10i (p2p) and P+10i+1 (RPC), on 127.0.0.1 (default 27600)
  --dir DIR            homes, logs, genesis and receipt (default ~/.local/share/proofmesh/testnet); resumed if it exists
  --fresh              start a new chain: delete what an earlier testnet left in DIR
  --block-ms MS        least time between blocks with work (default 500, at most 60000)
  --empty-block-ms MS  time between blocks without work (default 10000, at least --block-ms)
USAGE
}
usage_error() {
    echo "testnet.sh: $1" >&2
    usage >&2
    exit 2
}

nodes=4
base_port=27600
# Only what was named is passed on: a testnet that is resumed keeps what it has.
named=()
dir=${XDG_DATA_HOME:-$HOME/.local/share}/proofmesh/testnet
once=false
fresh=false
block_ms=
empty_block_ms=

# Checks that the value $2 of option $1 is a whole number from $3 to $4.
check_number() {
    [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] || usage_error "$1 is '$2': a whole number from $3 to $4 is needed"
    (($2 >= $3 && $2 <= $4)) || usage_error "$1 is $2: it must be from $3 to $4"
}

while (($#)); do
    case $1 in
        --nodes | --base-port | --dir | --block-ms | --empty-block-ms)
            (($# >= 2)) || usage_error "$1 needs a value"
            [[ -n $2 ]] || usage_error "$1 has an empty value"
            case $1 in
                --nodes) nodes=$2 && named+=(--nodes "$2") ;;
                --base-port) base_port=$2 && named+=(--base-port "$2") ;;
                --dir) dir=$2 ;;
                --block-ms) block_ms=$2 ;;
                --empty-block-ms) empty_block_ms=$2 ;;
            esac
            shift 2
            ;;
        --once) once=true && shift ;;
        --fresh) fresh=true && shift ;;
        -h | --help) usage && exit 0 ;;
        *) usage_error "unknown option '$1'" ;;
    esac
done

check_number --nodes "$nodes" 1 16
if $once && ((nodes < 4)); then
    usage_error "--once stops a node and goes on without it, which needs --nodes 4 or more, not $nodes"
fi
check_number --base-port "$base_port" 1024 $((65535 - 10 * (nodes - 1) - 1))
[[ -z $block_ms ]] || check_number --block-ms "$block_ms" 1 60000
[[ -z $empty_block_ms ]] || check_number --empty-block-ms "$empty_block_ms" "${block_ms:-500}" 3600000
[[ $dir == /* ]] || dir=$PWD/$dir
[[ ! -e $dir || -d $dir ]] || usage_error "--dir is '$dir', which is no folder"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/env.sh
. "$root/scripts/env.sh"
node=$target_base/release/proofmesh
harness=$target_base/release/proofmesh-testnet

say_needs() {
    # One proof of the example takes about 2 GB in whichever node proves it; a node itself about 0.2 GB.
    local ram_gb=$(((30 + 3 * nodes + 9) / 10)) disk_gb=1 ram_here disk_here folder=$target_base
    echo "testnet: $nodes nodes on 127.0.0.1, ports $base_port to $((base_port + 10 * (nodes - 1) + 1)), data in $dir"
    if [[ -x $node && -x $harness ]]; then
        echo "testnet: needs about $ram_gb GB RAM, $disk_gb GB disk and half a minute (already built)"
    else
        ((ram_gb >= 8)) || ram_gb=8
        disk_gb=10
        echo "testnet: needs about $ram_gb GB RAM, $disk_gb GB disk and, once, tens of minutes on two cores" \
            "to set up and build; after that it starts at once"
    fi
    ram_here=$(awk '/^MemTotal/ { print int($2 / 1048576 + 0.5) }' /proc/meminfo)
    while [[ ! -d $folder ]]; do folder=$(dirname "$folder"); done
    disk_here=$(df -Pk "$folder" | awk 'NR == 2 { print int($4 / 1048576) }')
    echo "testnet: this machine has $ram_here GB RAM, $disk_here GB free in $folder, $(nproc) cores, level $cpu_level"
    ((ram_here >= ram_gb)) || echo "testnet: warning: less RAM than that; a proof may be declined, a build may fail" >&2
    ((disk_here >= disk_gb)) || echo "testnet: warning: less disk than that; set CARGO_TARGET_DIR and --dir" >&2
}

say_needs
"$root/scripts/setup.sh"
echo "testnet: building (cargo shows its progress)"
# Both packages in one call: cargo then builds the dependencies with the same features as the tests do.
(cd "$root" && cargo build --release --locked --package proofmesh --package testnet --bin proofmesh --bin proofmesh-testnet) || {
    echo "testnet: the build failed. Remedy: read the first error above; with too little memory, CARGO_BUILD_JOBS=1 helps" >&2
    exit 1
}

arguments=(run --bin "$node" --dir "$dir" "${named[@]}"
    --program "$root/testnet/programs/fibonacci/fibonacci.json")
if $once; then arguments+=(--once); fi
if $fresh; then arguments+=(--fresh); fi
if [[ -n $block_ms ]]; then arguments+=(--block-ms "$block_ms"); fi
if [[ -n $empty_block_ms ]]; then arguments+=(--empty-block-ms "$empty_block_ms"); fi
# In place of this shell, so that Ctrl-C and SIGTERM reach the process that stops the nodes.
exec "$harness" "${arguments[@]}"
