//! The invariants, held against everything that every node decides, says and hands out.

use std::collections::BTreeMap;
use std::fmt;

use ledger::{Event, Executed};
use types::block::DecidedBlock;
use types::codec::encode_body;
use types::evidence::Evidence;
use types::gossip::ConsensusMessage;
use types::ids::{BlockId, GenesisHash, Height, JobId, StateRoot};
use types::keys::PublicKey;
use types::signing::hash_parts;
use types::validator::ValidatorSet;
use types::verdict::{ProofCertificate, SignedProofVote};
use types::vote::{SignedProposal, SignedVote, VoteKind};

use super::Report;

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Two different blocks are certified at one height.
    TwoBlocks(String),
    /// Two nodes have different states after one height.
    TwoStates(String),
    /// One key signed two different messages for one slot.
    Equivocation(String),
    /// A certificate that a node handed out or decided by proves nothing.
    BadCertificate(String),
    /// A job was paid more than once.
    PaidTwice(String),
    /// The credits of the ledger do not add up.
    Credits(String),
    /// The network did not go on after the faults ended.
    NoProgress(String),
    /// A node stopped, refused to sign, or met what an honest network never shows.
    Node(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, detail) = match self {
            Self::TwoBlocks(d) => ("two blocks at one height", d),
            Self::TwoStates(d) => ("two states at one height", d),
            Self::Equivocation(d) => ("two messages in one slot", d),
            Self::BadCertificate(d) => ("a certificate that proves nothing", d),
            Self::PaidTwice(d) => ("a job paid twice", d),
            Self::Credits(d) => ("credits do not add up", d),
            Self::NoProgress(d) => ("no progress", d),
            Self::Node(d) => ("a node failed", d),
        };
        write!(f, "{what}: {detail}")
    }
}

/// The slot of a signed message: signer, kind, and what makes the slot.
type Slot = (PublicKey, u8, Vec<u8>);

/// Sees everything.
pub(super) struct Judge {
    genesis: GenesisHash,
    decided: BTreeMap<Height, (BlockId, StateRoot)>,
    said: BTreeMap<Slot, [u8; 32]>,
    paid: BTreeMap<JobId, Height>,
    ended: BTreeMap<JobId, Height>,
    /// Height up to which transactions are counted.
    counted: Height,
    chronicle: [u8; 32],
    pub(super) report: Report,
}

impl Judge {
    pub(super) fn new(genesis: GenesisHash) -> Self {
        Self {
            genesis,
            decided: BTreeMap::new(),
            said: BTreeMap::new(),
            paid: BTreeMap::new(),
            ended: BTreeMap::new(),
            counted: Height(0),
            chronicle: [0; 32],
            report: Report::default(),
        }
    }

    fn record(&mut self, entry: &[u8]) {
        self.chronicle = hash_parts("proofmesh simulation chronicle v1", &[&self.chronicle, entry]);
    }

    /// Hash over everything so far.
    pub(super) fn fingerprint(&self) -> String {
        BlockId::new(self.chronicle).to_string()
    }

    /// Height that some node decided.
    pub(super) fn height(&self) -> u64 {
        self.decided.last_key_value().map_or(0, |(height, _)| height.0)
    }

    /// A node took a block for decided.
    pub(super) fn decided(
        &mut self,
        decided: &DecidedBlock,
        set: &ValidatorSet,
        state: StateRoot,
    ) -> Result<(), Violation> {
        let (height, id) = (decided.block.header.height, decided.block.id());
        if let Err(error) = decided.certificate.verify(&self.genesis, set, height, id) {
            return Err(Violation::BadCertificate(format!("height {height}: {error}")));
        }
        match self.decided.get(&height) {
            Some((known, _)) if *known != id => {
                return Err(Violation::TwoBlocks(format!("height {height}: {} and {}", known.short(), id.short())));
            }
            Some((_, known)) if *known != state => {
                return Err(Violation::TwoStates(format!("height {height}: {} and {}", known.short(), state.short())));
            }
            Some(_) => {}
            None => {
                self.decided.insert(height, (id, state));
                self.report.round_max = self.report.round_max.max(decided.certificate.round.0);
                self.record(&encode_body(&(height, id, state, decided.certificate.round)));
            }
        }
        Ok(())
    }

    /// What a block did on some node.
    pub(super) fn executed(&mut self, executed: &Executed) -> Result<(), Violation> {
        let first = executed.height > self.counted;
        self.counted = self.counted.max(executed.height);
        for event in &executed.events {
            match event {
                Event::Transferred { .. } if first => self.report.transfers += 1,
                Event::JobSubmitted { .. } if first => self.report.jobs += 1,
                Event::ClaimRejected { .. } if first => self.report.rejected += 1,
                Event::ClaimCertified { job, .. } => once(&mut self.paid, *job, executed.height, "paid")?,
                Event::JobEnded { job, .. } => once(&mut self.ended, *job, executed.height, "ended")?,
                _ => {}
            }
        }
        self.report.paid = self.paid.len() as u64;
        Ok(())
    }

    fn said(&mut self, who: PublicKey, kind: u8, slot: Vec<u8>, content: &[u8]) -> Result<(), Violation> {
        let digest = hash_parts("proofmesh simulation message v1", &[content]);
        match self.said.insert((who, kind, slot.clone()), digest) {
            Some(known) if known != digest => {
                let names = ["proposal", "prevote", "precommit", "verdict"];
                let name = names.get(usize::from(kind)).copied().unwrap_or("message");
                Err(Violation::Equivocation(format!("{name} of {} in slot {slot:?}", who.short())))
            }
            Some(_) => Ok(()),
            None => {
                self.record(&digest);
                Ok(())
            }
        }
    }

    fn vote(&mut self, vote: &SignedVote) -> Result<(), Violation> {
        let v = &vote.vote;
        let kind = if v.kind == VoteKind::Prevote { 1 } else { 2 };
        self.said(v.validator, kind, encode_body(&(v.height, v.round)), &encode_body(v))
    }

    /// A consensus message left a node.
    pub(super) fn consensus(&mut self, message: &ConsensusMessage) -> Result<(), Violation> {
        match message {
            ConsensusMessage::Vote { vote, .. } => self.vote(vote),
            ConsensusMessage::Polka { votes } | ConsensusMessage::Round { votes, .. } => {
                votes.iter().try_for_each(|v| self.vote(v))
            }
        }
    }

    /// A proposal left a node.
    pub(super) fn proposal(&mut self, proposal: &SignedProposal) -> Result<(), Violation> {
        let p = &proposal.proposal;
        self.said(p.proposer, 0, encode_body(&(p.height, p.round)), &encode_body(p))
    }

    /// A verdict left a node.
    pub(super) fn verdict(&mut self, vote: &SignedProofVote) -> Result<(), Violation> {
        let v = &vote.vote;
        self.said(v.validator, 3, encode_body(&v.subject.slot()), &encode_body(v))
    }

    /// A node hands out a certificate on a claim.
    pub(super) fn certificate(&mut self, certificate: &ProofCertificate, set: &ValidatorSet) -> Result<(), Violation> {
        match certificate.outcome(&self.genesis, set) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                let signers = certificate.votes.len();
                Err(Violation::BadCertificate(format!(
                    "job {}: {signers} votes decide nothing",
                    certificate.subject.job.short()
                )))
            }
            Err(error) => Err(Violation::BadCertificate(format!("job {}: {error}", certificate.subject.job.short()))),
        }
    }

    /// A node found evidence: in a run without liars that is a lie of an honest node.
    pub(super) fn evidence(evidence: &Evidence) -> Violation {
        Violation::Equivocation(format!(
            "evidence against {} at height {}",
            evidence.offender().short(),
            evidence.height()
        ))
    }
}

/// Something that happens to a job at one height only, on every node the same.
fn once(heights: &mut BTreeMap<JobId, Height>, job: JobId, height: Height, what: &str) -> Result<(), Violation> {
    match heights.insert(job, height) {
        Some(at) if at != height => {
            Err(Violation::PaidTwice(format!("job {} {what} at height {at} and again at {height}", job.short())))
        }
        _ => Ok(()),
    }
}
