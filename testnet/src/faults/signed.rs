//! Reads the notes of signed messages back, and finds any slot for which one key signed two contents.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use consensus::{GuardRecord, Slot};
use types::Wire;
use types::keys::PublicKey;

/// Every signed message seen, one for a key's slot.
#[derive(Debug, Default)]
pub struct Signed(BTreeMap<(PublicKey, Slot), GuardRecord>);

impl Signed {
    /// Takes a record in.
    ///
    /// # Errors
    /// When the key has signed something else in that slot.
    pub fn add(&mut self, record: GuardRecord) -> Result<()> {
        let key = (record.signer(), record.slot());
        match self.0.get(&key) {
            Some(other) if *other != record => {
                bail!("two contents for one slot by {}: {other:?} and {record:?}", key.0)
            }
            Some(_) => {}
            None => {
                self.0.insert(key, record);
            }
        }
        Ok(())
    }

    /// Takes the notes of one node in.
    ///
    /// # Errors
    /// When the file can't be read, and as [`Signed::add`].
    pub fn add_notes(&mut self, file: &Path) -> Result<()> {
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        for line in text.lines() {
            self.add(GuardRecord::from_bytes(&hex::decode(line)?)?)?;
        }
        Ok(())
    }

    /// Number of slots signed.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was signed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use types::ids::{BlockId, GenesisHash, Height, Round};
    use types::keys::SecretKey;
    use types::vote::{Vote, VoteKind};

    use super::*;

    #[test]
    fn a_second_content_for_a_slot_is_found() {
        let key = SecretKey::from_seed([1; 32]);
        let vote = |value| Vote {
            kind: VoteKind::Precommit,
            height: Height(4),
            round: Round(0),
            value,
            validator: key.public(),
        };
        let record = |value| GuardRecord::Vote(vote(value).sign(&key, &GenesisHash::new([9; 32])));
        let mut signed = Signed::default();
        signed.add(record(None)).unwrap();
        signed.add(record(None)).unwrap();
        assert_eq!(signed.len(), 1);
        assert!(signed.add(record(Some(BlockId::new([3; 32])))).is_err());
    }
}
