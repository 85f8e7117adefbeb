//! An account that signs transactions by itself and sends them as raw bytes: for what the command line would refuse before
//! any node sees it.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use types::Wire;
use types::blob::blob_hash;
use types::felt::Felt;
use types::ids::{Amount, GenesisHash, TimeMs, TxId, parse_hex32};
use types::job::{
    BlobRef, HINT_PROCESSOR_VERSION, HashFunction, JobSpec, OutputRule, PROOF_SYSTEM_VERSION, ProgramKind,
};
use types::keys::SecretKey;
use types::transaction::{Action, SenderTx, SignedTx};

use crate::rpc::Rpc;

/// Life of a transaction, ms.
const LIFE_MS: u64 = 600_000;

/// The account.
#[derive(Debug)]
pub struct Sender {
    key: SecretKey,
    genesis: GenesisHash,
}

impl Sender {
    /// The owner of a key file on the chain of this genesis hash, hex.
    ///
    /// # Errors
    /// When the file or the hash is none.
    pub fn open(key: &Path, genesis_hash: &str) -> Result<Self> {
        let text = std::fs::read_to_string(key).with_context(|| format!("reading {}", key.display()))?;
        let seed = parse_hex32("key", text.trim())?;
        Ok(Self { key: SecretKey::from_seed(seed), genesis: genesis_hash.parse()? })
    }

    /// Its key.
    pub fn key(&self) -> &SecretKey {
        &self.key
    }

    /// Its next nonce, as a node says.
    ///
    /// # Errors
    /// When the node does not say it.
    pub fn nonce(&self, node: &Rpc) -> Result<u64> {
        let answer = node.call("account_nonce", &json!([self.key.public()]))?;
        answer["nonce_pending"].as_u64().context("nonce_pending")
    }

    /// Content with this nonce, valid for ten minutes.
    ///
    /// # Errors
    /// When the clock is before 1970.
    pub fn content(&self, nonce: u64, action: Action) -> Result<SenderTx> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let expires_ms = TimeMs(u64::try_from(now)?).plus(LIFE_MS);
        Ok(SenderTx { genesis: self.genesis, sender: self.key.public(), nonce, expires_ms, trace: 7, action })
    }

    /// Signs an action with the next nonce.
    ///
    /// # Errors
    /// As [`Sender::nonce`].
    pub fn sign(&self, node: &Rpc, action: Action) -> Result<SignedTx> {
        Ok(self.content(self.nonce(node)?, action)?.sign(&self.key))
    }

    /// Submits a job as it is; the outer result is the way to the node, the inner one its answer.
    ///
    /// # Errors
    /// When the node can't be reached.
    pub fn submit(&self, node: &Rpc, spec: JobSpec) -> Result<(TxId, Value)> {
        let signed = self.sign(node, Action::SubmitJob(Box::new(spec)))?;
        let body = json!({
            "jsonrpc": "2.0", "id": 1, "method": "job_submit",
            "params": {"tx": hex::encode(signed.to_bytes()), "wait_ms": 60_000},
        });
        let (_, answer) = node.send("POST", "/", body.to_string().as_bytes())?;
        Ok((signed.id(), answer))
    }
}

/// A transaction in hex, as calls take it.
pub fn hex_of(signed: &SignedTx) -> String {
    hex::encode(signed.to_bytes())
}

/// A specification that names these files and nothing else of them: the hash of the program's words is the caller's to set.
pub fn spec_of(kind: ProgramKind, program: &[u8], args: Option<&[u8]>, max_steps: u64) -> JobSpec {
    let blob = |bytes: &[u8]| BlobRef { hash: blob_hash(bytes), bytes: bytes.len() as u64 };
    let output_rule = if kind == ProgramKind::Pie { OutputRule::Exact(vec![]) } else { OutputRule::Quorum };
    JobSpec {
        kind,
        program: blob(program),
        program_hash: Felt::ZERO,
        hash_function: HashFunction::Poseidon,
        args: args.map(blob),
        output_rule,
        hint_processor: HINT_PROCESSOR_VERSION,
        proof_system: PROOF_SYSTEM_VERSION,
        max_steps,
        max_fee: Amount(1_000_000),
        deadline_ms: 600_000,
        idempotency_key: None,
    }
}
