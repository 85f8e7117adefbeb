//! Commands that need an OpenCL loader are those of the binary `proofmesh-gpu`, which lies beside this one: `prover
//! devices` asks it, `bench air` and `bench cairo --backend opencl` hand their arguments on, so that the node itself starts
//! on machines without a loader.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use prover::fleet::list;
use serde_json::{Value, json};

use super::output::{plain, table};
use super::{ClientArgs, Context, Output};
use crate::client::{Client, block_on};
use crate::config::{Config, layers};
use crate::failure::Failure;
use crate::home::Home;

/// Name of the binary beside this one.
const BINARY: &str = "proofmesh-gpu";
/// What to do when it is missing.
const BUILD: &str = "build it with `cargo build --release --workspace`, and keep it beside the node's own binary or name it \
                     by prover.gpu_binary";

/// Arguments that are handed on as they are.
#[derive(Debug, Args)]
pub(crate) struct GpuArgs {
    /// Options of the command; `--help` lists them.
    #[arg(value_name = "OPTIONS", num_args = 0.., trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Where the binary is: where the configuration says, or beside this one, whose path is `own`.
pub(super) fn binary(config: &Config, own: &Path) -> PathBuf {
    match config.prover.gpu_binary.as_str() {
        "" => own.with_file_name(BINARY),
        path => PathBuf::from(path),
    }
}

fn own() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::error("gpu", format!("own path: {error}")))
}

/// Runs `proofmesh-gpu` with `command`, the arguments and, if it is wanted, `--json`; its output is the answer.
pub(super) fn run(out: Output, home: Option<&Path>, command: &[&str], args: &GpuArgs) -> Result<(), Failure> {
    run_with(out, home, command, &args.rest)
}

/// The configuration of the home, or the default one where there is no home.
fn config(home: Option<&Path>) -> Result<Config, Failure> {
    match Home::locate(home) {
        Ok(home) => Ok(layers::load(&home, vec![])?.config),
        Err(_) => Ok(Config::default()),
    }
}

/// As [`run`], with arguments that were put together here.
pub(super) fn run_with(out: Output, home: Option<&Path>, command: &[&str], args: &[OsString]) -> Result<(), Failure> {
    let binary = binary(&config(home)?, &own()?);
    let json = (out.json() && !args.iter().any(|word| word == "--json")).then_some("--json");
    let status = Command::new(&binary).args(command).args(args).args(json).status().map_err(|error| {
        Failure::error("gpu_binary", format!("{} cannot be started: {error}", binary.display())).remedy(BUILD)
    })?;
    if status.success() { Ok(()) } else { Err(Failure::error("gpu", format!("{BINARY} ended with {status}"))) }
}

/// The devices of this machine, each with what the node that runs here thinks of it.
pub(super) fn devices(context: &Context, args: &ClientArgs) -> Result<(), Failure> {
    let config = layers::load(&context.home, vec![])?.config;
    let binary = binary(&config, &own()?);
    let node = node_status(context, args);
    let listing = block_on(async {
        let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        list::listing(&binary, &environment).await.map_err(|e| refused(&e, node.as_ref()))
    })?;
    let odd = |e: &dyn std::fmt::Display| Failure::error("gpu", format!("{BINARY}: {e}")).remedy(BUILD);
    let known = list::parse(&listing).map_err(|e| odd(&e))?;
    let problems = list::unmatched(&config.prover.devices, &config.prover.exclude, &known);
    let listing: Value = serde_json::from_str(&listing).map_err(|e| odd(&e))?;
    let listed = listing["devices"].as_array().cloned().unwrap_or_default();
    let devices: Vec<Value> = listed
        .into_iter()
        .map(|mut device| {
            let seen = node.as_ref().and_then(|node| node["devices"].as_array());
            let same = |known: &&Value| known["index"] == device["index"] && known["name"] == device["name"];
            device["node"] = seen.and_then(|list| list.iter().find(same)).cloned().unwrap_or(Value::Null);
            device
        })
        .collect();
    let node = node.map(|node| {
        json!({ "backend": node["backend"], "backend_reason": node["backend_reason"], "capacity": node["capacity"] })
    });
    context.out.answer(&json!({ "devices": devices, "problems": problems, "node": node }), text)
}

/// Settings that name no device, a line each.
pub(super) fn problems(list: &Value) -> String {
    let found = |problem: &Value| match problem["found"].as_array().map(Vec::as_slice) {
        None | Some([]) => "none".to_owned(),
        Some(devices) => devices.iter().map(plain).collect::<Vec<_>>().join(", "),
    };
    let line = |problem: &Value| {
        let [field, value, remedy] = ["field", "value", "remedy"].map(|name| plain(&problem[name]));
        format!("{field}: {value:?} is no device of this machine; there are: {}; {remedy}\n", found(problem))
    };
    list.as_array().into_iter().flatten().map(line).collect()
}

/// What the node's prover says, if a node answers.
fn node_status(context: &Context, args: &ClientArgs) -> Option<Value> {
    let client = Client::of(&context.home, args).ok()?;
    block_on(client.call("prover_status", json!([]))).ok()
}

/// No listing, with what the node has made of the same.
fn refused(error: &list::AskError, node: Option<&Value>) -> Failure {
    let text = error.to_string();
    let (message, remedy) = text.split_once(". Remedy: ").unwrap_or((&text, BUILD));
    let node = node.map_or_else(String::new, |node| {
        format!("; the node's backend is {}: {}", plain(&node["backend"]), plain(&node["backend_reason"]))
    });
    let code = if matches!(error, list::AskError::NoBinary { .. }) { "gpu_binary" } else { "gpu" };
    Failure::error(code, format!("{message}{node}")).remedy(remedy)
}

fn text(answer: &Value) -> String {
    let mib = |device: &Value| device["memory_bytes"].as_u64().map_or(0, |bytes| bytes >> 20).to_string();
    let ms = |value: &Value| value.as_f64().map_or_else(|| "-".into(), |ms| format!("{ms:.1}"));
    let row = |device: &Value| {
        let node = &device["node"];
        let (state, reason) = match (node["state"].as_str(), device["refusal"].as_str()) {
            (Some(state), _) => (state.to_owned(), plain(&node["reason"])),
            (None, Some("")) => ("usable".to_owned(), String::new()),
            (None, refusal) => ("refused".to_owned(), refusal.unwrap_or_default().to_owned()),
        };
        let (device_ms, cpu_ms) = (ms(&node["speed"]["device_ms"]), ms(&node["speed"]["cpu_ms"]));
        let known = ["index", "name", "kind", "driver"].map(|name| plain(&device[name]));
        known.into_iter().chain([mib(device), state, device_ms, cpu_ms, reason]).collect::<Vec<String>>()
    };
    let rows: Vec<Vec<String>> = answer["devices"].as_array().into_iter().flatten().map(row).collect();
    let mut text = match rows.as_slice() {
        [] => "no OpenCL device: the platforms that are registered have none\n".into(),
        rows => {
            table(&["index", "name", "kind", "driver", "memory_mib", "state", "device_ms", "cpu_ms", "reason"], rows)
        }
    };
    text.push_str(&problems(&answer["problems"]));
    let node = &answer["node"];
    text.push_str(&match node["backend"].as_str() {
        Some(backend) => format!("the node's backend is {backend}: {}\n", plain(&node["backend_reason"])),
        None => "no node answers: nothing is known of speeds and failures\n".into(),
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_lies_beside_the_node_or_where_the_configuration_says() {
        let own = Path::new("/opt/bin/proofmesh");
        assert_eq!(binary(&Config::default(), own), Path::new("/opt/bin/proofmesh-gpu"));
        let mut config = Config::default();
        config.prover.gpu_binary = "/usr/lib/x".into();
        assert_eq!(binary(&config, own), Path::new("/usr/lib/x"));
    }

    #[test]
    fn devices_are_shown_with_what_the_node_knows() {
        let device =
            json!({"index": 0, "name": "A", "kind": "gpu", "driver": "1", "memory_bytes": 1 << 30, "refusal": ""});
        let mut seen = device.clone();
        seen["node"] =
            json!({"state": "disabled", "reason": "it crashed", "speed": {"device_ms": 1.25, "cpu_ms": 9.0}});
        let node = json!({"backend": "cpu", "backend_reason": "A is disabled"});
        let shown = text(&json!({"devices": [seen], "node": node}));
        for word in ["disabled", "it crashed", "1.2", "9.0", "1024", "the node's backend is cpu: A is disabled"] {
            assert!(shown.contains(word), "{word}: {shown}");
        }
        let problem = json!({"field": "prover.devices", "value": "x", "found": ["0 A"], "remedy": "name another"});
        let named = text(&json!({"devices": [device.clone()], "problems": [problem], "node": null}));
        assert!(named.contains("prover.devices: \"x\" is no device") && named.contains("0 A; name another"), "{named}");
        let alone = text(&json!({"devices": [device], "node": null}));
        assert!(alone.contains("usable") && alone.contains("no node answers"), "{alone}");
        assert!(text(&json!({"devices": [], "node": null})).contains("no OpenCL device"));
        let loader = list::AskError::NoLoader { detail: "libOpenCL.so.1".into() };
        let failure = refused(&loader, Some(&node));
        assert!(failure.message.contains("libOpenCL.so.1") && failure.message.contains("A is disabled"), "{failure}");
        assert!(failure.remedy.as_ref().is_some_and(|remedy| remedy.contains("ocl-icd")), "{failure}");
    }
}
