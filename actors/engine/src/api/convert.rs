//! From records of the ledger, the network and the store to what readers see.

use std::time::Duration;

use ledger::explain::{JobExplained, Standing};
use ledger::query;
use network::{NetworkHandle, PeerInfo};
use types::block::DecidedBlock;
use types::ids::TimeMs;
use types::keys::PublicKey;
use types::transaction::{Action, Transaction};
use types::validator::ValidatorSet;

use super::views::{
    BlockView, ComponentHealth, EvidenceView, ExplainView, HealthView, JobView, NetView, PeerView, ProverView,
    RankView, TxView, ValidatorView,
};
use crate::reads::TaskRecord;
use crate::wiring::{ChainView, Wiring, wall_clock};

/// A node is not ready in its first seconds.
const UPTIME_MIN: Duration = Duration::from_secs(5);
/// Blocks behind the best peer from which a node counts as catching up.
const BEHIND_MAX: u64 = 3;
/// Paces without a block after which consensus counts as stalled.
const STALL_PACES: u64 = 5;
/// Time added to that, ms: rounds take time.
const STALL_MS: u64 = 15_000;

pub(super) fn block(decided: &DecidedBlock) -> BlockView {
    let header = &decided.block.header;
    BlockView {
        height: header.height,
        hash: header.id(),
        parent: header.parent,
        time_ms: header.time_ms,
        proposer: header.proposer,
        state_root_before: header.state_root,
        round: decided.certificate.round.0,
        signers: decided.certificate.signatures.iter().map(|(key, _)| *key).collect(),
        transactions: decided.block.transactions.iter().map(transaction).collect(),
    }
}

fn transaction(tx: &Transaction) -> TxView {
    let kind = match tx {
        Transaction::Certify { .. } => "certify",
        Transaction::Evidence(_) => "evidence",
        Transaction::Signed(tx) | Transaction::Submission { tx, .. } => match &tx.content.action {
            Action::Transfer { .. } => "transfer",
            Action::SubmitJob(_) => "submit_job",
            Action::CancelJob { .. } => "cancel_job",
            Action::RegisterProver { .. } => "register_prover",
            Action::UpdateProver { .. } => "update_prover",
            Action::ExitProver => "exit_prover",
            Action::CommitClaim { .. } => "commit_claim",
            Action::Decline { .. } => "decline",
            Action::RegisterValidator { .. } => "register_validator",
            Action::UpdateValidator { .. } => "update_validator",
            Action::ExitValidator { .. } => "exit_validator",
            Action::Attest { .. } => "attest",
        },
    };
    let signed = tx.signed().map(|s| &s.content);
    TxView { tx_id: tx.id(), kind: kind.into(), sender: signed.map(|s| s.sender), nonce: signed.map(|s| s.nonce) }
}

pub(super) fn validators(
    set: &ValidatorSet,
    records: &[query::ValidatorView],
    net: Option<&NetworkHandle>,
) -> Vec<ValidatorView> {
    let view = |key: PublicKey, power: u64| ValidatorView {
        key,
        power,
        account: records.iter().find(|r| r.key == key).map(|r| r.account),
        peer_id: net.and_then(|n| n.peer_of(&key)).map(|p| p.to_string()),
    };
    set.validators().iter().map(|v| view(v.key, v.power)).collect()
}

/// `record` has what became of the task's attempts; `stalled` comes first, because nothing goes on while no block comes.
pub(super) fn explain(
    explained: &JobExplained,
    job: &JobView,
    record: Option<&TaskRecord>,
    stalled: Option<String>,
) -> ExplainView {
    let task = explained.tasks.first();
    let stands = match (&job.error, task) {
        (Some(error), _) => format!("the job ended {:?}: {error}", job.status).to_lowercase(),
        (None, _) if job.status.is_terminal() => format!("the job ended {:?}", job.status).to_lowercase(),
        (None, Some(task)) => task.text.clone(),
        (None, None) => "the job has no task".into(),
    };
    let ranks = task.map(|t| t.candidates.as_slice()).unwrap_or_default().iter().zip(0u32..).map(|(c, i)| RankView {
        rank: c.rank.and_then(|r| u32::try_from(r).ok()).unwrap_or(i),
        prover: c.prover,
        eligible_now: c.standing == Standing::May,
        note: standing(&c.standing, explained.now_ms),
    });
    let stalled = stalled.filter(|_| !job.status.is_terminal());
    let mut reasons: Vec<String> = vec![];
    let summary = match stalled {
        Some(stalled) => {
            reasons.push(format!("by the last block: {stands}"));
            stalled
        }
        None => stands,
    };
    if !job.status.is_terminal() {
        reasons.extend(explained.tasks.iter().skip(1).map(|t| t.text.clone()));
    }
    reasons.extend(record.into_iter().flat_map(attempts));
    ExplainView { summary, reasons, ranks: ranks.collect() }
}

/// What became of a task's attempts, a line each: claims without a certificate, and the last attempt's declines.
fn attempts(task: &TaskRecord) -> Vec<String> {
    let rejections = task.rejections.iter().map(|r| match r.check {
        Some(check) => {
            format!(
                "attempt {}: the claim of prover {} was voted down by the check {check}",
                r.attempt,
                r.prover.short()
            )
        }
        None => format!("attempt {}: no decision on the claim of prover {} in time", r.attempt, r.prover.short()),
    });
    let declines = task.declines.iter().map(|(prover, reason)| {
        let reason = format!("{reason:?}").to_lowercase();
        format!("attempt {}: prover {} declined: {reason}", task.attempt, prover.short())
    });
    rejections.chain(declines).collect()
}

/// What there is to say when no block came for longer than the chain's pace allows.
pub(super) fn stalled(wiring: &Wiring, view: &ChainView) -> Option<String> {
    let quiet = quiet_too_long(view)?;
    let (connected, all) = match wiring.net.get() {
        Some(net) => (reached(&net, wiring.validator, &view.set), view.set.validators().len()),
        None => (0, view.set.validators().len()),
    };
    Some(format!("no block has been decided for {} s; {connected} of {all} validators connected", quiet / 1000))
}

/// Milliseconds since the last block, if they are too many.
fn quiet_too_long(view: &ChainView) -> Option<u64> {
    let pace = if view.work { view.params.block_ms } else { view.params.empty_block_ms };
    let quiet = wall_clock().since(view.applied_ms);
    (quiet > pace.saturating_mul(STALL_PACES).saturating_add(STALL_MS)).then_some(quiet)
}

/// Validators of the set that this node is connected to, itself included.
fn reached(net: &NetworkHandle, own: Option<PublicKey>, set: &ValidatorSet) -> usize {
    let ours = own.filter(|key| set.power_of(key).is_some());
    let peers = net.peers();
    let theirs =
        peers.iter().filter_map(|p| p.validator).filter(|key| set.power_of(key).is_some() && Some(*key) != ours);
    theirs.count() + usize::from(ours.is_some())
}

fn standing(standing: &Standing, now: TimeMs) -> String {
    match standing {
        Standing::May => "may commit a claim now".into(),
        Standing::From { at_ms } => format!("may commit a claim in {} ms of block time", at_ms.since(now)),
        Standing::Declined { reason } => format!("declined this attempt: {reason:?}").to_lowercase(),
        Standing::Rejected { check } => format!("its claim was rejected: check {check} failed"),
        Standing::Steps { steps_max } => format!("takes at most {steps_max} steps"),
        Standing::Leaving => "is leaving".into(),
        Standing::NotRegistered => "is not registered".into(),
    }
}

pub(super) fn prover(p: &query::ProverView, now: TimeMs) -> ProverView {
    ProverView {
        account: p.prover,
        weight: p.weight,
        steps_max: p.steps_max,
        deposit: p.deposit,
        ineligible_until_ms: (p.ineligible_until_ms > now).then_some(p.ineligible_until_ms),
    }
}

pub(super) fn offence(o: &query::OffenceView) -> EvidenceView {
    EvidenceView {
        offence: o.offence.to_string(),
        kind: format!("{:?}", o.kind).to_lowercase(),
        offender: o.validator,
        height: o.height,
        recorded_height: o.recorded_height,
        slashed: o.slashed,
    }
}

pub(super) fn net(net: &NetworkHandle, wiring: &Wiring, view: &ChainView) -> NetView {
    let own = wiring.validator;
    NetView {
        peer_id: net.peer_id().to_string(),
        listen: net.addresses().iter().map(ToString::to_string).collect(),
        validators_connected: reached(net, own, &view.set),
        validators: view.set.validators().len(),
        validator: own,
        validator_power: own.and_then(|key| view.set.power_of(&key)).unwrap_or(0),
        block_age_ms: wall_clock().since(view.applied_ms),
        stalled: stalled(wiring, view),
        mesh: net.mesh_status().into_iter().map(|m| (m.topic.name().to_owned(), m.mesh.len())).collect(),
        peers: net.peers().len(),
    }
}

pub(super) fn peer(p: &PeerInfo) -> PeerView {
    PeerView {
        peer_id: p.peer_id.to_string(),
        address: p.address.to_string(),
        direction: if p.outbound { "out" } else { "in" }.into(),
        validator: p.validator,
        height: p.height,
        score_milli: score_milli(p.score),
        rtt_ms: p.rtt.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
    }
}

/// A score in thousandths; scores stay far below the range of `i64`.
#[expect(clippy::cast_possible_truncation, reason = "float to integer casts saturate, and scores are small")]
fn score_milli(score: f64) -> i64 {
    (score * 1000.0) as i64
}

fn component(name: &str, problem: Option<(&str, String)>) -> ComponentHealth {
    let (status, message) = problem.map_or(("healthy", "ok".to_owned()), |(status, message)| (status, message));
    ComponentHealth { name: name.into(), status: status.into(), message, response_time_ms: 0 }
}

pub(super) fn health(wiring: &Wiring, uptime: Duration) -> HealthView {
    let view = wiring.view();
    let target = u64::try_from(wiring.metrics.sync_target.get()).unwrap_or(0);
    let behind = target.saturating_sub(view.head.height.0);
    let consensus = if behind > BEHIND_MAX {
        Some(("degraded", format!("catching up: {behind} blocks behind")))
    } else {
        let words = |quiet: u64| format!("no block for {} s at height {}", quiet / 1000, view.head.height);
        quiet_too_long(&view).map(|quiet| ("unhealthy", words(quiet)))
    };
    let reach = wiring.net.get().map(|n| net(&n, wiring, &view));
    let network = match &reach {
        None => Some(("unhealthy", "the swarm is restarting".to_owned())),
        Some(n) if view.set.validators().len() > 1 && n.peers == 0 => {
            Some(("unhealthy", "no peer is connected".to_owned()))
        }
        Some(n) if n.validators_connected * 3 <= view.set.validators().len() * 2 => Some((
            "degraded",
            format!("{} of {} validators connected", n.validators_connected, view.set.validators().len()),
        )),
        Some(_) => None,
    };
    let usage = wiring.blobs.usage();
    let (budget, reserve) = (usage.limits.budget, usage.limits.disk_reserve);
    let database = match wiring.blobs.disk_free() {
        Err(error) => Some(("degraded", error.to_string())),
        Ok(free) if free < reserve => Some((
            "degraded",
            format!(
                "{free} bytes are free on the disk, fewer than storage.disk_reserve_mib keeps ({reserve}): no programs and \
                 proofs are taken; free space"
            ),
        )),
        Ok(_) => {
            (usage.used >= budget / 10 * 9).then(|| ("degraded", format!("blobs use {} of {budget} bytes", usage.used)))
        }
    };
    let prover = wiring.prover_status.borrow().clone();
    let workers = (prover.state == "backing_off").then(|| ("degraded", prover.reason.clone()));
    let stopping = wiring.stop.reason().map(|reason| format!("the node is stopping: {reason:?}"));
    let problem = |c: &Option<(&str, String)>| c.as_ref().map(|(_, message)| message.clone());
    let starting = (uptime < UPTIME_MIN).then(|| "started less than 5 s ago".to_owned());
    let not_ready = stopping.or_else(|| problem(&consensus)).or_else(|| problem(&network)).or(starting);
    let components = vec![
        component("consensus", consensus),
        component("database", database),
        component("network", network),
        component("workers", workers),
    ];
    let worst = ["unhealthy", "degraded"].into_iter().find(|s| components.iter().any(|c| c.status == *s));
    HealthView { status: worst.unwrap_or("healthy").into(), components, not_ready }
}
