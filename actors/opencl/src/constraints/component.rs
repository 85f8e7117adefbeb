//! `ComponentProver<OclBackend>` for every component of the constraint framework: on the device if the kernels are
//! ready, else on the host from the same graph, counted and logged.

use stwo::core::air::Component;
use stwo::core::constraints::coset_vanishing;
use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SecureField;
use stwo::core::pcs::TreeVec;
use stwo::core::poly::circle::{CanonicCoset, CircleDomain};
use stwo::core::utils::bit_reverse;
use stwo::prover::backend::Column;
use stwo::prover::poly::circle::{CircleCoefficients, PolyOps};
use stwo::prover::secure_column::SecureColumnByCoords;
use stwo::prover::{ComponentProver, DomainEvaluationAccumulator, EvaluationMode, Poly, Trace};
use stwo_constraint_framework::{FrameworkComponent, FrameworkEval, PREPROCESSED_TRACE_IDX};

use super::emit::parameters;
use super::graph::Graph;
use super::host::HostRows;
use super::record::record;
use super::store::{ready, source_of};
use crate::backend::{Evaluation, OclBackend, OclColumn, Table, evaluate_all};
use crate::device::{Launch, runtime};
use crate::error::{Error, raise};
use crate::field::secure_words;

/// Columns of a component on the domain of its constraints, by interaction.
enum Columns<'a> {
    Committed(TreeVec<Vec<&'a Evaluation>>),
    Extended(TreeVec<Vec<Evaluation>>),
}

impl Columns<'_> {
    fn refs(&self) -> TreeVec<Vec<&Evaluation>> {
        match self {
            Self::Committed(trees) => TreeVec(trees.iter().map(|tree| tree.to_vec()).collect()),
            Self::Extended(trees) => TreeVec(trees.iter().map(|tree| tree.iter().collect()).collect()),
        }
    }
}

fn polys<'a, E: FrameworkEval>(
    component: &FrameworkComponent<E>,
    trace: &Trace<'a, OclBackend>,
) -> TreeVec<Vec<&'a Poly<OclBackend>>> {
    let mut trees = TreeVec(
        trace
            .polys
            .sub_tree(component.trace_locations())
            .iter()
            .map(|tree| tree.iter().map(|poly| **poly).collect())
            .collect(),
    );
    let preprocessed = component.preprocessed_column_indices().iter();
    let chosen = preprocessed.map(|index| trace.polys[PREPROCESSED_TRACE_IDX][*index]).collect::<Vec<_>>();
    if let Some(tree) = trees.0.get_mut(PREPROCESSED_TRACE_IDX) {
        *tree = chosen;
    }
    trees
}

fn eval_domain(log_size: u32, mode: EvaluationMode) -> CircleDomain {
    match mode {
        EvaluationMode::SubDomain { log_expansion } => {
            CanonicCoset::new(log_size + log_expansion).circle_domain().split(log_expansion).0
        }
        EvaluationMode::ExtendToEvalDomain => CanonicCoset::new(log_size).circle_domain(),
    }
}

fn columns_on<'a>(
    trees: TreeVec<Vec<&'a Poly<OclBackend>>>,
    domain: CircleDomain,
    mode: EvaluationMode,
) -> Columns<'a> {
    match mode {
        EvaluationMode::SubDomain { .. } => Columns::Committed(TreeVec(
            trees.iter().map(|tree| tree.iter().map(|poly| &poly.evals).collect()).collect(),
        )),
        EvaluationMode::ExtendToEvalDomain => {
            let twiddles = OclBackend::precompute_twiddles(domain.half_coset);
            let coefficients: Vec<_> = trees.iter().flatten().map(|poly| kept_coefficients(poly)).collect();
            let mut evaluated = evaluate_all(&coefficients, domain, &twiddles).into_iter();
            Columns::Extended(TreeVec(trees.iter().map(|tree| evaluated.by_ref().take(tree.len()).collect()).collect()))
        }
    }
}

fn kept_coefficients(poly: &Poly<OclBackend>) -> &CircleCoefficients<OclBackend> {
    poly.coeffs.as_ref().unwrap_or_else(|| {
        raise(Error::Input {
            field: "committed columns",
            value: "coefficients dropped".to_owned(),
            limit: "kept, because the constraints' degree exceeds the blow-up".to_owned(),
        })
    })
}

/// Inverses of the trace domain's vanishing polynomial, which has one value per coset of it.
pub(super) fn denominators(trace_domain: CanonicCoset, domain: CircleDomain) -> Vec<BaseField> {
    let cosets = 1 << (domain.log_size() - trace_domain.log_size());
    let mut inverses: Vec<BaseField> =
        (0..cosets).map(|i| coset_vanishing(trace_domain.coset(), domain.at(i)).inverse()).collect();
    bit_reverse(&mut inverses);
    inverses
}

/// Everything about one evaluation besides the constraints.
pub(super) struct Rows<'a> {
    /// By interaction, on the evaluation domain.
    pub(super) columns: &'a TreeVec<Vec<&'a Evaluation>>,
    pub(super) log_trace: u32,
    pub(super) log_eval: u32,
    /// One per coset of the trace domain.
    pub(super) denominators: Vec<BaseField>,
    /// One per constraint.
    pub(super) coefficients: Vec<SecureField>,
}

/// Adds the constraints of `graph` to `target`.
///
/// # Errors
/// What keeps the kernels from being ready.
pub(super) fn on_device(
    graph: &Graph,
    rows: &Rows<'_>,
    target: &SecureColumnByCoords<OclBackend>,
) -> crate::Result<()> {
    let source = source_of(graph);
    ready(&source)?;
    let column = |(interaction, index): &(usize, usize)| rows.columns[*interaction][*index].values.address();
    let table = Table::new(graph.columns.iter().map(column).collect());
    let coefficients: Vec<[u32; 4]> = rows.coefficients.iter().copied().map(secure_words).collect();
    let denominators: Vec<u32> = rows.denominators.iter().map(|value| value.0).collect();
    let params = Table::new(parameters(graph, &coefficients, &denominators));
    let out = Table::new(target.columns.iter().map(OclColumn::address).collect());
    let args = [table.address(), params.address(), out.address(), rows.log_trace, rows.log_eval];
    for kernel in &source.kernels {
        runtime().launch(&Launch { kernel, items: 1 << rows.log_eval, rows: 1, args: &args });
    }
    Ok(())
}

/// As [`on_device`], on the host.
pub(super) fn on_host(graph: &Graph, rows: &Rows<'_>, target: &mut SecureColumnByCoords<OclBackend>) {
    let column = |(interaction, index): &(usize, usize)| rows.columns[*interaction][*index].values.to_cpu();
    let host = HostRows {
        graph,
        columns: graph.columns.iter().map(column).collect(),
        log_trace: rows.log_trace,
        log_eval: rows.log_eval,
        denominators: &rows.denominators,
        coefficients: &rows.coefficients,
    };
    let mut sums = target.to_cpu();
    for (row, value) in host.evaluate().into_iter().enumerate() {
        sums.set(row, sums.at(row) + value);
    }
    *target = SecureColumnByCoords { columns: sums.columns.map(|values| OclColumn::from_cpu(&values)) };
}

impl<E: FrameworkEval + Sync> ComponentProver<OclBackend> for FrameworkComponent<E> {
    fn evaluate_constraint_quotients_on_domain(
        &self,
        trace: &Trace<'_, OclBackend>,
        evaluation_accumulator: &mut DomainEvaluationAccumulator<OclBackend>,
    ) {
        if self.n_constraints() == 0 {
            return;
        }
        if self.is_disabled() {
            evaluation_accumulator.skip_coeffs(self.n_constraints());
            return;
        }
        let mode = evaluation_accumulator.evaluation_mode();
        let domain = eval_domain(self.max_constraint_log_degree_bound(), mode);
        let trace_domain = CanonicCoset::new(self.log_size());
        let columns = columns_on(polys(self, trace), domain, mode);
        let [accumulator] = evaluation_accumulator.columns([(domain.log_size(), self.n_constraints())]);
        let rows = Rows {
            columns: &columns.refs(),
            log_trace: trace_domain.log_size(),
            log_eval: domain.log_size(),
            denominators: denominators(trace_domain, domain),
            // The first constraint has the highest power.
            coefficients: accumulator.random_coeff_powers.iter().rev().copied().collect(),
        };
        let graph = record::<E>(self, self.claimed_sum(), self.log_size());
        if let Err(error) = on_device(&graph, &rows, accumulator.col) {
            tracing::warn!(%error, "constraints are evaluated on the host");
            runtime().host_fallback("constraints");
            on_host(&graph, &rows, accumulator.col);
        }
    }
}
