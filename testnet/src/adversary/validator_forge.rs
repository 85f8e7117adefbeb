//! Forgeries of a hostile validator: blocks that break exactly one rule, and decided blocks that nobody decided.

use anyhow::{Result, ensure};
use ledger::Head;
use serde::Deserialize;
use types::block::{Block, DecidedBlock, next_seed, transactions_root};
use types::codec::Wire;
use types::ids::{Amount, BlockId, Digest, GenesisHash, Height, StateRoot, TimeMs};
use types::keys::{PublicKey, SecretKey};
use types::limits::{BLOCK_BYTES_MAX, BLOCK_TXS_MAX};
use types::transaction::{Action, SenderTx, Transaction};
use types::vote::CommitCertificate;

use super::validator::Validator;
use super::validator_chain::Chain;

/// What is wrong with a proposed block; everything else about it is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Spoil {
    /// Nothing.
    Nothing,
    /// Its header names another state root.
    StateRoot,
    /// Two transfers of one account with one nonce.
    DoubleSpend,
    /// Two transfers in a row, each of more than half of the balance.
    Overdraft,
    /// A transaction that an earlier block holds.
    Replay,
    /// More bytes than a block may have; each transaction is good.
    Oversized,
    /// The proposal is for the running height, its block for the next.
    OtherHeight,
    /// Proposal and block are for a height to come, on a parent that does not exist.
    Future,
    /// The certificate of its parent has too little power.
    LastCommit,
}

/// How decided blocks are forged for one who catches up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Forgery {
    /// Another block, signed by the adversary and, falsely, in everybody else's name.
    Certificate,
    /// The decided header and certificate over another body.
    Body,
    /// Another block, rightly signed by a whole set of keys that is not the validator set.
    Set,
}

/// A transfer of credits.
fn transfer(chain: &Chain, from: &SecretKey, nonce: u64, amount: u128, head: &Head) -> Transaction {
    let to = SecretKey::from_seed(rand::random()).public();
    let content = SenderTx {
        genesis: *chain.genesis(),
        sender: from.public(),
        nonce,
        expires_ms: head.time_ms.plus(600_000),
        trace: 0,
        action: Action::Transfer { to, amount: Amount(amount) },
    };
    Transaction::Signed(content.sign(from))
}

/// Puts a body under a block's header.
fn with_body(mut block: Block, transactions: Vec<Transaction>) -> Block {
    block.header.transactions = transactions_root(transactions.iter());
    block.transactions = transactions;
    block
}

/// How far above the head a spoilt block is proposed.
pub(super) const fn heights_ahead(how: Spoil) -> u64 {
    match how {
        Spoil::Future => 3,
        _ => 1,
    }
}

/// Builds the block that `proposer` would propose on top of the head, spoilt as told. Returns the height to propose it for.
pub(super) fn craft(
    chain: &Chain,
    proposer: &PublicKey,
    account: &SecretKey,
    how: Spoil,
    now: TimeMs,
) -> Result<(Height, Block)> {
    let head = chain.head()?;
    let height = Height(head.height.0.saturating_add(heights_ahead(how)));
    let mut block = ledger::build_block(chain.view(), chain.certificate(), *proposer, now, &[])?.block;
    let sender = ledger::query::account(chain.view(), &account.public())?;
    let pay = |nonce: u64, amount: u128| transfer(chain, account, nonce, amount, &head);
    let most = sender.balance.0 / 2 + 1;
    let block = match how {
        Spoil::Nothing => block,
        Spoil::StateRoot => {
            block.header.state_root = StateRoot::new(rand::random());
            block
        }
        Spoil::DoubleSpend => with_body(block, vec![pay(sender.nonce, 1), pay(sender.nonce, 2)]),
        Spoil::Overdraft => with_body(block, vec![pay(sender.nonce, most), pay(sender.nonce + 1, most)]),
        Spoil::Replay => {
            let known = chain.blocks(Height(1), usize::MAX).into_iter().flat_map(|d| d.block.transactions);
            let known: Vec<_> = known.filter(|tx| matches!(tx, Transaction::Signed(_))).take(1).collect();
            ensure!(!known.is_empty(), "no block holds a signed transaction yet");
            with_body(block, known)
        }
        Spoil::Oversized => {
            let one = pay(sender.nonce, 1).to_bytes().len();
            let count = (BLOCK_BYTES_MAX / one + 64).min(BLOCK_TXS_MAX) as u64;
            let block = with_body(block, (0..count).map(|n| pay(sender.nonce + n, 1)).collect());
            ensure!(block.to_bytes().len() > BLOCK_BYTES_MAX, "the block is not too large");
            block
        }
        Spoil::OtherHeight => {
            block.header.height = height.next();
            block
        }
        Spoil::Future => {
            block.header.height = height;
            block.header.parent = BlockId::new(rand::random());
            block
        }
        Spoil::LastCommit => {
            let certificate = block.last_commit.as_mut();
            certificate.into_iter().for_each(|c| c.signatures.truncate(1));
            let digest = block.last_commit.as_ref().map_or(Digest::new([0; 32]), CommitCertificate::digest);
            block.header.last_commit = digest;
            block.header.seed = next_seed(&head.seed, &head.id, &digest);
            block
        }
    };
    Ok((height, block))
}

/// Forges decided blocks. The adversary's own signature is genuine; it has no others.
pub(super) fn forge(who: &Validator, how: Forgery, blocks: Vec<DecidedBlock>) -> Vec<DecidedBlock> {
    let genesis = who.genesis();
    blocks.into_iter().filter_map(|decided| forge_one(who, &genesis, how, decided)).collect()
}

fn forge_one(who: &Validator, genesis: &GenesisHash, how: Forgery, mut decided: DecidedBlock) -> Option<DecidedBlock> {
    let height = decided.certificate.height;
    match how {
        Forgery::Body => {
            let chain = who.chain();
            let extra = transfer(&chain, who.account(0)?, 0, 1, &chain.head().ok()?);
            decided.block.transactions.push(extra);
            return Some(decided);
        }
        Forgery::Certificate | Forgery::Set => decided.block.header.time_ms = decided.block.header.time_ms.plus(1),
    }
    let mut certificate = CommitCertificate { block: decided.block.id(), signatures: vec![], ..decided.certificate };
    let signers: Vec<(PublicKey, SecretKey)> = if how == Forgery::Set {
        let drawn = (0..4).map(|_| SecretKey::from_seed(rand::random()));
        drawn.map(|key| (key.public(), key)).collect()
    } else {
        let own = who.consensus(0)?;
        let set = who.chain().set(height).ok()?;
        let named = set.validators().iter().map(|v| (v.key, who.key_of(&v.key).unwrap_or(own).clone()));
        named.collect()
    };
    for (name, key) in signers {
        let signed = certificate.precommit_of(name).sign(&key, genesis);
        certificate.signatures.push((name, signed.signature));
    }
    certificate.signatures.sort_by_key(|(name, _)| *name);
    Some(DecidedBlock { block: decided.block, certificate })
}
