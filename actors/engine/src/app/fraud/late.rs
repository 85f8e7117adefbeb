//! Messages of decided heights against what the store has of them: one look at the store for each, off the async threads, and
//! only for messages of the height's validators that are signed as they say.
//!
//! Relies on the caller for a bound on how many come; decides nothing about punishment.

use ledger::StateError;
use storage::{RocksStore, StorageError, StoreRead};
use thiserror::Error;
use types::evidence::Evidence;
use types::ids::{GenesisHash, Height};
use types::validator::ValidatorSet;
use types::verdict::{ProofVote, SignedProofVote};
use types::vote::{SignedProposal, SignedVote, VoteKind};

use crate::wiring::ChainView;

/// What became of a late message.
#[derive(Debug, PartialEq)]
pub(super) enum Compared {
    /// It contradicts nothing that is known, or can't be judged here.
    Nothing,
    /// Conflicts, each proven by its two signatures.
    Conflicts(Vec<Evidence>),
    /// Wrong on every node for ever: whoever sent it is at fault.
    Wrong(&'static str),
}

/// This node can't read what it needs.
#[derive(Debug, Error)]
pub(super) enum LateError {
    /// The store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
}

const STRANGER: &str = "the signer was not in the validator set of the height";
const FORGED: &str = "a signature does not verify";

/// The validators of a height that is decided here; none of one that is not, or is no longer known.
fn set_of(view: &ChainView, height: Height) -> Result<Option<ValidatorSet>, StateError> {
    if height.0 == 0 || height > view.head.height {
        return Ok(None);
    }
    ledger::validator_set(&view.state, height)
}

/// The precommits by which a height was decided, if its block is here.
fn deciding_precommits(store: &RocksStore, height: Height) -> Result<Vec<SignedVote>, StorageError> {
    let Some(decided) = store.block(height)? else { return Ok(Vec::new()) };
    let certificate = decided.certificate;
    let signatures = certificate.signatures.iter();
    let vote = |(key, signature): &(_, _)| SignedVote { vote: certificate.precommit_of(*key), signature: *signature };
    Ok(signatures.map(vote).collect())
}

/// Compares votes, all of one height.
///
/// # Errors
/// [`LateError`].
pub(super) fn votes(
    store: &RocksStore,
    view: &ChainView,
    genesis: &GenesisHash,
    late: &[SignedVote],
) -> Result<Compared, LateError> {
    let Some(height) = late.first().map(|vote| vote.vote.height) else { return Ok(Compared::Nothing) };
    let Some(set) = set_of(view, height)? else { return Ok(Compared::Nothing) };
    if late.iter().any(|v| v.vote.height != height) {
        return Ok(Compared::Wrong("a certificate has votes of one height"));
    }
    if late.iter().any(|v| set.power_of(&v.vote.validator).is_none()) {
        return Ok(Compared::Wrong(STRANGER));
    }
    let mut known = store.signed(height)?.unwrap_or_default().votes;
    if late.iter().any(|v| v.vote.kind == VoteKind::Precommit) {
        known.extend(deciding_precommits(store, height)?);
    }
    let slot = |v: &SignedVote| (v.vote.kind, v.vote.round, v.vote.validator);
    let mut conflicts = Vec::new();
    for vote in late.iter().filter(|vote| known.iter().all(|known| known.vote != vote.vote)) {
        if !vote.verify(genesis) {
            return Ok(Compared::Wrong(FORGED));
        }
        let other = known.iter().find(|known| slot(known) == slot(vote));
        conflicts.extend(other.map(|known| Evidence::Votes(known.clone(), vote.clone())));
    }
    Ok(if conflicts.is_empty() { Compared::Nothing } else { Compared::Conflicts(conflicts) })
}

/// Compares a proposal.
///
/// # Errors
/// [`LateError`].
pub(super) fn proposal(
    store: &RocksStore,
    view: &ChainView,
    genesis: &GenesisHash,
    late: &SignedProposal,
) -> Result<Compared, LateError> {
    let p = &late.proposal;
    let Some(set) = set_of(view, p.height)? else { return Ok(Compared::Nothing) };
    if set.power_of(&p.proposer).is_none() {
        return Ok(Compared::Wrong(STRANGER));
    }
    if !late.verify(genesis) {
        return Ok(Compared::Wrong(FORGED));
    }
    let known = store.signed(p.height)?.unwrap_or_default().proposals;
    let conflicts = |known: &SignedProposal| {
        (known.proposal.round, known.proposal.proposer) == (p.round, p.proposer) && known.proposal != *p
    };
    Ok(match known.into_iter().find(conflicts) {
        Some(known) => Compared::Conflicts(vec![Evidence::Proposals(known, late.clone())]),
        None => Compared::Nothing,
    })
}

/// Compares a verdict.
///
/// # Errors
/// [`LateError`].
pub(super) fn verdict(
    store: &RocksStore,
    view: &ChainView,
    genesis: &GenesisHash,
    late: &SignedProofVote,
) -> Result<Compared, LateError> {
    let subject = &late.vote.subject;
    let Some(set) = set_of(view, subject.height)? else { return Ok(Compared::Nothing) };
    if set.power_of(&late.vote.validator).is_none() {
        return Ok(Compared::Wrong(STRANGER));
    }
    if !late.verify(genesis) {
        return Ok(Compared::Wrong(FORGED));
    }
    let mut known = store.verdicts(&subject.job)?;
    for certificate in store.certificates(&subject.job)? {
        known.extend(certificate.votes.iter().map(|(validator, verdict, signature)| SignedProofVote {
            vote: ProofVote { subject: certificate.subject.clone(), verdict: *verdict, validator: *validator },
            signature: *signature,
        }));
    }
    let conflicts = |known: &SignedProofVote| {
        (known.vote.subject.slot(), known.vote.validator) == (subject.slot(), late.vote.validator)
            && known.vote != late.vote
    };
    Ok(match known.into_iter().find(conflicts) {
        Some(known) => Compared::Conflicts(vec![Evidence::Verdicts(Box::new(known), Box::new(late.clone()))]),
        None => Compared::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use storage::{SignedMessages, Store};
    use types::ids::{BlockId, Round};
    use types::keys::{SecretKey, Signature};
    use types::vote::Vote;

    use super::*;
    use crate::testkit::{TestChain, validator};

    fn prevote(chain: &TestChain, key: &SecretKey, value: u8) -> SignedVote {
        let value = Some(BlockId::new([value; 32]));
        Vote { kind: VoteKind::Prevote, height: Height(1), round: Round(0), value, validator: key.public() }
            .sign(key, &chain.wiring.genesis_hash)
    }

    #[test]
    fn a_late_certificate_is_read_once_and_judged_members_first() {
        let chain = TestChain::new();
        let view = chain.block(&[]);
        let mut keys: Vec<_> = (1..=4).map(validator).collect();
        keys.sort_by_key(SecretKey::public);
        let known: Vec<_> = keys.iter().map(|key| prevote(&chain, key, 1)).collect();
        let messages = SignedMessages { votes: known.clone(), proposals: vec![] };
        chain.wiring.store.put_signed(Height(1), &messages).unwrap();
        let compare =
            |late: &[SignedVote]| votes(&chain.wiring.store, &view, &chain.wiring.genesis_hash, late).unwrap();

        assert_eq!(compare(&[]), Compared::Nothing);
        assert_eq!(compare(&known), Compared::Nothing);
        // What is known needs no signature to be known again.
        let unsigned = SignedVote { signature: Signature::new([1; 64]), ..known[0].clone() };
        assert_eq!(compare(&[unsigned]), Compared::Nothing);

        let stranger = prevote(&chain, &SecretKey::from_seed([99; 32]), 2);
        let other = |n: usize| prevote(&chain, &keys[n], 2);
        let forged = SignedVote { signature: Signature::new([1; 64]), ..other(1) };
        assert_eq!(compare(&[forged.clone(), stranger.clone()]), Compared::Wrong(STRANGER), "before any signature");
        assert_eq!(compare(&[other(0), forged]), Compared::Wrong(FORGED));
        let Compared::Conflicts(found) = compare(&[other(0), known[1].clone(), other(2)]) else { panic!() };
        assert_eq!(found.iter().map(Evidence::offender).collect::<Vec<_>>(), [keys[0].public(), keys[2].public()]);

        // Of a height to come nothing is known, nor of one before the chain.
        for height in [Height(0), Height(2)] {
            let mut early = stranger.clone();
            early.vote.height = height;
            assert_eq!(compare(&[early]), Compared::Nothing);
        }
    }
}
