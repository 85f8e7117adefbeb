//! The targets, and what each of them demands of a decoder.

use std::fmt::Debug;

use consensus::guard::GuardRecord;
use consensus::wal;
use proof::envelope;
use proof::receipt::verify_receipt_bytes;
use prover::args::Arguments;
use storage::log::{self, LogHeader};
use types::Wire;
use types::blob::BlobManifest;
use types::block::{Block, DecidedBlock, Header};
use types::codec::{decode_body, encode_body};
use types::genesis::Genesis;
use types::gossip::{ConsensusMessage, PresenceList, PresenceMessage, ProposalMessage, TxMessage};
use types::ids::BlobHash;
use types::job::ProgramKind;
use types::rpc_sync::{Request, Response};
use types::statement::Statement;
use types::transaction::{Action, SignedTx, Transaction};
use types::verdict::{ProofCertificate, SignedProofVote};
use types::vote::CommitCertificate;

use super::samples;

/// A decoder and how to feed it.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name of the target and of its folders.
    pub name: &'static str,
    /// Decodes; panics when the decoder breaks its word.
    pub run: fn(&[u8]),
    /// Valid bytes to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "gossip", run: gossip, seeds: samples::gossip },
    Target { name: "sync", run: sync, seeds: samples::sync },
    Target { name: "records", run: records, seeds: samples::records },
    Target { name: "consensus_log", run: consensus_log, seeds: samples::consensus_log },
    Target { name: "guard", run: guard, seeds: samples::guard },
    Target { name: "blob", run: blob, seeds: samples::blob },
    Target { name: "receipt", run: receipt, seeds: samples::receipts },
    Target { name: "proof_envelope", run: proof_envelope, seeds: samples::proof_envelopes },
    Target { name: "proof", run: proof_bytes, seeds: samples::proof_bytes },
    Target { name: "program", run: program, seeds: samples::programs },
    Target { name: "arguments", run: arguments, seeds: samples::arguments },
    Target { name: "rpc_calls", run: rpc_calls, seeds: samples::rpc_calls },
    Target { name: "rpc_sockets", run: rpc_sockets, seeds: samples::rpc_sockets },
    Target { name: "worker_answers", run: worker_answers, seeds: prover::worker::samples::answers },
    Target { name: "request_frames", run: request_frames, seeds: samples::request_frames },
];

/// Decodes a record; one that decodes must encode to the same bytes.
fn record<T: Wire + Debug>(bytes: &[u8]) -> Option<T> {
    let value = T::from_bytes(bytes).ok()?;
    assert!(value.to_bytes() == bytes, "{} has a second encoding: {value:?}", T::NAME);
    Some(value)
}

/// The first byte says which record the rest is.
fn split(bytes: &[u8]) -> (u8, &[u8]) {
    bytes.split_first().map_or((0, bytes), |(kind, rest)| (*kind, rest))
}

/// Messages of the five topics.
fn gossip(bytes: &[u8]) {
    let chain = samples::chain();
    let (kind, bytes) = split(bytes);
    match kind % 5 {
        0 => match record::<ConsensusMessage>(bytes) {
            Some(ConsensusMessage::Vote { vote, .. }) => {
                vote.verify(&chain);
            }
            Some(ConsensusMessage::Polka { votes } | ConsensusMessage::Round { votes, .. }) => {
                votes.iter().take(8).for_each(|vote| {
                    vote.verify(&chain);
                });
            }
            None => {}
        },
        1 => {
            if let Some(message) = record::<ProposalMessage>(bytes) {
                message.proposal.verify(&chain);
                block(&message.block);
            }
        }
        2 => match record::<TxMessage>(bytes) {
            Some(TxMessage::Transaction(tx)) => transaction(&tx),
            Some(TxMessage::Transactions(txs)) => txs.iter().take(16).for_each(transaction),
            Some(TxMessage::Offer(tx)) => signed(&tx),
            Some(TxMessage::Availability { tx, signature }) => {
                signature.verify(&tx, &chain);
            }
            None => {}
        },
        3 => {
            if let Some(vote) = record::<SignedProofVote>(bytes) {
                vote.verify(&chain);
            }
        }
        _ => {
            if let Some(message) = record::<PresenceMessage>(bytes) {
                message.verify(&chain);
            }
            if let Some(list) = record::<PresenceList>(bytes) {
                list.records.iter().for_each(|message| {
                    message.verify(&chain);
                });
            }
        }
    }
}

/// Questions and answers between peers.
fn sync(bytes: &[u8]) {
    let (kind, bytes) = split(bytes);
    if kind.is_multiple_of(2) {
        record::<Request>(bytes);
        return;
    }
    match record::<Response>(bytes) {
        Some(Response::Blocks(blocks)) => blocks.iter().for_each(|decided| {
            block(&decided.block);
            certificate(&decided.certificate);
        }),
        Some(Response::ProposedBlock(Some(found))) => block(&found),
        Some(Response::BlobManifest(Some(manifest))) => drop(manifest.verify(&BlobHash::new([1; 32]))),
        Some(Response::Genesis(Some(document))) => genesis(&document),
        _ => {}
    }
}

/// Records that lie inside others, each alone.
fn records(bytes: &[u8]) {
    let (kind, bytes) = split(bytes);
    match kind % 9 {
        0 => drop(record::<Header>(bytes).map(|header| header.id())),
        1 => drop(record::<Block>(bytes).map(|found| block(&found))),
        2 => drop(record::<DecidedBlock>(bytes).map(|found| block(&found.block))),
        3 => drop(record::<SignedTx>(bytes).map(|tx| signed(&tx))),
        4 => drop(record::<Transaction>(bytes).map(|tx| transaction(&tx))),
        5 => drop(record::<Statement>(bytes).map(|statement| statement.digest())),
        6 => {
            if let Some(found) = record::<ProofCertificate>(bytes) {
                let set = samples::validator_set();
                drop(found.outcome(&samples::chain(), &set));
                found.failed_check(&set);
            }
        }
        7 => drop(record::<CommitCertificate>(bytes).map(|found| certificate(&found))),
        _ => drop(record::<Genesis>(bytes).map(|document| genesis(&document))),
    }
}

fn genesis(document: &Genesis) {
    document.hash();
    if document.check().is_ok() {
        document.validator_set().unwrap_or_else(|e| panic!("a checked genesis has no validator set: {e}"));
    }
}

fn certificate(found: &CommitCertificate) {
    let counted = found.verify(&samples::chain(), &samples::validator_set(), found.height, found.block);
    if let Ok((signed, total)) = counted {
        assert!(signed * 3 > total * 2, "a certificate of {signed} of {total} was accepted");
    }
}

fn block(found: &Block) {
    found.id();
    found.transactions.iter().take(16).for_each(transaction);
}

fn signed(tx: &SignedTx) {
    tx.id();
    tx.verify(&samples::chain());
    if let Action::SubmitJob(spec) = &tx.content.action {
        drop(spec.check());
        spec.job_id(&tx.content.genesis, &tx.content.sender, tx.content.nonce);
    }
}

fn transaction(tx: &Transaction) {
    tx.id();
    tx.blobs();
    match tx {
        Transaction::Signed(tx) => signed(tx),
        Transaction::Submission { tx, availability } => {
            signed(tx);
            availability.iter().take(8).for_each(|word| {
                word.verify(&tx.id(), &samples::chain());
            });
        }
        Transaction::Certify { certificate, .. } => {
            drop(certificate.outcome(&samples::chain(), &samples::validator_set()));
        }
        Transaction::Evidence(evidence) => {
            evidence.offence();
            evidence.verify(&samples::chain());
        }
    }
}

fn log_file(bytes: &[u8], header: &LogHeader) -> Vec<log::Record> {
    match log::decode("fuzz", bytes, header) {
        Err(_) => vec![],
        Ok(decoded) => {
            let length = decoded.intact_bytes.saturating_add(decoded.torn_bytes);
            assert_eq!(length, bytes.len() as u64, "intact and torn bytes are not the file");
            decoded.records
        }
    }
}

/// A consensus log's file.
fn consensus_log(bytes: &[u8]) {
    for found in log_file(bytes, &samples::log_header()) {
        record::<wal::Record>(&found.payload);
    }
    record::<wal::Record>(bytes);
}

/// The signer's guard file.
fn guard(bytes: &[u8]) {
    for found in log_file(bytes, &samples::log_header()) {
        if let Some(kept) = record::<GuardRecord>(&found.payload) {
            kept.slot();
        }
    }
    record::<GuardRecord>(bytes);
}

/// A manifest of a peer, and a chunk under it: kind, manifest length (u16), manifest, chunk.
fn blob(bytes: &[u8]) {
    let Some((head, rest)) = bytes.split_first_chunk::<2>() else { return };
    let (manifest, chunk) = rest.split_at(usize::from(u16::from_le_bytes(*head)).min(rest.len()));
    let Ok(found) = decode_body::<BlobManifest>("blob manifest", manifest) else { return };
    assert!(encode_body(&found) == manifest, "a second encoding of a manifest");
    let sample = samples::blob_bytes();
    let hash = types::blob::blob_hash(&sample);
    if found.verify(&hash).is_err() {
        return;
    }
    for index in 0..found.n_chunks().min(4) {
        if found.verify_chunk(&hash, index, chunk) {
            let start = index as usize * types::limits::BLOB_CHUNK_BYTES as usize;
            assert!(sample.get(start..).is_some_and(|s| s.starts_with(chunk)), "a chunk of other bytes was accepted");
        }
    }
}

/// A receipt file.
fn receipt(bytes: &[u8]) {
    let genesis = samples::genesis();
    drop(verify_receipt_bytes(bytes, &genesis, None));
    drop(verify_receipt_bytes(bytes, &genesis, Some(types::ids::BlockId::new([1; 32]))));
}

/// A proof blob.
fn proof_envelope(bytes: &[u8]) {
    if let Ok(found) = envelope::decode(bytes) {
        assert!(envelope::proof_bytes(&found).is_ok_and(|again| envelope::unpack(bytes) == Ok(again)));
    }
}

/// The bytes inside a proof blob, through every check of the verifier. It answers or abstains; it never unwinds.
fn proof_bytes(bytes: &[u8]) {
    if let Ok(found) = envelope::decode_bytes(bytes) {
        drop(proof::cairo::verify_decoded(found, &samples::statement(), &samples::prover()));
    }
}

/// A program file of any kind, with every hash.
fn program(bytes: &[u8]) {
    if let Ok(found) = prover::inspect(bytes, None) {
        assert!(found.main < found.words, "the entry point is outside the program");
    }
}

/// An arguments file: the first byte says for which kind of program.
fn arguments(bytes: &[u8]) {
    let (kind, bytes) = split(bytes);
    let kind = match kind % 3 {
        0 => ProgramKind::Cairo0,
        1 => ProgramKind::Cairo1,
        _ => ProgramKind::Pie,
    };
    drop(Arguments::parse(kind, Some(bytes)));
}

/// Bodies of JSON-RPC requests, and parameters of calls.
fn rpc_calls(bytes: &[u8]) {
    for refused in node::decoders::json_rpc(bytes) {
        let error = &refused["error"];
        assert!(error["code"].is_i64() && error["data"]["code"].is_string(), "not in our form: {refused}");
        let shown = |part: &str| error["data"][part].as_str().is_some_and(|text| text.chars().count() <= 400);
        assert!(shown("field") && shown("value") && shown("limit"), "a part is missing or long: {refused}");
    }
}

/// What a WebSocket client sends after the handshake, and the calls in it.
fn rpc_sockets(bytes: &[u8]) {
    let (messages, _) = node::decoders::web_socket(bytes);
    let sum: usize = messages.iter().map(Vec::len).sum();
    assert!(sum <= bytes.len(), "{sum} bytes of messages in {}", bytes.len());
    assert!(messages.iter().all(|message| message.len() <= node::decoders::MESSAGE_MAX), "a message over the bound");
    messages.iter().for_each(|message| rpc_calls(message));
}

/// A worker's side of its pipe.
fn worker_answers(bytes: &[u8]) {
    let again = prover::worker::samples::read_and_write(bytes);
    assert!(bytes.starts_with(&again), "an answer has a second encoding");
}

/// A peer's stream of a request or an answer to one.
fn request_frames(bytes: &[u8]) {
    const REQUEST_MAX: usize = 1 << 10;
    const ANSWER_MAX: usize = 1 << 20;
    let (request, answer) = network::frames_of(bytes, REQUEST_MAX, ANSWER_MAX);
    let whole = |max: usize| {
        let (head, rest) = bytes.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*head)).ok()?;
        rest.get(..length).filter(|_| length <= max)
    };
    match (whole(ANSWER_MAX), answer) {
        (Some(expected), Ok(found)) => assert!(found == expected, "an answer of other bytes"),
        (None, Err(_)) => {}
        (expected, found) => panic!("an answer of {:?} bytes was read as {found:?}", expected.map(<[u8]>::len)),
    }
    // One that can't be read is told to the node by bytes that are no request.
    match (whole(REQUEST_MAX), request) {
        (Some(expected), Ok(found)) => assert!(found == expected, "a request of other bytes"),
        (None, Ok(found)) => assert!(found.len() <= 1, "a request was made up"),
        (None, Err(_)) => {}
        (Some(_), Err(error)) => panic!("a whole request was not read: {error}"),
    }
}
