//! `job submit`: looks at the program here, uploads it, signs, sends, and waits if asked to.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use prover::limits::STEPS_MAX;
use prover::{Executed, Inspection};
use serde::Deserialize;
use serde_json::{Value, json};
use types::Wire;
use types::blob::blob_hash;
use types::felt::Felt;
use types::ids::{Amount, JobId};
use types::job::{BlobRef, HINT_PROCESSOR_VERSION, JobSpec, OutputRule, PROOF_SYSTEM_VERSION, ProgramKind};
use types::limits::{IDEMPOTENCY_KEY_MAX, OUTPUT_PREFIX_MAX};
use types::transaction::Action;

use super::output::{lines, plain};
use super::tx::{Signer, SigningArgs};
use super::wait::{self, Followed};
use super::{ClientArgs, Context};
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
    args.idempotency_key.as_deref().map_or(Ok(()), check_key)?;
    let signer = Signer::open(context, &args.signing)?;
    let client = Client::of(&context.home, &args.client)?;
    block_on(async {
        // Everything that can be wrong without running the program comes before that takes its time.
        let found = local::inspect(&input, None).await?;
        signer.chain(&client, true).await?;
        let terms = terms(args, max_fee, &client).await?;
        let spec = specify(context, args, (&input, found), prefix, &terms, &client).await?;
        spec.check().map_err(|e| Failure::of_type(Exit::Usage, &e))?;
        upload(&client, &spec, input).await?;
        let signed = signer.sign(&client, Action::SubmitJob(Box::new(spec)), true).await?;
        let mut answer: Value = client.call_slow("job_submit", json!([hex::encode(signed.to_bytes())])).await?;
        let job: JobId = plain(&answer["job_id"])
            .parse()
            .map_err(|_| Failure::error("bad_answer", "job_submit: the answer has no job_id"))?;
        let followed = Followed { job, tx: Some(plain(&answer["tx_id"])) };
        let quiet = match answer["status"].as_str() {
            Some("decided") => None,
            _ => wait::quiet(&client).await,
        };
        if let Some(quiet) = &quiet {
            answer["reason"] = quiet.clone().into();
        }
        let again = followed.command(&client);
        if !args.wait {
            return context
                .out
                .answer(&answer, |answer| format!("{}follow it: {again}", show(answer, quiet.as_deref())));
        }
        context.out.note(show(&answer, quiet.as_deref()).trim_end());
        let end = wait::follow(context, &client, followed).await?;
        let mut object = answer;
        object["job"] = end.clone();
        wait::finish(context, &client, &object, &end)
    })
}

/// The answer to a submission; `quiet` says what keeps blocks from coming.
fn show(answer: &Value, quiet: Option<&str>) -> String {
    let mut fields = vec![("job_id", plain(&answer["job_id"])), ("tx_id", plain(&answer["tx_id"]))];
    fields.push(match answer["status"].as_str() {
        Some("decided") => ("acknowledged", format!("in block {}", plain(&answer["height"]))),
        _ => {
            let why = quiet.map(|quiet| format!(": {quiet}")).unwrap_or_default();
            ("status", format!("{} (in no block yet, so not acknowledged){why}", plain(&answer["status"])))
        }
    });
    lines(&fields)
}

/// What a job may cost and take on this chain, and what of it was chosen.
struct Terms {
    steps_max: u64,
    deadline_ms: u64,
    max_fee: Option<Amount>,
}

/// Checks deadline, step limit and fee as far as they can be before the program's steps are known.
async fn terms(args: &SubmitArgs, max_fee: Option<Amount>, client: &Client) -> Result<Terms, Failure> {
    let limits: Estimate = client.call("job_estimate", json!([1])).await?;
    if let Some(steps) = args.max_steps.filter(|steps| *steps == 0 || *steps > limits.steps_max) {
        return Err(Failure::usage("max-steps is outside the chain's limit")
            .field("max-steps")
            .value(steps)
            .limit(format!("1 to {}", limits.steps_max))
            .remedy("choose --max-steps within the limit"));
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
    let steps = args.max_steps.unwrap_or(1);
    let price: Estimate = if steps == 1 { limits } else { client.call("job_estimate", json!([steps])).await? };
    affordable(max_fee, price.fee, steps)?;
    Ok(Terms { steps_max: price.steps_max, deadline_ms, max_fee })
}

/// Refuses a fee below the price of so many steps.
fn affordable(max_fee: Option<Amount>, price: Amount, steps: u64) -> Result<(), Failure> {
    match max_fee {
        Some(fee) if fee < price => Err(Failure::usage(format!("max-fee is below the price of {steps} steps"))
            .field("max-fee")
            .value(fee)
            .limit(format!("at least {price}"))
            .remedy("raise --max-fee, or lower --max-steps")),
        _ => Ok(()),
    }
}

/// The ledger's rule for idempotency keys.
fn check_key(key: &str) -> Result<(), Failure> {
    if !key.is_empty() && key.len() <= IDEMPOTENCY_KEY_MAX && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Failure::usage("this is no idempotency key")
        .field("idempotency-key")
        .value(key)
        .limit(format!("1 to {IDEMPOTENCY_KEY_MAX} visible ASCII characters"))
        .remedy("choose another --idempotency-key, without spaces"))
}

/// Builds the specification, asking program and node for what was not given.
async fn specify(
    context: &Context,
    args: &SubmitArgs,
    (input, found): (&Input, Inspection),
    prefix: Option<Vec<Felt>>,
    terms: &Terms,
    client: &Client,
) -> Result<JobSpec, Failure> {
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
    let max_steps = match args.max_steps {
        Some(steps) => steps,
        None => {
            context.out.note("running the program here to count its steps (give --max-steps to skip this)");
            let limit = terms.steps_max.min(STEPS_MAX);
            let run = local::execute(input, found.hash_function, limit, COUNT_LIMIT).await;
            let counted = counted(run, limit, &output_rule)?;
            context.out.note(&counted.note);
            counted.steps.min(terms.steps_max)
        }
    };
    let price: Estimate = client.call("job_estimate", json!([max_steps])).await?;
    affordable(terms.max_fee, price.fee, max_steps)?;
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
        max_fee: terms.max_fee.unwrap_or(price.fee),
        deadline_ms: terms.deadline_ms,
        idempotency_key: args.idempotency_key.clone(),
    })
}

/// What a run here says about the step limit.
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    /// Step limit to take.
    steps: u64,
    /// The same for people.
    note: String,
}

/// Takes the step limit from a run here under `limit` steps: runs are alike everywhere, so the count is the limit, rounded up
/// to what is priced, and what fails here would fail there and cost its fee.
///
/// # Errors
/// When the program fails, takes more than `limit` steps, or gives another output than the job would demand.
fn counted(run: Result<Executed, Failure>, limit: u64, rule: &OutputRule) -> Result<Counted, Failure> {
    let uncharged = "nothing was submitted or charged; ";
    match run {
        Ok(run) => {
            if let OutputRule::Prefix(words) = rule
                && !run.output.starts_with(words)
            {
                let shown = |words: &[Felt]| words.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                let begins = run.output.get(..words.len()).unwrap_or(&run.output);
                return Err(Failure::usage(
                    "the program's output on these arguments does not begin with the words named",
                )
                .field("expect-output-prefix")
                .value(shown(words))
                .limit(format!("it begins with {}", shown(begins)))
                .remedy(format!("{uncharged}correct --expect-output-prefix, or the program or its arguments")));
            }
            let steps = run.steps.max(1).div_ceil(1000).saturating_mul(1000);
            Ok(Counted { steps, note: format!("steps: {}", run.steps) })
        }
        Err(failure) if failure.code == "program_failed" && failure.value == Some(limit.to_string()) => {
            Err(Failure::usage(format!("the program takes more than {limit} steps, which is as many as can be proved"))
                .field("steps")
                .value(format!("more than {limit}"))
                .limit(limit)
                .remedy(format!("{uncharged}give it less to do in one job, or split the job")))
        }
        Err(failure) if failure.code == "program_failed" => Err(failure.remedy(format!(
            "{uncharged}correct the program or its arguments, or give --max-steps to submit it as it is"
        ))),
        Err(failure) if matches!(failure.code.as_str(), "resources" | "timeout") => Ok(Counted {
            steps: STEPS_UNKNOWN,
            note: format!(
                "the program can't be run here ({}); taking {STEPS_UNKNOWN} steps as the limit",
                failure.message
            ),
        }),
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
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text).trim();
    // A word left out between two commas is a mistake, not nothing.
    let items: Vec<&str> = match bare.contains(',') {
        true => bare.split(',').map(str::trim).collect(),
        false => bare.split_whitespace().collect(),
    };
    let bare = |item: &str| item.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(item).to_string();
    let felts: Vec<Felt> = items
        .into_iter()
        .map(|item| bare(item).parse())
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
        for text in ["", "[]", "1,x", "-1", "1,,2", "1,2,", ",1", "1, 2 3", "[1", &"1 ".repeat(OUTPUT_PREFIX_MAX + 1)] {
            let failure = parse_felts(text).unwrap_err();
            assert_eq!((failure.exit, failure.field.as_deref()), (Exit::Usage, Some("expect-output-prefix")), "{text}");
        }
    }

    fn ran(steps: u64, output: &[u128]) -> Result<Executed, Failure> {
        let output = output.iter().map(|word| Felt::from_u128(*word)).collect();
        Ok(Executed { program_hash: Felt::from_u128(7), output, steps })
    }

    #[test]
    fn a_count_is_rounded_up_to_what_is_priced() {
        assert_eq!(counted(ran(120_014, &[1]), STEPS_MAX, &OutputRule::Quorum).unwrap().steps, 121_000);
        let gone = Err(Failure::error("timeout", "took longer"));
        let taken = counted(gone, STEPS_MAX, &OutputRule::Quorum).unwrap();
        assert!(taken.steps == STEPS_UNKNOWN && taken.note.contains("took longer"), "{taken:?}");
    }

    #[test]
    fn another_output_than_expected_is_refused_before_it_costs() {
        let rule = |words: &[u128]| OutputRule::Prefix(words.iter().map(|word| Felt::from_u128(*word)).collect());
        for words in [&[5][..], &[5, 6]] {
            assert!(counted(ran(10, &[5, 6]), STEPS_MAX, &rule(words)).is_ok());
        }
        for words in [&[6][..], &[5, 7], &[5, 6, 0]] {
            let failure = counted(ran(10, &[5, 6]), STEPS_MAX, &rule(words)).unwrap_err();
            assert_eq!((failure.exit, failure.field.as_deref()), (Exit::Usage, Some("expect-output-prefix")));
            assert!(failure.limit.as_deref().is_some_and(|limit| limit.contains("0x5")), "{failure}");
            assert!(failure.value.is_some() && failure.remedy.is_some());
        }
    }

    #[test]
    fn a_run_over_the_limit_is_refused_before_it_costs() {
        let over = Err(Failure::error("program_failed", "step limit").field("steps").value(STEPS_MAX));
        let failure = counted(over, STEPS_MAX, &OutputRule::Quorum).unwrap_err();
        assert_eq!((failure.exit, failure.limit.clone()), (Exit::Usage, Some(STEPS_MAX.to_string())));
        let failed = Err(Failure::error("program_failed", "assert").field("steps").value(12));
        let failure = counted(failed, STEPS_MAX, &OutputRule::Quorum).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.value.as_deref()), ("program_failed", Some("12")));
    }

    #[test]
    fn keys_and_fees_are_checked_here() {
        assert_eq!(check_key("order-17"), Ok(()));
        for key in ["", "a b", "\u{e4}", &"x".repeat(IDEMPOTENCY_KEY_MAX + 1)] {
            assert_eq!(check_key(key).unwrap_err().field.as_deref(), Some("idempotency-key"), "{key}");
        }
        assert_eq!(affordable(None, Amount(5), 1), Ok(()));
        assert_eq!(affordable(Some(Amount(5)), Amount(5), 1), Ok(()));
        assert_eq!(affordable(Some(Amount(4)), Amount(5), 1).unwrap_err().field.as_deref(), Some("max-fee"));
    }

    #[test]
    fn a_pending_submission_says_why() {
        let answer = json!({"job_id": "ab", "tx_id": "cd", "status": "pending"});
        let text = show(&answer, Some("no block for 60 s, 2 of 4 validators connected"));
        assert!(text.contains("pending") && text.contains("2 of 4 validators"), "{text}");
    }
}
