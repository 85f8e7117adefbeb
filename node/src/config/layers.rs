//! The four sources of configuration, laid over each other: defaults, file, environment, flags. Every key remembers where
//! its value came from; a key that nobody knows is an error wherever it stands, because it is a key misspelt.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use toml::{Table, Value};

use super::Config;
use crate::failure::Failure;
use crate::files;
use crate::home::{Home, is_there};

/// Prefix of environment variables: `PROOFMESH_SECTION__KEY`.
const ENV_PREFIX: &str = "PROOFMESH_";
/// Variables with the prefix that are no configuration keys.
const ENV_OTHER: [&str; 1] = ["PROOFMESH_HOME"];
/// Largest configuration file read, bytes.
const FILE_MAX: u64 = 1 << 20;

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File(String),
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => f.write_str(path),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// The configuration with the origin of every key, `section.key`.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// The values.
    pub(crate) config: Config,
    /// Where each came from.
    pub(crate) origins: BTreeMap<String, (Value, Origin)>,
}

/// Values set by flags: (`section.key`, value).
pub(crate) type Flags = Vec<(&'static str, Value)>;

/// Resolves the configuration of a home folder from the process's environment and `flags`.
///
/// # Errors
/// A configuration error naming key, value and origin.
pub(crate) fn load(home: &Home, flags: Flags) -> Result<Resolved, Failure> {
    let path = home.config_file();
    let text = if is_there(&path)? {
        let bytes = files::read_bounded(&path, "config", FILE_MAX).map_err(as_config)?;
        String::from_utf8(bytes).map_err(|_| {
            Failure::config(format!("{} is no UTF-8 text", path.display()))
                .field("config")
                .value(path.display())
                .limit("TOML text")
                .remedy("make a new one by: proofmesh init in another home, and copy your settings")
        })?
    } else {
        String::new()
    };
    // Names and values that are no UTF-8 cannot be ours: all keys and values are ASCII.
    let env = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    resolve(&path, &text, env, flags)
}

/// As [`load`], from given sources.
///
/// # Errors
/// A configuration error naming key, value and origin.
pub(crate) fn resolve(
    path: &Path,
    text: &str,
    env: impl Iterator<Item = (String, String)>,
    flags: Flags,
) -> Result<Resolved, Failure> {
    let mut values = defaults()?;
    let file = Origin::File(path.display().to_string());
    let table: Table = toml::from_str(text).map_err(|e| {
        Failure::config(format!("{}: {e}", path.display()))
            .field("config")
            .value(path.display())
            .limit("TOML text")
            .remedy("correct the line named above; proofmesh config show lists all keys")
    })?;
    for (section, content) in table {
        let Value::Table(content) = content else {
            return Err(unknown(&section, &file, &values));
        };
        for (key, value) in content {
            set(&mut values, &format!("{section}.{key}"), value, file.clone())?;
        }
    }
    for (name, text) in env {
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else { continue };
        if ENV_OTHER.contains(&name.as_str()) {
            continue;
        }
        let origin = Origin::Environment(name.clone());
        let key = rest.replacen("__", ".", 1).to_ascii_lowercase();
        let Some((current, _)) = values.get(&key) else {
            return Err(unknown(&key, &origin, &values));
        };
        let value = parse_like(current, &text).ok_or_else(|| wrong_type(&key, &text, current, &origin))?;
        set(&mut values, &key, value, origin)?;
    }
    for (key, value) in flags {
        set(&mut values, key, value, Origin::Flag)?;
    }
    normalise_addresses(&mut values);
    let config = build(&values)?;
    config.check().map_err(|failure| with_origin(failure, &values))?;
    Ok(Resolved { config, origins: values })
}

/// Lets addresses be written as `IP:PORT`, too.
fn normalise_addresses(values: &mut BTreeMap<String, (Value, Origin)>) {
    for key in ["p2p.listen", "p2p.external", "p2p.bootstrap"] {
        if let Some((Value::Array(list), _)) = values.get_mut(key) {
            for item in list.iter_mut() {
                if let Value::String(text) = item {
                    *text = super::to_multiaddr(text);
                }
            }
        }
    }
}

/// All keys with their defaults.
fn defaults() -> Result<BTreeMap<String, (Value, Origin)>, Failure> {
    let table = Table::try_from(Config::default())
        .map_err(|e| Failure::config(format!("the defaults can't be written as TOML: {e}")))?;
    let mut values = BTreeMap::new();
    for (section, content) in table {
        if let Value::Table(content) = content {
            for (key, value) in content {
                values.insert(format!("{section}.{key}"), (value, Origin::Default));
            }
        }
    }
    Ok(values)
}

fn set(values: &mut BTreeMap<String, (Value, Origin)>, key: &str, value: Value, origin: Origin) -> Result<(), Failure> {
    let Some(slot) = values.get_mut(key) else {
        return Err(unknown(key, &origin, values));
    };
    if std::mem::discriminant(&slot.0) != std::mem::discriminant(&value) {
        return Err(wrong_type(key, &value.to_string(), &slot.0, &origin));
    }
    *slot = (value, origin);
    Ok(())
}

fn build(values: &BTreeMap<String, (Value, Origin)>) -> Result<Config, Failure> {
    let mut table = Table::new();
    for (key, (value, _)) in values {
        let Some((section, name)) = key.split_once('.') else { continue };
        let content = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(content) = content {
            content.insert(name.to_string(), value.clone());
        }
    }
    Config::deserialize(table).map_err(|e| {
        // The only way here is a number outside its type or a list of the wrong things; find the key to name it.
        let culprit = values.iter().find(|(key, _)| !fits(key, values));
        match culprit {
            Some((key, (value, origin))) => Failure::config(format!("{key}: {} (from {origin})", e.message()))
                .field(key.clone())
                .value(value)
                .limit("a value of the type that config show shows")
                .remedy("see the comments in config.toml for what is allowed"),
            None => Failure::config(e.message().to_string()),
        }
    })
}

/// Whether one key's value alone, the rest at their defaults, makes a configuration.
fn fits(key: &str, values: &BTreeMap<String, (Value, Origin)>) -> bool {
    let (Ok(mut table), Some((section, name)), Some((value, _))) =
        (Table::try_from(Config::default()), key.split_once('.'), values.get(key))
    else {
        return true;
    };
    if let Some(Value::Table(content)) = table.get_mut(section) {
        content.insert(name.to_string(), value.clone());
    }
    Config::deserialize(table).is_ok()
}

/// Reads the text of an environment variable as a value of the same type as `like`; lists are separated by commas.
fn parse_like(like: &Value, text: &str) -> Option<Value> {
    match like {
        Value::String(_) => Some(Value::String(text.to_string())),
        Value::Integer(_) => text.trim().parse().ok().map(Value::Integer),
        Value::Float(_) => text.trim().parse().ok().map(Value::Float),
        Value::Boolean(_) => match text.trim() {
            "true" | "1" => Some(Value::Boolean(true)),
            "false" | "0" => Some(Value::Boolean(false)),
            _ => None,
        },
        Value::Array(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Some(Value::Array(items.map(|item| Value::String(item.to_string())).collect()))
        }
        Value::Datetime(_) | Value::Table(_) => None,
    }
}

fn unknown(key: &str, origin: &Origin, values: &BTreeMap<String, (Value, Origin)>) -> Failure {
    let nearest = values.keys().min_by_key(|known| distance(known, key)).cloned().unwrap_or_default();
    Failure::config(format!("{key} is no configuration key (from {origin}); the nearest is {nearest}"))
        .field(key)
        .value(key)
        .limit("the keys that config show lists")
        .remedy(format!("correct or remove it; did you mean {nearest}?"))
}

fn wrong_type(key: &str, value: &str, like: &Value, origin: &Origin) -> Failure {
    let expected = match like {
        Value::Integer(_) => "a whole number",
        Value::Boolean(_) => "true or false",
        Value::Array(_) => "a list of texts",
        _ => "a text",
    };
    Failure::config(format!("{key}: {value} is not {expected} (from {origin})"))
        .field(key)
        .value(value)
        .limit(expected)
        .remedy(format!("write {expected}"))
}

fn with_origin(mut failure: Failure, values: &BTreeMap<String, (Value, Origin)>) -> Failure {
    if let Some((_, origin)) = failure.field.as_ref().and_then(|key| values.get(key)) {
        failure.message = format!("{} (from {origin})", failure.message);
    }
    failure
}

fn as_config(mut failure: Failure) -> Failure {
    failure.exit = crate::failure::Exit::Config;
    failure
}

/// Number of single-letter edits between two keys; both are short.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().take(64).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (slot, other) in row.iter_mut().skip(1).zip(&b) {
            let above = *slot;
            let cost = if letter == *other { diagonal } else { diagonal.min(left).min(above) + 1 };
            diagonal = above;
            *slot = cost;
            left = cost;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
