//! Request and response in the swarm's thread, and the exchange of known peers.

use std::sync::atomic::Ordering;
use std::time::Instant;

use libp2p::PeerId;
use libp2p::request_response::{Event, Message, OutboundFailure, ResponseChannel};
use tracing::debug;
use types::Wire;
use types::gossip::PresenceList;
use types::limits::PRESENCE_LIST_MAX;
use types::rpc_sync::Request as SyncRequest;

use super::{Driver, wall_clock};
use crate::error::RequestError;
use crate::event::{ReplyToken, Request, Verdict};
use crate::handle::OutgoingRequest;
use crate::metrics::count;
use crate::penalty::Fault;
use crate::quota::{Admission, Kind};
use crate::requests::Intake;

type SyncEvent = Event<Vec<u8>, Vec<u8>>;

impl Driver {
    /// Queues an own request.
    pub(super) fn send_request(&mut self, request: OutgoingRequest) {
        let peer = request.peer;
        count(&mut self.metrics.requests_out_total);
        if !self.peers.contains_key(&peer) {
            count(&mut self.metrics.requests_failed_total);
            // The asker may have gone; then nobody misses the answer.
            let _ = request.reply.send(Err(RequestError::NotConnected(peer)));
            return;
        }
        self.outbound.push(request);
        self.start_requests(&peer);
    }

    fn start_requests(&mut self, peer: &PeerId) {
        while let Some(request) = self.outbound.next(peer) {
            let id = self.swarm.behaviour_mut().sync.send_request(peer, request.data);
            self.outbound.started(id, *peer, request.reply);
        }
    }

    /// Sends the node's answer.
    pub(super) fn send_response(&mut self, token: u64, bytes: Vec<u8>) {
        if let Some(channel) = self.inbound.answer(token, bytes.len()) {
            self.reply(channel, bytes);
        }
    }

    fn reply(&mut self, channel: ResponseChannel<Vec<u8>>, bytes: Vec<u8>) {
        if self.swarm.behaviour_mut().sync.send_response(channel, bytes).is_err() {
            debug!("answer came after the request had lapsed");
        }
    }

    pub(super) fn on_sync(&mut self, event: SyncEvent) {
        match event {
            Event::Message { peer, message: Message::Request { request_id, request, channel }, .. } => {
                count(&mut self.metrics.requests_in_total);
                if request.is_empty() {
                    drop(channel);
                    self.count_request(peer, Kind::Odd);
                    return;
                }
                match SyncRequest::from_bytes(&request) {
                    Ok(request) => {
                        let intake = self.inbound.take(peer, &request, request_id, channel, Instant::now());
                        self.admit(peer, request, intake);
                    }
                    // A dropped channel ends the stream without an answer: a newer node sees "not supported".
                    Err(types::TypeError::UnknownVersion { .. }) => {
                        drop(channel);
                        self.count_request(peer, Kind::Odd);
                    }
                    Err(error) => {
                        debug!(peer = %peer, %error, "malformed request");
                        drop(channel);
                        self.penalise(peer, Fault::InvalidRequest);
                    }
                }
            }
            Event::Message { message: Message::Response { request_id, response }, .. } => {
                if let Some(peer) = self.outbound.finished(request_id, Ok(response)) {
                    self.start_requests(&peer);
                }
            }
            Event::OutboundFailure { peer, request_id, error, .. } => {
                count(&mut self.metrics.requests_failed_total);
                let error = match error {
                    OutboundFailure::DialFailure => RequestError::NotConnected(peer),
                    OutboundFailure::Timeout => {
                        RequestError::Timeout { peer, limit: self.config.limits.request_timeout }
                    }
                    other => RequestError::Broken { peer, reason: other.to_string() },
                };
                if let Some(peer) = self.outbound.finished(request_id, Err(error)) {
                    self.start_requests(&peer);
                }
            }
            Event::InboundFailure { peer, request_id, error, .. } => {
                debug!(peer = %peer, %error, "peer's request failed");
                self.inbound.ended(request_id);
            }
            Event::ResponseSent { request_id, .. } => self.inbound.ended(request_id),
        }
    }

    /// Books a request that gets no answer of its kind; whether it was within the quota.
    fn count_request(&mut self, peer: PeerId, kind: Kind) -> bool {
        match self.inbound.count(peer, kind, Instant::now()) {
            Admission::Granted => true,
            Admission::Wait(_) => false,
            Admission::Flood(_) => {
                self.penalise(peer, Fault::RequestFlood);
                false
            }
        }
    }

    fn admit(&mut self, peer: PeerId, request: SyncRequest, intake: Intake) {
        let (channel, bytes) = match intake {
            Intake::Granted(token) => {
                let request = Request { peer, request, token: ReplyToken(token) };
                if self.lanes.requests.try_send(request).is_ok() {
                    return;
                }
                let Some(refused) = self.inbound.withdraw(token) else { return };
                refused
            }
            Intake::Busy(channel, bytes) => (channel, bytes),
            Intake::Flood(channel, bytes) => {
                self.penalise(peer, Fault::RequestFlood);
                (channel, bytes)
            }
        };
        count(&mut self.metrics.requests_throttled_total);
        self.reply(channel, bytes);
    }

    /// Asks a peer whom it knows.
    pub(super) fn ask_for_peers(&mut self, peer: &PeerId) {
        self.peers_asked = Instant::now();
        self.swarm.behaviour_mut().peers.send_request(peer, vec![]);
    }

    pub(super) fn on_peer_list(&mut self, event: SyncEvent) {
        match event {
            Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                if !request.is_empty() {
                    self.penalise(peer, Fault::InvalidRequest);
                } else if self.count_request(peer, Kind::Peers) {
                    let records = self.book.share(PRESENCE_LIST_MAX, &peer, wall_clock());
                    let bytes = PresenceList { records }.to_bytes();
                    if self.swarm.behaviour_mut().peers.send_response(channel, bytes).is_err() {
                        debug!(peer = %peer, "list of peers came too late");
                    }
                }
            }
            Event::Message { peer, message: Message::Response { response, .. }, .. } => self.file_list(peer, &response),
            Event::OutboundFailure { peer, error, .. } => debug!(peer = %peer, %error, "no list of peers"),
            Event::InboundFailure { .. } | Event::ResponseSent { .. } => {}
        }
    }

    fn file_list(&mut self, peer: PeerId, bytes: &[u8]) {
        let list = match PresenceList::from_bytes(bytes) {
            Ok(list) => list,
            Err(types::TypeError::UnknownVersion { .. }) => return,
            Err(error) => {
                debug!(peer = %peer, %error, "malformed list of peers");
                self.penalise(peer, Fault::InvalidResponse);
                return;
            }
        };
        let now = Instant::now();
        let too_long = list.records.len() > PRESENCE_LIST_MAX;
        let records = list.records.into_iter().take(PRESENCE_LIST_MAX);
        let forged = records.filter(|r| self.file_presence(r.clone(), now) == Verdict::Reject).count();
        if too_long || forged > 0 {
            self.penalise(peer, Fault::InvalidResponse);
        }
    }

    /// Bytes of requests and responses so far: read, written.
    pub(super) fn frame_bytes(&self) -> (u64, u64) {
        (self.bytes.read.load(Ordering::Relaxed), self.bytes.written.load(Ordering::Relaxed))
    }
}
