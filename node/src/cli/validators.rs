//! `validator register|update|exit|show`: the signed word of a validator's owner, and who decides blocks.
//!
//! A validator has two keys: the account, which signs these transactions and owns the stake, and the consensus key, which the
//! node signs votes with and which says here that it agrees.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use types::ids::{Amount, GenesisHash};
use types::keys::{PublicKey, SecretKey};
use types::signing::Domain;
use types::transaction::Action;

use super::output::{plain, table};
use super::tx::{Signer, SigningArgs, submit};
use super::{ClientArgs, Context};
use crate::client::{Client, block_on};
use crate::failure::{Exit, Failure};
use crate::keys;

#[derive(Debug, Subcommand)]
pub(super) enum ValidatorCommand {
    /// Join the validators with the home's consensus key; locks the stake of the account that signs.
    Register(RegisterArgs),
    /// Change the voting power of an own validator.
    Update(UpdateArgs),
    /// Leave the validators; the stake returns when no evidence can arrive any more.
    Exit(ExitArgs),
    /// The validators of the next block.
    Show(ClientArgs),
}

#[derive(Debug, Args)]
pub(super) struct RegisterArgs {
    /// Voting power.
    #[arg(long, value_name = "N")]
    power: u64,
    /// Credits locked as stake.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    stake: String,
    /// Consensus key file of the node [default: the home's].
    #[arg(long, value_name = "FILE")]
    consensus_key: Option<PathBuf>,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(super) struct UpdateArgs {
    /// New voting power.
    #[arg(long, value_name = "N")]
    power: u64,
    #[command(flatten)]
    which: WhichArgs,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(super) struct ExitArgs {
    #[command(flatten)]
    which: WhichArgs,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// Which of the account's validators.
#[derive(Debug, Args)]
pub(super) struct WhichArgs {
    /// Consensus key of the validator (public) [default: that of the home].
    #[arg(long, value_name = "KEY")]
    validator: Option<String>,
}

impl WhichArgs {
    fn key(&self, context: &Context) -> Result<PublicKey, Failure> {
        match &self.validator {
            Some(text) => text.parse().map_err(|e| Failure::of_type(Exit::Usage, &e).field("validator")),
            None => Ok(keys::read(&context.home.consensus_key())?.public()),
        }
    }
}

pub(super) fn validator(context: &Context, command: &ValidatorCommand) -> Result<(), Failure> {
    match command {
        ValidatorCommand::Register(args) => register(context, args),
        ValidatorCommand::Update(args) => {
            let action = Action::UpdateValidator { key: args.which.key(context)?, power: positive(args.power)? };
            sign_and_send(context, &args.signing, &args.client, |_, _| action)
        }
        ValidatorCommand::Exit(args) => {
            let action = Action::ExitValidator { key: args.which.key(context)? };
            sign_and_send(context, &args.signing, &args.client, |_, _| action)
        }
        ValidatorCommand::Show(args) => show(context, args),
    }
}

/// Voting power that a validator may have; the ledger knows the upper limits.
fn positive(power: u64) -> Result<u64, Failure> {
    if power > 0 {
        return Ok(power);
    }
    Err(Failure::usage("a validator has some voting power")
        .field("power")
        .value(power)
        .limit("at least 1")
        .remedy("raise --power; to leave the validators: proofmesh validator exit"))
}

fn register(context: &Context, args: &RegisterArgs) -> Result<(), Failure> {
    let stake: Amount = args.stake.parse().map_err(|e| Failure::of_type(Exit::Usage, &e).field("stake"))?;
    let power = positive(args.power)?;
    let consensus = keys::read(args.consensus_key.as_deref().unwrap_or(&context.home.consensus_key()))?;
    sign_and_send(context, &args.signing, &args.client, |genesis, account| {
        registration(&consensus, genesis, account, power, stake)
    })
}

/// A registration with the consensus key's agreement to be this account's.
fn registration(
    consensus: &SecretKey,
    genesis: &GenesisHash,
    account: &PublicKey,
    power: u64,
    stake: Amount,
) -> Action {
    let possession = consensus.sign(Domain::KeyPossession, genesis, account.as_bytes());
    Action::RegisterValidator { key: consensus.public(), power, stake, possession }
}

fn sign_and_send(
    context: &Context,
    signing: &SigningArgs,
    args: &ClientArgs,
    action: impl FnOnce(&GenesisHash, &PublicKey) -> Action,
) -> Result<(), Failure> {
    let signer = Signer::open(context, signing)?;
    let client = Client::of(&context.home, args)?;
    block_on(async {
        let chain = signer.chain(&client, true).await?;
        let action = action(&chain.genesis_hash, &signer.account());
        let signed = signer.sign(&client, action, true).await?;
        submit(context, &client, &signed).await
    })
}

fn show(context: &Context, args: &ClientArgs) -> Result<(), Failure> {
    let client = Client::of(&context.home, args)?;
    let (validators, net) = block_on(async {
        let validators: Value = client.call("chain_validators", json!([])).await?;
        Ok((validators, client.call::<Value>("net_info", json!([])).await.unwrap_or_default()))
    })?;
    context.out.answer(&validators, |_| {
        let columns = ["key", "power", "account", "peer_id"];
        let rows: Vec<Vec<String>> = validators
            .as_array()
            .into_iter()
            .flatten()
            .map(|validator| columns.iter().map(|column| plain(&validator[*column])).collect())
            .collect();
        let own = own_validator(&net).map(|own| format!("this node: {own}\n")).unwrap_or_default();
        format!("{}{own}", table(&columns, &rows))
    })
}

/// What the node asked says about its own part in deciding blocks, by its `net_info`; nothing if it is no validator.
pub(super) fn own_validator(net: &Value) -> Option<String> {
    let key = net["validator"].as_str()?;
    let short: String = key.chars().take(8).collect();
    Some(match net["validator_power"].as_u64() {
        Some(power) if power > 0 => format!("{short} has power {power}"),
        _ => format!(
            "configured as a validator, but its key {short} is not in the set, so it decides nothing; join by: \
             {JOIN_COMMAND}"
        ),
    })
}

/// The command that makes a node's key a validator.
pub(crate) const JOIN_COMMAND: &str = "proofmesh validator register --power N --stake N --home DIR";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_consensus_key_agrees_to_the_account() {
        let (consensus, account) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]).public());
        let genesis = GenesisHash::new([3; 32]);
        let Action::RegisterValidator { key, power, stake, possession } =
            registration(&consensus, &genesis, &account, 5, Amount(7))
        else {
            panic!("another action");
        };
        assert_eq!((key, power, stake), (consensus.public(), 5, Amount(7)));
        assert!(key.verify(Domain::KeyPossession, &genesis, account.as_bytes(), &possession));
        let other = SecretKey::from_seed([4; 32]).public();
        assert!(!key.verify(Domain::KeyPossession, &genesis, other.as_bytes(), &possession));
    }

    #[test]
    fn a_node_says_what_it_decides() {
        assert_eq!(own_validator(&json!({"validator": null, "validator_power": 0})), None);
        let inside = own_validator(&json!({"validator": "0123456789", "validator_power": 5}));
        assert_eq!(inside.as_deref(), Some("01234567 has power 5"));
        let outside = own_validator(&json!({"validator": "0123456789", "validator_power": 0})).unwrap();
        assert!(outside.contains("not in the set") && outside.contains("proofmesh validator register"), "{outside}");
        assert_eq!(positive(0).unwrap_err().field.as_deref(), Some("power"));
    }
}
