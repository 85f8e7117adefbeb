//! `job submit`: looks at the program here, uploads it, signs, sends, and waits if asked to.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use types::Wire;
use types::blob::blob_hash;
use types::felt::Felt;
use types::ids::{Amount, JobId};
use types::job::{BlobRef, HINT_PROCESSOR_VERSION, JobSpec, OutputRule, PROOF_SYSTEM_VERSION, ProgramKind};
use types::limits::OUTPUT_PREFIX_MAX;
use types::transaction::Action;

use super::output::{lines, plain};
use super::tx::{Signer, SigningArgs};
use super::{ClientArgs, Context, wait};
use crate::client::{Client, block_on};
use crate::failure::{Exit, Failure};
use crate::local::{self, Input};

/// Deadline when none is given, seconds.
const DEADLINE_S: u64 = 3600;
/// Step limit when none is given and the program can't be run here to count them.
const STEPS_UNKNOWN: u64 = 10_000_000;
/// Longest run here for counting steps.
const COUNT_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(super) struct SubmitArgs {
    /// Program file: compiled Cairo 0 program (JSON), Cairo 1 executable (JSON) or Cairo PIE (zip).
    program: PathBuf,
    /// Arguments: a JSON object (program_input, Cairo 0) or a JSON list of felts (Cairo 1), or a file with it; none for a PIE.
    #[arg(long, value_name = "JSON|FILE")]
    args: Option<String>,
    /// Words with which the output must begin, separated by commas; then nobody re-executes the program.
    #[arg(long, value_name = "FELTS", allow_hyphen_values = true)]
    expect_output_prefix: Option<String>,
    /// Most credits that may be charged; the rest of it returns [default: the price of the step limit].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_fee: Option<String>,
    /// The job expires after so many seconds.
    #[arg(long, value_name = "N")]
    deadline_s: Option<u64>,
    /// Step limit: a longer run fails [default: the program is run here first and its steps are counted].
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,
    /// Key of your own choice: submitting again with it gives the same job and charges once.
    #[arg(long, value_name = "K")]
    idempotency_key: Option<String>,
    /// Wait for the job's end and show its stages.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// What the node says about prices and limits.
#[derive(Deserialize)]
struct Estimate {
    fee: Amount,
    steps_max: u64,
    deadline_ms_max: u64,
}

pub(super) fn submit(context: &Context, args: &SubmitArgs) -> Result<(), Failure> {
    let input = Input::read(&args.program, args.args.as_deref())?;
    let prefix = args.expect_output_prefix.as_deref().map(parse_felts).transpose()?;
    let max_fee: Option<Amount> = args
        .max_fee
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|e| Failure::of_type(Exit::Usage, &e).field("max-fee"))?;
    let signer = Signer::open(context, &args.signing)?;
    let client = Client::of(&context.home, &args.client)?;
    block_on(async {
        let spec = specify(context, args, &input, prefix, max_fee, &client).await?;
        spec.check().map_err(|e| Failure::of_type(Exit::Usage, &e))?;
        upload(&client, &spec, input).await?;
        let signed = signer.sign(&client, Action::SubmitJob(Box::new(spec)), true).await?;
        let answer: Value = client.call_slow("job_submit", json!([hex::encode(signed.to_bytes())])).await?;
        if !args.wait {
            return context.out.answer(&answer, show);
        }
        context.out.note(show(&answer).trim_end());
        let job: JobId = plain(&answer["job_id"])
            .parse()
            .map_err(|_| Failure::error("bad_answer", "job_submit: the answer has no job_id"))?;
        let end = wait::follow(context, &client, job).await?;
        let mut object = answer;
        object["job"] = end.clone();
        wait::finish(context, &object, &end)
    })
}

fn show(answer: &Value) -> String {
    let mut fields = vec![("job_id", plain(&answer["job_id"])), ("tx_id", plain(&answer["tx_id"]))];
    fields.push(match answer["status"].as_str() {
        Some("decided") => ("acknowledged", format!("in block {}", plain(&answer["height"]))),
        _ => ("status", format!("{} (not acknowledged yet)", plain(&answer["status"]))),
    });
    lines(&fields)
}

/// Builds the specification, asking program and node for what was not given.
async fn specify(
    context: &Context,
    args: &SubmitArgs,
    input: &Input,
    prefix: Option<Vec<Felt>>,
    max_fee: Option<Amount>,
    client: &Client,
) -> Result<JobSpec, Failure> {
    let found = local::inspect(input, None).await?;
    context.out.note(&format!("program: {}, hash {}", local::kind_name(found.kind), found.program_hash));
    let output_rule = match (found.kind, found.pie_output, prefix) {
        (ProgramKind::Pie, _, Some(_)) => {
            return Err(Failure::usage("a PIE's output is fixed already")
                .field("expect-output-prefix")
                .value("given")
                .limit("none for a PIE")
                .remedy("leave --expect-output-prefix out"));
        }
        (ProgramKind::Pie, output, None) => OutputRule::Exact(output.unwrap_or_default()),
        (_, _, Some(words)) => OutputRule::Prefix(words),
        (_, _, None) => OutputRule::Quorum,
    };
    let limits: Estimate = client.call("job_estimate", json!([1])).await?;
    let max_steps = match args.max_steps {
        Some(steps) => steps,
        None => count_steps(context, input, found.hash_function, limits.steps_max).await?,
    };
    if max_steps > limits.steps_max {
        return Err(Failure::usage("max-steps is over the chain's limit")
            .field("max-steps")
            .value(max_steps)
            .limit(limits.steps_max)
            .remedy("lower --max-steps"));
    }
    let deadline_ms = match args.deadline_s {
        Some(seconds) => seconds.saturating_mul(1000),
        None => (DEADLINE_S * 1000).min(limits.deadline_ms_max),
    };
    if deadline_ms == 0 || deadline_ms > limits.deadline_ms_max {
        return Err(Failure::usage("deadline-s is outside the chain's limit")
            .field("deadline-s")
            .value(deadline_ms / 1000)
            .limit(format!("1 to {}", limits.deadline_ms_max / 1000))
            .remedy("choose --deadline-s within the limit"));
    }
    let price: Estimate = client.call("job_estimate", json!([max_steps])).await?;
    let max_fee = match max_fee {
        Some(fee) if fee < price.fee => {
            return Err(Failure::usage(format!("max-fee is below the price of {max_steps} steps"))
                .field("max-fee")
                .value(fee)
                .limit(format!("at least {}", price.fee))
                .remedy("raise --max-fee, or lower --max-steps"));
        }
        Some(fee) => fee,
        None => price.fee,
    };
    Ok(JobSpec {
        kind: found.kind,
        program: blob_ref(&input.program),
        program_hash: found.program_hash,
        hash_function: found.hash_function,
        args: input.args.as_deref().map(blob_ref),
        output_rule,
        hint_processor: HINT_PROCESSOR_VERSION,
        proof_system: PROOF_SYSTEM_VERSION,
        max_steps,
        max_fee,
        deadline_ms,
        idempotency_key: args.idempotency_key.clone(),
    })
}

/// Runs the program here and counts: runs are alike everywhere, so the count is the limit, rounded up to what is priced.
async fn count_steps(
    context: &Context,
    input: &Input,
    hash: types::job::HashFunction,
    steps_max: u64,
) -> Result<u64, Failure> {
    context.out.note("running the program here to count its steps (give --max-steps to skip this)");
    match local::execute(input, hash, steps_max, COUNT_LIMIT).await {
        Ok(run) => {
            context.out.note(&format!("steps: {}", run.steps));
            Ok(run.steps.max(1).div_ceil(1000).saturating_mul(1000).min(steps_max))
        }
        Err(failure) if failure.code == "program_failed" => {
            Err(failure.remedy("nothing was submitted or charged; correct the program or its arguments, or give --max-steps to submit it as it is"))
        }
        Err(failure) if matches!(failure.code.as_str(), "resources" | "timeout") => {
            let steps = STEPS_UNKNOWN.min(steps_max);
            context.out.note(&format!("the program can't be run here ({}); taking {steps} steps as the limit", failure.message));
            Ok(steps)
        }
        Err(failure) => Err(failure),
    }
}

fn blob_ref(bytes: &[u8]) -> BlobRef {
    BlobRef { hash: blob_hash(bytes), bytes: bytes.len() as u64 }
}

async fn upload(client: &Client, spec: &JobSpec, input: Input) -> Result<(), Failure> {
    let blobs = std::iter::once((spec.program, input.program)).chain(spec.args.zip(input.args));
    for (expected, bytes) in blobs {
        let stored = client.put_blob(bytes).await?;
        if stored != expected.hash {
            return Err(Failure::error("bad_answer", "the node stored other bytes than were sent")
                .field("hash")
                .value(stored)
                .limit(expected.hash));
        }
    }
    Ok(())
}

/// Words separated by commas or spaces, or a JSON list of texts.
fn parse_felts(text: &str) -> Result<Vec<Felt>, Failure> {
    let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
    let items = bare.split([',', ' ']).map(|item| item.trim().trim_matches('"')).filter(|item| !item.is_empty());
    let felts: Vec<Felt> = items
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(|e| Failure::of_type(Exit::Usage, &e).field("expect-output-prefix"))?;
    if felts.is_empty() || felts.len() > OUTPUT_PREFIX_MAX {
        return Err(Failure::usage("expect-output-prefix: wrong number of words")
            .field("expect-output-prefix")
            .value(felts.len())
            .limit(format!("1 to {OUTPUT_PREFIX_MAX} words"))
            .remedy("write for example: --expect-output-prefix 1,0xff"));
    }
    Ok(felts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn felts_in_every_form() {
        let expected = vec![Felt::from_u128(1), Felt::from_u128(255)];
        for text in ["1,255", "1 0xff", "[1, 255]", "[\"0x1\",\"0xff\"]"] {
            assert_eq!(parse_felts(text).unwrap(), expected, "{text}");
        }
        for text in ["", "[]", "1,x", "-1", &"1,".repeat(OUTPUT_PREFIX_MAX + 1)] {
            let failure = parse_felts(text).unwrap_err();
            assert_eq!((failure.exit, failure.field.as_deref()), (Exit::Usage, Some("expect-output-prefix")), "{text}");
        }
    }
}
