//! Poseidon2 in counter mode: the sum of the first eight output words of 2^n permutations of (seed, row number, zeros).
//!
//! **Statement.** log_rows, the seed's eight words and the sum's eight words are public; they enter the transcript before
//! the first commitment. A proof says: for row = 0 .. 2^log_rows - 1, let out(row) be the first eight words of
//! Poseidon2(seed, row, 0, 0, 0, 0, 0, 0, 0); then the sum of all out(row), word by word modulo P, is the stated one.
//! Nothing is left to the prover: there are no free inputs.
//!
//! **Why that follows.** The row number is a fixed column whose commitment the verifier computes itself. Every S-box has
//! two columns, the square and the fifth power of its input, with one constraint each; inputs are linear in fifth powers
//! of earlier S-boxes, so no constraint exceeds degree 3 and all fit blow-up 2. Eight running sums a with
//! a(row) - a(row before) = out(row) - sum / 2^log_rows on *all* rows of the cyclic trace domain add up to
//! 0 = (sum of out) - sum; no row is special, so no selector is needed. There are no lookups. Soundness is that of the
//! commitment scheme's parameters for constraints of degree 3.

pub mod permutation;

use num_traits::Zero;
use rayon::prelude::*;
use stwo::core::fields::FieldExpOps;
use stwo::core::fields::m31::BaseField;
use stwo::core::poly::circle::CanonicCoset;
use stwo::core::utils::{bit_reverse_index, coset_index_to_circle_domain_index};
use stwo::prover::backend::simd::SimdBackend;
use stwo::prover::backend::simd::column::BaseColumn;
use stwo::prover::poly::circle::CircleEvaluation;
use stwo_constraint_framework::preprocessed_columns::PreProcessedColumnId;
use stwo_constraint_framework::{EvalAtRow, FrameworkEval, ORIGINAL_TRACE_IDX};

use self::permutation::{Constants, SBOXES, WIDTH, permute, permute_with};
use super::{TraceColumns, Workload};
use crate::backend::{OclBackend, OclColumn, Table};
use crate::device::{Launch, runtime};
use crate::error::{Result, guarded};
use crate::field::to_words;

/// Words of the seed and of the sum.
pub const WORDS: usize = 8;
/// Columns with squares and fifth powers.
const CELLS: usize = 2 * SBOXES;
/// Columns of the trace.
pub const COLUMNS: usize = CELLS + WORDS;
/// Rows that the host computes before it writes them to the columns.
const HOST_ROWS: usize = 1 << 12;

/// A statement about 2^`log_rows` permutations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Poseidon2 {
    /// Logarithm of the number of permutations, 1 to 30.
    pub log_rows: u32,
    /// First words of every input.
    pub seed: [BaseField; WORDS],
    /// Sum of the first words of all outputs.
    pub sum: [BaseField; WORDS],
}

/// The input of a row.
fn input(seed: &[BaseField; WORDS], row: u32) -> [BaseField; WIDTH] {
    let mut state = [BaseField::zero(); WIDTH];
    state[..WORDS].copy_from_slice(seed);
    state[WORDS] = BaseField::from_u32_unchecked(row);
    state
}

fn output(state: &[BaseField; WIDTH]) -> [BaseField; WORDS] {
    std::array::from_fn(|k| state[k])
}

/// The cells of a row in the order of the columns, and its output.
fn row_cells(seed: &[BaseField; WORDS], row: u32) -> (Vec<BaseField>, [BaseField; WORDS]) {
    let mut cells = Vec::with_capacity(CELLS);
    let mut state = input(seed, row);
    permute_with(&mut state, |x| {
        let square = x.square();
        let power = square.square() * x;
        cells.extend([square, power]);
        power
    });
    (cells, output(&state))
}

/// Where a column in committed order holds place `place` of the coset.
fn coset_row(place: usize, log_rows: u32) -> usize {
    bit_reverse_index(coset_index_to_circle_domain_index(place, log_rows), log_rows)
}

impl Poseidon2 {
    /// Computes the sum on the host's cores.
    #[must_use]
    pub fn on_host(log_rows: u32, seed: [BaseField; WORDS]) -> Self {
        let add = |a: [BaseField; WORDS], b: [BaseField; WORDS]| std::array::from_fn(|k| a[k] + b[k]);
        let row_output = |row: u32| {
            let mut state = input(&seed, row);
            permute(&mut state);
            output(&state)
        };
        let rows = (0..1_u32 << log_rows).into_par_iter();
        Self { log_rows, seed, sum: rows.map(row_output).reduce(|| [BaseField::zero(); WORDS], add) }
    }

    /// Computes the sum on the device.
    ///
    /// # Errors
    /// A device failure.
    pub fn on_device(log_rows: u32, seed: [BaseField; WORDS]) -> Result<Self> {
        guarded(|| {
            let outputs = outputs_and_cells(log_rows, &seed, &[]);
            let scan = Scan::new(&outputs, &outputs, &[BaseField::zero(); WORDS]);
            Self { log_rows, seed, sum: scan.totals() }
        })
    }

    /// What a running sum loses in every row, so that it ends where it began.
    fn means(&self) -> [BaseField; WORDS] {
        let rows = BaseField::from_u32_unchecked(1 << self.log_rows).inverse();
        self.sum.map(|sum| sum * rows)
    }
}

impl FrameworkEval for Poseidon2 {
    fn log_size(&self) -> u32 {
        self.log_rows
    }

    fn max_constraint_log_degree_bound(&self) -> u32 {
        self.log_rows + 1
    }

    fn evaluate<E: EvalAtRow>(&self, mut eval: E) -> E {
        let row = eval.get_preprocessed_column(PreProcessedColumnId { id: "row".to_owned() });
        let mut state: [E::F; WIDTH] = std::array::from_fn(|k| match k {
            0..WORDS => E::F::from(self.seed[k]),
            WORDS => row.clone(),
            _ => E::F::zero(),
        });
        permute_with(&mut state, |x| {
            let square = eval.next_trace_mask();
            let power = eval.next_trace_mask();
            eval.add_constraint(square.clone() - x.clone() * x.clone());
            eval.add_constraint(power.clone() - square.clone() * square * x);
            power
        });
        for (out, mean) in state.into_iter().zip(self.means()) {
            let [before, sum] = eval.next_interaction_mask(ORIGINAL_TRACE_IDX, [-1, 0]);
            eval.add_constraint(sum - before - out + E::F::from(mean));
        }
        eval
    }
}

/// Starts the permutations: columns of the first output words, and the given columns of cells, all or none.
fn outputs_and_cells(
    log_rows: u32,
    seed: &[BaseField; WORDS],
    cells: &[OclColumn<BaseField>],
) -> Vec<OclColumn<BaseField>> {
    let rows = 1_usize << log_rows;
    let outputs: Vec<OclColumn<BaseField>> = (0..WORDS).map(|_| OclColumn::undefined(rows)).collect();
    let table = Table::new(outputs.iter().chain(cells).map(OclColumn::address).collect());
    let mut words = to_words(seed);
    words.extend(Constants::get().words());
    let params = Table::new(words);
    let args = [table.address(), params.address(), u32::from(!cells.is_empty()), rows as u32];
    runtime().launch(&Launch { kernel: "poseidon2", items: rows, rows: 1, args: &args });
    outputs
}

/// Sums along the coset of columns of one size, in blocks.
struct Scan {
    table: Table,
    sums: Table,
    columns: usize,
    log_rows: u32,
    log_block: u32,
}

impl Scan {
    /// Starts the sums of all blocks of (value - mean).
    fn new(sources: &[OclColumn<BaseField>], targets: &[OclColumn<BaseField>], means: &[BaseField]) -> Self {
        let log_rows = sources.first().map_or(0, OclColumn::log_len);
        let log_block = log_rows.div_ceil(2);
        let addresses = sources.iter().chain(targets).map(OclColumn::address);
        let table = Table::new(addresses.chain(means.iter().map(|mean| mean.0)).collect());
        let columns = sources.len();
        let blocks = 1_usize << (log_rows - log_block);
        let sums = Table::room(columns * blocks);
        let args = [table.address(), sums.address(), columns as u32, log_rows, log_block];
        runtime().launch(&Launch { kernel: "coset_sums", items: blocks, rows: columns, args: &args });
        Self { table, sums, columns, log_rows, log_block }
    }

    fn blocks(&self) -> usize {
        1 << (self.log_rows - self.log_block)
    }

    /// The sums of whole columns.
    fn totals(&self) -> [BaseField; WORDS] {
        let words = self.sums.read(self.columns * self.blocks());
        std::array::from_fn(|k| {
            let block = words.iter().skip(k * self.blocks()).take(self.blocks());
            block.map(|word| BaseField::from_u32_unchecked(*word)).sum()
        })
    }

    /// Writes the running sums to the targets.
    fn run(&self) {
        let blocks = self.blocks() as u32;
        let args = [self.sums.address(), blocks, self.columns as u32];
        runtime().launch(&Launch { kernel: "sums_before", items: self.columns, rows: 1, args: &args });
        let args = [self.table.address(), self.sums.address(), self.columns as u32, self.log_rows, self.log_block];
        runtime().launch(&Launch { kernel: "coset_running", items: self.blocks(), rows: self.columns, args: &args });
    }
}

impl Workload for Poseidon2 {
    type Eval = Self;

    fn eval(&self) -> Self {
        *self
    }

    fn statement(&self) -> Vec<u32> {
        let mut words = vec![u32::from_le_bytes(*b"pos2"), self.log_rows];
        words.extend(self.seed.iter().chain(&self.sum).map(|word| word.0));
        words
    }

    fn permutations(&self) -> Option<u64> {
        Some(1 << self.log_rows)
    }

    fn device_fixed(&self) -> TraceColumns<OclBackend> {
        let rows = 1_usize << self.log_rows;
        let column = OclColumn::<BaseField>::undefined(rows);
        let args = [column.address(), rows as u32];
        runtime().launch(&Launch { kernel: "row_numbers", items: rows, rows: 1, args: &args });
        vec![CircleEvaluation::new(CanonicCoset::new(self.log_rows).circle_domain(), column)]
    }

    fn simd_fixed(&self) -> TraceColumns<SimdBackend> {
        let column: Vec<_> = (0..1_u32 << self.log_rows).map(BaseField::from_u32_unchecked).collect();
        let domain = CanonicCoset::new(self.log_rows).circle_domain();
        vec![CircleEvaluation::new(domain, BaseColumn::from_cpu(&column))]
    }

    fn device_trace(&self) -> TraceColumns<OclBackend> {
        let rows = 1_usize << self.log_rows;
        let columns: Vec<OclColumn<BaseField>> = (0..COLUMNS).map(|_| OclColumn::undefined(rows)).collect();
        let (cells, sums) = columns.split_at(CELLS);
        let outputs = outputs_and_cells(self.log_rows, &self.seed, cells);
        Scan::new(&outputs, sums, &self.means()).run();
        let domain = CanonicCoset::new(self.log_rows).circle_domain();
        columns.into_iter().map(|column| CircleEvaluation::new(domain, column)).collect()
    }

    fn simd_trace(&self) -> TraceColumns<SimdBackend> {
        let rows = 1_usize << self.log_rows;
        let mut columns = vec![vec![BaseField::zero(); rows]; COLUMNS];
        for start in (0..rows).step_by(HOST_ROWS) {
            let part = start..rows.min(start + HOST_ROWS);
            let computed: Vec<_> = part.clone().into_par_iter().map(|row| row_cells(&self.seed, row as u32)).collect();
            columns.par_iter_mut().enumerate().for_each(|(index, column)| {
                for (target, (cells, out)) in column[part.clone()].iter_mut().zip(&computed) {
                    *target = if index < CELLS { cells[index] } else { out[index - CELLS] };
                }
            });
        }
        // The outputs become running sums in the order of the coset.
        columns[CELLS..].par_iter_mut().zip(self.means()).for_each(|(column, mean)| {
            let mut sum = BaseField::zero();
            for place in 0..rows {
                let value = &mut column[coset_row(place, self.log_rows)];
                sum += *value - mean;
                *value = sum;
            }
        });
        let domain = CanonicCoset::new(self.log_rows).circle_domain();
        columns.into_par_iter().map(|column| CircleEvaluation::new(domain, BaseColumn::from_cpu(&column))).collect()
    }
}
