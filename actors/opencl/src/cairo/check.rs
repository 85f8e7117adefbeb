//! Kernels of the Cairo constraints, component by component, without a proof: compiled ahead, and compared with the host on
//! random columns. The columns need not satisfy anything: every value of the sum is compared.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use composition::Visitor;
use stwo::core::fields::m31::{BaseField, P};
use stwo::core::fields::qm31::SecureField;
use stwo::core::pcs::TreeVec;
use stwo::core::poly::circle::CanonicCoset;
use stwo::prover::backend::Column;
use stwo_constraint_framework::{FrameworkComponent, FrameworkEval};

use super::samples;
use crate::backend::{Evaluation, OclColumn};
use crate::constraints::{Recorded, Shape, Side};
use crate::device::runtime;
use crate::error::{Error, Result, guarded};

/// Rows of the tables where their number does not matter, as a power of two.
pub const LOG_SIZE_SAMPLE: u32 = 6;

/// A component's constraints.
#[derive(Debug)]
pub struct Component {
    /// Its name in the library's claim.
    pub name: &'static str,
    /// Whether proofs of this system may have it.
    pub allowed: bool,
    /// Its constraints.
    pub recorded: Recorded,
}

struct Record {
    log_size: u32,
    all: Vec<Component>,
}

impl Record {
    fn add<E: FrameworkEval>(&mut self, name: &'static str, component: &FrameworkComponent<E>, allowed: bool) {
        let eval: &E = component;
        let recorded = Recorded::new(eval, component.claimed_sum(), self.log_size);
        self.all.push(Component { name, allowed, recorded });
    }
}

impl<'a> Visitor<'a> for Record {
    fn visit<E: FrameworkEval + Sync>(&mut self, name: &'static str, component: &'a FrameworkComponent<E>) {
        self.add(name, component, true);
    }

    fn visit_other<E: FrameworkEval + Sync>(&mut self, name: &'static str, component: &'a FrameworkComponent<E>) {
        self.add(name, component, false);
    }
}

/// Every component there is, with the values of a made-up claim ([`samples::components`]), on tables of 2^`log_size` rows,
/// tables of fixed size included.
///
/// # Errors
/// As [`samples::components`].
pub fn components(log_size: u32, seed: u32) -> Result<Vec<Component>> {
    let all = samples::components(log_size, seed)?;
    let mut record = Record { log_size, all: Vec::new() };
    composition::visit(&all, &mut record);
    Ok(record.all)
}

/// How often a compiler that may not go on asks again.
const PAUSE: Duration = Duration::from_millis(100);

/// Compiles the kernels of every component that proofs of this system may have, on `threads` threads; those that are on
/// disk are only loaded. How many programs there are.
///
/// # Errors
/// As [`compile_ahead`].
pub fn compile(threads: usize) -> Result<usize> {
    compile_ahead(threads, &|| true, &|_, _| ())
}

/// As [`compile`], in threads of the lowest priority. `may_go` is asked before each program and may keep it waiting; `told`
/// hears how many programs of all are ready.
///
/// # Errors
/// The first program that the driver refuses, by a component that has it; the others are compiled all the same.
pub fn compile_ahead(
    threads: usize,
    may_go: &(dyn Fn() -> bool + Sync),
    told: &(dyn Fn(usize, usize) + Sync),
) -> Result<usize> {
    let mut programs: Vec<Component> = Vec::new();
    let mut keys = std::collections::HashSet::new();
    for component in components(LOG_SIZE_SAMPLE, 1)? {
        // Tables of one kind have one program.
        if component.allowed && keys.insert(component.recorded.key()) {
            programs.push(component);
        }
    }
    // The longest first, so that no thread is left with one at the end.
    programs.sort_by_key(|component| std::cmp::Reverse(component.recorded.shape().statements_split));
    let (next, ready, refused) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(None));
    let work = || {
        prover::worker::step_back();
        while let Some(component) = programs.get(next.fetch_add(1, Ordering::Relaxed)) {
            while !may_go() {
                std::thread::sleep(PAUSE);
            }
            match component.recorded.compile_ahead() {
                Ok(()) => told(ready.fetch_add(1, Ordering::Relaxed) + 1, programs.len()),
                Err(error) => {
                    tracing::error!(%error, component = component.name, "its kernels are refused");
                    refused.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((component.name, error));
                }
            }
        }
    };
    told(0, programs.len());
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, programs.len().max(1)) {
            scope.spawn(work);
        }
    });
    match refused.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((name, Error::Build { device, log, .. })) => {
            Err(Error::Build { device, what: format!("constraints of {name}"), log })
        }
        Some((_, error)) => Err(error),
        None => Ok(programs.len()),
    }
}

/// A comparison without a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compared {
    /// The kernels.
    pub shape: Shape,
    /// Time of compilation, if there was any.
    pub compile: Duration,
    /// Time of the device.
    pub device: Duration,
    /// Time of the host.
    pub host: Duration,
}

/// Numbers without a pattern, the field's edges among them.
struct Numbers(u64);

impl Numbers {
    fn base(&mut self) -> BaseField {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match self.0 >> 58 {
            0 => BaseField::from_u32_unchecked(0),
            1 => BaseField::from_u32_unchecked(P - 1),
            _ => BaseField::reduce(self.0 >> 2),
        }
    }

    fn secure(&mut self) -> SecureField {
        SecureField::from_m31_array(std::array::from_fn(|_| self.base()))
    }
}

/// Evaluates a component on random columns on the device and on the host.
///
/// # Errors
/// [`Error::SelfTest`] with the first difference; what keeps the kernels from being compiled; a device failure.
pub fn compare(component: &Component, log_size: u32) -> Result<Compared> {
    let recorded = &component.recorded;
    let since = Instant::now();
    recorded.compile()?;
    let compile = since.elapsed();
    let domain = CanonicCoset::new(log_size + 1).circle_domain();
    let mut numbers = Numbers(u64::from(log_size) + recorded.constraints() as u64);
    let trees: Vec<Vec<Evaluation>> = guarded(|| {
        let mut column = || {
            let values: Vec<BaseField> = (0..domain.size()).map(|_| numbers.base()).collect();
            Evaluation::new(domain, OclColumn::from_cpu(&values))
        };
        recorded.columns().into_iter().map(|count| (0..count).map(|_| column()).collect()).collect()
    })?;
    let columns = TreeVec(trees.iter().map(|tree| tree.iter().collect()).collect());
    let coefficients: Vec<SecureField> = (0..recorded.constraints()).map(|_| numbers.secure()).collect();
    let timed = |side| -> Result<_> {
        let since = Instant::now();
        let sums = recorded.sums(side, &columns, &coefficients)?;
        let values = guarded(|| sums.columns.each_ref().map(|column| column.to_cpu()))?;
        Ok((values, since.elapsed()))
    };
    let ((found, device), (expected, host)) = (timed(Side::Device)?, timed(Side::Host)?);
    for (coordinate, (found, expected)) in found.iter().zip(&expected).enumerate() {
        if let Some(row) = (0..domain.size()).find(|row| found[*row] != expected[*row]) {
            let (name, found, expected) = (component.name, found[row], expected[row]);
            return Err(Error::SelfTest {
                test: "constraints",
                device: runtime().info().name.clone(),
                reason: format!(
                    "{name}, 2^{log_size} rows, row {row}, coordinate {coordinate}: {found}, expected {expected}"
                ),
            });
        }
    }
    Ok(Compared { shape: recorded.shape(), compile, device, host })
}
