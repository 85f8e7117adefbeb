//! Requests in both directions: queues per peer for the own ones, quotas and open answers for the peers'.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use libp2p::PeerId;
use libp2p::request_response::{InboundRequestId, OutboundRequestId, ResponseChannel};
use tokio::sync::oneshot;
use types::Wire;
use types::rpc_sync::{Request, Response};

use crate::config::{Limits, Quotas};
use crate::error::RequestError;
use crate::handle::OutgoingRequest;
use crate::quota::{Admission, Kind, PeerQuota};

/// Own requests waiting for one peer.
const WAITING_PER_PEER: usize = 64;
/// Open requests of one peer: its eight streams, and those whose answers are just being flushed.
const OPEN_PER_PEER: usize = 16;
/// One peer may hold this part of all bytes being sent, so that one that asks and never reads leaves room for others.
const PEER_SHARE: usize = 8;
/// Answers up to this length, bytes, are given however much is being sent.
const SHORT_ANSWER: usize = 8 << 10;
/// Milliseconds a peer is asked to wait when the bound is not a rate.
const RETRY_MS: u32 = 50;

type Reply = oneshot::Sender<Result<Vec<u8>, RequestError>>;

#[derive(Debug, Default)]
struct Queue {
    active: usize,
    urgent: VecDeque<OutgoingRequest>,
    bulk: VecDeque<OutgoingRequest>,
}

/// Own requests.
#[derive(Debug)]
pub(crate) struct Outbound {
    streams: usize,
    queues: HashMap<PeerId, Queue>,
    in_flight: HashMap<OutboundRequestId, (PeerId, Reply)>,
}

impl Outbound {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { streams: limits.streams_per_peer, queues: HashMap::new(), in_flight: HashMap::new() }
    }

    /// Queues a request; the caller then starts what [`next`](Self::next) hands out.
    pub(crate) fn push(&mut self, request: OutgoingRequest) {
        let queue = self.queues.entry(request.peer).or_default();
        if queue.urgent.len().saturating_add(queue.bulk.len()) >= WAITING_PER_PEER {
            let peer = request.peer;
            // The asker may have gone; then nobody misses the answer.
            let _ = request.reply.send(Err(RequestError::Overloaded(peer)));
        } else if request.bulk {
            queue.bulk.push_back(request);
        } else {
            queue.urgent.push_back(request);
        }
    }

    /// The next request to start to a peer: chunks leave a quarter of the streams to others.
    pub(crate) fn next(&mut self, peer: &PeerId) -> Option<OutgoingRequest> {
        let queue = self.queues.get_mut(peer)?;
        let bulk_streams = self.streams.saturating_sub(self.streams / 4).max(1);
        loop {
            if queue.active >= self.streams {
                return None;
            }
            let request = match queue.urgent.pop_front() {
                Some(request) => request,
                None if queue.active < bulk_streams => queue.bulk.pop_front()?,
                None => return None,
            };
            // A caller that gave up does not cost a stream.
            if !request.reply.is_closed() {
                queue.active = queue.active.saturating_add(1);
                return Some(request);
            }
        }
    }

    pub(crate) fn started(&mut self, id: OutboundRequestId, peer: PeerId, reply: Reply) {
        self.in_flight.insert(id, (peer, reply));
    }

    /// Ends a request. Returns the peer, to which another may now be started.
    pub(crate) fn finished(&mut self, id: OutboundRequestId, result: Result<Vec<u8>, RequestError>) -> Option<PeerId> {
        let (peer, reply) = self.in_flight.remove(&id)?;
        let _ = reply.send(result);
        if let Some(queue) = self.queues.get_mut(&peer) {
            queue.active = queue.active.saturating_sub(1);
            if queue.active == 0 && queue.urgent.is_empty() && queue.bulk.is_empty() {
                self.queues.remove(&peer);
            }
        }
        Some(peer)
    }

    /// Refuses everything that waits for a peer that is gone. What is in flight is ended by libp2p's own failure
    /// events.
    pub(crate) fn disconnected(&mut self, peer: &PeerId) {
        let Some(queue) = self.queues.get_mut(peer) else { return };
        for request in queue.urgent.drain(..).chain(queue.bulk.drain(..)) {
            let _ = request.reply.send(Err(RequestError::NotConnected(*peer)));
        }
        if queue.active == 0 {
            self.queues.remove(peer);
        }
    }
}

#[derive(Debug)]
struct Open {
    peer: PeerId,
    id: InboundRequestId,
    channel: ResponseChannel<Vec<u8>>,
}

/// What to do with a peer's request.
#[derive(Debug)]
pub(crate) enum Intake {
    /// Give it to the node under this token.
    Granted(u64),
    /// Answer with these bytes at once.
    Busy(ResponseChannel<Vec<u8>>, Vec<u8>),
    /// Answer with these bytes at once, and book a flood.
    Flood(ResponseChannel<Vec<u8>>, Vec<u8>),
}

/// Peers' requests.
#[derive(Debug)]
pub(crate) struct Inbound {
    quotas: Quotas,
    bytes_max: usize,
    peers: HashMap<PeerId, PeerQuota>,
    open: HashMap<u64, Open>,
    /// Requests from intake to the last byte of the answer: peer, and bytes of the answer, before it is known the most
    /// that it may have.
    streams: HashMap<InboundRequestId, (PeerId, usize)>,
    open_per_peer: HashMap<PeerId, usize>,
    bytes: usize,
    next_token: u64,
}

impl Inbound {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            quotas: limits.quotas.clone(),
            bytes_max: limits.response_bytes,
            peers: HashMap::new(),
            open: HashMap::new(),
            streams: HashMap::new(),
            open_per_peer: HashMap::new(),
            bytes: 0,
            next_token: 0,
        }
    }

    /// Decides on a request.
    pub(crate) fn take(
        &mut self,
        peer: PeerId,
        request: &Request,
        id: InboundRequestId,
        channel: ResponseChannel<Vec<u8>>,
        now: Instant,
    ) -> Intake {
        let busy = |ms: u32| Response::Busy { retry_ms: ms }.to_bytes();
        let kind = Kind::of(request);
        let millis = |wait: std::time::Duration| u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
        match self.count(peer, kind, now) {
            Admission::Wait(wait) => return Intake::Busy(channel, busy(millis(wait))),
            Admission::Flood(wait) => return Intake::Flood(channel, busy(millis(wait))),
            Admission::Granted => {}
        }
        let expected = kind.answer_bytes();
        let held: usize = self.streams.values().filter(|(of, _)| *of == peer).map(|(_, bytes)| *bytes).sum();
        // Short answers are never what fills the memory, and a first one always fits.
        let beyond = |held: usize, limit: usize| held > 0 && held.saturating_add(expected) > limit;
        let crowded = beyond(self.bytes, self.bytes_max) || beyond(held, self.bytes_max / PEER_SHARE);
        let open = self.open_per_peer.entry(peer).or_default();
        if *open >= OPEN_PER_PEER || (crowded && expected > SHORT_ANSWER) {
            return Intake::Busy(channel, busy(RETRY_MS));
        }
        *open = open.saturating_add(1);
        self.streams.insert(id, (peer, expected));
        self.bytes = self.bytes.saturating_add(expected);
        let token = self.next_token;
        self.next_token = self.next_token.wrapping_add(1);
        self.open.insert(token, Open { peer, id, channel });
        Intake::Granted(token)
    }

    /// Books a request of a kind against its sender's quota.
    pub(crate) fn count(&mut self, peer: PeerId, kind: Kind, now: Instant) -> Admission {
        self.peers.entry(peer).or_insert_with(|| PeerQuota::new(&self.quotas, now)).admit(kind, now)
    }

    /// The way back for an answer; `None` when the request has lapsed.
    pub(crate) fn answer(&mut self, token: u64, bytes: usize) -> Option<ResponseChannel<Vec<u8>>> {
        let open = self.open.remove(&token)?;
        if !open.channel.is_open() {
            self.ended(open.id);
            return None;
        }
        if let Some((_, held)) = self.streams.get_mut(&open.id) {
            self.bytes = self.bytes.saturating_sub(*held).saturating_add(bytes);
            *held = bytes;
        }
        Some(open.channel)
    }

    /// Takes a request back that the node's lane had no room for.
    pub(crate) fn withdraw(&mut self, token: u64) -> Option<(ResponseChannel<Vec<u8>>, Vec<u8>)> {
        let open = self.open.remove(&token)?;
        self.ended(open.id);
        Some((open.channel, Response::Busy { retry_ms: RETRY_MS }.to_bytes()))
    }

    /// The answer's last byte has gone, or the request failed.
    pub(crate) fn ended(&mut self, id: InboundRequestId) {
        let Some((peer, bytes)) = self.streams.remove(&id) else { return };
        self.bytes = self.bytes.saturating_sub(bytes);
        if let Some(open) = self.open_per_peer.get_mut(&peer) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                self.open_per_peer.remove(&peer);
            }
        }
    }

    /// Forgets lapsed requests, requests of peers that left, and quotas that are full again.
    pub(crate) fn settle(&mut self, now: Instant, connected: impl Fn(&PeerId) -> bool) {
        let lapsed: Vec<u64> =
            self.open.iter().filter(|(_, o)| !o.channel.is_open()).map(|(token, _)| *token).collect();
        for token in lapsed {
            if let Some(open) = self.open.remove(&token) {
                self.ended(open.id);
            }
        }
        let gone: Vec<InboundRequestId> =
            self.streams.iter().filter(|(_, (p, _))| !connected(p)).map(|(id, _)| *id).collect();
        for id in gone {
            self.ended(id);
        }
        self.open.retain(|_, o| connected(&o.peer));
        self.peers.retain(|peer, quota| connected(peer) || !quota.idle(now));
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
