//! Translates a graph to OpenCL C. Owns the order of the statements, the split into several kernels, and the layout of
//! the parameters. The text depends on the graph's structure only.

use std::fmt::Write;

use super::graph::{Graph, Id, Node};
use crate::kernels::PRELUDE;

/// Statements of one kernel at most (a single constraint may exceed it).
const STATEMENTS_MAX: usize = 1500;
/// Words live at once in one kernel at most, as far as the split can help it.
const LIVE_WORDS_MAX: usize = 160;

/// Kernels for one structure.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Hash of the structure; part of the kernels' names.
    pub(super) key: String,
    pub(super) text: String,
    pub(super) kernels: Vec<String>,
}

/// Row at an offset in the trace domain, on an evaluation domain in bit-reversed order.
const OFFSET_ROW: &str = "
INLINE uint offset_row(uint row, uint log_trace, uint log_eval, int offset)
{
    uint middle = 1u << (log_eval - 1);
    uint step = (uint)offset << (log_eval - log_trace - 1);
    uint index = reverse_bits(row, log_eval);
    uint upper = index & middle;
    uint moved = (upper ? index - step : index + step) & (middle - 1);
    return reverse_bits(moved | upper, log_eval);
}
";

/// The sum of the constraints in words of 64 bits: products of two elements are below 2^62 - 2^32 + 2, and a folded sum below
/// 2^34 - 4, so four products fit between two folds.
const SUMS: &str = "
#define SUM_PRODUCT(q, b) \\
    do { \\
        qm31 factor = q; \\
        ulong value = b; \\
        sum0 += factor.x * value; \\
        sum1 += factor.y * value; \\
        sum2 += factor.z * value; \\
        sum3 += factor.w * value; \\
    } while (0)

#define SUM_VALUE(q) \\
    do { \\
        qm31 term = q; \\
        sum0 += term.x; \\
        sum1 += term.y; \\
        sum2 += term.z; \\
        sum3 += term.w; \\
    } while (0)

#define SUM_FOLD \\
    do { \\
        sum0 = (sum0 & P) + (sum0 >> 31); \\
        sum1 = (sum1 & P) + (sum1 >> 31); \\
        sum2 = (sum2 & P) + (sum2 >> 31); \\
        sum3 = (sum3 & P) + (sum3 >> 31); \\
    } while (0)
";
/// Summands between two folds.
const SUMMANDS_MAX: u32 = 4;

/// Layout of the parameters in words: secure slots, coefficients of the constraints, base slots, denominators.
#[derive(Debug, Clone, Copy)]
struct Layout {
    coefficients: usize,
    base: usize,
    denominators: usize,
}

impl Layout {
    fn of(graph: &Graph) -> Self {
        let coefficients = 4 * graph.secure_slots.len();
        let base = coefficients + 4 * graph.constraints.len();
        Self { coefficients, base, denominators: base + graph.base_slots.len() }
    }
}

/// The parameters of a launch in the layout of the kernels.
pub(super) fn parameters(graph: &Graph, coefficients: &[[u32; 4]], denominators: &[u32]) -> Vec<u32> {
    let secure = graph.secure_slots.iter().chain(coefficients).flatten();
    secure.chain(&graph.base_slots).chain(denominators).copied().collect()
}

/// Whether a node is written where it is used: a constant or a parameter, which every row reads from the same place.
fn is_inline(graph: &Graph, id: Id) -> bool {
    matches!(graph.nodes[id as usize], Node::Literal(_) | Node::BaseSlot(_) | Node::SecureSlot(_))
}

/// The node whose value a constraint is, without the lift of a base value, and whether it was lifted.
fn unlifted(graph: &Graph, constraint: Id) -> (Id, bool) {
    match graph.nodes[constraint as usize] {
        Node::Lift(inner) => (inner, true),
        _ => (constraint, false),
    }
}

/// Nodes that a set of constraints computes, arguments first, in the order in which depth-first search leaves them.
fn schedule(graph: &Graph, constraints: &[Id]) -> Vec<Id> {
    let mut order = Vec::new();
    let mut done = vec![false; graph.nodes.len()];
    for constraint in constraints {
        let mut stack = vec![(unlifted(graph, *constraint).0, false)];
        while let Some((id, entered)) = stack.pop() {
            if done[id as usize] || is_inline(graph, id) {
                continue;
            }
            if entered {
                done[id as usize] = true;
                order.push(id);
                continue;
            }
            stack.push((id, true));
            let arguments = Graph::arguments(graph.nodes[id as usize]);
            stack.extend(arguments.into_iter().rev().map(|argument| (argument, false)));
        }
    }
    order
}

/// Most words that are live at once when `order` is computed and each constraint used as soon as it is known.
fn live_words(graph: &Graph, order: &[Id]) -> usize {
    let mut last_use = vec![0_usize; graph.nodes.len()];
    for (position, id) in order.iter().enumerate() {
        last_use[*id as usize] = position;
        for argument in Graph::arguments(graph.nodes[*id as usize]) {
            last_use[argument as usize] = position;
        }
    }
    let words = |id: Id| if graph.is_secure(id) { 4 } else { 1 };
    let mut live = 0_usize;
    let mut most = 0;
    let mut ending: Vec<usize> = vec![0; order.len() + 1];
    for (position, id) in order.iter().enumerate() {
        live += words(*id);
        ending[last_use[*id as usize]] += words(*id);
        most = most.max(live);
        live -= ending[position];
    }
    most
}

/// Cuts the constraints into runs that fit a kernel.
fn split(graph: &Graph) -> Vec<std::ops::Range<usize>> {
    let mut parts = Vec::new();
    let mut start = 0;
    let count = graph.constraints.len();
    while start < count {
        let fits = |end: usize| {
            let order = schedule(graph, &graph.constraints[start..end]);
            order.len() <= STATEMENTS_MAX && live_words(graph, &order) <= LIVE_WORDS_MAX
        };
        // The longest run that fits, by bisection: more constraints never need less.
        let (mut good, mut bad) = (start + 1, count + 1);
        while bad - good > 1 {
            let middle = usize::midpoint(good, bad);
            if fits(middle) {
                good = middle;
            } else {
                bad = middle;
            }
        }
        parts.push(start..good);
        start = good;
    }
    parts
}

fn name(graph: &Graph, id: Id) -> String {
    format!("{}{id}", if graph.is_secure(id) { 'q' } else { 'b' })
}

/// How a node is written where it is used.
fn operand(graph: &Graph, id: Id, layout: Layout) -> String {
    if is_inline(graph, id) { expression(graph, id, layout) } else { name(graph, id) }
}

fn expression(graph: &Graph, id: Id, layout: Layout) -> String {
    let of = |id: Id| operand(graph, id, layout);
    let secure = graph.is_secure(id);
    let prefix = if secure { "qm31" } else { "m31" };
    match graph.nodes[id as usize] {
        Node::Literal(value) => format!("{value}"),
        Node::Mask { column, offset: 0 } => format!("COLUMN(list[{column}])[row]"),
        Node::Mask { column, offset } => {
            format!("COLUMN(list[{column}])[offset_row(row, log_trace, log_eval, {offset})]")
        }
        Node::BaseSlot(slot) => format!("words[{}]", layout.base + slot as usize),
        Node::SecureSlot(slot) => format!("quads[{slot}]"),
        Node::Lift(a) => format!("(qm31)({}, 0, 0, 0)", of(a)),
        Node::Combine([a, b, c, d]) => format!("(qm31)({}, {}, {}, {})", of(a), of(b), of(c), of(d)),
        Node::Add(a, b) => format!("{prefix}_add({}, {})", of(a), of(b)),
        Node::Sub(a, b) => format!("{prefix}_sub({}, {})", of(a), of(b)),
        Node::Mul(a, b) => format!("{prefix}_mul({}, {})", of(a), of(b)),
        Node::Scale(a, b) => format!("qm31_mul_m31({}, {})", of(a), of(b)),
        Node::Shift(a, b) => format!("(qm31)(m31_add({0}.x, {1}), {0}.yzw)", of(a), of(b)),
        Node::Inverse(a) => format!("m31_inverse({})", of(a)),
    }
}

fn kernel(graph: &Graph, part: std::ops::Range<usize>, name_of_kernel: &str, layout: Layout) -> String {
    let mut text = format!(
        "\n__kernel void {name_of_kernel}(SLABS, uint table, uint params, uint out, uint log_trace, uint log_eval)\n{{\n\
         \x20   uint row = get_global_id(0);\n    if (row >= 1u << log_eval) {{\n        return;\n    }}\n\
         \x20   __global const uint *list = COLUMN(table);\n    __global const uint *words = COLUMN(params);\n\
         \x20   __global const uint4 *quads = QUAD(params);\n    ulong sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;\n"
    );
    let mut unfolded = 0;
    let mut done = vec![false; graph.nodes.len()];
    for index in part {
        let constraint = graph.constraints[index];
        let (root, lifted) = unlifted(graph, constraint);
        for id in schedule(graph, &[constraint]) {
            if std::mem::replace(&mut done[id as usize], true) {
                continue;
            }
            let kind = if graph.is_secure(id) { "qm31" } else { "uint" };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "    {kind} {} = {};", name(graph, id), expression(graph, id, layout));
        }
        let coefficient = layout.coefficients / 4 + index;
        let value = operand(graph, root, layout);
        let _ = match lifted {
            true => writeln!(text, "    SUM_PRODUCT(quads[{coefficient}], {value});"),
            false => writeln!(text, "    SUM_VALUE(qm31_mul(quads[{coefficient}], {value}));"),
        };
        unfolded += 1;
        if unfolded == SUMMANDS_MAX {
            text.push_str("    SUM_FOLD;\n");
            unfolded = 0;
        }
    }
    let _ = write!(
        text,
        "    SUM_FOLD;\n    qm31 sum = (qm31)(m31_reduce(sum0), m31_reduce(sum1), m31_reduce(sum2), m31_reduce(sum3));\n\
         \x20   sum = qm31_mul_m31(sum, words[{} + (row >> log_trace)]);\n    __global const uint *target = COLUMN(out);\n",
        layout.denominators
    );
    // All four are read before the first is written: the compiler cannot know that they are different columns.
    for coordinate in 0..4 {
        let _ = writeln!(text, "    __global uint *at{coordinate} = COLUMN(target[{coordinate}]) + row;");
    }
    text.push_str("    qm31 before = (qm31)(*at0, *at1, *at2, *at3);\n    sum = qm31_add(before, sum);\n");
    for (coordinate, field) in ["x", "y", "z", "w"].into_iter().enumerate() {
        let _ = writeln!(text, "    *at{coordinate} = sum.{field};");
    }
    text.push_str("}\n");
    text
}

/// The kernels of a graph.
pub(super) fn emit(graph: &Graph) -> Source {
    let layout = Layout::of(graph);
    let parts = split(graph);
    // The name is part of the text, and the key is the hash of the text without it.
    let mut hasher = blake3::Hasher::new();
    for part in &parts {
        hasher.update(kernel(graph, part.clone(), "", layout).as_bytes());
    }
    let key = hasher.finalize().to_hex()[..16].to_owned();
    let mut text = format!("{PRELUDE}{OFFSET_ROW}{SUMS}");
    let mut kernels = Vec::new();
    for (number, part) in parts.into_iter().enumerate() {
        let name = format!("constraints_{key}_{number}");
        text.push_str(&kernel(graph, part, &name, layout));
        kernels.push(name);
    }
    Source { key, text, kernels }
}

/// What a graph becomes, for records and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Shape {
    /// Columns read.
    pub columns: usize,
    /// Constraints.
    pub constraints: usize,
    /// Statements of a single kernel of all constraints.
    pub statements: usize,
    /// Statements of all kernels: what is computed by several is counted in each.
    pub statements_split: usize,
    /// Kernels.
    pub kernels: usize,
    /// Words live at once, in the kernel with most.
    pub live_words: usize,
}

/// The shape of a graph's kernels.
pub(super) fn shape(graph: &Graph) -> Shape {
    let orders: Vec<Vec<Id>> = split(graph).into_iter().map(|part| schedule(graph, &graph.constraints[part])).collect();
    Shape {
        columns: graph.columns.len(),
        constraints: graph.constraints.len(),
        statements: schedule(graph, &graph.constraints).len(),
        statements_split: orders.iter().map(Vec::len).sum(),
        kernels: orders.len(),
        live_words: orders.iter().map(|order| live_words(graph, order)).max().unwrap_or_default(),
    }
}
