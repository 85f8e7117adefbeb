//! The plan by which a node that was away, or joins late, gets decided blocks with their certificates.
//!
//! Without I/O: the shell carries requests to peers and answers back, applies blocks in order, and says how far it is. Asks
//! several peers at once in batches, believes nobody: a block is handed on only when more than two thirds of its height's
//! set signed it and its body is the one its header names. The set of a height is known when the block below is applied, so
//! blocks are checked and applied strictly one after the other.
//!
//! How far the network is, is another question than whom to ask: any claim is worth a request, and a claim that is not served
//! costs its peer its turns, longer each time; but [`Sync::target`] counts only what validators, a crowd of peers or a
//! certificate vouch for.
//!
//! Bounds: [`PEERS_MAX`] peers (more are not asked), [`PARALLEL`] requests, [`AHEAD_MAX`] blocks waiting.

use std::collections::BTreeMap;

use types::block::DecidedBlock;
use types::ids::{GenesisHash, Height, TimeMs};
use types::keys::PublicKey;
use types::limits::SYNC_BLOCKS_MAX;
use types::rpc_sync::Request;
use types::validator::ValidatorSet;

use crate::admission::{Fault, check_block};

/// Requests in flight at once, one a peer.
pub const PARALLEL: usize = 4;
/// Blocks that may wait for the ones below them.
pub const AHEAD_MAX: u64 = 256;
/// Peers kept track of.
pub const PEERS_MAX: usize = 256;
/// A request unanswered for so long has failed, milliseconds.
pub const ANSWER_MS: u64 = 10_000;
/// A peer is asked for its height this often, milliseconds.
pub const STATUS_MS: u64 = 2_000;
/// A block handed out and not applied is handed out again after so long, milliseconds.
pub const APPLY_MS: u64 = 10_000;
/// A peer proven wrong is not asked for so long, milliseconds.
pub const PENALTY_MS: u64 = 60_000;
/// A busy peer is left alone for at least so long, milliseconds; doubles each time it is busy again.
pub const BUSY_MS: u64 = 250;
/// From this many "busy" in a row on, each counts as a failure.
pub const BUSY_MAX: u32 = 4;
/// After so many failures in a row a peer's claim counts for no more than what it was last asked for in vain.
pub const FAILURES_DOUBT: u32 = 3;

/// A peer, opaque.
pub type Peer = u64;

/// What the shell feeds.
#[derive(Clone, Debug)]
pub enum SyncInput {
    /// The last decided height here, and the validator set of the next; at start and after every commit, however it came.
    Local {
        /// Last decided height.
        height: Height,
        /// Set of the next height.
        set: ValidatorSet,
    },
    /// A peer is connected.
    Joined {
        /// The peer.
        peer: Peer,
    },
    /// Which validator's key vouches for a peer, if any.
    Vouched {
        /// The peer.
        peer: Peer,
        /// The validator.
        validator: Option<PublicKey>,
    },
    /// A peer is gone.
    Gone {
        /// The peer.
        peer: Peer,
    },
    /// A peer says how far it is.
    Status {
        /// The peer.
        peer: Peer,
        /// Its last decided height.
        height: Height,
        /// The lowest height it still has.
        lowest: Height,
    },
    /// A peer's answer to a request for blocks.
    Blocks {
        /// The peer.
        peer: Peer,
        /// The blocks.
        blocks: Vec<DecidedBlock>,
    },
    /// A peer is too busy to answer a request for blocks.
    Busy {
        /// The peer.
        peer: Peer,
        /// Not to be asked before, from now, milliseconds, it says.
        retry_ms: u32,
    },
    /// A request for blocks failed.
    Failed {
        /// The peer.
        peer: Peer,
    },
    /// Time passed; a few times a second.
    Tick,
}

/// What the shell does.
#[derive(Clone, Debug, PartialEq)]
pub enum SyncOutput {
    /// Ask a peer.
    Request {
        /// The peer.
        peer: Peer,
        /// The question.
        request: Request,
    },
    /// The next block, certified: apply it (through the consensus machine if that height runs), then say [`SyncInput::Local`].
    Apply(Box<DecidedBlock>),
    /// A peer sent what is provably wrong.
    Penalise {
        /// The peer.
        peer: Peer,
        /// What.
        fault: Fault,
    },
    /// Nobody is proven to be further than this node. Said once each time it becomes true.
    UpToDate {
        /// Last decided height here.
        height: Height,
    },
}

#[derive(Clone, Copy, Debug)]
struct Ask {
    from: Height,
    count: u64,
    until: TimeMs,
}

#[derive(Clone, Debug, Default)]
struct PeerState {
    status: Option<(Height, Height)>,
    validator: Option<PublicKey>,
    /// Asked for this height, the peer failed: its claim counts for less, until it serves blocks again.
    unserved: Option<Height>,
    busy: u32,
    status_asked: Option<TimeMs>,
    ask: Option<Ask>,
    not_before: TimeMs,
    failures: u32,
    served: u64,
}

impl PeerState {
    /// The height that the peer's word stands for.
    fn claim(&self) -> Option<Height> {
        let (claimed, _) = self.status?;
        Some(self.unserved.map_or(claimed, |unserved| claimed.min(Height(unserved.0.saturating_sub(1)))))
    }
}

/// The plan.
pub struct Sync {
    genesis: GenesisHash,
    local: Option<(Height, ValidatorSet)>,
    peers: BTreeMap<Peer, PeerState>,
    ready: BTreeMap<Height, (DecidedBlock, Peer)>,
    applying: Option<(Height, TimeMs)>,
    /// The highest block that was served with a certificate of the current set.
    certified: Option<Height>,
    up_to_date: bool,
}

impl Sync {
    /// A plan without peers for a chain; it asks for nothing before [`SyncInput::Local`].
    pub const fn new(genesis: GenesisHash) -> Self {
        Self {
            genesis,
            local: None,
            peers: BTreeMap::new(),
            ready: BTreeMap::new(),
            applying: None,
            certified: None,
            up_to_date: false,
        }
    }

    /// The decided height that the network has reached, as far as somebody vouches for it: the highest that peers of validators
    /// with more than a third of the power claim (one of them is honest), or what half of all peers claim where too few are
    /// known to be validators'; and any that a certificate was seen of. One voice of several
    /// moves it nowhere, and one that serves nothing is lost.
    pub fn target(&self) -> Option<Height> {
        self.claimed_by_validators().or_else(|| self.claimed_by_half()).max(self.certified)
    }

    fn claimed_by_validators(&self) -> Option<Height> {
        let (_, set) = self.local.as_ref()?;
        let mut of_key: BTreeMap<PublicKey, Height> = BTreeMap::new();
        for (key, claim) in self.peers.values().filter_map(|p| p.validator.zip(p.claim())) {
            // A key that vouches for two peers has one voice.
            of_key.entry(key).and_modify(|known| *known = claim.min(*known)).or_insert(claim);
        }
        let mut claims: Vec<(Height, u64)> =
            of_key.iter().filter_map(|(key, claim)| Some((*claim, set.power_of(key)?))).collect();
        claims.sort_unstable_by_key(|(claim, _)| std::cmp::Reverse(*claim));
        let mut power = 0u64;
        let vouched = claims.into_iter().find(|(_, own)| {
            power = power.saturating_add(*own);
            set.is_honest(power)
        });
        vouched.map(|(claim, _)| claim)
    }

    fn claimed_by_half(&self) -> Option<Height> {
        let mut claims: Vec<Height> = self.peers.values().filter_map(PeerState::claim).collect();
        claims.sort_unstable();
        // Of two the lower: one voice is never more than half.
        claims.get(claims.len().saturating_sub(1) / 2).copied()
    }

    /// The highest height that anybody in good standing claims: what may be asked for.
    fn reach(&self, now: TimeMs) -> Option<Height> {
        let good = self.peers.values().filter(|p| p.not_before <= now);
        good.filter_map(|p| p.status.map(|(height, _)| height)).max()
    }

    /// Blocks waiting for the ones below them.
    pub fn waiting(&self) -> usize {
        self.ready.len()
    }

    /// Takes one input and says what to do now.
    pub fn handle(&mut self, now: TimeMs, input: SyncInput) -> Vec<SyncOutput> {
        let mut out = Vec::new();
        match input {
            SyncInput::Local { height, set } => self.on_local(height, set),
            SyncInput::Joined { peer } => {
                if self.peers.len() < PEERS_MAX {
                    self.peers.entry(peer).or_default();
                }
            }
            SyncInput::Vouched { peer, validator } => {
                if let Some(p) = self.peers.get_mut(&peer) {
                    p.validator = validator;
                }
            }
            SyncInput::Gone { peer } => {
                self.peers.remove(&peer);
            }
            SyncInput::Status { peer, height, lowest } => self.on_status(peer, height, lowest),
            SyncInput::Blocks { peer, blocks } => self.on_blocks(now, peer, blocks, &mut out),
            SyncInput::Busy { peer, retry_ms } => self.on_busy(now, peer, retry_ms),
            SyncInput::Failed { peer } => self.on_failure(now, peer),
            SyncInput::Tick => self.on_tick(now, &mut out),
        }
        self.apply(now, &mut out);
        self.plan(now, &mut out);
        self.announce(&mut out);
        out
    }

    fn on_local(&mut self, height: Height, set: ValidatorSet) {
        self.local = Some((height, set));
        for p in self.peers.values_mut() {
            // What it claimed came true.
            p.unserved = p.unserved.filter(|_| p.status.is_none_or(|(claimed, _)| claimed > height));
        }
        self.ready = self.ready.split_off(&height.next());
        self.applying = self.applying.filter(|(applying, _)| *applying > height);
    }

    fn on_status(&mut self, peer: Peer, height: Height, lowest: Height) {
        if let Some(p) = self.peers.get_mut(&peer) {
            p.status = Some((height, lowest));
        }
    }

    fn on_tick(&mut self, now: TimeMs, out: &mut Vec<SyncOutput>) {
        let late: Vec<_> =
            self.peers.iter().filter(|(_, p)| p.ask.is_some_and(|a| a.until <= now)).map(|(peer, _)| *peer).collect();
        for peer in late {
            self.on_failure(now, peer);
        }
        if self.applying.is_some_and(|(_, since)| now.since(since) >= APPLY_MS) {
            self.applying = None;
        }
        for (peer, p) in &mut self.peers {
            if p.not_before <= now && p.status_asked.is_none_or(|asked| now.since(asked) >= STATUS_MS) {
                p.status_asked = Some(now);
                out.push(SyncOutput::Request { peer: *peer, request: Request::Status });
            }
        }
    }

    /// A peer decides when it has time, but not that it is asked without end.
    fn on_busy(&mut self, now: TimeMs, peer: Peer, retry_ms: u32) {
        let Some(p) = self.peers.get_mut(&peer) else { return };
        p.busy = p.busy.saturating_add(1);
        let least = BUSY_MS.saturating_mul(1 << p.busy.saturating_sub(1).min(10));
        let until = now.plus(u64::from(retry_ms).max(least).min(PENALTY_MS));
        if p.busy >= BUSY_MAX {
            self.on_failure(now, peer);
        }
        if let Some(p) = self.peers.get_mut(&peer) {
            p.ask = None;
            p.not_before = p.not_before.max(until);
        }
    }

    fn on_failure(&mut self, now: TimeMs, peer: Peer) {
        let Some(p) = self.peers.get_mut(&peer) else { return };
        let Some(ask) = p.ask.take() else { return };
        // Silence proves nothing, so it costs the peer its turn and not its score.
        p.failures = p.failures.saturating_add(1);
        if p.failures >= FAILURES_DOUBT {
            p.unserved = Some(ask.from);
        }
        p.not_before = now.plus(500u64.saturating_mul(1 << p.failures.min(7)).min(PENALTY_MS));
    }

    fn on_blocks(&mut self, now: TimeMs, peer: Peer, blocks: Vec<DecidedBlock>, out: &mut Vec<SyncOutput>) {
        let Some(ask) = self.peers.get(&peer).and_then(|p| p.ask) else { return };
        if blocks.is_empty() {
            // It claimed to have the first one. Until its next status it is taken not to have it.
            if let Some(p) = self.peers.get_mut(&peer) {
                p.status = None;
                p.unserved = Some(ask.from);
            }
            return self.on_failure(now, peer);
        }
        if let Err(fault) = check_batch(&self.genesis, ask, &blocks) {
            return self.penalise(now, peer, fault, out);
        }
        if let Some(p) = self.peers.get_mut(&peer) {
            p.ask = None;
            (p.failures, p.busy, p.unserved) = (0, 0, None);
            p.served = p.served.saturating_add(blocks.len() as u64);
        }
        let Some((local, set)) = &self.local else { return };
        if let Some(last) = blocks.last().filter(|last| Some(last.certificate.height) > self.certified) {
            let (height, id) = (last.certificate.height, last.block.id());
            // A later set may have signed it: then nothing is proven yet, and nobody to blame.
            if last.certificate.verify(&self.genesis, set, height, id).is_ok() {
                self.certified = Some(height);
            }
        }
        let (low, high) = (*local, Height(local.0.saturating_add(AHEAD_MAX)));
        for decided in blocks {
            let height = decided.certificate.height;
            if height > low && height <= high {
                self.ready.entry(height).or_insert((decided, peer));
            }
        }
    }

    fn penalise(&mut self, now: TimeMs, peer: Peer, fault: Fault, out: &mut Vec<SyncOutput>) {
        self.ready.retain(|_, (_, from)| *from != peer);
        if let Some(p) = self.peers.get_mut(&peer) {
            p.ask = None;
            p.status = None;
            p.not_before = now.plus(PENALTY_MS);
        }
        out.push(SyncOutput::Penalise { peer, fault });
    }

    /// Hands on the next block if it is there and its certificate holds.
    fn apply(&mut self, now: TimeMs, out: &mut Vec<SyncOutput>) {
        let Some((local, set)) = &self.local else { return };
        let next = local.next();
        let (None, Some((decided, peer))) = (self.applying, self.ready.get(&next)) else { return };
        match decided.certificate.verify(&self.genesis, set, next, decided.block.id()) {
            Ok(_) => {
                out.push(SyncOutput::Apply(Box::new(decided.clone())));
                self.applying = Some((next, now));
            }
            Err(error) => {
                let peer = *peer;
                self.penalise(now, peer, Fault::Certificate(error), out);
            }
        }
    }

    fn plan(&mut self, now: TimeMs, out: &mut Vec<SyncOutput>) {
        let Some((local, _)) = &self.local else { return };
        let Some(reach) = self.reach(now) else { return };
        let last = reach.0.min(local.0.saturating_add(AHEAD_MAX));
        let mut from = local.0.saturating_add(1);
        while from <= last && self.peers.values().filter(|p| p.ask.is_some()).count() < PARALLEL {
            let Some(count) = self.gap(from, last) else {
                from = from.saturating_add(1);
                continue;
            };
            let Some(peer) = self.choose(now, from) else { return };
            let Some(p) = self.peers.get_mut(&peer) else { return };
            let has = p.status.map_or(0, |(height, _)| height.0.saturating_sub(from).saturating_add(1));
            let count = count.min(has);
            p.ask = Some(Ask { from: Height(from), count, until: now.plus(ANSWER_MS) });
            let request = Request::Blocks { from: Height(from), count: u16::try_from(count).unwrap_or(u16::MAX) };
            out.push(SyncOutput::Request { peer, request });
            from = from.saturating_add(count);
        }
    }

    /// How many heights from `from` on, at most a batch, are neither here nor asked for; `None` if `from` itself is.
    fn gap(&self, from: u64, last: u64) -> Option<u64> {
        let asked = |h: u64| {
            self.peers.values().filter_map(|p| p.ask).any(|a| h >= a.from.0 && h.saturating_sub(a.from.0) < a.count)
        };
        let free = |h: &u64| !self.ready.contains_key(&Height(*h)) && !asked(*h);
        let count = (from..=last).take(SYNC_BLOCKS_MAX).take_while(free).count() as u64;
        (count > 0).then_some(count)
    }

    /// The idle peer that has `from`, failed least and served least.
    fn choose(&self, now: TimeMs, from: u64) -> Option<Peer> {
        let able = |p: &PeerState| {
            let has = p.status.is_some_and(|(height, lowest)| lowest.0 <= from && from <= height.0);
            has && p.ask.is_none() && p.not_before <= now
        };
        let able = self.peers.iter().filter(|(_, p)| able(p));
        able.min_by_key(|(peer, p)| (p.failures, p.served, **peer)).map(|(peer, _)| *peer)
    }

    fn announce(&mut self, out: &mut Vec<SyncOutput>) {
        let (Some((local, _)), Some(target)) = (&self.local, self.target()) else { return };
        let reached = *local >= target;
        if reached && !self.up_to_date {
            out.push(SyncOutput::UpToDate { height: *local });
        }
        self.up_to_date = reached;
    }
}

/// An answer starts where it was asked to, has no gaps, and each body is its header's.
fn check_batch(genesis: &GenesisHash, ask: Ask, blocks: &[DecidedBlock]) -> Result<(), Fault> {
    if blocks.len() as u64 > ask.count {
        return Err(Fault::Malformed("an answer has at most as many blocks as were asked for"));
    }
    let mut height = ask.from;
    for decided in blocks {
        check_block(genesis, height, &decided.block)?;
        if decided.certificate.height != height || decided.certificate.block != decided.block.id() {
            return Err(Fault::Malformed("a certificate is for its block"));
        }
        height = height.next();
    }
    Ok(())
}
