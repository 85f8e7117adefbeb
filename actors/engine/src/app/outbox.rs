//! Admitted transactions on their way to peers: the first leaves at once, those that follow closely leave together.
//!
//! A gossip message costs every node that it passes far more than the bytes of a transfer, so under load many transactions
//! share one. Held: at most [`BATCH_BYTES`]; more leave before their time.

use std::time::Duration;

use network::GossipMessage;
use types::Wire;
use types::gossip::TxMessage;
use types::transaction::Transaction;

/// Time between two messages while transactions keep coming.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);
/// Bytes of transactions in one message; well within what the topic takes.
const BATCH_BYTES: usize = 48 << 10;

/// What waits to leave.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: Vec<Transaction>,
    bytes: usize,
    pausing: bool,
}

/// What the owner has to do.
#[derive(Debug, PartialEq)]
pub(crate) struct Due {
    /// Messages to publish, in order.
    pub(crate) messages: Vec<GossipMessage>,
    /// Call [`Outbox::pause_over`] after [`PAUSE`].
    pub(crate) pause: bool,
}

impl Outbox {
    /// Takes a transaction.
    pub(crate) fn push(&mut self, tx: Transaction) -> Due {
        let bytes = tx.to_bytes().len();
        let mut messages = vec![];
        if self.bytes.saturating_add(bytes) > BATCH_BYTES {
            messages.extend(self.take());
        }
        self.waiting.push(tx);
        self.bytes = self.bytes.saturating_add(bytes);
        let pause = !self.pausing;
        if pause {
            messages.extend(self.take());
        }
        self.pausing = true;
        Due { messages, pause }
    }

    /// The pause is over: what has come meanwhile leaves.
    pub(crate) fn pause_over(&mut self) -> Due {
        let messages: Vec<_> = self.take().into_iter().collect();
        self.pausing = !messages.is_empty();
        Due { pause: self.pausing, messages }
    }

    fn take(&mut self) -> Option<GossipMessage> {
        self.bytes = 0;
        let mut waiting = std::mem::take(&mut self.waiting);
        let message = match waiting.len() {
            0 => return None,
            1 => TxMessage::Transaction(waiting.pop()?),
            _ => TxMessage::Transactions(waiting),
        };
        Some(GossipMessage::Tx(Box::new(message)))
    }
}

#[cfg(test)]
mod tests {
    use types::ids::{Amount, GenesisHash, TimeMs};
    use types::keys::SecretKey;
    use types::transaction::{Action, SenderTx};

    use super::*;

    fn tx(nonce: u64) -> Transaction {
        let (key, genesis) = (SecretKey::from_seed([3; 32]), GenesisHash::new([1; 32]));
        let action = Action::Transfer { to: key.public(), amount: Amount(1) };
        let content = SenderTx { genesis, sender: key.public(), nonce, expires_ms: TimeMs(9), trace: 0, action };
        Transaction::Signed(content.sign(&key))
    }

    fn one(nonce: u64) -> GossipMessage {
        GossipMessage::Tx(Box::new(TxMessage::Transaction(tx(nonce))))
    }

    #[test]
    fn the_first_leaves_at_once_and_the_next_together_in_order() {
        let mut out = Outbox::default();
        assert_eq!(out.push(tx(0)), Due { messages: vec![one(0)], pause: true });
        assert_eq!(out.push(tx(1)), Due { messages: vec![], pause: false });
        assert_eq!(out.push(tx(2)), Due { messages: vec![], pause: false });
        let both = GossipMessage::Tx(Box::new(TxMessage::Transactions(vec![tx(1), tx(2)])));
        assert_eq!(out.pause_over(), Due { messages: vec![both], pause: true });
        assert_eq!(out.push(tx(3)), Due { messages: vec![], pause: false });
        assert_eq!(out.pause_over(), Due { messages: vec![one(3)], pause: true });
        assert_eq!(out.pause_over(), Due { messages: vec![], pause: false });
        assert_eq!(out.push(tx(4)), Due { messages: vec![one(4)], pause: true });
    }

    #[test]
    fn a_message_stays_within_what_the_topic_takes() {
        let mut out = Outbox::default();
        let mut messages = vec![];
        for nonce in 0..1000 {
            messages.extend(out.push(tx(nonce)).messages);
        }
        messages.extend(out.pause_over().messages);
        let count = |m: &GossipMessage| match m {
            GossipMessage::Tx(m) => match m.as_ref() {
                TxMessage::Transactions(list) => list.len(),
                TxMessage::Transaction(_) => 1,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        assert_eq!(messages.iter().map(count).sum::<usize>(), 1000);
        assert!(messages.len() <= 7 && messages.iter().all(|m| m.to_bytes().len() <= TxMessage::BYTES_MAX));
    }
}
