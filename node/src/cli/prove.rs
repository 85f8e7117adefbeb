//! `prove`: the same engine as a node's, without a network.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use prover::{ProveRequest, Stage};
use serde_json::json;
use types::blob::blob_hash;
use types::ids::{GenesisHash, JobId};
use types::job::{HINT_PROCESSOR_VERSION, OutputRule, PROOF_SYSTEM_VERSION};
use types::keys::PublicKey;
use types::statement::Statement;

use super::Output;
use super::output::{lines, object_of_pairs, plain};
use crate::client::block_on;
use crate::failure::Failure;
use crate::local::{self, Input};

/// Longest proof.
const PROVE_LIMIT: Duration = Duration::from_secs(4 * 3600);

#[derive(Debug, Args)]
pub(crate) struct ProveArgs {
    /// Program file: compiled Cairo 0 program (JSON), Cairo 1 executable (JSON) or Cairo PIE (zip).
    program: PathBuf,
    /// Arguments: a JSON object (Cairo 0) or a JSON list of felts (Cairo 1), or a file with it; none for a PIE.
    #[arg(long, value_name = "JSON|FILE")]
    args: Option<String>,
    /// File for the proof, in the form that cairo-air reads (ProofFormat::Binary).
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Step limit.
    #[arg(long, value_name = "N", default_value_t = prover::limits::STEPS_MAX)]
    max_steps: u64,
}

pub(super) fn prove(out: Output, args: &ProveArgs) -> Result<(), Failure> {
    let input = Input::read(&args.program, args.args.as_deref())?;
    // Before the work, so that a path that can't be written is told now.
    let draft = Draft::beside(&args.output)?;
    let since = Instant::now();
    let (found, proven) = block_on(async {
        let found = local::inspect(&input, None).await?;
        out.note(&format!("program: {}, hash {}", local::kind_name(found.kind), found.program_hash));
        // No chain, no job, no prover: their places hold zeros, and the proof is bound to that.
        let statement = Statement {
            genesis: GenesisHash::new([0; 32]),
            job: JobId::new([0; 32]),
            task: 0,
            kind: found.kind,
            program_file: blob_hash(&input.program),
            program_hash: found.program_hash,
            hash_function: found.hash_function,
            args: input.args.as_deref().map(blob_hash),
            output_rule: found.pie_output.clone().map_or(OutputRule::Quorum, OutputRule::Exact),
            hint_processor: HINT_PROCESSOR_VERSION,
            proof_system: PROOF_SYSTEM_VERSION,
        };
        let request = ProveRequest {
            statement,
            prover: PublicKey::new([0; 32]),
            program: input.program,
            args: input.args,
            max_steps: args.max_steps,
            memory_limit: None,
        };
        let bar = out.is_interactive().then(bar);
        let proven = local::prove(request, PROVE_LIMIT, |stage| show(out, bar.as_ref(), stage)).await;
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        Ok((found, proven?))
    })?;
    prover::export::stwo_binary(&proven.blob, &draft.file).map_err(|e| Failure::error("export", e.to_string()))?;
    draft.finish(&args.output)?;
    let answer = json!({
        "file": args.output,
        "kind": found.kind,
        "program_hash": found.program_hash,
        "hash_function": found.hash_function,
        "output": proven.output,
        "steps": proven.steps,
        "total_steps": proven.total_steps,
        "total_ms": u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
        "phases_ms": object_of_pairs(&json!(proven.phases_ms)),
        "proof_bytes": proven.proof_bytes,
        "proof_bytes_zstd": proven.blob.len(),
        "verify_us": proven.verify_us,
        "verified": true,
    });
    out.answer(&answer, |answer| {
        let output: Vec<String> = answer["output"].as_array().into_iter().flatten().take(16).map(plain).collect();
        let names = ["file", "program_hash", "steps", "total_ms", "proof_bytes"];
        let mut fields: Vec<(&str, String)> = names.map(|name| (name, plain(&answer[name]))).into();
        fields.push(("output", output.join(" ")));
        format!("proved, and accepted by the strict verifier\n{}", lines(&fields))
    })
}

/// A file beside the one to write, which is left as it is until there is a proof to put in its place.
struct Draft {
    file: File,
    path: PathBuf,
}

impl Draft {
    fn beside(output: &Path) -> Result<Self, Failure> {
        let mut name = output.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".tmp-{}", std::process::id()));
        let path = output.with_file_name(name);
        let file = File::create(&path).map_err(|e| Failure::io(output, "creating", &e).field("output"))?;
        Ok(Self { file, path })
    }

    fn finish(self, output: &Path) -> Result<(), Failure> {
        let written = self.file.sync_all().and_then(|()| std::fs::rename(&self.path, output));
        written.map_err(|e| Failure::io(output, "writing", &e).field("output"))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Gone already when it has been put in its place.
        std::fs::remove_file(&self.path).ok();
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(u64::try_from(Stage::ALL.len()).unwrap_or(0));
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn show(out: Output, bar: Option<&ProgressBar>, stage: Stage) {
    let place = Stage::ALL.iter().position(|known| *known == stage).unwrap_or(0);
    match bar {
        Some(bar) => {
            bar.set_position(u64::try_from(place).unwrap_or(0));
            bar.set_message(stage.name());
        }
        None => out.note(&format!("stage {}", stage.name())),
    }
}
