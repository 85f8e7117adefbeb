//! A database in memory for the simulator and for tests, with the same promises as the one on disk and none more: relaxed
//! writes are lost by [`MemoryStore::power_cut`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use types::kv::KvPair;

use crate::error::Result;
use crate::store::{Snapshot, Store, StoreRead};
use crate::table::{Batch, Durability, Table};

/// The database. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

type Rows = BTreeMap<Arc<[u8]>, Arc<[u8]>>;
/// Table, key, and the value there before; `None` when there was none.
type OldRow = (Table, Arc<[u8]>, Option<Arc<[u8]>>);

#[derive(Debug, Default)]
struct Inner {
    image: Image,
    /// For each relaxed batch since the last sync, how to take it back.
    undo: Vec<Vec<OldRow>>,
}

/// The tables; copied only when a snapshot of them is held while they change.
#[derive(Clone, Debug, Default)]
struct Image(BTreeMap<Table, Arc<Rows>>);

impl Image {
    fn set(&mut self, table: Table, key: Arc<[u8]>, value: Option<Arc<[u8]>>) -> Option<Arc<[u8]>> {
        let rows = Arc::make_mut(self.0.entry(table).or_default());
        match value {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        }
    }
}

impl MemoryStore {
    /// An empty database.
    pub fn new() -> Self {
        Self::default()
    }

    /// A power cut: of the relaxed batches since the last synced one, the first `keep` survive, the others never were.
    /// Synced batches always survive.
    pub fn power_cut(&self, keep: usize) {
        let mut inner = self.inner();
        while inner.undo.len() > keep {
            for (table, key, value) in inner.undo.pop().unwrap_or_default().into_iter().rev() {
                inner.image.set(table, key, value);
            }
        }
        inner.undo.clear();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoreRead for Image {
    fn record(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.0.get(&table).and_then(|rows| rows.get(key)).map(|value| value.to_vec()))
    }

    fn records(&self, table: Table, prefix: &[u8], start: Option<&[u8]>, limit: usize) -> Result<Vec<KvPair>> {
        let Some(rows) = self.0.get(&table) else { return Ok(vec![]) };
        let from: Arc<[u8]> = start.filter(|s| *s > prefix).unwrap_or(prefix).into();
        let mine = rows.range(from..).take_while(|(key, _)| key.starts_with(prefix));
        Ok(mine.take(limit).map(|(key, value)| (key.to_vec(), value.to_vec())).collect())
    }
}

impl StoreRead for MemoryStore {
    fn record(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.inner().image.record(table, key)
    }

    fn records(&self, table: Table, prefix: &[u8], start: Option<&[u8]>, limit: usize) -> Result<Vec<KvPair>> {
        self.inner().image.records(table, prefix, start, limit)
    }
}

impl Store for MemoryStore {
    fn write(&self, batch: Batch, durability: Durability) -> Result<()> {
        let mut inner = self.inner();
        let mut undo = Vec::with_capacity(batch.writes.len());
        for (table, key, value) in batch.writes {
            let key: Arc<[u8]> = key.into();
            let old = inner.image.set(table, Arc::clone(&key), value.map(Into::into));
            undo.push((table, key, old));
        }
        match durability {
            Durability::Synced => inner.undo.clear(),
            Durability::Relaxed => inner.undo.push(undo),
        }
        Ok(())
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::new(Arc::new(self.inner().image.clone()))
    }
}
