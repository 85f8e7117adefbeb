//! `db version` and `db verify`, on the data of a node that is not running.

use std::path::Path;

use clap::Subcommand;
use ledger::query::Audit;
use serde_json::{Map, Value, json};
use storage::meta::{self, VerifyReport};
use storage::{Home, RocksStore, Snapshot, StorageError, Store};
use types::kv::{KvRead, Space};

use super::Context;
use super::output::lines;
use crate::failure::{Exit, Failure};
use crate::stored;

/// Heights between two words about progress.
const PROGRESS: u64 = 10_000;
/// State records read at once.
const STATE_PAGE: usize = 1000;

#[derive(Debug, Subcommand)]
pub(crate) enum DbCommand {
    /// Version of the stored data and of this binary.
    Version,
    /// Read everything and check what it says about itself: exit 5 when something is damaged.
    Verify,
}

pub(super) fn db(context: &Context, command: &DbCommand) -> Result<(), Failure> {
    context.home.require()?;
    let fail = |e: StorageError| stored::failure(&e);
    let home = Home::open(context.home.root()).map_err(fail)?;
    let folder = home.layout().db();
    if is_empty(&folder)? {
        return Err(Failure::error("no_data", "there is no stored data yet; the node was never started")
            .field("db")
            .value(folder.display())
            .remedy("run: proofmesh start"));
    }
    let store = RocksStore::open(&folder).map_err(fail)?;
    match command {
        DbCommand::Version => {
            let found = meta::schema(&store).map_err(fail)?;
            let answer = json!({ "schema": found, "binary_schema": meta::SCHEMA_VERSION });
            context.out.answer(&answer, |_| {
                let found = found.map_or("none".to_string(), |version| version.to_string());
                lines(&[("stored", found), ("this binary", meta::SCHEMA_VERSION.to_string())])
            })
        }
        DbCommand::Verify => verify(context, &store),
    }
}

fn is_empty(folder: &Path) -> Result<bool, Failure> {
    let mut entries = std::fs::read_dir(folder).map_err(|e| Failure::io(folder, "reading", &e))?;
    Ok(entries.next().is_none())
}

fn verify(context: &Context, store: &RocksStore) -> Result<(), Failure> {
    let snapshot = store.snapshot();
    let mut progress = |height: types::ids::Height| {
        if height.0.is_multiple_of(PROGRESS) {
            context.out.note(&format!("checked up to height {height}"));
        }
    };
    let report = meta::verify(&snapshot, &mut progress).map_err(|e| stored::failure(&e))?;
    let own = context.home.genesis()?.hash();
    if own != report.genesis {
        return Err(Failure::config("the stored data belongs to another chain than genesis.json")
            .field("genesis_hash")
            .value(report.genesis)
            .limit(own)
            .remedy("restore the right genesis.json, or use another home"));
    }
    let (state_records, audit) = verify_state(&snapshot, &report)?;
    let records: Map<String, Value> =
        report.records.iter().map(|(table, count)| ((*table).to_string(), json!(count))).collect();
    let answer = json!({
        "ok": true,
        "schema": report.schema,
        "chain_id": report.chain_id,
        "genesis_hash": report.genesis,
        "height": report.head.height,
        "block": report.head.block_id,
        "transactions": report.transactions,
        "state_records": state_records,
        "state_root": report.head.state_root,
        "credits": audit.total,
        "records": records,
    });
    context.out.answer(&answer, |_| {
        lines(&[
            ("ok", "every record was read and fits the others".into()),
            ("chain", format!("{} ({})", report.chain_id, report.genesis)),
            ("height", report.head.height.to_string()),
            ("transactions", report.transactions.to_string()),
            ("state", format!("{state_records} records under the root {}", report.head.state_root)),
            ("credits", format!("{} in all, none lost", audit.total)),
        ])
    })
}

/// Holds every record of the ledger's state against the state root, and adds up the credits.
fn verify_state(view: &Snapshot, report: &VerifyReport) -> Result<(u64, Audit), Failure> {
    let damaged = |what: String| Failure::new(Exit::Corruption, "corruption", what).remedy(stored::CORRUPTION_REMEDY);
    let unreadable = |e: ledger::StateError| damaged(format!("the ledger's state can't be read: {e}"));
    let (height, root) = (report.head.height, report.head.state_root);
    let found = ledger::tree::root(view, height).map_err(unreadable)?;
    if found != root {
        return Err(damaged(format!("the state tree has root {found}, the head says {root}")));
    }
    let mut count = 0u64;
    let mut start: Option<Vec<u8>> = None;
    loop {
        let page = view
            .scan(Space::State, &[], start.as_deref(), STATE_PAGE)
            .map_err(|e| damaged(format!("the ledger's state can't be read: {e}")))?;
        for (key, value) in &page {
            let (_, proof) = ledger::tree::prove(view, height, key).map_err(unreadable)?;
            ledger::tree::verify_proof(&root, key, Some(value), &proof).map_err(|e| {
                damaged(format!("state record {} is not the one under the root: {e}", hex::encode(key)))
            })?;
            count = count.saturating_add(1);
        }
        match page.last() {
            // The next key in order is this one with a zero byte behind it.
            Some((key, _)) if page.len() == STATE_PAGE => start = Some([key.as_slice(), &[0]].concat()),
            _ => break,
        }
    }
    let audit = ledger::query::audit(view).map_err(unreadable)?;
    if !audit.conserved {
        return Err(damaged(format!("the credits do not add up to {}", audit.total)));
    }
    Ok((count, audit))
}
