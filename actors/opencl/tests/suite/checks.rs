//! Each check of the library's self-test as a test of its own.

use std::path::Path;

use opencl::device::{Choice, Options, Runtime, open};
use opencl::self_test::{CHECKS, Size, When, ensure, run_check};

/// The device of this test process.
fn device() -> &'static Runtime {
    let choice = std::env::var("PROOFGPU_DEVICE").map_or_else(|_| Choice::any(), |name| Choice::pinned(&name));
    let cache = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("opencl-kernels"));
    open(&Options { choice, cache, ..Options::default() }).expect("an OpenCL device: scripts/setup.sh installs PoCL")
}

fn check(name: &str) {
    let check = CHECKS.iter().find(|check| check.name == name).expect("a check of this name");
    if let Err(error) = run_check(device(), check, Size::Small) {
        panic!("{error}");
    }
}

/// What runs before a driver is used starts every kernel of the library, or fails and names the others.
#[test]
fn the_first_checks_start_every_kernel() {
    let runtime = device();
    assert!(ensure(runtime, None).expect("passed"), "without a folder nothing is known to have passed");
    let kernels = runtime.library_kernels();
    assert!(kernels.len() >= 40, "{kernels:?}");
    assert!(kernels.iter().all(|kernel| runtime.starts(kernel) > 0));
    // Kernels of constraints are compared when they are built, without a check of their own.
    let folder = tempfile::tempdir().expect("a folder");
    assert!(ensure(runtime, Some(folder.path())).expect("passed"));
    assert!(!ensure(runtime, Some(folder.path())).expect("known"), "a driver that has passed is not asked again");
}

macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*

        #[test]
        fn every_check_is_a_test() {
            let checks = CHECKS.iter().filter(|check| check.when != When::Large);
            assert_eq!([$(stringify!($name)),*].to_vec(), checks.map(|check| check.name).collect::<Vec<_>>());
        }
    };
}

tests! {
    arithmetic_holds_on_edges_and_both_zeros,
    bit_reversal_is_stwos,
    columns_are_copied_split_and_changed,
    strict_mode_forbids_reading_one_by_one,
    a_length_that_is_no_power_of_two_is_refused,
    twiddles_are_stwos,
    transforms_are_stwos,
    the_plural_methods_treat_columns_of_many_sizes,
    a_subdomain_has_the_view_of_the_twiddles,
    values_at_points_are_stwos,
    trees_are_stwos,
    sums_are_stwos,
    folds_are_stwos,
    quotients_are_stwos,
    the_proof_of_work_is_that_of_simd,
    random_constraints_have_the_cpu_values,
    another_program_compiles_nothing,
    many_constraints_are_split,
    without_a_kernel_the_host_evaluates_and_says_so,
    random_airs_with_lookups_give_the_simd_proof,
    small_proofs_are_the_simd_proofs,
    wide_fibonacci_is_the_simd_proof,
    other_parameters_are_the_simd_proof_too,
    simd_proofs_do_not_depend_on_the_threads,
    a_failing_device_costs_time_but_not_the_proof,
    a_changed_proof_is_refused,
    poseidon2_traces_are_the_hosts,
    poseidon2_is_the_simd_proof,
    forged_traces_are_refused,
}
