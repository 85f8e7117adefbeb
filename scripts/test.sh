#!/usr/bin/env bash
# Sets up, then runs every check and test. Stops at the first check that fails; the last output is the test runner's
# summary. One profile and one target folder serve all steps.
#
#     scripts/test.sh          what every change must pass
#     scripts/test.sh --all    the long runs as well, see .config/nextest.toml
set -euo pipefail

case "${1:-}" in
    "") profile=default ;;
    --all) profile=all ;;
    *)
        echo "test.sh: unknown option '$1'. Remedy: none, or --all" >&2
        exit 2
        ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# shellcheck source=scripts/env.sh
. "$root/scripts/env.sh"

times=()
# Runs a check under the name $1 and notes its time.
step() {
    local name=$1 start=$SECONDS
    shift
    echo
    echo "== $name"
    if ! "$@"; then
        echo "test.sh: the check '$name' failed; its messages are above" >&2
        exit 1
    fi
    times+=("$(printf '%6d s  %s' $((SECONDS - start)) "$name")")
}

lint_scripts() { shellcheck --external-sources scripts/*.sh .ci/run; }
document() { RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --workspace --no-deps --quiet; }
lint() { cargo clippy --release --locked --workspace --all-targets --quiet -- -D warnings; }
build_tests() { cargo nextest run --release --locked --workspace --no-run; }

step "set-up" scripts/setup.sh --checks
step "format" cargo fmt --all --check
step "shell scripts" lint_scripts
step "build" build_tests
step "clippy" lint
step "documentation" document
step "documentation examples" cargo test --release --locked --workspace --doc --quiet
step "verifier alone" scripts/check-verifier.sh

echo
echo "== times so far"
printf '%s\n' "${times[@]}"
echo
echo "== tests"
# Tests start many networks on one machine: provers that are warm before their first job would cost more than they save.
export PROOFMESH_PROVER__WARM_AT_START=false
exec cargo nextest run --release --locked --workspace --profile "$profile"
