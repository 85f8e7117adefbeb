//! Blocks: every header field is held against the parent's state; time and height alone may make a node wait.

use types::Wire;
use types::block::{Block, Header, transactions_root};
use types::ids::{Amount, BlockId, Digest, GenesisHash, Height, StateRoot, TimeMs};
use types::limits::BLOCK_BYTES_MAX;
use types::transaction::{Action, SignedTx, Transaction};

use crate::chain::{ApplyError, BlockFault, CheckOutcome, Withheld, apply_block, apply_block_knowing};
use crate::known::{Known, Nothing};
use crate::precheck::{Outlook, Prospect, check_after, check_submission, check_transaction};
use crate::testkit::*;
use crate::{LedgerError, TxCode, state, tree};

type Change = Box<dyn Fn(&mut Header)>;

fn fault(c: &Chain, block: &Block) -> BlockFault {
    match c.check(block) {
        CheckOutcome::Invalid(fault) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_header_field_is_checked() {
    let mut c = Chain::new();
    let transfer = c.tx(&user(1), Action::Transfer { to: user(2).public(), amount: Amount(5) });
    c.block(&[transfer]);
    let transfer = c.tx(&user(1), Action::Transfer { to: user(2).public(), amount: Amount(5) });
    c.now = c.now.plus(500);
    let good = c.build(&[transfer]).block;
    let d = Digest::new([0xee; 32]);
    let changes: Vec<(&str, Change)> = vec![
        ("version", Box::new(|h| h.version = 2)),
        ("genesis", Box::new(|h| h.genesis = GenesisHash::new([1; 32]))),
        ("time_ms", Box::new(|h| h.time_ms = TimeMs(START_MS + 500))),
        ("proposer", Box::new(|h| h.proposer = user(1).public())),
        ("parent", Box::new(|h| h.parent = BlockId::new([1; 32]))),
        ("last_commit", Box::new(move |h| h.last_commit = d)),
        ("transactions", Box::new(move |h| h.transactions = d)),
        ("state_root", Box::new(|h| h.state_root = StateRoot::new([1; 32]))),
        ("evidence", Box::new(move |h| h.evidence = d)),
        ("validators", Box::new(move |h| h.validators = d)),
        ("next_validators", Box::new(move |h| h.next_validators = d)),
        ("params", Box::new(move |h| h.params = d)),
        ("seed", Box::new(move |h| h.seed = d)),
    ];
    for (name, change) in changes {
        let mut block = good.clone();
        change(&mut block.header);
        assert!(matches!(fault(&c, &block), BlockFault::Header { field, .. } if field == name), "{name}");
    }
    let mut early = good.clone();
    early.header.height = Height(3);
    assert!(matches!(
        c.check(&early),
        CheckOutcome::Withhold(Withheld::Height { found: Height(3), expected: Height(2) })
    ));
    let mut ahead = good.clone();
    ahead.header.time_ms = c.now.plus(10_001);
    assert!(matches!(c.check(&ahead), CheckOutcome::Withhold(Withheld::Clock { .. })));
    assert!(apply_block(&c.kv, &ahead).is_ok());
    ahead.header.time_ms = c.now.plus(10_000);
    assert!(matches!(c.check(&ahead), CheckOutcome::Valid(_)));
    // Wrong for ever stays wrong, whatever the clock says.
    ahead.header.time_ms = c.now.plus(10_001);
    ahead.header.seed = d;
    assert!(matches!(c.check(&ahead), CheckOutcome::Invalid(_)));
    assert!(matches!(c.check(&good), CheckOutcome::Valid(_)));
}

#[test]
fn the_parents_certificate_is_checked() {
    let mut c = Chain::new();
    let first = c.build(&[]).block;
    assert_eq!(first.last_commit, None);
    c.block(&[]);
    let (good, id) = (c.certificate.clone().unwrap(), state::head(&c.kv).unwrap().id);
    let with = |certificate| {
        let built = crate::build_block(&c.kv, Some(&certificate), c.proposer(), c.now.plus(1), &[]).unwrap();
        fault(&c, &built.block)
    };
    // Two of four are half, not more than two thirds; a stranger's signature counts for nothing.
    assert!(matches!(with(c.certify_block(Height(1), id, &[validator(1), validator(2)])), BlockFault::Certificate(_)));
    assert!(matches!(with(c.certify_block(Height(1), BlockId::new([3; 32]), &c.signers)), BlockFault::Certificate(_)));
    let mut forged = good.clone();
    forged.signatures[0].1 = forged.signatures[1].1;
    assert!(matches!(with(forged), BlockFault::Certificate(_)));
    let missing = crate::build_block(&c.kv, None, c.proposer(), c.now.plus(1), &[]).unwrap().block;
    assert!(matches!(fault(&c, &missing), BlockFault::CertificatePresence(_)));
    let mut present = first;
    present.last_commit = Some(good.clone());
    present.header.last_commit = good.digest();
    let fresh = Chain::new();
    assert!(matches!(fresh.check(&present), CheckOutcome::Invalid(_)));
}

#[test]
fn a_refused_transaction_makes_the_block_invalid_and_the_builder_drops_it() {
    let mut c = Chain::new();
    let pay = |c: &Chain, nonce, amount| {
        Transaction::Signed(c.sign_with(
            &user(1),
            nonce,
            Action::Transfer { to: user(2).public(), amount: Amount(amount) },
        ))
    };
    let candidates = [pay(&c, 0, 10), pay(&c, 2, 10), pay(&c, 1, 1_000_000), pay(&c, 1, 20), pay(&c, 2, 30)];
    let built = c.build(&candidates);
    let codes: Vec<_> = built.dropped.iter().map(|(_, e)| e.code()).collect();
    assert_eq!(codes, [TxCode::NonceGap, TxCode::Balance]);
    assert!(TxCode::NonceGap.may_pass_later() && !TxCode::NonceUsed.may_pass_later());
    assert_eq!(built.block.transactions.len(), 3);
    let mut bad = built.block.clone();
    bad.transactions.push(candidates[2].clone());
    bad.header.transactions = transactions_root(bad.transactions.iter());
    let BlockFault::Transaction { index: 3, error } = fault(&c, &bad) else { panic!() };
    assert_eq!((error.code(), error.field()), (TxCode::NonceUsed, "nonce"));
    c.commit(&built.block);
    assert_eq!(c.balance(&user(2)), 100_060);
    assert_eq!(c.balance(&user(1)), 100_000 - 63);
    // Fees go to the account of the proposer.
    let proposer = (1..=4).find(|n| validator(*n).public() == built.block.header.proposer).unwrap();
    assert_eq!(c.balance(&owner(proposer)), 50_003);
}

#[test]
fn blocks_stay_within_their_size() {
    let mut c = Chain::new();
    let spec_of = |n: u32| {
        let mut s = spec();
        s.output_rule = types::job::OutputRule::Prefix(vec![types::felt::Felt::from_u128(u128::from(n)); 512]);
        s.max_fee = Amount(1_100);
        s
    };
    let many: Vec<_> = (0..30u32)
        .map(|n| {
            let tx = c.sign_with(&user(1), u64::from(n), Action::SubmitJob(Box::new(spec_of(n))));
            c.available(tx, &[validator(1), validator(2)])
        })
        .collect();
    let built = c.build(&many);
    assert!(built.dropped.is_empty() && !built.left_over.is_empty());
    assert_eq!(built.block.transactions.len() + built.left_over.len(), 30);
    let bytes = built.block.to_bytes().len();
    assert!(bytes <= BLOCK_BYTES_MAX && bytes > BLOCK_BYTES_MAX - 20_000, "{bytes}");
    let mut large = built.block.clone();
    large.transactions.push(many[built.block.transactions.len()].clone());
    assert!(matches!(fault(&c, &large), BlockFault::TooLarge { .. }));
    c.commit(&built.block);
}

#[test]
fn replay_from_genesis_gives_the_same_roots() {
    let mut c = Chain::new();
    let mut blocks = vec![];
    let transfer = c.tx(&user(1), Action::Transfer { to: key(99).public(), amount: Amount(5) });
    let submission = c.submission(&user(2), &spec());
    for candidates in [vec![transfer], vec![submission], vec![], vec![]] {
        let (executed, built) = c.advance(500, &candidates);
        blocks.push((built.block, executed.state_root));
    }
    let mut again = Chain::new();
    for (block, root) in &blocks {
        let executed = apply_block(&again.kv, block).unwrap();
        assert_eq!(executed.state_root, *root);
        again.kv.apply(&executed.writes);
    }
    let last = &blocks.last().unwrap().0;
    assert!(matches!(apply_block(&again.kv, last), Err(ApplyError::Withheld(_))));
    // A record of the final state is proved against the root that the next header names.
    let next = c.build(&[]).block.header;
    let key = state::keys::account(&user(1).public());
    let (value, proof) = tree::prove(&c.kv, Height(4), &key).unwrap();
    tree::verify_proof(&next.state_root, &key, value.as_deref(), &proof).unwrap();
}

#[test]
fn the_precheck_names_code_field_value_and_limit() {
    let c = Chain::new();
    let now = c.now.plus(1);
    let pay = |nonce, amount| {
        Transaction::Signed(c.sign_with(
            &user(1),
            nonce,
            Action::Transfer { to: user(2).public(), amount: Amount(amount) },
        ))
    };
    assert_eq!(check_transaction(&c.kv, &pay(0, 5), now), Ok(()));
    let Err(LedgerError::Refused(error)) = check_transaction(&c.kv, &pay(0, 500_000), now) else { panic!() };
    assert_eq!(
        (error.code().name(), error.field(), error.value(), error.limit()),
        ("insufficient_balance", "amount", "500000", "balance 99999")
    );
    let text = error.to_string();
    assert!(
        text.contains("amount") && text.contains("500000") && text.contains("99999") && text.contains(error.remedy()),
        "{text}"
    );
    let code = |r: Result<(), LedgerError>| match r {
        Err(LedgerError::Refused(e)) => e.code(),
        other => panic!("{other:?}"),
    };
    assert_eq!(code(check_transaction(&c.kv, &pay(1, 5), now)), TxCode::NonceGap);
    assert_eq!(check_after(&c.kv, &[pay(0, 5)], &pay(1, 5), now), Ok(()));
    let Transaction::Signed(mut tx) = pay(0, 5) else { panic!() };
    tx.content.nonce = 0;
    tx.content.trace = 8;
    assert_eq!(code(check_transaction(&c.kv, &Transaction::Signed(tx.clone()), now)), TxCode::BadSignature);
    tx.content.genesis = GenesisHash::new([1; 32]);
    assert_eq!(code(check_transaction(&c.kv, &Transaction::Signed(tx), now)), TxCode::WrongChain);
    assert_eq!(code(check_transaction(&c.kv, &pay(0, 5), now.plus(3_600_000))), TxCode::TxExpired);
    let mut far = c.sign(&user(1), Action::ExitProver).content;
    far.expires_ms = now.plus(25 * 3_600_000);
    assert_eq!(code(check_transaction(&c.kv, &Transaction::Signed(far.sign(&user(1))), now)), TxCode::ExpiryTooFar);
    let submission = c.sign(&user(1), Action::SubmitJob(Box::new(spec())));
    assert_eq!(check_submission(&c.kv, &submission, now, 0), Ok(()));
    let mut behind = submission.content.clone();
    behind.nonce += 2;
    let behind = behind.sign(&user(1));
    assert_eq!(code(check_submission(&c.kv, &behind, now, 1)), TxCode::NonceGap);
    assert_eq!(check_submission(&c.kv, &behind, now, 2), Ok(()));
    assert_eq!(code(check_transaction(&c.kv, &Transaction::Signed(submission), now)), TxCode::Availability);
    let mut names: Vec<_> = TxCode::ALL.iter().map(|c| c.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), TxCode::ALL.len());
}

/// Remembers exactly the transactions it was given.
struct Remembered(Vec<SignedTx>);

impl Known for Remembered {
    fn verified(&self, tx: &SignedTx) -> bool {
        self.0.contains(tx)
    }
}

#[test]
fn an_outlook_takes_a_senders_transactions_one_after_the_other_and_forgets_refused_ones() {
    let c = Chain::new();
    let pay = |nonce, amount| {
        let action = Action::Transfer { to: user(2).public(), amount: Amount(amount) };
        Transaction::Signed(c.sign_with(&user(1), nonce, action))
    };
    let outlook = Outlook::new(&c.kv, c.now.plus(1)).unwrap();
    let mut after = Prospect::default();
    let mut admit = |tx: &Transaction| match outlook.admit(&c.kv, &mut after, tx, &Nothing) {
        Ok(()) => None,
        Err(LedgerError::Refused(error)) => Some(error.code()),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(admit(&pay(1, 5)), Some(TxCode::NonceGap));
    assert_eq!(admit(&pay(0, 60_000)), None);
    assert_eq!(admit(&pay(0, 1)), Some(TxCode::NonceUsed));
    // The credits of the first are gone, and the refused second try took none.
    assert_eq!(admit(&pay(1, 60_000)), Some(TxCode::Balance));
    assert_eq!(admit(&pay(1, 39_998)), None);
    assert_eq!(admit(&pay(2, 1)), Some(TxCode::Balance));
    assert_eq!(c.balance(&user(1)), 100_000);
}

#[test]
fn a_signature_is_checked_unless_it_is_known_with_its_content() {
    let c = Chain::new();
    let good = c.sign(&user(1), Action::Transfer { to: user(2).public(), amount: Amount(5) });
    let forged = SignedTx { signature: types::keys::Signature::new([9; 64]), ..good.clone() };
    let build = |tx: &SignedTx, known: &dyn Known| {
        let candidates = [Transaction::Signed(tx.clone())];
        crate::build_block_knowing(&c.kv, None, c.proposer(), c.now.plus(1), &candidates, known).unwrap()
    };
    let known = Remembered(vec![good.clone()]);
    // What a caller claims to have verified is not verified again: this is what saves the time.
    let claimed = Remembered(vec![forged.clone()]);
    let cases: [(&SignedTx, &dyn Known, usize); 5] = [
        (&good, &Nothing, 1),
        (&good, &known, 1),
        (&forged, &Nothing, 0),
        (&forged, &known, 0),
        (&forged, &claimed, 1),
    ];
    for (tx, known, taken) in cases {
        assert_eq!(build(tx, known).block.transactions.len(), taken);
    }
    // Nodes that do not share the memory agree on a block whose signatures are good.
    let block = build(&good, &known).block;
    let (with, without) = (apply_block_knowing(&c.kv, &block, &known), apply_block(&c.kv, &block));
    assert_eq!(with.unwrap().state_root, without.unwrap().state_root);
}
