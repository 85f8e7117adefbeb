//! A stream that gives up on a reader who stands still, and that reads no more requests while answers pile up.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Longest time in which not one byte of an answer can be sent.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Wraps a connection.
pub(super) struct StallGuard<S, H = ()> {
    inner: S,
    /// Kept as long as the connection, also past an upgrade.
    _held: H,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
    /// A read that waits for the writes.
    reader: Option<Waker>,
    limit: Duration,
}

impl<S, H> StallGuard<S, H> {
    pub(super) fn new(inner: S, held: H) -> Self {
        Self { inner, _held: held, stalled: None, reader: None, limit: STALL_MAX }
    }

    /// Books the outcome of a write: progress lets reading go on, none for too long is an error.
    fn settle<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
            return outcome;
        }
        let limit = self.limit;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + limit)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin, H: Unpin> AsyncRead for StallGuard<S, H> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.stalled.is_some() {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin, H: Unpin> AsyncWrite for StallGuard<S, H> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.settle(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, parts);
        self.settle(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(cx);
        self.settle(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.settle(cx, outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_reader_that_stands_still_is_given_up() {
        let (near, mut far) = tokio::io::duplex(8);
        let mut guard = StallGuard { limit: Duration::from_millis(50), ..StallGuard::new(near, ()) };
        guard.write_all(b"12345678").await.unwrap();
        let error = guard.write_all(b"9").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let mut buffer = [0; 8];
        far.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"12345678");
    }

    #[tokio::test]
    async fn nothing_is_read_while_answers_pile_up() {
        let (near, far) = tokio::io::duplex(4);
        let (mut far_read, mut far_write) = tokio::io::split(far);
        let (mut read, mut write) = tokio::io::split(StallGuard::new(near, ()));
        let writer = tokio::spawn(async move { write.write_all(b"abcdefgh").await });
        tokio::task::yield_now().await;
        far_write.write_all(b"in").await.unwrap();
        let mut buffer = [0; 2];
        let early = tokio::time::timeout(Duration::from_millis(50), read.read_exact(&mut buffer)).await;
        assert!(early.is_err(), "the request was read although the answer could not be sent");
        let mut answer = [0; 8];
        far_read.read_exact(&mut answer).await.unwrap();
        writer.await.unwrap().unwrap();
        tokio::time::timeout(Duration::from_secs(5), read.read_exact(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(&buffer, b"in");
    }
}
