//! What the next block would say to waiting transactions, asked once per transaction instead of once per pair of them.
//!
//! Keeps, for the last applied block, the beginning of the next one and what each sender's waiting transactions would leave
//! behind. Everything is made anew when another block was applied. Held: one plan for each sender that the mempool holds.

use std::collections::BTreeMap;

use ledger::known::Known;
use ledger::precheck::{Outlook, Prospect};
use ledger::{Head, LedgerError};
use types::ids::{BlockId, TxId};
use types::keys::PublicKey;
use types::kv::KvRead;
use types::transaction::{SignedTx, Transaction};

/// A sender's waiting transactions by nonce.
pub(crate) type Queue = BTreeMap<u64, (TxId, Transaction)>;

/// The first nonce from `nonce` on that nothing waits for. What waits may have a hole, since a transaction that the ledger
/// refuses by now is dropped alone: the next one must fill it, or none of those after it can pass.
pub(crate) fn first_free(own: &Queue, nonce: u64) -> u64 {
    let run = own.range(nonce..).zip(nonce..).take_while(|((held, _), next)| *held == next).count();
    nonce.saturating_add(run as u64)
}

/// The outlook on the last block that was asked about.
#[derive(Default)]
pub(crate) struct Ahead(Option<Made>);

impl std::fmt::Debug for Ahead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ahead(of {:?})", self.0.as_ref().map(|made| made.block.short()))
    }
}

struct Made {
    block: BlockId,
    outlook: Outlook,
    plans: BTreeMap<PublicKey, Plan>,
}

#[derive(Default)]
struct Plan {
    prospect: Prospect,
    /// All waiting transactions of the sender with nonces below this are in it.
    next: u64,
}

impl Ahead {
    /// The outlook on the view whose last block is `head`.
    fn on(&mut self, view: &dyn KvRead, head: &Head) -> Result<&mut Made, LedgerError> {
        let made = match self.0.take().filter(|made| made.block == head.id) {
            Some(made) => made,
            None => Made { block: head.id, outlook: Outlook::new(view, head.time_ms)?, plans: BTreeMap::new() },
        };
        Ok(self.0.insert(made))
    }

    /// What the ledger says to a transaction after a look at its sender's account, with `waiting` transactions of the
    /// sender here.
    ///
    /// # Errors
    /// [`LedgerError`]; whatever is refused so would be refused by [`Self::check_after`], too.
    pub(crate) fn look(
        &mut self,
        (view, head): (&dyn KvRead, &Head),
        tx: &SignedTx,
        waiting: u64,
    ) -> Result<(), LedgerError> {
        self.on(view, head)?.outlook.look(view, tx, waiting)
    }

    /// What the ledger says to a transaction that nothing here comes before.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub(crate) fn check_alone(
        &mut self,
        (view, head): (&dyn KvRead, &Head),
        tx: &Transaction,
        known: &dyn Known,
    ) -> Result<(), LedgerError> {
        self.on(view, head)?.outlook.admit(view, &mut Prospect::default(), tx, known)
    }

    /// What the ledger says to a sender's transaction after those with smaller nonces in `own`. The caller puts an accepted one
    /// into `own`, and takes none out before the next block.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub(crate) fn check_after(
        &mut self,
        (view, head): (&dyn KvRead, &Head),
        own: &Queue,
        (sender, nonce): (PublicKey, u64),
        tx: &Transaction,
        known: &dyn Known,
    ) -> Result<(), LedgerError> {
        let made = self.on(view, head)?;
        let mut plan = made.plans.remove(&sender).filter(|plan| plan.next <= nonce).unwrap_or_default();
        for (_, earlier) in own.range(plan.next..nonce).map(|(_, held)| held) {
            // One that is refused by now is passed over; the sweep drops it.
            if let Err(error @ LedgerError::State(_)) = made.outlook.admit(view, &mut plan.prospect, earlier, known) {
                return Err(error);
            }
        }
        let end = own.last_key_value().map_or(0, |(last, _)| last.saturating_add(1));
        plan.next = end.min(nonce);
        let result = made.outlook.admit(view, &mut plan.prospect, tx, known);
        if result.is_ok() {
            plan.next = nonce.saturating_add(1);
        }
        // A transaction that fills a hole comes before some that are not in the plan.
        if end <= nonce {
            made.plans.insert(sender, plan);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use ledger::TxCode;
    use ledger::known::Nothing;
    use types::genesis::{Genesis, GenesisAccount, GenesisValidator};
    use types::ids::{Amount, GenesisHash, TimeMs};
    use types::keys::SecretKey;
    use types::kv::MemoryKv;
    use types::params::Params;
    use types::transaction::{Action, SenderTx};

    use super::*;

    /// A chain with one validator and two senders of 1,000 credits each.
    fn chain() -> (MemoryKv, Head, GenesisHash) {
        let key = |n: u8| SecretKey::from_seed([n; 32]).public();
        let genesis = Genesis {
            chain_id: "ahead".into(),
            time_ms: TimeMs(1_000),
            params: Params::standard(),
            validators: vec![GenesisValidator { key: key(1), power: 1, account: key(2), stake: Amount(1_000_000) }],
            provers: vec![],
            accounts: [3, 4].map(|n| GenesisAccount { account: key(n), balance: Amount(1_000) }).to_vec(),
        };
        let mut view = MemoryKv::default();
        view.apply(&ledger::genesis::build(&genesis).unwrap().writes);
        let head = ledger::head(&view).unwrap();
        (view, head, genesis.hash())
    }

    fn pay(chain: GenesisHash, sender: u8, nonce: u64, amount: u128) -> Transaction {
        let key = SecretKey::from_seed([sender; 32]);
        let action = Action::Transfer { to: SecretKey::from_seed([9; 32]).public(), amount: Amount(amount) };
        let expires_ms = TimeMs(60_000);
        let content = SenderTx { genesis: chain, sender: key.public(), nonce, expires_ms, trace: 0, action };
        Transaction::Signed(content.sign(&key))
    }

    #[test]
    fn each_transaction_is_judged_after_its_senders_own_and_no_others() {
        let (view, head, chain) = chain();
        let (mut ahead, mut queues) = (Ahead::default(), BTreeMap::<u8, Queue>::new());
        let mut offer = |sender: u8, nonce: u64, amount: u128| {
            let (tx, own) = (pay(chain, sender, nonce, amount), queues.entry(sender).or_default());
            let place = (SecretKey::from_seed([sender; 32]).public(), nonce);
            match ahead.check_after((&view, &head), own, place, &tx, &Nothing) {
                Ok(()) => {
                    own.insert(nonce, (tx.id(), tx));
                    None
                }
                Err(LedgerError::Refused(error)) => Some(error.code()),
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(offer(3, 0, 600), None);
        assert_eq!(offer(3, 2, 1), Some(TxCode::NonceGap));
        // What the first left is not enough for as much again; the refused ones leave no trace.
        assert_eq!(offer(3, 1, 600), Some(TxCode::Balance));
        assert_eq!(offer(3, 1, 300), None);
        assert_eq!(offer(4, 0, 600), None);
        // Whether a nonce is taken here is the mempool's to say; this one takes the place of the first.
        assert_eq!(offer(3, 0, 1), None);
        assert_eq!(offer(3, 2, 697), Some(TxCode::Balance));
        assert_eq!(offer(3, 2, 696), None);
        assert_eq!(offer(3, 3, 1), Some(TxCode::Balance));
    }

    #[test]
    fn a_hole_in_what_waits_is_the_next_nonce() {
        let (_, _, chain) = chain();
        let waiting = |nonces: &[u64]| -> Queue {
            let held = |nonce: &u64| pay(chain, 3, *nonce, 1);
            nonces.iter().map(|nonce| (*nonce, (held(nonce).id(), held(nonce)))).collect()
        };
        assert_eq!(first_free(&waiting(&[]), 4), 4);
        assert_eq!(first_free(&waiting(&[4, 5]), 4), 6);
        assert_eq!(first_free(&waiting(&[4, 6, 7]), 4), 5);
        // Below the account's own nothing counts: it waits to be swept out.
        assert_eq!(first_free(&waiting(&[2, 3, 5]), 4), 4);
    }

    #[test]
    fn another_head_makes_everything_anew() {
        let (view, head, chain) = chain();
        let mut ahead = Ahead::default();
        let place = (SecretKey::from_seed([3; 32]).public(), 0);
        let (own, tx) = (Queue::new(), pay(chain, 3, 0, 5));
        ahead.check_after((&view, &head), &own, place, &tx, &Nothing).unwrap();
        let asked = ahead.check_after((&view, &head), &own, place, &tx, &Nothing);
        assert_eq!(asked, Ok(()), "a nonce below the plan's end is judged on a plan of its own");
        let expired = Head { id: BlockId::new([8; 32]), time_ms: TimeMs(60_000), ..head };
        let refused = ahead.check_alone((&view, &expired), &tx, &Nothing).unwrap_err();
        assert!(matches!(refused, LedgerError::Refused(e) if e.code() == TxCode::TxExpired));
    }
}
