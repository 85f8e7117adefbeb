//! Transactions whose signatures this node has verified, so that none is verified twice on its way from the mempool through
//! the blocks that are built, checked and applied.
//!
//! Remembers content and signature together, in two generations of [`GENERATION`] each: when the younger is full, the older
//! is forgotten. Forgetting costs one verification, nothing else.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use ledger::known::Known;
use types::ids::{Digest, GenesisHash};
use types::transaction::SignedTx;

/// Transactions of one generation: twice what the mempool holds. Both take about 4 MiB.
const GENERATION: usize = 32_768;

#[derive(Debug, Default)]
struct Generations {
    young: HashSet<Digest>,
    old: HashSet<Digest>,
}

/// The memory of one chain.
#[derive(Debug)]
pub(crate) struct Verified {
    genesis: GenesisHash,
    seen: Mutex<Generations>,
}

impl Verified {
    /// Nothing verified yet on this chain.
    pub(crate) fn new(genesis: GenesisHash) -> Self {
        Self { genesis, seen: Mutex::default() }
    }

    /// Whether the sender signed it; remembered if so.
    pub(crate) fn verify(&self, tx: &SignedTx) -> bool {
        let sealed = tx.sealed();
        if self.knows(&sealed) {
            return true;
        }
        // Outside the lock: this takes tens of microseconds.
        let good = tx.verify(&self.genesis);
        if good {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.young.len() >= GENERATION {
                seen.old = std::mem::take(&mut seen.young);
            }
            seen.young.insert(sealed);
        }
        good
    }

    fn knows(&self, sealed: &Digest) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.young.contains(sealed) || seen.old.contains(sealed)
    }
}

impl Known for Verified {
    fn verified(&self, tx: &SignedTx) -> bool {
        self.knows(&tx.sealed())
    }
}

#[cfg(test)]
mod tests {
    use types::ids::{Amount, TimeMs};
    use types::keys::{SecretKey, Signature};
    use types::transaction::{Action, SenderTx};

    use super::*;

    fn tx(nonce: u64) -> SignedTx {
        let (key, genesis) = (SecretKey::from_seed([3; 32]), GenesisHash::new([1; 32]));
        let action = Action::Transfer { to: key.public(), amount: Amount(1) };
        SenderTx { genesis, sender: key.public(), nonce, expires_ms: TimeMs(9), trace: 0, action }.sign(&key)
    }

    #[test]
    fn only_what_verified_is_known_and_only_with_its_signature() {
        let memory = Verified::new(GenesisHash::new([1; 32]));
        let good = tx(0);
        assert!(!memory.verified(&good));
        assert!(memory.verify(&good) && memory.verified(&good));
        // The same id under another signature is another matter.
        let forged = SignedTx { signature: Signature::new([7; 64]), ..good.clone() };
        assert_eq!(forged.id(), good.id());
        assert!(!memory.verified(&forged) && !memory.verify(&forged) && !memory.verified(&forged));
        assert!(!Verified::new(GenesisHash::new([2; 32])).verify(&good));
    }

    #[test]
    fn the_memory_is_bounded_and_forgets_the_oldest() {
        let memory = Verified::new(GenesisHash::new([1; 32]));
        let fill = |from: u64| {
            let mut seen = memory.seen.lock().unwrap();
            for n in from..from + GENERATION as u64 {
                let mut bytes = [9; 32];
                bytes[..8].copy_from_slice(&n.to_le_bytes());
                seen.young.insert(Digest::new(bytes));
            }
        };
        assert!(memory.verify(&tx(0)));
        fill(0);
        assert!(memory.verify(&tx(1)) && memory.verified(&tx(0)));
        fill(1 << 20);
        assert!(memory.verify(&tx(2)) && !memory.verified(&tx(0)) && memory.verified(&tx(1)));
        let seen = memory.seen.lock().unwrap();
        assert!(seen.young.len() + seen.old.len() <= 2 * GENERATION + 2);
    }
}
