//! `PUT /v1/blobs` and `GET /v1/blobs/HASH`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use engine::ApiError;
use engine::api::BlobUpload;
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::time::timeout;
use types::ids::BlobHash;
use types::limits::{BLOB_BYTES_MAX, BLOB_CHUNK_BYTES};

use super::keep::Holding;
use super::refusal::{Refusal, json_response};
use super::{ClientAddress, Edge};

/// Longest wait for the next part of an upload.
const PART_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest upload.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(300);
/// Room of a download, bytes: the chunk being sent, and the next one.
const GET_ROOM: usize = 2 * BLOB_CHUNK_BYTES as usize;
/// Longest time for which a refused upload is still read.
const LINGER: Duration = Duration::from_secs(2);

/// Takes a blob, part by part.
pub(super) async fn put(
    State(edge): State<Arc<Edge>>,
    Extension(ClientAddress(address)): Extension<ClientAddress>,
    request: Request<Body>,
) -> Response {
    let permit = match edge.addresses.call(address.ip(), Instant::now()) {
        Ok(permit) => permit,
        Err(refusal) => return refusal.into_response(),
    };
    let result = match timeout(UPLOAD_TIMEOUT, receive(&edge, address.ip(), request)).await {
        Ok(result) => result,
        Err(_) => Err(too_slow(UPLOAD_TIMEOUT)),
    };
    drop(permit);
    match result {
        Ok(blob) => {
            edge.metrics.blobs_uploaded.inc();
            edge.metrics.blob_bytes_uploaded.inc_by(blob.bytes);
            json_response(StatusCode::CREATED, &json!({ "hash": blob.hash, "bytes": blob.bytes }))
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn receive(
    edge: &Edge,
    address: std::net::IpAddr,
    request: Request<Body>,
) -> Result<types::job::BlobRef, Refusal> {
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let mut body = request.into_body();
    let stored = match declared.filter(|bytes| *bytes > BLOB_BYTES_MAX) {
        Some(bytes) => Err(too_large(bytes)),
        None => store(edge, address, edge.engine.blob_upload().await?, &mut body).await,
    };
    if stored.is_err() {
        // A connection that is closed with bytes unread is reset, and the answer may be lost with it: so a client that is
        // still sending is listened to for a moment, and what it says is dropped.
        timeout(LINGER, async { while let Some(Ok(_)) = body.frame().await {} }).await.ok();
    }
    stored
}

async fn store(
    edge: &Edge,
    address: std::net::IpAddr,
    mut upload: BlobUpload,
    body: &mut Body,
) -> Result<types::job::BlobRef, Refusal> {
    let mut sum = 0u64;
    loop {
        let frame = match timeout(PART_TIMEOUT, body.frame()).await {
            Err(_) => return Err(too_slow(PART_TIMEOUT)),
            Ok(None) => break,
            Ok(Some(Err(e))) => return Err(Refusal::new("invalid_body", format!("the body can't be read: {e}"))),
            Ok(Some(Ok(frame))) => frame,
        };
        let Some(part) = frame.data_ref() else { continue };
        let bytes = u64::try_from(part.len()).unwrap_or(u64::MAX);
        sum = sum.saturating_add(bytes);
        if sum > BLOB_BYTES_MAX {
            return Err(too_large(sum));
        }
        edge.addresses.upload(address, bytes, Instant::now())?;
        upload.write(part).await?;
    }
    if sum == 0 {
        return Err(Refusal::field(
            "invalid_body",
            "bytes",
            0,
            format!("1 to {BLOB_BYTES_MAX}"),
            "the blob is empty; send at least one byte".into(),
        ));
    }
    Ok(upload.finish().await?)
}

/// Hands out a blob, one chunk after another: the next is read from the disk when the connection takes it.
pub(super) async fn get(
    State(edge): State<Arc<Edge>>,
    Extension(ClientAddress(address)): Extension<ClientAddress>,
    Path(hash): Path<String>,
) -> Response {
    let opened = async {
        let permit = edge.addresses.call(address.ip(), Instant::now())?;
        let hash: BlobHash = hash.parse().map_err(|e: types::TypeError| {
            Refusal::params("hash", &hash, "64 hex digits", format!("hash: {e}; send 64 hex digits"))
        })?;
        let bytes = edge.engine.blob_bytes(&hash)?;
        let room = edge.unsent.take(address.ip(), GET_ROOM).await?;
        // The first chunk before the head, so that a blob that can't be read is refused in words.
        let first = if bytes == 0 { vec![] } else { edge.engine.blob_chunk(hash, 0).await? };
        Ok::<_, Refusal>((hash, bytes, first, (permit, room)))
    };
    let (hash, bytes, first, held) = match opened.await {
        Err(refusal) => return refusal.into_response(),
        Ok(opened) => opened,
    };
    let rest =
        stream::try_unfold((Arc::clone(&edge), 1u32, first.len() as u64), move |(edge, number, sent)| async move {
            if sent >= bytes {
                return Ok::<_, ApiError>(None);
            }
            let part = edge.engine.blob_chunk(hash, number).await?;
            let sent = sent.saturating_add(part.len() as u64);
            Ok(Some((Bytes::from(part), (edge, number.saturating_add(1), sent))))
        });
    let parts = stream::once(async move { Ok(Bytes::from(first)) }).chain(rest);
    let mut response = Response::new(Body::new(Holding::new(Body::from_stream(parts), held)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{hash}\"")) {
        headers.insert(header::ETAG, tag);
    }
    response
}

fn too_large(bytes: u64) -> Refusal {
    let message = format!("a blob has at most {BLOB_BYTES_MAX} bytes; make the program or its arguments smaller");
    Refusal::field("too_large", "bytes", bytes, BLOB_BYTES_MAX, message)
}

fn too_slow(limit: Duration) -> Refusal {
    let message = format!("the upload stood still or took too long (limit {} s); send it again", limit.as_secs());
    Refusal::field("timeout", "upload", "unfinished", limit.as_secs(), message)
}
