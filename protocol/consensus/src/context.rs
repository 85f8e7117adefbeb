//! The types with which the consensus core is instantiated. They stay inside this crate; `convert` maps them to and from
//! the wire types.
//!
//! The value that validators agree on is a block id, the address is the validator's public key, and vote extensions do not
//! exist: proof verdicts travel beside the chain, so that a slow proof never slows a block.

use std::fmt;
use std::sync::Arc;

use arc_malachitebft_core_types as core;
use core::{LinearTimeouts, NilOrVal, Round, SignedExtension, SigningScheme, VoteType};
use types::ids::{BlockId, Height};
use types::keys::{PublicKey, SecretKey, Signature};
use types::validator::ValidatorSet;

use crate::proposer::proposer_index;

/// Our instance of the consensus core's context.
#[derive(Clone, Debug)]
pub(crate) struct Chain;

/// A validator's address: its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address(pub PublicKey);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.short())
    }
}

impl core::Address for Address {}

/// A height as the core counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CoreHeight(pub Height);

impl fmt::Display for CoreHeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::Height for CoreHeight {
    const ZERO: Self = Self(Height(0));
    const INITIAL: Self = Self(Height(1));

    fn increment_by(&self, n: u64) -> Self {
        Self(Height(self.0.0.saturating_add(n)))
    }

    fn decrement_by(&self, n: u64) -> Option<Self> {
        self.0.0.checked_sub(n).map(|h| Self(Height(h)))
    }

    fn as_u64(&self) -> u64 {
        self.0.0
    }
}

/// The value agreed on: a block, by its id. The bytes are kept by the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BlockValue(pub BlockId);

impl core::Value for BlockValue {
    type Id = BlockId;

    fn id(&self) -> BlockId {
        self.0
    }
}

/// Proposals are whole messages; the core is never given parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoPart {}

impl core::ProposalPart<Chain> for NoPart {
    fn is_first(&self) -> bool {
        match *self {}
    }

    fn is_last(&self) -> bool {
        match *self {}
    }
}

/// A proposal in the core's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CoreProposal {
    pub height: CoreHeight,
    pub round: Round,
    pub value: BlockValue,
    pub pol_round: Round,
    pub proposer: Address,
}

impl core::Proposal<Chain> for CoreProposal {
    fn height(&self) -> CoreHeight {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &BlockValue {
        &self.value
    }

    fn take_value(self) -> BlockValue {
        self.value
    }

    fn pol_round(&self) -> Round {
        self.pol_round
    }

    fn validator_address(&self) -> &Address {
        &self.proposer
    }
}

/// A vote in the core's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CoreVote {
    pub kind: VoteType,
    pub height: CoreHeight,
    pub round: Round,
    pub value: NilOrVal<BlockId>,
    pub voter: Address,
}

impl core::Vote<Chain> for CoreVote {
    fn height(&self) -> CoreHeight {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &NilOrVal<BlockId> {
        &self.value
    }

    fn take_value(self) -> NilOrVal<BlockId> {
        self.value
    }

    fn vote_type(&self) -> VoteType {
        self.kind
    }

    fn validator_address(&self) -> &Address {
        &self.voter
    }

    fn extension(&self) -> Option<&SignedExtension<Chain>> {
        None
    }

    fn take_extension(&mut self) -> Option<SignedExtension<Chain>> {
        None
    }

    fn extend(self, _extension: SignedExtension<Chain>) -> Self {
        self
    }
}

/// A validator in the core's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CoreValidator {
    address: Address,
    power: u64,
}

impl core::Validator<Chain> for CoreValidator {
    fn address(&self) -> &Address {
        &self.address
    }

    fn public_key(&self) -> &PublicKey {
        &self.address.0
    }

    fn voting_power(&self) -> u64 {
        self.power
    }
}

/// A validator set in the core's terms; cheap to clone, because the core clones it for every certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CoreSet {
    validators: Arc<Vec<CoreValidator>>,
    total: u64,
    wire: Arc<ValidatorSet>,
}

impl CoreSet {
    /// Wraps a set. `types` guarantees that it is not empty and that its power is bounded.
    pub(crate) fn new(wire: Arc<ValidatorSet>) -> Self {
        let validators =
            wire.validators().iter().map(|v| CoreValidator { address: Address(v.key), power: v.power }).collect();
        Self { validators: Arc::new(validators), total: wire.power_total(), wire }
    }

    /// The set as the rest of the system knows it.
    pub(crate) fn wire(&self) -> &ValidatorSet {
        &self.wire
    }
}

impl core::ValidatorSet<Chain> for CoreSet {
    fn count(&self) -> usize {
        self.validators.len()
    }

    fn total_voting_power(&self) -> u64 {
        self.total
    }

    fn get_by_address(&self, address: &Address) -> Option<&CoreValidator> {
        self.validators.iter().find(|v| v.address == *address)
    }

    fn get_by_index(&self, index: usize) -> Option<&CoreValidator> {
        self.validators.get(index)
    }
}

/// ed25519 under the one rule of `types::keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ed25519;

impl SigningScheme for Ed25519 {
    type DecodingError = &'static str;
    type Signature = Signature;
    type PublicKey = PublicKey;
    type PrivateKey = SecretKey;

    fn decode_signature(bytes: &[u8]) -> Result<Signature, &'static str> {
        bytes.try_into().map(Signature::new).map_err(|_| "a signature has 64 bytes")
    }

    fn encode_signature(signature: &Signature) -> Vec<u8> {
        signature.as_bytes().to_vec()
    }

    fn decode_public_key(bytes: &[u8]) -> Result<PublicKey, &'static str> {
        bytes.try_into().map(PublicKey::new).map_err(|_| "a public key has 32 bytes")
    }

    fn encode_public_key(public_key: &PublicKey) -> Vec<u8> {
        public_key.as_bytes().to_vec()
    }
}

impl core::Context for Chain {
    type Address = Address;
    type Height = CoreHeight;
    type ProposalPart = NoPart;
    type Proposal = CoreProposal;
    type Validator = CoreValidator;
    type ValidatorSet = CoreSet;
    type Timeouts = LinearTimeouts;
    type Value = BlockValue;
    type Vote = CoreVote;
    type Extension = ();
    type SigningScheme = Ed25519;

    fn select_proposer<'a>(&self, set: &'a CoreSet, height: CoreHeight, round: Round) -> &'a CoreValidator {
        let index = proposer_index(set.wire(), height.0, round.as_u32().unwrap_or(0));
        // The index is below the set's length by construction.
        #[allow(clippy::indexing_slicing)]
        &set.validators[index]
    }

    fn new_proposal(
        &self,
        height: CoreHeight,
        round: Round,
        value: BlockValue,
        pol_round: Round,
        proposer: Address,
    ) -> CoreProposal {
        CoreProposal { height, round, value, pol_round, proposer }
    }

    fn new_prevote(&self, height: CoreHeight, round: Round, value: NilOrVal<BlockId>, voter: Address) -> CoreVote {
        CoreVote { kind: VoteType::Prevote, height, round, value, voter }
    }

    fn new_precommit(&self, height: CoreHeight, round: Round, value: NilOrVal<BlockId>, voter: Address) -> CoreVote {
        CoreVote { kind: VoteType::Precommit, height, round, value, voter }
    }
}
