//! The node as its edge sees it: one handle with bounded, time-limited calls, typed answers, typed refusals.
//!
//! JSON-RPC, HTTP and the tests call nothing else of the engine. Reads go to a snapshot of the store and never wait for
//! consensus; writes go through the mempool, whose refusals carry field, value and limit.

mod convert;
mod handle;
pub mod views;

use serde::Serialize;
use thiserror::Error;

pub use handle::{BlobUpload, EngineHandle};

/// A refusal with a stable code.
#[derive(Debug, Clone, Error, Serialize)]
#[error("{message}")]
pub struct ApiError {
    /// Stable name, snake case: `unknown_job`, `bad_nonce`, `fee_too_low`, `node_stopping`, `overloaded`, ...
    pub code: String,
    /// What is wrong and how to mend it, one sentence.
    pub message: String,
    /// The field at fault.
    pub field: Option<String>,
    /// Its value.
    pub value: Option<String>,
    /// Its bound.
    pub limit: Option<String>,
}

impl ApiError {
    /// An error without field details.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), field: None, value: None, limit: None }
    }

    /// An error about one field.
    pub fn field(
        code: &str,
        field: &str,
        value: impl ToString,
        limit: impl ToString,
        message: impl Into<String>,
    ) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            field: Some(field.into()),
            value: Some(value.to_string()),
            limit: Some(limit.to_string()),
        }
    }
}
