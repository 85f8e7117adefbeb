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
    Update(OfferArgs),
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
        ProverCommand::Update(args) => {
            let (weight, steps_max) = offer(context, args)?;
            sign_and_send(context, &args.signing, &args.client, Action::UpdateProver { weight, steps_max })
        }
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
