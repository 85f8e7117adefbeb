//! A chain of one node for the tests of single actors: the real store, ledger, blobs and mailboxes in a temporary home. Blocks are
//! made here, signed by all validators; there is no network and no consensus.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use storage::blobs::BlobStore;
use storage::{BlobLimits, BlockCommit, Layout, RocksStore, Store, StoreRead};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use types::felt::Felt;
use types::genesis::{Genesis, GenesisAccount, GenesisProver, GenesisValidator};
use types::ids::{Amount, BlobHash, Height, JobId, Round, TimeMs};
use types::job::{
    BlobRef, HINT_PROCESSOR_VERSION, HashFunction, JobSpec, OutputRule, PROOF_SYSTEM_VERSION, ProgramKind,
};
use types::keys::SecretKey;
use types::params::Params;
use types::transaction::{Action, AvailabilitySig, SenderTx, SignedTx, Transaction};
use types::verdict::Claim;
use types::vote::CommitCertificate;

use crate::api::views::ProverStatusView;
use crate::edge::events::EventRing;
use crate::mailbox::{Letter, Mailbox};
use crate::metrics::Metrics;
use crate::net::link::NetSlot;
use crate::safety::blocks;
use crate::supervisor::StopSignal;
use crate::wiring::{ChainView, Mail, Wiring, wall_clock};

/// Longest wait for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Wait after which what has not happened does not happen.
pub(crate) const QUIET: Duration = Duration::from_millis(600);
/// Age of genesis, ms: block time begins this far behind the clock.
pub(crate) const AGE_MS: u64 = 7_200_000;
/// Messages that may wait to be looked at; the sender then waits.
const HEARD_MAX: usize = 256;
/// Validators of the chain; this node is the first.
const VALIDATORS: u8 = 4;

/// Consensus key of validator `n`, from 1.
pub(crate) fn validator(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

/// Account of validator `n`.
pub(crate) fn owner(n: u8) -> SecretKey {
    SecretKey::from_seed([100 + n; 32])
}

/// The one prover.
pub(crate) fn prover() -> SecretKey {
    SecretKey::from_seed([201; 32])
}

/// The one user.
pub(crate) fn user() -> SecretKey {
    SecretKey::from_seed([202; 32])
}

fn genesis() -> Genesis {
    let account = |key: SecretKey| GenesisAccount { account: key.public(), balance: Amount(100_000) };
    Genesis {
        chain_id: "one-node".into(),
        time_ms: TimeMs(wall_clock().0.saturating_sub(AGE_MS)),
        params: Params { voting_ms: 600_000, ..Params::standard() },
        validators: (1..=VALIDATORS)
            .map(|n| GenesisValidator {
                key: validator(n).public(),
                power: 10,
                account: owner(n).public(),
                stake: Amount(1_000),
            })
            .collect(),
        provers: vec![GenesisProver {
            account: prover().public(),
            weight: 1,
            steps_max: 1_000_000,
            deposit: Amount(500),
        }],
        accounts: (1..=VALIDATORS).map(owner).chain([prover(), user()]).map(account).collect(),
    }
}

/// The chain.
pub(crate) struct TestChain {
    pub(crate) wiring: Wiring,
    chain: watch::Sender<Arc<ChainView>>,
    home: TempDir,
}

impl TestChain {
    /// At height 0.
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::new(home.path());
        let genesis = genesis();
        let store = Arc::new(RocksStore::open(&layout.db()).unwrap());
        let built = ledger::genesis::build(&genesis).unwrap();
        store.init(&genesis, &built.writes, built.root).unwrap();
        let as_store = Arc::clone(&store) as Arc<dyn Store>;
        let blobs =
            BlobStore::open(layout.blobs(), as_store, BlobLimits { budget: 1 << 30, disk_reserve: 0 }, wall_clock())
                .unwrap();
        let head = store.head().unwrap().unwrap();
        let view = blocks::view(store.snapshot(), None, head.state_root, head.time_ms).unwrap();
        let (chain, receiver) = watch::channel(Arc::new(view));
        let status = ProverStatusView::off("none");
        let wiring = Wiring {
            genesis_hash: genesis.hash(),
            verified: Arc::new(crate::verified::Verified::new(genesis.hash())),
            outcomes: Arc::new(crate::outcomes::Outcomes::new(genesis.hash())),
            genesis: Arc::new(genesis),
            validator: Some(validator(1).public()),
            prover: None,
            account: owner(1).public(),
            chain: receiver,
            store,
            blobs,
            net: NetSlot::default(),
            mail: Mail::new(),
            ring: EventRing::default(),
            stop: StopSignal::default(),
            prover_status: watch::channel(status).1,
            metrics: Arc::new(Metrics::new().unwrap()),
            crossings: Default::default(),
        };
        Self { wiring, chain, home }
    }

    /// Its folder.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Appends a block, half a second of block time later, that must take every candidate.
    pub(crate) fn block(&self, candidates: &[Transaction]) -> Arc<ChainView> {
        self.block_after(500, candidates)
    }

    /// As [`TestChain::block`], `ms` of block time later.
    pub(crate) fn block_after(&self, ms: u64, candidates: &[Transaction]) -> Arc<ChainView> {
        let view = self.wiring.view();
        let (proposer, now) = (validator(1).public(), view.head.time_ms.plus(ms));
        let built = ledger::build_block(&view.state, view.certificate.as_ref(), proposer, now, candidates).unwrap();
        assert!(built.dropped.is_empty(), "{:?}", built.dropped);
        let executed = ledger::apply_block(&view.state, &built.block).unwrap();
        let mut certificate = CommitCertificate {
            height: built.block.header.height,
            round: Round(0),
            block: built.block.id(),
            signatures: vec![],
        };
        for key in (1..=VALIDATORS).map(validator).filter(|k| view.set.power_of(&k.public()).is_some()) {
            let vote = certificate.precommit_of(key.public()).sign(&key, &self.wiring.genesis_hash);
            certificate.signatures.push((key.public(), vote.signature));
        }
        certificate.signatures.sort_by_key(|(key, _)| *key);
        let commit = BlockCommit {
            decided: types::block::DecidedBlock { block: built.block, certificate: certificate.clone() },
            writes: executed.writes,
            state_root: executed.state_root,
            set_change: None,
            certificates: vec![],
        };
        let head = self.wiring.store.commit_block(&commit).unwrap();
        let snapshot = self.wiring.store.snapshot();
        let next = blocks::view(snapshot, Some(certificate), head.state_root, wall_clock()).unwrap();
        self.chain.send_replace(Arc::new(next));
        self.wiring.view()
    }

    /// Signs an action with the sender's next nonce.
    pub(crate) fn sign(&self, sender: &SecretKey, action: Action) -> SignedTx {
        let view = self.wiring.view();
        let nonce = ledger::query::account(&view.state, &sender.public()).unwrap().nonce;
        let expires_ms = view.head.time_ms.plus(600_000);
        let genesis = self.wiring.genesis_hash;
        SenderTx { genesis, sender: sender.public(), nonce, expires_ms, trace: 0, action }.sign(sender)
    }

    /// A job whose program is this blob.
    pub(crate) fn submission(&self, sender: &SecretKey, program: BlobRef) -> SignedTx {
        let spec = JobSpec {
            kind: ProgramKind::Cairo0,
            program,
            program_hash: Felt::from_u128(5),
            hash_function: HashFunction::Poseidon,
            args: None,
            output_rule: OutputRule::Prefix(vec![Felt::from_u128(1)]),
            hint_processor: HINT_PROCESSOR_VERSION,
            proof_system: PROOF_SYSTEM_VERSION,
            max_steps: 100_000,
            max_fee: Amount(2_000),
            deadline_ms: 3_600_000,
            idempotency_key: None,
        };
        self.sign(sender, Action::SubmitJob(Box::new(spec)))
    }

    /// Puts a job in a block, and a claim of the prover on it up for the vote; nobody has the claim's bytes.
    pub(crate) fn claim_in_voting(&self) -> (JobId, Height) {
        let tx = self.submission(&user(), BlobRef { hash: BlobHash::new([7; 32]), bytes: 1_000 });
        let holders = [validator(1), validator(2)];
        let mut availability: Vec<_> =
            holders.iter().map(|k| AvailabilitySig::sign(&tx.id(), k, &self.wiring.genesis_hash)).collect();
        availability.sort_by_key(|s| s.validator);
        self.block(&[Transaction::Submission { tx, availability }]);
        let view = self.block(&[]);
        let job = ledger::query::live_jobs(&view.state).unwrap().pop().unwrap();
        let claim = Claim::Proof { hash: BlobHash::new([8; 32]), bytes: 700_000, steps: 9_000 };
        let commit = self.sign(&prover(), Action::CommitClaim { job, task: 0, attempt: 0, claim });
        let view = self.block(&[Transaction::Signed(commit)]);
        (job, view.head.height)
    }
}

/// Stands at an address and shows what comes.
struct Listening<M>(std::marker::PhantomData<fn(M)>);

impl<M: Send + 'static> Actor for Listening<M> {
    type Msg = Letter<M>;
    type State = mpsc::Sender<M>;
    type Arguments = (Mailbox<M>, mpsc::Sender<M>);

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        (mailbox, out): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        mailbox.attach(myself);
        Ok(out)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        letter: Self::Msg,
        out: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        out.send(letter.message).await.ok();
        Ok(())
    }
}

/// What is sent to an address from now on.
pub(crate) async fn listen<M: Send + 'static>(mailbox: &Mailbox<M>) -> mpsc::Receiver<M> {
    let (out, seen) = mpsc::channel(HEARD_MAX);
    Actor::spawn(None, Listening(std::marker::PhantomData), (mailbox.clone(), out)).await.unwrap();
    seen
}

/// The next message; it must come.
pub(crate) async fn next<M>(seen: &mut mpsc::Receiver<M>) -> M {
    tokio::time::timeout(PATIENCE, seen.recv()).await.unwrap().unwrap()
}

/// That nothing more comes.
pub(crate) async fn silent<M: std::fmt::Debug>(seen: &mut mpsc::Receiver<M>) {
    if let Ok(message) = tokio::time::timeout(QUIET, seen.recv()).await {
        panic!("unexpected: {message:?}");
    }
}
