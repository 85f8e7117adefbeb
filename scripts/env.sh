# Build environment, sourced by every script (and by hand: `. scripts/env.sh`).
#
# Chooses the CPU level, and from it the compiler flags and the target folder, so that check, clippy, doc, tests and the
# testnet share one build. Never `native`: a target folder shared with another machine would then hold code that crashes
# there. May be sourced any number of times. The variables of its own stay unexported: the node reads every PROOFMESH_*
# variable as configuration.
# shellcheck shell=bash

# Prints the highest of the two supported x86-64 levels that the CPU described by the file $1 has; fails with a reason.
detect_cpu_level() {
    local flags flag missing=()
    flags=" $(grep -m1 '^flags' "$1" 2>/dev/null | cut -d: -f2) "
    # Levels of the x86-64 psABI; `abm` is what Linux calls lzcnt, `pni` is sse3.
    for flag in cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave; do
        [[ $flags == *" $flag "* ]] || missing+=("$flag")
    done
    if ((${#missing[@]})); then
        echo "proofmesh needs an x86-64-v3 CPU (AVX2, about 2013 or newer); this one lacks: ${missing[*]}." \
            "Remedy: use another machine, or a virtual machine that passes the host's CPU flags on." >&2
        return 1
    fi
    for flag in avx512f avx512bw avx512cd avx512dq avx512vl; do
        if [[ $flags != *" $flag "* ]]; then
            echo x86-64-v3
            return 0
        fi
    done
    echo x86-64-v4
}

# Points <base>/release at the folder of this level, so that binaries have one address on every machine.
link_release() {
    local link=$target_base/release
    mkdir -p "$CARGO_TARGET_DIR/release"
    if [[ -L $link ]]; then
        [[ $(readlink "$link") == "$cpu_level/release" ]] || ln -sfn "$cpu_level/release" "$link"
    elif [[ -e $link ]]; then
        echo "$link is in the way: it must be a link to $cpu_level/release. Remedy: move it away, or set" \
            "CARGO_TARGET_DIR to another folder." >&2
        return 1
    else
        ln -s "$cpu_level/release" "$link"
    fi
}

cpu_level=$(detect_cpu_level /proc/cpuinfo) || return 1

target_base=${CARGO_TARGET_DIR:-$HOME/.cache/proofmesh/target}
# Sourced before, here or in a parent: the variable already ends in a level.
target_base=${target_base%/x86-64-v[34]}
[[ $target_base == /* ]] || target_base=$PWD/$target_base

export CARGO_TARGET_DIR=$target_base/$cpu_level
export RUSTFLAGS="-C target-cpu=$cpu_level"
# Either would win over the two lines above or move the binaries.
unset CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET
link_release || return 1

# A toolchain installed a moment ago is not in the PATH of this shell yet.
case ":$PATH:" in
    *":${CARGO_HOME:-$HOME/.cargo}/bin:"*) ;;
    *) export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH" ;;
esac
