//! Several nodes on loopback sockets: joining, gossip, validators, restarts, foreign chains.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::time::{Duration, Instant};

use common::{Announcer, accept_all, address, announce, config, keys, next_gossip, one_of_each, start, vote, wait};
use network::{Event, PeerEvent, PresenceInput, Verdict};
use types::gossip::Topic;
use types::ids::{GenesisHash, Height};

const SECONDS: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_join_through_one_address_and_gossip_on_all_topics() {
    let began = Instant::now();
    let (first, events) = start(config(1, &[])).await;
    let bootstrap = [address(&first)];
    let (mut handles, mut inboxes) = (vec![first.clone()], vec![accept_all(&first, events)]);
    for n in 2..=4 {
        let (handle, events) = start(config(n, &bootstrap)).await;
        inboxes.push(accept_all(&handle, events));
        handles.push(handle);
    }
    let validators: Vec<_> = (1..=4).map(|n| keys(n).1.public()).collect();
    for handle in &handles {
        handle.set_validators(validators.clone());
    }
    let announcers: Vec<Announcer> = handles.iter().zip(1..).map(|(h, n)| Announcer::start(h, n)).collect();
    wait("everybody is connected to everybody", SECONDS, || handles.iter().all(|h| h.peers().len() == 3)).await;
    let meshed = || handles.iter().all(|h| h.mesh_status().iter().all(|m| m.subscribed == 3 && m.mesh.len() == 3));
    wait("all meshes are full", SECONDS, meshed).await;
    println!("connected and meshed after {:?}", began.elapsed());

    for (handle, n) in handles.iter().zip(1..) {
        for message in one_of_each(n, u64::from(n)) {
            assert!(handle.publish(&message).accepted());
        }
    }
    for (inbox, own) in inboxes.iter_mut().zip(1u8..) {
        let mut expected: Vec<_> = (1..=4).filter(|n| *n != own).flat_map(|n| one_of_each(n, u64::from(n))).collect();
        while !expected.is_empty() {
            let gossip = tokio::time::timeout(SECONDS, inbox.recv()).await.expect("all messages arrive").unwrap();
            expected.retain(|message| *message != gossip.message);
        }
    }

    let bound = |h: &network::NetworkHandle| {
        let others = handles.iter().zip(&validators).filter(|(o, _)| o.peer_id() != h.peer_id());
        others
            .into_iter()
            .all(|(o, key)| h.validator_of(&o.peer_id()) == Some(*key) && h.peer_of(key) == Some(o.peer_id()))
    };
    wait("validator keys are bound to peer ids", SECONDS, || handles.iter().all(bound)).await;
    wait("proven validators have the better score", SECONDS, || first.peers().iter().all(|p| p.score >= 200.0)).await;
    let counted = || {
        let metrics = first.metrics();
        (metrics.peers, metrics.validators) == (3, 3)
            && Topic::ALL
                .iter()
                .map(|t| metrics.topic(*t))
                .all(|c| c.received >= 3 && c.published >= 1 && c.rejected == 0)
    };
    wait("messages are counted", SECONDS, counted).await;
    let info = &first.peers()[0];
    assert!(info.agent.starts_with("test-") && info.topics.len() == 5 && info.height == Some(Height(1)), "{info:?}");
    wait("pings have come back", SECONDS, || first.peers().iter().all(|p| p.rtt.is_some())).await;
    let text = first.open_metrics();
    assert!(text.contains("libp2p_bandwidth") && text.contains("gossipsub") && text.ends_with("# EOF\n"), "{text}");

    for announcer in announcers {
        announcer.stop().await;
    }
    for handle in &handles {
        handle.shutdown().await;
    }
    assert_eq!(first.publish(&vote(1, 99)), network::Delivery::Closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_all_dial_each_other_at_once_settle_on_one_connection_a_pair() {
    const NODES: usize = 6;
    // Ports that were free a moment ago; everybody, itself included, is everybody's bootstrap.
    let sockets: Vec<_> = (0..NODES).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let address =
        |socket: &std::net::TcpListener| network::parse_address(&socket.local_addr().unwrap().to_string()).unwrap();
    let addresses: Vec<_> = sockets.iter().map(address).collect();
    drop(sockets);
    let starts = addresses.iter().zip(1..).map(|(address, n)| {
        let mut config = config(n, &addresses);
        config.listen = vec![address.clone()];
        start(config)
    });
    let nodes = futures::future::join_all(starts).await;
    let full =
        || nodes.iter().all(|(h, _)| h.mesh_status().iter().all(|m| m.subscribed == NODES - 1 && m.mesh.len() >= 3));
    let took = wait("everybody is connected and meshed", SECONDS, full).await;
    println!("six nodes settled after {took:?}");
    // Settled means settled: no connection is made or lost any more.
    let made = || nodes.iter().map(|(h, _)| h.metrics().connected_total).sum::<u64>();
    let before = made();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(made(), before);
    assert!(full());
    for (handle, _) in nodes {
        handle.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_with_the_same_peer_id_is_back_in_the_mesh_within_seconds() {
    let (one, events_one) = start(config(1, &[])).await;
    let _inbox_one = accept_all(&one, events_one);
    let (two, events_two) = start(config(2, &[address(&one)])).await;
    let _inbox_two = accept_all(&two, events_two);
    for (handle, n) in [(&one, 1), (&two, 2)] {
        announce(handle, n);
    }
    let three_config = config(3, &[address(&one)]);
    let (three, events) = start(three_config.clone()).await;
    let fixed_port = address(&three);
    announce(&three, 3);
    drop(events);
    wait("three nodes are meshed", SECONDS, || three.mesh_status().iter().all(|m| m.mesh.len() == 2)).await;

    for round in 0..3u64 {
        // The thread ends without good-byes when the last handle goes, as after a kill the sockets just close.
        if round == 0 {
            three.shutdown().await;
        }
        let mut again = three_config.clone();
        again.listen = vec![fixed_port.clone()];
        let (three, mut events) = start(again).await;
        announce(&three, 3);
        let took = wait("the restarted node is meshed again", SECONDS, || {
            three.mesh_status().iter().all(|m| m.mesh.len() == 2)
                && one.mesh_status().iter().all(|m| m.mesh.contains(&three.peer_id()))
                && two.mesh_status().iter().all(|m| m.mesh.contains(&three.peer_id()))
        })
        .await;
        println!("round {round}: back in the mesh after {took:?}");
        one.publish(&vote(1, 100 + round));
        let gossip = next_gossip(&mut events, SECONDS).await.expect("gossip reaches the restarted node");
        assert_eq!(gossip.message, vote(1, 100 + round));
        three.shutdown().await;
    }
    for handle in [one, two] {
        handle.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_instance_with_the_same_key_replaces_the_connection_and_joins_cleanly() {
    let (one, events_one) = start(config(1, &[])).await;
    let _inbox = accept_all(&one, events_one);
    let (old, _old_events) = start(config(2, &[address(&one)])).await;
    wait("the old instance is connected", SECONDS, || one.peers().len() == 1).await;
    tokio::time::sleep(Duration::from_millis(3500)).await;
    // The old instance is not stopped: as when a host vanished and its connection looks alive for a while yet.
    let (new, mut events) = start(config(2, &[address(&one)])).await;
    old.shutdown().await;
    let clean = || {
        one.peers().len() == 1
            && new.mesh_status().iter().all(|m| m.mesh.len() == 1)
            && one.mesh_status().iter().all(|m| m.mesh.len() == 1)
    };
    wait("the new instance is in the mesh", SECONDS, clean).await;
    one.publish(&vote(1, 5));
    assert_eq!(next_gossip(&mut events, SECONDS).await.map(|g| g.message), Some(vote(1, 5)));
    for handle in [one, new] {
        handle.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_another_chain_do_not_mix() {
    let (one, events) = start(config(1, &[])).await;
    let _inbox = accept_all(&one, events);
    let mut foreign = config(2, &[address(&one)]);
    foreign.genesis = GenesisHash::new([8; 32]);
    let (two, mut events) = start(foreign).await;
    let (three, events_three) = start(config(3, &[address(&one)])).await;
    let _inbox_three = accept_all(&three, events_three);
    wait("the node of the same chain is meshed", SECONDS, || {
        one.mesh_status().iter().all(|m| m.mesh == [three.peer_id()])
    })
    .await;
    wait("the foreign node was let go", SECONDS, || two.metrics().disconnected_total >= 1).await;
    one.publish(&vote(1, 1));
    assert!(next_gossip(&mut events, Duration::from_secs(2)).await.is_none());
    assert_eq!(two.peers().len(), 0);
    assert_eq!(one.peers().iter().map(|p| p.peer_id).collect::<Vec<_>>(), [three.peer_id()]);
    assert!(one.metrics().topic(Topic::Consensus).rejected == 0);
    for handle in [one, two, three] {
        handle.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_reaches_nodes_that_are_not_connected_to_its_author_only_after_accept() {
    // A line: one - two - three. The dial plan is told to want one peer only, so that one and three stay apart.
    let (two, mut events_two) = start(config(2, &[])).await;
    let ends = [1, 3].map(|n| {
        let mut end = config(n, &[address(&two)]);
        end.limits.target_peers = 1;
        end
    });
    let [one, three] = ends;
    let (one, _events_one) = start(one).await;
    let (three, mut events_three) = start(three).await;
    wait("the line stands", SECONDS, || two.mesh_status().iter().all(|m| m.mesh.len() == 2)).await;
    for (height, verdict) in [(1, Verdict::Ignore), (2, Verdict::Accept)] {
        one.publish(&vote(1, height));
        let gossip = next_gossip(&mut events_two, SECONDS).await.unwrap();
        assert_eq!((gossip.source, &gossip.message), (one.peer_id(), &vote(1, height)));
        assert!(two.report(gossip.id, verdict).accepted());
    }
    let gossip = next_gossip(&mut events_three, SECONDS).await.unwrap();
    assert_eq!((gossip.source, gossip.message), (two.peer_id(), vote(1, 2)), "the ignored vote was not forwarded");
    for handle in [one, two, three] {
        handle.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_must_be_signed_by_node_and_validator_and_is_not_sent_otherwise() {
    let (one, mut events) = start(config(1, &[])).await;
    let (two, _events_two) = start(config(2, &[address(&one)])).await;
    wait("connected", SECONDS, || one.mesh_status().iter().all(|m| m.mesh.len() == 1)).await;
    let (_, validator) = keys(2);
    let input = PresenceInput {
        height: Height(9),
        time_ms: common::wall_clock(),
        prover: None,
        validator: Some(validator.public()),
    };
    // Signed by another validator than the one named: refused on the own side.
    let wrong = two.presence(input).validator_signature(&keys(3).1, &common::GENESIS);
    assert_eq!(two.announce(two.presence(input), Some(wrong)), network::Delivery::Dropped);
    assert_eq!(two.announce(two.presence(input), None), network::Delivery::Dropped);
    // Too old a record: sent, but not believed.
    let mut old = input;
    old.time_ms = types::ids::TimeMs(input.time_ms.0 - 200_000);
    let presence = two.presence(old);
    let signature = presence.validator_signature(&validator, &common::GENESIS);
    assert!(two.announce(presence, Some(signature)).accepted());
    wait("the old record was ignored", SECONDS, || one.metrics().topic(Topic::Presence).ignored == 1).await;
    assert_eq!(one.validator_of(&two.peer_id()), None);
    announce(&two, 2);
    wait("the good record binds", SECONDS, || one.validator_of(&two.peer_id()) == Some(validator.public())).await;
    let told = async {
        loop {
            if let Some(Event::Peer(PeerEvent::Presence { peer, message })) = events.next().await {
                return (peer, message.presence.height);
            }
        }
    };
    let told = tokio::time::timeout(SECONDS, told).await.unwrap();
    assert_eq!(told, (two.peer_id(), Height(1)));
    for handle in [one, two] {
        handle.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_a_clear_error_and_limits_refuse_connections() {
    let mut small = config(1, &[]);
    small.limits.connections = 2;
    small.limits.reserved_for_validators = 0;
    let (one, _events) = start(small).await;
    let mut same_port = config(9, &[]);
    same_port.listen = vec![address(&one)];
    let error = network::Network::start(same_port).await.unwrap_err().to_string();
    assert!(error.contains("can't listen") && error.contains(&address(&one).to_string()), "{error}");
    let mut others = vec![];
    for n in 2..=4 {
        let mut other = config(n, &[address(&one)]);
        other.limits.target_peers = 1;
        others.push(start(other).await);
    }
    wait("two are connected, one refused", SECONDS, || one.peers().len() == 2 && one.metrics().refused_total > 0).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(one.peers().len(), 2);
    one.shutdown().await;
    for (handle, _) in others {
        handle.shutdown().await;
    }
}
