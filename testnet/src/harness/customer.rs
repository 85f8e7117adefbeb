//! A customer that keeps a network busy while things happen to it: transfers and jobs, through whichever node answers, and
//! an account of what was acknowledged.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use types::keys::SecretKey;

use super::cluster::Cluster;
use super::process::Cli;

/// Credits of one transfer.
const AMOUNT: u64 = 1;
/// Pause between two wishes.
const PAUSE: Duration = Duration::from_millis(60);
/// Two that sign with one key may be in each other's way for so long.
const NUMBER_TAKEN: Duration = Duration::from_secs(60);

/// What a customer wants.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// Program file of its jobs, in the shape of the example `fibonacci`.
    pub program: PathBuf,
    /// Jobs that it has running at once; 0 for none at all.
    pub jobs_at_once: usize,
    /// Steps of a job, about.
    pub n: u32,
    /// Nodes that it asks.
    pub nodes: Vec<usize>,
}

/// What a customer was told.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Jobs acknowledged.
    pub jobs: Vec<String>,
    /// Transfers acknowledged.
    pub transfers: u64,
    /// Wishes that were not answered, or refused.
    pub failed: u64,
}

/// A customer at work.
#[derive(Debug)]
pub struct Customer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Account>,
}

/// What the customer's thread works with.
struct Buyer {
    cli: Cli,
    rpcs: Vec<String>,
    key: String,
    wishes: Wishes,
    account: Account,
}

/// The account that gets the transfers.
fn receiver() -> String {
    SecretKey::from_seed([7; 32]).public().to_string()
}

impl Customer {
    /// Sends a customer to a network.
    ///
    /// # Errors
    /// When a node it wants to ask does not exist.
    pub fn start(cluster: &Cluster, wishes: Wishes) -> Result<Self> {
        let rpcs = wishes.nodes.iter().map(|i| cluster.node(*i).map(|n| n.rpc.clone())).collect::<Result<Vec<_>>>()?;
        let key = cluster.file().user_key.display().to_string();
        let mut buyer = Buyer { cli: cluster.cli().clone(), rpcs, key, wishes, account: Account::default() };
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut round = 0usize;
            while !flag.load(Ordering::SeqCst) {
                if buyer.buy(round).is_err() {
                    buyer.account.failed += 1;
                }
                round += 1;
                std::thread::sleep(PAUSE);
            }
            buyer.account
        });
        Ok(Self { stop, thread })
    }

    /// Calls the customer back.
    ///
    /// # Errors
    /// When its thread panicked.
    pub fn stop(self) -> Result<Account> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| anyhow::anyhow!("the customer's thread panicked"))
    }
}

impl Buyer {
    fn ask(&self, round: usize, command: &[&str]) -> Result<Value> {
        let rpc = self.rpcs.get(round % self.rpcs.len()).context("no node to ask")?;
        self.cli.ok(&[command, &["--rpc", rpc]].concat())
    }

    fn buy(&mut self, round: usize) -> Result<()> {
        if self.wishes.jobs_at_once > 0 && round.is_multiple_of(4) {
            let running = self.ask(round, &["job", "list", "--status", "running"])?;
            if running["jobs"].as_array().is_some_and(|jobs| jobs.len() < self.wishes.jobs_at_once) {
                let job = submit_job(|command| self.ask(round, command), &self.wishes, &self.key)?;
                self.account.jobs.push(job);
            }
            return Ok(());
        }
        let answer = self.ask(round, &["tx", "transfer", &receiver(), &AMOUNT.to_string(), "--key", &self.key])?;
        ensure!(answer["status"] == "decided", "not acknowledged: {answer}");
        self.account.transfers += 1;
        Ok(())
    }
}

fn submit_job(ask: impl Fn(&[&str]) -> Result<Value>, wishes: &Wishes, key: &str) -> Result<String> {
    let args = format!(r#"{{"first": 1, "second": 1, "n": {}}}"#, wishes.n);
    let prefix = format!("1,1,{}", wishes.n);
    let program = wishes.program.display().to_string();
    // Given, so that the client need not run the program to count its steps.
    let steps = (u64::from(wishes.n) * 16 + 10_000).to_string();
    let command = ["job", "submit", &program, "--args", &args, "--expect-output-prefix", &prefix];
    let answer = ask(&[command.as_slice(), &["--max-steps", &steps, "--key", key]].concat())?;
    ensure!(answer["status"] == "decided", "not acknowledged: {answer}");
    Ok(answer["job_id"].as_str().context("job_id")?.to_owned())
}

/// Submits one job of `wishes` to a node and returns its id once it is acknowledged. A number of the user that a customer
/// at work has taken first is no refusal: it is tried again with the next.
///
/// # Errors
/// When it is not acknowledged.
pub fn submit(cluster: &Cluster, node: usize, wishes: &Wishes) -> Result<String> {
    let key = cluster.file().user_key.display().to_string();
    let until = Instant::now() + NUMBER_TAKEN;
    loop {
        match submit_job(|command| cluster.ask(node, command), wishes, &key) {
            Err(error) if error.to_string().contains("nonce_") && Instant::now() < until => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
}

/// Waits until every job of the user has ended, and checks that all completed, that nothing acknowledged is missing, and
/// that the user was charged for each job once and for each transfer once. Returns the number of jobs and transfers.
///
/// # Errors
/// When that is not so, or not in time.
pub fn settle(cluster: &mut Cluster, node: usize, account: &Account, limit: Duration) -> Result<(usize, u64)> {
    let until = Instant::now() + limit;
    cluster.wait("the end of all jobs", limit, |c| {
        let running = c.ask(node, &["job", "list", "--status", "running"]).ok()?;
        running["jobs"].as_array().is_some_and(Vec::is_empty).then_some(())
    })?;
    loop {
        let done = balance(cluster, node, account);
        if done.is_ok() || Instant::now() >= until {
            return done;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn number(value: &Value) -> Result<u64> {
    match value {
        Value::String(text) => text.parse().with_context(|| format!("no amount: {text}")),
        value => value.as_u64().with_context(|| format!("no number: {value}")),
    }
}

fn balance(cluster: &Cluster, node: usize, account: &Account) -> Result<(usize, u64)> {
    let genesis: types::genesis::Genesis = read_genesis(&cluster.dir().join("genesis.json"))?;
    let key = cluster.file().user_key.display().to_string();
    let user = cluster.ask(node, &["account", "show", "--key", &key])?;
    let id = user["account"].as_str().context("account")?.to_owned();
    let before = genesis.accounts.iter().find(|a| a.account.to_string() == id).context("the user in genesis")?.balance;
    let (mut jobs, mut fees, mut after) = (Vec::new(), 0u64, None::<String>);
    loop {
        let mut command = vec!["job", "list", "--sender", &id, "--limit", "100"];
        if let Some(cursor) = &after {
            command.extend(["--after", cursor]);
        }
        let page = cluster.ask(node, &command)?;
        for job in page["jobs"].as_array().context("jobs")? {
            ensure!(job["status"] == "completed", "a job did not complete: {job}");
            fees += number(&job["fee"])?;
            jobs.push(job["job_id"].as_str().context("job_id")?.to_owned());
        }
        after = page["cursor"].as_str().map(str::to_owned);
        if after.is_none() {
            break;
        }
    }
    if let Some(lost) = account.jobs.iter().find(|job| !jobs.contains(job)) {
        bail!("job {lost} was acknowledged, and node {node} does not know it");
    }
    // Every submission and every transfer of the user takes one number.
    let transfers = number(&user["nonce"])?.checked_sub(jobs.len() as u64).context("more jobs than numbers")?;
    ensure!(transfers >= account.transfers, "{} transfers acknowledged, {transfers} made", account.transfers);
    let received = number(&cluster.ask(node, &["account", "show", &receiver()])?["balance"])?;
    ensure!(received == transfers * AMOUNT, "{transfers} transfers, and the receiver has {received}");
    let each = number(&serde_json::to_value(genesis.params.fees.transaction)?)? + AMOUNT;
    let spent = number(&serde_json::to_value(before)?)?.checked_sub(number(&user["balance"])?).context("a gain")?;
    ensure!(
        spent == fees + transfers * each,
        "{} jobs for {fees} and {transfers} transfers of {each}, but the user has spent {spent}",
        jobs.len()
    );
    Ok((jobs.len(), transfers))
}

fn read_genesis(path: &Path) -> Result<types::genesis::Genesis> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}
