//! Writes on top of a view, readable like a view: how a block, and a transaction within a block, is tried and taken
//! back.

use std::collections::BTreeMap;

use types::codec::Wire;
use types::kv::{KvError, KvPair, KvRead, KvWrites, Space};

/// Uncommitted writes over a base. Dropping it takes them back.
pub struct Overlay<'a> {
    base: &'a dyn KvRead,
    writes: KvWrites,
}

impl<'a> Overlay<'a> {
    /// No writes yet over `base`.
    pub fn new(base: &'a dyn KvRead) -> Self {
        Self { base, writes: KvWrites::new() }
    }

    /// Writes a record.
    pub fn put<T: Wire>(&mut self, key: Vec<u8>, record: &T) {
        self.writes.insert((Space::State, key), Some(record.to_bytes()));
    }

    /// Writes an empty marker.
    pub fn mark(&mut self, key: Vec<u8>) {
        self.writes.insert((Space::State, key), Some(Vec::new()));
    }

    /// Deletes a record or marker.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.writes.insert((Space::State, key), None);
    }

    /// Takes over the writes of an overlay that was built on this one.
    pub fn absorb(&mut self, writes: KvWrites) {
        self.writes.extend(writes);
    }

    /// The writes, for the caller to absorb or to store.
    pub fn into_writes(self) -> KvWrites {
        self.writes
    }

    /// The writes that differ from the base: what a block really changed, whatever path its transactions took.
    ///
    /// # Errors
    /// [`KvError`] when the base fails.
    pub fn into_changes(self) -> Result<KvWrites, KvError> {
        let mut changes = KvWrites::new();
        for ((space, key), value) in self.writes {
            if self.base.get(space, &key)? != value {
                changes.insert((space, key), value);
            }
        }
        Ok(changes)
    }
}

impl KvRead for Overlay<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        match self.writes.get(&(space, key.to_vec())) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(space, key),
        }
    }

    fn scan(&self, space: Space, prefix: &[u8], start: Option<&[u8]>, limit: usize) -> Result<Vec<KvPair>, KvError> {
        let from = start.filter(|s| *s > prefix).unwrap_or(prefix).to_vec();
        let rows =
            self.writes.range((space, from)..).take_while(|((s, key), _)| *s == space && key.starts_with(prefix));
        let mine: Vec<_> = rows.collect();
        // Each write can hide at most one record of the base, so this many rows always fill the page.
        let base = self.base.scan(space, prefix, start, limit.saturating_add(mine.len()))?;
        let mut merged: BTreeMap<Vec<u8>, Vec<u8>> = base.into_iter().collect();
        for ((_, key), value) in mine {
            match value {
                Some(value) => merged.insert(key.clone(), value.clone()),
                None => merged.remove(key),
            };
        }
        Ok(merged.into_iter().take(limit).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use types::kv::MemoryKv;

    use super::*;

    fn writes() -> impl Strategy<Value = Vec<(u8, Option<u8>)>> {
        prop::collection::vec((0u8..24, prop::option::of(0u8..4)), 0..24)
    }

    fn space_of(list: &[(u8, Option<u8>)]) -> KvWrites {
        list.iter().map(|(k, v)| ((Space::State, vec![k / 8, k % 8]), v.map(|v| vec![v]))).collect()
    }

    proptest! {
        #[test]
        fn reads_and_scans_equal_those_of_the_applied_state(
            base in writes(), first in writes(), second in writes(),
            prefix in 0u8..4, start in 0u8..8, limit in 0usize..9,
        ) {
            let mut flat = MemoryKv::default();
            flat.apply(&space_of(&base));
            let bottom = flat.clone();
            let mut middle = Overlay::new(&bottom);
            middle.absorb(space_of(&first));
            let mut top = Overlay::new(&middle);
            top.absorb(space_of(&second));
            flat.apply(&space_of(&first));
            flat.apply(&space_of(&second));
            let from = vec![prefix, start];
            for start in [None, Some(from.as_slice())] {
                prop_assert_eq!(
                    top.scan(Space::State, &[prefix], start, limit).unwrap(),
                    flat.scan(Space::State, &[prefix], start, limit).unwrap()
                );
            }
            prop_assert_eq!(top.get(Space::State, &from).unwrap(), flat.get(Space::State, &from).unwrap());
            let changes = top.into_changes().unwrap();
            let mut again = bottom.clone();
            again.apply(&space_of(&first));
            again.apply(&changes);
            let all = |kv: &MemoryKv| kv.scan(Space::State, &[], None, 99).unwrap();
            prop_assert_eq!(all(&again), all(&flat));
        }
    }
}
