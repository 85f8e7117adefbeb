//! A job's arguments: bounded JSON text into what a program of its kind takes. Text is never taken for a path.

use cairo_vm::Felt252;
use serde_json::{Map, Value};
use types::job::ProgramKind;

use crate::error::ProgramError;
use crate::{felt, limits};

/// Arguments of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Arguments {
    /// None were given.
    None,
    /// `program_input` of a Cairo 0 program.
    Input(Map<String, Value>),
    /// The user's arguments of a Cairo 1 executable.
    User(Vec<Felt252>),
}

impl Arguments {
    /// Reads the arguments file of a job for a program of `kind`.
    ///
    /// # Errors
    /// [`ProgramError::TooLarge`], or [`ProgramError::Args`] with what would be accepted.
    pub fn parse(kind: ProgramKind, bytes: Option<&[u8]>) -> Result<Self, ProgramError> {
        let Some(bytes) = bytes else {
            return Ok(Self::None);
        };
        if bytes.len() > limits::ARGS_BYTES_MAX {
            return Err(ProgramError::too_large("args", limits::ARGS_BYTES_MAX, "bytes"));
        }
        if kind == ProgramKind::Pie {
            return Err(ProgramError::args("a Cairo PIE is a finished run and takes none"));
        }
        let value: Value = serde_json::from_slice(bytes).map_err(|e| ProgramError::args(format!("no JSON: {e}")))?;
        match (kind, value) {
            (ProgramKind::Cairo0, Value::Object(map)) => Ok(Self::Input(map)),
            (ProgramKind::Cairo1, Value::Array(list)) => {
                if list.len() > limits::USER_ARGS_MAX {
                    return Err(ProgramError::too_large("args", limits::USER_ARGS_MAX, "numbers"));
                }
                let numbers = list.iter().enumerate().map(|(i, item)| {
                    felt::from_json(item)
                        .ok_or_else(|| ProgramError::args(format!("item {i} is {item}, no integer of the Stark field")))
                });
                numbers.collect::<Result<_, _>>().map(Self::User)
            }
            (ProgramKind::Cairo0, _) => {
                Err(ProgramError::args("a Cairo 0 program takes a JSON object, its program_input"))
            }
            (_, _) => Err(ProgramError::args("a Cairo 1 executable takes a JSON list of integers")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_take_their_own_form_only() {
        let parse = |kind, text: &str| Arguments::parse(kind, Some(text.as_bytes()));
        assert!(matches!(parse(ProgramKind::Cairo0, r#"{"n": 3}"#), Ok(Arguments::Input(_))));
        assert_eq!(
            parse(ProgramKind::Cairo1, r#"[1, "0x2"]"#),
            Ok(Arguments::User(vec![Felt252::from(1), Felt252::from(2)]))
        );
        assert_eq!(Arguments::parse(ProgramKind::Pie, None), Ok(Arguments::None));
        for (kind, text) in [
            (ProgramKind::Cairo0, "[1]"),
            (ProgramKind::Cairo0, "\"/etc/passwd\""),
            (ProgramKind::Cairo0, "/etc/passwd"),
            (ProgramKind::Cairo1, r#"{"n": 3}"#),
            (ProgramKind::Cairo1, r#"["/etc/passwd"]"#),
            (ProgramKind::Cairo1, "[[1]]"),
            (ProgramKind::Pie, "[]"),
        ] {
            assert!(matches!(parse(kind, text), Err(ProgramError::Args { .. })), "{text}");
        }
        let long = vec![b' '; limits::ARGS_BYTES_MAX + 1];
        assert!(matches!(Arguments::parse(ProgramKind::Cairo0, Some(&long)), Err(ProgramError::TooLarge { .. })));
    }
}
