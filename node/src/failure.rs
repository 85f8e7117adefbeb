//! What a command reports when it can't do what was asked: an exit code, a stable error code, and words that name the
//! field, its value, its limit and the remedy.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::process::ExitCode;

use serde_json::{Map, Value};
use types::TypeError;

/// Exit codes of the binary. Supervisors act on them: 6 must not be restarted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// The operation failed.
    Error = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration, a key file or the genesis file is wrong.
    Config = 3,
    /// Another process holds the home folder.
    Locked = 4,
    /// Stored data is damaged.
    Corruption = 5,
    /// The node stopped because going on could have broken a promise; it must not be restarted blindly.
    Safety = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What to do about bytes that are no record.
const RECORD_REMEDY: &str = "check that it is the right file and whole; fetch or make it again";

/// Why a command failed. On the heap, because results are passed around that nearly always are successes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure(Box<Details>);

/// What there is to say about a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Details {
    /// Exit code.
    pub(crate) exit: Exit,
    /// Stable name of the error.
    pub(crate) code: String,
    /// What happened.
    pub(crate) message: String,
    /// Field it is about.
    pub(crate) field: Option<String>,
    /// Value found.
    pub(crate) value: Option<String>,
    /// What is allowed.
    pub(crate) limit: Option<String>,
    /// What to do.
    pub(crate) remedy: Option<String>,
}

impl Deref for Failure {
    type Target = Details;

    fn deref(&self) -> &Details {
        &self.0
    }
}

impl DerefMut for Failure {
    fn deref_mut(&mut self) -> &mut Details {
        &mut self.0
    }
}

impl Failure {
    /// A failure with a code of its own.
    pub(crate) fn new(exit: Exit, code: impl Into<String>, message: impl Into<String>) -> Self {
        let (code, message) = (code.into(), message.into());
        Self(Box::new(Details { exit, code, message, field: None, value: None, limit: None, remedy: None }))
    }

    /// The operation failed.
    pub(crate) fn error(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Exit::Error, code, message)
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }

    /// The configuration, a key or genesis file is wrong.
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(Exit::Config, "config", message)
    }

    /// Names the field.
    pub(crate) fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Names the value, shortened.
    pub(crate) fn value(mut self, value: impl fmt::Display) -> Self {
        self.value = Some(value.to_string().chars().take(200).collect());
        self
    }

    /// Names what is allowed.
    pub(crate) fn limit(mut self, limit: impl fmt::Display) -> Self {
        self.limit = Some(limit.to_string());
        self
    }

    /// Names what to do.
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// A field of the command line or of a file given on it is wrong.
    pub(crate) fn of_type(exit: Exit, error: &TypeError) -> Self {
        let code = if exit == Exit::Usage { "usage" } else { "invalid" };
        let base = Self::new(exit, code, error.to_string());
        match error {
            TypeError::TooLong { record, bytes, limit } => {
                base.field(*record).value(format!("{bytes} bytes")).limit(format!("{limit} bytes")).remedy("shorten it")
            }
            TypeError::UnknownVersion { record, version, known } => base
                .field(*record)
                .value(format!("version {version}"))
                .limit(format!("version {known}"))
                .remedy("check that it is the right file; if it is, use the program of the version that wrote it"),
            TypeError::Malformed { record, detail } => {
                base.field(*record).value(detail).limit("a whole record").remedy(RECORD_REMEDY)
            }
            TypeError::NotCanonical { record } => {
                base.field(*record).value("another encoding").limit("the canonical encoding").remedy(RECORD_REMEDY)
            }
            TypeError::BadText { field, value, expected } => {
                base.field(*field).value(value).limit(expected).remedy(format!("write {field} as {expected}"))
            }
            TypeError::BadSignature { what, signer } => {
                base.field(*what).value(signer).limit("a signature of this key").remedy("sign it again")
            }
            TypeError::OutOfBounds { field, value, limit } => base
                .field(*field)
                .value(value)
                .limit(limit)
                .remedy(format!("change {field} to a value within the limit")),
        }
    }

    /// Reading or writing a file failed.
    pub(crate) fn io(path: &std::path::Path, doing: &str, error: &std::io::Error) -> Self {
        Self::error("io", format!("{doing} {}: {error}", path.display()))
            .field("path")
            .value(path.display())
            .limit("a file or folder that this user may use")
            .remedy("check the path, its permissions and the free space")
    }

    /// The object printed with `--json`.
    pub(crate) fn to_json(&self) -> Value {
        let mut inner = Map::new();
        inner.insert("code".into(), self.code.clone().into());
        inner.insert("message".into(), self.message.clone().into());
        let rest = [("field", &self.field), ("value", &self.value), ("limit", &self.limit), ("remedy", &self.remedy)];
        for (name, value) in rest {
            inner.insert(name.into(), value.clone().map_or(Value::Null, Value::String));
        }
        inner.insert("exit".into(), (self.exit as u8).into());
        serde_json::json!({ "error": inner })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        let mut details = vec![];
        for (name, value) in [("field", &self.field), ("value", &self.value), ("limit", &self.limit)] {
            if let Some(value) = value
                && !self.message.contains(value.as_str())
            {
                details.push(format!("{name} {value}"));
            }
        }
        if !details.is_empty() {
            write!(f, " ({})", details.join(", "))?;
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "\nremedy: {remedy}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_shown_once() {
        let failure = Failure::config("rpc.listen: 'x' is no address")
            .field("rpc.listen")
            .value("x")
            .limit("IP:PORT")
            .remedy("set rpc.listen in config.toml");
        assert_eq!(
            failure.to_string(),
            "error: rpc.listen: 'x' is no address (limit IP:PORT)\nremedy: set rpc.listen in config.toml"
        );
        let json = failure.to_json();
        assert_eq!(json["error"]["field"], "rpc.listen");
        assert_eq!(json["error"]["limit"], "IP:PORT");
        assert_eq!(json["error"]["exit"], 3);
    }

    #[test]
    fn type_errors_keep_their_fields() {
        let error = "abc".parse::<types::ids::JobId>().unwrap_err();
        let failure = Failure::of_type(Exit::Usage, &error);
        assert_eq!(
            (failure.exit, failure.field.as_deref(), failure.value.as_deref()),
            (Exit::Usage, Some("job_id"), Some("abc"))
        );
    }
}
