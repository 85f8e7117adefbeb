//! The edge's decoders without a node behind them, for the fuzz targets: what they make of a stranger's bytes.
//!
//! They are the functions that connections use; nothing here decides anything.

use crate::http::frames_in;
use crate::rpc;

/// Reads the body of a request, or a WebSocket message, and the parameters of its calls as some methods do. Returns what is
/// refused, as JSON-RPC answers.
pub fn json_rpc(bytes: &[u8]) -> Vec<serde_json::Value> {
    rpc::read_only(bytes)
}

/// Reads what a client sends after the WebSocket handshake. Returns the messages before the end or the first fault, and the
/// fault if there is one.
pub fn web_socket(bytes: &[u8]) -> (Vec<Vec<u8>>, Option<String>) {
    futures::executor::block_on(frames_in(bytes))
}

/// Longest WebSocket message, bytes.
pub const MESSAGE_MAX: usize = crate::http::BODY_MAX;
