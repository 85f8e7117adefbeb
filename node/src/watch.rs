//! What an operator reads in the log beside the parts' own lines: validators that come and go, a chain that stands still and
//! goes on, jobs that begin and end, and whether this node has a voice.
//!
//! Looks once a second and follows the node's events. Decides nothing: it may miss what comes and goes between two looks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use engine::api::EngineHandle;
use engine::api::views::{Event, JobView, NetView, PeerView};
use tokio::sync::broadcast::error::RecvError;
use tracing::{debug, info, warn};
use types::ids::{Height, JobId};
use types::job::JobStatus;
use types::keys::PublicKey;

use crate::cli::JOIN_COMMAND;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Running jobs remembered; more begin and end without a line each.
const JOBS_MAX: usize = 10_000;
/// Blocks that a submission may be old and still be new to the log.
const FRESH: u64 = 3;

/// Watches until the node's events end.
pub(crate) async fn run(engine: EngineHandle) {
    let mut events = engine.subscribe();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut peers, mut chain, mut jobs) = (Peers::default(), Chain::default(), Jobs::default());
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => match event.event {
                    Event::Job(job) => {
                        let head = engine.head().map_or(Height(0), |head| head.height);
                        tell(&jobs.changed(&job, head));
                    }
                    Event::Head(_) | Event::Verdict { .. } => {}
                },
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            _ = look.tick() => {
                // While the network restarts there is nothing to see.
                if let (Ok(net), Ok(list)) = (engine.net(), engine.peers()) {
                    tell(&peers.seen(&list));
                    tell(&chain.seen(&net));
                }
            }
        }
    }
}

/// A line of the log.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Connected { peer: String, validator: Option<PublicKey>, address: String, direction: String },
    Lost { peer: String, validator: Option<PublicKey> },
    Stalled(String),
    GoesOn,
    NotInSet(PublicKey),
    InSet { key: PublicKey, power: u64 },
    Submitted { job: JobId, sender: PublicKey },
    Ended { job: JobId, status: JobStatus, fee: String, error: Option<String> },
}

fn tell(lines: &[Line]) {
    for line in lines {
        match line {
            Line::Connected { peer, validator: Some(key), address, direction } => {
                info!(validator = key.short(), peer, address, direction, "validator connected");
            }
            Line::Connected { peer, validator: None, address, direction } => {
                debug!(peer, address, direction, "peer connected");
            }
            Line::Lost { peer, validator: Some(key) } => info!(validator = key.short(), peer, "validator lost"),
            Line::Lost { peer, validator: None } => debug!(peer, "peer lost"),
            Line::Stalled(why) => warn!("{why}"),
            Line::GoesOn => info!("blocks are decided again"),
            Line::NotInSet(key) => warn!(
                validator = %key,
                "configured as a validator, but the key is not in the set: this node decides nothing; join by: {JOIN_COMMAND}"
            ),
            Line::InSet { key, power } => {
                info!(validator = key.short(), power, "this node is in the set of validators")
            }
            Line::Submitted { job, sender } => info!(%job, sender = sender.short(), "job submitted"),
            Line::Ended { job, status: JobStatus::Completed, fee, .. } => info!(%job, fee, "job completed"),
            Line::Ended { job, status, fee, error } => {
                let status = format!("{status:?}").to_lowercase();
                info!(%job, fee, error = error.as_deref().unwrap_or_default(), "job {status}");
            }
        }
    }
}

/// Peers at the last look, with their validator keys.
#[derive(Default)]
struct Peers(BTreeMap<String, Option<PublicKey>>);

impl Peers {
    fn seen(&mut self, now: &[PeerView]) -> Vec<Line> {
        let mut lines = vec![];
        for peer in now {
            // A key is known a moment after the connection: the peer is named again then.
            if self.0.get(&peer.peer_id) != Some(&peer.validator) {
                lines.push(Line::Connected {
                    peer: peer.peer_id.clone(),
                    validator: peer.validator,
                    address: peer.address.clone(),
                    direction: peer.direction.clone(),
                });
            }
        }
        let after: BTreeMap<_, _> = now.iter().map(|peer| (peer.peer_id.clone(), peer.validator)).collect();
        let before = std::mem::replace(&mut self.0, after);
        let lost = before.into_iter().filter(|(peer, _)| !self.0.contains_key(peer));
        lines.extend(lost.map(|(peer, validator)| Line::Lost { peer, validator }));
        lines
    }
}

/// Whether blocks come, and whether the own key has a voice.
#[derive(Default)]
struct Chain {
    stalled: bool,
    power: Option<u64>,
}

impl Chain {
    fn seen(&mut self, net: &NetView) -> Vec<Line> {
        let mut lines = vec![];
        match &net.stalled {
            Some(why) if !self.stalled => lines.push(Line::Stalled(why.clone())),
            None if self.stalled => lines.push(Line::GoesOn),
            _ => {}
        }
        self.stalled = net.stalled.is_some();
        if let Some(key) = net.validator {
            let power = net.validator_power;
            let before = self.power.replace(power);
            match (before, power) {
                (None | Some(1..), 0) => lines.push(Line::NotInSet(key)),
                (None | Some(0), 1..) => lines.push(Line::InSet { key, power }),
                _ => {}
            }
        }
        lines
    }
}

/// Jobs that run, as far as they were seen.
#[derive(Default)]
struct Jobs(BTreeSet<JobId>);

impl Jobs {
    fn changed(&mut self, job: &JobView, head: Height) -> Vec<Line> {
        if job.status.is_terminal() {
            let ended =
                Line::Ended { job: job.job_id, status: job.status, fee: job.fee.to_string(), error: job.error.clone() };
            return if self.0.remove(&job.job_id) { vec![ended] } else { vec![] };
        }
        if self.0.len() >= JOBS_MAX || !self.0.insert(job.job_id) {
            return vec![];
        }
        let is_fresh = head.0.saturating_sub(job.submitted_height.0) <= FRESH;
        if is_fresh { vec![Line::Submitted { job: job.job_id, sender: job.sender }] } else { vec![] }
    }
}

#[cfg(test)]
mod tests {
    use types::ids::{Amount, TimeMs};
    use types::job::Stage;
    use types::keys::SecretKey;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        SecretKey::from_seed([seed; 32]).public()
    }

    fn peer(id: &str, validator: Option<PublicKey>) -> PeerView {
        PeerView {
            peer_id: id.into(),
            address: "/ip4/127.0.0.1/tcp/1".into(),
            direction: "in".into(),
            validator,
            height: None,
            score_milli: 0,
            rtt_ms: None,
        }
    }

    #[test]
    fn peers_are_told_once_when_they_come_and_when_they_go() {
        let mut peers = Peers::default();
        assert!(matches!(&peers.seen(&[peer("a", None)])[..], [Line::Connected { validator: None, .. }]));
        assert!(matches!(&peers.seen(&[peer("a", Some(key(1)))])[..], [Line::Connected { validator: Some(_), .. }]));
        assert_eq!(peers.seen(&[peer("a", Some(key(1)))]), []);
        assert_eq!(peers.seen(&[]), [Line::Lost { peer: "a".into(), validator: Some(key(1)) }]);
    }

    #[test]
    fn a_stall_and_the_own_voice_are_told_when_they_change() {
        let net = |stalled: Option<&str>, power| NetView {
            peer_id: "a".into(),
            listen: vec![],
            peers: 0,
            validators_connected: 1,
            validators: 4,
            validator: Some(key(1)),
            validator_power: power,
            block_age_ms: 0,
            stalled: stalled.map(str::to_string),
            mesh: vec![],
        };
        let mut chain = Chain::default();
        assert_eq!(chain.seen(&net(None, 0)), [Line::NotInSet(key(1))]);
        assert_eq!(chain.seen(&net(None, 0)), []);
        assert_eq!(chain.seen(&net(Some("no block"), 5))[..1], [Line::Stalled("no block".into())]);
        assert_eq!(chain.seen(&net(Some("no block"), 7)), []);
        assert_eq!(chain.seen(&net(None, 0)), [Line::GoesOn, Line::NotInSet(key(1))]);
        assert_eq!(chain.seen(&net(None, 3)), [Line::InSet { key: key(1), power: 3 }]);
    }

    #[test]
    fn a_job_begins_and_ends_once() {
        let job = |status, submitted| JobView {
            job_id: JobId::new([1; 32]),
            status,
            stage: Stage::Prove,
            sender: key(2),
            submitted_height: Height(submitted),
            submitted_ms: TimeMs(0),
            deadline_ms: TimeMs(1),
            fee: Amount(7),
            escrow: Amount(9),
            tasks: vec![],
            error: None,
            receipt_ready: false,
        };
        let mut jobs = Jobs::default();
        assert!(matches!(jobs.changed(&job(JobStatus::Running, 10), Height(10))[..], [Line::Submitted { .. }]));
        assert_eq!(jobs.changed(&job(JobStatus::Running, 10), Height(11)), []);
        assert!(matches!(jobs.changed(&job(JobStatus::Completed, 10), Height(12))[..], [Line::Ended { .. }]));
        // Its receipt became ready, or its record went: no second end.
        assert_eq!(jobs.changed(&job(JobStatus::Completed, 10), Height(13)), []);
        // One that ran before this node started is not new.
        assert_eq!(jobs.changed(&job(JobStatus::Running, 10), Height(100)), []);
    }
}
