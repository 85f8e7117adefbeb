//! WebSocket frames (RFC 6455): messages in, put together from their fragments under a bound, and messages out. Relies
//! on soketto for the form of a frame's head. Keeps nothing beyond the message that is coming in, and of that only what
//! came.

use std::io;

use soketto::Parsing;
use soketto::base::{Codec, Error as HeadError, Header, OpCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest head of a frame, bytes.
const HEAD_BYTES_MAX: usize = 14;

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A whole message, text or binary.
    Message(Vec<u8>),
    /// To be answered by a pong with the same bytes.
    Ping(Vec<u8>),
    /// An answer to a ping.
    Pong,
    /// The client ends the connection.
    Close,
}

/// Why nothing more can be read.
#[derive(Debug)]
pub(super) enum Broken {
    /// A message is longer than the bound; its bytes were not read.
    TooLarge {
        /// Length as far as it was announced.
        bytes: u64,
    },
    /// This is not the protocol.
    Protocol(String),
    /// The connection failed.
    Gone(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

/// The reading half of a connection.
pub(super) struct Reader<R> {
    io: R,
    codec: Codec,
    bytes_max: usize,
    /// The fragments so far of a message that has more.
    unfinished: Option<Vec<u8>>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads messages of at most `bytes_max` bytes.
    pub(super) fn new(io: R, bytes_max: usize) -> Self {
        let mut codec = Codec::new();
        // What is too large is told by the sum of the fragments below.
        codec.set_max_data_size(usize::MAX);
        Self { io, codec, bytes_max, unfinished: None }
    }

    /// The next message or control frame. Control frames may come between the fragments of a message.
    ///
    /// # Errors
    /// [`Broken`]; afterwards nothing sensible can be read. Not to be called again after it was cancelled.
    pub(super) async fn next(&mut self) -> Result<Incoming, Broken> {
        loop {
            let head = self.head().await?;
            if !head.is_masked() {
                return Err(Broken::Protocol("a client's frame is masked".into()));
            }
            match head.opcode() {
                OpCode::Ping => return Ok(Incoming::Ping(self.payload(&head, Vec::new()).await?)),
                OpCode::Pong => {
                    self.payload(&head, Vec::new()).await?;
                    return Ok(Incoming::Pong);
                }
                OpCode::Close => return Ok(Incoming::Close),
                OpCode::Continue if self.unfinished.is_none() => {
                    return Err(Broken::Protocol("a continuation without a beginning".into()));
                }
                OpCode::Text | OpCode::Binary if self.unfinished.is_some() => {
                    return Err(Broken::Protocol("a message within a message".into()));
                }
                _ => {}
            }
            let before = self.unfinished.take().unwrap_or_default();
            let length = before.len().saturating_add(head.payload_len());
            if length > self.bytes_max {
                return Err(Broken::TooLarge { bytes: u64::try_from(length).unwrap_or(u64::MAX) });
            }
            let message = self.payload(&head, before).await?;
            if head.is_fin() {
                return Ok(Incoming::Message(message));
            }
            self.unfinished = Some(message);
        }
    }

    /// Reads on without keeping anything, at most `bytes`, until the client ends.
    pub(super) async fn skip(&mut self, bytes: u64) {
        tokio::io::copy(&mut (&mut self.io).take(bytes), &mut tokio::io::sink()).await.ok();
    }

    async fn head(&mut self) -> Result<Header, Broken> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES_MAX);
        loop {
            match self.codec.decode_header(&bytes) {
                Ok(Parsing::Done { value, .. }) => return Ok(value),
                Ok(Parsing::NeedMore(n)) => {
                    let had = bytes.len();
                    bytes.resize(had.saturating_add(n), 0);
                    self.io.read_exact(bytes.get_mut(had..).unwrap_or_default()).await?;
                }
                // Longer than this machine can count.
                Err(HeadError::PayloadTooLarge { actual, .. }) => return Err(Broken::TooLarge { bytes: actual }),
                Err(error) => return Err(Broken::Protocol(error.to_string())),
            }
        }
    }

    /// The frame's payload, unmasked, behind `before`.
    async fn payload(&mut self, head: &Header, mut before: Vec<u8>) -> Result<Vec<u8>, Broken> {
        let (had, length) = (before.len(), head.payload_len());
        // Grows as the bytes come: an announced length alone costs nothing.
        let taken = u64::try_from(length).unwrap_or(u64::MAX);
        let read = (&mut self.io).take(taken).read_to_end(&mut before).await?;
        if read < length {
            return Err(Broken::Gone(io::ErrorKind::UnexpectedEof.into()));
        }
        Codec::apply_mask(head, before.get_mut(had..).unwrap_or_default());
        Ok(before)
    }
}

/// Sends one frame, unfragmented.
///
/// # Errors
/// When the connection fails.
pub(super) async fn send(io: &mut (impl AsyncWrite + Unpin), kind: OpCode, payload: &[u8]) -> io::Result<()> {
    let mut head = Header::new(kind);
    head.set_fin(true).set_payload_len(payload.len());
    let head = Codec::new().encode_header(&head).to_vec();
    io.write_all(&head).await?;
    io.write_all(payload).await?;
    io.flush().await
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const MAX: usize = 1_000;

    /// A client's frame: kind and FIN in the first byte, the shortest form of the length, the mask `01 02 03 04`.
    pub(in crate::http) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            n if n < 126 => out.push(0x80 | n as u8),
            n if n < 65_536 => {
                out.push(0x80 | 126);
                out.extend((n as u16).to_be_bytes());
            }
            n => {
                out.push(0x80 | 127);
                out.extend((n as u64).to_be_bytes());
            }
        }
        out.extend([1, 2, 3, 4]);
        out.extend(payload.iter().zip([1u8, 2, 3, 4].iter().cycle()).map(|(b, m)| b ^ m));
        out
    }

    async fn read(bytes: &[u8]) -> (Vec<Incoming>, Broken) {
        let mut reader = Reader::new(bytes, MAX);
        let mut out = vec![];
        loop {
            match reader.next().await {
                Ok(incoming) => out.push(incoming),
                Err(broken) => return (out, broken),
            }
        }
    }

    #[tokio::test]
    async fn fragments_make_a_message_and_control_frames_may_come_between() {
        let all = [
            frame(0x81, b"whole"),
            frame(0x82, &[7; 300]),
            frame(0x01, b"be"),
            frame(0x89, b"ping"),
            frame(0x00, b"gin"),
            frame(0x8a, b"x"),
            frame(0x80, b"ning"),
            frame(0x81, b""),
            frame(0x88, &1_000u16.to_be_bytes()),
        ];
        let (got, end) = read(&all.concat()).await;
        let message = |bytes: &[u8]| Incoming::Message(bytes.to_vec());
        let expected = [
            message(b"whole"),
            message(&[7; 300]),
            Incoming::Ping(b"ping".to_vec()),
            Incoming::Pong,
            message(b"beginning"),
            message(b""),
            Incoming::Close,
        ];
        assert_eq!(got, expected);
        // What follows a close frame is not looked at by whoever closes; here it is read as a frame.
        assert!(matches!(end, Broken::Protocol(_) | Broken::Gone(_)), "{end:?}");
    }

    #[tokio::test]
    async fn too_large_is_told_from_the_head_and_over_fragments() {
        let (got, end) = read(&frame(0x81, &[b'x'; MAX])).await;
        assert_eq!((got.len(), matches!(end, Broken::Gone(_))), (1, true));
        let (got, end) = read(&frame(0x81, &[b'x'; MAX + 1])[..8]).await;
        assert!(got.is_empty() && matches!(end, Broken::TooLarge { bytes: 1_001 }), "{end:?}");
        let parts = [frame(0x01, &[b'x'; 600]), frame(0x80, &[b'x'; 600])].concat();
        let (_, end) = read(&parts).await;
        assert!(matches!(end, Broken::TooLarge { bytes: 1_200 }), "{end:?}");
        let endless = [&[0x81, 0xff][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat();
        let (_, end) = read(&endless).await;
        assert!(matches!(end, Broken::TooLarge { .. }), "{end:?}");
    }

    #[tokio::test]
    async fn what_is_not_the_protocol_ends_the_connection() {
        let unmasked = [0x81, 2, b'h', b'i'];
        let cases: [&[u8]; 6] = [
            &unmasked,
            &frame(0x80, b"nothing before"),
            &[frame(0x01, b"a"), frame(0x81, b"b")].concat(),
            &frame(0x83, b"a reserved kind"),
            &frame(0xc1, b"a reserved bit"),
            &frame(0x09, b"a fragmented ping"),
        ];
        for case in cases {
            let (got, end) = read(case).await;
            assert!(got.is_empty() && matches!(end, Broken::Protocol(_)), "{case:?}: {end:?}");
        }
        let (_, end) = read(&frame(0x81, b"cut off")[..9]).await;
        assert!(matches!(end, Broken::Gone(_)), "{end:?}");
    }

    #[tokio::test]
    async fn frames_go_out_in_every_length() {
        for length in [0usize, 1, 125, 126, 65_535, 65_536] {
            let mut out = vec![];
            send(&mut out, OpCode::Text, &vec![b'a'; length]).await.unwrap();
            let head = match length {
                0..126 => vec![0x81, length as u8],
                126..65_536 => [&[0x81, 126][..], &(length as u16).to_be_bytes()].concat(),
                _ => [&[0x81, 127][..], &(length as u64).to_be_bytes()].concat(),
            };
            assert_eq!((&out[..head.len()], out.len()), (&head[..], head.len() + length));
        }
    }
}
