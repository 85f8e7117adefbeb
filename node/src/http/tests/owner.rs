//! The commands of a validator's owner, from the command line to the ledger.

use clap::Parser;
use serde_json::json;
use types::keys::SecretKey;

use super::Node;
use crate::cli::{self, Cli};
use crate::failure::Failure;
use crate::keys;

async fn run(arguments: Vec<String>) -> Result<u8, Failure> {
    let line = Cli::try_parse_from(std::iter::once("proofmesh".to_string()).chain(arguments)).unwrap();
    // Commands make a runtime of their own.
    tokio::task::spawn_blocking(move || cli::run(line, engine::Crossings::default())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_registers_and_changes_a_validator() {
    let node = Node::start(|_| ()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, seed: u8| {
        let path = folder.path().join(name);
        keys::write(&path, &SecretKey::from_seed([seed; 32])).unwrap();
        path.display().to_string()
    };
    let (account, other) = (file("account.key", 2), file("consensus.key", 9));
    let command = |words: &[&str]| {
        let all = ["--json", "validator"].iter().chain(words).map(ToString::to_string);
        let rest = ["--key".to_string(), account.clone(), "--rpc".into(), format!("http://{}", node.address)];
        run(all.chain(rest).collect())
    };
    // The node's own validator keeps its power: a transaction of its owner, in a block.
    let own = SecretKey::from_seed([1; 32]).public().to_string();
    assert_eq!(command(&["update", "--power", "1", "--validator", &own]).await.unwrap(), 0);
    let owner = SecretKey::from_seed([2; 32]).public();
    assert_eq!(node.call("account_nonce", json!([owner])).await["result"]["nonce"], 1);
    // The ledger takes the agreement of the consensus key, which it looks at first, and not so little stake.
    let poor = ["register", "--power", "5", "--stake", "1", "--consensus-key", &other];
    let refused = command(&poor).await.unwrap_err();
    assert_eq!((refused.code.as_str(), refused.field.as_deref()), ("stake_too_small", Some("stake")), "{refused}");
    let stranger = SecretKey::from_seed([9; 32]).public().to_string();
    assert_eq!(command(&["exit", "--validator", &stranger]).await.unwrap_err().code, "not_registered");
    node.stop().await;
}
