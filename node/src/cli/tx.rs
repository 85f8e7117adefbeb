//! `tx transfer` and `tx send`, and the one way in which this command line signs: with the chain's own genesis hash.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use types::genesis::Genesis;
use types::ids::{Amount, GenesisHash, TimeMs};
use types::keys::{PublicKey, SecretKey};
use types::limits::{TX_BYTES_MAX, TX_EXPIRY_MS_MAX};
use types::transaction::{Action, SenderTx, SignedTx};
use types::{TypeError, Wire};

use super::output::{lines, plain};
use super::{ClientArgs, Context};
use crate::client::{Client, block_on};
use crate::failure::{Exit, Failure};
use crate::home::read_genesis;
use crate::{files, keys};

#[derive(Debug, Subcommand)]
pub(super) enum TxCommand {
    /// Move credits to another account.
    Transfer(TransferArgs),
    /// Send a transaction signed before (--sign-only).
    Send(SendArgs),
}

#[derive(Debug, Args)]
pub(super) struct TransferArgs {
    /// Public key of the receiver.
    to: String,
    /// Credits, whole units.
    #[arg(allow_negative_numbers = true)]
    amount: String,
    /// Print the signed transaction instead of sending it; needs no node when --nonce and a genesis document are given.
    #[arg(long)]
    sign_only: bool,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(super) struct SendArgs {
    /// File with the signed transaction: what --sign-only printed, or its hex.
    file: PathBuf,
    #[command(flatten)]
    client: ClientArgs,
}

/// What every signed transaction needs.
#[derive(Debug, Clone, Args)]
pub(super) struct SigningArgs {
    /// Key file [default: the home's account key].
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Number of the transaction [default: asked from the node].
    #[arg(long, value_name = "N")]
    nonce: Option<u64>,
    /// The transaction may be included for this many seconds.
    #[arg(long, value_name = "N", default_value_t = 3600)]
    expires_s: u64,
    /// Refuse to sign for another chain than this one (name or genesis hash).
    #[arg(long, value_name = "X")]
    chain_id: Option<String>,
    /// Genesis document of the chain [default: the home's with the home's key, else the node's].
    #[arg(long, value_name = "FILE")]
    genesis: Option<PathBuf>,
}

/// The chain that a signature is for.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Chain {
    pub(super) genesis_hash: GenesisHash,
    pub(super) genesis: Genesis,
}

/// A signed transaction in a file.
#[derive(Serialize, Deserialize)]
struct TxFile {
    tx: String,
    #[serde(default)]
    tx_id: Option<String>,
}

pub(super) fn tx(context: &Context, command: &TxCommand) -> Result<(), Failure> {
    match command {
        TxCommand::Transfer(args) => transfer(context, args),
        TxCommand::Send(args) => send(context, args),
    }
}

fn transfer(context: &Context, args: &TransferArgs) -> Result<(), Failure> {
    let usage = |e: TypeError| Failure::of_type(Exit::Usage, &e);
    let to: PublicKey = args.to.parse().map_err(usage)?;
    let amount: Amount = args.amount.parse().map_err(usage)?;
    let signer = Signer::open(context, &args.signing)?;
    let client = Client::of(&context.home, &args.client)?;
    block_on(async {
        let signed = signer.sign(&client, Action::Transfer { to, amount }, !args.sign_only).await?;
        if args.sign_only {
            let file = TxFile { tx: hex::encode(signed.to_bytes()), tx_id: Some(signed.id().to_string()) };
            return context.out.answer(&file, |value| value.to_string());
        }
        submit(context, &client, &signed).await
    })
}

fn send(context: &Context, args: &SendArgs) -> Result<(), Failure> {
    // Hex doubles the length; the rest is room for JSON around it.
    let bytes = files::read_bounded(&args.file, "tx", 2 * TX_BYTES_MAX as u64 + 4096)?;
    let text = String::from_utf8_lossy(&bytes);
    let digits = match serde_json::from_str::<TxFile>(&text) {
        Ok(file) => file.tx,
        Err(_) => text.trim().to_string(),
    };
    let bad = || {
        Failure::usage(format!("{} holds no signed transaction", args.file.display()))
            .field("tx")
            .value(args.file.display())
            .limit("hex, or the JSON that --sign-only prints")
            .remedy("make it by: proofmesh tx transfer TO AMOUNT --sign-only --json > FILE")
    };
    let decoded = hex::decode(digits.trim()).map_err(|_| bad())?;
    let signed = SignedTx::from_bytes(&decoded).map_err(|e| Failure::of_type(Exit::Usage, &e))?;
    let client = Client::of(&context.home, &args.client)?;
    block_on(submit(context, &client, &signed))
}

/// Sends a signed transaction and prints where it stands.
pub(super) async fn submit(context: &Context, client: &Client, signed: &SignedTx) -> Result<(), Failure> {
    let answer: Value = client.call_slow("tx_submit", json!([hex::encode(signed.to_bytes())])).await?;
    context.out.answer(&answer, |answer| {
        let mut fields = vec![("tx_id", plain(&answer["tx_id"])), ("status", plain(&answer["status"]))];
        if !answer["height"].is_null() {
            fields.push(("height", plain(&answer["height"])));
        }
        lines(&fields)
    })
}

/// A key with the rules under which it signs.
pub(super) struct Signer {
    key: SecretKey,
    args: SigningArgs,
    own: Option<Genesis>,
}

impl Signer {
    /// Reads the key and the genesis document at hand.
    ///
    /// # Errors
    /// When the key or a named genesis document can't be used.
    pub(super) fn open(context: &Context, args: &SigningArgs) -> Result<Self, Failure> {
        if args.expires_s == 0 || args.expires_s.saturating_mul(1000) > TX_EXPIRY_MS_MAX {
            return Err(Failure::usage("a transaction may be valid for 1 s to 24 h")
                .field("expires-s")
                .value(args.expires_s)
                .limit("1 to 86400")
                .remedy("choose --expires-s within the limit"));
        }
        let key = keys::read(args.key.as_deref().unwrap_or(&context.home.account_key()))?;
        let own = match &args.genesis {
            Some(path) => Some(read_genesis(path, Exit::Usage)?),
            // The home's chain is the home key's; another key may be for another chain.
            None if args.key.is_none() && context.home.genesis_file().exists() => Some(context.home.genesis()?),
            None => None,
        };
        Ok(Self { key, args: args.clone(), own })
    }

    /// The account that signs.
    pub(super) fn account(&self) -> PublicKey {
        self.key.public()
    }

    /// The chain: by the genesis document at hand, else as the node says. A node of another chain is refused, because
    /// what is signed for it would be worth nothing here and something there.
    ///
    /// # Errors
    /// When node, document and `--chain-id` do not name the same chain, or none of them is at hand.
    pub(super) async fn chain(&self, client: &Client, ask_node: bool) -> Result<Chain, Failure> {
        let own = self.own.clone().map(|genesis| Chain { genesis_hash: genesis.hash(), genesis });
        let chain = match (own, ask_node) {
            (Some(own), false) => own,
            (own, _) => {
                let node: Chain = client.call("chain_genesis", json!([])).await?;
                if node.genesis.hash() != node.genesis_hash {
                    return Err(Failure::error("chain", "the node's genesis document has another hash than it says"));
                }
                if let Some(own) = own.filter(|own| own.genesis_hash != node.genesis_hash) {
                    return Err(Failure::error(
                        "chain",
                        "the node is on another chain than the genesis document at hand",
                    )
                    .field("genesis_hash")
                    .value(node.genesis_hash)
                    .limit(own.genesis_hash)
                    .remedy("name a node of your chain by --rpc, or its genesis document by --genesis"));
                }
                node
            }
        };
        match &self.args.chain_id {
            Some(wanted) if *wanted != chain.genesis.chain_id && *wanted != chain.genesis_hash.to_string() => {
                Err(Failure::error("chain", format!("the chain is {}, not {wanted}", chain.genesis.chain_id))
                    .field("chain-id")
                    .value(wanted)
                    .limit(chain.genesis.chain_id)
                    .remedy("name a node of the chain meant by --rpc, or correct --chain-id"))
            }
            _ => Ok(chain),
        }
    }

    /// Signs an action, asking the node for what was not given.
    ///
    /// # Errors
    /// When the chain is in doubt, or the node can't be asked.
    pub(super) async fn sign(&self, client: &Client, action: Action, ask_node: bool) -> Result<SignedTx, Failure> {
        let chain = self.chain(client, ask_node).await?;
        let nonce = self.nonce(client).await?;
        Ok(self.content(chain.genesis_hash, nonce, action)?.sign(&self.key))
    }

    /// The number of the next transaction: the one given, else as the node says.
    ///
    /// # Errors
    /// When the node can't be asked.
    pub(super) async fn nonce(&self, client: &Client) -> Result<u64, Failure> {
        if let Some(nonce) = self.args.nonce {
            return Ok(nonce);
        }
        let answer: Value = client.call("account_nonce", json!([self.account()])).await?;
        answer["nonce_pending"]
            .as_u64()
            .ok_or_else(|| Failure::error("bad_answer", "account_nonce: the answer has no nonce_pending"))
    }

    fn content(&self, genesis: GenesisHash, nonce: u64, action: Action) -> Result<SenderTx, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| {
            Failure::error("clock", "the machine's clock is before 1970").remedy("set the clock; see: proofmesh doctor")
        })?;
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let mut trace = [0u8; 8];
        getrandom::fill(&mut trace).map_err(|e| Failure::error("random", e.to_string()))?;
        Ok(SenderTx {
            genesis,
            sender: self.key.public(),
            nonce,
            expires_ms: TimeMs(now).plus(self.args.expires_s.saturating_mul(1000)),
            // 0 means none.
            trace: u64::from_le_bytes(trace).max(1),
            action,
        })
    }
}
