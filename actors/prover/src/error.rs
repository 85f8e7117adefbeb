//! Why a program, its arguments or a run is refused.

use std::fmt;

use bincode::{Decode, Encode};
use thiserror::Error;

use crate::limits;

/// Cuts text that a stranger can shape.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(limits::REASON_CHARS_MAX).collect()
}

/// What is wrong with a program or its arguments, in parts; it crosses from a child to the node, so each part is short.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Fault {
    /// The part at fault.
    pub field: String,
    /// What was found there.
    pub value: Option<String>,
    /// What would be accepted.
    pub limit: Option<String>,
    /// What to do.
    pub remedy: String,
    /// All of it in one sentence.
    pub detail: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

/// Why a device gave no proof. Says nothing about the run: the processor may prove it.
#[derive(Debug, Error, Clone, PartialEq, Eq, Encode, Decode)]
pub enum DeviceFault {
    /// Driver or device failed, or the strict verifier refuses the proof.
    #[error("{detail}")]
    Failed {
        /// What the device's driver or the verifier said.
        detail: String,
    },
    /// The proof is too large for it, which says nothing against the device.
    #[error("{detail}")]
    TooLarge {
        /// What is needed, and what there is.
        detail: String,
    },
}

impl DeviceFault {
    /// A failure, in words.
    pub fn failed(detail: impl Into<String>) -> Self {
        Self::Failed { detail: detail.into() }
    }

    /// With words that are short enough to cross to the node.
    pub(crate) fn shortened(self) -> Self {
        match self {
            Self::Failed { detail } => Self::Failed { detail: shorten(&detail) },
            Self::TooLarge { detail } => Self::TooLarge { detail: shorten(&detail) },
        }
    }
}

/// Why a program file or its arguments are refused before anything runs. The message names field, value, limit and,
/// where there is one, the remedy; it is the same on every node.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ProgramError {
    /// The content is none of the three kinds.
    #[error(
        "program: {detail}; accepted are a compiled Cairo 0 program (JSON), a Cairo 1 executable (JSON) and a Cairo PIE (zip)"
    )]
    UnknownKind {
        /// What was found instead.
        detail: String,
    },
    /// A part is longer than it may be.
    #[error("{field}: over the limit of {limit} {unit}")]
    TooLarge {
        /// The part.
        field: &'static str,
        /// Its bound.
        limit: usize,
        /// What is counted.
        unit: &'static str,
    },
    /// The file is of a known kind and wrong in itself.
    #[error("{field}: {detail}")]
    Malformed {
        /// The part.
        field: &'static str,
        /// What is wrong, and the remedy where there is one.
        detail: String,
    },
    /// A hint is not in the allow-list.
    #[error("hint not allowed (see HINTS.md for the list): {hint}")]
    Hint {
        /// The hint's text, shortened.
        hint: String,
    },
    /// The arguments do not fit the kind of program.
    #[error("args: {detail}")]
    Args {
        /// What is wrong, and what would be accepted.
        detail: String,
    },
}

/// The forms of a program, for errors.
const KINDS: &str = "a compiled Cairo 0 program (JSON), a Cairo 1 executable (JSON) or a Cairo PIE (zip)";

impl ProgramError {
    /// The error in parts.
    pub fn fault(&self) -> Fault {
        let (field, value, limit, remedy) = match self {
            Self::UnknownKind { detail } => (
                "program",
                Some(detail.clone()),
                Some(KINDS.to_owned()),
                "compile the program, and name the compiled file",
            ),
            Self::TooLarge { field, limit, unit } => {
                (*field, Some("over the limit".to_owned()), Some(format!("{limit} {unit}")), "shorten it")
            }
            Self::Malformed { field, detail } => (
                *field,
                Some(detail.clone()),
                Some("a whole file as the compiler writes it".to_owned()),
                "compile the program again, and submit that file whole",
            ),
            Self::Hint { hint } => (
                "hints",
                Some(hint.clone()),
                Some("the hints listed in HINTS.md".to_owned()),
                "remove the hint, or write it in one of the listed forms",
            ),
            Self::Args { detail } => (
                "args",
                Some(detail.clone()),
                Some("a JSON object (Cairo 0), a JSON list of integers (Cairo 1), none (Cairo PIE)".to_owned()),
                "correct the arguments",
            ),
        };
        Fault { field: field.into(), value, limit, remedy: remedy.into(), detail: shorten(&self.to_string()) }
    }

    pub(crate) fn too_large(field: &'static str, limit: usize, unit: &'static str) -> Self {
        Self::TooLarge { field, limit, unit }
    }

    pub(crate) fn malformed(field: &'static str, detail: impl AsRef<str>) -> Self {
        Self::Malformed { field, detail: shorten(detail.as_ref()) }
    }

    pub(crate) fn hint(text: &str) -> Self {
        Self::Hint { hint: text.chars().take(160).collect() }
    }

    pub(crate) fn args(detail: impl AsRef<str>) -> Self {
        Self::Args { detail: shorten(detail.as_ref()) }
    }
}
