//! Hostile programs as real jobs on a running network, submitted past the command line: refused with the reason or ended
//! with it, while every node answers, and a good job completes afterwards.

#![allow(clippy::expect_used, reason = "in a helper of a test, too, a failed expectation is a failed test")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cairo_lang_casm::casm;
use cairo_lang_casm::instructions::Instruction;
use prover::sample::{self, SampleHint};
use serde_json::{Value, json};
use testnet::harness::{Cli, Cluster, Options, binary};
use testnet::rpc::Rpc;
use testnet::sender::{Sender, spec_of};
use types::felt::Felt;
use types::job::{HashFunction, OutputRule, ProgramKind};

const MINUTE: Duration = Duration::from_secs(60);
/// A job with four provers that decline twice, or a proof, on a machine that does other things, too.
const JOB: Duration = Duration::from_secs(240);
/// Longest answer of a node that only reads, on such a machine.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Memory of a prover's worker, MiB: a store at offset 10^9 needs ten times as much.
const WORKER_MIB: u32 = 3_000;

/// Name, kind named, program, arguments, field at fault.
type Refused<'a> = (&'a str, ProgramKind, Vec<u8>, Option<Value>, &'a str);
/// Name, program, arguments, step limit, what the reason says.
type Failed<'a> = (&'a str, Vec<u8>, Option<Value>, u64, &'a str);

fn program(instructions: &[Instruction], hints: &[SampleHint<'_>]) -> Vec<u8> {
    sample::cairo0_json(&sample::assemble(instructions), &["output"], hints)
}

fn with_hint(code: &str) -> Vec<u8> {
    let hint = SampleHint { at: 0, code, variables: &[("x", "[cast(fp, felt*)]")] };
    program(&casm! { ap += 1; [ap] = [fp - 3], ap++; ret; }.instructions, &[hint])
}

/// A PIE whose memory unpacks to more than any may.
fn bomb() -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let block = vec![b' '; 1 << 20];
    for name in ["version.json", "metadata.json", "memory.bin"] {
        writer.start_file(name, zip::write::SimpleFileOptions::default()).expect("an entry");
        (0..64).for_each(|_| writer.write_all(&block).expect("written"));
    }
    writer.finish().expect("an archive").into_inner()
}

/// Asks every node for its head, again and again, and keeps the longest time and the first failure.
struct Poll {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<(Duration, usize, Option<String>)>>,
    thread: JoinHandle<()>,
}

impl Poll {
    fn start(nodes: Vec<Rpc>) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new((Duration::ZERO, 0, None))));
        let (stopping, noted) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                for node in &nodes {
                    let since = Instant::now();
                    let answer = node.call("chain_head", &json!([]));
                    let mut seen = noted.lock().expect("no panic under the lock");
                    seen.0 = seen.0.max(since.elapsed());
                    seen.1 += 1;
                    if let Err(error) = answer {
                        seen.2.get_or_insert(format!("{error:#}"));
                    }
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        Self { stop, seen, thread }
    }

    fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the polling thread panicked")?;
        let (longest, answers, failure) = self.seen.lock().expect("no panic under the lock").clone();
        println!("{answers} answers meanwhile, the longest took {} ms", longest.as_millis());
        ensure!(failure.is_none(), "a node did not answer: {failure:?}");
        ensure!(answers > 20 && longest < ANSWER_MAX, "{answers} answers, the longest took {longest:?}");
        Ok(())
    }
}

fn cluster() -> Result<Cluster> {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("hostile-programs");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    let mut options = Options::on_free_ports(4)?;
    options.window_ms = Some(1_500);
    let mut cluster = Cluster::create(Cli::new(binary()?), &dir, &options)?;
    cluster.amend_genesis(|genesis| {
        genesis.params.assignment.attempts_max = 2;
        genesis.params.assignment.window_ms_per_megastep = 10_000;
    })?;
    for node in &cluster.file().nodes {
        let path = node.home.join("config.toml");
        let text = fs::read_to_string(&path)?;
        ensure!(text.contains("#memory_mib = 0"), "the template of config.toml changed");
        fs::write(&path, text.replace("#memory_mib = 0", &format!("memory_mib = {WORKER_MIB}")))?;
    }
    cluster.start_all()?;
    for index in 0..4 {
        cluster.wait_height(index, 1, MINUTE)?;
    }
    Ok(cluster)
}

/// Jobs that no node takes: the submission itself ends with the reason, on the node asked and on the others.
fn refused_at_the_door(cluster: &mut Cluster, nodes: &[Rpc], sender: &Sender, canary: &Path) -> Result<()> {
    let path = canary.display().to_string();
    let tasks =
        json!({"tasks": [{"type": "CairoPiePath", "path": path}], "output_preimage_dump_path": path, "n": path});
    let fibonacci = sample::fibonacci(10);
    let cases: [Refused<'_>; 8] = [
        (
            "load hint",
            ProgramKind::Cairo0,
            with_hint("LOAD_PRIVACY_SIMPLE_BOOTLOADER_INPUT"),
            Some(tasks.clone()),
            "hints",
        ),
        (
            "dump hint",
            ProgramKind::Cairo0,
            with_hint("DUMP_PRIVACY_SIMPLE_BOOTLOADER_OUTPUT_PREIMAGE"),
            Some(tasks.clone()),
            "hints",
        ),
        ("print hint", ProgramKind::Cairo0, with_hint("print(ids.x)"), None, "hints"),
        ("path as arguments", ProgramKind::Cairo0, fibonacci.clone(), Some(json!(path)), "args"),
        ("path as program", ProgramKind::Cairo0, path.clone().into_bytes(), None, "program"),
        ("zip bomb", ProgramKind::Pie, bomb(), None, "version.json"),
        ("other kind", ProgramKind::Cairo1, fibonacci.clone(), None, "kind"),
        ("other hash", ProgramKind::Cairo0, fibonacci, None, "program_hash"),
    ];
    for (name, kind, program, args, field) in cases {
        let args = args.map(|args| args.to_string().into_bytes());
        for bytes in std::iter::once(&program).chain(args.as_ref()) {
            ensure!(nodes[0].send("PUT", "/v1/blobs", bytes)?.0 == 201, "{name}: upload");
        }
        let spec = spec_of(kind, &program, args.as_deref(), 100_000);
        let (id, answer) = sender.submit(&nodes[0], spec)?;
        let data = &answer["error"]["data"];
        ensure!(data["code"] == "input_refused" && data["field"] == field, "{name}: {answer}");
        for part in ["value", "limit"] {
            ensure!(data[part].as_str().is_some_and(|text| !text.is_empty()), "{name}: no {part}: {answer}");
        }
        for (index, node) in nodes.iter().enumerate() {
            // The others look for themselves; until they have, the submission is pending or not yet there.
            cluster.wait(&format!("the refusal of {name} on node {index}"), MINUTE, |_| {
                let status = node.call("tx_status", &json!([id])).ok()?;
                (status["status"] == "refused").then(|| status["reason"].as_str().map(str::to_owned)).flatten()
            })?;
        }
    }
    // Too long for any file: refused while it is sent, and as a specification.
    let huge = vec![b' '; 100 << 20];
    let (status, answer) = nodes[0].send("PUT", "/v1/blobs", &huge)?;
    ensure!(status == 413 && answer["error"]["data"]["limit"] == "33554432", "{status}: {answer}");
    let (_, answer) = sender.submit(&nodes[0], spec_of(ProgramKind::Cairo0, &huge, None, 1_000))?;
    let data = &answer["error"]["data"];
    ensure!(data["code"] == "out_of_bounds" && data["field"] == "program.bytes", "{answer}");
    ensure!(data["value"] == "104857600" && data["limit"] == "1 to 33554432", "{answer}");
    Ok(())
}

/// Jobs that are taken, because nothing is wrong with their files: each ends failed, with the reason.
fn accepted_and_failed(cluster: &mut Cluster, nodes: &[Rpc], sender: &Sender, canary: &Path) -> Result<()> {
    let endless = program(&casm! { jmp rel 0; }.instructions, &[]);
    let offset = 1_000_000_000u64;
    let store = casm! { [ap] = [fp - 3] + offset, ap++; [ap] = 1, ap++; [ap - 1] = [[ap - 2]]; ret; };
    let reader = with_hint("ids.x = program_input['x']");
    let path = json!({"x": canary.display().to_string()});
    let cases: [Failed<'_>; 4] = [
        ("endless loop", endless, None, 300_000, "step limit of 300000 steps"),
        ("10^9 steps", sample::fibonacci(offset / 6), None, 1_000_000, "step limit of 1000000 steps"),
        ("store at 10^9", program(&store.instructions, &[]), None, 1_000, "more memory than they have"),
        ("path in the input", reader, Some(path), 1_000, "a hint of the program failed"),
    ];
    let mut jobs = Vec::new();
    for (name, program, args, max_steps, reason) in cases {
        let args = args.map(|args| args.to_string().into_bytes());
        for bytes in std::iter::once(&program).chain(args.as_ref()) {
            ensure!(nodes[1].send("PUT", "/v1/blobs", bytes)?.0 == 201, "{name}: upload");
        }
        let mut spec = spec_of(ProgramKind::Cairo0, &program, args.as_deref(), max_steps);
        spec.program_hash = prover::inspect(&program, Some(HashFunction::Poseidon))?.program_hash;
        let (_, answer) = sender.submit(&nodes[1], spec)?;
        ensure!(answer["result"]["status"] == "decided", "{name}: {answer}");
        jobs.push((name, answer["result"]["job_id"].as_str().context("job_id")?.to_owned(), reason));
    }
    // The run is good, and its output is not the one that was asked for: found before anything is proven, by every node.
    let good = sample::fibonacci(10);
    ensure!(nodes[1].send("PUT", "/v1/blobs", &good)?.0 == 201, "upload");
    let mut spec = spec_of(ProgramKind::Cairo0, &good, None, 100_000);
    spec.program_hash = prover::inspect(&good, Some(HashFunction::Poseidon))?.program_hash;
    spec.output_rule = OutputRule::Prefix(vec![Felt::from_u128(123_456_789)]);
    let (_, answer) = sender.submit(&nodes[1], spec)?;
    let job = answer["result"]["job_id"].as_str().with_context(|| format!("job_id: {answer}"))?.to_owned();
    jobs.push(("other output", job, "with another output than the job fixes"));
    for (name, job, reason) in jobs {
        let view = cluster.wait_job(2, &job, JOB)?;
        ensure!(view["status"] == "failed", "{name}: {view}");
        ensure!(view["error"].as_str().is_some_and(|error| error.contains(reason)), "{name}: {view}");
        if name == "other output" {
            ensure!(view["fee"] != "0", "its steps were executed: {view}");
        }
        if name == "store at 10^9" {
            ensure!(view["fee"] == "0", "nothing is charged for what nobody could run: {view}");
        }
        let explained = cluster.ask(3, &["job", "explain", &job])?;
        ensure!(explained["summary"].as_str().is_some_and(|summary| summary.contains(reason)), "{name}: {explained}");
    }
    Ok(())
}

#[test]
fn hostile_programs_end_with_their_reason_and_a_good_job_completes() -> Result<()> {
    let mut cluster = cluster()?;
    let canary = cluster.dir().join("canary.json");
    fs::write(&canary, b"{\"tasks\": []}")?;
    let before = (fs::read(&canary)?, fs::metadata(&canary)?.modified()?);
    let urls: Vec<String> = cluster.file().nodes.iter().map(|node| node.rpc.clone()).collect();
    let nodes = urls.iter().map(|url| Rpc::at(url)).collect::<Result<Vec<_>>>()?;
    let sender = Sender::open(&cluster.file().user_key, &cluster.file().genesis_hash)?;
    let poll = Poll::start(nodes.clone());

    refused_at_the_door(&mut cluster, &nodes, &sender, &canary)?;
    accepted_and_failed(&mut cluster, &nodes, &sender, &canary)?;

    let good = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/fibonacci/fibonacci.json").display().to_string();
    let key = cluster.file().user_key.display().to_string();
    let args = r#"{"first": 1, "second": 1, "n": 100}"#;
    let submit = ["job", "submit", &good, "--args", args, "--expect-output-prefix", "1,1,100", "--key", &key];
    let job = cluster.ask(0, &submit)?["job_id"].as_str().context("job_id")?.to_owned();
    let view = cluster.wait_job(3, &job, JOB)?;
    ensure!(view["status"] == "completed", "{view}");
    poll.finish()?;

    ensure!((fs::read(&canary)?, fs::metadata(&canary)?.modified()?) == before, "the canary was touched");
    for node in &cluster.file().nodes {
        let left: Vec<_> = fs::read_dir(node.home.join("work"))?.collect();
        ensure!(left.is_empty(), "{}: the folder of children is not empty: {left:?}", node.name);
    }
    for (index, code) in cluster.stop_all()? {
        ensure!(code == 0, "node {index} drained with {code}");
    }
    Ok(())
}
