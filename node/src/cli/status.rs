//! `status`, `peers`, `version`.

use serde_json::{Value, json};

use super::output::{lines, plain, table};
use super::validators::own_validator;
use super::{ClientArgs, Context, Output};
use crate::client::{Client, block_on};
use crate::cpu;
use crate::failure::Failure;

/// What the node says about itself.
pub(super) fn status(context: &Context, args: &ClientArgs) -> Result<(), Failure> {
    let client = Client::of(&context.home, args)?;
    let (head, net, prover, health) = block_on(async {
        let head: Value = client.call("chain_head", json!([])).await?;
        let net: Value = client.call("net_info", json!([])).await?;
        let prover: Value = client.call("prover_status", json!([])).await?;
        let (_, ready) = client.get("/health/ready").await?;
        Ok((head, net, prover, ready))
    })?;
    let answer = json!({ "head": head, "net": net, "prover": prover, "ready": health });
    context.out.answer(&answer, |_| {
        let stalled = net["stalled"].as_str().map(|stalled| format!("{stalled}\n")).unwrap_or_default();
        let ready =
            if health["ready"] == true { "yes".to_string() } else { format!("no: {}", plain(&health["reason"])) };
        let answer = lines(&[
            ("chain", format!("{} ({})", plain(&head["chain_id"]), plain(&head["genesis_hash"]))),
            ("height", plain(&head["height"])),
            ("block", plain(&head["hash"])),
            ("ready", ready),
            ("peer_id", plain(&net["peer_id"])),
            ("peers", plain(&net["peers"])),
            (
                "validators",
                format!("{} of {} connected", plain(&net["validators_connected"]), plain(&net["validators"])),
            ),
            ("validator", own_validator(&net).unwrap_or_else(|| "no".into())),
            ("prover", format!("{}: {}", plain(&prover["state"]), plain(&prover["reason"]))),
        ]);
        format!("{stalled}{answer}")
    })
}

/// The node's peers.
pub(super) fn peers(context: &Context, args: &ClientArgs) -> Result<(), Failure> {
    let client = Client::of(&context.home, args)?;
    let peers: Value = block_on(client.call("net_peers", json!([])))?;
    context.out.answer(&peers, |_| {
        let columns = ["peer_id", "address", "direction", "height", "rtt_ms", "validator"];
        let rows: Vec<Vec<String>> = peers
            .as_array()
            .into_iter()
            .flatten()
            .map(|peer| columns.iter().map(|column| plain(&peer[*column])).collect())
            .collect();
        if rows.is_empty() { "no peers".into() } else { table(&columns, &rows) }
    })
}

/// What this binary is and speaks.
pub(super) fn version(out: Output) -> Result<(), Failure> {
    let answer = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cpu_level": cpu::compiled_level(),
        "proof_system": types::job::PROOF_SYSTEM_VERSION,
        "hint_processor": types::job::HINT_PROCESSOR_VERSION,
        "header_version": types::block::HEADER_VERSION,
        "signing_version": types::signing::SIGNING_VERSION,
        "schema_version": storage::meta::SCHEMA_VERSION,
    });
    out.answer(&answer, |answer| {
        let fields: Vec<(&str, String)> = ["cpu_level", "proof_system", "hint_processor", "schema_version"]
            .into_iter()
            .map(|name| (name, plain(&answer[name])))
            .collect();
        format!("proofmesh {}\n{}", env!("CARGO_PKG_VERSION"), lines(&fields))
    })
}
