//! How rules read stored state without knowing where it lies: two ordered key spaces behind one trait.

use std::collections::BTreeMap;

use thiserror::Error;

/// Which key space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Space {
    /// The ledger's records, by typed key.
    State,
    /// Nodes and values of the Merkle tree over them.
    Tree,
}

/// The store could not answer. Never "not found".
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("reading the store failed: {0}")]
pub struct KvError(pub String);

/// Key and value of a record.
pub type KvPair = (Vec<u8>, Vec<u8>);

/// Reads one consistent view of the store.
pub trait KvRead {
    /// The value at `key`.
    ///
    /// # Errors
    /// [`KvError`] when the store fails.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// Up to `limit` records whose keys begin with `prefix`, in rising key order, from `start` (inclusive) on.
    ///
    /// # Errors
    /// [`KvError`] when the store fails.
    fn scan(&self, space: Space, prefix: &[u8], start: Option<&[u8]>, limit: usize) -> Result<Vec<KvPair>, KvError>;
}

/// Writes of one block: `None` deletes.
pub type KvWrites = BTreeMap<(Space, Vec<u8>), Option<Vec<u8>>>;

/// A key space in memory, for simulation and tests.
#[derive(Clone, Debug, Default)]
pub struct MemoryKv {
    records: BTreeMap<(Space, Vec<u8>), Vec<u8>>,
}

impl MemoryKv {
    /// Applies the writes of a block.
    pub fn apply(&mut self, writes: &KvWrites) {
        for (key, value) in writes {
            match value {
                Some(value) => self.records.insert(key.clone(), value.clone()),
                None => self.records.remove(key),
            };
        }
    }
}

impl KvRead for MemoryKv {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.records.get(&(space, key.to_vec())).cloned())
    }

    fn scan(&self, space: Space, prefix: &[u8], start: Option<&[u8]>, limit: usize) -> Result<Vec<KvPair>, KvError> {
        let from = start.filter(|s| *s > prefix).unwrap_or(prefix).to_vec();
        let rows = self.records.range((space, from)..);
        let mine = rows.take_while(|((s, key), _)| *s == space && key.starts_with(prefix));
        Ok(mine.take(limit).map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scan_stays_within_prefix_space_and_limit() {
        let mut kv = MemoryKv::default();
        let put = |key: &[u8]| ((Space::State, key.to_vec()), Some(key.to_vec()));
        kv.apply(
            &[put(b"a1"), put(b"a2"), put(b"a3"), put(b"b1"), ((Space::Tree, b"a9".to_vec()), Some(vec![]))].into(),
        );
        let keys = |rows: Vec<KvPair>| rows.into_iter().map(|(k, _)| k).collect::<Vec<_>>();
        assert_eq!(keys(kv.scan(Space::State, b"a", None, 9).unwrap()), [b"a1", b"a2", b"a3"]);
        assert_eq!(keys(kv.scan(Space::State, b"a", Some(b"a2"), 1).unwrap()), [b"a2"]);
        kv.apply(&[((Space::State, b"a2".to_vec()), None)].into());
        assert_eq!(kv.get(Space::State, b"a2").unwrap(), None);
    }
}
