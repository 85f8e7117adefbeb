//! A stream that gives up on a reader who stands still or reads too slowly, reads no more requests while answers pile up, and
//! notes when bytes last came or went.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::places::Place;

/// Longest time for which answers may wait for a reader, all waits together, less what he has earned by reading.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes a second that earn as much patience as waiting for them costs: who reads slower than this while answers wait is given
/// up in the end. A line of half a megabit does it.
const READ_RATE_MIN: u32 = 64 << 10;

/// Wraps a connection.
pub(super) struct StallGuard<S, H = ()> {
    inner: S,
    /// Kept as long as the connection, also past an upgrade.
    _held: H,
    place: Option<Arc<Place>>,
    /// Runs while a write waits: since when, and until patience is used up.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    /// A read that waits for the writes.
    reader: Option<Waker>,
    /// What is left of it.
    patience: Duration,
    /// The most that there can be.
    patience_max: Duration,
}

impl<S, H> StallGuard<S, H> {
    pub(super) fn new(inner: S, held: H, place: Option<Arc<Place>>) -> Self {
        let (patience, patience_max) = (PATIENCE, PATIENCE);
        Self { inner, _held: held, place, waiting: None, reader: None, patience, patience_max }
    }

    /// Books the outcome of a write of so many bytes: progress lets reading go on and earns patience, waiting uses it up.
    fn settle<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(result) = &outcome {
            if let Some((since, _)) = self.waiting.take() {
                self.patience = self.patience.saturating_sub(since.elapsed());
            }
            if let Ok(value) = result {
                let bytes = u32::try_from(bytes(value)).unwrap_or(u32::MAX);
                let earned = Duration::from_secs(1).saturating_mul(bytes) / READ_RATE_MIN;
                self.patience = self.patience.saturating_add(earned).min(self.patience_max);
                self.note();
            }
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
            return outcome;
        }
        let left = self.patience;
        let (_, timer) = self.waiting.get_or_insert_with(|| {
            let now = Instant::now();
            (now, Box::pin(tokio::time::sleep_until(now + left)))
        });
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads too slowly"))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn note(&self) {
        if let Some(place) = &self.place {
            place.active();
        }
    }
}

impl<S: AsyncRead + Unpin, H: Unpin> AsyncRead for StallGuard<S, H> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_some() {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if read.is_ready() && buffer.filled().len() > before {
            self.note();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin, H: Unpin> AsyncWrite for StallGuard<S, H> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.settle(cx, outcome, |sent| *sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, parts);
        self.settle(cx, outcome, |sent| *sent)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(cx);
        self.settle(cx, outcome, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.settle(cx, outcome, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_reader_that_stands_still_is_given_up() {
        let (near, mut far) = tokio::io::duplex(8);
        let mut guard = StallGuard { patience: Duration::from_millis(50), ..StallGuard::new(near, (), None) };
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
        let (mut read, mut write) = tokio::io::split(StallGuard::new(near, (), None));
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

    /// Reads `piece` bytes every `pause` from a guard with a second of patience and 128 KiB to send; whether all of it was
    /// taken.
    async fn read_by(piece: usize, pause: Duration) -> bool {
        let (near, mut far) = tokio::io::duplex(piece);
        let (patience, patience_max) = (Duration::from_secs(1), Duration::from_secs(1));
        let mut guard = StallGuard { patience, patience_max, ..StallGuard::new(near, (), None) };
        let writer = tokio::spawn(async move { guard.write_all(&vec![7; 128 << 10]).await });
        let mut buffer = vec![0; piece];
        while !writer.is_finished() {
            tokio::time::sleep(pause).await;
            // After the end there is nothing more.
            let _ = tokio::time::timeout(pause, far.read(&mut buffer)).await;
        }
        writer.await.unwrap().is_ok()
    }

    #[tokio::test]
    async fn a_reader_who_is_slow_for_long_is_given_up_and_one_who_keeps_the_rate_is_not() {
        assert!(read_by(16 << 10, Duration::from_millis(100)).await, "160 KiB a second");
        // Progress eight times a second, as a reader shows that only wants to hold the answer.
        assert!(!read_by(2 << 10, Duration::from_millis(125)).await, "16 KiB a second");
    }
}
