//! Metrics that are looked up when they are asked for: the node's place in the network, whether it is ready, what it is.

use prometheus::{Encoder, IntGauge, Opts, Registry, TextEncoder};

use super::Edge;
use crate::cpu;

/// The metrics as text.
///
/// # Errors
/// When two have one name.
pub(super) async fn text(edge: &Edge) -> prometheus::Result<String> {
    let registry = Registry::new();
    let gauge = |opts: Opts, value: usize| -> prometheus::Result<()> {
        let gauge = IntGauge::with_opts(opts)?;
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(Box::new(gauge))
    };
    let info = Opts::new("proofmesh_build_info", "What runs here; the value is always 1.")
        .const_label("version", env!("CARGO_PKG_VERSION"))
        .const_label("cpu_level", cpu::compiled_level())
        .const_label("proof_system", types::job::PROOF_SYSTEM_VERSION.to_string());
    gauge(info, 1)?;
    let is_ready = edge.engine.health().await.not_ready.is_none();
    gauge(Opts::new("proofmesh_ready", "1 when the node follows consensus and can serve."), usize::from(is_ready))?;
    // While the network restarts nobody is connected, which is what the first two say.
    let net = edge.engine.net().ok();
    let of = |number: fn(&engine::api::views::NetView) -> usize| net.as_ref().map_or(0, number);
    gauge(Opts::new("proofmesh_peers_connected", "Connected peers."), of(|net| net.peers))?;
    let connected = "Connected validators of the set, this node included if it is one.";
    gauge(Opts::new("proofmesh_validators_connected", connected), of(|net| net.validators_connected))?;
    if let Some(net) = &net {
        let age = usize::try_from(net.block_age_ms / 1000).unwrap_or(usize::MAX);
        gauge(Opts::new("proofmesh_block_age_seconds", "Seconds since the last block was applied here."), age)?;
        if net.validator.is_some() {
            let power = usize::try_from(net.validator_power).unwrap_or(usize::MAX);
            let help =
                "Voting power of the own key; 0 on a node that is configured as a validator and is not in the set.";
            gauge(Opts::new("proofmesh_validator_power", help), power)?;
        }
    }
    let mut out = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut out)?;
    String::from_utf8(out).map_err(|e| prometheus::Error::Msg(e.to_string()))
}
