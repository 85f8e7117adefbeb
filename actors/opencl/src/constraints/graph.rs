//! The expression graph: equal expressions are one node. Owns folding of zeros and ones and the typing (base or secure
//! field); knows nothing of stwo's evaluator interface.

use super::hash::FastMap;

/// Number of a node.
pub(super) type Id = u32;

/// An expression. `B` nodes are in the base field, `S` nodes in the secure field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Node {
    /// The base constants zero and one.
    Literal(u32),
    /// Value of a column, by its number in [`Graph::columns`], at a row offset.
    Mask { column: u32, offset: i32 },
    /// A base value given at launch.
    BaseSlot(u32),
    /// A secure value given at launch.
    SecureSlot(u32),
    /// A base value as a secure one.
    Lift(Id),
    /// Four base values as the coordinates of a secure one.
    Combine([Id; 4]),
    /// Sum of two values of one field.
    Add(Id, Id),
    /// Difference of two values of one field.
    Sub(Id, Id),
    /// Product of two values of one field.
    Mul(Id, Id),
    /// Product of a secure and a base value.
    Scale(Id, Id),
    /// Sum of a secure and a base value.
    Shift(Id, Id),
    /// Inverse of a base value.
    Inverse(Id),
}

/// Nodes in an order in which arguments come first, the columns they read, and the values of the slots.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    secure: Vec<bool>,
    known: FastMap<Node, Id>,
    /// Interaction and number in it of each column.
    pub(super) columns: Vec<(usize, usize)>,
    column_known: FastMap<(usize, usize), u32>,
    pub(super) base_slots: Vec<u32>,
    pub(super) secure_slots: Vec<[u32; 4]>,
    base_known: FastMap<u32, Id>,
    secure_known: FastMap<[u32; 4], Id>,
    /// One node per constraint, in order.
    pub(super) constraints: Vec<Id>,
}

impl Graph {
    fn node(&mut self, node: Node, secure: bool) -> Id {
        if let Some(id) = self.known.get(&node) {
            return *id;
        }
        let id = self.nodes.len() as Id;
        self.nodes.push(node);
        self.secure.push(secure);
        self.known.insert(node, id);
        id
    }

    /// Whether a node is in the secure field.
    pub(super) fn is_secure(&self, id: Id) -> bool {
        self.secure[id as usize]
    }

    fn get(&self, id: Id) -> Node {
        self.nodes[id as usize]
    }

    /// Zero or one.
    pub(super) fn literal(&mut self, value: u32) -> Id {
        self.node(Node::Literal(value), false)
    }

    pub(super) fn mask(&mut self, interaction: usize, index: usize, offset: i32) -> Id {
        let place = (interaction, index);
        let columns = &mut self.columns;
        let column = *self.column_known.entry(place).or_insert_with(|| {
            columns.push(place);
            columns.len() as u32 - 1
        });
        self.node(Node::Mask { column, offset }, false)
    }

    /// A base value that is not part of the kernel. Equal values share a slot.
    pub(super) fn base_slot(&mut self, value: u32) -> Id {
        if let Some(id) = self.base_known.get(&value) {
            return *id;
        }
        let id = self.node(Node::BaseSlot(self.base_slots.len() as u32), false);
        self.base_slots.push(value);
        self.base_known.insert(value, id);
        id
    }

    /// A secure value that is not part of the kernel. Equal values share a slot unless `own` is set.
    pub(super) fn secure_slot(&mut self, value: [u32; 4], own: bool) -> Id {
        if !own && let Some(id) = self.secure_known.get(&value) {
            return *id;
        }
        let id = self.node(Node::SecureSlot(self.secure_slots.len() as u32), true);
        self.secure_slots.push(value);
        if !own {
            self.secure_known.insert(value, id);
        }
        id
    }

    pub(super) fn lift(&mut self, a: Id) -> Id {
        if self.is_secure(a) { a } else { self.node(Node::Lift(a), true) }
    }

    pub(super) fn combine(&mut self, parts: [Id; 4]) -> Id {
        self.node(Node::Combine(parts), true)
    }

    /// The base value behind a secure one, if there is.
    fn lowered(&self, id: Id) -> Option<Id> {
        match self.get(id) {
            Node::Lift(inner) => Some(inner),
            _ if !self.is_secure(id) => Some(id),
            _ => None,
        }
    }

    fn is_literal(&self, id: Id, value: u32) -> bool {
        self.lowered(id).is_some_and(|id| self.get(id) == Node::Literal(value))
    }

    /// A node whose field is that of `a` and `b` together, from the given constructors for equal and mixed fields.
    fn pair(&mut self, a: Id, b: Id, same: fn(Id, Id) -> Node, mixed: fn(Id, Id) -> Node) -> Id {
        let lifted = self.is_secure(a) || self.is_secure(b);
        match (self.lowered(a), self.lowered(b)) {
            (Some(x), Some(y)) => {
                let node = self.node(same(x.min(y), x.max(y)), false);
                if lifted { self.lift(node) } else { node }
            }
            (None, Some(y)) => self.node(mixed(a, y), true),
            (Some(x), None) => self.node(mixed(b, x), true),
            (None, None) => self.node(same(a.min(b), a.max(b)), true),
        }
    }

    /// `a` in the field of both.
    fn typed_as(&mut self, a: Id, b: Id) -> Id {
        if self.is_secure(b) { self.lift(a) } else { a }
    }

    pub(super) fn add(&mut self, a: Id, b: Id) -> Id {
        if self.is_literal(a, 0) {
            return self.typed_as(b, a);
        }
        if self.is_literal(b, 0) {
            return self.typed_as(a, b);
        }
        self.pair(a, b, Node::Add, Node::Shift)
    }

    pub(super) fn mul(&mut self, a: Id, b: Id) -> Id {
        for (x, y) in [(a, b), (b, a)] {
            if self.is_literal(x, 1) {
                return self.typed_as(y, x);
            }
            if self.is_literal(x, 0) {
                return self.typed_as(x, y);
            }
        }
        self.pair(a, b, Node::Mul, Node::Scale)
    }

    pub(super) fn sub(&mut self, a: Id, b: Id) -> Id {
        if self.is_literal(b, 0) {
            return self.typed_as(a, b);
        }
        match (self.lowered(a), self.lowered(b)) {
            (Some(x), Some(y)) => {
                let lifted = self.is_secure(a) || self.is_secure(b);
                let node = self.node(Node::Sub(x, y), false);
                if lifted { self.lift(node) } else { node }
            }
            _ => {
                let (a, b) = (self.lift(a), self.lift(b));
                self.node(Node::Sub(a, b), true)
            }
        }
    }

    pub(super) fn neg(&mut self, a: Id) -> Id {
        let zero = self.literal(0);
        self.sub(zero, a)
    }

    pub(super) fn inverse(&mut self, a: Id) -> Id {
        self.node(Node::Inverse(a), false)
    }

    /// Arguments of a node.
    pub(super) fn arguments(node: Node) -> Vec<Id> {
        match node {
            Node::Literal(_) | Node::Mask { .. } | Node::BaseSlot(_) | Node::SecureSlot(_) => Vec::new(),
            Node::Lift(a) | Node::Inverse(a) => vec![a],
            Node::Combine(parts) => parts.to_vec(),
            Node::Add(a, b) | Node::Sub(a, b) | Node::Mul(a, b) | Node::Scale(a, b) | Node::Shift(a, b) => vec![a, b],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_expressions_are_one_node() {
        let mut graph = Graph::default();
        let (a, b) = (graph.mask(1, 0, 0), graph.mask(1, 1, -1));
        let sum = graph.add(a, b);
        assert_eq!(graph.add(b, a), sum);
        assert_ne!(graph.sub(a, b), graph.sub(b, a));
        let (zero, one) = (graph.literal(0), graph.literal(1));
        assert_eq!(graph.add(a, zero), a);
        assert_eq!(graph.mul(one, b), b);
        assert_eq!(graph.mul(b, zero), zero);
        let lifted_zero = graph.lift(zero);
        let secure = graph.add(lifted_zero, a);
        assert!(graph.is_secure(secure), "the type survives folding");
        assert_eq!(graph.columns, vec![(1, 0), (1, 1)]);
    }

    #[test]
    fn mixed_products_stay_cheap() {
        let mut graph = Graph::default();
        let a = graph.mask(1, 0, 0);
        let s = graph.secure_slot([1, 2, 3, 4], false);
        assert_eq!(graph.secure_slot([1, 2, 3, 4], false), s);
        assert_ne!(graph.secure_slot([1, 2, 3, 4], true), s);
        let lifted = graph.lift(a);
        let product = graph.mul(lifted, s);
        assert!(matches!(graph.nodes[product as usize], Node::Scale(x, y) if x == s && y == a));
        let square = graph.mul(lifted, lifted);
        assert!(matches!(graph.nodes[square as usize], Node::Lift(_)), "still in the base field");
        assert_eq!(graph.base_slot(7), graph.base_slot(7));
        assert_ne!(graph.base_slot(7), graph.base_slot(0), "a value of zero is not folded: it may differ next time");
    }
}
