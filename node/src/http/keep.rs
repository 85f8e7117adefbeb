//! What is held until an answer has been sent: the call's permit, and its room among the unsent bytes.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Bytes, HttpBody};
use axum::http::StatusCode;
use hyper::body::{Frame, SizeHint};

use super::rate::CallPermit;
use super::refusal::Refusal;
use super::unsent::Room;

/// An answer is handed to the connection in pieces of this length, bytes: what it holds is given up as they leave, because
/// the connection takes the next piece only when it has room for it.
const PIECE: usize = 64 << 10;

#[derive(Debug, Default)]
struct Held {
    calls: Vec<(CallPermit, Room)>,
    refused: Option<StatusCode>,
}

/// Put into a request; what carries out its calls leaves here what they hold. Dropping the last clone gives all back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keep {
    held: Arc<Mutex<Held>>,
}

impl Keep {
    /// Holds a call until the answer has been sent.
    pub(crate) fn hold(&self, permit: CallPermit, room: Room) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).calls.push((permit, room));
    }

    /// Notes that a call was refused for want of something that comes back.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).refused = Some(refusal.status());
    }

    /// The status for an answer that is nothing but such a refusal.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).refused
    }
}

/// A body that holds something until its end, or until it is dropped.
#[derive(Debug)]
pub(super) struct Holding<B, H> {
    body: B,
    _held: H,
}

impl<B, H> Holding<B, H> {
    pub(super) fn new(body: B, held: H) -> Self {
        Self { body, _held: held }
    }
}

impl<B: HttpBody + Unpin, H: Unpin> HttpBody for Holding<B, H> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes in pieces.
#[derive(Debug)]
pub(super) struct Pieces(pub(super) Bytes);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0.is_empty() {
            return Poll::Ready(None);
        }
        let next = PIECE.min(self.0.len());
        Poll::Ready(Some(Ok(Frame::data(self.0.split_to(next)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.0.len()).unwrap_or(u64::MAX))
    }
}
