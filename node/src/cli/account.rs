//! `account show`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use types::keys::PublicKey;

use super::output::{lines, plain};
use super::{ClientArgs, Context};
use crate::client::{Client, block_on};
use crate::failure::{Exit, Failure};
use crate::keys;

#[derive(Debug, Subcommand)]
pub(super) enum AccountCommand {
    /// Balance and nonce of an account.
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Public key of the account [default: that of the key file].
    account: Option<String>,
    /// Key file [default: the home's account key].
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn account(context: &Context, command: &AccountCommand) -> Result<(), Failure> {
    let AccountCommand::Show(args) = command;
    let account: PublicKey = match &args.account {
        Some(text) => text.parse().map_err(|e| Failure::of_type(Exit::Usage, &e))?,
        None => keys::read(args.key.as_deref().unwrap_or(&context.home.account_key()))?.public(),
    };
    let client = Client::of(&context.home, &args.client)?;
    let (balance, nonce): (Value, Value) = block_on(async {
        let balance = client.call("account_balance", json!([account])).await?;
        Ok((balance, client.call("account_nonce", json!([account])).await?))
    })?;
    let answer = json!({
        "account": account,
        "balance": balance["balance"],
        "nonce": nonce["nonce"],
        "nonce_pending": nonce["nonce_pending"],
    });
    context.out.answer(&answer, |answer| {
        let names = ["account", "balance", "nonce", "nonce_pending"];
        lines(&names.map(|name| (name, plain(&answer[name]))))
    })
}
