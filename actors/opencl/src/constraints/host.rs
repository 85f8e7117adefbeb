//! Evaluates a graph on the host, where a kernel is missing: rows in blocks, one node after the other, on all threads.
//!
//! Works from the recorded graph, so that an AIR of many components is not compiled for the host a second time.

use std::num::NonZero;

use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SecureField;
use stwo::core::utils::offset_bit_reversed_circle_domain_index;

use super::graph::{Graph, Id, Node};

/// Rows of a block: each node's values of one block are computed in one loop.
const BLOCK: usize = 64;

/// Values of one block of rows, one entry per node; the vector of the other field is empty.
struct Values {
    base: Vec<[BaseField; BLOCK]>,
    secure: Vec<[SecureField; BLOCK]>,
    /// Place of a node in the vector of its field.
    place: Vec<usize>,
}

/// What the constraints of a graph are evaluated on.
pub(super) struct HostRows<'a> {
    pub(super) graph: &'a Graph,
    /// In the order of the graph's columns, on the evaluation domain, in bit-reversed order.
    pub(super) columns: Vec<Vec<BaseField>>,
    pub(super) log_trace: u32,
    pub(super) log_eval: u32,
    /// Inverses of the vanishing polynomial, one per coset of the trace domain.
    pub(super) denominators: &'a [BaseField],
    /// One per constraint.
    pub(super) coefficients: &'a [SecureField],
}

impl Values {
    fn new(graph: &Graph) -> Self {
        let mut counts = [0_usize; 2];
        let place = (0..graph.nodes.len())
            .map(|id| {
                let count = &mut counts[usize::from(graph.is_secure(id as Id))];
                *count += 1;
                *count - 1
            })
            .collect();
        Self {
            base: vec![[BaseField::default(); BLOCK]; counts[0]],
            secure: vec![[SecureField::default(); BLOCK]; counts[1]],
            place,
        }
    }

    fn base(&self, id: Id) -> &[BaseField; BLOCK] {
        &self.base[self.place[id as usize]]
    }

    fn secure(&self, id: Id) -> &[SecureField; BLOCK] {
        &self.secure[self.place[id as usize]]
    }

    fn pair<T: Copy, U: Copy>(a: &[T; BLOCK], b: &[U; BLOCK], of: impl Fn(T, U) -> T) -> [T; BLOCK] {
        std::array::from_fn(|row| of(a[row], b[row]))
    }
}

impl HostRows<'_> {
    /// Sums of all constraints, divided by the vanishing polynomial, of every row.
    pub(super) fn evaluate(&self) -> Vec<SecureField> {
        let mut sums = vec![SecureField::default(); 1 << self.log_eval];
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let share = sums.len().div_ceil(threads).next_multiple_of(BLOCK);
        std::thread::scope(|scope| {
            for (number, part) in sums.chunks_mut(share).enumerate() {
                scope.spawn(move || self.evaluate_part(number * share, part));
            }
        });
        sums
    }

    fn evaluate_part(&self, first: usize, sums: &mut [SecureField]) {
        let mut values = Values::new(self.graph);
        for (number, block) in sums.chunks_mut(BLOCK).enumerate() {
            let start = first + number * BLOCK;
            for id in 0..self.graph.nodes.len() {
                self.node(id as Id, start, &mut values);
            }
            for (row, sum) in block.iter_mut().enumerate() {
                let constraints = self.graph.constraints.iter().zip(self.coefficients);
                let total: SecureField =
                    constraints.map(|(id, coefficient)| *coefficient * values.secure(*id)[row]).sum();
                *sum = total * self.denominators[(start + row) >> self.log_trace];
            }
        }
    }

    /// The value of column `column` at `offset` from row `row`; rows past the end repeat, and nobody reads their results.
    fn mask(&self, column: u32, offset: i32, row: usize) -> BaseField {
        let row = row & ((1 << self.log_eval) - 1);
        let at = match offset {
            0 => row,
            _ => offset_bit_reversed_circle_domain_index(row, self.log_trace, self.log_eval, offset as isize),
        };
        self.columns[column as usize][at]
    }

    fn node(&self, id: Id, start: usize, values: &mut Values) {
        if self.graph.is_secure(id) {
            let (a, b) = match Graph::arguments(self.graph.nodes[id as usize])[..] {
                [a, b] => (a, b),
                [a] => (a, a),
                _ => (id, id),
            };
            let result = match self.graph.nodes[id as usize] {
                Node::SecureSlot(slot) => {
                    let [x, y, z, w] = self.graph.secure_slots[slot as usize];
                    [SecureField::from_u32_unchecked(x, y, z, w); BLOCK]
                }
                Node::Lift(a) => values.base(a).map(SecureField::from),
                Node::Combine(parts) => {
                    let parts = parts.map(|part| values.base(part));
                    std::array::from_fn(|row| SecureField::from_m31_array(parts.map(|part| part[row])))
                }
                Node::Add(..) => Values::pair(values.secure(a), values.secure(b), |a, b| a + b),
                Node::Sub(..) => Values::pair(values.secure(a), values.secure(b), |a, b| a - b),
                Node::Mul(..) => Values::pair(values.secure(a), values.secure(b), |a, b| a * b),
                Node::Scale(..) => Values::pair(values.secure(a), values.base(b), |a, b| a * b),
                Node::Shift(..) => Values::pair(values.secure(a), values.base(b), |a, b| a + b),
                Node::Literal(_) | Node::Mask { .. } | Node::BaseSlot(_) | Node::Inverse(_) => {
                    unreachable!("a base node is not secure")
                }
            };
            let place = values.place[id as usize];
            values.secure[place] = result;
            return;
        }
        let constant = |value: u32| [BaseField::from_u32_unchecked(value); BLOCK];
        let result = match self.graph.nodes[id as usize] {
            Node::Literal(value) => constant(value),
            Node::BaseSlot(slot) => constant(self.graph.base_slots[slot as usize]),
            Node::Mask { column, offset } => std::array::from_fn(|row| self.mask(column, offset, start + row)),
            Node::Add(a, b) => Values::pair(values.base(a), values.base(b), |a, b| a + b),
            Node::Sub(a, b) => Values::pair(values.base(a), values.base(b), |a, b| a - b),
            Node::Mul(a, b) => Values::pair(values.base(a), values.base(b), |a, b| a * b),
            // As on the device: the inverse of zero is zero.
            Node::Inverse(a) => values.base(a).map(|a| if a.0 == 0 { a } else { a.inverse() }),
            Node::SecureSlot(_) | Node::Lift(_) | Node::Combine(_) | Node::Scale(..) | Node::Shift(..) => {
                unreachable!("a secure node is not base")
            }
        };
        let place = values.place[id as usize];
        values.base[place] = result;
    }
}
