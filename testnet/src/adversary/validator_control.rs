//! Commands of an adversary, one JSON object a line on standard input, one answer a line on standard output: `{"ok": ..}` or
//! `{"error": ".."}`. It ends with its input.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use network::{Events, NetworkHandle};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use types::ids::{BlockId, Height, JobId, Round};
use types::keys::SecretKey;
use types::transaction::Action;
use types::verdict::{Check, Verdict, VoteSubject};
use types::vote::VoteKind;

use super::identity::{Identity, announce, orders, report};
use super::validator::{Plan, Validator};
use super::validator_forge::Spoil;
use super::validator_peer::{self as peer, Answers};

/// Longest time a command may take.
const LIMIT: Duration = Duration::from_secs(120);

/// What an adversary is started with.
#[derive(Clone, Debug, clap::Args)]
pub struct Setup {
    /// Home folder whose keys it holds; may be repeated.
    #[arg(long = "home", required = true)]
    pub homes: Vec<PathBuf>,
    /// Address of a node, multiaddr; may be repeated.
    #[arg(long = "peer", required = true)]
    pub peers: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Prevote,
    Precommit,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Say {
    Valid,
    Invalid,
}

fn main_identity() -> String {
    "main".into()
}

#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
enum Command {
    /// The head it follows.
    Head,
    /// Whether it proposes rightly in its turns.
    Proposes { on: bool },
    /// A vote. Height: the running one if none is named. Value: a block, `nil`, or `any` for a block nobody made.
    Vote {
        #[serde(default)]
        key: usize,
        kind: Kind,
        height: Option<u64>,
        #[serde(default)]
        round: u32,
        value: String,
        #[serde(default = "main_identity")]
        via: String,
    },
    /// A proposal in its next turn.
    Propose {
        #[serde(default)]
        key: usize,
        how: Spoil,
        #[serde(default)]
        via: Vec<String>,
        #[serde(default)]
        delay_ms: u64,
    },
    /// What the honest validators voted.
    Votes { height: u64, round: u32, kind: Kind },
    /// One more identity; `only` names the single node it connects to.
    Identity {
        name: String,
        only: Option<String>,
        #[serde(default)]
        answers: Answers,
    },
    /// What an identity answers from now on.
    Answers { name: String, answers: Answers },
    /// Dials a node.
    Dial { name: String, address: String },
    /// Takes as many jobs as it can get.
    Weigh {
        #[serde(default)]
        key: usize,
    },
    /// Commits bytes that are no proof.
    Claim {
        #[serde(default)]
        key: usize,
        job: String,
    },
    /// Waits for the claim of another prover.
    Voting { job: String },
    /// A verdict on the claim last named by `claim` or `voting`.
    Verdict {
        #[serde(default)]
        key: usize,
        say: Say,
    },
}

struct Control {
    who: Arc<Validator>,
    subject: Option<VoteSubject>,
}

/// Runs an adversary until standard input ends.
///
/// # Errors
/// When keys or genesis can't be read, or it can't join the network.
pub async fn run(setup: &Setup) -> Result<()> {
    let keys = setup.homes.iter().map(|home| Identity::of_home(home)).collect::<Result<Vec<_>>>()?;
    let first = keys.first().cloned().context("no home is named")?;
    let (net, events) = first.join(&setup.peers).await?;
    let who = Arc::new(Validator::new(keys)?);
    join(&who, "main", &net, events, Answers::Honest);
    tokio::spawn(Arc::clone(&who).propose_in_turn());
    tokio::spawn(Arc::clone(&who).follow());
    let (prover, validator) = (Some(first.account.public()), Some(first.consensus));
    let height = {
        let who = Arc::clone(&who);
        move || who.chain().head().map_or(Height(0), |head| head.height)
    };
    tokio::spawn(announce(net.clone(), first.chain, prover, validator, height));
    let mut orders = orders();
    peer::connected(&net, setup.peers.len()).await?;
    report(&json!({ "ok": { "peers": net.peers().len() } }));
    let mut control = Control { who, subject: None };
    while let Some(command) = orders.recv().await {
        report(&match control.carry_out(command).await {
            Ok(answer) => json!({ "ok": answer }),
            Err(error) => json!({ "error": format!("{error:#}") }),
        });
    }
    Ok(())
}

/// Adds an identity and serves it.
fn join(who: &Arc<Validator>, name: &str, net: &NetworkHandle, events: Events, answers: Answers) {
    who.add_net(name, net.clone(), answers);
    let (who, name, net) = (Arc::clone(who), name.to_owned(), net.clone());
    tokio::spawn(async move { peer::serve(&who, &name, &net, events).await });
}

const fn vote_kind(kind: &Kind) -> VoteKind {
    match kind {
        Kind::Prevote => VoteKind::Prevote,
        Kind::Precommit => VoteKind::Precommit,
    }
}

fn shown(value: Option<BlockId>) -> String {
    value.map_or("nil".into(), |id| id.to_string())
}

fn subject_view(subject: &VoteSubject) -> Value {
    json!({ "attempt": subject.attempt, "height": subject.height, "prover": subject.prover })
}

impl Control {
    async fn carry_out(&mut self, command: Command) -> Result<Value> {
        let who = Arc::clone(&self.who);
        match command {
            Command::Head => {
                let chain = who.chain();
                let audit = ledger::query::audit(chain.view())?;
                let head = chain.head()?;
                Ok(
                    json!({ "height": head.height, "hash": head.id, "credits": audit.total, "conserved": audit.conserved }),
                )
            }
            Command::Proposes { on } => {
                who.set_proposes(on);
                Ok(json!({}))
            }
            Command::Vote { key, kind, height, round, value, via } => {
                let running = who.chain().head()?.height.next();
                let height = height.map_or(running, Height);
                let value = match value.as_str() {
                    "nil" => None,
                    "any" => Some(BlockId::new(rand::random())),
                    hex => Some(hex.parse()?),
                };
                who.vote(key, vote_kind(&kind), (height, Round(round)), value, &via)?;
                Ok(json!({ "height": height, "value": shown(value) }))
            }
            Command::Propose { key, how, via, delay_ms } => {
                let (reply, sent) = oneshot::channel();
                let via = if via.is_empty() { vec![main_identity()] } else { via };
                who.set_plan(Plan { key, how, via, delay: Duration::from_millis(delay_ms), reply })?;
                let proposed = tokio::time::timeout(LIMIT, sent).await.context("its turn did not come")???;
                Ok(json!({ "height": proposed.height, "blocks": proposed.blocks }))
            }
            Command::Votes { height, round, kind } => {
                let votes = who.honest_votes(Height(height), Round(round), vote_kind(&kind), LIMIT).await?;
                Ok(votes.into_iter().map(|(key, value)| (key.to_string(), json!(shown(value)))).collect())
            }
            Command::Identity { name, only, answers } => self.identity(&name, only, answers).await,
            Command::Answers { name, answers } => {
                who.add_net(&name, who.net(&name)?, answers);
                Ok(json!({}))
            }
            Command::Dial { name, address } => {
                let net = who.net(&name)?;
                peer::dial(&net, &address)?;
                peer::connected_to(&net, &address).await?;
                Ok(json!({}))
            }
            other => self.as_prover(other).await,
        }
    }

    /// Commands around jobs.
    async fn as_prover(&mut self, command: Command) -> Result<Value> {
        let who = Arc::clone(&self.who);
        match command {
            Command::Weigh { key } => {
                let steps_max = 100_000_000;
                who.transact(key, Action::UpdateProver { weight: 1000, steps_max }, LIMIT).await?;
                Ok(json!({}))
            }
            Command::Claim { key, job } => {
                let subject = who.claim(key, job.parse()?, LIMIT).await?;
                Ok(subject_view(self.subject.insert(subject)))
            }
            Command::Voting { job } => {
                let job: JobId = job.parse()?;
                let own: Vec<_> = (0..).map_while(|i| who.account(i)).map(SecretKey::public).collect();
                let subject = who.in_voting(&job, |s| !own.contains(&s.prover), LIMIT).await?;
                Ok(subject_view(self.subject.insert(subject)))
            }
            Command::Verdict { key, say } => {
                let subject = self.subject.clone().context("no claim was named before")?;
                let verdict = match say {
                    Say::Valid => Verdict::Valid,
                    Say::Invalid => Verdict::Invalid(Check::Stark),
                };
                who.say(key, subject, verdict)?;
                Ok(json!({}))
            }
            other => anyhow::bail!("{other:?} is no command of a prover"),
        }
    }

    async fn identity(&self, name: &str, only: Option<String>, answers: Answers) -> Result<Value> {
        let bootstrap = only.iter().map(|p| Ok(p.parse()?)).collect::<Result<Vec<_>>>()?;
        let key = SecretKey::from_seed(rand::random());
        let (net, events) = peer::start(self.who.genesis(), key, bootstrap, only.is_some()).await?;
        join(&self.who, name, &net, events, answers);
        if only.is_some() {
            peer::connected(&net, 1).await?;
        }
        Ok(json!({ "peer_id": net.peer_id().to_string(), "address": peer::address(&net)? }))
    }
}
