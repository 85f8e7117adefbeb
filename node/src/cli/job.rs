//! `job status|watch|list|cancel|explain|receipt`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use types::Wire;
use types::ids::{JobId, TxId};
use types::keys::PublicKey;
use types::transaction::Action;

use super::output::{lines, plain, table};
use super::submit::{self, SubmitArgs};
use super::tx::{Signer, SigningArgs};
use super::wait::{self, Followed};
use super::{ClientArgs, Context};
use crate::client::{Client, block_on};
use crate::failure::{Exit, Failure};
use crate::files;

#[derive(Debug, Subcommand)]
pub(super) enum JobCommand {
    /// Submit a program to be proved.
    Submit(Box<SubmitArgs>),
    /// How far a job is.
    Status(JobArgs),
    /// Follow a job to its end.
    Watch(WatchArgs),
    /// List jobs, newest first.
    List(ListArgs),
    /// Withdraw an own job that has no proof in voting.
    Cancel(CancelArgs),
    /// Say why a job waits, or how it ended.
    Explain(JobArgs),
    /// Take the receipt of a completed job.
    Receipt(ReceiptArgs),
}

#[derive(Debug, Args)]
pub(super) struct JobArgs {
    /// Job id.
    id: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// Job id.
    id: String,
    /// The submission's transaction id: then a job that is in no block yet is waited for, too.
    #[arg(long, value_name = "TX_ID")]
    tx: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StatusFilter {
    Running,
    Completed,
    Failed,
    Expired,
    Cancelled,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only jobs of this account (public key).
    #[arg(long, value_name = "KEY")]
    sender: Option<String>,
    /// Only jobs with this status.
    #[arg(long)]
    status: Option<StatusFilter>,
    /// Cursor of the page before, to go on behind it.
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
    /// Most jobs to list.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(super) struct CancelArgs {
    /// Job id.
    id: String,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(super) struct ReceiptArgs {
    /// Job id.
    id: String,
    /// File to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Height of a change of the validator set that the reader trusts: the receipt begins there, and is verified with
    /// that block as --checkpoint. Without it the receipt begins at genesis.
    #[arg(long, value_name = "HEIGHT", default_value_t = 0)]
    since: u64,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn job(context: &Context, command: &JobCommand) -> Result<(), Failure> {
    match command {
        JobCommand::Submit(args) => submit::submit(context, args),
        JobCommand::Status(args) => status(context, args),
        JobCommand::Watch(args) => watch(context, args),
        JobCommand::List(args) => list(context, args),
        JobCommand::Cancel(args) => cancel(context, args),
        JobCommand::Explain(args) => explain(context, args),
        JobCommand::Receipt(args) => receipt(context, args),
    }
}

fn job_id(text: &str) -> Result<JobId, Failure> {
    text.parse().map_err(|e| Failure::of_type(Exit::Usage, &e))
}

fn ask(context: &Context, args: &JobArgs, method: &str) -> Result<Value, Failure> {
    let id = job_id(&args.id)?;
    block_on(Client::of(&context.home, &args.client)?.call(method, json!([id])))
}

fn watch(context: &Context, args: &WatchArgs) -> Result<(), Failure> {
    let (job, client) = (job_id(&args.id)?, Client::of(&context.home, &args.client)?);
    let tx: Option<TxId> =
        args.tx.as_deref().map(str::parse).transpose().map_err(|e| Failure::of_type(Exit::Usage, &e))?;
    let followed = Followed { job, tx: tx.map(|tx| tx.to_string()) };
    let end = block_on(async {
        if followed.tx.is_none() {
            // A job that nobody knows is told at once, not waited for.
            client.call::<Value>("job_status", json!([job])).await?;
        }
        wait::follow(context, &client, followed).await
    })?;
    wait::finish(context, &client, &end, &end)
}

fn status(context: &Context, args: &JobArgs) -> Result<(), Failure> {
    let (id, client) = (job_id(&args.id)?, Client::of(&context.home, &args.client)?);
    let (job, net) = block_on(async {
        let job: Value = client.call("job_status", json!([id])).await?;
        // Without it the job's own words remain.
        Ok((job, client.call::<Value>("net_info", json!([])).await.unwrap_or_default()))
    })?;
    context.out.answer(&job, |job| {
        let stalled = net["stalled"].as_str().filter(|_| job["status"] == "running");
        let money = if job["status"] == "running" { "escrow" } else { "fee" };
        let names = ["job_id", "status", "stage", "submitted_height", "deadline_ms", money, "error", "receipt_ready"];
        let mut text = stalled.map(|stalled| format!("{stalled}\n")).unwrap_or_default();
        text += &lines(&names.map(|name| (name, plain(&job[name]))));
        let columns = ["index", "kind", "state", "attempt", "rank", "prover"];
        let rows: Vec<Vec<String>> = job["tasks"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|task| columns.iter().map(|column| plain(&task[*column])).collect())
            .collect();
        text.push_str(&table(&columns, &rows));
        text
    })
}

fn list(context: &Context, args: &ListArgs) -> Result<(), Failure> {
    let sender: Option<PublicKey> =
        args.sender.as_deref().map(str::parse).transpose().map_err(|e| Failure::of_type(Exit::Usage, &e))?;
    let status = args.status.and_then(|s| s.to_possible_value()).map(|s| s.get_name().to_string());
    let params = json!({ "sender": sender, "status": status, "after": args.after, "limit": args.limit });
    let jobs: Value = block_on(Client::of(&context.home, &args.client)?.call("job_list", params))?;
    context.out.answer(&jobs, |page| {
        let columns = ["job_id", "status", "stage", "submitted_height", "fee", "receipt_ready"];
        let rows: Vec<Vec<String>> = page["jobs"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|job| columns.iter().map(|column| plain(&job[*column])).collect())
            .collect();
        let more = match &page["cursor"] {
            Value::String(cursor) => format!("more: the same command with --after {cursor}\n"),
            _ => String::new(),
        };
        if rows.is_empty() { "no jobs".into() } else { format!("{}{more}", table(&columns, &rows)) }
    })
}

fn cancel(context: &Context, args: &CancelArgs) -> Result<(), Failure> {
    let job = job_id(&args.id)?;
    let signer = Signer::open(context, &args.signing)?;
    let client = Client::of(&context.home, &args.client)?;
    block_on(async {
        let signed = signer.sign(&client, Action::CancelJob { job }, true).await?;
        let answer: Value = client.call_slow("job_cancel", json!([hex::encode(signed.to_bytes())])).await?;
        context.out.answer(&answer, |answer| {
            lines(&[("tx_id", plain(&answer["tx_id"])), ("status", plain(&answer["status"]))])
        })
    })
}

fn explain(context: &Context, args: &JobArgs) -> Result<(), Failure> {
    let answer = ask(context, args, "job_explain")?;
    context.out.answer(&answer, |answer| {
        let mut text = format!("{}\n", plain(&answer["summary"]));
        for reason in answer["reasons"].as_array().into_iter().flatten() {
            text.push_str(&format!("- {}\n", plain(reason)));
        }
        let columns = ["rank", "prover", "eligible_now", "note"];
        let rows: Vec<Vec<String>> = answer["ranks"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|rank| columns.iter().map(|column| plain(&rank[*column])).collect())
            .collect();
        if !rows.is_empty() {
            text.push_str(&table(&columns, &rows));
        }
        text
    })
}

fn receipt(context: &Context, args: &ReceiptArgs) -> Result<(), Failure> {
    let id = job_id(&args.id)?;
    let client = Client::of(&context.home, &args.client)?;
    let answer: Value = block_on(client.call_slow("job_receipt", json!([id, args.since])))?;
    let bytes = answer["receipt"]
        .as_str()
        .and_then(|digits| hex::decode(digits).ok())
        .ok_or_else(|| Failure::error("bad_answer", "job_receipt: the answer has no receipt in hex"))?;
    // What is kept must at least be a receipt of this job; whether it is valid is for `verify` to say.
    let read = types::receipt::Receipt::from_bytes(&bytes).map_err(|e| Failure::of_type(Exit::Error, &e))?;
    if read.statement.job != id {
        return Err(Failure::error("bad_answer", "the node handed out the receipt of another job")
            .field("job_id")
            .value(read.statement.job)
            .limit(id));
    }
    files::replace(&args.output, &bytes)?;
    let answer = json!({ "job_id": id, "file": args.output, "bytes": bytes.len() });
    // The home's document, if it is this chain's; else the reader knows where theirs is.
    let own = context.home.genesis().ok().filter(|own| own.hash() == read.genesis);
    let genesis = own.map_or("FILE".to_string(), |_| context.home.genesis_file().display().to_string());
    context.out.answer(&answer, |_| {
        let file = args.output.display();
        format!("{file} ({} bytes)\ncheck it: proofmesh verify {file} --genesis {genesis}", bytes.len())
    })
}
