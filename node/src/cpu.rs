//! Refuses a CPU below the level that this binary was compiled for, in words instead of an illegal instruction.
//!
//! The standard library's feature detection can't be used for this: for features that the compiler was allowed to use it
//! answers "yes" without asking the CPU.

use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

/// A CPU feature: name, CPUID leaf, register (b, c, d), bit, and whether the operating system must save its registers.
struct Feature {
    name: &'static str,
    leaf: u32,
    register: u8,
    bit: u32,
    state: State,
}

/// Registers that the operating system has to save for a feature.
#[derive(Clone, Copy, PartialEq)]
enum State {
    None,
    Avx,
    Avx512,
}

const fn feature(name: &'static str, leaf: u32, register: u8, bit: u32, state: State) -> Feature {
    Feature { name, leaf, register, bit, state }
}

/// What x86-64-v3 adds that matters here.
const V3: [Feature; 7] = [
    feature("fma", 1, b'c', 12, State::Avx),
    feature("movbe", 1, b'c', 22, State::None),
    feature("avx", 1, b'c', 28, State::Avx),
    feature("f16c", 1, b'c', 29, State::Avx),
    feature("bmi1", 7, b'b', 3, State::None),
    feature("avx2", 7, b'b', 5, State::Avx),
    feature("bmi2", 7, b'b', 8, State::None),
];

/// What x86-64-v4 adds.
const V4: [Feature; 5] = [
    feature("avx512f", 7, b'b', 16, State::Avx512),
    feature("avx512dq", 7, b'b', 17, State::Avx512),
    feature("avx512cd", 7, b'b', 28, State::Avx512),
    feature("avx512bw", 7, b'b', 30, State::Avx512),
    feature("avx512vl", 7, b'b', 31, State::Avx512),
];

/// The level that the compiler was told to use.
pub(crate) const fn compiled_level() -> &'static str {
    if cfg!(target_feature = "avx512f") {
        "x86-64-v4"
    } else if cfg!(target_feature = "avx2") {
        "x86-64-v3"
    } else {
        "x86-64"
    }
}

/// The highest level that this CPU and operating system have.
pub(crate) fn machine_level() -> &'static str {
    if missing(&V3).is_some() {
        "x86-64"
    } else if missing(&V4).is_some() {
        "x86-64-v3"
    } else {
        "x86-64-v4"
    }
}

/// The first feature that this binary needs and this machine lacks.
pub(crate) fn missing_feature() -> Option<&'static str> {
    match compiled_level() {
        "x86-64-v4" => missing(&V3).or_else(|| missing(&V4)),
        "x86-64-v3" => missing(&V3),
        _ => None,
    }
}

fn missing(features: &[Feature]) -> Option<&'static str> {
    features.iter().find(|f| !has(f)).map(|f| f.name)
}

fn has(feature: &Feature) -> bool {
    let most = __cpuid(0).eax;
    if feature.leaf > most {
        return false;
    }
    let answer = __cpuid_count(feature.leaf, 0);
    let register = match feature.register {
        b'b' => answer.ebx,
        b'c' => answer.ecx,
        _ => answer.edx,
    };
    let saved = match feature.state {
        State::None => true,
        // XMM and YMM; for AVX-512 also the mask registers and both halves of ZMM.
        State::Avx => saved_registers() & 0b110 == 0b110,
        State::Avx512 => saved_registers() & 0b1110_0110 == 0b1110_0110,
    };
    saved && register & (1 << feature.bit) != 0
}

/// The register sets that the operating system saves, XCR0; 0 when it saves none by this mechanism.
fn saved_registers() -> u64 {
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(1).ecx & OSXSAVE == 0 {
        return 0;
    }
    #[allow(unsafe_code, reason = "reading XCR0 has no safe wrapper")]
    // SAFETY: OSXSAVE, checked above, says that the instruction exists and the operating system has enabled it.
    unsafe {
        xcr0()
    }
}

#[target_feature(enable = "xsave")]
fn xcr0() -> u64 {
    #[allow(unsafe_code, reason = "the intrinsic is unsafe for its register number")]
    // SAFETY: register 0 exists wherever the instruction does.
    unsafe {
        _xgetbv(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_runs_this_binary_and_agrees_with_the_kernel() {
        assert_eq!(missing_feature(), None);
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = info.lines().find(|l| l.starts_with("flags")).unwrap();
        let known = |name: &str| flags.split_whitespace().any(|flag| flag == name);
        for feature in V3.iter().chain(&V4) {
            assert_eq!(has(feature), known(feature.name), "{}", feature.name);
        }
    }
}
