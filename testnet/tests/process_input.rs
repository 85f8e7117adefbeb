//! Bad input to a running node, by JSON-RPC as raw bytes and by the command line: each is refused with its stable code,
//! field, value, limit and remedy, nothing is charged, and the node goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testnet::harness::{Cli, Cluster, Options, binary};
use testnet::rpc::{Refusal, Rpc};
use testnet::sender::{Sender, hex_of, spec_of};
use types::ids::{Amount, GenesisHash, TimeMs};
use types::job::{HashFunction, JobSpec, OutputRule, ProgramKind};
use types::keys::{PublicKey, SecretKey};
use types::transaction::Action;

const MINUTE: Duration = Duration::from_secs(60);
/// A proof on a machine that does other things, too.
const JOB: Duration = Duration::from_secs(240);

/// A network of one node, and a user of it.
struct Stage {
    cluster: Cluster,
    node: Rpc,
    sender: Sender,
    key: String,
}

impl Stage {
    fn start() -> Result<Self> {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bad-input");
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        let mut cluster = Cluster::create(Cli::new(binary()?), &dir, &Options::on_free_ports(1)?)?;
        cluster.start_all()?;
        cluster.wait_height(0, 1, MINUTE)?;
        let node = Rpc::at(&cluster.node(0)?.rpc)?;
        let sender = Sender::open(&cluster.file().user_key, &cluster.file().genesis_hash)?;
        let key = cluster.file().user_key.display().to_string();
        Ok(Self { cluster, node, sender, key })
    }

    fn balance(&self) -> Result<u128> {
        let answer = self.node.call("account_balance", &json!([self.sender.key().public()]))?;
        Ok(answer["balance"].as_str().context("balance")?.parse()?)
    }

    /// The command line's refusal; it must have all its parts, the remedy as a field or in the message.
    fn command(&self, arguments: &[&str], exit: i32, code: &str, field: &str) -> Result<Value> {
        let rpc = self.cluster.node(0)?.rpc.clone();
        let (found, answer, _) = self.cluster.cli().run(&[arguments, &["--rpc", &rpc]].concat())?;
        let error = answer["error"].clone();
        ensure!(found == exit && error["code"] == code && error["field"] == field, "{arguments:?}: {found} {answer}");
        complete(&error, &error).with_context(|| format!("{arguments:?}"))?;
        Ok(error)
    }

    /// A call's refusal.
    fn call(&self, method: &str, params: &Value, number: i64, code: &str, field: &str) -> Result<Value> {
        let error = self.node.refused(method, params)?;
        let data = &error["data"];
        let fits = error["code"] == number && data["code"] == code && data["field"] == field;
        ensure!(fits, "{method}: expected {number} {code} {field}: {error}");
        complete(data, &error).with_context(|| method.to_owned())?;
        Ok(error)
    }

    /// The refusal of a transaction.
    fn transaction(&self, method: &str, bytes: &str, code: &str, field: &str) -> Result<Value> {
        self.call(method, &json!({"tx": bytes}), -32020, code, field)
    }
}

/// Words with which the node tells somebody what to do.
const REMEDIES: &[&str] = &[
    "ask", "attest", "change", "check", "choose", "collect", "compile", "correct", "declare", "end", "fund", "give",
    "go", "keep", "let", "lock", "make", "name", "offer", "open", "raise", "register", "remove", "send", "shorten",
    "sign", "submit", "try", "update", "upload", "use", "wait", "write",
];

/// A clause after the first that begins with what to do: "nonce is 3, the limit is 5; sign again with the next one".
fn remedy_in(message: &str) -> Option<&str> {
    let does = |clause: &&str| {
        let first = clause.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        REMEDIES.contains(&first) && clause.len() > first.len()
    };
    message.split("; ").skip(1).find(does)
}

#[test]
fn a_remedy_is_told_from_another_clause() {
    assert_eq!(remedy_in("to is 5; the limit is 3; choose less; then go"), Some("choose less"));
    for none in ["choose less", "it is 5; it must be 3", "it is 5; ask", "it is 5; asked too often", "5;send it"] {
        assert_eq!(remedy_in(none), None, "{none}");
    }
}

/// Value and limit are there, and the remedy, as a field or in the message.
fn complete(data: &Value, error: &Value) -> Result<()> {
    for part in ["value", "limit"] {
        ensure!(data[part].as_str().is_some_and(|text| !text.is_empty()), "no {part}: {error}");
    }
    let message = error["message"].as_str().unwrap_or_default();
    let remedy = error["remedy"].as_str().is_some_and(|text| !text.is_empty()) || remedy_in(message).is_some();
    ensure!(remedy, "no remedy: {error}");
    Ok(())
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name)
}

/// Transactions that no ledger takes.
fn transactions(stage: &Stage) -> Result<()> {
    let sender = &stage.sender;
    let pay = |amount: u128| Action::Transfer { to: PublicKey::new([7; 32]), amount: Amount(amount) };
    // One that is taken, so that its nonce is used.
    let first = sender.sign(&stage.node, pay(5))?;
    let taken = stage.node.call("tx_submit", &json!({"tx": hex_of(&first)}))?;
    ensure!(taken["status"] == "decided", "{taken}");
    let again = stage.node.call("tx_submit", &json!({"tx": hex_of(&first)}))?;
    ensure!(again["status"] == "decided" && again["height"] == taken["height"], "the same again is no error: {again}");
    let (nonce, before) = (sender.nonce(&stage.node)?, stage.balance()?);

    let reused = sender.content(nonce - 1, pay(6))?.sign(sender.key());
    let error = stage.transaction("tx_submit", &hex_of(&reused), "nonce_used", "nonce")?;
    ensure!(error["data"]["limit"] == format!("next is {nonce}"), "{error}");
    let gap = sender.content(nonce + 3, pay(6))?.sign(sender.key());
    stage.transaction("tx_submit", &hex_of(&gap), "nonce_gap", "nonce")?;
    let mut other = sender.content(nonce, pay(6))?;
    other.genesis = GenesisHash::new([9; 32]);
    let error = stage.transaction("tx_submit", &hex_of(&other.sign(sender.key())), "wrong_chain", "genesis")?;
    ensure!(error["data"]["limit"] == stage.cluster.file().genesis_hash.as_str(), "{error}");
    let forged = sender.content(nonce, pay(6))?.sign(&SecretKey::from_seed([1; 32]));
    stage.transaction("tx_submit", &hex_of(&forged), "bad_signature", "signature")?;
    let mut expired = sender.content(nonce, pay(6))?;
    expired.expires_ms = TimeMs(1);
    let expired = hex_of(&expired.sign(sender.key()));
    stage.transaction("tx_submit", &expired, "tx_expired", "expires_ms")?;
    let mut far = sender.content(nonce, pay(6))?;
    far.expires_ms = far.expires_ms.plus(48 * 3_600_000);
    stage.transaction("tx_submit", &hex_of(&far.sign(sender.key())), "expiry_too_far", "expires_ms")?;
    let nothing = sender.content(nonce, pay(0))?.sign(sender.key());
    stage.transaction("tx_submit", &hex_of(&nothing), "out_of_bounds", "amount")?;
    let rich = sender.content(nonce, pay(1 << 100))?.sign(sender.key());
    stage.transaction("tx_submit", &hex_of(&rich), "insufficient_balance", "amount")?;

    let good = hex_of(&sender.content(nonce, pay(6))?.sign(sender.key()));
    let cut = good.get(..good.len() - 2).context("cut")?;
    for bad in ["", "zz", "00", cut, &format!("{good}00"), &"ab".repeat((64 << 10) + 1)] {
        stage.call("tx_submit", &json!({"tx": bad}), -32602, "invalid_params", "tx")?;
    }
    stage.call("job_submit", &json!({"tx": good}), -32602, "invalid_params", "tx")?;
    stage.call("job_cancel", &json!({"tx": good}), -32602, "invalid_params", "tx")?;
    stage.call("tx_submit", &json!({"tx": good, "wait_ms": 60_001}), -32602, "invalid_params", "wait_ms")?;

    let to = "07".repeat(32);
    let used = (nonce - 1).to_string();
    let key = ["--key", stage.key.as_str()];
    let with = |more: &[&str]| -> Vec<String> {
        ["tx", "transfer", &to, "6"].iter().chain(&key).chain(more).map(|word| (*word).to_owned()).collect()
    };
    let run = |words: Vec<String>, exit, code, field| {
        stage.command(&words.iter().map(String::as_str).collect::<Vec<_>>(), exit, code, field)
    };
    run(with(&["--nonce", &used]), 1, "nonce_used", "nonce")?;
    run(with(&["--chain-id", "another"]), 1, "chain", "chain-id")?;
    let file = stage.cluster.dir().join("expired.json").display().to_string();
    fs::write(&file, json!({"tx": expired}).to_string())?;
    run(["tx", "send", &file].map(str::to_owned).into(), 1, "tx_expired", "expires_ms")?;
    ensure!(stage.balance()? == before, "nothing refused was charged");
    Ok(())
}

/// The specification of the example program, ready to be taken.
fn good_spec(stage: &Stage, n: u64) -> Result<JobSpec> {
    let program = fs::read(example("fibonacci/fibonacci.json"))?;
    let args = json!({"first": 1, "second": 1, "n": n}).to_string().into_bytes();
    for bytes in [&program, &args] {
        ensure!(stage.node.send("PUT", "/v1/blobs", bytes)?.0 == 201, "upload");
    }
    let mut spec = spec_of(ProgramKind::Cairo0, &program, Some(&args), 5_000);
    spec.program_hash = prover::inspect(&program, Some(HashFunction::Poseidon))?.program_hash;
    Ok(spec)
}

/// A job and a payment signed with one nonce: while the job's input is looked at the payment comes, one of the two is decided,
/// and whoever waits for the other is told why it never will be.
fn contest(stage: &Stage) -> Result<()> {
    let spec = good_spec(stage, 30)?;
    let nonce = stage.sender.nonce(&stage.node)?;
    let sign = |action| Ok::<_, anyhow::Error>(hex_of(&stage.sender.content(nonce, action)?.sign(stage.sender.key())));
    let job = sign(Action::SubmitJob(Box::new(spec)))?;
    let payment = sign(Action::Transfer { to: PublicKey::new([7; 32]), amount: Amount(5) })?;
    let ask = |method: &str, tx: &str| stage.node.try_call(method, &json!({"tx": tx}));
    let (job, payment) = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ask("job_submit", &job));
        // The job arrives first and is not ready for a block yet.
        std::thread::sleep(Duration::from_millis(20));
        let payment = ask("tx_submit", &payment);
        (waiting.join(), payment)
    });
    let outcomes = [job.map_err(|_| anyhow::anyhow!("the thread panicked"))??, payment?];
    println!("one nonce for two: {outcomes:?}");
    let decided = |o: &&Result<Value, Refusal>| o.as_ref().is_ok_and(|answer| answer["status"] == "decided");
    let refused = |o: &&Result<Value, Refusal>| o.as_ref().is_err_and(|refusal| refusal.code == "nonce_used");
    let (won, lost) = (outcomes.iter().filter(decided).count(), outcomes.iter().filter(refused).count());
    ensure!((won, lost) == (1, 1), "one nonce for two: {outcomes:?}");
    Ok(())
}

/// Jobs that no ledger takes; returns the id of one that it did take.
fn jobs(stage: &mut Stage) -> Result<String> {
    let before = stage.balance()?;
    type Change = fn(&mut JobSpec);
    let cases: [(&str, &str, Change); 12] = [
        ("fee_too_low", "max_fee", |s| s.max_fee = Amount(1)),
        ("insufficient_balance", "max_fee", |s| s.max_fee = Amount(1 << 100)),
        ("out_of_bounds", "max_steps", |s| s.max_steps = 1_000_000_000),
        ("out_of_bounds", "max_steps", |s| s.max_steps = 0),
        ("out_of_bounds", "deadline_ms", |s| s.deadline_ms = 48 * 3_600_000),
        ("out_of_bounds", "output_rule", |s| s.output_rule = OutputRule::Prefix(vec![])),
        ("out_of_bounds", "idempotency_key", |s| s.idempotency_key = Some("k".repeat(65))),
        ("out_of_bounds", "proof_system", |s| s.proof_system = 2),
        ("out_of_bounds", "hint_processor", |s| s.hint_processor = 9),
        ("out_of_bounds", "program.bytes", |s| s.program.bytes = 0),
        ("blob_length", "args.bytes", |s| s.args = s.args.map(|a| types::job::BlobRef { bytes: a.bytes + 1, ..a })),
        ("input_refused", "args", |s| s.kind = ProgramKind::Cairo1),
    ];
    let good = good_spec(stage, 20)?;
    for (code, field, change) in cases {
        let mut spec = good.clone();
        change(&mut spec);
        let (_, answer) = stage.sender.submit(&stage.node, spec)?;
        let data = &answer["error"]["data"];
        ensure!(data["code"] == code && data["field"] == field, "expected {code} {field}: {answer}");
        complete(data, &answer["error"])?;
    }
    let mut unknown = good.clone();
    unknown.program.hash = types::ids::BlobHash::new([3; 32]);
    let (_, answer) = stage.sender.submit(&stage.node, unknown)?;
    let error = &answer["error"];
    ensure!(error["code"] == -32021 && error["data"]["code"] == "unknown_blob", "{answer}");
    ensure!(error["message"].as_str().is_some_and(|text| text.contains("PUT /v1/blobs")), "{answer}");
    complete(&error["data"], error)?;
    ensure!(stage.balance()? == before, "nothing refused was charged");

    // Taken once; the same again is the same job; other content under the same key is an error.
    let keyed = JobSpec { idempotency_key: Some("once".into()), ..good };
    let (_, first) = stage.sender.submit(&stage.node, keyed.clone())?;
    let job = first["result"]["job_id"].as_str().with_context(|| first.to_string())?.to_owned();
    let charged = stage.balance()?;
    let (_, second) = stage.sender.submit(&stage.node, keyed.clone())?;
    ensure!(second["result"]["job_id"] == job.as_str(), "{second}");
    let other = JobSpec { max_steps: keyed.max_steps + 1_000, ..keyed };
    let (_, conflict) = stage.sender.submit(&stage.node, other)?;
    let data = &conflict["error"]["data"];
    ensure!(data["code"] == "idempotency_conflict" && data["field"] == "idempotency_key", "{conflict}");
    ensure!(data["value"] == "once" && data["limit"].as_str().is_some_and(|l| l.contains(&job)), "{conflict}");
    complete(data, &conflict["error"])?;
    ensure!(stage.node.call("job_status", &json!([job]))?["status"] != "failed", "the first one lives");

    let program = example("fibonacci/fibonacci.json").display().to_string();
    let submit = ["job", "submit", &program, "--args", r#"{"first": 1, "second": 1, "n": 21}"#, "--key", &stage.key];
    let with = |more: &[&'static str]| [submit.as_slice(), more].concat();
    stage.command(&with(&["--idempotency-key", "once"]), 1, "idempotency_conflict", "idempotency_key")?;
    stage.command(&with(&["--max-fee", "1"]), 2, "usage", "max-fee")?;
    stage.command(&with(&["--max-steps", "1000000000"]), 2, "usage", "max-steps")?;
    stage.command(&with(&["--deadline-s", "172800"]), 2, "usage", "deadline-s")?;
    stage.command(&with(&["--chain-id", "another"]), 1, "chain", "chain-id")?;
    let view = stage.cluster.wait_job(0, &job, JOB)?;
    ensure!(view["status"] == "completed", "{view}");
    ensure!(stage.balance()? >= charged, "one job was charged once, and what was left has returned");
    Ok(job)
}

/// Questions about what is not there, and questions that are none.
fn questions(stage: &Stage) -> Result<()> {
    let unknown = "ab".repeat(32);
    for method in ["job_status", "job_explain", "job_receipt"] {
        let error = stage.call(method, &json!([unknown]), -32021, "unknown_job", "job_id")?;
        ensure!(error["data"]["value"] == unknown.as_str(), "{error}");
        for bad in [json!(["xyz"]), json!([5]), json!([unknown.to_uppercase()]), json!([]), json!([null])] {
            stage.call_params(method, &bad, "job_id")?;
        }
    }
    let cancel = stage.sender.sign(&stage.node, Action::CancelJob { job: unknown.parse()? })?;
    let error = stage.node.refused("job_cancel", &json!({"tx": hex_of(&cancel)}))?;
    ensure!(error["data"]["code"] == "unknown_job" && error["data"]["field"] == "job", "{error}");
    complete(&error["data"], &error)?;
    for command in ["status", "explain", "watch"] {
        stage.command(&["job", command, &unknown], 1, "unknown_job", "job_id")?;
    }
    let file = stage.cluster.dir().join("none.bin").display().to_string();
    stage.command(&["job", "receipt", &unknown, "-o", &file], 1, "unknown_job", "job_id")?;
    stage.command(&["job", "cancel", &unknown, "--key", &stage.key], 1, "unknown_job", "job")?;
    for (method, params, field) in [
        ("job_list", json!({"limit": 101}), "limit"),
        ("job_list", json!({"status": "lost"}), "status"),
        ("chain_block", json!([-1]), "block"),
        ("chain_block", json!(["latest"]), "block"),
        ("chain_validators", json!(["x"]), "height"),
        ("account_balance", json!(["x"]), "account"),
        ("job_estimate", json!(["many"]), "max_steps"),
        ("chain_head", json!([1]), "params"),
        ("chain_head", json!({"x": 1}), "params"),
        ("chain_head", json!(7), "params"),
    ] {
        stage.call_params(method, &params, field)?;
    }
    stage.call("chain_block", &json!([1_000_000_000]), -32021, "unknown_block", "height")?;
    stage.call("job_estimate", &json!([1_000_000_000]), -32020, "out_of_bounds", "max_steps")?;
    stage.call("chain_heads", &json!([]), -32601, "unknown_method", "method")?;

    // Bodies that are no calls.
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "chain_head"});
    let eleven = Value::Array(vec![call.clone(); 11]).to_string();
    let text = call.to_string();
    let cut = text.get(..20).context("cut")?;
    for (body, status, number, code, field) in [
        (cut, 400, -32700, "parse_error", "body"),
        ("", 400, -32700, "parse_error", "body"),
        ("hello", 400, -32700, "parse_error", "body"),
        ("[{\"jsonrpc\":", 400, -32700, "parse_error", "body"),
        ("{\"id\": 5}", 400, -32600, "invalid_request", "body"),
        ("{\"jsonrpc\": \"1.0\", \"id\": 5, \"method\": \"chain_head\"}", 400, -32600, "invalid_request", "body"),
        ("[]", 400, -32600, "invalid_request", "batch"),
        (&eleven, 413, -32028, "batch_too_large", "batch"),
        (&" ".repeat((1 << 20) + 1), 413, -32028, "too_large", "body"),
    ] {
        let (found, answer) = stage.node.send("POST", "/", body.as_bytes())?;
        let (error, shown) = (&answer["error"], body.get(..40).unwrap_or(body));
        ensure!(found == status && error["code"] == number, "{shown}: {found} {answer}");
        ensure!(error["data"]["code"] == code && error["data"]["field"] == field, "{shown}: {answer}");
        complete(&error["data"], error).with_context(|| shown.to_owned())?;
    }
    let (_, answer) = stage.node.send("POST", "/", b"{\"id\": 5}")?;
    ensure!(answer["id"] == 5, "the id comes back: {answer}");
    let (_, mixed) = stage.node.send("POST", "/", format!("[{text}, 5]").as_bytes())?;
    ensure!(mixed[0]["result"]["height"].is_u64() && mixed[1]["error"]["data"]["code"] == "invalid_request", "{mixed}");
    for (path, field) in [("/v1/blobs/xyz", "hash"), ("/nothing", "path")] {
        let (_, answer) = stage.node.send("GET", path, b"")?;
        ensure!(answer["error"]["data"]["field"] == field, "{answer}");
        complete(&answer["error"]["data"], &answer["error"])?;
    }
    let (status, answer) = stage.node.send("DELETE", "/v1/blobs", b"")?;
    ensure!(status == 405 && answer["error"]["data"]["field"] == "method", "{status} {answer}");
    complete(&answer["error"]["data"], &answer["error"])?;
    Ok(())
}

impl Stage {
    fn call_params(&self, method: &str, params: &Value, field: &str) -> Result<()> {
        let error = self.node.refused(method, params)?;
        let data = &error["data"];
        let fits = error["code"] == -32602 && data["code"] == "invalid_params" && data["field"] == field;
        ensure!(fits, "{method} {params}: {error}");
        complete(data, &error).with_context(|| format!("{method} {params}"))
    }
}

/// A receipt of which a part is missing or changed is not valid, by the name of a check, and never by a crash.
fn receipts(stage: &mut Stage, job: &str) -> Result<()> {
    let path = stage.cluster.dir().join("receipt.bin").display().to_string();
    stage.cluster.wait("the receipt", MINUTE, |c| c.ask(0, &["job", "receipt", job, "-o", &path]).ok())?;
    let genesis = stage.cluster.dir().join("genesis.json").display().to_string();
    let verify = ["verify", path.as_str(), "--genesis", genesis.as_str()];
    let whole = fs::read(&path)?;
    ensure!(stage.cluster.cli().ok(&verify)?["valid"] == true, "the whole receipt is valid");
    let mut checks = std::collections::BTreeSet::new();
    let mut assert_invalid = |bytes: &[u8], what: &str| -> Result<()> {
        fs::write(&path, bytes)?;
        let (exit, answer, errors) = stage.cluster.cli().run(&verify)?;
        ensure!(exit == 1 && answer["valid"] == false && errors.is_empty(), "{what}: {exit} {answer} {errors}");
        checks.insert(answer["failed_check"].as_str().context("failed_check")?.to_owned());
        Ok(())
    };
    for part in 0..12 {
        let at = whole.len() * part / 12;
        assert_invalid(whole.get(..at).context("cut")?, &format!("cut at byte {at}"))?;
    }
    assert_invalid(whole.get(..whole.len() - 1).context("cut")?, "the last byte is missing")?;
    assert_invalid(&[whole.as_slice(), b"x"].concat(), "a byte is added")?;
    for part in 0..12 {
        let at = whole.len() * part / 12 + 7;
        let mut changed = whole.clone();
        if let Some(byte) = changed.get_mut(at) {
            *byte ^= 0x10;
        }
        assert_invalid(&changed, &format!("a bit of byte {at} is changed"))?;
    }
    println!("failed checks: {checks:?}");
    ensure!(checks.contains("format"), "{checks:?}");
    fs::write(&path, &whole)?;
    ensure!(stage.cluster.cli().ok(&verify)?["valid"] == true, "and is valid again");
    Ok(())
}

#[test]
fn bad_input_is_refused_in_full_and_the_node_goes_on() -> Result<()> {
    let mut stage = Stage::start()?;
    transactions(&stage)?;
    contest(&stage)?;
    questions(&stage)?;
    let job = jobs(&mut stage)?;
    receipts(&mut stage, &job)?;
    let height = stage.cluster.height(0).context("height")?;
    stage.cluster.wait_height(0, height + 1, MINUTE)?;
    for (index, code) in stage.cluster.stop_all()? {
        ensure!(code == 0, "node {index} drained with {code}");
    }
    Ok(())
}
