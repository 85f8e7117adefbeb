//! What verdicts do to peers, and what a hostile gossip peer can and can't do.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::time::Duration;

use common::{GENESIS, address, config, hostile, keys, next_gossip, start, tx, vote, wait};
use futures::StreamExt;
use libp2p::Swarm;
use libp2p::gossipsub::{self, IdentTopic};
use network::{NetworkHandle, PeerId, PresenceInput, Verdict};
use types::Wire;
use types::gossip::{ConsensusMessage, Topic};
use types::ids::Height;
use types::limits::VERDICT_BYTES_MAX;

const SECONDS: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reject_costs_score_and_finally_the_connection_and_ignore_costs_nothing() {
    let (one, mut events) = start(config(1, &[])).await;
    let (two, _events_two) = start(config(2, &[address(&one)])).await;
    let meshed = || two.mesh_status().iter().all(|m| m.mesh.len() == 1);
    wait("meshed", SECONDS, meshed).await;
    let of_two = |handle: &NetworkHandle| handle.peers().into_iter().find(|p| p.peer_id == two.peer_id());

    for height in 0..30 {
        two.publish(&vote(2, height));
        let gossip = next_gossip(&mut events, SECONDS).await.unwrap();
        one.report(gossip.id, Verdict::Ignore);
    }
    wait("ignored", SECONDS, || one.metrics().topic(Topic::Consensus).ignored == 30).await;
    let info = of_two(&one).unwrap();
    assert!(info.score >= 0.0 && info.fault_points == 0.0, "{info:?}");

    for (height, points) in [(100, 5.0), (101, 10.0), (102, 15.0)] {
        two.publish(&vote(2, height));
        let gossip = next_gossip(&mut events, SECONDS).await.unwrap();
        one.report(gossip.id, Verdict::Reject);
        let booked = || of_two(&one).is_some_and(|p| p.fault_points > points - 0.1 && p.score < -10.0 * points);
        wait("the fault shows in points and score", SECONDS, booked).await;
    }
    // From here on each further reject disconnects, until the peer is banned at 50 points.
    let mut height = 200;
    while one.metrics().bans_total == 0 {
        height += 1;
        assert!(height < 260, "{:?}", one.metrics());
        // Below zero the peer is out of the mesh, but what it publishes itself still comes.
        let subscribed = || two.mesh_status().iter().all(|m| m.subscribed == 1);
        wait("connected again", SECONDS, || subscribed() || one.metrics().bans_total > 0).await;
        two.publish(&vote(2, height));
        if let Some(gossip) = next_gossip(&mut events, Duration::from_secs(1)).await {
            one.report(gossip.id, Verdict::Reject);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let metrics = one.metrics();
    assert!(metrics.fault_disconnects_total >= 2 && metrics.banned == 1, "{metrics:?}");
    wait("the banned peer stays out", SECONDS, || one.peers().is_empty()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(one.peers().is_empty() && two.mesh_status().iter().all(|m| m.mesh.is_empty()));
    for handle in [one, two] {
        handle.shutdown().await;
    }
}

/// Publishes, and lets the swarm run for a moment.
async fn send(swarm: &mut Swarm<gossipsub::Behaviour>, topic: Topic, data: Vec<u8>) {
    let topic = IdentTopic::new(topic.on_chain(&GENESIS));
    // Once the target has hung up there is nobody to publish to, which the caller finds out by itself.
    let _ = swarm.behaviour_mut().publish(topic, data);
    run(swarm, Duration::from_millis(150)).await;
}

async fn run(swarm: &mut Swarm<gossipsub::Behaviour>, time: Duration) {
    let until = tokio::time::Instant::now() + time;
    while tokio::time::timeout_at(until, swarm.select_next_some()).await.is_ok() {}
}

fn score(handle: &NetworkHandle, peer: PeerId) -> Option<f64> {
    handle.peers().iter().find(|p| p.peer_id == peer).map(|p| p.score)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversize_misplaced_and_garbled_messages_cost_their_sender_and_reach_nobody() {
    let (one, mut events) = start(config(1, &[])).await;
    let mut swarm = hostile(&address(&one), &Topic::ALL).await;
    let peer = *swarm.local_peer_id();
    run(&mut swarm, Duration::from_millis(600)).await;
    let info = one.peers().into_iter().find(|p| p.peer_id == peer).unwrap();
    assert_eq!(info.topics.len(), Topic::ALL.len(), "the foreign topic is not noted");
    assert!(info.score >= 0.0);

    // A newer version is nobody's fault.
    send(&mut swarm, Topic::Consensus, vec![2, 0, 1, 2, 3]).await;
    run(&mut swarm, Duration::from_millis(400)).await;
    assert_eq!(one.metrics().topic(Topic::Consensus).ignored, 1);
    assert!(score(&one, peer).unwrap() >= 0.0);

    // Beyond the topic's frame: dropped by the transport's limit, charged as invalid.
    send(&mut swarm, Topic::Verdict, vec![1; VERDICT_BYTES_MAX + 1000]).await;
    run(&mut swarm, Duration::from_millis(400)).await;
    let after_oversize = score(&one, peer).unwrap();
    assert!(after_oversize <= -90.0, "{after_oversize}");
    assert_eq!(one.metrics().topic(Topic::Verdict).received, 0);

    // Within the frame but longer than the record may be; a record of another topic; plain garbage.
    send(&mut swarm, Topic::Verdict, vec![1; VERDICT_BYTES_MAX + 10]).await;
    send(&mut swarm, Topic::Consensus, tx(3, 1).to_bytes()).await;
    send(&mut swarm, Topic::Block, vec![1, 0, 9, 9]).await;
    run(&mut swarm, Duration::from_millis(400)).await;
    let metrics = one.metrics();
    assert_eq!(metrics.topic(Topic::Verdict).rejected, 1);
    assert_eq!(metrics.topic(Topic::Block).rejected, 1);
    assert_eq!(metrics.topic(Topic::Consensus).rejected, 1);
    assert!(score(&one, peer).unwrap() < after_oversize - 200.0);
    // Presence of another node, signed by a key that is not that node's.
    let input = PresenceInput { height: Height(1), time_ms: common::wall_clock(), prover: None, validator: None };
    let (other, _events) = start(config(5, &[])).await;
    let forged = other.presence(input).sign(&keys(6).0, None, &GENESIS);
    send(&mut swarm, Topic::Presence, forged.to_bytes()).await;
    run(&mut swarm, Duration::from_millis(400)).await;
    assert_eq!(one.metrics().topic(Topic::Presence).rejected, 1);
    send(&mut swarm, Topic::Tx, vec![1, 0]).await;
    wait("the peer is cut off at 20 points", SECONDS, || one.metrics().fault_disconnects_total == 1).await;
    assert!(next_gossip(&mut events, Duration::from_millis(200)).await.is_none(), "nothing reached the node");
    for handle in [one, other] {
        handle.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mesh_doctor_bounces_a_peer_that_lacks_subscriptions() {
    let mut impatient = config(1, &[]);
    impatient.limits.mesh_patience = Duration::from_secs(1);
    let (one, _events) = start(impatient).await;
    let (two, _events_two) = start(config(2, &[address(&one)])).await;
    let mut swarm = hostile(&address(&one), &[Topic::Consensus, Topic::Tx]).await;
    let peer = *swarm.local_peer_id();
    run(&mut swarm, Duration::from_millis(500)).await;
    assert!(one.peers().iter().any(|p| p.peer_id == peer && p.topics == [Topic::Consensus, Topic::Tx]));
    run(&mut swarm, Duration::from_secs(3)).await;
    let metrics = one.metrics();
    assert_eq!((metrics.doctor_bounces_total, metrics.faults_total), (1, 0));
    assert!(one.peers().iter().all(|p| p.peer_id == two.peer_id()) && one.peers().len() == 1);
    for handle in [one, two] {
        handle.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_without_verdicts_is_bounded_by_credits_and_expires_as_ignored() {
    let (one, mut events) = start(config(1, &[])).await;
    let mut swarm = hostile(&address(&one), &Topic::ALL).await;
    let peer = *swarm.local_peer_id();
    for height in 0..700 {
        let topic = IdentTopic::new(Topic::Consensus.on_chain(&GENESIS));
        swarm.behaviour_mut().publish(topic, vote(2, height).to_bytes()).unwrap();
        if height % 50 == 0 {
            run(&mut swarm, Duration::from_millis(20)).await;
        }
    }
    run(&mut swarm, Duration::from_secs(1)).await;
    let counters = one.metrics().topic(Topic::Consensus);
    assert_eq!((counters.received, counters.over_credit), (700, 188), "{counters:?}");
    run(&mut swarm, Duration::from_secs(5)).await;
    let counters = one.metrics().topic(Topic::Consensus);
    assert_eq!((counters.expired, counters.ignored), (512, 700), "{counters:?}");
    assert!(score(&one, peer).is_some_and(|s| s >= 0.0), "an overloaded node blames nobody");
    // A late verdict changes nothing.
    let gossip = next_gossip(&mut events, SECONDS).await.unwrap();
    assert!(ConsensusMessage::from_bytes(&gossip.message.to_bytes()).is_ok());
    one.report(gossip.id, Verdict::Reject);
    wait("late", SECONDS, || one.metrics().late_verdicts_total == 1).await;
    assert_eq!(one.metrics().faults_total, 0);
    one.shutdown().await;
}
