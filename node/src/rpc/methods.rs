//! The calls, namespace by namespace.

use std::sync::Arc;
use std::time::Duration;

use jsonrpsee::RpcModule;
use serde_json::{Value, json};
use types::Wire;
use types::ids::{BlockId, Height, JobId, TxId};
use types::job::JobStatus;
use types::keys::PublicKey;
use types::limits::TX_BYTES_MAX;
use types::transaction::{Action, SignedTx};

use super::params::Arguments;
use super::{READ_TIMEOUT, RegisterError, method};
use crate::http::Edge;
use crate::http::refusal::Refusal;

/// Longest wait of a submission for its block when the caller names none.
const SUBMIT_WAIT: Duration = Duration::from_secs(30);
/// Longest wait of a submission that a caller may name, ms.
const SUBMIT_WAIT_MAX_MS: u64 = 60_000;
/// Time limit of a submitting call: the wait and room for the answer.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(70);
/// Entries of a list when the caller names no number, and the most that may be named.
const LIST: u32 = 20;
const LIST_MAX: u32 = 100;

/// Every method, for metrics: a closed list of labels.
pub(crate) const NAMES: &[&str] = &[
    "job_submit",
    "job_status",
    "job_list",
    "job_cancel",
    "job_receipt",
    "job_explain",
    "job_estimate",
    "job_subscribe",
    "job_unsubscribe",
    "chain_head",
    "chain_block",
    "chain_validators",
    "chain_genesis",
    "chain_subscribeHeads",
    "chain_unsubscribeHeads",
    "net_info",
    "net_peers",
    "account_balance",
    "account_nonce",
    "prover_list",
    "prover_status",
    "tx_submit",
    "tx_status",
    "evidence_list",
];

const HEX32: &str = "64 lower-case hex digits";

/// Registers all calls.
///
/// # Errors
/// When two have one name.
pub(super) fn register(module: &mut RpcModule<Edge>) -> Result<(), RegisterError> {
    jobs(module)?;
    chain(module)?;
    accounts(module)?;
    node(module)
}

fn jobs(module: &mut RpcModule<Edge>) -> Result<(), RegisterError> {
    method(module, "job_submit", &["tx", "wait_ms"], SUBMIT_TIMEOUT, |edge, arguments| {
        submit(edge, arguments, |action| matches!(action, Action::SubmitJob(_)), "a job's submission")
    })?;
    method(module, "job_cancel", &["tx", "wait_ms"], SUBMIT_TIMEOUT, |edge, arguments| {
        submit(edge, arguments, |action| matches!(action, Action::CancelJob { .. }), "a job's cancellation")
    })?;
    method(module, "job_status", &["job_id"], READ_TIMEOUT, |edge, mut arguments| async move {
        Ok(edge.engine.job(arguments.required::<JobId>("job_id", HEX32)?).await?)
    })?;
    method(
        module,
        "job_list",
        &["sender", "status", "after", "limit"],
        READ_TIMEOUT,
        |edge, mut arguments| async move {
            let sender = arguments.optional::<PublicKey>("sender", HEX32)?;
            let statuses = "running, completed, failed, expired or cancelled";
            let status = arguments.optional::<JobStatus>("status", statuses)?;
            let after = arguments.optional::<String>("after", "the cursor of the page before")?;
            let limit = list_limit(&mut arguments)?;
            let (jobs, cursor) = edge.engine.jobs(sender, status, after, limit).await?;
            Ok(json!({ "jobs": jobs, "cursor": cursor }))
        },
    )?;
    method(module, "job_receipt", &["job_id", "since"], READ_TIMEOUT, |edge, mut arguments| async move {
        let job = arguments.required::<JobId>("job_id", HEX32)?;
        let since = arguments.optional::<Height>("since", "a height")?.unwrap_or(Height(0));
        let receipt = edge.engine.receipt(job, since).await?;
        Ok(json!({ "job_id": job, "bytes": receipt.len(), "receipt": hex::encode(receipt) }))
    })?;
    method(module, "job_explain", &["job_id"], READ_TIMEOUT, |edge, mut arguments| async move {
        Ok(edge.engine.explain(arguments.required::<JobId>("job_id", HEX32)?).await?)
    })?;
    method(module, "job_estimate", &["max_steps"], READ_TIMEOUT, |edge, mut arguments| async move {
        Ok(edge.engine.estimate(arguments.required::<u64>("max_steps", "a number of steps")?).await?)
    })
}

fn chain(module: &mut RpcModule<Edge>) -> Result<(), RegisterError> {
    method(module, "chain_head", &[], READ_TIMEOUT, |edge, _| async move { Ok(edge.engine.head()?) })?;
    method(module, "chain_block", &["block"], READ_TIMEOUT, |edge, mut arguments| async move {
        let what = "a height, or a block hash of 64 hex digits";
        match arguments.required::<Value>("block", what)? {
            Value::Number(number) => {
                let height = number.as_u64().ok_or_else(|| bad_block(&number.to_string(), what))?;
                Ok(edge.engine.block(Height(height)).await?)
            }
            Value::String(text) => {
                let id: BlockId = text.parse().map_err(|_| bad_block(&text, what))?;
                Ok(edge.engine.block_by_hash(id).await?)
            }
            other => Err(bad_block(&other.to_string(), what)),
        }
    })?;
    method(module, "chain_validators", &["height"], READ_TIMEOUT, |edge, mut arguments| async move {
        Ok(edge.engine.validators(arguments.optional::<Height>("height", "a height")?).await?)
    })?;
    method(module, "chain_genesis", &[], READ_TIMEOUT, |edge, _| async move {
        let genesis = edge.engine.genesis();
        Ok(json!({ "genesis_hash": edge.engine.genesis_hash(), "genesis": **genesis }))
    })
}

fn bad_block(value: &str, what: &str) -> Refusal {
    Refusal::params("block", value, what, format!("block: '{value}' is not {what}; send what is"))
}

fn accounts(module: &mut RpcModule<Edge>) -> Result<(), RegisterError> {
    method(module, "account_balance", &["account"], READ_TIMEOUT, |edge, mut arguments| async move {
        let view = edge.engine.account(arguments.required::<PublicKey>("account", HEX32)?).await?;
        Ok(json!({ "account": view.account, "balance": view.balance }))
    })?;
    method(module, "account_nonce", &["account"], READ_TIMEOUT, |edge, mut arguments| async move {
        let view = edge.engine.account(arguments.required::<PublicKey>("account", HEX32)?).await?;
        Ok(json!({ "account": view.account, "nonce": view.nonce, "nonce_pending": view.nonce_pending }))
    })?;
    method(module, "tx_submit", &["tx", "wait_ms"], SUBMIT_TIMEOUT, |edge, arguments| {
        submit(edge, arguments, |_| true, "a transaction")
    })?;
    method(module, "tx_status", &["tx_id"], READ_TIMEOUT, |edge, mut arguments| async move {
        let id = arguments.required::<TxId>("tx_id", HEX32)?;
        let status = edge.engine.tx_status(id).await?;
        let mut answer = serde_json::to_value(status).unwrap_or_default();
        if let Value::Object(object) = &mut answer {
            object.insert("tx_id".into(), json!(id));
        }
        Ok(answer)
    })
}

fn node(module: &mut RpcModule<Edge>) -> Result<(), RegisterError> {
    method(module, "net_info", &[], READ_TIMEOUT, |edge, _| async move { Ok(edge.engine.net()?) })?;
    method(module, "net_peers", &[], READ_TIMEOUT, |edge, _| async move { Ok(edge.engine.peers()?) })?;
    method(module, "prover_list", &[], READ_TIMEOUT, |edge, _| async move { Ok(edge.engine.provers().await?) })?;
    method(
        module,
        "prover_status",
        &[],
        READ_TIMEOUT,
        |edge, _| async move { Ok(edge.engine.prover_status().await?) },
    )?;
    method(module, "evidence_list", &["limit"], READ_TIMEOUT, |edge, mut arguments| async move {
        Ok(edge.engine.evidence(list_limit(&mut arguments)?).await?)
    })
}

fn list_limit(arguments: &mut Arguments) -> Result<u32, Refusal> {
    let what = format!("a number from 1 to {LIST_MAX}");
    let limit = arguments.optional::<u32>("limit", &what)?.unwrap_or(LIST);
    if limit == 0 || limit > LIST_MAX {
        return Err(Refusal::params(
            "limit",
            limit,
            LIST_MAX,
            format!("limit: {limit} is not {what}; choose one that is"),
        ));
    }
    Ok(limit)
}

/// Takes a signed transaction in hex and waits for its block.
async fn submit(
    edge: Arc<Edge>,
    mut arguments: Arguments,
    fits: fn(&Action) -> bool,
    what: &'static str,
) -> Result<impl serde::Serialize, Refusal> {
    let (tx, wait) = submission(&mut arguments)?;
    if !fits(&tx.content.action) {
        let message = format!("tx: this call takes {what}; use tx_submit for any other transaction");
        return Err(Refusal::params("tx", "another action", what, message));
    }
    Ok(edge.engine.submit(tx, wait).await?)
}

/// A signed transaction in hex, and how long to wait for its block.
///
/// # Errors
/// `invalid_params`.
pub(super) fn submission(arguments: &mut Arguments) -> Result<(SignedTx, Duration), Refusal> {
    let digits: String = arguments.required("tx", "the signed transaction in hex")?;
    let wait = arguments.optional::<u64>("wait_ms", "a number of milliseconds")?;
    let wait = match wait {
        Some(ms) if ms > SUBMIT_WAIT_MAX_MS => {
            let message = format!("wait_ms: {ms} is over {SUBMIT_WAIT_MAX_MS}; wait less, then ask tx_status");
            return Err(Refusal::params("wait_ms", ms, SUBMIT_WAIT_MAX_MS, message));
        }
        Some(ms) => Duration::from_millis(ms),
        None => SUBMIT_WAIT,
    };
    if digits.len() > 2 * TX_BYTES_MAX {
        let bytes = digits.len() / 2;
        return Err(Refusal::params(
            "tx",
            bytes,
            TX_BYTES_MAX,
            format!("tx: {bytes} bytes, the limit is {TX_BYTES_MAX}; shorten the transaction"),
        ));
    }
    let shown = if digits.is_empty() { "nothing".to_owned() } else { digits.chars().take(16).collect() };
    let refused = |why: String| {
        let message = format!("tx: {why}; send the bytes of a signed transaction in hex, as --sign-only prints them");
        Refusal::params("tx", &shown, "a signed transaction in hex", message)
    };
    let bytes = hex::decode(&digits).map_err(|e| refused(e.to_string()))?;
    let tx = SignedTx::from_bytes(&bytes).map_err(|e| refused(e.to_string()))?;
    Ok((tx, wait))
}
