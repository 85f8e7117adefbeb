//! A small real chain for this crate's tests: signed blocks, transactions, a change of the validator set, a certificate.

use types::block::{Block, DecidedBlock, HEADER_VERSION, Header, genesis_seed, next_seed, transactions_root};
use types::genesis::{Genesis, GenesisAccount, GenesisValidator};
use types::ids::{
    Amount, BlobHash, BlockId, Digest, GenesisHash, Height, JobId, Round, StateRoot, StatementDigest, TimeMs,
};
use types::job::PROOF_SYSTEM_VERSION;
use types::keys::SecretKey;
use types::kv::{KvWrites, Space};
use types::params::Params;
use types::receipt::SetChange;
use types::transaction::{Action, SenderTx, Transaction};
use types::validator::{Validator, ValidatorSet};
use types::verdict::{Claim, ProofCertificate, ProofVote, SignedProofVote, Verdict, VoteSubject};
use types::vote::CommitCertificate;

use crate::records::{BlockCommit, Head};
use crate::store::Store;

pub(crate) fn keys() -> Vec<SecretKey> {
    let mut keys: Vec<_> = (1..=4u8).map(|n| SecretKey::from_seed([n; 32])).collect();
    keys.sort_by_key(SecretKey::public);
    keys
}

fn validators(keys: &[SecretKey]) -> ValidatorSet {
    ValidatorSet::new(keys.iter().map(|k| Validator { key: k.public(), power: 1 }).collect()).unwrap()
}

pub(crate) fn genesis() -> Genesis {
    let keys = keys();
    let validator =
        |k: &SecretKey| GenesisValidator { key: k.public(), power: 1, account: k.public(), stake: Amount(10) };
    Genesis {
        chain_id: "test-chain".into(),
        time_ms: TimeMs(1_000),
        params: Params::standard(),
        validators: keys.iter().map(validator).collect(),
        provers: vec![],
        accounts: vec![GenesisAccount { account: keys[0].public(), balance: Amount(1_000_000) }],
    }
}

/// The root that this chain pretends its state has after a height: any bytes do, the store does not look inside.
pub(crate) fn root(height: u64) -> StateRoot {
    StateRoot::new([height as u8; 32])
}

pub(crate) fn genesis_writes() -> KvWrites {
    [((Space::State, b"account".to_vec()), Some(vec![0]))].into()
}

pub(crate) fn verdict(job: JobId, validator: &SecretKey, chain: &GenesisHash) -> SignedProofVote {
    let subject = VoteSubject {
        job,
        task: 0,
        attempt: 0,
        height: Height(1),
        prover: validator.public(),
        statement: StatementDigest::new([1; 32]),
        claim: Claim::Proof { hash: BlobHash::new([2; 32]), bytes: 3, steps: 4 },
        verifier: PROOF_SYSTEM_VERSION,
    };
    ProofVote { subject, verdict: Verdict::Valid, validator: validator.public() }.sign(validator, chain)
}

/// Builds the blocks of the chain one after the other. At height 3 the fourth validator leaves.
pub(crate) struct Chain {
    pub(crate) genesis: Genesis,
    hash: GenesisHash,
    keys: Vec<SecretKey>,
    set: ValidatorSet,
    parent: BlockId,
    seed: Digest,
    last_commit: Option<CommitCertificate>,
    height: u64,
}

impl Chain {
    pub(crate) fn new() -> Self {
        let (genesis, keys) = (genesis(), keys());
        let hash = genesis.hash();
        let set = validators(&keys);
        let parent = BlockId::new(*hash.as_bytes());
        Self { genesis, hash, keys, set, parent, seed: genesis_seed(&hash), last_commit: None, height: 0 }
    }

    pub(crate) fn next(&mut self) -> BlockCommit {
        self.height += 1;
        let height = Height(self.height);
        let next_set = if self.height == 3 { validators(&self.keys[..3]) } else { self.set.clone() };
        let block = self.block(height, &next_set);
        let mut certificate = CommitCertificate { height, round: Round(0), block: block.id(), signatures: vec![] };
        for key in self.keys.iter().filter(|k| self.set.power_of(&k.public()).is_some()) {
            let vote = certificate.precommit_of(key.public()).sign(key, &self.hash);
            certificate.signatures.push((key.public(), vote.signature));
        }
        let set_change = (next_set != self.set).then(|| SetChange {
            header: block.header.clone(),
            certificate: certificate.clone(),
            new_set: next_set.clone(),
        });
        let job = JobId::new([self.height as u8; 32]);
        let vote = verdict(job, &self.keys[0], &self.hash);
        let votes = vec![(vote.vote.validator, vote.vote.verdict, vote.signature)];
        let certificates = vec![ProofCertificate { subject: vote.vote.subject, votes }];
        let writes = [
            ((Space::State, b"account".to_vec()), Some(vec![self.height as u8])),
            ((Space::State, format!("height {height}").into_bytes()), Some(vec![1])),
            ((Space::Tree, b"node".to_vec()), Some(vec![self.height as u8; 3])),
        ];
        self.set = next_set;
        self.parent = block.id();
        self.last_commit = Some(certificate.clone());
        let decided = DecidedBlock { block, certificate };
        let writes = writes.into();
        BlockCommit { decided, writes, state_root: root(self.height), set_change, certificates }
    }

    fn block(&mut self, height: Height, next_set: &ValidatorSet) -> Block {
        let content = SenderTx {
            genesis: self.hash,
            sender: self.keys[0].public(),
            nonce: self.height,
            expires_ms: TimeMs(10_000_000),
            trace: 0,
            action: Action::Transfer { to: self.keys[1].public(), amount: Amount(1) },
        };
        let transactions = vec![Transaction::Signed(content.sign(&self.keys[0]))];
        let last_commit = self.last_commit.as_ref().map_or(Digest::new([0; 32]), CommitCertificate::digest);
        self.seed = next_seed(&self.seed, &self.parent, &last_commit);
        let header = Header {
            version: HEADER_VERSION,
            genesis: self.hash,
            height,
            time_ms: TimeMs(1_000 + self.height),
            proposer: self.keys[0].public(),
            parent: self.parent,
            last_commit,
            transactions: transactions_root(transactions.iter()),
            state_root: root(self.height - 1),
            evidence: transactions_root([].iter()),
            validators: self.set.digest(),
            next_validators: next_set.digest(),
            params: self.genesis.params.digest(),
            seed: self.seed,
        };
        Block { header, last_commit: self.last_commit.clone(), transactions }
    }

    /// Starts a store and commits `n` blocks to it.
    pub(crate) fn fill(&mut self, store: &dyn Store, n: u64) -> Head {
        store.init(&self.genesis, &genesis_writes(), root(0)).unwrap();
        for _ in 0..n {
            store.commit_block(&self.next()).unwrap();
        }
        store.head().unwrap().unwrap()
    }
}
