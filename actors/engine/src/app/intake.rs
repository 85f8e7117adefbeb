//! Transactions that gossip brought, between their arrival and their turn in the mempool.
//!
//! A message may hold hundreds of transactions, and each takes the time of a signature. So they wait here, by the peer that
//! sent them, and are taken a few at a time, peers in turn: what the node itself asks of the mempool comes in between, and no
//! peer's heap delays another's. Work that came to nothing is charged to the peer. An honest one forwards what it took in
//! itself and hardly ever owes anything; one that owes too much has its messages dropped unseen until time has paid.
//!
//! Held: at most [`WAITING_MAX`] transactions of a peer; what comes beyond is dropped, as gossip may be. A peer's account is
//! forgotten once it owes nothing and nothing of it waits.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use network::{MessageId, PeerId, Verdict};
use types::transaction::Transaction;

/// Transactions of one peer that may wait.
const WAITING_MAX: usize = 16_384;
/// Transactions taken in one turn: about a millisecond of signatures.
const TURN: usize = 16;
/// Accounts from which on those that owe nothing any more are looked for with every message: peers come and go also while
/// no block does.
const ACCOUNTS_MANY: usize = 1_024;
/// What a peer may owe before it is put off.
const DEBT_MAX: u32 = 20_000;
/// What time pays of a debt in a second: a hundred transactions that were executed for nothing.
const PAID_PER_S: u32 = 2_000;

/// What became of one transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// Taken in; it was not here before.
    New,
    /// It was here before.
    Known,
    /// Refused, which another node or another time may see differently.
    Useless {
        /// It took a signature or an execution to find out, not just a look at the account.
        dear: bool,
    },
    /// Refused for what it is at any time on any node.
    False,
}

impl Fate {
    /// What it costs its bringer, in looks at an account: a signature with the execution behind it takes twenty times as long.
    const fn debt(self) -> u32 {
        match self {
            Self::New | Self::Known => 0,
            Self::Useless { dear: false } => 1,
            Self::Useless { dear: true } | Self::False => 20,
        }
    }
}

/// A message that is through.
#[derive(Debug)]
pub(crate) struct Done {
    /// Its name in the report.
    pub(crate) id: MessageId,
    /// What the network is told: forwarded as it is when all of it is good and some of it new.
    pub(crate) verdict: Verdict,
    /// What is new and good in a message that is not forwarded; goes on in a message of this node's own.
    pub(crate) fresh: Vec<Transaction>,
}

/// A message on its way through.
#[derive(Debug)]
struct Message {
    id: MessageId,
    rest: std::vec::IntoIter<Transaction>,
    fresh: Vec<Transaction>,
    verdict: Verdict,
}

impl Message {
    fn done(self) -> Done {
        match self.verdict {
            // Nothing in it was new.
            Verdict::Accept if self.fresh.is_empty() => Done { id: self.id, verdict: Verdict::Ignore, fresh: vec![] },
            Verdict::Accept => Done { id: self.id, verdict: Verdict::Accept, fresh: vec![] },
            verdict => Done { id: self.id, verdict, fresh: self.fresh },
        }
    }
}

#[derive(Debug)]
struct Account {
    messages: VecDeque<Message>,
    waiting: usize,
    debt: u32,
    /// Until when time has paid.
    paid: Instant,
    /// It has been said that this peer is put off.
    said: bool,
}

impl Account {
    fn pay(&mut self, now: Instant) {
        let ms = u32::try_from(now.saturating_duration_since(self.paid).as_millis()).unwrap_or(u32::MAX);
        let due = ms.saturating_mul(PAID_PER_S / 1_000);
        if due > 0 {
            self.debt = self.debt.saturating_sub(due);
            self.paid = now;
        }
    }
}

/// What waits, by peer.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    accounts: BTreeMap<PeerId, Account>,
    /// Peers of whom something waits, in the order of their turns.
    turns: VecDeque<PeerId>,
    dropped: u64,
}

impl Intake {
    /// Takes a message; `Some` when it is dropped unseen.
    pub(crate) fn push(&mut self, source: PeerId, id: MessageId, txs: Vec<Transaction>, now: Instant) -> Option<Done> {
        if self.accounts.len() >= ACCOUNTS_MANY {
            self.settle(now);
        }
        let account = self.accounts.entry(source).or_insert_with(|| Account {
            messages: VecDeque::new(),
            waiting: 0,
            debt: 0,
            paid: now,
            said: false,
        });
        account.pay(now);
        if account.debt > DEBT_MAX || account.waiting.saturating_add(txs.len()) > WAITING_MAX {
            if !account.said {
                account.said = true;
                let (debt, waiting) = (account.debt, account.waiting);
                tracing::warn!(peer = %source, debt, waiting, "a peer's transactions are mostly useless or too many; dropped unseen for now");
            }
            self.dropped = self.dropped.saturating_add(txs.len() as u64);
            return Some(Done { id, verdict: Verdict::Ignore, fresh: vec![] });
        }
        if account.messages.is_empty() {
            self.turns.push_back(source);
        }
        account.waiting = account.waiting.saturating_add(txs.len());
        let rest = txs.into_iter();
        account.messages.push_back(Message { id, rest, fresh: vec![], verdict: Verdict::Accept });
        None
    }

    /// Whether something waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Transactions dropped unseen since this was last asked.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// The next peer's turn: gives `judge` some of its transactions; the messages that are through.
    pub(crate) fn turn(&mut self, now: Instant, mut judge: impl FnMut(&Transaction) -> Fate) -> Vec<Done> {
        let mut done = vec![];
        let Some(peer) = self.turns.pop_front() else { return done };
        let Some(account) = self.accounts.get_mut(&peer) else { return done };
        account.pay(now);
        let mut left = TURN;
        while let Some(message) = account.messages.front_mut().filter(|_| left > 0) {
            if account.debt > DEBT_MAX {
                // What it sent before it owed so much is no better.
                self.dropped = self.dropped.saturating_add(message.rest.len() as u64);
                account.waiting = account.waiting.saturating_sub(message.rest.len());
                message.rest = vec![].into_iter();
                message.verdict = Verdict::Ignore;
            }
            for tx in message.rest.by_ref().take(left) {
                (left, account.waiting) = (left.saturating_sub(1), account.waiting.saturating_sub(1));
                let fate = judge(&tx);
                account.debt = account.debt.saturating_add(fate.debt());
                match fate {
                    Fate::New => message.fresh.push(tx),
                    Fate::Known => {}
                    Fate::Useless { .. } => message.verdict = Verdict::Ignore,
                    Fate::False => {
                        message.verdict = Verdict::Reject;
                        break;
                    }
                }
            }
            if message.verdict == Verdict::Reject {
                account.waiting = account.waiting.saturating_sub(message.rest.len());
                message.rest = vec![].into_iter();
            }
            if message.rest.len() > 0 {
                break;
            }
            done.extend(account.messages.pop_front().map(Message::done));
        }
        if !account.messages.is_empty() {
            self.turns.push_back(peer);
        } else if account.debt == 0 {
            self.accounts.remove(&peer);
        }
        done
    }

    /// Forgets who owes nothing any more.
    pub(crate) fn settle(&mut self, now: Instant) {
        self.accounts.retain(|_, account| {
            account.pay(now);
            account.said &= account.debt > 0;
            account.debt > 0 || !account.messages.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use types::ids::{Amount, GenesisHash, TimeMs};
    use types::keys::SecretKey;
    use types::transaction::{Action, SenderTx};

    use super::*;

    /// Time after which a peer that owes all it may owes nothing any more.
    const FORGIVEN: Duration = Duration::from_secs((DEBT_MAX / PAID_PER_S) as u64 + 1);

    fn id(n: u64) -> MessageId {
        let mut id = [0; 20];
        id[..8].copy_from_slice(&n.to_le_bytes());
        MessageId(id)
    }

    fn txs(n: usize) -> Vec<Transaction> {
        let (key, genesis) = (SecretKey::from_seed([3; 32]), GenesisHash::new([1; 32]));
        let action = Action::Transfer { to: key.public(), amount: Amount(1) };
        let tx = SenderTx { genesis, sender: key.public(), nonce: 0, expires_ms: TimeMs(9), trace: 0, action };
        vec![Transaction::Signed(tx.sign(&key)); n]
    }

    /// Turns until nothing waits: how many, and the messages that came through.
    fn drain(intake: &mut Intake, now: Instant, mut judge: impl FnMut(&Transaction) -> Fate) -> (usize, Vec<Done>) {
        let (mut turns, mut done) = (0, vec![]);
        while !intake.is_empty() {
            done.extend(intake.turn(now, &mut judge));
            turns += 1;
        }
        (turns, done)
    }

    #[test]
    fn a_short_message_comes_through_between_the_turns_of_a_long_one() {
        let (now, mut intake) = (Instant::now(), Intake::default());
        let (heap, other) = (PeerId::random(), PeerId::random());
        for n in 0..10 {
            assert!(intake.push(heap, id(n), txs(300), now).is_none());
        }
        assert!(intake.push(other, id(100), txs(1), now).is_none());
        assert!(intake.turn(now, |_| Fate::New).is_empty(), "the long one has only begun");
        let second = intake.turn(now, |_| Fate::New);
        assert_eq!(second.iter().map(|done| (done.id, done.verdict)).collect::<Vec<_>>(), [(id(100), Verdict::Accept)]);
        let (turns, done) = drain(&mut intake, now, |_| Fate::New);
        assert_eq!((turns, done.len()), (3_000_usize.div_ceil(TURN) - 1, 10));
        assert!(intake.accounts.is_empty());
    }

    #[test]
    fn a_message_is_judged_by_all_that_is_in_it() {
        let (now, mut intake, peer) = (Instant::now(), Intake::default(), PeerId::random());
        let useless = Fate::Useless { dear: false };
        for (fates, verdict, fresh) in [
            (vec![Fate::Known, Fate::New], Verdict::Accept, 0),
            (vec![Fate::Known, Fate::Known], Verdict::Ignore, 0),
            (vec![Fate::New, useless, Fate::New], Verdict::Ignore, 2),
            (vec![Fate::New, Fate::False, Fate::New], Verdict::Reject, 1),
        ] {
            assert!(intake.push(peer, id(1), txs(fates.len()), now).is_none());
            let mut fates = fates.into_iter();
            let (_, done) = drain(&mut intake, now, |_| fates.next().unwrap());
            let [done] = done.try_into().unwrap();
            assert_eq!((done.verdict, done.fresh.len()), (verdict, fresh));
        }
        assert_eq!(intake.accounts[&peer].waiting, 0);
    }

    #[test]
    fn who_brings_only_useless_transactions_is_put_off_and_forgiven_in_time() {
        let (start, mut intake, peer, other) = (Instant::now(), Intake::default(), PeerId::random(), PeerId::random());
        let (mut seen, mut n) = (0, 0);
        // A second of a flood, as fast as the mempool takes it.
        for ms in 0..1_000 {
            let now = start + Duration::from_millis(ms);
            n += 1;
            // A message for each millisecond.
            if intake.push(peer, id(n), txs(300), now).is_none() {
                drain(&mut intake, now, |_| {
                    seen += 1;
                    Fate::Useless { dear: true }
                });
            }
        }
        assert!((1_000..1_200).contains(&seen), "{seen} executed for nothing");
        assert!(intake.dropped > 290_000);
        // Another peer feels nothing of it.
        let now = start + Duration::from_secs(1);
        assert!(intake.push(other, id(0), txs(3), now).is_none());
        assert_eq!(drain(&mut intake, now, |_| Fate::New).1.len(), 1);
        let later = now + FORGIVEN;
        assert!(intake.push(peer, id(1), txs(3), later).is_none(), "forgiven");
        drain(&mut intake, later, |_| Fate::New);
        intake.settle(later);
        assert!(intake.accounts.is_empty());
    }

    #[test]
    fn peers_that_come_and_go_are_forgotten_without_a_block() {
        let (start, mut intake) = (Instant::now(), Intake::default());
        for n in 0..3 * ACCOUNTS_MANY as u64 {
            // A useless transaction of each, ten milliseconds apart.
            let now = start + Duration::from_millis(10 * n);
            assert!(intake.push(PeerId::random(), id(n), txs(1), now).is_none());
            drain(&mut intake, now, |_| Fate::Useless { dear: true });
        }
        assert!(intake.accounts.len() <= ACCOUNTS_MANY, "{}", intake.accounts.len());
    }

    #[test]
    fn what_waits_of_a_peer_is_bounded() {
        let (now, mut intake, peer) = (Instant::now(), Intake::default(), PeerId::random());
        for n in 0..(WAITING_MAX / 256) as u64 {
            assert!(intake.push(peer, id(n), txs(256), now).is_none());
        }
        let dropped = intake.push(peer, id(9_999), txs(1), now).unwrap();
        assert_eq!((dropped.verdict, intake.dropped), (Verdict::Ignore, 1));
        assert_eq!(drain(&mut intake, now, |_| Fate::New).1.len(), WAITING_MAX / 256);
    }
}
