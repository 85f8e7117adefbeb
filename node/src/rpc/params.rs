//! Parameters of a call, by position or by name; each error names the parameter, its value and what it must be.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::http::refusal::Refusal;

/// The parameters of one call by name.
#[derive(Debug)]
pub(crate) struct Arguments {
    values: Map<String, Value>,
}

impl Arguments {
    /// Reads the JSON text of `params`; `names` in order of position.
    ///
    /// # Errors
    /// `invalid_params` for anything but a list or an object, for unknown names and for too many values.
    pub(crate) fn read(params: Option<&str>, names: &[&str]) -> Result<Self, Refusal> {
        let known = || if names.is_empty() { "none".to_string() } else { names.join(", ") };
        let value: Value = match params {
            None => Value::Null,
            Some(text) => serde_json::from_str(text).map_err(|e| {
                Refusal::params("params", "unreadable", known(), format!("params: {e}; send a list or an object"))
            })?,
        };
        let values = match value {
            Value::Null => Map::new(),
            Value::Array(list) => {
                if list.len() > names.len() {
                    let message = format!("{} parameters were given; send at most these: {}", list.len(), known());
                    return Err(Refusal::params("params", list.len(), names.len(), message));
                }
                names.iter().map(ToString::to_string).zip(list).collect()
            }
            Value::Object(map) => {
                if let Some(name) = map.keys().find(|name| !names.contains(&name.as_str())) {
                    let message = format!("there is no parameter {}; use only these: {}", shorten(name), known());
                    return Err(Refusal::params("params", name, known(), message));
                }
                map
            }
            other => {
                let message = "params must be a list or an object; send one of the two".to_string();
                return Err(Refusal::params("params", shorten(&other.to_string()), "a list or an object", message));
            }
        };
        Ok(Self { values })
    }

    /// A parameter that must be there.
    ///
    /// # Errors
    /// `invalid_params` when it is missing or not of its type, `what`.
    pub(crate) fn required<T: DeserializeOwned>(&mut self, name: &str, what: &str) -> Result<T, Refusal> {
        match self.optional(name, what)? {
            Some(value) => Ok(value),
            None => Err(Refusal::params(name, "missing", what, format!("{name} is missing; send {what}"))),
        }
    }

    /// A parameter that may be missing or null.
    ///
    /// # Errors
    /// `invalid_params` when it is not of its type, `what`.
    pub(crate) fn optional<T: DeserializeOwned>(&mut self, name: &str, what: &str) -> Result<Option<T>, Refusal> {
        let value = match self.values.remove(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value,
        };
        let shown = shorten(value.as_str().unwrap_or(&value.to_string()));
        match serde_json::from_value(value) {
            Ok(value) => Ok(Some(value)),
            Err(_) => {
                Err(Refusal::params(name, &shown, what, format!("{name}: '{shown}' is not {what}; send what is")))
            }
        }
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::ids::{Height, JobId};

    #[test]
    fn by_position_and_by_name() {
        let names = ["job_id", "height"];
        let id = "ab".repeat(32);
        for text in [format!("[\"{id}\", 5]"), format!("{{\"height\": 5, \"job_id\": \"{id}\"}}")] {
            let mut arguments = Arguments::read(Some(&text), &names).unwrap();
            assert_eq!(arguments.required::<JobId>("job_id", "an id").unwrap().to_string(), id);
            assert_eq!(arguments.optional::<Height>("height", "a height").unwrap(), Some(Height(5)));
        }
        let mut none = Arguments::read(None, &names).unwrap();
        assert_eq!(none.optional::<Height>("height", "a height").unwrap(), None);
    }

    #[test]
    fn errors_name_field_value_and_limit() {
        let parts = |refusal: Refusal| {
            let e = refusal.error;
            (e.code, e.field.unwrap(), e.value.unwrap(), e.limit.unwrap())
        };
        let expected = |field: &str, value: &str, limit: &str| {
            ("invalid_params".to_string(), field.to_string(), value.to_string(), limit.to_string())
        };
        let mut arguments = Arguments::read(Some("[\"xyz\"]"), &["job_id"]).unwrap();
        assert_eq!(
            parts(arguments.required::<JobId>("job_id", "64 hex digits").unwrap_err()),
            expected("job_id", "xyz", "64 hex digits")
        );
        let mut missing = Arguments::read(Some("[]"), &["job_id"]).unwrap();
        assert_eq!(
            parts(missing.required::<JobId>("job_id", "an id").unwrap_err()),
            expected("job_id", "missing", "an id")
        );
        assert_eq!(parts(Arguments::read(Some("[1,2]"), &["a"]).unwrap_err()), expected("params", "2", "1"));
        assert_eq!(parts(Arguments::read(Some("{\"b\":1}"), &["a"]).unwrap_err()), expected("params", "b", "a"));
        assert_eq!(
            parts(Arguments::read(Some("7"), &["a"]).unwrap_err()),
            expected("params", "7", "a list or an object")
        );
    }
}
