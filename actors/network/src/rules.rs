//! Rules of gossip: gossipsub's settings and scores for a chain of few known validators, with the reason for each
//! number.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use libp2p::gossipsub::{
    Behaviour, Config, ConfigBuilder, IdentTopic, MessageAcceptance, MessageAuthenticity, MessageId as GossipId,
    PeerScoreParams, PeerScoreThresholds, TopicHash, TopicScoreParams, ValidationMode, WhitelistSubscriptionFilter,
    score_parameter_decay,
};
use libp2p::metrics::Registry;
use types::gossip::Topic;
use types::ids::GenesisHash;
use types::limits::GOSSIP_BYTES_MAX;

use crate::config::NetworkConfig;
use crate::error::NetworkError;
use crate::event::{MessageId, Verdict};

/// gossipsub with only this chain's topics.
pub(crate) type Gossipsub = Behaviour<libp2p::gossipsub::IdentityTransform, WhitelistSubscriptionFilter>;

/// Heartbeat: several a block, so that meshes repair within a block's time.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(250);
/// First heartbeat after the start; the default of five seconds delays the first blocks.
const HEARTBEAT_FIRST: Duration = Duration::from_millis(100);
/// Heartbeats for which messages are kept: six seconds, so that a slow verdict still finds its message.
const HISTORY: usize = 24;
/// Heartbeats of messages offered to peers outside the mesh.
const HISTORY_GOSSIP: usize = 6;
/// Unjudged messages count as ignored after this time, a second before gossipsub forgets them.
pub(crate) const VERDICT_LIMIT: Duration = Duration::from_secs(5);
/// Envelope of a message: topic name, field tags.
const ENVELOPE_BYTES: usize = 256;
/// Domain of message ids.
const ID_CONTEXT: &str = "proofmesh 2026 gossip message id v1";

/// Score of a proven validator.
pub(crate) const SCORE_VALIDATOR: f64 = 200.0;
/// Score of a configured bootstrap peer.
pub(crate) const SCORE_BOOTSTRAP: f64 = 100.0;
/// Score a fault point costs: at 20 points a stranger is at -200, still above the gossip threshold, and disconnected
/// anyway.
pub(crate) const SCORE_FAULT_POINT: f64 = -10.0;
/// Below this a peer's messages are not processed.
pub(crate) const GRAYLIST: f64 = -2500.0;

/// The message id of data on a topic.
pub(crate) fn message_id(topic: &TopicHash, data: &[u8]) -> MessageId {
    let mut hasher = blake3::Hasher::new_derive_key(ID_CONTEXT);
    hasher.update(&(topic.as_str().len() as u64).to_le_bytes());
    hasher.update(topic.as_str().as_bytes());
    hasher.update(data);
    let mut id = [0u8; 20];
    hasher.finalize_xof().fill(&mut id);
    MessageId(id)
}

/// Our id of a gossipsub id; `None` for an id that this module did not make.
pub(crate) fn own_id(id: &GossipId) -> Option<MessageId> {
    id.0.as_slice().try_into().ok().map(MessageId)
}

/// gossipsub's word for a verdict.
pub(crate) const fn acceptance(verdict: Verdict) -> MessageAcceptance {
    match verdict {
        Verdict::Accept => MessageAcceptance::Accept,
        Verdict::Ignore => MessageAcceptance::Ignore,
        Verdict::Reject => MessageAcceptance::Reject,
    }
}

/// (target, low, high, outbound) of the mesh. Small sets keep everyone in the mesh: gossipsub adds peers only below
/// `low`, and with two instead of three, meshes of four nodes were seen to stay a third empty.
const fn mesh_sizes(validators: usize) -> (usize, usize, usize, usize) {
    match validators {
        0..=5 => (4, 3, 8, 1),
        6..=50 => (6, 4, 12, 2),
        _ => (8, 6, 12, 3),
    }
}

fn config(settings: &NetworkConfig) -> Result<Config, NetworkError> {
    let (n, low, high, outbound) = mesh_sizes(settings.expected_validators);
    let mut builder = ConfigBuilder::default();
    builder
        .protocol_id_prefix(format!("/proofmesh/{}/meshsub", settings.genesis))
        .heartbeat_interval(HEARTBEAT)
        .heartbeat_initial_delay(HEARTBEAT_FIRST)
        .history_length(HISTORY)
        .history_gossip(HISTORY_GOSSIP)
        .duplicate_cache_time(Duration::from_secs(60))
        .fanout_ttl(Duration::from_secs(60))
        .mesh_n(n)
        .mesh_n_low(low)
        .mesh_n_high(high)
        .mesh_outbound_min(outbound)
        .retain_scores(n)
        // A pruned peer may come back after a few blocks' time, not after the default minute.
        .prune_backoff(Duration::from_secs(15))
        .unsubscribe_backoff(Duration::from_secs(2))
        .flood_publish(true)
        .idontwant_message_size_threshold(1 << 10)
        .max_transmit_size(GOSSIP_BYTES_MAX + ENVELOPE_BYTES)
        .max_publish_messages(500)
        .max_control_messages_sent(500)
        .max_control_message_size(16 << 10)
        .max_ihave_messages_heartbeat(10)
        .connection_handler_queue_len(1024)
        // The signature that matters is the application's; the envelope names no author and is not signed.
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message| GossipId::new(&message_id(&message.topic, &message.data).0));
    for topic in Topic::ALL {
        builder.max_transmit_size_for_topic(topic.bytes_max() + ENVELOPE_BYTES, topic_hash(topic, &settings.genesis));
    }
    builder.build().map_err(|e| rule_error("gossip settings", e.to_string()))
}

fn rule_error(field: &'static str, reason: String) -> NetworkError {
    NetworkError::Config { field, value: "computed".into(), reason }
}

/// The gossipsub topic of a chain's topic.
pub(crate) fn ident_topic(topic: Topic, genesis: &GenesisHash) -> IdentTopic {
    IdentTopic::new(topic.on_chain(genesis))
}

/// Its hash (gossipsub's name for it).
pub(crate) fn topic_hash(topic: Topic, genesis: &GenesisHash) -> TopicHash {
    ident_topic(topic, genesis).hash()
}

/// Invalid messages (P4) weigh heavily and are forgotten over ten minutes: -100, -400, -900, -1600, gray list at the
/// fifth. Mesh delivery rates (P3) are off: they punish quiet networks.
fn topic_score() -> TopicScoreParams {
    TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 300.0,
        first_message_deliveries_weight: 0.1,
        first_message_deliveries_decay: score_parameter_decay(Duration::from_secs(60)),
        first_message_deliveries_cap: 100.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -100.0,
        invalid_message_deliveries_decay: score_parameter_decay(Duration::from_secs(600)),
        ..TopicScoreParams::default()
    }
}

fn score(settings: &NetworkConfig) -> PeerScoreParams {
    let topics = Topic::ALL.iter().map(|t| (topic_hash(*t, &settings.genesis), topic_score())).collect();
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    PeerScoreParams {
        topics,
        topic_score_cap: 100.0,
        app_specific_weight: 1.0,
        ip_colocation_factor_weight: -50.0,
        ip_colocation_factor_threshold: 5.0,
        ip_colocation_factor_whitelist: if settings.loopback { HashSet::from(loopback) } else { HashSet::new() },
        behaviour_penalty_weight: -10.0,
        behaviour_penalty_threshold: 6.0,
        behaviour_penalty_decay: score_parameter_decay(Duration::from_secs(600)),
        // A peer that can't keep up for a moment must not drop out of the mesh for it.
        slow_peer_weight: -0.2,
        slow_peer_threshold: 20.0,
        slow_peer_decay: score_parameter_decay(Duration::from_secs(10)),
        retain_score: Duration::from_secs(3600),
        ..PeerScoreParams::default()
    }
}

const THRESHOLDS: PeerScoreThresholds = PeerScoreThresholds {
    gossip_threshold: -500.0,
    publish_threshold: -1000.0,
    graylist_threshold: GRAYLIST,
    accept_px_threshold: 1e9,
    opportunistic_graft_threshold: 1.0,
};

/// The configured behaviour, subscribed to all topics.
pub(crate) fn gossipsub(settings: &NetworkConfig, registry: &mut Registry) -> Result<Gossipsub, NetworkError> {
    let hashes = Topic::ALL.iter().map(|t| topic_hash(*t, &settings.genesis)).collect();
    let filter = WhitelistSubscriptionFilter(hashes);
    let authenticity = MessageAuthenticity::Anonymous;
    let mut gossip = Gossipsub::new_with_subscription_filter(authenticity, config(settings)?, filter)
        .map_err(|e| rule_error("gossip settings", e.to_owned()))?
        .with_metrics(registry.sub_registry_with_prefix("gossipsub"), Default::default());
    gossip.with_peer_score(score(settings), THRESHOLDS).map_err(|e| rule_error("gossip scores", e))?;
    for topic in Topic::ALL {
        gossip
            .subscribe(&ident_topic(topic, &settings.genesis))
            .map_err(|e| rule_error("gossip topics", e.to_string()))?;
    }
    Ok(gossip)
}

#[cfg(test)]
mod tests {
    use types::keys::SecretKey;

    use super::*;

    #[test]
    fn settings_are_consistent_for_every_size() {
        for validators in [0, 1, 4, 5, 6, 50, 51, 100] {
            let mut settings = NetworkConfig::new(GenesisHash::new([3; 32]), SecretKey::from_seed([4; 32]));
            settings.expected_validators = validators;
            let (n, low, high, outbound) = mesh_sizes(validators);
            assert!(outbound <= low && low <= n && n <= high && outbound * 2 <= n && outbound < low);
            let gossip = gossipsub(&settings, &mut Registry::default()).unwrap();
            assert_eq!(gossip.topics().count(), Topic::ALL.len());
        }
        assert!(VERDICT_LIMIT < HEARTBEAT * u32::try_from(HISTORY).unwrap());
    }

    #[test]
    fn ids_depend_on_topic_and_data() {
        let (one, two) = (TopicHash::from_raw("a"), TopicHash::from_raw("ab"));
        let id = message_id(&one, b"bc");
        assert_eq!(id, message_id(&one, b"bc"));
        assert_ne!(id, message_id(&two, b"c"));
        assert_ne!(id, message_id(&one, b"bd"));
        assert_eq!(own_id(&GossipId::new(&id.0)), Some(id));
        assert_eq!(own_id(&GossipId::new(b"short")), None);
    }
}
