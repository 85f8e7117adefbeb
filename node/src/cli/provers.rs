//! `prover register|update|exit|list|status|devices`: the signed word of a prover's owner, and who proves.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use types::transaction::Action;

use super::output::{lines, plain, table};
use super::tx::{Signer, SigningArgs, submit};
use super::{ClientArgs, Context, gpu};
use crate::client::{Client, block_on};
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum ProverCommand {
    /// Join the provers with the account's key; locks the deposit until exit.
    Register(OfferArgs),
    /// Change what the prover takes.
    Update(UpdateArgs),
    /// Leave the provers; the deposit returns when no lease is open. Refused for a time after a rejected claim.
    Exit(ExitArgs),
    /// The registered provers.
    List(ClientArgs),
    /// What the node's own prover does, and why.
    Status(ClientArgs),
    /// The OpenCL devices of this machine, and what the node does with each: state, measured speed, reason.
    Devices(ClientArgs),
}

/// What a prover takes.
#[derive(Debug, Args)]
pub(super) struct OfferArgs {
    /// Weight in the assignment, 1 to 1000.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    weight: u32,
    /// Largest step limit taken [default: prover.steps_max of the configuration].
    #[arg(long, value_name = "N")]
    steps_max: Option<u64>,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// What a prover takes from now on.
#[derive(Debug, Args)]
pub(super) struct UpdateArgs {
    /// Weight in the assignment, 1 to 1000 [default: as it is].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    weight: Option<u32>,
    /// Largest step limit taken [default: as it is].
    #[arg(long, value_name = "N")]
    steps_max: Option<u64>,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(super) struct ExitArgs {
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn prover(context: &Context, command: &ProverCommand) -> Result<(), Failure> {
    match command {
        ProverCommand::Register(args) => {
            let (weight, steps_max) = offer(context, args)?;
            sign_and_send(context, &args.signing, &args.client, Action::RegisterProver { weight, steps_max })
        }
        ProverCommand::Update(args) => update(context, args),
        ProverCommand::Exit(args) => sign_and_send(context, &args.signing, &args.client, Action::ExitProver),
        ProverCommand::List(args) => list(context, args),
        ProverCommand::Status(args) => status(context, args),
        ProverCommand::Devices(args) => gpu::devices(context, args),
    }
}

fn offer(context: &Context, args: &OfferArgs) -> Result<(u32, u64), Failure> {
    let steps_max = match args.steps_max {
        Some(steps) => steps,
        None => crate::config::layers::load(&context.home, vec![])?.config.prover.steps_max,
    };
    Ok((args.weight, steps_max))
}

/// Changes what was named; the rest stays as the ledger has it.
fn update(context: &Context, args: &UpdateArgs) -> Result<(), Failure> {
    let signer = Signer::open(context, &args.signing)?;
    let client = Client::of(&context.home, &args.client)?;
    block_on(async {
        let provers: Value = client.call("prover_list", json!([])).await?;
        let (weight, steps_max) = changed(&provers, &signer.account().to_string(), args.weight, args.steps_max)?;
        let signed = signer.sign(&client, Action::UpdateProver { weight, steps_max }, true).await?;
        submit(context, &client, &signed).await
    })
}

/// Weight and step limit after an update of the account's prover in `provers`.
fn changed(provers: &Value, account: &str, weight: Option<u32>, steps_max: Option<u64>) -> Result<(u32, u64), Failure> {
    let own =
        provers.as_array().into_iter().flatten().find(|prover| prover["account"] == account).ok_or_else(|| {
            Failure::usage("this account is no registered prover")
                .field("account")
                .value(account)
                .limit("an account that proofmesh prover list shows")
                .remedy("register it by: proofmesh prover register; or name its key by --key")
        })?;
    if weight.is_none() && steps_max.is_none() {
        return Err(Failure::usage("nothing to change was named")
            .field("weight")
            .value("none")
            .limit("--weight, --steps-max or both")
            .remedy("name what is to change; the rest stays as it is"));
    }
    let odd = || Failure::error("bad_answer", "prover_list: the answer has no weight or steps_max");
    let known = |name: &str| own[name].as_u64().ok_or_else(odd);
    let weight = match weight {
        Some(weight) => weight,
        None => u32::try_from(known("weight")?).map_err(|_| odd())?,
    };
    Ok((weight, steps_max.map_or_else(|| known("steps_max"), Ok)?))
}

fn sign_and_send(context: &Context, signing: &SigningArgs, args: &ClientArgs, action: Action) -> Result<(), Failure> {
    let signer = Signer::open(context, signing)?;
    let client = Client::of(&context.home, args)?;
    block_on(async {
        let signed = signer.sign(&client, action, true).await?;
        submit(context, &client, &signed).await
    })
}

fn list(context: &Context, args: &ClientArgs) -> Result<(), Failure> {
    let client = Client::of(&context.home, args)?;
    let provers: Value = block_on(client.call("prover_list", json!([])))?;
    context.out.answer(&provers, |_| {
        let columns = [
            "account",
            "weight",
            "steps_max",
            "deposit",
            "certified",
            "ineligible_until_ms",
            "barred_until_ms",
            "locked_until_ms",
        ];
        let rows: Vec<Vec<String>> = provers
            .as_array()
            .into_iter()
            .flatten()
            .map(|prover| columns.iter().map(|column| plain(&prover[*column])).collect())
            .collect();
        if rows.is_empty() { "no provers are registered".into() } else { table(&columns, &rows) }
    })
}

fn status(context: &Context, args: &ClientArgs) -> Result<(), Failure> {
    let client = Client::of(&context.home, args)?;
    let status: Value = block_on(client.call("prover_status", json!([])))?;
    context.out.answer(&status, |status| {
        let names = ["state", "reason", "worker_pid", "job_id", "backend", "backend_reason", "capacity"];
        let mut text = lines(&names.map(|name| (name, plain(&status[name]))));
        text.push_str(&gpu::problems(&status["problems"]));
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_keeps_what_is_not_named() {
        let provers = json!([
            {"account": "aa", "weight": 7, "steps_max": 5_000_000},
            {"account": "bb", "weight": 9, "steps_max": 1_000},
        ]);
        let change = |account, weight, steps| changed(&provers, account, weight, steps);
        assert_eq!(change("aa", None, Some(6_000_000)), Ok((7, 6_000_000)));
        assert_eq!(change("aa", Some(3), None), Ok((3, 5_000_000)));
        assert_eq!(change("bb", Some(1), Some(2)), Ok((1, 2)));
        assert_eq!(change("cc", Some(1), None).unwrap_err().field.as_deref(), Some("account"));
        assert_eq!(change("aa", None, None).unwrap_err().exit, crate::failure::Exit::Usage);
    }
}
