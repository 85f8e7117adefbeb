//! `ComponentProver<OclBackend>` for every component of the constraint framework: on the device if the kernels are
//! ready, else on the host from the same graph, counted and logged.

use std::sync::{Arc, OnceLock};

use stwo::core::ColumnVec;
use stwo::core::air::Component;
use stwo::core::air::accumulation::PointEvaluationAccumulator;
use stwo::core::circle::CirclePoint;
use stwo::core::constraints::coset_vanishing;
use stwo::core::fields::m31::{BaseField, P};
use stwo::core::fields::qm31::SecureField;
use stwo::core::pcs::TreeVec;
use stwo::core::poly::circle::{CanonicCoset, CircleDomain};
use stwo::core::utils::bit_reverse;
use stwo::prover::backend::Column;
use stwo::prover::poly::circle::{CircleCoefficients, PolyOps};
use stwo::prover::secure_column::SecureColumnByCoords;
use stwo::prover::{ComponentProver, DomainEvaluationAccumulator, EvaluationMode, Poly, Trace};
use stwo_constraint_framework::{FrameworkComponent, FrameworkEval, PREPROCESSED_TRACE_IDX};

use super::emit::{Source, parameters};
use super::graph::Graph;
use super::host::HostRows;
use super::record::record;
use super::store::{ready, source_of};
use crate::backend::{Evaluation, OclBackend, OclColumn, Table, evaluate_all, upload, zero_secure};
use crate::device::{Launch, runtime};
use crate::error::{Error, guarded, raise};
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
    recording: &Recording,
    rows: &Rows<'_>,
    target: &SecureColumnByCoords<OclBackend>,
) -> crate::Result<()> {
    ready(&recording.source, &recording.graph)?;
    start(&recording.source, &recording.graph, rows, target);
    Ok(())
}

/// Starts the kernels.
fn start(source: &Source, graph: &Graph, rows: &Rows<'_>, target: &SecureColumnByCoords<OclBackend>) {
    let column = |(interaction, index): &(usize, usize)| rows.columns[*interaction][*index].values.address();
    let list: Vec<u32> = graph.columns.iter().map(column).collect();
    let coefficients: Vec<[u32; 4]> = rows.coefficients.iter().copied().map(secure_words).collect();
    let denominators: Vec<u32> = rows.denominators.iter().map(|value| value.0).collect();
    let targets: Vec<u32> = target.columns.iter().map(OclColumn::address).collect();
    let parameters = parameters(graph, &coefficients, &denominators);
    let (_tables, [table, params, out]) = Table::joined([&list, &parameters, &targets]);
    let args = [table, params, out, rows.log_trace, rows.log_eval];
    for kernel in &source.kernels {
        runtime().launch(&Launch { kernel, items: 1 << rows.log_eval, rows: 1, args: &args });
    }
}

/// Rows of the table on which new kernels are compared with the host, as a power of two: whole work-groups of the kernels
/// and whole blocks of the host.
const SAMPLE_LOG: u32 = 5;

/// Compares kernels that were just built with the host, on columns and coefficients without a pattern; they need not satisfy
/// anything.
///
/// # Errors
/// [`Error::SelfTest`] with the first difference.
pub(super) fn known_answer(source: &Source, graph: &Graph) -> crate::Result<()> {
    let mut state = 1_u64;
    let mut value = || {
        // Numbers without a pattern, zero and the largest element among them.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match state >> 59 {
            0 => BaseField::from_u32_unchecked(0),
            1 => BaseField::from_u32_unchecked(P - 1),
            _ => BaseField::reduce(state >> 2),
        }
    };
    let log_eval = SAMPLE_LOG + 1;
    let columns: Vec<Vec<BaseField>> =
        graph.columns.iter().map(|_| (0..1 << log_eval).map(|_| value()).collect()).collect();
    let coefficients: Vec<SecureField> =
        graph.constraints.iter().map(|_| SecureField::from_m31_array(std::array::from_fn(|_| value()))).collect();
    let denominators = vec![value(), value()];
    let found = guarded(|| {
        let slices: Vec<&[BaseField]> = columns.iter().map(Vec::as_slice).collect();
        let domain = CanonicCoset::new(log_eval).circle_domain();
        let uploaded: Vec<Evaluation> =
            upload(&slices).into_iter().map(|column| Evaluation::new(domain, column)).collect();
        let trees = graph.columns.iter().map(|(interaction, _)| interaction + 1).max().unwrap_or_default();
        let mut by_place: Vec<Vec<&Evaluation>> = vec![Vec::new(); trees];
        for ((interaction, index), evaluation) in graph.columns.iter().zip(&uploaded) {
            let tree = &mut by_place[*interaction];
            // Columns that the constraints do not read are never looked at.
            tree.resize(tree.len().max(index + 1), evaluation);
            tree[*index] = evaluation;
        }
        let rows = Rows {
            columns: &TreeVec(by_place),
            log_trace: SAMPLE_LOG,
            log_eval,
            denominators: denominators.clone(),
            coefficients: coefficients.clone(),
        };
        let sums = zero_secure(1 << log_eval);
        start(source, graph, &rows, &sums);
        sums.columns.each_ref().map(Column::to_cpu)
    })?;
    let host = HostRows {
        graph,
        columns,
        log_trace: SAMPLE_LOG,
        log_eval,
        denominators: &denominators,
        coefficients: &coefficients,
    };
    for (row, expected) in host.evaluate().into_iter().enumerate() {
        let found = SecureField::from_m31_array(std::array::from_fn(|k| found[k][row]));
        if found != expected {
            let reason = format!("constraints {}, row {row}: {found}, expected {expected}", source.key);
            let device = runtime().info().name.clone();
            return Err(Error::SelfTest { test: "known answer", device, reason });
        }
    }
    Ok(())
}

/// Constraints as they are in one proof: the graph with its values, and the text of its kernels.
#[derive(Debug, Clone)]
pub(super) struct Recording {
    pub(super) graph: Arc<Graph>,
    pub(super) source: Arc<Source>,
}

impl Recording {
    pub(super) fn of(graph: Graph) -> Self {
        let source = source_of(&graph);
        Self { graph: Arc::new(graph), source }
    }

    fn of_component<E: FrameworkEval>(component: &FrameworkComponent<E>) -> Self {
        Self::of(record::<E>(component, component.claimed_sum(), component.log_size()))
    }
}

/// Constraints that may be recorded ahead, on any thread.
pub trait Recordable: Send + Sync {
    /// Records them; a second time does nothing.
    fn record_ahead(&self);
}

/// What recording a component's constraints needs of it: the framework's component itself is bound to its thread.
struct Wanted<'a, E: FrameworkEval> {
    eval: &'a E,
    claimed_sum: SecureField,
    log_size: u32,
    recording: Arc<OnceLock<Recording>>,
}

impl<E: FrameworkEval + Sync> Recordable for Wanted<'_, E> {
    fn record_ahead(&self) {
        self.recording.get_or_init(|| Recording::of(record(self.eval, self.claimed_sum, self.log_size)));
    }
}

/// A component with its recorded constraints.
pub struct Ahead<'a, E: FrameworkEval> {
    component: &'a FrameworkComponent<E>,
    recording: Arc<OnceLock<Recording>>,
}

impl<'a, E: FrameworkEval> Ahead<'a, E> {
    /// Nothing is recorded yet.
    pub fn new(component: &'a FrameworkComponent<E>) -> Self {
        Self { component, recording: Arc::default() }
    }

    /// What any thread may record; `None` when the component has nothing to evaluate.
    pub fn wanted(&self) -> Option<Box<dyn Recordable + 'a>>
    where
        E: Sync,
    {
        let component = self.component;
        (component.n_constraints() > 0 && !component.is_disabled()).then(|| {
            let (claimed_sum, log_size) = (component.claimed_sum(), component.log_size());
            let recording = Arc::clone(&self.recording);
            Box::new(Wanted::<E> { eval: component, claimed_sum, log_size, recording }) as Box<dyn Recordable + 'a>
        })
    }

    fn recording(&self) -> &Recording {
        self.recording.get_or_init(|| Recording::of_component(self.component))
    }
}

impl<E: FrameworkEval> Component for Ahead<'_, E> {
    fn n_constraints(&self) -> usize {
        self.component.n_constraints()
    }

    fn max_constraint_log_degree_bound(&self) -> u32 {
        self.component.max_constraint_log_degree_bound()
    }

    fn trace_log_degree_bounds(&self) -> TreeVec<ColumnVec<u32>> {
        self.component.trace_log_degree_bounds()
    }

    fn mask_points(
        &self,
        point: CirclePoint<SecureField>,
        max_log_degree_bound: u32,
    ) -> TreeVec<ColumnVec<Vec<CirclePoint<SecureField>>>> {
        self.component.mask_points(point, max_log_degree_bound)
    }

    fn preprocessed_column_indices(&self) -> ColumnVec<usize> {
        Component::preprocessed_column_indices(self.component)
    }

    fn evaluate_constraint_quotients_at_point(
        &self,
        point: CirclePoint<SecureField>,
        mask: &TreeVec<ColumnVec<Vec<SecureField>>>,
        evaluation_accumulator: &mut PointEvaluationAccumulator,
        max_log_degree_bound: u32,
    ) {
        self.component.evaluate_constraint_quotients_at_point(
            point,
            mask,
            evaluation_accumulator,
            max_log_degree_bound,
        );
    }
}

impl<E: FrameworkEval + Sync> ComponentProver<OclBackend> for Ahead<'_, E> {
    fn evaluate_constraint_quotients_on_domain(
        &self,
        trace: &Trace<'_, OclBackend>,
        evaluation_accumulator: &mut DomainEvaluationAccumulator<OclBackend>,
    ) {
        evaluate(self.component, trace, evaluation_accumulator, || self.recording().clone());
    }
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
        evaluate(self, trace, evaluation_accumulator, || Recording::of_component(self));
    }
}

fn evaluate<E: FrameworkEval>(
    component: &FrameworkComponent<E>,
    trace: &Trace<'_, OclBackend>,
    evaluation_accumulator: &mut DomainEvaluationAccumulator<OclBackend>,
    recording: impl FnOnce() -> Recording,
) {
    if component.n_constraints() == 0 {
        return;
    }
    if component.is_disabled() {
        evaluation_accumulator.skip_coeffs(component.n_constraints());
        return;
    }
    let mode = evaluation_accumulator.evaluation_mode();
    let domain = eval_domain(component.max_constraint_log_degree_bound(), mode);
    let trace_domain = CanonicCoset::new(component.log_size());
    let columns = columns_on(polys(component, trace), domain, mode);
    let [accumulator] = evaluation_accumulator.columns([(domain.log_size(), component.n_constraints())]);
    let rows = Rows {
        columns: &columns.refs(),
        log_trace: trace_domain.log_size(),
        log_eval: domain.log_size(),
        denominators: denominators(trace_domain, domain),
        // The first constraint has the highest power.
        coefficients: accumulator.random_coeff_powers.iter().rev().copied().collect(),
    };
    let recording = recording();
    if let Err(error) = on_device(&recording, &rows, accumulator.col) {
        tracing::warn!(%error, "constraints are evaluated on the host");
        runtime().host_fallback("constraints");
        on_host(&recording.graph, &rows, accumulator.col);
    }
}
