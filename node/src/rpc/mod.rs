//! The JSON-RPC methods: names and parameters here, answers by the engine.
//!
//! Parameters come by position or by name. Hashes and keys are lower-case hex, felts 0x-hex, amounts decimal strings,
//! heights and times numbers.

pub(crate) mod dispatch;
pub(crate) mod guard;
pub(crate) mod ids;
mod methods;
mod params;
mod subscriptions;

use std::sync::Arc;
use std::time::Duration;

use jsonrpsee::RpcModule;
use jsonrpsee::core::middleware::BatchEntry;
use jsonrpsee::types::{ErrorObjectOwned, Extensions};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use types::ids::JobId;
use types::job::JobStatus;
use types::keys::PublicKey;

use crate::http::Edge;
use crate::http::refusal::Refusal;
#[cfg(test)]
pub(crate) use methods::NAMES;
use params::Arguments;
pub(crate) use subscriptions::count_jobs;

/// A method was registered twice.
pub(crate) type RegisterError = jsonrpsee::core::RegisterMethodError;

/// Longest time of a call that only reads.
const READ_TIMEOUT: Duration = Duration::from_secs(15);

/// Reads the parameters of a call as one of the methods does.
type Reading = fn(Option<&str>) -> Result<(), Refusal>;

/// Reads a message as a connection does and its calls' parameters as methods do, without a node behind them; what a fuzz target
/// needs. Returns the refusals, as clients see them.
pub(crate) fn read_only(bytes: &[u8]) -> Vec<Value> {
    if let Some((id, refusal)) = dispatch::malformed(bytes) {
        return vec![refusal.object(&id)];
    }
    let entries: Vec<&RawValue> = match serde_json::from_slice(bytes) {
        Ok(entries) => entries,
        Err(_) => serde_json::from_slice(bytes).into_iter().collect(),
    };
    let mut refusals = vec![];
    for entry in entries {
        let call = match dispatch::entry(entry.get(), &Extensions::new()) {
            Ok(BatchEntry::Call(call)) => call,
            Ok(BatchEntry::Notification(_)) => continue,
            Err(error) => {
                let (error, id) = error.into_parts();
                refusals.push(json!({ "jsonrpc": "2.0", "id": id, "error": error }));
                continue;
            }
        };
        let params = call.params.as_ref().map(|params| params.get());
        let read: [Reading; 4] = [
            |params| methods::submission(&mut Arguments::read(params, &["tx", "wait_ms"])?).map(drop),
            |params| Arguments::read(params, &["job_id"])?.required::<JobId>("job_id", "64 hex digits").map(drop),
            |params| Arguments::read(params, &["block"])?.required::<Value>("block", "a height or a hash").map(drop),
            |params| {
                let mut arguments = Arguments::read(params, &["sender", "status", "after", "limit"])?;
                arguments.optional::<PublicKey>("sender", "64 hex digits")?;
                arguments.optional::<JobStatus>("status", "a status")?;
                arguments.optional::<String>("after", "a cursor")?;
                arguments.optional::<u32>("limit", "a number").map(drop)
            },
        ];
        refusals.extend(read.iter().filter_map(|read| read(params).err()).map(|refusal| refusal.object(&call.id)));
    }
    refusals
}

/// All methods.
///
/// # Errors
/// When two have one name.
pub(crate) fn module(edge: Arc<Edge>) -> Result<RpcModule<Edge>, RegisterError> {
    let mut module = RpcModule::from_arc(edge);
    methods::register(&mut module)?;
    subscriptions::register(&mut module)?;
    Ok(module)
}

/// Registers a method: `names` are its parameters in order.
fn method<R, F, Fut>(
    module: &mut RpcModule<Edge>,
    name: &'static str,
    names: &'static [&'static str],
    limit: Duration,
    run: F,
) -> Result<(), RegisterError>
where
    R: Serialize,
    F: Fn(Arc<Edge>, Arguments) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<R, Refusal>> + Send,
{
    module.register_async_method(name, move |params, edge, _| {
        let run = run.clone();
        async move {
            let arguments = Arguments::read(params.as_str(), names)?;
            let answer = match tokio::time::timeout(limit, run(edge, arguments)).await {
                Ok(answer) => answer?,
                Err(_) => {
                    let message = format!("{name} took longer than {} s; ask again", limit.as_secs());
                    return Err(Refusal::field("timeout", "time", "over the limit", limit.as_secs(), message).into());
                }
            };
            serde_json::to_value(answer).map_err(|e| Refusal::new("internal", e.to_string()).into())
                as Result<Value, ErrorObjectOwned>
        }
    })?;
    Ok(())
}
