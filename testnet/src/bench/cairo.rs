//! Proofs of Cairo programs and their verification: the node's own `bench cairo`, put into the same form.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Entry, Plan};
use crate::harness::Cli;

pub(super) fn measure(plan: &Plan) -> Result<Vec<Entry>> {
    let (steps, runs): (&[&str], &str) = if plan.quick { (&["122000"], "5") } else { (&["122000", "1200000"], "20") };
    let arguments = [&["bench", "cairo", "--runs", runs, "--steps"], steps].concat();
    let answer = Cli::new(&plan.bin).ok(&arguments)?;
    let mut entries = vec![];
    for case in answer["cases"].as_array().context("bench cairo: no cases in the answer")? {
        ensure!(case["verified"] == true, "a proof was not accepted by the strict verifier: {case}");
        let steps = case["steps"].as_u64().context("bench cairo: no steps in a case")?;
        let figure = |name: &str| case[name].as_f64().with_context(|| format!("bench cairo: no {name} in a case"));
        let params = |timed: &str| -> Value {
            let mut params = case.clone();
            if let Some(object) = params.as_object_mut() {
                object.insert("timed".into(), json!(timed));
            }
            params
        };
        let n: usize = runs.parse()?;
        let of = |kind: &str, unit: &str, value: f64, timed: &str| Entry {
            n,
            ..Entry::of_value(&format!("cairo_{kind}_{}k", steps / 1000), unit, value, params(timed))
        };
        let proved =
            of("prove", "ms", figure("total_ms")?, "request to proof that passed the strict check, warm tables");
        entries.push(Entry { p50: Some(proved.value), p99: case["p99_ms"].as_f64(), ..proved });
        entries.push(of("verify", "ms", figure("verify_ms")?, "strict verification of one proof"));
        entries.push(of("proof", "bytes", figure("proof_bytes_zstd")?, "proof in its envelope"));
        entries.push(of("memory", "MiB", figure("peak_rss_bytes")? / f64::from(1 << 20), "largest resident memory"));
    }
    Ok(entries)
}
