//! Valid bytes for every target, made from the types themselves, and one real proof in a receipt.
//!
//! The proof is made once by the node's own engine and kept beside the build, named by what went into it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use consensus::guard::GuardRecord;
use consensus::machine::TimerKind;
use consensus::wal;
use proof::envelope;
use prover::{Engine, ProveRequest, local_statement};
use serde_json::{Value, json};
use storage::log::{self, LogHeader};
use types::Wire;
use types::blob::{BlobManifest, blob_hash};
use types::block::{Block, DecidedBlock, HEADER_VERSION, Header, transactions_root};
use types::codec::encode_body;
use types::evidence::Evidence;
use types::felt::Felt;
use types::genesis::Genesis;
use types::gossip::{ConsensusMessage, Presence, PresenceList, PresenceMessage, ProposalMessage, TxMessage};
use types::ids::{Amount, BlobHash, BlockId, Digest, GenesisHash, Height, JobId, Round, StateRoot, TimeMs};
use types::job::{HashFunction, OutputRule};
use types::keys::{PublicKey, SecretKey};
use types::limits::BLOB_CHUNK_BYTES;
use types::receipt::{Receipt, SetChange};
use types::rpc_sync::{Request, Response};
use types::statement::Statement;
use types::transaction::{Action, AvailabilitySig, DeclineReason, SignedTx, Transaction};
use types::validator::{Validator, ValidatorSet};
use types::verdict::{Check, Claim, FailureReason, ProofCertificate, ProofVote, SignedProofVote, Verdict, VoteSubject};
use types::vote::{CommitCertificate, Proposal, SignedProposal, SignedVote, Vote, VoteKind};

use crate::sim::dice::Dice;
use crate::sim::users;

/// Validators of each generation.
const VALIDATORS: usize = 4;
/// Height of the block with the commit in the sample receipt.
const COMMITTED: Height = Height(50);

/// The genesis document of the samples.
pub fn genesis() -> Genesis {
    users::genesis(VALIDATORS)
}

/// Its hash.
pub fn chain() -> GenesisHash {
    static CHAIN: OnceLock<GenesisHash> = OnceLock::new();
    *CHAIN.get_or_init(|| genesis().hash())
}

/// Keys of a generation of validators, in rising key order; generation 0 is that of genesis.
pub fn validators(generation: usize) -> Vec<SecretKey> {
    let first = generation * VALIDATORS;
    let mut keys: Vec<_> = (first..first + VALIDATORS).map(users::validator).collect();
    keys.sort_by_key(SecretKey::public);
    keys
}

fn set(generation: usize) -> ValidatorSet {
    let validator = |key: &SecretKey| Validator { key: key.public(), power: 10 };
    ValidatorSet::new(validators(generation).iter().map(validator).collect())
        .unwrap_or_else(|e| panic!("the samples' validators make no set: {e}"))
}

/// The validators of genesis.
pub fn validator_set() -> ValidatorSet {
    set(0)
}

/// Key under which the sample proof was made.
pub fn prover() -> PublicKey {
    users::prover(0).public()
}

fn now() -> TimeMs {
    TimeMs(users::EPOCH_MS + 1_000)
}

fn signed(nonce: u64, action: Action) -> SignedTx {
    users::sign(chain(), &users::user(0), nonce, now(), action)
}

fn vote(kind: VoteKind, key: &SecretKey, value: Option<BlockId>) -> SignedVote {
    Vote { kind, height: Height(2), round: Round(0), value, validator: key.public() }.sign(key, &chain())
}

fn votes(kind: VoteKind, value: Option<BlockId>) -> Vec<SignedVote> {
    validators(0).iter().map(|key| vote(kind, key, value)).collect()
}

fn transactions() -> Vec<Transaction> {
    let mut dice = Dice::new(7);
    let job = JobId::new([3; 32]);
    let claim = Claim::Failure { reason: FailureReason::Execution, steps: 9 };
    let actions = [
        Action::CancelJob { job },
        Action::RegisterProver { weight: 3, steps_max: 1 << 20 },
        Action::CommitClaim { job, task: 0, attempt: 1, claim },
        Action::Decline { job, task: 0, attempt: 1, reason: DeclineReason::Memory },
        Action::UpdateValidator { key: prover(), power: 9 },
        Action::Attest { observer: prover(), reached: validators(0).iter().map(SecretKey::public).collect() },
    ];
    let [a, b] =
        [Some(BlockId::new([1; 32])), None].map(|value| vote(VoteKind::Precommit, &users::validator(0), value));
    let mut all = vec![
        users::transfer(chain(), 0, 0, now(), &mut dice),
        users::job(chain(), 1, 0, now(), VALIDATORS, &mut dice),
        Transaction::Evidence(Evidence::Votes(a, b).canonical()),
        Transaction::Certify { certificate: verdicts(&subject(claim_of(&[1])), &validators(0)), certifier: prover() },
    ];
    all.extend(actions.into_iter().zip(1..).map(|(action, nonce)| Transaction::Signed(signed(nonce, action))));
    all
}

fn header(height: Height, from: &ValidatorSet, to: &ValidatorSet, transactions: &[Transaction]) -> Header {
    Header {
        version: HEADER_VERSION,
        genesis: chain(),
        height,
        time_ms: now(),
        proposer: users::validator(0).public(),
        parent: BlockId::new([1; 32]),
        last_commit: Digest::new([2; 32]),
        transactions: transactions_root(transactions.iter()),
        state_root: StateRoot::new([4; 32]),
        evidence: Digest::new([5; 32]),
        validators: from.digest(),
        next_validators: to.digest(),
        params: genesis().params.digest(),
        seed: Digest::new([7; 32]),
    }
}

fn commit(header: &Header, signers: &[SecretKey]) -> CommitCertificate {
    let mut made = CommitCertificate { height: header.height, round: Round(0), block: header.id(), signatures: vec![] };
    let sign = |key: &SecretKey| (key.public(), made.precommit_of(key.public()).sign(key, &chain()).signature);
    made.signatures = signers.iter().map(sign).collect();
    made
}

fn block() -> Block {
    let transactions = transactions();
    let header = header(Height(2), &set(0), &set(0), &transactions);
    Block { last_commit: Some(commit(&header, &validators(0))), header, transactions }
}

fn decided() -> DecidedBlock {
    let block = block();
    DecidedBlock { certificate: commit(&block.header, &validators(0)), block }
}

fn proposal() -> SignedProposal {
    let key = users::validator(0);
    let value = block().id();
    Proposal { height: Height(2), round: Round(1), value, pol_round: Some(Round(0)), proposer: key.public() }
        .sign(&key, &chain())
}

fn presence() -> PresenceMessage {
    let (node, validator) = (users::owner(0), users::validator(0));
    let mut peer = vec![0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
    peer.extend_from_slice(node.public().as_bytes());
    let presence = Presence {
        peer,
        addresses: vec!["/ip4/127.0.0.1/tcp/27600".into()],
        height: Height(2),
        time_ms: now(),
        prover: Some(prover()),
        validator: Some(validator.public()),
    };
    let word = presence.validator_signature(&validator, &chain());
    presence.sign(&node, Some(word), &chain())
}

/// `bytes` behind the byte that tells a target which record they are.
fn kind(kind: u8, bytes: Vec<u8>) -> Vec<u8> {
    std::iter::once(kind).chain(bytes).collect()
}

/// Messages of the five topics.
pub fn gossip() -> Vec<Vec<u8>> {
    let block = block();
    let value = Some(block.id());
    let consensus = [
        ConsensusMessage::Vote { vote: vote(VoteKind::Prevote, &users::validator(1), value), resend: 0 },
        ConsensusMessage::Polka { votes: votes(VoteKind::Prevote, value) },
        ConsensusMessage::Round {
            votes: votes(VoteKind::Precommit, None),
            enter: Round(1),
            precommits: true,
            resend: 1,
        },
    ];
    let offer = signed(1, Action::CancelJob { job: JobId::new([3; 32]) });
    let word = AvailabilitySig::sign(&offer.id(), &users::validator(2), &chain());
    let mut transactions: Vec<_> = transactions().into_iter().map(TxMessage::Transaction).collect();
    transactions.push(TxMessage::Availability { tx: offer.id(), signature: word });
    transactions.push(TxMessage::Offer(offer));
    transactions.push(TxMessage::Transactions(self::transactions()));
    let mut all: Vec<_> = consensus.iter().map(|m| kind(0, m.to_bytes())).collect();
    all.push(kind(1, ProposalMessage { proposal: proposal(), block }.to_bytes()));
    all.extend(transactions.iter().map(|m| kind(2, m.to_bytes())));
    all.push(kind(3, verdict(&subject(claim_of(&[1])), Verdict::Invalid(Check::Stark)).to_bytes()));
    all.push(kind(4, presence().to_bytes()));
    all.push(kind(4, PresenceList { records: vec![presence(), presence()] }.to_bytes()));
    all
}

/// Questions and answers between peers.
pub fn sync() -> Vec<Vec<u8>> {
    let hash = BlobHash::new([8; 32]);
    let requests = [
        Request::Status,
        Request::Blocks { from: Height(1), count: 64 },
        Request::ProposedBlock { height: Height(2), block: block().id() },
        Request::Votes { height: Height(2) },
        Request::BlobManifest { hash },
        Request::BlobChunk { hash, index: 3 },
        Request::Verdicts { job: JobId::new([3; 32]) },
        Request::Genesis,
    ];
    let responses = [
        Response::Status { height: Height(9), lowest: Height(1) },
        Response::Blocks(vec![decided(), decided()]),
        Response::ProposedBlock(Some(Box::new(block()))),
        Response::Votes { votes: votes(VoteKind::Prevote, None), proposals: vec![proposal()] },
        Response::BlobManifest(Some(BlobManifest::of(&blob_bytes()))),
        Response::BlobChunk(Some(vec![1; 300])),
        Response::Verdicts(vec![verdict(&subject(claim_of(&[1])), Verdict::Valid)]),
        Response::Genesis(Some(Box::new(genesis()))),
        Response::Busy { retry_ms: 50 },
    ];
    let asked = requests.iter().map(|r| kind(0, r.to_bytes()));
    asked.chain(responses.iter().map(|r| kind(1, r.to_bytes()))).collect()
}

/// Records that lie inside others.
pub fn records() -> Vec<Vec<u8>> {
    let block = block();
    let mut all = vec![
        kind(0, block.header.to_bytes()),
        kind(1, block.to_bytes()),
        kind(2, decided().to_bytes()),
        kind(3, signed(1, Action::Transfer { to: prover(), amount: Amount(5) }).to_bytes()),
        kind(5, local(&[OutputRule::Quorum]).to_bytes()),
        kind(6, verdicts(&subject(claim_of(&[1])), &validators(0)).to_bytes()),
        kind(7, commit(&block.header, &validators(0)).to_bytes()),
        kind(8, genesis().to_bytes()),
    ];
    all.extend(block.transactions.iter().map(|tx| kind(4, tx.to_bytes())));
    all
}

/// A statement with the last of these output rules, for samples that need no proof.
fn local(rules: &[OutputRule]) -> Statement {
    let mut made = statement_of(&[]);
    rules.iter().for_each(|rule| made.output_rule = rule.clone());
    made
}

/// The header that log samples have.
pub fn log_header() -> LogHeader {
    LogHeader { magic: *b"PMsample", genesis: chain(), number: 2 }
}

fn log_of(payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut out = log::encode_header(&log_header());
    let seed = out.last_chunk::<4>().map_or(0, |crc| u32::from_le_bytes(*crc));
    for (payload, sequence) in payloads.iter().zip(0..) {
        let synced = out.len() as u64;
        log::encode_record(&mut out, seed, sequence, synced, 1, payload);
    }
    out
}

/// Consensus logs, and their records alone.
pub fn consensus_log() -> Vec<Vec<u8>> {
    let block = block();
    let records = [
        wal::Record::Proposal(proposal()),
        wal::Record::Value { round: Round(0), valid: true, block: Box::new(block.clone()) },
        wal::Record::Vote(vote(VoteKind::Prevote, &users::validator(0), Some(block.id()))),
        wal::Record::Polka(votes(VoteKind::Prevote, Some(block.id()))),
        wal::Record::Timeout { kind: TimerKind::Propose, round: Round(0) },
        wal::Record::Synced(Box::new(decided())),
    ];
    let payloads: Vec<_> = records.iter().map(Wire::to_bytes).collect();
    let files = [log_of(&[]), log_of(&payloads), log_of(payloads.get(2..3).unwrap_or_default())];
    files.into_iter().chain(payloads).collect()
}

/// Guard files, and their records alone.
pub fn guard() -> Vec<Vec<u8>> {
    let records = [
        GuardRecord::Vote(vote(VoteKind::Precommit, &users::validator(0), None)),
        GuardRecord::Proposal(proposal()),
        GuardRecord::Verdict(verdict(&subject(claim_of(&[1])), Verdict::Abstain)),
    ];
    let payloads: Vec<_> = records.iter().map(Wire::to_bytes).collect();
    std::iter::once(log_of(&payloads)).chain(payloads).collect()
}

/// The blob that the manifests of the target `blob` are about: three chunks, the last one short.
pub fn blob_bytes() -> Vec<u8> {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let length = 2 * BLOB_CHUNK_BYTES as u32 + 1_000;
    BYTES.get_or_init(|| (0..length).map(|n| (n % 251) as u8).collect()).clone()
}

/// A manifest with a chunk under it.
pub fn blob() -> Vec<Vec<u8>> {
    let bytes = blob_bytes();
    let manifest = encode_body(&BlobManifest::of(&bytes));
    let with = |chunk: &[u8]| {
        let mut out = u16::try_from(manifest.len()).unwrap_or_default().to_le_bytes().to_vec();
        out.extend_from_slice(&manifest);
        out.extend_from_slice(chunk);
        out
    };
    bytes.chunks(BLOB_CHUNK_BYTES as usize).map(with).collect()
}

/// Program files of the three kinds, and one of a compiler.
pub fn programs() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../../programs/polynomial/polynomial.executable.json").to_vec(),
        include_bytes!("../../programs/merkle-pie/merkle.pie.zip").to_vec(),
        prover::sample::fibonacci(100),
        include_bytes!("../../programs/fibonacci/fibonacci.json").to_vec(),
    ]
}

/// Arguments files.
pub fn arguments() -> Vec<Vec<u8>> {
    vec![
        kind(0, br#"{"n": 20000, "list": [1, [2, "0x3"]]}"#.to_vec()),
        kind(1, br#"[1, "0x10", "340282366920938463463374607431768211456", -5]"#.to_vec()),
        kind(1, include_bytes!("../../programs/polynomial/input.json").to_vec()),
    ]
}

fn statement_of(program: &[u8]) -> Statement {
    let chosen = Some(HashFunction::Poseidon);
    let sample = prover::sample::fibonacci(100);
    let program = if program.is_empty() { &sample } else { program };
    let local = local_statement(program, None, chosen).unwrap_or_else(|e| panic!("the sample program is refused: {e}"));
    Statement { genesis: chain(), job: JobId::new([3; 32]), ..local }
}

/// What the sample proof says.
pub fn statement() -> Statement {
    static STATEMENT: OnceLock<Statement> = OnceLock::new();
    STATEMENT.get_or_init(|| statement_of(&[])).clone()
}

/// A folder beside the build, where expensive proofs are kept.
fn cache() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let build = own.ancestors().find(|folder| folder.ends_with("release")).and_then(Path::parent);
    build.map_or_else(std::env::temp_dir, Path::to_path_buf).join("proof-cache")
}

/// The sample proof in its envelope: made by the first call on this machine, which takes seconds and 2 GB.
pub fn proof() -> &'static [u8] {
    static PROOF: OnceLock<Vec<u8>> = OnceLock::new();
    PROOF.get_or_init(|| kept_proof().unwrap_or_else(|e| panic!("the sample proof: {e:#}")))
}

fn kept_proof() -> anyhow::Result<Vec<u8>> {
    let statement = statement();
    let folder = cache();
    fs::create_dir_all(&folder)?;
    // One proof at a time on this machine, and made once.
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;
    let path = folder.join(format!("sample-{}.proof", statement.binding(&prover())));
    if let Ok(blob) = fs::read(&path)
        && proof::verify(&blob, &statement, &prover()).is_ok()
    {
        return Ok(blob);
    }
    let request = ProveRequest {
        statement,
        prover: prover(),
        program: prover::sample::fibonacci(100),
        args: None,
        max_steps: 100_000,
        memory_limit: None,
    };
    let made = Engine::new().prove(request, Box::new(|_| ()))?;
    let part = path.with_extension("part");
    fs::write(&part, &made.blob)?;
    fs::rename(&part, &path)?;
    Ok(made.blob)
}

/// Proof blobs.
pub fn proof_envelopes() -> Vec<Vec<u8>> {
    let small = envelope::encode_bytes(b"no proof at all").unwrap_or_else(|e| panic!("packing: {e}"));
    vec![small, proof().to_vec()]
}

/// The bytes inside the sample proof.
pub fn proof_bytes() -> Vec<Vec<u8>> {
    vec![envelope::unpack(proof()).unwrap_or_else(|e| panic!("unpacking: {e}"))]
}

/// The claim that a blob is the proof.
pub fn claim_of(blob: &[u8]) -> Claim {
    Claim::Proof { hash: blob_hash(blob), bytes: blob.len() as u64, steps: 600 }
}

/// What verdicts on a claim about the sample statement are about.
pub fn subject(claim: Claim) -> VoteSubject {
    let statement = statement();
    VoteSubject {
        job: statement.job,
        task: 0,
        attempt: 1,
        height: COMMITTED,
        prover: prover(),
        statement: statement.digest(),
        claim,
        verifier: statement.proof_system,
    }
}

fn verdict(subject: &VoteSubject, verdict: Verdict) -> SignedProofVote {
    let key = users::validator(0);
    ProofVote { subject: subject.clone(), verdict, validator: key.public() }.sign(&key, &chain())
}

/// "Valid" by all of these keys.
pub fn verdicts(subject: &VoteSubject, signers: &[SecretKey]) -> ProofCertificate {
    let sign = |key: &SecretKey| {
        let vote = ProofVote { subject: subject.clone(), verdict: Verdict::Valid, validator: key.public() };
        (key.public(), Verdict::Valid, vote.sign(key, &chain()).signature)
    };
    ProofCertificate { votes: signers.iter().map(sign).collect(), subject: subject.clone() }
}

fn change(from: usize, height: u64) -> SetChange {
    let header = header(Height(height), &set(from), &set(from + 1), &[]);
    let certificate = commit(&header, &validators(from));
    SetChange { header, certificate, new_set: set(from + 1) }
}

/// A valid receipt of the third generation of validators, around the sample proof.
pub fn receipt() -> Receipt {
    Receipt {
        genesis: chain(),
        statement: statement(),
        proof: proof().to_vec(),
        certificate: verdicts(&subject(claim_of(proof())), &validators(2)),
        set_changes: vec![change(0, 20), change(1, 40)],
    }
}

/// Receipts: the valid one, and one without its proof, which reaches the same checks faster.
pub fn receipts() -> Vec<Vec<u8>> {
    let whole = receipt();
    let short = Receipt {
        proof: vec![1],
        certificate: verdicts(&subject(claim_of(&[1])), &validators(2)),
        statement: Statement { output_rule: OutputRule::Prefix(vec![Felt::from_u128(1)]), ..whole.statement.clone() },
        ..whole.clone()
    };
    vec![short.to_bytes(), whole.to_bytes()]
}

/// One valid call of every method that needs no wait.
pub fn rpc_calls() -> Vec<Vec<u8>> {
    let id = "ab".repeat(32);
    let transaction = records().into_iter().find(|r| r.first() == Some(&3)).unwrap_or_default();
    let digits: String = transaction.iter().skip(1).map(|b| format!("{b:02x}")).collect();
    let calls = [
        ("job_status", json!([id])),
        ("job_list", json!({"status": "running", "limit": 5})),
        ("job_receipt", json!({"job_id": id})),
        ("job_explain", json!([id])),
        ("job_estimate", json!([100_000])),
        ("job_submit", json!({"tx": digits, "wait_ms": 0})),
        ("job_cancel", json!([digits, 0])),
        ("chain_head", json!([])),
        ("chain_block", json!([1])),
        ("chain_block", json!([id])),
        ("chain_validators", json!({"height": 1})),
        ("chain_genesis", Value::Null),
        ("net_info", json!([])),
        ("net_peers", json!({})),
        ("account_balance", json!([id])),
        ("account_nonce", json!([id])),
        ("tx_submit", json!([digits, 0])),
        ("tx_status", json!([id])),
        ("prover_list", json!([])),
        ("prover_status", json!([])),
        ("evidence_list", json!([20])),
    ];
    let one = |(method, params): &(&str, Value)| json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
    let mut all: Vec<_> = calls.iter().map(|call| one(call).to_string().into_bytes()).collect();
    all.push(Value::from(calls.iter().take(4).map(one).collect::<Vec<_>>()).to_string().into_bytes());
    all
}

/// One masked WebSocket frame: its first byte (last part and kind), and its content.
pub fn socket_frame(first: u8, content: &[u8]) -> Vec<u8> {
    let mask = [0x5a, 0, 0xa5, 1];
    let mut frame = vec![first, 0x80 | 127];
    frame.extend_from_slice(&(content.len() as u64).to_be_bytes());
    frame.extend_from_slice(&mask);
    frame.extend(content.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// What WebSocket clients send: every call as a message, one in parts with a ping between them, one after another.
pub fn rpc_sockets() -> Vec<Vec<u8>> {
    let calls = rpc_calls();
    let mut all: Vec<_> = calls.iter().map(|call| socket_frame(0x81, call)).collect();
    let (left, right) = calls.first().map_or((&[][..], &[][..]), |call| call.split_at(call.len() / 2));
    let parts = [socket_frame(0x01, left), socket_frame(0x89, b"ping"), socket_frame(0x80, right)].concat();
    all.push(parts);
    all.push([all.concat(), socket_frame(0x8a, b""), socket_frame(0x88, &1000u16.to_be_bytes())].concat());
    all
}

/// Frames of requests and answers between peers, one of them over the limit by its length.
pub fn request_frames() -> Vec<Vec<u8>> {
    let framed =
        |bytes: Vec<u8>| [&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes(), bytes.as_slice()].concat();
    let mut all: Vec<_> = sync().into_iter().map(|record| framed(record.into_iter().skip(1).collect())).collect();
    all.push(u32::MAX.to_le_bytes().to_vec());
    all
}
