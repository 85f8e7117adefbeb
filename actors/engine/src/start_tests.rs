//! The whole tree of one node in this process: what happens when its actors die.

use std::time::Instant;

use storage::BlobLimits;
use types::genesis::{Genesis, GenesisAccount, GenesisValidator};
use types::ids::{Amount, TimeMs};
use types::keys::SecretKey;
use types::params::Params;
use types::transaction::{Action, SenderTx};

use super::*;
use crate::api::views::TxStatus;
use crate::config::{ExecutorConfig, ProverConfig};
use crate::supervisor::StopReason;
use crate::testkit::PATIENCE;

fn account() -> SecretKey {
    SecretKey::from_seed([2; 32])
}

fn config(home: &std::path::Path) -> EngineConfig {
    // A fixed port, as a real node has: a swarm that is left behind would hold it.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let consensus = SecretKey::from_seed([1; 32]);
    let params = Params { block_ms: 50, empty_block_ms: 100, ..Params::standard() };
    let owner = account().public();
    let genesis = Genesis {
        chain_id: "tree-test".into(),
        time_ms: wall_clock(),
        params,
        validators: vec![GenesisValidator { key: consensus.public(), power: 1, account: owner, stake: Amount(1) }],
        provers: vec![],
        accounts: vec![GenesisAccount { account: owner, balance: Amount(1_000) }],
    };
    let worker_exe = std::env::current_exe().unwrap();
    EngineConfig {
        home: home.to_path_buf(),
        genesis,
        node_key_seed: [3; 32],
        consensus_key: Some(consensus),
        account: account(),
        uptime_ms: 600_000,
        prover: Some(ProverConfig {
            key: account(),
            worker_exe: worker_exe.clone(),
            threads: 1,
            memory_bytes: 1 << 30,
            idle_ms: 1_000,
            warm_at_start: false,
            backend: prover::fleet::BackendChoice::Cpu,
            gpu_exe: "proofmesh-gpu".into(),
            devices: vec![],
            exclude: vec![],
        }),
        executor: ExecutorConfig { worker_exe, memory_bytes: 1 << 30, seconds_max: 10 },
        listen: vec![format!("/ip4/127.0.0.1/tcp/{port}")],
        external: vec![],
        bootstrap: vec![],
        testnet: true,
        blobs: BlobLimits { budget: 1 << 30, disk_reserve: 0 },
        crossings: Default::default(),
    }
}

async fn transfer(engine: &EngineHandle, nonce: u64) -> TxStatus {
    let to = SecretKey::from_seed([9; 32]).public();
    let genesis = engine.genesis_hash();
    let action = Action::Transfer { to, amount: Amount(10) };
    let expires_ms = TimeMs(wall_clock().0 + 600_000);
    let tx = SenderTx { genesis, sender: account().public(), nonce, expires_ms, trace: 0, action }.sign(&account());
    engine.submit(tx, PATIENCE).await.unwrap().status
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_actor_outside_of_the_safety_subtree_comes_back_with_the_state_intact() {
    let home = tempfile::tempdir().unwrap();
    let engine = start(config(home.path())).await.unwrap();
    assert!(matches!(transfer(&engine, 0).await, TxStatus::Decided { .. }));
    let mut killed = Vec::new();
    for subtree in ["network", "app", "edge"] {
        for (name, cell) in engine.tree().children(subtree).await {
            let cell = cell.unwrap();
            killed.push((subtree, name, cell.get_id()));
            cell.kill();
        }
    }
    let names: Vec<_> = killed.iter().map(|(_, name, _)| *name).collect();
    let expected = [
        "serve",
        "link",
        "sync",
        "blobs",
        "mempool",
        "availability",
        "votes",
        "fraud",
        "verifier",
        "uptime",
        "prover",
        "scheduler",
        "events",
    ];
    assert_eq!(names, expected);
    let seen = engine.head().unwrap().height;
    for (subtree, name, old) in killed {
        until(name, async || {
            let children = engine.tree().children(subtree).await;
            children.iter().any(|(n, cell)| *n == name && cell.as_ref().is_some_and(|c| c.get_id() != old))
        })
        .await;
    }
    // Consensus did not even notice, and what the others serve is what it was.
    until("blocks", async || engine.head().unwrap().height.0 > seen.0 + 2).await;
    assert!(matches!(transfer(&engine, 1).await, TxStatus::Decided { .. }));
    let balance = engine.account(SecretKey::from_seed([9; 32]).public()).await.unwrap().balance;
    assert_eq!(balance, Amount(20));
    assert!(engine.net().is_ok());
    let (metrics, _) = engine.metrics_text().await.unwrap();
    for line in ["service_restart_count{actor=\"link\"} 1", "service_restart_count_total{actor=\"mempool\"} 1"] {
        assert!(metrics.contains(line), "{line}:\n{metrics}");
    }
    assert!(metrics.contains("service_restart_count{actor=\"consensus\"} 0"));
    engine.shutdown().await;
    assert_eq!(engine.stopped().await, StopReason::Shutdown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_of_the_safety_subtree_takes_the_node_down() {
    for victim in ["wal and signer", "store", "consensus"] {
        let home = tempfile::tempdir().unwrap();
        let engine = start(config(home.path())).await.unwrap();
        until("a block", async || engine.head().unwrap().height.0 > 0).await;
        let children = engine.tree().children("safety").await;
        let cell = children.into_iter().find(|(name, _)| *name == victim).unwrap().1.unwrap();
        cell.kill();
        let reason = tokio::time::timeout(PATIENCE, engine.stopped()).await.unwrap();
        assert!(matches!(&reason, StopReason::Safety(why) if why.contains(victim)), "{victim}: {reason:?}");
        engine.shutdown().await;
    }
}
