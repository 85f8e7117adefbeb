//! Whose submission gets a place while it gathers signatures, when there are more than places.
//!
//! A submission is free until it is in a block, and its input may be nowhere. So a place is only lent until somebody has
//! shown to hold the input: who brings many submissions of which nothing is shown gives up its own oldest ones first, and
//! one peer never has more than [`PER_SOURCE_MAX`] of them. Clients of this node have places that no peer can take.

use std::collections::BTreeMap;

use network::PeerId;
use types::ids::TxId;

/// Submissions held.
pub(crate) const HELD_MAX: usize = 256;
/// Of these, kept for clients of this node.
const OWN_RESERVED: usize = 64;
/// Submissions from one peer whose input nobody has shown to hold.
const PER_SOURCE_MAX: usize = 32;

/// What the decision looks at in a submission that is held; in the order of their arrival.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder {
    /// The submission.
    pub(crate) id: TxId,
    /// The peer that sent it here; none for a client.
    pub(crate) source: Option<PeerId>,
    /// A part of its input came, or a validator signed that it holds it.
    pub(crate) shown: bool,
}

/// The decision on one more submission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// There is one.
    Free,
    /// There is one once this submission is dropped.
    Instead(TxId),
    /// There is none: this many are held, and these are the most.
    Full(usize, usize),
}

/// The place for one more submission from `source` beside those that are held.
pub(crate) fn place(held: &[Holder], source: Option<PeerId>) -> Place {
    let lent = held.iter().filter(|h| !h.shown && h.source.is_some());
    let limit = match source {
        None => HELD_MAX,
        Some(peer) => {
            let of_peer = lent.clone().filter(|h| h.source == Some(peer)).count();
            if of_peer >= PER_SOURCE_MAX {
                return Place::Full(of_peer, PER_SOURCE_MAX);
            }
            HELD_MAX - OWN_RESERVED
        }
    };
    if held.len() < limit {
        return Place::Free;
    }
    let mut by_source = BTreeMap::<_, (usize, TxId)>::new();
    for holder in lent {
        let (count, _oldest) = by_source.entry(holder.source).or_insert((0, holder.id));
        *count = count.saturating_add(1);
    }
    match by_source.into_values().max_by_key(|(count, _)| *count) {
        Some((_, oldest)) => Place::Instead(oldest),
        None => Place::Full(held.len(), limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> TxId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&(n as u64).to_le_bytes());
        TxId::new(id)
    }

    fn holders(n: usize, source: Option<PeerId>, shown: bool, from: usize) -> Vec<Holder> {
        (from..from + n).map(|n| Holder { id: id(n), source, shown }).collect()
    }

    #[test]
    fn a_peer_without_inputs_takes_no_more_than_its_share() {
        let (peer, other) = (Some(PeerId::random()), Some(PeerId::random()));
        let held = holders(PER_SOURCE_MAX, peer, false, 0);
        assert_eq!(place(&held, peer), Place::Full(PER_SOURCE_MAX, PER_SOURCE_MAX));
        assert_eq!(place(&held, other), Place::Free);
        assert_eq!(place(&held, None), Place::Free);
        assert_eq!(place(&holders(PER_SOURCE_MAX, peer, true, 0), peer), Place::Free, "its inputs are there");
    }

    #[test]
    fn when_all_places_are_taken_the_oldest_of_the_greediest_goes() {
        let (few, many) = (Some(PeerId::random()), Some(PeerId::random()));
        let mut held = holders(HELD_MAX - OWN_RESERVED - 25, Some(PeerId::random()), true, 0);
        held.extend(holders(5, few, false, 1_000));
        held.extend(holders(20, many, false, 2_000));
        assert_eq!(place(&held, few), Place::Instead(id(2_000)));
        assert_eq!(place(&held, None), Place::Free, "clients have places of their own");
        held.extend(holders(OWN_RESERVED, None, false, 3_000));
        assert_eq!(place(&held, None), Place::Instead(id(2_000)));
    }

    #[test]
    fn inputs_that_are_there_are_never_dropped_for_others() {
        let held = holders(HELD_MAX, Some(PeerId::random()), true, 0);
        assert_eq!(place(&held, Some(PeerId::random())), Place::Full(HELD_MAX, HELD_MAX - OWN_RESERVED));
        assert_eq!(place(&holders(HELD_MAX, None, false, 0), None), Place::Full(HELD_MAX, HELD_MAX));
    }
}
