//! What a hostile validator knows of the chain: the state after every decided block, rebuilt from genesis, and the votes
//! that it heard. It must know the rules to break exactly one of them at a time.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use ledger::Head;
use network::GossipMessage;
use types::block::DecidedBlock;
use types::genesis::Genesis;
use types::gossip::ConsensusMessage;
use types::ids::{BlockId, GenesisHash, Height, Round};
use types::keys::PublicKey;
use types::kv::MemoryKv;
use types::validator::ValidatorSet;
use types::vote::{CommitCertificate, SignedVote, VoteKind};

/// Votes are remembered for so many heights below the head.
const HEARD_HEIGHTS: u64 = 64;

type Step = (Height, Round, VoteKind);

/// The chain as followed by one who does not believe its peers either.
pub(super) struct Chain {
    genesis: GenesisHash,
    view: MemoryKv,
    blocks: Vec<DecidedBlock>,
    heard: BTreeMap<Step, BTreeMap<PublicKey, Option<BlockId>>>,
}

impl Chain {
    /// Before the first block.
    pub(super) fn new(genesis: &Genesis) -> Result<Self> {
        let built = ledger::genesis::build(genesis)?;
        let mut view = MemoryKv::default();
        view.apply(&built.writes);
        Ok(Self { genesis: genesis.hash(), view, blocks: Vec::new(), heard: BTreeMap::new() })
    }

    /// Identity of the chain.
    pub(super) const fn genesis(&self) -> &GenesisHash {
        &self.genesis
    }

    /// The state after the last block.
    pub(super) const fn view(&self) -> &MemoryKv {
        &self.view
    }

    /// The last block.
    pub(super) fn head(&self) -> Result<Head> {
        Ok(ledger::head(&self.view)?)
    }

    /// The validator set of a height up to two past the head; further ahead, the last one known.
    pub(super) fn set(&self, height: Height) -> Result<ValidatorSet> {
        let known = height.min(self.head()?.height.next().next());
        ledger::validator_set(&self.view, known)?.with_context(|| format!("no validator set of height {known}"))
    }

    /// Certificate of the last block.
    pub(super) fn certificate(&self) -> Option<&CommitCertificate> {
        self.blocks.last().map(|decided| &decided.certificate)
    }

    /// Decided blocks from a height on, at most `count`.
    pub(super) fn blocks(&self, from: Height, count: usize) -> Vec<DecidedBlock> {
        let skip = usize::try_from(from.0.saturating_sub(1)).unwrap_or(usize::MAX);
        self.blocks.iter().skip(skip).take(count).cloned().collect()
    }

    /// Takes the next decided block; whether it was the next.
    pub(super) fn take(&mut self, decided: DecidedBlock) -> Result<bool> {
        let next = self.head()?.height.next();
        if decided.block.header.height != next {
            return Ok(false);
        }
        decided.certificate.verify(&self.genesis, &self.set(next)?, next, decided.block.id())?;
        let executed = ledger::apply_block(&self.view, &decided.block)?;
        self.view.apply(&executed.writes);
        ensure!(ledger::query::audit(&self.view)?.conserved, "credits are not conserved after block {next}");
        self.blocks.push(decided);
        let below = Height(next.0.saturating_sub(HEARD_HEIGHTS));
        self.heard = self.heard.split_off(&(below, Round(0), VoteKind::Prevote));
        Ok(true)
    }

    /// Remembers genuine votes; the first one of a validator in a slot stays.
    pub(super) fn hear(&mut self, message: &GossipMessage) {
        let GossipMessage::Consensus(message) = message else { return };
        let votes: &[SignedVote] = match message.as_ref() {
            ConsensusMessage::Vote { vote, .. } => std::slice::from_ref(vote),
            ConsensusMessage::Polka { votes } | ConsensusMessage::Round { votes, .. } => votes,
        };
        for signed in votes {
            let vote = &signed.vote;
            let slot = self.heard.entry((vote.height, vote.round, vote.kind)).or_default();
            if !slot.contains_key(&vote.validator) && signed.verify(&self.genesis) {
                slot.insert(vote.validator, vote.value);
            }
        }
    }

    /// The votes heard in one step of one round.
    pub(super) fn votes(&self, height: Height, round: Round, kind: VoteKind) -> BTreeMap<PublicKey, Option<BlockId>> {
        self.heard.get(&(height, round, kind)).cloned().unwrap_or_default()
    }
}
