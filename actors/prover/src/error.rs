//! Why a program, its arguments or a run is refused.

use thiserror::Error;

use crate::limits;

/// Cuts text that a stranger can shape.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(limits::REASON_CHARS_MAX).collect()
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

impl ProgramError {
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
