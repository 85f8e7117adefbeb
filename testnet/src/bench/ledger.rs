//! What a block of transfers costs the ledger, without a network: execution, state root, and the synced batch.
//!
//! In this process, on the node's own database in the bench folder. Signatures count as verified before, as on a node
//! whose mempool has seen the transactions.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ledger::known::Known;
use serde_json::json;
use storage::{BlockCommit, RocksStore, Store};
use types::genesis::{Genesis, GenesisAccount, GenesisValidator};
use types::ids::{Amount, Round, TimeMs};
use types::keys::{PublicKey, SecretKey};
use types::kv::Space;
use types::params::Params;
use types::transaction::{Action, SenderTx, SignedTx, Transaction};
use types::vote::CommitCertificate;

use super::stats::Samples;
use super::{Entry, Plan};

/// Senders, each with the same share of every block.
const SENDERS: usize = 100;
/// Transfers in a block.
const TRANSFERS: usize = 1_200;

/// Stands for a mempool that has verified everything.
struct SeenBefore;

impl Known for SeenBefore {
    fn verified(&self, _: &SignedTx) -> bool {
        true
    }
}

pub(super) fn measure(plan: &Plan) -> Result<Vec<Entry>> {
    let (accounts, blocks) = if plan.quick { (20_000, 20) } else { (100_000, 60) };
    let key = |kind: u8, number: usize| {
        let mut seed = [kind; 32];
        seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
        SecretKey::from_seed(seed)
    };
    let validator = key(1, 0);
    let senders: Vec<SecretKey> = (0..SENDERS).map(|n| key(2, n)).collect();
    // Receivers never sign: any 32 bytes will do.
    let receivers: Vec<PublicKey> = (0..accounts).map(|n| PublicKey::new(*blake(n).as_bytes())).collect();
    let holder = |account| GenesisAccount { account, balance: Amount(1_000_000_000) };
    let genesis = Genesis {
        chain_id: "bench".into(),
        time_ms: TimeMs(1_000),
        params: Params::standard(),
        validators: vec![GenesisValidator {
            key: validator.public(),
            power: 1,
            account: validator.public(),
            stake: Amount(1_000_000),
        }],
        provers: vec![],
        accounts: senders.iter().map(|s| holder(s.public())).chain(receivers.iter().copied().map(holder)).collect(),
    };
    let hash = genesis.hash();
    let store = RocksStore::open(&plan.dir.join("db"))?;
    let first = ledger::genesis::build(&genesis)?;
    store.init(&genesis, &first.writes, first.root)?;
    let (mut apply, mut root, mut commit) = (Samples::default(), Samples::default(), Samples::default());
    let mut certificate = None;
    for block in 0..blocks {
        let view = store.snapshot();
        let candidates: Vec<Transaction> = (0..TRANSFERS)
            .map(|n| {
                let (sender, round) = (&senders[n % SENDERS], n / SENDERS);
                let nonce = (block * (TRANSFERS / SENDERS) + round) as u64;
                let to = receivers[(block * TRANSFERS + n) * 7_919 % receivers.len()];
                let action = Action::Transfer { to, amount: Amount(1) };
                let expires_ms = TimeMs(3_600_000);
                let tx = SenderTx { genesis: hash, sender: sender.public(), nonce, expires_ms, trace: 0, action };
                Transaction::Signed(tx.sign(sender))
            })
            .collect();
        let now = TimeMs(2_000 + block as u64 * 500);
        let built = ledger::build_block(&view, certificate.as_ref(), validator.public(), now, &candidates)?;
        ensure!(built.dropped.is_empty() && built.left_over.is_empty(), "the block does not hold all transfers");
        let since = Instant::now();
        let executed = ledger::apply_block_knowing(&view, &built.block, &SeenBefore)?;
        apply.push(per_transfer(since.elapsed()));
        let mut writes = executed.writes.clone();
        writes.retain(|(space, _), _| *space == Space::State);
        let since = Instant::now();
        let again = ledger::tree::update(&view, executed.height, &mut writes)?;
        root.push(per_transfer(since.elapsed()));
        ensure!(again == executed.state_root, "the state root is not a function of the writes");
        let mut own =
            CommitCertificate { height: executed.height, round: Round(0), block: executed.id, signatures: vec![] };
        let signature = own.precommit_of(validator.public()).sign(&validator, &hash).signature;
        own.signatures.push((validator.public(), signature));
        let decided = types::block::DecidedBlock { block: built.block, certificate: own.clone() };
        let record = BlockCommit {
            set_change: None,
            certificates: vec![],
            state_root: executed.state_root,
            writes: executed.writes,
            decided,
        };
        let since = Instant::now();
        store.commit_block(&record).context("storing a block")?;
        commit.push(since.elapsed().as_secs_f64() * 1000.0);
        certificate = Some(own);
    }
    let params = |timed: &str| json!({ "timed": timed, "transfers_per_block": TRANSFERS, "senders": SENDERS, "accounts": accounts + SENDERS });
    Ok(vec![
        Entry::of_samples(
            "transfer_executed",
            "us",
            &apply,
            params("applying a block, per transfer, state root included"),
        ),
        Entry::of_samples("state_root_per_transfer", "us", &root, params("state tree of a block, per transfer")),
        Entry::of_samples(
            "block_of_transfers_stored",
            "ms",
            &commit,
            params("one synced batch with the block's writes"),
        ),
    ])
}

fn per_transfer(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6 / TRANSFERS as f64
}

fn blake(number: usize) -> types::ids::BlobHash {
    types::blob::blob_hash(&(number as u64).to_le_bytes())
}
