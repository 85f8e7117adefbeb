//! The JSON-RPC methods: names and parameters here, answers by the engine.
//!
//! Parameters come by position or by name. Hashes and keys are lower-case hex, felts 0x-hex, amounts decimal strings,
//! heights and times numbers.

pub(crate) mod guard;
pub(crate) mod ids;
mod methods;
mod params;
mod subscriptions;

use std::sync::Arc;
use std::time::Duration;

use jsonrpsee::RpcModule;
use jsonrpsee::types::ErrorObjectOwned;
use serde::Serialize;
use serde_json::Value;

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
