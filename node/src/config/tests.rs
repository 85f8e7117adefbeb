//! Precedence, unknown keys, types and limits of the configuration.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Value;

use super::layers::{Flags, Origin, Resolved, resolve};
use super::{Config, template};
use crate::failure::{Exit, Failure};

fn with(text: &str, env: &[(&str, &str)], flags: Flags) -> Result<Resolved, Failure> {
    let env: Vec<(String, String)> = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    resolve(Path::new("config.toml"), text, env.into_iter(), flags)
}

#[test]
fn flags_go_before_environment_before_file_before_defaults() {
    let file = "[rpc]\nrate_per_s = 7\nrate_burst = 8\nlisten = \"127.0.0.1:1\"\n[node]\nvalidator = true\n";
    let env = [("PROOFMESH_RPC__RATE_PER_S", "70"), ("PROOFMESH_RPC__LISTEN", "127.0.0.1:2"), ("OTHER", "x")];
    let flags = vec![("rpc.listen", Value::String("127.0.0.1:3".into()))];
    let resolved = with(file, &env, flags).unwrap();
    let config = &resolved.config;
    assert_eq!(config.rpc.listen, "127.0.0.1:3");
    assert_eq!(config.rpc.rate_per_s, 70);
    assert_eq!(config.rpc.rate_burst, 8);
    assert_eq!(config.rpc.connections_max, Config::default().rpc.connections_max);
    assert!(config.node.validator);
    let origin = |key: &str| resolved.origins.get(key).unwrap().1.clone();
    assert_eq!(origin("rpc.listen"), Origin::Flag);
    assert_eq!(origin("rpc.rate_per_s"), Origin::Environment("PROOFMESH_RPC__RATE_PER_S".into()));
    assert_eq!(origin("rpc.rate_burst"), Origin::File("config.toml".into()));
    assert_eq!(origin("rpc.connections_max"), Origin::Default);
    let shown = template::show(&resolved, true);
    assert!(shown.contains("rate_per_s = 70  # environment variable PROOFMESH_RPC__RATE_PER_S"), "{shown}");
}

#[test]
fn unknown_keys_are_errors_wherever_they_stand() {
    for (text, env, field) in [
        ("[rpc]\nlisen = \"x\"", vec![], "rpc.lisen"),
        ("[rcp]\nlisten = \"x\"", vec![], "rcp.listen"),
        ("listen = \"x\"", vec![], "listen"),
        ("", vec![("PROOFMESH_RPC__LISEN", "x")], "rpc.lisen"),
        ("", vec![("PROOFMESH_LISTEN", "x")], "listen"),
    ] {
        let failure = with(text, &env, vec![]).unwrap_err();
        assert_eq!((failure.exit, failure.field.as_deref()), (Exit::Config, Some(field)), "{failure}");
        assert!(failure.remedy.as_ref().unwrap().contains("listen"), "{failure}");
    }
    assert!(with("", &[("PROOFMESH_HOME", "/x")], vec![]).is_ok());
    assert_eq!(with("[rpc\n", &[], vec![]).unwrap_err().exit, Exit::Config);
}

#[test]
fn types_and_limits_are_named() {
    for (text, env, field) in [
        ("[rpc]\nrate_per_s = \"fast\"", vec![], "rpc.rate_per_s"),
        ("[rpc]\nrate_per_s = -1", vec![], "rpc.rate_per_s"),
        ("[rpc]\nrate_per_s = 0", vec![], "rpc.rate_per_s"),
        ("[p2p]\nlisten = [1]", vec![], "p2p.listen"),
        ("[p2p]\nlisten = [\"localhost\"]", vec![], "p2p.listen"),
        ("[p2p]\nlisten = []", vec![], "p2p.listen"),
        ("[rpc]\nlisten = \"localhost\"", vec![], "rpc.listen"),
        ("[log]\nformat = \"xml\"", vec![], "log.format"),
        ("[log]\nfilter = \"a=b=c\"", vec![], "log.filter"),
        ("[prover]\nbackend = \"cuda\"", vec![], "prover.backend"),
        ("[prover]\ndevices = [\"\"]", vec![], "prover.devices"),
        ("[prover]\ndevices = [0]", vec![], "prover.devices"),
        ("[prover]\nbackend = \"cpu\"\ndevices = [\"0\"]", vec![], "prover.devices"),
        ("[prover]\ndevices = [\"0\", \"1\"]\nexclude = [\"1\"]", vec![], "prover.exclude"),
        ("", vec![("PROOFMESH_PROVER__BACKEND", "gpu")], "prover.backend"),
        ("", vec![("PROOFMESH_NODE__VALIDATOR", "yes")], "node.validator"),
        ("", vec![("PROOFMESH_RPC__CONNECTIONS_MAX", "1")], "rpc.connections_max"),
    ] {
        let failure = with(text, &env, vec![]).unwrap_err();
        assert_eq!((failure.exit, failure.field.as_deref()), (Exit::Config, Some(field)), "{failure}");
        assert!(failure.message.contains("from"), "{failure}");
    }
}

#[test]
fn devices_are_lists_of_numbers_and_names() {
    let env = [("PROOFMESH_PROVER__DEVICES", "0, RTX 4090"), ("PROOFMESH_PROVER__BACKEND", "opencl")];
    let flags = vec![("prover.exclude", Value::Array(vec![Value::String("cpu".into())]))];
    let config = with("[prover]\nbackend = \"auto\"", &env, flags).unwrap().config;
    assert_eq!(config.prover.devices, ["0", "RTX 4090"]);
    assert_eq!(config.prover.exclude, ["cpu"]);
    assert_eq!(config.prover_backend().unwrap().name(), "opencl");
    let failure = with("[prover]\nbackend = \"cuda\"", &[], vec![]).unwrap_err();
    assert_eq!((failure.value.as_deref(), failure.limit.as_deref()), (Some("cuda"), Some("auto, cpu or opencl")));
    assert!(failure.remedy.is_some());
}

#[test]
fn addresses_may_be_short() {
    let env =
        [("PROOFMESH_P2P__BOOTSTRAP", "127.0.0.1:5, /ip4/10.0.0.1/tcp/6/p2p/abc"), ("PROOFMESH_NODE__PROVER", "1")];
    let config = with("[p2p]\nlisten = [\"[::1]:9\"]", &env, vec![]).unwrap().config;
    assert_eq!(config.p2p.listen, ["/ip6/::1/tcp/9"]);
    assert_eq!(config.p2p.bootstrap, ["/ip4/127.0.0.1/tcp/5", "/ip4/10.0.0.1/tcp/6/p2p/abc"]);
    assert!(config.node.prover);
}

#[test]
fn every_key_is_documented_and_the_template_reads_back() {
    let defaults = with("", &[], vec![]).unwrap();
    let known: Vec<&str> = defaults.origins.keys().map(String::as_str).collect();
    let mut documented: Vec<&str> = template::KEYS.iter().map(|(key, _)| *key).collect();
    documented.sort_unstable();
    assert_eq!(documented, known);
    let plain = template::render(&defaults, &BTreeMap::new());
    assert_eq!(with(&plain, &[], vec![]).unwrap().config, Config::default());
    let values = BTreeMap::from([("node.validator", Value::Boolean(true)), ("rpc.rate_burst", Value::Integer(9))]);
    let written = with(&template::render(&defaults, &values), &[], vec![]).unwrap().config;
    assert!(written.node.validator && written.rpc.rate_burst == 9);
    // With every comment sign of a default removed it is still a valid file.
    let open: String = plain
        .lines()
        .map(|l| l.strip_prefix('#').filter(|r| !r.starts_with(' ')).unwrap_or(l))
        .collect::<Vec<_>>()
        .join("\n");
    assert_eq!(with(&open, &[], vec![]).unwrap().config, Config::default());
    assert!(template::meaning("rpc.listen").len() > 10);
}
