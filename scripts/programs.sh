#!/usr/bin/env bash
# Compiles the example programs from their sources and compares the result with the committed files.
#
# Usage: scripts/programs.sh [--update]
#   --update   replaces the committed files instead of comparing
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/env.sh
. "$root/scripts/env.sh"

cairo_version=0.14.0.1
programs=$root/testnet/programs
venv=$target_base/cairo-lang-$cairo_version

update=false
case "${1-}" in
    "") ;;
    --update) update=true ;;
    *) echo "usage: scripts/programs.sh [--update]" >&2 && exit 2 ;;
esac

install_compiler() {
    [[ -x $venv/bin/cairo-compile ]] && return
    # libgmp for a cryptography package that the compiler's wheel builds, venv for the folder.
    local package missing=()
    for package in libgmp3-dev python3-dev python3-venv; do
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    if ((${#missing[@]})); then
        echo "programs: installing ${missing[*]}"
        local sudo=()
        ((EUID == 0)) || sudo=(sudo)
        "${sudo[@]}" apt-get update -qq
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
    fi
    echo "programs: installing cairo-lang $cairo_version from PyPI into $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check setuptools "cairo-lang==$cairo_version" || {
        rm -rf "$venv"
        echo "programs: pip could not install cairo-lang; its message above says why" >&2
        exit 1
    }
}

install_compiler
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$programs/." "$work"

for name in fibonacci merkle; do
    echo "programs: compiling $name"
    # No debug information (it holds paths of this machine), no proof mode (the bootloader runs these programs).
    "$venv/bin/cairo-compile" "$work/$name/$name.cairo" --no_debug_info --output "$work/$name/$name.json"
done
echo "programs: assembling polynomial and merkle-pie"
(cd "$root" && cargo run --quiet --release --package testnet --example assemble -- "$work")

if $update; then
    cp "$work/fibonacci/fibonacci.json" "$programs/fibonacci/"
    cp "$work/merkle/merkle.json" "$programs/merkle/"
    cp "$work/polynomial/polynomial.executable.json" "$programs/polynomial/"
    cp "$work/merkle-pie/merkle.pie.zip" "$programs/merkle-pie/"
    echo "programs: updated"
elif diff -rq "$work" "$programs"; then
    echo "programs: all compiled files are what their sources give"
else
    echo "programs: the files named above differ from their sources. Remedy: scripts/programs.sh --update" >&2
    exit 1
fi
