//! `receipt export`: takes the proof out, so that anyone can check it with the upstream verifier.

use std::fs::File;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use types::Wire;
use types::limits::RECEIPT_BYTES_MAX;
use types::receipt::Receipt;

use super::Output;
use crate::failure::{Exit, Failure};
use crate::files;

#[derive(Debug, Subcommand)]
pub(crate) enum ReceiptCommand {
    /// Write the proof in a form that other tools read.
    Export(ExportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Receipt file.
    receipt: PathBuf,
    /// Form to write.
    #[arg(long, value_enum)]
    format: Format,
    /// File to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Forms of a proof.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// What cairo-air's ProofFormat::Binary reads.
    StwoBinary,
}

pub(super) fn receipt(out: Output, command: &ReceiptCommand) -> Result<(), Failure> {
    let ReceiptCommand::Export(args) = command;
    let bytes = files::read_bounded(&args.receipt, "receipt", RECEIPT_BYTES_MAX as u64)?;
    let receipt = Receipt::from_bytes(&bytes).map_err(|e| Failure::of_type(Exit::Error, &e))?;
    let Format::StwoBinary = args.format;
    let file = File::create(&args.output).map_err(|e| Failure::io(&args.output, "creating", &e).field("output"))?;
    prover::export::stwo_binary(&receipt.proof, &file).map_err(|e| Failure::error("export", e.to_string()))?;
    file.sync_all().map_err(|e| Failure::io(&args.output, "writing", &e))?;
    out.answer(&json!({ "file": args.output, "job_id": receipt.statement.job }), |_| {
        format!("{} (not checked: see proofmesh verify)", args.output.display())
    })
}
