//! A hostile validator, or several that act together: follows the chain, proposes when its turn comes (rightly, unless told
//! otherwise), signs whatever it is told to sign, and proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use network::{GossipMessage, NetworkHandle};
use tokio::sync::{oneshot, watch};
use types::blob::blob_hash;
use types::block::Block;
use types::gossip::{ConsensusMessage, ProposalMessage, TxMessage};
use types::ids::{BlobHash, BlockId, GenesisHash, Height, JobId, Round};
use types::keys::{PublicKey, SecretKey};
use types::rpc_sync::{Request, Response};
use types::transaction::{Action, SenderTx, Transaction};
use types::verdict::{Claim, ProofVote, Verdict, VoteSubject};
use types::vote::{Proposal, Vote, VoteKind};

use super::identity::{Identity, wall_clock};
use super::validator_chain::Chain;
use super::validator_forge::{Spoil, craft, heights_ahead};
use super::validator_peer::Answers;

/// Time between two questions for new blocks.
const FOLLOW: Duration = Duration::from_millis(50);
/// Time between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(40);
/// A spoilt proposal that waits for its turn.
pub(super) struct Plan {
    /// Which of the keys proposes.
    pub(super) key: usize,
    /// What is wrong with it.
    pub(super) how: Spoil,
    /// Identities that send it. A second one sends another block for the same slot.
    pub(super) via: Vec<String>,
    /// How long after its turn it is sent.
    pub(super) delay: Duration,
    /// Told what was sent.
    pub(super) reply: oneshot::Sender<Result<Proposed>>,
}

/// A proposal that was sent.
pub(super) struct Proposed {
    /// Its height; the round is 0.
    pub(super) height: Height,
    /// Its blocks: two if the proposer equivocated.
    pub(super) blocks: Vec<BlockId>,
}

/// The adversary.
pub(super) struct Validator {
    genesis: GenesisHash,
    keys: Vec<Identity>,
    chain: Mutex<Chain>,
    heads: watch::Sender<Height>,
    nets: Mutex<BTreeMap<String, (NetworkHandle, Answers)>>,
    blobs: Mutex<BTreeMap<BlobHash, Vec<u8>>>,
    plan: Mutex<Option<Plan>>,
    /// Heights for which a proposal was made.
    proposed: Mutex<BTreeSet<(Height, PublicKey)>>,
    /// Whether it proposes rightly when it has no plan.
    proposes: Mutex<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Validator {
    /// With real keys, before the first block.
    pub(super) fn new(keys: Vec<Identity>) -> Result<Self> {
        let first = keys.first().context("no home is named")?;
        Ok(Self {
            genesis: first.chain,
            chain: Mutex::new(Chain::new(&first.genesis)?),
            keys,
            heads: watch::Sender::new(Height(0)),
            nets: Mutex::default(),
            blobs: Mutex::default(),
            plan: Mutex::default(),
            proposed: Mutex::default(),
            proposes: Mutex::new(true),
        })
    }

    pub(super) const fn genesis(&self) -> GenesisHash {
        self.genesis
    }

    /// What it knows; not to be held across a wait.
    pub(super) fn chain(&self) -> MutexGuard<'_, Chain> {
        lock(&self.chain)
    }

    pub(super) fn consensus(&self, index: usize) -> Option<&SecretKey> {
        self.keys.get(index).map(|k| &k.consensus)
    }

    pub(super) fn account(&self, index: usize) -> Option<&SecretKey> {
        self.keys.get(index).map(|k| &k.account)
    }

    /// The secret key of a validator, if it is the adversary's.
    pub(super) fn key_of(&self, validator: &PublicKey) -> Option<&SecretKey> {
        self.keys.iter().map(|k| &k.consensus).find(|k| k.public() == *validator)
    }

    pub(super) fn blob(&self, hash: &BlobHash) -> Option<Vec<u8>> {
        lock(&self.blobs).get(hash).cloned()
    }

    pub(super) fn set_proposes(&self, on: bool) {
        *lock(&self.proposes) = on;
    }

    pub(super) fn set_plan(&self, plan: Plan) -> Result<()> {
        let before = lock(&self.plan).replace(plan);
        ensure!(before.is_none(), "another plan waits already");
        Ok(())
    }

    /// Adds an identity.
    pub(super) fn add_net(&self, name: &str, net: NetworkHandle, answers: Answers) {
        lock(&self.nets).insert(name.to_owned(), (net, answers));
    }

    /// An identity by name.
    pub(super) fn net(&self, name: &str) -> Result<NetworkHandle> {
        let nets = lock(&self.nets);
        nets.get(name).map(|(net, _)| net.clone()).with_context(|| format!("there is no identity {name}"))
    }

    /// What an identity answers.
    pub(super) fn answers(&self, name: &str) -> Answers {
        lock(&self.nets).get(name).map_or(Answers::Silent, |(_, answers)| *answers)
    }

    fn publish(&self, via: &str, message: &GossipMessage) -> Result<()> {
        ensure!(self.net(via)?.publish(message).accepted(), "identity {via} can't publish");
        Ok(())
    }

    /// Follows decided blocks, asking its peers in turn, until the process ends.
    pub(super) async fn follow(self: Arc<Self>) {
        for turn in 0usize.. {
            tokio::time::sleep(FOLLOW).await;
            let Ok(net) = self.net("main") else { continue };
            let peers = net.peers();
            let Some(peer) = turn.checked_rem(peers.len()).and_then(|i| peers.get(i)) else { continue };
            let Ok(from) = self.chain().head().map(|head| head.height.next()) else { continue };
            let Ok(Response::Blocks(blocks)) = net.request(peer.peer_id, Request::Blocks { from, count: 64 }).await
            else {
                continue;
            };
            for decided in blocks {
                let height = decided.block.header.height;
                match self.chain().take(decided) {
                    Ok(true) => {
                        self.heads.send_replace(height);
                    }
                    Ok(false) => {}
                    // A block that its own rules refuse: the test that reads this has found a fork.
                    Err(error) => {
                        eprintln!("block {height} is refused: {error:#}");
                        std::process::exit(3);
                    }
                }
            }
        }
    }

    /// Proposes at every new head whose next height is its turn.
    pub(super) async fn propose_in_turn(self: Arc<Self>) {
        let mut heads = self.heads.subscribe();
        while heads.changed().await.is_ok() {
            if let Some(plan) = self.due_plan() {
                let made = self.make(plan.key, plan.how);
                tokio::time::sleep(plan.delay).await;
                let sent = made.and_then(|(height, block)| self.propose(plan.key, height, &block, &plan.via));
                // Whoever asked has given up, then nobody misses the answer.
                plan.reply.send(sent).ok();
            } else if *lock(&self.proposes)
                && let Some(index) = (0..self.keys.len()).find(|index| self.is_turn(*index, 1))
                && let Err(error) = self
                    .make(index, Spoil::Nothing)
                    .and_then(|(height, block)| self.propose(index, height, &block, &["main".to_owned()]))
            {
                eprintln!("proposal not sent: {error:#}");
            }
        }
    }

    fn due_plan(&self) -> Option<Plan> {
        let mut plan = lock(&self.plan);
        let due = plan.as_ref().is_some_and(|p| self.is_turn(p.key, heights_ahead(p.how)));
        if due { plan.take() } else { None }
    }

    /// Whether a key proposes, in round 0 and for the first time, at the height so far above the head.
    fn is_turn(&self, index: usize, ahead: u64) -> bool {
        let Some(key) = self.consensus(index).map(SecretKey::public) else { return false };
        let chain = self.chain();
        let Ok(height) = chain.head().map(|head| Height(head.height.0.saturating_add(ahead))) else { return false };
        let turn = chain.set(height).is_ok_and(|set| consensus::proposer(&set, height, Round(0)) == Some(key));
        turn && !lock(&self.proposed).contains(&(height, key))
    }

    /// Builds a block on top of the head.
    fn make(&self, index: usize, how: Spoil) -> Result<(Height, Block)> {
        let keys = self.keys.get(index).context("no such key")?;
        let (height, block) = craft(&self.chain(), &keys.consensus.public(), &keys.account, how, wall_clock())?;
        lock(&self.proposed).insert((height, keys.consensus.public()));
        Ok((height, block))
    }

    /// Signs and sends a proposal; every identity after the first sends another block for the same slot.
    fn propose(&self, index: usize, height: Height, block: &Block, via: &[String]) -> Result<Proposed> {
        let keys = self.keys.get(index).context("no such key")?;
        let mut blocks = Vec::new();
        for (name, later) in via.iter().zip(0u64..) {
            let mut block: Block = block.clone();
            block.header.time_ms = block.header.time_ms.plus(later);
            let value = block.id();
            let content =
                Proposal { height, round: Round(0), value, pol_round: None, proposer: keys.consensus.public() };
            let proposal = content.sign(&keys.consensus, &self.genesis);
            self.publish(name, &GossipMessage::Proposal(Box::new(ProposalMessage { proposal, block })))?;
            blocks.push(value);
        }
        Ok(Proposed { height, blocks })
    }

    /// Signs a vote, whatever it signed before, and sends it.
    pub(super) fn vote(
        &self,
        index: usize,
        kind: VoteKind,
        slot: (Height, Round),
        value: Option<BlockId>,
        via: &str,
    ) -> Result<()> {
        let key = self.consensus(index).context("no such key")?;
        let vote = Vote { kind, height: slot.0, round: slot.1, value, validator: key.public() };
        let vote = vote.sign(key, &self.genesis);
        self.publish(via, &GossipMessage::Consensus(Box::new(ConsensusMessage::Vote { vote, resend: 0 })))
    }

    /// Waits until every validator but the adversary's own was heard in a step of a round.
    pub(super) async fn honest_votes(
        &self,
        height: Height,
        round: Round,
        kind: VoteKind,
        limit: Duration,
    ) -> Result<BTreeMap<PublicKey, Option<BlockId>>> {
        self.until("votes of all honest validators", limit, || {
            let chain = self.chain();
            let votes = chain.votes(height, round, kind);
            let set = chain.set(height)?;
            let mut honest = set.validators().iter().map(|v| v.key).filter(|key| self.key_of(key).is_none());
            let heard = honest.all(|key| votes.contains_key(&key));
            Ok(heard.then(|| votes.into_iter().filter(|(key, _)| self.key_of(key).is_none()).collect()))
        })
        .await
        .with_context(|| {
            let heard = self.chain().votes(height, round, kind);
            format!("height {height}, round {round}, heard: {heard:?}")
        })
    }

    async fn until<T>(&self, what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if tokio::time::Instant::now() >= deadline {
                bail!("{what}: not within {} s", limit.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Sends a transaction of an own account and waits until a block holds it.
    pub(super) async fn transact(&self, index: usize, action: Action, limit: Duration) -> Result<()> {
        let account = self.account(index).context("no such key")?;
        let (nonce, time) = {
            let chain = self.chain();
            (ledger::query::account(chain.view(), &account.public())?.nonce, chain.head()?.time_ms)
        };
        let content = SenderTx {
            genesis: self.genesis,
            sender: account.public(),
            nonce,
            expires_ms: time.plus(600_000),
            trace: 0,
            action,
        };
        let tx = TxMessage::Transaction(Transaction::Signed(content.sign(account)));
        self.publish("main", &GossipMessage::Tx(Box::new(tx)))?;
        self.until("the transaction in a block", limit, || {
            let now = ledger::query::account(self.chain().view(), &account.public())?.nonce;
            Ok((now > nonce).then_some(()))
        })
        .await
    }

    /// Waits for its turn as a prover, then commits bytes that are no proof, and serves them.
    pub(super) async fn claim(&self, index: usize, job: JobId, limit: Duration) -> Result<VoteSubject> {
        let prover = self.account(index).context("no such key")?.public();
        let attempt = self
            .until("a turn to prove", limit, || {
                let chain = self.chain();
                let now = chain.head()?.time_ms;
                let turn = ledger::assign(chain.view(), &job, 0)?.filter(|a| a.may_prove(&prover, now));
                Ok(turn.map(|a| a.attempt))
            })
            .await?;
        let bytes: Vec<u8> = (0..4096).map(|_| rand::random()).collect();
        let claim = Claim::Proof { hash: blob_hash(&bytes), bytes: bytes.len() as u64, steps: 1000 };
        lock(&self.blobs).insert(blob_hash(&bytes), bytes);
        self.transact(index, Action::CommitClaim { job, task: 0, attempt, claim }, limit).await?;
        self.in_voting(&job, |subject| subject.prover == prover, limit).await
    }

    /// Waits until a claim for a job is in voting.
    pub(super) async fn in_voting(
        &self,
        job: &JobId,
        fits: impl Fn(&VoteSubject) -> bool,
        limit: Duration,
    ) -> Result<VoteSubject> {
        self.until("a claim in voting", limit, || {
            let voting = ledger::query::in_voting(self.chain().view())?;
            Ok(voting.into_iter().find(|subject| subject.job == *job && fits(subject)))
        })
        .await
    }

    /// Signs a verdict, whatever it signed before, and sends it.
    pub(super) fn say(&self, index: usize, subject: VoteSubject, verdict: Verdict) -> Result<()> {
        let key = self.consensus(index).context("no such key")?;
        let vote = ProofVote { subject, verdict, validator: key.public() }.sign(key, &self.genesis);
        self.publish("main", &GossipMessage::Verdict(Box::new(vote)))
    }
}
