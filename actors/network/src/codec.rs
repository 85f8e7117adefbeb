//! Frames of request and response: length (4 bytes, little-endian), then that many bytes; one frame each way a stream.
//!
//! Carries bytes, not records: records are encoded and decoded in the callers' threads, never in the swarm's.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::executor::block_on;
use futures::io::Cursor;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response::Codec;

/// What stands for a request over its limit: no request of any protocol reads so. One that broke off is empty.
const OVERLONG: &[u8] = &[0];

/// Bytes of all frames, both directions.
#[derive(Debug, Default)]
pub(crate) struct ByteCounters {
    pub(crate) read: AtomicU64,
    pub(crate) written: AtomicU64,
}

/// Reads and writes frames below hard length limits.
#[derive(Clone, Debug)]
pub(crate) struct FrameCodec {
    request_max: usize,
    response_max: usize,
    counters: Arc<ByteCounters>,
}

impl FrameCodec {
    /// Limits in bytes.
    pub(crate) fn new(request_max: usize, response_max: usize, counters: Arc<ByteCounters>) -> Self {
        Self { request_max, response_max, counters }
    }

    async fn read<T: AsyncRead + Unpin + Send>(&self, io: &mut T, max: usize) -> io::Result<Vec<u8>> {
        let mut head = [0u8; 4];
        io.read_exact(&mut head).await?;
        let length = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
        if length > max {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("frame of {length} bytes, the limit is {max}"),
            ));
        }
        // Grows with what arrives, so that a length field alone claims no more than one read's worth of memory.
        let mut bytes = Vec::with_capacity(length.min(512 << 10));
        let got = io.take(length as u64).read_to_end(&mut bytes).await?;
        if got != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.counters.read.fetch_add(got as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    async fn write<T: AsyncWrite + Unpin + Send>(&self, io: &mut T, bytes: &[u8], max: usize) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= max);
        let Some(length) = length else {
            let text = format!("frame of {} bytes, the limit is {max}", bytes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        };
        io.write_all(&length.to_le_bytes()).await?;
        io.write_all(bytes).await?;
        self.counters.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Reads one request and one response from bytes at hand as the swarm does from a peer's stream, below these limits; for tests
/// of other crates.
///
/// # Errors
/// What a stream with these bytes would bring.
pub fn frames_of(bytes: &[u8], request_max: usize, response_max: usize) -> (io::Result<Vec<u8>>, io::Result<Vec<u8>>) {
    let mut codec = FrameCodec::new(request_max, response_max, Arc::default());
    let protocol = StreamProtocol::new("/frames");
    let request = block_on(codec.read_request(&protocol, &mut Cursor::new(bytes)));
    (request, block_on(codec.read_response(&protocol, &mut Cursor::new(bytes))))
}

impl Codec for FrameCodec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        match self.read(io, self.request_max).await {
            // libp2p keeps a request that can't be read to itself; the node must hear of it to hold it against its sender.
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(OVERLONG.to_vec()),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(vec![]),
            other => other,
        }
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        self.read(io, self.response_max).await
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        self.write(io, &bytes, self.request_max).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        self.write(io, &bytes, self.response_max).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_and_lengths_are_hard_limits() {
        let codec = FrameCodec::new(8, 100, Arc::default());
        let mut wire = Cursor::new(vec![]);
        block_on(codec.write(&mut wire, b"question", 8)).unwrap();
        assert!(block_on(codec.write(&mut wire, b"too long a question", 8)).is_err());
        let bytes = wire.into_inner();
        assert_eq!(block_on(codec.read(&mut Cursor::new(bytes.clone()), 8)).unwrap(), b"question");
        assert!(block_on(codec.read(&mut Cursor::new(bytes.clone()), 7)).is_err());
        let short = bytes[..bytes.len() - 1].to_vec();
        assert_eq!(block_on(codec.read(&mut Cursor::new(short), 8)).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let huge = u32::MAX.to_le_bytes().to_vec();
        assert_eq!(block_on(codec.read(&mut Cursor::new(huge), 100)).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(codec.counters.read.load(Ordering::Relaxed), 8);
    }
}
