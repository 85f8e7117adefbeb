//! The correctness suite, in the binary because there is no cargo on most machines with a GPU: every kernel against
//! stwo's CPU and SIMD backends on random and edge values, whole proofs against `SimdBackend`, and what must be refused.
//! Owns the list of checks, how one is run, and the note in the cache folder that says which driver has passed. The test
//! suite runs the same checks. A device that fails must not be used.

#![allow(clippy::expect_used, reason = "a failed expectation is a failed check: `run_check` makes an error of it")]

mod cairo;
mod columns;
mod constraints;
mod lookups;
mod operations;
mod poseidon2;
mod proofs;
mod transforms;
mod values;

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::constraints::{Compile, compile_mode, set_compile_mode};
use crate::device::Runtime;
use crate::error::{Error, Result, guarded};

/// Which sizes are tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// What a tool that interprets kernels takes in minutes.
    Tiny,
    /// What a processor takes in seconds.
    #[default]
    Small,
    /// What takes minutes without a GPU.
    Large,
}

/// What a check runs on.
pub struct Context {
    runtime: &'static Runtime,
    size: Size,
}

/// Logarithm of the largest columns of the tiny sizes.
const TINY_LOG_MAX: u32 = 6;

impl Context {
    fn large(&self) -> bool {
        self.size == Size::Large
    }

    /// Whether columns of 2^`log` are wanted.
    fn wants(&self, log: u32) -> bool {
        self.size > Size::Tiny || log <= TINY_LOG_MAX
    }
}

/// One check.
pub struct Check {
    /// Its name, also that of the test that runs it.
    pub name: &'static str,
    /// When it is run.
    pub when: When,
    run: fn(&Context),
}

/// When a check is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before a driver is used for the first time, and whenever the suite is run.
    First,
    /// Whenever the suite is run.
    Always,
    /// Only with the large sizes.
    Large,
}

macro_rules! checks {
    ($($when:ident $module:ident :: $name:ident),* $(,)?) => {
        /// All checks.
        pub const CHECKS: &[Check] =
            &[$(Check { name: stringify!($name), when: When::$when, run: $module::$name }),*];
    };
}

checks! {
    First columns::arithmetic_holds_on_edges_and_both_zeros,
    First columns::bit_reversal_is_stwos,
    Always columns::columns_are_copied_split_and_changed,
    Always columns::strict_mode_forbids_reading_one_by_one,
    Always columns::a_length_that_is_no_power_of_two_is_refused,
    First transforms::twiddles_are_stwos,
    First transforms::transforms_are_stwos,
    Always transforms::the_plural_methods_treat_columns_of_many_sizes,
    Always transforms::a_subdomain_has_the_view_of_the_twiddles,
    First transforms::values_at_points_are_stwos,
    First operations::trees_are_stwos,
    First operations::sums_are_stwos,
    First operations::folds_are_stwos,
    First operations::quotients_are_stwos,
    First operations::the_proof_of_work_is_that_of_simd,
    Always constraints::random_constraints_have_the_cpu_values,
    Always constraints::another_program_compiles_nothing,
    Always constraints::many_constraints_are_split,
    Always constraints::without_a_kernel_the_host_evaluates_and_says_so,
    Always lookups::random_airs_with_lookups_give_the_simd_proof,
    First proofs::small_proofs_are_the_simd_proofs,
    Always proofs::wide_fibonacci_is_the_simd_proof,
    Always proofs::other_parameters_are_the_simd_proof_too,
    Always proofs::simd_proofs_do_not_depend_on_the_threads,
    Always proofs::a_failing_device_costs_time_but_not_the_proof,
    Always proofs::a_changed_proof_is_refused,
    First poseidon2::poseidon2_traces_are_the_hosts,
    Always poseidon2::poseidon2_is_the_simd_proof,
    Always poseidon2::forged_traces_are_refused,
    Large cairo::cairo_constraints_have_the_hosts_values,
    Large cairo::a_whole_cairo_proof_is_the_hosts,
}

/// One passed check.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Passed {
    /// Name of the check.
    pub name: &'static str,
    /// Time it took.
    pub milliseconds: f64,
}

/// Which checks to run.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Names or parts of names; empty: all.
    pub only: Vec<String>,
    /// Which sizes.
    pub size: Size,
}

/// Longest part of a message that is kept.
const REASON_CHARS_MAX: usize = 600;

/// Runs one check.
///
/// # Errors
/// [`Error::SelfTest`] with the first difference.
pub fn run_check(runtime: &'static Runtime, check: &Check, size: Size) -> Result<Passed> {
    let start = Instant::now();
    let mode = compile_mode();
    set_compile_mode(Compile::Wait);
    let outcome = guarded(|| (check.run)(&Context { runtime, size }));
    // A check that failed in the middle leaves these as they were for it.
    runtime.set_strict(false);
    runtime.set_tiles(true);
    set_compile_mode(mode);
    outcome.map_err(|error| {
        let reason = error.to_string().chars().take(REASON_CHARS_MAX).collect();
        Error::SelfTest { test: check.name, device: runtime.info().name.clone(), reason }
    })?;
    Ok(Passed { name: check.name, milliseconds: start.elapsed().as_secs_f64() * 1e3 })
}

/// Runs the selected checks in order; when all of them ran, every kernel of the library must have been started.
///
/// # Errors
/// The first failure, or [`Error::Input`] if no check has such a name.
pub fn run(runtime: &'static Runtime, selection: &Selection) -> Result<Vec<Passed>> {
    let wanted = |check: &&Check| {
        let named = selection.only.iter().any(|part| check.name.contains(part.as_str()));
        named || selection.only.is_empty() && (check.when != When::Large || selection.size == Size::Large)
    };
    let checks: Vec<&Check> = CHECKS.iter().filter(wanted).collect();
    if checks.is_empty() {
        let names = CHECKS.iter().map(|check| check.name).collect::<Vec<_>>().join(", ");
        return Err(Error::Input {
            field: "only",
            value: selection.only.join(", "),
            limit: format!("part of {names}"),
        });
    }
    let passed =
        checks.into_iter().map(|check| run_check(runtime, check, selection.size)).collect::<Result<Vec<_>>>()?;
    if selection.only.is_empty() && selection.size > Size::Tiny {
        every_kernel_ran(runtime)?;
    }
    Ok(passed)
}

/// Whether the checks so far have started every kernel of the library.
fn every_kernel_ran(runtime: &Runtime) -> Result<()> {
    let mut never = runtime.library_kernels();
    never.retain(|kernel| runtime.starts(kernel) == 0);
    if never.is_empty() {
        return Ok(());
    }
    let reason = format!("kernels that no check has started: {never:?}");
    Err(Error::SelfTest { test: "all", device: runtime.info().name.clone(), reason })
}

fn note_path(runtime: &Runtime, folder: &Path) -> PathBuf {
    folder.join(format!("{}.passed", runtime.library_key()))
}

/// Runs the quick checks, which start every kernel of the library, unless this library has passed them with this device
/// and driver already; the note about it is in the cache folder. Without a folder they run every time.
///
/// # Errors
/// The first failure.
pub fn ensure(runtime: &'static Runtime, folder: Option<&Path>) -> Result<bool> {
    if folder.is_some_and(|folder| note_path(runtime, folder).exists()) {
        return Ok(false);
    }
    for check in CHECKS.iter().filter(|check| check.when == When::First) {
        run_check(runtime, check, Size::Small)?;
    }
    every_kernel_ran(runtime)?;
    if let Some(folder) = folder
        && let Err(error) =
            std::fs::create_dir_all(folder).and_then(|()| std::fs::write(note_path(runtime, folder), ""))
    {
        tracing::warn!(%error, "the passed self-test cannot be noted: it will run at every start");
    }
    Ok(true)
}
