//! A chain in memory for tests: keys, a genesis, blocks that are built, checked on a second store and applied.

use types::block::Block;
use types::felt::Felt;
use types::genesis::{Genesis, GenesisAccount, GenesisProver, GenesisValidator};
use types::ids::{Amount, BlobHash, GenesisHash, Height, JobId, Round, TimeMs};
use types::job::{
    BlobRef, HINT_PROCESSOR_VERSION, HashFunction, JobSpec, OutputRule, PROOF_SYSTEM_VERSION, ProgramKind,
};
use types::keys::{PublicKey, SecretKey};
use types::kv::MemoryKv;
use types::params::Params;
use types::transaction::{Action, AvailabilitySig, SenderTx, SignedTx, Transaction};
use types::verdict::{Claim, ProofCertificate, ProofVote, Verdict, VoteSubject};
use types::vote::CommitCertificate;

use crate::chain::{Built, CheckOutcome, build_block, check_block};
use crate::execute::{Event, Executed};
use crate::{TxCode, query, state};

pub(crate) const START_MS: u64 = 1_700_000_000_000;
pub(crate) const STEPS: u64 = 100_000;

pub(crate) fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

/// Validators 1..=4 (accounts 11..=14), provers 21..=23, users 31..=33.
pub(crate) fn validator(n: u8) -> SecretKey {
    key(n)
}

pub(crate) fn owner(n: u8) -> SecretKey {
    key(10 + n)
}

pub(crate) fn prover(n: u8) -> SecretKey {
    key(20 + n)
}

pub(crate) fn user(n: u8) -> SecretKey {
    key(30 + n)
}

pub(crate) fn genesis() -> Genesis {
    let account = |k: SecretKey, balance: u128| GenesisAccount { account: k.public(), balance: Amount(balance) };
    Genesis {
        chain_id: "test".into(),
        time_ms: TimeMs(START_MS),
        params: Params::standard(),
        validators: (1..=4)
            .map(|n| GenesisValidator {
                key: validator(n).public(),
                power: 10,
                account: owner(n).public(),
                stake: Amount(1_000),
            })
            .collect(),
        provers: (1..=3)
            .map(|n| GenesisProver {
                account: prover(n).public(),
                weight: 1,
                steps_max: 1_000_000,
                deposit: Amount(500),
            })
            .collect(),
        accounts: (1..=4)
            .map(|n| account(owner(n), 50_000))
            .chain((1..=3).map(|n| account(prover(n), 50_000)))
            .chain((1..=3).map(|n| account(user(n), 100_000)))
            .collect(),
    }
}

pub(crate) struct Chain {
    pub(crate) kv: MemoryKv,
    pub(crate) genesis: GenesisHash,
    pub(crate) certificate: Option<CommitCertificate>,
    pub(crate) now: TimeMs,
    /// Everyone who may be in the validator set, for signing certificates.
    pub(crate) signers: Vec<SecretKey>,
}

impl Chain {
    pub(crate) fn new() -> Self {
        Self::with(&genesis())
    }

    pub(crate) fn with(genesis: &Genesis) -> Self {
        let built = crate::genesis::build(genesis).unwrap();
        let mut kv = MemoryKv::default();
        kv.apply(&built.writes);
        Self {
            kv,
            genesis: genesis.hash(),
            certificate: None,
            now: genesis.time_ms,
            signers: (1..=9).map(key).collect(),
        }
    }

    pub(crate) fn certify_block(
        &self,
        height: Height,
        block: types::ids::BlockId,
        signers: &[SecretKey],
    ) -> CommitCertificate {
        let set = state::set_unbounded(&self.kv, height).unwrap().unwrap();
        let mut certificate = CommitCertificate { height, round: Round(0), block, signatures: vec![] };
        let mut keys: Vec<_> = signers.iter().filter(|k| set.power_of(&k.public()).is_some()).collect();
        keys.sort_by_key(|k| k.public());
        for k in keys {
            certificate
                .signatures
                .push((k.public(), certificate.precommit_of(k.public()).sign(k, &self.genesis).signature));
        }
        certificate
    }

    pub(crate) fn proposer(&self) -> PublicKey {
        let height = state::head(&self.kv).unwrap().height.next();
        state::set_at(&self.kv, height).unwrap().unwrap().validators()[0].key
    }

    pub(crate) fn build(&self, candidates: &[Transaction]) -> Built {
        build_block(&self.kv, self.certificate.as_ref(), self.proposer(), self.now, candidates).unwrap()
    }

    pub(crate) fn check(&self, block: &Block) -> CheckOutcome {
        check_block(&self.kv, block, self.now).unwrap()
    }

    pub(crate) fn commit(&mut self, block: &Block) -> Executed {
        let executed = match self.check(block) {
            CheckOutcome::Valid(executed) => *executed,
            other => panic!("own block: {other:?}"),
        };
        self.kv.apply(&executed.writes);
        assert_eq!(crate::chain::state_root(&self.kv).unwrap(), executed.state_root);
        assert!(query::audit(&self.kv).unwrap().conserved, "{:?}", query::audit(&self.kv));
        self.certificate = Some(self.certify_block(executed.height, executed.id, &self.signers));
        executed
    }

    /// `ms` later, a block of what the state accepts.
    pub(crate) fn advance(&mut self, ms: u64, candidates: &[Transaction]) -> (Executed, Built) {
        self.now = self.now.plus(ms);
        let built = self.build(candidates);
        (self.commit(&built.block), built)
    }

    /// A block that must take every candidate.
    pub(crate) fn block(&mut self, candidates: &[Transaction]) -> Vec<Event> {
        let (executed, built) = self.advance(500, candidates);
        assert_eq!(built.dropped, []);
        executed.events
    }

    /// A block that must refuse the one candidate.
    pub(crate) fn refused(&mut self, candidate: &Transaction) -> TxCode {
        let (_, built) = self.advance(500, std::slice::from_ref(candidate));
        assert_eq!(built.block.transactions, []);
        built.dropped[0].1.code()
    }

    pub(crate) fn sign_with(&self, sender: &SecretKey, nonce: u64, action: Action) -> SignedTx {
        let expires_ms = self.now.plus(3_600_000);
        SenderTx { genesis: self.genesis, sender: sender.public(), nonce, expires_ms, trace: 7, action }.sign(sender)
    }

    pub(crate) fn sign(&self, sender: &SecretKey, action: Action) -> SignedTx {
        self.sign_with(sender, state::account(&self.kv, &sender.public()).unwrap().nonce, action)
    }

    pub(crate) fn tx(&self, sender: &SecretKey, action: Action) -> Transaction {
        Transaction::Signed(self.sign(sender, action))
    }

    pub(crate) fn available(&self, tx: SignedTx, holders: &[SecretKey]) -> Transaction {
        let mut availability: Vec<_> =
            holders.iter().map(|k| AvailabilitySig::sign(&tx.id(), k, &self.genesis)).collect();
        availability.sort_by_key(|s| s.validator);
        Transaction::Submission { tx, availability }
    }

    pub(crate) fn submission(&self, sender: &SecretKey, spec: &JobSpec) -> Transaction {
        let tx = self.sign(sender, Action::SubmitJob(Box::new(spec.clone())));
        self.available(tx, &[validator(1), validator(2)])
    }

    /// A submitted job whose seed is known, and the provers in rank order.
    pub(crate) fn running_job(&mut self, sender: &SecretKey) -> (JobId, Vec<SecretKey>) {
        let submission = self.submission(sender, &spec());
        let events = self.block(&[submission]);
        let [Event::JobSubmitted { job, .. }] = events[..] else { panic!("{events:?}") };
        self.block(&[]);
        let order = self.order(&job);
        (job, order)
    }

    pub(crate) fn order(&self, job: &JobId) -> Vec<SecretKey> {
        let assignment = crate::assign(&self.kv, job, 0).unwrap().unwrap();
        let of = |p: &PublicKey| (1..=9).map(prover).find(|k| k.public() == *p).unwrap();
        assignment.order.iter().map(of).collect()
    }

    pub(crate) fn commit_tx(&self, who: &SecretKey, job: JobId, attempt: u32, claim: Claim) -> Transaction {
        self.tx(who, Action::CommitClaim { job, task: 0, attempt, claim })
    }

    pub(crate) fn subject(&self, job: &JobId) -> VoteSubject {
        query::vote_subject(&self.kv, job, 0).unwrap().unwrap()
    }

    pub(crate) fn verdicts(
        &self,
        subject: &VoteSubject,
        verdicts: &[(u8, Verdict)],
        certifier: &SecretKey,
    ) -> Transaction {
        let vote = |(n, verdict): &(u8, Verdict)| {
            let vote = ProofVote { subject: subject.clone(), verdict: *verdict, validator: validator(*n).public() };
            (vote.validator, *verdict, vote.sign(&validator(*n), &self.genesis).signature)
        };
        let mut votes: Vec<_> = verdicts.iter().map(vote).collect();
        votes.sort_by_key(|v| v.0);
        let certificate = ProofCertificate { subject: subject.clone(), votes };
        Transaction::Certify { certificate, certifier: certifier.public() }
    }

    pub(crate) fn balance(&self, who: &SecretKey) -> u128 {
        state::account(&self.kv, &who.public()).unwrap().balance.0
    }
}

pub(crate) fn spec() -> JobSpec {
    JobSpec {
        kind: ProgramKind::Cairo0,
        program: BlobRef { hash: BlobHash::new([1; 32]), bytes: 1_000 },
        program_hash: Felt::from_u128(5),
        hash_function: HashFunction::Poseidon,
        args: None,
        output_rule: OutputRule::Quorum,
        hint_processor: HINT_PROCESSOR_VERSION,
        proof_system: PROOF_SYSTEM_VERSION,
        max_steps: STEPS,
        max_fee: Amount(1_500),
        deadline_ms: 600_000,
        idempotency_key: None,
    }
}

pub(crate) fn proof_claim(steps: u64) -> Claim {
    Claim::Proof { hash: BlobHash::new([8; 32]), bytes: 700_000, steps }
}

pub(crate) const VALID: [(u8, Verdict); 3] = [(1, Verdict::Valid), (2, Verdict::Valid), (3, Verdict::Valid)];
