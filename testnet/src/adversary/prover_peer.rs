//! What a cheating prover hears from the network, what it answers, and how it gets its claims into blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use network::{Event, Events, Gossip, GossipMessage, NetworkHandle, Verdict};
use serde_json::{Value, json};
use types::Wire;
use types::blob::{BlobManifest, blob_hash};
use types::gossip::TxMessage;
use types::ids::{BlobHash, Height, JobId};
use types::job::JobSpec;
use types::keys::PublicKey;
use types::limits::BLOB_CHUNK_BYTES;
use types::rpc_sync::{Request, Response};
use types::transaction::{Action, SenderTx, SignedTx, Transaction};
use types::verdict::Claim;

use super::identity::{self, Identity, report};
use super::prover_proofs::{Made, Workshop};
use crate::rpc::Rpc;

/// Transactions expire after this long, block time.
const TX_LIFE_MS: u64 = 600_000;

/// Who gets a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Nobody,
    Peers(BTreeSet<String>),
    Everybody,
}

/// A blob held here.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) bytes: Arc<Vec<u8>>,
    pub(super) access: Access,
}

/// What gossip brought and what was committed.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) jobs: BTreeMap<JobId, JobSpec>,
    pub(super) claims: BTreeMap<(JobId, u32), (PublicKey, Claim)>,
    pub(super) blobs: BTreeMap<BlobHash, Held>,
    pub(super) committed: BTreeMap<JobId, BlobHash>,
    asked: BTreeSet<(BlobHash, String)>,
}

/// The adversary.
pub(super) struct Cheater {
    pub(super) identity: Identity,
    pub(super) net: NetworkHandle,
    pub(super) rpc: Rpc,
    pub(super) known: Mutex<Known>,
    pub(super) workshop: Workshop,
    /// One transaction at a time, for the nonce.
    pub(super) sending: tokio::sync::Mutex<()>,
}

impl Cheater {
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn me(&self) -> PublicKey {
        self.identity.account.public()
    }

    /// Asks the honest node.
    pub(super) async fn ask(self: &Arc<Self>, method: &'static str, params: Value) -> Result<Value> {
        let rpc = self.rpc.clone();
        tokio::task::spawn_blocking(move || rpc.call(method, &params)).await?
    }

    pub(super) async fn sign(self: &Arc<Self>, action: Action) -> Result<SignedTx> {
        let me = self.me();
        let nonce = self.ask("account_nonce", json!([me])).await?["nonce_pending"].as_u64().context("nonce")?;
        let content = SenderTx {
            genesis: self.identity.chain,
            sender: me,
            nonce,
            expires_ms: identity::wall_clock().plus(TX_LIFE_MS),
            trace: 0,
            action,
        };
        Ok(content.sign(&self.identity.account))
    }

    /// Commits a claim and waits for the block with it; returns its height.
    pub(super) async fn commit(self: &Arc<Self>, job: JobId, attempt: u32, claim: Claim) -> Result<u64> {
        let _one = self.sending.lock().await;
        let tx = self.sign(Action::CommitClaim { job, task: 0, attempt, claim }).await?;
        let answer = self.ask("tx_submit", json!([hex::encode(tx.to_bytes()), 30_000])).await?;
        answer["height"].as_u64().with_context(|| format!("the claim is in no block: {answer}"))
    }
}

/// Takes in what the network sends; judges nothing, and answers questions about blobs as ordered.
pub(super) async fn follow(cheater: Arc<Cheater>, mut events: Events) {
    while let Some(event) = events.next().await {
        match event {
            Event::Gossip(Gossip { id, message, .. }) => {
                if let GossipMessage::Tx(message) = message {
                    match *message {
                        TxMessage::Offer(tx) => learn(&cheater, &tx),
                        TxMessage::Transaction(tx) => tx.signed().into_iter().for_each(|tx| learn(&cheater, tx)),
                        TxMessage::Transactions(txs) => {
                            txs.iter().filter_map(Transaction::signed).for_each(|tx| learn(&cheater, tx));
                        }
                        TxMessage::Availability { .. } => {}
                    }
                }
                cheater.net.report(id, Verdict::Ignore);
            }
            Event::Request(network::Request { peer, request, token }) => {
                let answer = answer(&cheater, &peer.to_string(), &request);
                cheater.net.respond(token, &answer);
            }
            Event::Peer(_) => {}
        }
    }
    report(&json!({ "event": "disconnected" }));
    std::process::exit(1);
}

fn learn(cheater: &Cheater, tx: &SignedTx) {
    let SenderTx { sender, nonce, action, .. } = &tx.content;
    match action {
        Action::SubmitJob(spec) => {
            let job = spec.job_id(&cheater.identity.chain, sender, *nonce);
            cheater.known().jobs.insert(job, (**spec).clone());
        }
        Action::CommitClaim { job, attempt, claim, .. } if *sender != cheater.me() => {
            cheater.known().claims.entry((*job, *attempt)).or_insert((*sender, claim.clone()));
        }
        _ => {}
    }
}

fn answer(cheater: &Cheater, peer: &str, request: &Request) -> Response {
    let held = |hash: &BlobHash| {
        let mut known = cheater.known();
        let held = known.blobs.get(hash).cloned();
        if known.committed.values().any(|committed| committed == hash) && known.asked.insert((*hash, peer.to_owned())) {
            report(&json!({ "event": "asked", "hash": hash, "peer": peer }));
        }
        held.filter(|held| match &held.access {
            Access::Nobody => false,
            Access::Peers(peers) => peers.contains(peer),
            Access::Everybody => true,
        })
    };
    match request {
        Request::Status => Response::Status { height: Height(0), lowest: Height(1) },
        Request::BlobManifest { hash } => Response::BlobManifest(held(hash).map(|held| BlobManifest::of(&held.bytes))),
        Request::BlobChunk { hash, index } => Response::BlobChunk(held(hash).and_then(|held| {
            let part = held.bytes.chunks(BLOB_CHUNK_BYTES as usize).nth(*index as usize);
            part.map(<[u8]>::to_vec)
        })),
        Request::Verdicts { .. } => Response::Verdicts(vec![]),
        Request::Blocks { .. } => Response::Blocks(vec![]),
        Request::ProposedBlock { .. } => Response::ProposedBlock(None),
        Request::Votes { .. } => Response::Votes { votes: vec![], proposals: vec![] },
        Request::Genesis => Response::Genesis(None),
    }
}

pub(super) fn serve(cheater: &Cheater, job: &JobId, to: Vec<String>) {
    let mut known = cheater.known();
    let hash = known.committed.get(job).copied();
    let Some(held) = hash.and_then(|hash| known.blobs.get_mut(&hash)) else {
        report(&json!({ "event": "failed", "job": job, "why": "no bytes were committed for this job" }));
        return;
    };
    held.access = if to.is_empty() { Access::Everybody } else { Access::Peers(to.into_iter().collect()) };
    report(&json!({ "event": "serving", "job": job }));
}

/// Puts a blob where peers ask for it; returns the claim to it.
pub(super) fn hold(cheater: &Cheater, job: JobId, made: &Made, access: Access) -> Claim {
    let (hash, bytes) = (blob_hash(&made.blob), made.blob.len() as u64);
    let mut known = cheater.known();
    known.blobs.insert(hash, Held { bytes: Arc::clone(&made.blob), access });
    known.committed.insert(job, hash);
    Claim::Proof { hash, bytes, steps: made.steps }
}
