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

/// What there is to say about a job at one moment.
#[derive(PartialEq)]
struct Moment {
    /// Thousandths of the way.
    permille: u64,
    /// One line.
    line: String,
}

/// Waits until the job is over and, if it completed, until this node has the receipt; returns the last status.
///
/// # Errors
/// When the node does not know the job, or is away for too long; the job itself goes on then.
pub(super) async fn follow(context: &Context, client: &Client, job: JobId) -> Result<Value, Failure> {
    let bar = context.out.is_interactive().then(bar);
    let mut last: Option<String> = None;
    let mut answered = Instant::now();
    let end = loop {
        match client.call::<Value>("job_status", json!([job])).await {
            Ok(status) => {
                answered = Instant::now();
                let moment = describe(&status);
                match &bar {
                    Some(bar) => {
                        bar.set_position(moment.permille);
                        bar.set_message(moment.line);
                    }
                    None if last.as_ref() != Some(&moment.line) => {
                        context.out.note(&moment.line);
                        last = Some(moment.line);
                    }
                    None => {}
                }
                if is_over(&status) {
                    break Ok(status);
                }
            }
            // A submission that is pending is known to the node that took it, in no block yet.
            Err(failure) if is_passing(&failure) && answered.elapsed() < PATIENCE => {}
            Err(failure) if is_passing(&failure) => {
                let hint =
                    format!("the job goes on without this node; ask another one: proofmesh job watch {job} --rpc URL");
                break Err(failure.remedy(hint));
            }
            Err(failure) => break Err(failure),
        }
        tokio::time::sleep(POLL).await;
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    end
}

/// Prints the end of a job; anything but completion is a failure.
///
/// # Errors
/// `job_failed`, `job_expired`, `job_cancelled`.
pub(super) fn finish(context: &Context, answer: &Value, end: &Value) -> Result<(), Failure> {
    if end["status"] == "completed" {
        let job = plain(&end["job_id"]);
        return context.out.answer(answer, |_| {
            format!("completed; fee {}\nreceipt: proofmesh job receipt {job} -o receipt.bin", plain(&end["fee"]))
        });
    }
    let status = plain(&end["status"]);
    let why = if end["error"].is_null() { String::new() } else { format!(": {}", plain(&end["error"])) };
    Err(Failure::error(format!("job_{status}"), format!("the job ended as {status}{why}"))
        .field("status")
        .value(&status)
        .remedy(format!("see: proofmesh job explain {}", plain(&end["job_id"]))))
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
        let context = Context { out: crate::cli::Output::new(true), home };
        let end = json!({"job_id": "ab", "status": "failed", "error": "the program failed"});
        let failure = finish(&context, &end, &end).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.exit), ("job_failed", crate::failure::Exit::Error));
        assert!(failure.message.contains("the program failed"));
    }
}
