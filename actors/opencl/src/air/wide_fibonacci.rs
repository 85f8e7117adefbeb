//! Wide Fibonacci: each row is a sequence of its own, column by column, every value the sum of the squares of the two
//! before. The benchmark that everyone publishes; it computes nothing of use.

use rayon::prelude::*;
use stwo::core::fields::FieldExpOps;
use stwo::core::fields::m31::BaseField;
use stwo::core::poly::circle::CanonicCoset;
use stwo::prover::backend::simd::SimdBackend;
use stwo::prover::backend::simd::column::BaseColumn;
use stwo::prover::poly::circle::CircleEvaluation;
use stwo_constraint_framework::{EvalAtRow, FrameworkEval};

use super::{TraceColumns, Workload};
use crate::backend::{OclBackend, OclColumn, Table};
use crate::device::{Launch, runtime};

/// A trace of 2^`log_rows` rows and `columns` columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WideFibonacci {
    /// Logarithm of the number of rows, at least 1.
    pub log_rows: u32,
    /// Number of columns, at least 3.
    pub columns: usize,
}

impl FrameworkEval for WideFibonacci {
    fn log_size(&self) -> u32 {
        self.log_rows
    }

    fn max_constraint_log_degree_bound(&self) -> u32 {
        self.log_rows + 1
    }

    fn evaluate<E: EvalAtRow>(&self, mut eval: E) -> E {
        let mut before = eval.next_trace_mask();
        let mut last = eval.next_trace_mask();
        for _ in 2..self.columns {
            let next = eval.next_trace_mask();
            eval.add_constraint(next.clone() - (before.square() + last.square()));
            before = last;
            last = next;
        }
        eval
    }
}

impl Workload for WideFibonacci {
    type Eval = Self;

    fn eval(&self) -> Self {
        *self
    }

    fn statement(&self) -> Vec<u32> {
        vec![u32::from_le_bytes(*b"wfib"), self.log_rows, self.columns as u32]
    }

    fn device_trace(&self) -> TraceColumns<OclBackend> {
        let rows = 1_usize << self.log_rows;
        let columns: Vec<OclColumn<BaseField>> = (0..self.columns).map(|_| OclColumn::undefined(rows)).collect();
        let table = Table::new(columns.iter().map(OclColumn::address).collect());
        let args = [table.address(), self.columns as u32, rows as u32];
        runtime().launch(&Launch { kernel: "wide_fibonacci", items: rows, rows: 1, args: &args });
        let domain = CanonicCoset::new(self.log_rows).circle_domain();
        columns.into_iter().map(|column| CircleEvaluation::new(domain, column)).collect()
    }

    fn simd_trace(&self) -> TraceColumns<SimdBackend> {
        let rows = 1_u32 << self.log_rows;
        let mut before = vec![BaseField::from_u32_unchecked(1); rows as usize];
        let mut last: Vec<BaseField> = (0..rows).map(BaseField::from_u32_unchecked).collect();
        let mut columns = vec![before.clone(), last.clone()];
        for _ in 2..self.columns {
            let next = before.par_iter().zip(&last).map(|(a, b)| a.square() + b.square()).collect();
            before = std::mem::replace(&mut last, next);
            columns.push(last.clone());
        }
        let domain = CanonicCoset::new(self.log_rows).circle_domain();
        columns.par_iter().map(|column| CircleEvaluation::new(domain, BaseColumn::from_cpu(column))).collect()
    }
}
