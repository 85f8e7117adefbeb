//! A WebSocket connection with JSON-RPC: messages in, answers and events out.
//!
//! Bounds: bytes of a message, messages answered at once (no more are read until an answer has been sent), events that
//! wait to be sent (then subscriptions wait), subscriptions, time without a sign of life. Answers hold what their calls
//! took, room among it, until they have been sent; a reader who is too slow is given up by [`super::stall`]. The errors
//! are HTTP's for the same bytes; see [`dispatch`]. After a message that is too large the connection ends, because the
//! rest of it was not read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use axum::response::IntoResponse;
use hyper_util::rt::TokioIo;
use jsonrpsee::server::{MethodResponse, MethodSink, Methods, StopHandle};
use jsonrpsee::types::{ErrorObjectOwned, Extensions, Id};
use serde_json::value::RawValue;
use soketto::base::OpCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tower::Layer;
use tracing::debug;

use super::frames::{self, Broken, Incoming, Reader};
use super::keep::Keep;
use super::places::Place;
use super::refusal::Refusal;
use super::{BODY_MAX, ClientAddress, DRAIN};
use crate::rpc::dispatch::{self, Session};
use crate::rpc::guard::{Guard, GuardLayer};
use crate::rpc::ids::Admitted;

/// Messages of a connection that are answered at once, or whose answer waits to be sent; each may have as many bytes as a
/// message has at most.
const ANSWERED_MAX: usize = 32;
/// Events of a connection that wait to be sent; then its subscriptions wait.
const WAITING_MAX: usize = 64;
/// Time between two pings.
const PING: Duration = Duration::from_secs(30);
/// Longest time without a message or a pong.
const SILENCE_MAX: Duration = Duration::from_secs(40);
/// What is read and dropped of a message that was not taken, and for how long, so that the last words arrive: a
/// connection that is closed on unread bytes is reset, and what was sent before is lost.
const SKIPPED_MAX: u64 = 16 << 20;
const SKIPPED_FOR: Duration = Duration::from_secs(2);

/// What a session needs from the router.
#[derive(Clone)]
pub(super) struct Sessions {
    /// All methods.
    pub(super) methods: Methods,
    /// What every call passes.
    pub(super) guard: GuardLayer,
    /// Ends all sessions.
    pub(super) stop: StopHandle,
}

/// Why a session ends, as the number in the close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The client said so.
    Closed,
    /// The node stops.
    Stopped,
    /// Not the protocol.
    Protocol,
    /// A message is too large.
    TooLarge,
    /// The connection failed.
    Gone,
}

impl End {
    /// RFC 6455, section 7.4.1; nothing where nobody listens any more.
    fn code(self) -> Option<u16> {
        match self {
            Self::Closed => Some(1000),
            Self::Stopped => Some(1001),
            Self::Protocol => Some(1002),
            Self::TooLarge => Some(1009),
            Self::Gone => None,
        }
    }
}

/// Answers the handshake; the session begins once the answer is sent.
pub(super) fn upgrade(sessions: Sessions, request: Request<Body>) -> Response<Body> {
    let answer = match soketto::handshake::http::Server::new().receive_request(&request) {
        Ok(answer) => answer,
        Err(error) => {
            let limit = "Upgrade: websocket, Sec-WebSocket-Version: 13, Sec-WebSocket-Key of 16 bytes in base64";
            let message = format!("the WebSocket handshake is not complete: {error}; send {limit}");
            return Refusal::field("invalid_request", "headers", error, limit, message).into_response();
        }
    };
    let mut extensions = Extensions::new();
    if let Some(address) = request.extensions().get::<ClientAddress>() {
        extensions.insert(*address);
    }
    let Some(place) = request.extensions().get::<Arc<Place>>().cloned() else {
        return Refusal::new("internal", "this connection has no place").into_response();
    };
    tokio::spawn(async move {
        match hyper::upgrade::on(request).await {
            Ok(upgraded) => {
                tokio::select! {
                    () = session(TokioIo::new(upgraded), sessions, extensions, &place) => {}
                    () = place.closed().cancelled() => debug!("a WebSocket connection's place went to somebody else"),
                }
            }
            Err(error) => debug!(%error, "upgrade to WebSocket failed"),
        }
    });
    answer.map(|()| Body::empty())
}

/// An answer on its way out, with what is held until it has been sent.
struct Answer {
    json: Box<RawValue>,
    _keep: Keep,
    _place: Option<OwnedSemaphorePermit>,
}

/// What reading and writing share.
struct Link {
    began: Instant,
    /// Last sign of life, ms after `began`.
    heard: AtomicU64,
    /// Places for messages that are being answered, or whose answer waits to be sent.
    places: Arc<Semaphore>,
}

impl Link {
    fn hear(&self) {
        self.heard.store(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether the client is silent, while it is listened to.
    fn is_silent(&self) -> bool {
        let heard = self.began + Duration::from_millis(self.heard.load(Ordering::Relaxed));
        self.places.available_permits() > 0 && heard.elapsed() > SILENCE_MAX
    }
}

async fn session(
    io: impl AsyncRead + AsyncWrite + Send,
    sessions: Sessions,
    extensions: Extensions,
    connection: &Arc<Place>,
) {
    let (read, write) = tokio::io::split(io);
    let mut reader = Reader::new(BufReader::new(read), BODY_MAX);
    let (queue, events) = mpsc::channel(WAITING_MAX);
    // One more than there are places: for the refusal of what is too large.
    let (outbox, answers) = mpsc::channel(ANSWERED_MAX + 1);
    let (pongs, pings) = mpsc::channel(1);
    let (finish, finished) = oneshot::channel();
    let sink = MethodSink::new_with_limit(queue, dispatch::ANSWER_MAX);
    let service = sessions.guard.layer(Session::new(sessions.methods, sink));
    let places = Arc::new(Semaphore::new(ANSWERED_MAX));
    let link = Link { began: Instant::now(), heard: AtomicU64::new(0), places };
    // Calls end with the session.
    let mut calls = JoinSet::new();

    let mut writing = std::pin::pin!(send_all(BufWriter::new(write), (answers, events), pings, finished, &link));
    let end = tokio::select! {
        end = receive(&mut reader, &mut calls, &service, &outbox, &pongs, (&extensions, connection), &link) => end,
        () = sessions.stop.shutdown() => End::Stopped,
        _ = &mut writing => return,
    };
    if matches!(end, End::Stopped | End::TooLarge) {
        let answered = timeout(DRAIN, async { while calls.join_next().await.is_some() {} });
        tokio::select! {
            _ = answered => {}
            _ = &mut writing => return,
        }
    }
    drop(calls);
    finish.send(end).ok();
    timeout(DRAIN, writing).await.ok();
    if matches!(end, End::TooLarge | End::Protocol) {
        timeout(SKIPPED_FOR, reader.skip(SKIPPED_MAX)).await.ok();
    }
}

/// Reads until something ends the session; every message is answered in a task of its own.
async fn receive<R: AsyncRead + Unpin>(
    reader: &mut Reader<R>,
    calls: &mut JoinSet<()>,
    service: &Guard<Session>,
    outbox: &mpsc::Sender<Answer>,
    pongs: &mpsc::Sender<Vec<u8>>,
    (extensions, connection): (&Extensions, &Arc<Place>),
    link: &Link,
) -> End {
    loop {
        // Fails only when it is closed, which nobody does.
        let Ok(place) = Arc::clone(&link.places).acquire_owned().await else { return End::Gone };
        link.hear();
        let incoming = reader.next().await;
        link.hear();
        match incoming {
            Ok(Incoming::Message(bytes)) => {
                let (service, outbox, busy) = (service.clone(), outbox.clone(), connection.busy());
                let (mut extensions, keep) = (extensions.clone(), Keep::default());
                extensions.insert(keep.clone());
                calls.spawn(async move {
                    let (response, admitted) = dispatch::answer(&service, &bytes, &extensions).await;
                    // Its clone of what is held.
                    drop(extensions);
                    deliver(response, &outbox, keep, (Some(place), admitted)).await;
                    drop(busy);
                });
                // Forget those that are done.
                while calls.try_join_next().is_some() {}
            }
            // Whoever pings faster than pongs can be sent waits.
            Ok(Incoming::Ping(bytes)) => drop(pongs.send(bytes).await),
            Ok(Incoming::Pong) => {}
            Ok(Incoming::Close) => return End::Closed,
            Err(Broken::TooLarge { bytes }) => {
                debug!(bytes, "a WebSocket message is too large");
                let refusal = ErrorObjectOwned::from(Refusal::too_large());
                deliver(MethodResponse::error(Id::Null, refusal), outbox, Keep::default(), (None, None)).await;
                return End::TooLarge;
            }
            Err(Broken::Protocol(error)) => {
                debug!(error, "a client that does not speak WebSocket");
                return End::Protocol;
            }
            Err(Broken::Gone(error)) => {
                debug!(%error, "a WebSocket connection ended");
                return End::Gone;
            }
        }
    }
}

/// Queues an answer. A subscription's was queued by itself, before its first event; a notification has none.
async fn deliver(
    response: MethodResponse,
    outbox: &mpsc::Sender<Answer>,
    keep: Keep,
    (place, admitted): (Option<OwnedSemaphorePermit>, Option<Admitted>),
) {
    if !response.is_method_call() && !response.is_batch() {
        return;
    }
    let is_success = response.is_success();
    let (mut json, sent, _) = response.into_parts();
    if let Some(admitted) = admitted.filter(Admitted::restores)
        && let Ok(restored) = RawValue::from_string(admitted.restored(json.get()))
    {
        json = restored;
    }
    if outbox.send(Answer { json, _keep: keep, _place: place }).await.is_ok()
        && let Some(sent) = sent
    {
        sent.notify(is_success);
    }
}

/// Sends what is queued, pings and pongs, until told to finish; then what is queued still, and a close frame.
async fn send_all(
    mut io: impl AsyncWrite + Unpin,
    (mut answers, mut events): (mpsc::Receiver<Answer>, mpsc::Receiver<Box<RawValue>>),
    mut pings: mpsc::Receiver<Vec<u8>>,
    mut finished: oneshot::Receiver<End>,
    link: &Link,
) -> io::Result<()> {
    let mut beat = interval_at(Instant::now() + PING, PING);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = loop {
        tokio::select! {
            Some(bytes) = pings.recv() => frames::send(&mut io, OpCode::Pong, &bytes).await?,
            Some(answer) = answers.recv() => frames::send(&mut io, OpCode::Text, answer.json.get().as_bytes()).await?,
            Some(event) = events.recv() => frames::send(&mut io, OpCode::Text, event.get().as_bytes()).await?,
            _ = beat.tick() => {
                if link.is_silent() {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the client is silent"));
                }
                frames::send(&mut io, OpCode::Ping, &[]).await?;
            }
            end = &mut finished => break end.unwrap_or(End::Gone),
        }
    };
    answers.close();
    while let Some(answer) = answers.recv().await {
        frames::send(&mut io, OpCode::Text, answer.json.get().as_bytes()).await?;
    }
    // The answers to subscriptions among them.
    events.close();
    while let Some(event) = events.recv().await {
        frames::send(&mut io, OpCode::Text, event.get().as_bytes()).await?;
    }
    if let Some(code) = end.code() {
        frames::send(&mut io, OpCode::Close, &code.to_be_bytes()).await?;
    }
    io.shutdown().await
}
