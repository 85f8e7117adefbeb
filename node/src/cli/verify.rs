//! `verify`: checks a receipt against a genesis document. Needs no node, network or home.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use proof::receipt::{ReceiptCheck, ReceiptFailure, ReceiptReport, TrustRoot, verify_receipt};
use serde_json::{Value, json};
use types::Wire;
use types::blob::blob_hash;
use types::genesis::Genesis;
use types::ids::BlockId;
use types::limits::RECEIPT_BYTES_MAX;
use types::receipt::Receipt;
use types::verdict::{Check, Claim};

use super::Output;
use super::output::{lines, plain};
use crate::client::block_on;
use crate::failure::{Exit, Failure};
use crate::home::read_genesis;
use crate::local::{self, Input};

/// Longest re-execution.
const EXECUTE_LIMIT: Duration = Duration::from_secs(600);
/// Blocks named when another one was asked for.
const CHECKPOINTS_SHOWN: usize = 8;
/// Exit code for a receipt that is not valid.
const INVALID: u8 = 1;

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Receipt file.
    receipt: PathBuf,
    /// Genesis document of the chain.
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// Hash of a block that changed the set of validators, which you trust: nothing older is relied on then.
    #[arg(long, value_name = "H")]
    checkpoint: Option<String>,
    /// Also run this program file and compare its output with the proof's.
    #[arg(long, value_name = "P")]
    program: Option<PathBuf>,
    /// Arguments of that run: JSON or a file with JSON.
    #[arg(long, value_name = "A", requires = "program")]
    args: Option<String>,
}

/// Returns 0 for a valid receipt, 1 for an invalid one; failures to read what was named are usage errors.
pub(super) fn verify(out: Output, args: &VerifyArgs) -> Result<u8, Failure> {
    let genesis = read_genesis(&args.genesis, Exit::Usage)?;
    let checkpoint: Option<BlockId> = args
        .checkpoint
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|e| Failure::of_type(Exit::Usage, &e).field("checkpoint"))?;
    let input = args.program.as_deref().map(|program| Input::read(program, args.args.as_deref())).transpose()?;
    let bytes = read_receipt(&args.receipt)?;
    let checked = match Receipt::from_bytes(&bytes) {
        Err(e) => Err(ReceiptFailure { check: ReceiptCheck::Format, reason: e.to_string() }),
        Ok(receipt) => match verify_receipt(&receipt, &genesis, start(&receipt, &genesis, checkpoint)?) {
            Ok(report) => match input {
                Some(input) => re_execute(&receipt, &report, &input)?.map(|()| report),
                None => Ok(report),
            },
            Err(failure) => Err(failure),
        },
    };
    match checked {
        Ok(report) => {
            out.answer(&valid(&report, args.program.is_some()), text)?;
            Ok(0)
        }
        Err(failure) => {
            out.answer(&invalid(&failure), |_| {
                format!("NOT valid\nfailed check: {}\nreason: {}", failure.check.name(), failure.reason)
            })?;
            Ok(INVALID)
        }
    }
}

/// Reads one byte more than a receipt may have, so that a longer file fails the check *format* and nothing else.
fn read_receipt(path: &std::path::Path) -> Result<Vec<u8>, Failure> {
    use std::io::Read;
    let mut bytes = vec![];
    std::fs::File::open(path)
        .and_then(|file| file.take(RECEIPT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|e| {
            let mut failure = Failure::io(path, "reading receipt", &e).field("receipt");
            failure.exit = Exit::Usage;
            failure
        })?;
    Ok(bytes)
}

/// The block to start from: none for the genesis hash, which is the trust root then.
///
/// # Errors
/// A usage error for a block that the receipt does not contain: nothing is said about the receipt then, neither that it is
/// valid nor that it is not.
fn start(receipt: &Receipt, genesis: &Genesis, named: Option<BlockId>) -> Result<Option<BlockId>, Failure> {
    let Some(block) = named.filter(|block| block.to_string() != genesis.hash().to_string()) else { return Ok(None) };
    let blocks: Vec<String> =
        receipt.set_changes.iter().map(|c| format!("{} (height {})", c.header.id(), c.header.height)).collect();
    if receipt.set_changes.iter().any(|change| change.header.id() == block) {
        return Ok(Some(block));
    }
    let (limit, name) = match blocks.len() {
        0 => (
            "the genesis hash: by this receipt the set of validators never changed".to_string(),
            "leave --checkpoint out: the genesis document is the trust root then",
        ),
        n => {
            // The last ones are the ones that a reader would name.
            let shown = blocks.iter().rev().take(CHECKPOINTS_SHOWN).cloned().collect::<Vec<_>>().join(", ");
            let more =
                if n > CHECKPOINTS_SHOWN { format!(" and {} older", n - CHECKPOINTS_SHOWN) } else { String::new() };
            (
                format!("a block that changed the set: {shown}{more}"),
                "name one of these if you trust it, or leave --checkpoint out: the genesis document is the trust root then",
            )
        }
    };
    Err(Failure::usage("the receipt can't be checked from this block: it is not one that the receipt's chain of validator \
        sets passes")
    .field("checkpoint")
    .value(block)
    .limit(limit)
    .remedy(format!(
        "{name}. If you know that this block changed the set, take the receipt from another node: this one leaves it out"
    )))
}

/// Runs the named program: it must be the statement's, and its output the proof's.
fn re_execute(receipt: &Receipt, report: &ReceiptReport, input: &Input) -> Result<Result<(), ReceiptFailure>, Failure> {
    let refuse = |check, reason: String| Ok(Err(ReceiptFailure { check: ReceiptCheck::Proof(check), reason }));
    let statement = &receipt.statement;
    let program = blob_hash(&input.program);
    if program != statement.program_file {
        return refuse(
            Check::Program,
            format!("the file named has hash {program}, the statement's {}", statement.program_file),
        );
    }
    let given = input.args.as_deref().map(blob_hash);
    if given != statement.args {
        let show = |hash: Option<types::ids::BlobHash>| hash.map_or("none".to_string(), |h| h.to_string());
        return refuse(
            Check::Input,
            format!("the arguments named have hash {}, the statement's {}", show(given), show(statement.args)),
        );
    }
    // The claim says how many steps the run takes; one that takes more is another run.
    let steps = match receipt.certificate.subject.claim {
        Claim::Proof { steps, .. } | Claim::Failure { steps, .. } => steps,
    };
    let limit = steps.saturating_add(1);
    match block_on(local::execute(input, statement.hash_function, limit, EXECUTE_LIMIT)) {
        Ok(run) if run.output == report.output && run.program_hash == report.program_hash => Ok(Ok(())),
        Ok(_) => refuse(Check::Input, "the program's output on these arguments is another than the proof's".into()),
        Err(failure) if failure.code == "program_failed" => refuse(Check::Input, failure.message.clone()),
        Err(failure) => Err(failure),
    }
}

fn valid(report: &ReceiptReport, re_executed: bool) -> Value {
    let trust_root = match report.trust_root {
        TrustRoot::Genesis => "genesis".to_string(),
        TrustRoot::Checkpoint { height, block } => format!("checkpoint {block} at height {height}"),
    };
    json!({
        "valid": true,
        "failed_check": null,
        "reason": null,
        "job_id": report.job,
        "program_hash": report.program_hash,
        "hash_function": report.hash_function,
        "output": report.output,
        "input_binding": report.input_binding.name(),
        "re_executed": re_executed,
        "security": { "query_bits": report.security.query_bits, "johnson_bits": report.security.johnson_bits },
        "proof_system": report.proof_system,
        "prover": report.prover,
        "height": report.height,
        "power_signed": report.power_signed,
        "power_total": report.power_total,
        "trust_root": trust_root,
    })
}

fn invalid(failure: &ReceiptFailure) -> Value {
    let mut answer = json!({ "valid": false, "failed_check": failure.check.name(), "reason": failure.reason });
    let absent = [
        "job_id",
        "program_hash",
        "hash_function",
        "output",
        "input_binding",
        "security",
        "proof_system",
        "prover",
        "height",
        "power_signed",
        "power_total",
        "trust_root",
    ];
    for name in absent {
        answer[name] = Value::Null;
    }
    answer
}

fn text(answer: &Value) -> String {
    let output: Vec<String> = answer["output"].as_array().into_iter().flatten().take(16).map(plain).collect();
    let words = answer["output"].as_array().map_or(0, Vec::len);
    let more = if words > 16 { format!(" ... ({words} words)") } else { String::new() };
    let binding = match answer["input_binding"].as_str() {
        Some("prefix") => {
            "prefix: the output begins with words the submitter fixed; their meaning is the program's claim"
        }
        Some("quorum") => "quorum: more than two thirds of the power re-executed the program on its arguments",
        _ => "none: the output of a finished run (PIE)",
    };
    let security = &answer["security"];
    let fields = [
        ("job", plain(&answer["job_id"])),
        ("program hash", format!("{} ({})", plain(&answer["program_hash"]), plain(&answer["hash_function"]))),
        ("output", format!("{}{more}", output.join(" "))),
        ("input", binding.to_string()),
        ("re-executed", plain(&answer["re_executed"])),
        (
            "security",
            format!(
                "{} bits (queries, conjectured), {} bits (Johnson bound)",
                plain(&security["query_bits"]),
                plain(&security["johnson_bits"])
            ),
        ),
        ("prover", plain(&answer["prover"])),
        ("height", plain(&answer["height"])),
        ("power", format!("{} of {} say valid", plain(&answer["power_signed"]), plain(&answer["power_total"]))),
        ("trust root", plain(&answer["trust_root"])),
    ];
    format!("valid\n{}", lines(&fields))
}
