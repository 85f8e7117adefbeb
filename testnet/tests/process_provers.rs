//! Provers that cheat, against real nodes over real sockets: four honest validators, two of them provers, and one registered
//! prover whose keys the adversary holds. Whatever it commits is voted down by the name of the check that fails, or voided
//! when nobody gets the bytes; then somebody else completes the job, and nobody honest pays for it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testnet::adversary::prover::{Cheat, Order};
use testnet::harness::{Adversary, Cli, Cluster, Options, binary};
use testnet::rpc::Rpc;
use types::genesis::{GenesisAccount, GenesisProver};
use types::ids::{Amount, JobId};
use types::keys::{PublicKey, SecretKey};

const MINUTE: Duration = Duration::from_secs(60);
/// Longest wait for a job's end: two proofs and a time for verdicts, on a machine that is shared with other work.
const JOB: Duration = Duration::from_secs(300);
/// Validators, the first ones of the nodes.
const VALIDATORS: usize = 4;
/// Honest provers, the first ones of the nodes.
const PROVERS: usize = 2;
/// Node whose keys the adversary holds.
const ADVERSARY: usize = 4;
/// Credits of each node's account at the start.
const BALANCE: Amount = Amount(1_000_000);
/// Time for verdicts, ms. Half of it is the time in which a validator looks for the bytes.
const VOTING_MS: u64 = 50_000;
/// What a lapsed turn costs, ms; longer than any of these tests takes after its last job.
const LAPSE_MS: u64 = 600_000;
/// A window with this step limit is long enough for a cheat that makes a proof, see [`Network::start`].
const STEPS_LONG: u64 = 4_000_000;
/// A window with this step limit is over soon.
const STEPS_SHORT: u64 = 200_000;

/// The running network with its adversary.
struct Network {
    cluster: Cluster,
    adversary: Adversary,
    /// Account of the adversary.
    cheater: PublicKey,
    /// Accounts of the nodes.
    honest: Vec<PublicKey>,
    user: PublicKey,
    user_balance: Amount,
    fees: Amount,
    /// Claims of the adversary that were voted down.
    rejected: u32,
}

fn public(home: &Path, name: &str) -> Result<PublicKey> {
    Ok(testnet::adversary::identity::read_key(&home.join("keys").join(name))?.public())
}

/// A key that stands before the others: of two claims that reach a proposer together, its own goes into the block first.
fn foremost_key(file: &Path) -> Result<SecretKey> {
    let mut seed = [7u8; 32];
    let mut key = SecretKey::from_seed(seed);
    while key.public().as_bytes().first() != Some(&0) {
        seed = *key.public().as_bytes();
        key = SecretKey::from_seed(seed);
    }
    std::fs::write(file, format!("{}\n", hex::encode(key.to_seed())))?;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600))?;
    Ok(key)
}

impl Network {
    /// Four validators with two honest provers of weight 1 and the adversary's of weight 1,000, so that nearly every first
    /// turn is its own. A prover's window grows with the job's step limit: 63 s for [`STEPS_LONG`], 6 s for [`STEPS_SHORT`].
    /// Transactions are free, so that balances show nothing but what provers and validators earn or lose.
    /// A prover that lets its turn pass stands behind the others for `lapse_ms`.
    fn start(name: &str, lapse_ms: u64) -> Result<Self> {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        let nodes = u16::try_from(VALIDATORS)? + 1;
        let mut cluster = Cluster::create(Cli::new(binary()?), &dir, &Options::on_free_ports(nodes)?)?;
        let cheater = foremost_key(&cluster.node(ADVERSARY)?.home.join("keys/account.key"))?.public();
        let user = testnet::adversary::identity::read_key(&cluster.file().user_key)?.public();
        let homes = (0..VALIDATORS).map(|i| Ok(cluster.node(i)?.home.clone())).collect::<Result<Vec<_>>>()?;
        let honest = homes.iter().map(|home| public(home, "account.key")).collect::<Result<Vec<_>>>()?;
        cluster.amend_genesis(|genesis| {
            let params = &mut genesis.params;
            params.fees.transaction = Amount::ZERO;
            params.voting_ms = VOTING_MS;
            params.empty_block_ms = 1_000;
            (params.assignment.window_ms, params.assignment.window_ms_per_megastep) = (3_000, 15_000);
            params.assignment.lapse_ms = lapse_ms;
            // The one adversary is wanted again for the next job; its deposit stays locked for the standard time.
            (params.assignment.reject_ms, params.assignment.reject_ms_max) = (0, 0);
            genesis.validators.truncate(VALIDATORS);
            genesis.provers.truncate(PROVERS);
            let deposit = params.assignment.prover_deposit;
            genesis.provers.push(GenesisProver { account: cheater, weight: 1_000, steps_max: 1 << 30, deposit });
            genesis.accounts.retain(|a| a.account == user || honest.contains(&a.account));
            genesis.accounts.push(GenesisAccount { account: cheater, balance: BALANCE });
        })?;
        for index in 0..VALIDATORS {
            cluster.start(index)?;
        }
        for index in 0..VALIDATORS {
            cluster.wait_height(index, 1, MINUTE)?;
        }
        let home = cluster.node(ADVERSARY)?.home.display().to_string();
        let (rpc, log) = (cluster.node(0)?.rpc.clone(), cluster.log(ADVERSARY));
        let peers: Vec<String> = cluster.file().nodes.iter().take(VALIDATORS).map(|n| n.p2p.clone()).collect();
        let mut arguments = vec!["prover", "--home", &home, "--rpc", &rpc];
        arguments.extend(peers.iter().flat_map(|peer| ["--peer", peer.as_str()]));
        let binary = Path::new(env!("CARGO_BIN_EXE_proofmesh-adversary"));
        let mut adversary = Adversary::start(binary, &arguments, &log)?;
        let joined = adversary.event("the adversary in the network", MINUTE, |e| e["event"] == "joined")?;
        let peer = joined["peer_id"].as_str().context("peer_id")?.to_owned();
        let mut network = Self {
            cluster,
            adversary,
            cheater,
            honest,
            user,
            user_balance: Amount::ZERO,
            fees: Amount::ZERO,
            rejected: 0,
        };
        for index in 0..VALIDATORS {
            let rpc = network.rpc(index)?;
            let what = format!("node {index} connected to the adversary");
            network.cluster.wait(&what, MINUTE, |_| {
                let peers = rpc.call("net_peers", &json!([])).ok()?;
                peers.as_array()?.iter().any(|p| p["peer_id"] == peer.as_str()).then_some(())
            })?;
        }
        network.user_balance = network.balance(user)?;
        Ok(network)
    }

    fn rpc(&self, index: usize) -> Result<Rpc> {
        Rpc::at(&self.cluster.node(index)?.rpc)
    }

    fn balance(&self, account: PublicKey) -> Result<Amount> {
        let answer = self.rpc(1)?.call("account_balance", &json!([account]))?;
        Ok(answer["balance"].as_str().context("balance")?.parse()?)
    }

    /// Submits a job in which the adversary has the first turn. Where another prover drew it, that job is left to it and
    /// another one is submitted.
    fn submit(&mut self, n: u32, prefix: bool, max_steps: u64) -> Result<JobId> {
        let fibonacci = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/fibonacci/fibonacci.json");
        let key = self.cluster.file().user_key.display().to_string();
        let (program, args) = (fibonacci.display().to_string(), fibonacci_args(n));
        let (words, steps) = (format!("1,1,{n}"), max_steps.to_string());
        let mut command = vec!["job", "submit", &program, "--args", &args, "--key", &key, "--max-steps", &steps];
        if prefix {
            command.extend(["--expect-output-prefix", &words]);
        }
        for _ in 0..8 {
            let answer = self.cluster.ask(2, &command)?;
            ensure!(answer["status"] == "decided", "not acknowledged: {answer}");
            let job = answer["job_id"].as_str().context("job_id")?.to_owned();
            let first = self.cluster.wait("a prover's turn", MINUTE, |c| {
                c.ask(2, &["job", "status", &job]).ok()?["tasks"][0]["prover"].as_str().map(str::to_owned)
            })?;
            if first == self.cheater.to_string() {
                return Ok(job.parse()?);
            }
            self.completed(job.parse()?)?;
        }
        anyhow::bail!("eight jobs in a row went to provers of weight 1 before one of weight 1,000")
    }

    fn cheat(&mut self, job: JobId, how: Cheat) -> Result<()> {
        self.adversary.order(&Order::Cheat { job, how })
    }

    fn committed(&mut self, job: JobId) -> Result<Value> {
        let id = job.to_string();
        let taken = move |e: &Value| e["event"] == "committed" && e["job"] == id.as_str();
        self.adversary.event("the adversary's claim in a block", JOB, taken)
    }

    /// Waits until a job is completed, as every node sees it; counts its fee and verifies its receipt offline.
    fn completed(&mut self, job: JobId) -> Result<Value> {
        let id = job.to_string();
        let mut views = Vec::new();
        for index in 0..VALIDATORS {
            let view = self.cluster.wait_job(index, &id, JOB)?;
            ensure!(view["status"] == "completed", "{view}");
            views.push(view);
        }
        let first = views.first().context("a view")?.clone();
        for view in &views {
            let same = |field: &str| view["tasks"][0][field] == first["tasks"][0][field];
            ensure!(same("rejections") && same("prover") && same("attempt"), "{view} is not {first}");
        }
        self.fees = self.fees.checked_add(first["fee"].as_str().context("fee")?.parse()?).context("fees")?;
        let receipt = self.cluster.dir().join(format!("{id}.receipt")).display().to_string();
        self.cluster.wait("the receipt", MINUTE, |c| c.ask(3, &["job", "receipt", &id, "-o", &receipt]).ok())?;
        let genesis = self.cluster.dir().join("genesis.json").display().to_string();
        let report = self.cluster.cli().ok(&["verify", &receipt, "--genesis", &genesis])?;
        ensure!(report["valid"] == true && report["job_id"] == id.as_str(), "receipt: {report}");
        ensure!(report["prover"] == first["tasks"][0]["prover"], "receipt: {report}");
        Ok(first)
    }

    /// The adversary's claim was voted down by `check`, in its one attempt, and an honest prover completed the job.
    fn voted_down(&mut self, job: JobId, check: &str) -> Result<Value> {
        let view = self.completed(job)?;
        let task = &view["tasks"][0];
        let rejections = task["rejections"].as_array().context("rejections")?;
        ensure!(rejections.len() == 1, "{view}");
        let rejection = rejections.first().context("a rejection")?;
        let cheater = self.cheater.to_string();
        ensure!(rejection["check"] == check && rejection["prover"] == cheater.as_str(), "not '{check}': {view}");
        self.by_somebody_honest(&view)?;
        self.rejected += 1;
        Ok(view)
    }

    /// After a rejected claim the adversary is told until when its deposit stays; it has it still.
    fn the_deposit_is_locked(&self) -> Result<()> {
        let key = self.cluster.node(ADVERSARY)?.home.join("keys/account.key").display().to_string();
        let rpc = self.cluster.node(1)?.rpc.clone();
        let (code, answer, words) = self.cluster.cli().run(&["prover", "exit", "--key", &key, "--rpc", &rpc])?;
        let told = format!("{answer} {words}");
        ensure!(code != 0 && told.contains("deposit_locked") && told.contains("block time"), "{code}: {told}");
        Ok(())
    }

    fn by_somebody_honest(&self, view: &Value) -> Result<()> {
        let provers: Vec<String> = self.honest.iter().take(PROVERS).map(PublicKey::to_string).collect();
        let by = view["tasks"][0]["prover"].as_str().context("prover")?;
        ensure!(provers.iter().any(|p| p == by), "completed by {by}: {view}");
        Ok(())
    }

    /// Nobody honest lost anything: deposits stand, balances have only grown, the user paid the fees and nothing else, and
    /// there is no evidence against anybody. Where the adversary earned nothing, it has what it began with.
    fn nobody_punished(&mut self, cheater_earned: bool) -> Result<()> {
        for index in 0..VALIDATORS {
            let rpc = self.rpc(index)?;
            ensure!(rpc.call("evidence_list", &json!([]))? == json!([]), "evidence on node {index}");
            let provers = rpc.call("prover_list", &json!([]))?;
            let provers = provers.as_array().context("provers")?;
            ensure!(provers.len() == PROVERS + 1, "{provers:?}");
            for prover in provers {
                let deposit = self.cluster.genesis()?.params.assignment.prover_deposit;
                ensure!(prover["deposit"] == deposit.to_string(), "{prover}");
                ensure!(prover["ineligible_until_ms"].is_null() && prover["barred_until_ms"].is_null(), "{prover}");
                let cheater = prover["account"] == self.cheater.to_string();
                let rejected = if cheater { self.rejected } else { 0 };
                ensure!(prover["rejections"] == rejected, "{prover}");
                ensure!(prover["locked_until_ms"].is_null() == (rejected == 0), "{prover}");
            }
        }
        for account in &self.honest {
            ensure!(self.balance(*account)? >= BALANCE, "account {account} has {}", self.balance(*account)?);
        }
        let (user, cheater) = (self.balance(self.user)?, self.balance(self.cheater)?);
        ensure!(user == self.user_balance.saturating_sub(self.fees), "user: {user}, fees: {}", self.fees);
        ensure!(if cheater_earned { cheater > BALANCE } else { cheater == BALANCE }, "adversary: {cheater}");
        let jobs = self.rpc(1)?.call("job_list", &json!([null, "running"]))?;
        ensure!(jobs["jobs"] == json!([]), "{jobs}");
        for (index, code) in self.cluster.stop_all()? {
            ensure!(code == 0, "node {index} drained with {code}");
        }
        Ok(())
    }
}

fn fibonacci_args(n: u32) -> String {
    format!(r#"{{"first": 1, "second": 1, "n": {n}}}"#)
}

#[test]
fn claims_that_are_not_what_they_say_are_voted_down_by_the_failed_check() -> Result<()> {
    let started = Instant::now();
    let mut network = Network::start("provers-false-claims", LAPSE_MS)?;
    println!("network and adversary up: {:.1} s", started.elapsed().as_secs_f64());

    // One bit of the proof changed.
    let bit = network.submit(10, false, STEPS_LONG)?;
    network.cheat(bit, Cheat::ChangedBit)?;
    network.committed(bit)?;
    // The valid proof of that job, as it was before the bit was changed, for another job of the same program and input.
    let other_job = network.submit(10, false, STEPS_LONG)?;
    network.cheat(other_job, Cheat::OtherJob { of: bit })?;
    network.committed(other_job)?;
    // A valid proof of the right program, bound to the right job, over another input: told by re-execution ...
    let quorum = network.submit(12, false, STEPS_LONG)?;
    network.cheat(quorum, Cheat::OtherInput { args: fibonacci_args(13) })?;
    network.committed(quorum)?;
    // ... and by the output words that the submitter fixed.
    let prefix = network.submit(14, true, STEPS_LONG)?;
    network.cheat(prefix, Cheat::OtherInput { args: fibonacci_args(15) })?;
    network.committed(prefix)?;
    println!("all four claims committed: {:.1} s", started.elapsed().as_secs_f64());

    network.voted_down(bit, "stark")?;
    network.voted_down(other_job, "binding")?;
    network.voted_down(quorum, "input")?;
    network.voted_down(prefix, "input")?;
    println!("all four jobs completed: {:.1} s", started.elapsed().as_secs_f64());
    network.the_deposit_is_locked()?;
    network.nobody_punished(false)
}

#[test]
fn a_stolen_proof_is_worthless_under_the_thiefs_key() -> Result<()> {
    let started = Instant::now();
    let mut network = Network::start("provers-stolen-proof", 0)?;
    // The thief has the first turn, lets it pass, and waits for another prover's claim. It needs to be faster than a block. A
    // turn that passed costs nothing here, as it may have to try again.
    for n in 20..24 {
        let job = network.submit(n, true, STEPS_SHORT)?;
        network.cheat(job, Cheat::Stolen)?;
        let id = job.to_string();
        let stolen =
            network.adversary.event("the theft", JOB, |e| e["event"] == "stolen" && e["job"] == id.as_str())?;
        if stolen["decided"] != true {
            println!("the victim was in the block first: {stolen}");
            network.completed(job)?;
            continue;
        }
        ensure!(stolen["bytes"].as_u64() == stolen["claim"]["proof"]["bytes"].as_u64(), "{stolen}");
        network.voted_down(job, "binding")?;
        println!("stolen, voted down and proved again: {:.1} s", started.elapsed().as_secs_f64());
        return network.nobody_punished(false);
    }
    anyhow::bail!("the thief was too slow four times in a row")
}

#[test]
fn withheld_bytes_void_the_attempt_or_delay_the_certificate() -> Result<()> {
    let started = Instant::now();
    let mut network = Network::start("provers-withheld-bytes", LAPSE_MS)?;

    // Bytes that are never served.
    let never = network.submit(30, true, STEPS_LONG)?;
    network.cheat(never, Cheat::NeverServed)?;
    network.committed(never)?;
    // A valid proof, withheld from everybody: the claim stays in voting, and nothing is certified.
    let withheld = network.submit(31, true, STEPS_LONG)?;
    network.cheat(withheld, Cheat::Withheld)?;
    let committed = network.committed(withheld)?;
    println!("both committed: {:.1} s", started.elapsed().as_secs_f64());
    let hash = committed["claim"]["proof"]["hash"].clone();
    let asked = |e: &Value| e["event"] == "asked" && e["hash"] == hash;
    let deadline = Instant::now() + MINUTE;
    while network.adversary.so_far(asked).len() < VALIDATORS {
        ensure!(Instant::now() < deadline, "not every validator asks for the bytes");
        std::thread::sleep(Duration::from_millis(100));
    }
    let height = network.cluster.height(0).context("height")?;
    network.cluster.wait_height(0, height + 5, MINUTE)?;
    let id = withheld.to_string();
    for index in 0..VALIDATORS {
        let view = network.cluster.ask(index, &["job", "status", &id])?;
        ensure!(view["status"] == "running" && view["tasks"][0]["state"] == "voting", "{view}");
        ensure!(view["receipt_ready"] == false, "{view}");
    }
    // Served to a single validator, which serves the others: every one verifies it, and the certificate forms.
    let one = network.cluster.node(2)?.peer_id.clone();
    network.adversary.order(&Order::Serve { job: withheld, to: vec![one] })?;
    let view = network.completed(withheld)?;
    let cheater = network.cheater.to_string();
    ensure!(view["tasks"][0]["prover"] == cheater.as_str() && view["tasks"][0]["attempt"] == 0, "{view}");
    ensure!(view["tasks"][0]["rejections"] == json!([]), "{view}");
    println!("served and certified: {:.1} s", started.elapsed().as_secs_f64());

    // The other one is voided by its deadline: no verdict on it, and another prover completes the job.
    let view = network.completed(never)?;
    let void = json!([{ "attempt": 0, "prover": network.cheater, "check": null }]);
    ensure!(view["tasks"][0]["rejections"] == void && view["tasks"][0]["attempt"] == 1, "{view}");
    network.by_somebody_honest(&view)?;
    println!("voided and completed by another: {:.1} s", started.elapsed().as_secs_f64());
    network.nobody_punished(true)
}

#[test]
fn bytes_that_two_of_four_have_make_no_certificate_and_a_third_makes_one() -> Result<()> {
    let started = Instant::now();
    let mut network = Network::start("provers-split-bytes", LAPSE_MS)?;
    let job = network.submit(32, true, STEPS_LONG)?;
    network.cheat(job, Cheat::Withheld)?;
    network.committed(job)?;
    let id = job.to_string();
    for index in 0..VALIDATORS {
        let what = format!("the claim in voting on node {index}");
        network.cluster.wait(&what, MINUTE, |c| {
            let view = c.ask(index, &["job", "status", &id]).ok()?;
            (view["tasks"][0]["state"] == "voting").then_some(())
        })?;
    }
    // Honest validators hand on what they have: two of them have nothing only while they are away.
    for index in [2, 3] {
        network.cluster.kill(index)?;
    }
    let peers = |network: &Network, some: &[usize]| -> Result<Vec<String>> {
        some.iter().map(|index| Ok(network.cluster.node(*index)?.peer_id.clone())).collect()
    };
    let two = peers(&network, &[0, 1])?;
    network.adversary.order(&Order::Serve { job, to: two })?;
    let voted = |cluster: &Cluster, index: usize| {
        let log = std::fs::read_to_string(cluster.log(index)).ok()?;
        log.lines().any(|line| line.contains("voted on a claim") && line.contains(&id)).then_some(())
    };
    for index in [0, 1] {
        network.cluster.wait(&format!("the verdict of node {index}"), MINUTE, |c| voted(c, index))?;
    }
    println!("two of four have the bytes and voted: {:.1} s", started.elapsed().as_secs_f64());
    std::thread::sleep(Duration::from_secs(3));
    for index in [0, 1] {
        let view = network.cluster.ask(index, &["job", "status", &id])?;
        ensure!(view["tasks"][0]["state"] == "voting" && view["receipt_ready"] == false, "half the power: {view}");
    }
    network.cluster.start(2)?;
    let three = peers(&network, &[0, 1, 2])?;
    network.adversary.order(&Order::Serve { job, to: three })?;
    network.cluster.wait("a certificate with the third", MINUTE, |c| {
        let view = c.ask(0, &["job", "status", &id]).ok()?;
        (view["receipt_ready"] == true).then_some(())
    })?;
    println!("a third has them, and there is a certificate: {:.1} s", started.elapsed().as_secs_f64());
    network.cluster.start(3)?;
    let view = network.completed(job)?;
    let cheater = network.cheater.to_string();
    ensure!(view["tasks"][0]["prover"] == cheater.as_str() && view["tasks"][0]["rejections"] == json!([]), "{view}");
    network.nobody_punished(true)
}
