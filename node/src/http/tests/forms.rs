//! What a call may look like: its id, and the cursor of a list.

use serde_json::{Value, json};

use super::Node;

#[tokio::test(flavor = "multi_thread")]
async fn every_id_is_answered_or_refused() {
    let node = Node::start(|_| ()).await;
    let call = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"chain_head","params":[]}}"#);
    for id in ["1", "-1", "1.5", "18446744073709551616", "\"a\"", "null"] {
        let (status, _, body) = node.request("POST", "/", call(id).as_bytes()).await;
        let text = String::from_utf8(body).unwrap();
        assert_eq!(status, 200, "{id}: {text}");
        assert!(text.contains(&format!("\"id\":{id}")), "{id}: {text}");
        assert!(text.contains("edge-test"), "{id}: {text}");
    }
    for id in ["true", "{}", "[1]", "1,\"id\":2"] {
        let (status, answer) = node.json("POST", "/", call(id).as_bytes()).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32600)), "{id}: {answer}");
        assert_eq!(answer["id"], Value::Null, "{id}");
    }
    let notification = r#"{"jsonrpc":"2.0","method":"chain_head"}"#;
    for text in [notification.to_string(), format!("[{notification}]")] {
        let (status, _, body) = node.request("POST", "/", text.as_bytes()).await;
        assert_eq!((status, body.as_slice()), (204, b"".as_slice()), "{text}");
    }
    let mixed = format!("[{},{notification},{},{},[[1]]]", call("-1"), call("true"), call("2"));
    let (status, answers) = node.json("POST", "/", mixed.as_bytes()).await;
    let ids: Vec<&Value> = answers.as_array().unwrap().iter().map(|answer| &answer["id"]).collect();
    assert_eq!((status, ids), (200, vec![&json!(-1), &Value::Null, &json!(2), &Value::Null]), "{answers}");
    assert_eq!((&answers[1]["error"]["code"], &answers[3]["error"]["code"]), (&json!(-32600), &json!(-32600)));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_cursor_is_refused() {
    let node = Node::start(|_| ()).await;
    let foreign = "00".repeat(41);
    for cursor in ["xx", "", "ab", foreign.as_str()] {
        let refused = node.call("job_list", json!({ "after": cursor })).await;
        assert_eq!(refused["error"]["code"], -32602, "{cursor}: {refused}");
        assert_eq!(refused["error"]["data"]["field"], "after", "{refused}");
        assert!(refused["error"]["data"]["limit"].is_string(), "{refused}");
    }
    assert!(node.call("job_list", json!({})).await["error"].is_null());
    node.stop().await;
}

/// The words in backquotes of a cell.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_lists_every_method_with_its_parameters() {
    let reference = include_str!("../../../README.md");
    let section = reference.split("## JSON-RPC").nth(1).unwrap().split("### Errors").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let rows: Vec<Vec<&str>> = rows.map(|row| row.split('|').map(str::trim).collect()).collect();
    let mut listed: Vec<&str> = rows.iter().map(|row| quoted(row[1])[0]).collect();
    let mut known = crate::rpc::NAMES.to_vec();
    listed.sort_unstable();
    known.sort_unstable();
    assert_eq!(listed, known, "node/README.md lists other methods than there are");
    let node = Node::start(|_| ()).await;
    for row in rows.iter().filter(|row| !row[1].contains("ubscribe")) {
        let refused = node.call(quoted(row[1])[0], json!({"nonsense": 1})).await;
        let taken = refused["error"]["data"]["limit"].as_str().unwrap_or_default().to_string();
        let listed = if row[2] == "none" { "none".to_string() } else { quoted(row[2]).join(", ") };
        assert_eq!(listed, taken, "parameters of {} in node/README.md", row[1]);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_the_alert_rules_is_there() {
    let rules = include_str!("../../../deploy/alerts.yml");
    let node = Node::start(|_| ()).await;
    let (_, _, text) = node.request("GET", "/metrics", b"").await;
    let text = String::from_utf8(text).unwrap();
    let samples: Vec<&str> =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(['{', ' ']).next().unwrap()).collect();
    let mut named = 0;
    for expression in rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")) {
        // Metric names are the words with an underline that are no function; labels stand in brackets.
        let outside = expression.split('{').map(|part| part.split_once('}').map_or(part, |(_, rest)| rest));
        let words: Vec<&str> =
            outside.flat_map(|part| part.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))).collect();
        for word in words.into_iter().filter(|word| word.contains('_') && *word != "histogram_quantile") {
            named += 1;
            assert!(samples.contains(&word), "{word} of '{expression}' is no metric of a node that just started");
        }
    }
    assert!(named >= 14, "only {named} metrics were found in the rules");
    node.stop().await;
}
