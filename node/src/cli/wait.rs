//! Following a job to its end: a bar on a terminal, a line per change otherwise.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::time::Instant;
use types::ids::JobId;

use super::Context;
use super::output::plain;
use crate::client::Client;
use crate::failure::Failure;

/// Time between two questions.
const POLL: Duration = Duration::from_millis(300);
/// A node that does not answer for this long is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time between two looks at whether blocks come.
const QUIET_EVERY: Duration = Duration::from_secs(20);
/// A chain with work has a block every second or so; this long without one is worth a word, seconds.
const QUIET_S: u64 = 20;

/// What there is to say about a job at one moment.
#[derive(PartialEq)]
struct Moment {
    /// Thousandths of the way.
    permille: u64,
    /// One line.
    line: String,
}

/// A job that is followed.
pub(super) struct Followed {
    /// Its id.
    pub(super) job: JobId,
    /// The submission's transaction, if known: by it a job that is in no block yet is known to wait.
    pub(super) tx: Option<String>,
}

impl Followed {
    /// The command that goes on following it.
    pub(super) fn command(&self, client: &Client) -> String {
        let tx = self.tx.as_ref().map(|tx| format!(" --tx {tx}")).unwrap_or_default();
        format!("proofmesh job watch {}{tx} {}", self.job, client.flag())
    }
}

/// Waits until the job is over and, if it completed, until this node has the receipt; returns the last status.
///
/// # Errors
/// When the node does not know the job, or is away for too long, or the wait is interrupted; the job itself goes on then.
pub(super) async fn follow(context: &Context, client: &Client, followed: Followed) -> Result<Value, Failure> {
    let again = followed.command(client);
    let mut view = View { context, bar: context.out.is_interactive().then(bar), last: None };
    let end = tokio::select! {
        end = watch(&mut view, client, &followed) => end,
        _ = tokio::signal::ctrl_c() => {
            Err(Failure::error("interrupted", format!("stopped waiting for job {}", followed.job))
                .field("job_id")
                .value(followed.job)
                .remedy(format!("the job goes on: {again}")))
        }
    };
    if let Some(bar) = view.bar {
        bar.finish_and_clear();
    }
    end
}

/// Where progress is shown.
struct View<'a> {
    context: &'a Context,
    bar: Option<ProgressBar>,
    last: Option<String>,
}

impl View<'_> {
    fn show(&mut self, moment: Moment) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(moment.permille);
                bar.set_message(moment.line);
            }
            None if self.last.as_ref() != Some(&moment.line) => {
                self.context.out.note(&moment.line);
                self.last = Some(moment.line);
            }
            None => {}
        }
    }

    /// A line that stays.
    fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.context.out.note(text)),
            None => self.context.out.note(text),
        }
    }
}

async fn watch(view: &mut View<'_>, client: &Client, followed: &Followed) -> Result<Value, Failure> {
    let job = followed.job;
    let (mut answered, mut known, mut looked) = (Instant::now(), Instant::now(), Instant::now());
    loop {
        match client.call::<Value>("job_status", json!([job])).await {
            Ok(status) => {
                (answered, known) = (Instant::now(), Instant::now());
                view.show(describe(&status));
                if is_over(&status) {
                    return Ok(status);
                }
            }
            Err(failure) if failure.code == "unknown_job" => {
                answered = Instant::now();
                if in_mempool(client, followed.tx.as_deref()).await? {
                    known = Instant::now();
                    view.show(Moment { permille: 0, line: "pending: in no block yet".into() });
                } else if known.elapsed() > PATIENCE {
                    return Err(lost(job, client));
                }
            }
            Err(failure) if is_passing(&failure) && answered.elapsed() < PATIENCE => {}
            Err(failure) if is_passing(&failure) => {
                let hint =
                    format!("the job goes on without this node; ask another one: proofmesh job watch {job} --rpc URL");
                return Err(failure.remedy(hint));
            }
            Err(failure) => return Err(failure),
        }
        if looked.elapsed() > QUIET_EVERY {
            looked = Instant::now();
            if let Some(quiet) = quiet(client).await {
                view.note(&quiet);
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether the submission waits for its block, or is in one that the job follows from.
///
/// # Errors
/// When every node refuses it.
async fn in_mempool(client: &Client, tx: Option<&str>) -> Result<bool, Failure> {
    let Some(tx) = tx else { return Ok(false) };
    match client.call::<Value>("tx_status", json!([tx])).await {
        Ok(status) if status["status"] == "refused" => {
            let reason = plain(&status["reason"]);
            Err(Failure::error("refused", format!("the submission was refused: {reason}")).field("tx_id").value(tx))
        }
        Ok(status) => Ok(matches!(status["status"].as_str(), Some("pending" | "decided"))),
        Err(failure) if is_passing(&failure) => Ok(true),
        Err(failure) => Err(failure),
    }
}

/// Nobody asked knows the submission any more.
fn lost(job: JobId, client: &Client) -> Failure {
    Failure::error(
        "unknown_job",
        format!("job {job} is in no block, and the node does not hold its submission any more"),
    )
    .field("job_id")
    .value(job)
    .limit("a job in the ledger, or a submission that waits for its block")
    .remedy(format!(
        "it was charged only if it is in a block; see: proofmesh job list {}; else submit it again, with the same \
             --idempotency-key if it had one",
        client.flag()
    ))
}

/// What there is to say when blocks do not come: `no block for 60 s, 2 of 4 validators connected`.
pub(super) async fn quiet(client: &Client) -> Option<String> {
    let net: Value = client.call("net_info", json!([])).await.ok()?;
    let seconds = net["block_age_ms"].as_u64()? / 1000;
    let connected = (plain(&net["validators_connected"]), plain(&net["validators"]));
    (seconds >= QUIET_S)
        .then(|| format!("no block for {seconds} s, {} of {} validators connected", connected.0, connected.1))
}

/// Prints the end of a job; anything but completion is a failure.
///
/// # Errors
/// `job_failed`, `job_expired`, `job_cancelled`.
pub(super) fn finish(context: &Context, client: &Client, answer: &Value, end: &Value) -> Result<(), Failure> {
    let (job, flag) = (plain(&end["job_id"]), client.flag());
    if end["status"] == "completed" {
        return context.out.answer(answer, |_| {
            format!("completed; fee {}\nreceipt: proofmesh job receipt {job} -o receipt.bin {flag}", plain(&end["fee"]))
        });
    }
    let status = plain(&end["status"]);
    let why = if end["error"].is_null() { String::new() } else { format!(": {}", plain(&end["error"])) };
    Err(Failure::error(format!("job_{status}"), format!("the job ended as {status}{why}"))
        .field("status")
        .value(&status)
        .remedy(format!("see: proofmesh job explain {job} {flag}")))
}

fn is_over(status: &Value) -> bool {
    match status["status"].as_str() {
        Some("running") | None => false,
        Some("completed") => status["receipt_ready"] == true,
        Some(_) => true,
    }
}

fn is_passing(failure: &Failure) -> bool {
    matches!(
        failure.code.as_str(),
        "unreachable" | "timeout" | "connection" | "unknown_job" | "rate_limited" | "overloaded" | "restarting"
    )
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(1000);
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// The way of a job in thousandths: proving takes the middle, everything else is short.
fn describe(status: &Value) -> Moment {
    let task = &status["tasks"][0];
    let attempt = plain(&task["attempt"]);
    let prover: String = task["prover"].as_str().unwrap_or("-").chars().take(8).collect();
    let rejections = task["rejections"].as_array().map_or(0, Vec::len);
    let again = if rejections > 0 { format!(", {rejections} rejected or void before") } else { String::new() };
    let (permille, line) = match (status["status"].as_str(), task["state"].as_str()) {
        (Some("running"), Some("voting")) => (920, format!("voting on the proof of {prover}{again}")),
        (Some("running"), Some("certified")) => (960, "certified, being settled".to_string()),
        (Some("running"), Some("assigned" | "open")) => match &task["progress"] {
            Value::Object(progress) => {
                let done = progress.get("permille").and_then(Value::as_u64).unwrap_or(0).min(1000);
                let stage = progress.get("stage").map(plain).unwrap_or_default();
                (100 + done * 8 / 10, format!("proving: {stage} (attempt {attempt}, this node){again}"))
            }
            _ if task["state"] == "assigned" => (100, format!("proving by {prover} (attempt {attempt}){again}")),
            _ => (50, format!("waiting for a prover (attempt {attempt}){again}")),
        },
        (Some("running"), _) => (20, format!("accepted, stage {}", plain(&status["stage"]))),
        (Some("completed"), _) if status["receipt_ready"] != true => (990, "completed, fetching the proof".to_string()),
        (Some(other), _) => (1000, other.to_string()),
        (None, _) => (0, "submitted".to_string()),
    };
    Moment { permille, line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_moves_forward_and_only_ends_with_its_receipt() {
        let status = |status: &str, state: &str, ready: bool, progress: Value| {
            json!({"job_id": "ab", "status": status, "stage": "prove", "receipt_ready": ready, "fee": "7", "error": null,
                "tasks": [{"index": 0, "state": state, "attempt": 1, "prover": "0123456789", "progress": progress, "rejections": []}]})
        };
        let way = [
            status("running", "open", false, Value::Null),
            status("running", "assigned", false, Value::Null),
            status("running", "assigned", false, json!({"stage": "fri", "permille": 800})),
            status("running", "voting", false, Value::Null),
            status("running", "certified", false, Value::Null),
            status("completed", "certified", false, Value::Null),
            status("completed", "certified", true, Value::Null),
        ];
        let moments: Vec<Moment> = way.iter().map(describe).collect();
        assert!(moments.is_sorted_by(|a, b| a.permille < b.permille));
        assert!(moments[1].line.contains("01234567") && moments[2].line.contains("fri"));
        assert_eq!(way.iter().map(is_over).collect::<Vec<_>>(), [false, false, false, false, false, false, true]);
        assert!(is_over(&status("failed", "failed", false, Value::Null)));
    }

    #[test]
    fn only_completion_is_success() {
        let home = crate::home::Home::locate(Some(std::path::Path::new("."))).unwrap();
        let context = Context { out: crate::cli::Output::new(true), home, crossings: engine::Crossings::default() };
        let end = json!({"job_id": "ab", "status": "failed", "error": "the program failed"});
        let client = Client::at("http://127.0.0.1:7609").unwrap();
        let failure = finish(&context, &client, &end, &end).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.exit), ("job_failed", crate::failure::Exit::Error));
        assert!(failure.message.contains("the program failed"));
        let remedy = failure.remedy.clone().unwrap();
        assert!(remedy.ends_with("proofmesh job explain ab --rpc http://127.0.0.1:7609"), "{remedy}");
    }

    #[test]
    fn what_is_printed_can_be_copied() {
        let client = Client::at("127.0.0.1:7609").unwrap();
        let job = JobId::new([1; 32]);
        let known = Followed { job, tx: None };
        assert_eq!(known.command(&client), format!("proofmesh job watch {job} --rpc http://127.0.0.1:7609"));
        let pending = Followed { job, tx: Some("cd".into()) };
        assert_eq!(pending.command(&client), format!("proofmesh job watch {job} --tx cd --rpc http://127.0.0.1:7609"));
    }
}
