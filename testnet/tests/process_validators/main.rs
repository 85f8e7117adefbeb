//! Validators that cheat: real node processes over real sockets, and an adversary process with real keys of the genesis
//! document. Whatever it does, the honest nodes agree, go on, and accuse nobody but the cheat.

mod stage;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stage::{LIMIT, Stage, number};
use testnet::harness::Options;

/// Two votes of the adversary for one slot: at `height`, or at the running one.
fn equivocate(stage: &mut Stage, kind: &str, height: Option<u64>, values: [&str; 2]) -> Result<u64> {
    let first = stage.tell(json!({ "do": "vote", "kind": kind, "height": height, "value": values[0] }))?;
    let height = number(&first["height"])?;
    stage.tell(json!({ "do": "vote", "kind": kind, "height": height, "value": values[1] }))?;
    Ok(height)
}

fn slots(offences: &[Value]) -> Result<Vec<u64>> {
    offences.iter().map(|o| number(&o["height"])).collect()
}

#[test]
fn equivocation_is_recorded_exactly_once_also_for_decided_heights_and_after_a_restart() -> Result<()> {
    let mut stage = Stage::open("equivocation", 4, 1)?;
    let mut heights = Vec::new();
    // At the running height, in both orders.
    for kind in ["prevote", "precommit"] {
        for values in [["nil", "any"], ["any", "nil"], ["any", "any"]] {
            heights.push(equivocate(&mut stage, kind, None, values)?);
            stage.advance(2)?;
        }
    }
    // Half of the network hears them in one order, the other half in the other.
    for (name, node) in [("to0", 0), ("to1", 1)] {
        let only = stage.address(node)?;
        stage.tell(json!({ "do": "identity", "name": name, "only": only }))?;
    }
    let one = stage.tell(json!({ "do": "vote", "kind": "prevote", "value": "any", "via": "to0" }))?;
    let height = number(&one["height"])?;
    let vote =
        |value: &Value, via| json!({ "do": "vote", "kind": "prevote", "height": height, "value": value, "via": via });
    stage.tell(vote(&json!("nil"), "to1"))?;
    stage.tell(vote(&json!("nil"), "to0"))?;
    stage.tell(vote(&one["value"], "to1"))?;
    heights.push(height);
    // For heights that are decided already, in both orders.
    let head = stage.advance(6)?;
    for (below, kind, values) in [
        (2, "prevote", ["nil", "any"]),
        (3, "prevote", ["any", "nil"]),
        (2, "precommit", ["nil", "any"]),
        (3, "precommit", ["any", "nil"]),
    ] {
        heights.push(equivocate(&mut stage, kind, Some(head - below), values)?);
    }
    stage.expect_offences(heights.len())?;
    let mut found = slots(&stage.offences(0)?)?;
    found.sort_unstable();
    heights.sort_unstable();
    ensure!(found == heights, "offences at {found:?}, committed at {heights:?}");

    // A third vote for a slot is the same offence; so is every one after all nodes forgot what they had in memory.
    let again = |stage: &mut Stage, value: &str| {
        stage.tell(json!({ "do": "vote", "kind": "prevote", "height": head - 2, "value": value }))
    };
    again(&mut stage, "any")?;
    // For a height to come, so that every node surely has it before that height is decided.
    let open = stage.height(0)? + 3;
    stage.tell(json!({ "do": "vote", "kind": "precommit", "height": open, "value": "any" }))?;
    stage.reach(open + 1)?;
    for (index, code) in stage.cluster.stop_all()? {
        ensure!(code == 0, "node {index} drained with {code}");
    }
    for index in stage.honest.clone() {
        stage.cluster.start(index)?;
    }
    for index in stage.honest.clone() {
        stage.cluster.wait_height(index, 1, LIMIT)?;
    }
    let now = stage.advance(2)?;
    stage.followed(now)?;
    again(&mut stage, "any")?;
    again(&mut stage, "nil")?;
    stage.advance(2)?;
    stage.expect_offences(heights.len())?;
    // One vote before the restart, the other after it.
    stage.tell(json!({ "do": "vote", "kind": "precommit", "height": open, "value": "nil" }))?;
    stage.expect_offences(heights.len() + 1)?;
    stage.close()
}

/// A spoilt proposal: all honest validators prevote nil in its round, and the height is decided by another proposer.
fn voted_down(stage: &mut Stage, how: &str, via: Option<&str>) -> Result<String> {
    let via: Vec<&str> = via.into_iter().collect();
    let sent = stage.tell(json!({ "do": "propose", "how": how, "via": via }))?;
    let (height, block) = (number(&sent["height"])?, sent["blocks"][0].as_str().context("block")?.to_owned());
    all_nil(stage, how, height)?;
    stage.reach(height)?;
    let decided = stage.block(0, height)?;
    ensure!(decided["hash"] != block.as_str(), "{how}: the spoilt block was decided: {decided}");
    ensure!(decided["round"].as_u64() > Some(0), "{how}: {decided}");
    Ok(block)
}

fn all_nil(stage: &mut Stage, what: &str, height: u64) -> Result<()> {
    let votes = stage.tell(json!({ "do": "votes", "height": height, "round": 0, "kind": "prevote" }))?;
    let votes = votes.as_object().context("votes")?;
    ensure!(votes.len() == stage.honest.len(), "{what}: {votes:?}");
    ensure!(votes.values().all(|v| v == "nil"), "{what}: not all honest validators prevoted nil: {votes:?}");
    Ok(())
}

#[test]
fn spoilt_proposals_get_nil_from_every_honest_validator() -> Result<()> {
    let mut stage = Stage::open("proposals", 4, 1)?;
    // Any transaction will do, for the replay.
    stage.tell(json!({ "do": "weigh" }))?;
    for (how, why) in [
        ("state_root", "header.state_root"),
        ("double_spend", "transaction 1"),
        ("overdraft", "transaction 1"),
        ("replay", "transaction 0"),
        ("last_commit", "last_commit"),
        ("future", "header.parent"),
    ] {
        let block = voted_down(&mut stage, how, None)?;
        for index in stage.honest.clone() {
            stage.expect_log(index, &["voting nil", &block[..8], why])?;
        }
        stage.safe()?;
    }
    // Wrong by form alone: refused at the door and not passed on, so each node is told by the adversary itself.
    for (how, why) in [("oversized", "262144 bytes"), ("other_height", "another height")] {
        stage.tell(json!({ "do": "identity", "name": how }))?;
        for index in stage.honest.clone() {
            let address = stage.address(index)?;
            stage.tell(json!({ "do": "dial", "name": how, "address": address }))?;
        }
        voted_down(&mut stage, how, Some(how))?;
        for index in stage.honest.clone() {
            stage.expect_log(index, &["proposal rejected", why])?;
        }
        stage.safe()?;
    }
    ensure!(stage.offences(0)?.is_empty(), "a wrong proposal is no equivocation");
    stage.close()
}

#[test]
fn silent_slow_and_selective_validators_do_not_stop_the_chain() -> Result<()> {
    let mut stage = Stage::open("senders", 4, 1)?;
    // Only one node is told of the proposal; the others get it from that one.
    let only = stage.address(1)?;
    stage.tell(json!({ "do": "identity", "name": "to1", "only": only }))?;
    let mut relayed = false;
    for _ in 0..4 {
        let sent = stage.tell(json!({ "do": "propose", "how": "nothing", "via": ["to1"] }))?;
        let height = number(&sent["height"])?;
        stage.reach(height)?;
        relayed |= stage.block(0, height)?["hash"] == sent["blocks"][0];
        if relayed {
            break;
        }
    }
    ensure!(relayed, "no proposal that went to one node alone was decided");
    stage.safe()?;
    // A good proposal that comes when everybody has given the round up.
    let late = stage.tell(json!({ "do": "propose", "how": "nothing", "delay_ms": 6_000 }))?;
    let height = number(&late["height"])?;
    all_nil(&mut stage, "too late", height)?;
    stage.reach(height)?;
    ensure!(stage.block(0, height)?["round"].as_u64() > Some(0), "decided in the round that was given up");
    stage.safe()?;
    // Not a word, and no answer to any question: its turns cost a round each.
    stage.tell(json!({ "do": "proposes", "on": false }))?;
    stage.tell(json!({ "do": "answers", "name": "main", "answers": "silent" }))?;
    let from = stage.height(0)?;
    let to = stage.advance(8)?;
    let rounds = (from + 1..=to).map(|h| number(&stage.block(0, h)?["round"])).collect::<Result<Vec<_>>>()?;
    ensure!(rounds.iter().any(|r| *r > 0), "its turn never came: {rounds:?}");
    stage.safe()?;
    ensure!(stage.offences(0)?.is_empty(), "silence is no offence");
    stage.close()
}

#[test]
fn a_late_joiner_refuses_forged_blocks_and_gets_the_chain_from_honest_peers() -> Result<()> {
    let mut stage = Stage::open("sync", 4, 1)?;
    stage.advance(8)?;
    let mut liars = Vec::new();
    for how in ["certificate", "body", "set"] {
        let liar = stage.tell(json!({ "do": "identity", "name": how, "answers": { "forged": how } }))?;
        liars.push(liar);
    }
    // The newcomer knows nobody but the three liars.
    let port = Options::on_free_ports(1)?.base_port;
    let late = stage.cluster.add_follower(0, port)?;
    let config = stage.cluster.node(late)?.home.join("config.toml");
    let addresses: Vec<&str> = liars.iter().filter_map(|l| l["address"].as_str()).collect();
    let text = std::fs::read_to_string(&config)?;
    let line = text.lines().find(|l| l.starts_with("bootstrap = ")).context("bootstrap in config.toml")?;
    std::fs::write(&config, text.replace(line, &format!("bootstrap = {}", json!(addresses))))?;
    stage.cluster.start(late)?;
    for (liar, why) in liars.iter().zip([
        "signature of",
        "the transactions are not those of the header",
        "is not in the validator set of the height",
    ]) {
        let peer = liar["peer_id"].as_str().context("peer_id")?;
        stage.expect_log(late, &["peer sent what is provably wrong", peer, why])?;
        stage.expect_log(late, &["disconnected for its faults", peer, "InvalidSync"])?;
    }
    let head = stage.rpc(late, "chain_head", &json!([]))?;
    ensure!(head["height"] == 0, "the newcomer took a forged block: {head}");
    // A liar that knows honest nodes leads the newcomer to them, whether it likes it or not.
    for how in ["certificate", "body", "set"] {
        let address = stage.address(0)?;
        stage.tell(json!({ "do": "dial", "name": how, "address": address }))?;
    }
    stage.honest.push(late);
    let head = stage.height(0)?;
    stage.reach(head)?;
    stage.safe()?;
    stage.close()
}

fn submit(stage: &Stage, n: u32) -> Result<String> {
    let key = stage.cluster.file().user_key.display().to_string();
    let fibonacci = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/fibonacci/fibonacci.json");
    let (args, prefix) = (format!(r#"{{"first": 1, "second": 1, "n": {n}}}"#), format!("1,1,{n}"));
    let program = fibonacci.display().to_string();
    let command = ["job", "submit", &program, "--args", &args, "--expect-output-prefix", &prefix, "--key", &key];
    let answer = stage.cluster.ask(0, &command)?;
    ensure!(answer["status"] == "decided", "not acknowledged: {answer}");
    Ok(answer["job_id"].as_str().context("job_id")?.to_owned())
}

#[test]
fn false_verdicts_change_nothing_and_two_of_them_convict() -> Result<()> {
    let mut stage = Stage::open("verdicts", 4, 1)?;
    stage.tell(json!({ "do": "weigh" }))?;
    let job = submit(&stage, 2_000)?;
    // Valid, it says, of bytes that are no proof.
    let claim = stage.tell(json!({ "do": "claim", "job": job }))?;
    stage.tell(json!({ "do": "verdict", "say": "valid" }))?;
    let rejected = stage.cluster.wait("the claim to be voted down", LIMIT, |c| {
        let view = c.ask(0, &["job", "status", &job]).ok()?;
        (view["tasks"][0]["attempt"].as_u64()? > claim["attempt"].as_u64()?).then_some(view)
    })?;
    ensure!(rejected["status"] == "running", "{rejected}");
    for index in stage.honest.clone() {
        stage.expect_log(index, &["voted on a claim", &job, "invalid", "Format"])?;
    }
    // Invalid, it says, of a good proof by another prover.
    let good = stage.tell(json!({ "do": "voting", "job": job }))?;
    ensure!(good["prover"] != claim["prover"], "{good}");
    stage.tell(json!({ "do": "verdict", "say": "invalid" }))?;
    let done = stage.cluster.wait_job(0, &job, LIMIT + LIMIT)?;
    ensure!(done["status"] == "completed", "{done}");
    ensure!(done["tasks"][0]["prover"] == good["prover"], "{done} {good}");
    stage.safe()?;
    ensure!(stage.offences(0)?.is_empty(), "a wrong verdict alone is no offence");
    // Both of one claim, it says: that convicts it, once.
    stage.tell(json!({ "do": "verdict", "say": "valid" }))?;
    stage.expect_offences(1)?;
    let offence = stage.offences(1)?.remove(0);
    ensure!(offence["kind"] == "verdicts" && offence["height"] == good["height"], "{offence}");
    stage.close()
}

#[test]
fn two_of_seven_together_neither_fork_nor_stop_the_chain() -> Result<()> {
    let mut stage = Stage::open("two-of-seven", 7, 2)?;
    for (name, node) in [("left", 0), ("right", 4)] {
        let only = stage.address(node)?;
        stage.tell(json!({ "do": "identity", "name": name, "only": only }))?;
    }
    // A spoilt block that both call good is still voted down by all others.
    let spoilt = stage.tell(json!({ "do": "propose", "key": 1, "how": "state_root" }))?;
    let height = number(&spoilt["height"])?;
    for key in [0, 1] {
        let value = &spoilt["blocks"][0];
        stage.tell(json!({ "do": "vote", "key": key, "kind": "prevote", "height": height, "value": value }))?;
        stage.tell(json!({ "do": "vote", "key": key, "kind": "precommit", "height": height, "value": value }))?;
    }
    all_nil(&mut stage, "both call it good", height)?;
    stage.reach(height)?;
    ensure!(stage.block(0, height)?["hash"] != spoilt["blocks"][0], "a spoilt block was decided");
    stage.safe()?;
    // Both silent: all five others are needed for every block.
    stage.tell(json!({ "do": "proposes", "on": false }))?;
    stage.tell(json!({ "do": "answers", "name": "main", "answers": "silent" }))?;
    stage.advance(7)?;
    stage.tell(json!({ "do": "proposes", "on": true }))?;
    stage.tell(json!({ "do": "answers", "name": "main", "answers": "honest" }))?;
    ensure!(stage.offences(0)?.is_empty(), "neither a wrong proposal nor silence is an offence");
    // Last, for a proven cheat may lose its seat: two good blocks for one slot, each shown to one side first; both cheats vote for both of them at every step.
    let sent = stage.tell(json!({ "do": "propose", "key": 0, "how": "nothing", "via": ["left", "right"] }))?;
    let height = number(&sent["height"])?;
    for kind in ["prevote", "precommit"] {
        for (block, via) in [(0, "left"), (1, "right")] {
            for key in [0, 1] {
                let value = &sent["blocks"][block];
                stage.tell(
                    json!({ "do": "vote", "key": key, "kind": kind, "height": height, "value": value, "via": via }),
                )?;
            }
        }
    }
    stage.reach(height)?;
    // Each cheat's two prevotes and two precommits, and the proposer's two proposals.
    stage.expect_offences(5)?;
    let offences = stage.offences(4)?;
    let of_kind = |kind: &str| offences.iter().filter(|o| o["kind"] == kind).count();
    ensure!((of_kind("proposals"), of_kind("votes")) == (1, 4), "{offences:?}");
    ensure!(offences.iter().all(|o| o["height"] == height), "{offences:?}");
    stage.advance(7)?;
    stage.expect_offences(5)?;
    stage.close()
}
