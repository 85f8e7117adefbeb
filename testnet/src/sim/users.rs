//! Keys, the genesis document, and what users ask for.

use types::felt::Felt;
use types::genesis::{Genesis, GenesisAccount, GenesisProver, GenesisValidator};
use types::ids::{Amount, BlobHash, GenesisHash, TimeMs};
use types::job::{
    BlobRef, HINT_PROCESSOR_VERSION, HashFunction, JobSpec, OutputRule, PROOF_SYSTEM_VERSION, ProgramKind,
};
use types::keys::{PublicKey, SecretKey};
use types::params::{Assignment, Params, Timeouts};
use types::transaction::{Action, AvailabilitySig, SenderTx, SignedTx, Transaction};

use super::dice::Dice;

/// Wall clock at virtual time 0, milliseconds.
pub(crate) const EPOCH_MS: u64 = 1_700_000_000_000;
/// Users in the simulation.
pub(crate) const USERS: usize = 3;

fn key(role: u8, n: usize) -> SecretKey {
    let mut seed = [role; 32];
    if let Some(first) = seed.first_mut() {
        *first = u8::try_from(n).unwrap_or(u8::MAX);
    }
    SecretKey::from_seed(seed)
}

/// Consensus key of a node.
pub(crate) fn validator(n: usize) -> SecretKey {
    key(1, n)
}

/// Account of a node's validator.
pub(crate) fn owner(n: usize) -> SecretKey {
    key(2, n)
}

/// Prover key of a node.
pub(crate) fn prover(n: usize) -> SecretKey {
    key(3, n)
}

/// A user.
pub(crate) fn user(n: usize) -> SecretKey {
    key(4, n)
}

/// The genesis of a network of `nodes`, with times short enough for a run of seconds.
pub(crate) fn genesis(nodes: usize) -> Genesis {
    let params = Params {
        block_ms: 200,
        empty_block_ms: 600,
        timeouts: Timeouts { propose_ms: 800, prevote_ms: 240, precommit_ms: 240, delta_ms: 60, rebroadcast_ms: 250 },
        assignment: Assignment {
            window_ms: 600,
            window_ms_per_megastep: 100,
            lapse_ms: 500,
            lapse_ms_max: 2_000,
            reject_ms: 500,
            reject_ms_max: 2_000,
            lock_ms: 10_000,
            ..Params::standard().assignment
        },
        voting_ms: 2_500,
        ..Params::standard()
    };
    let account = |k: SecretKey, balance: u128| GenesisAccount { account: k.public(), balance: Amount(balance) };
    Genesis {
        chain_id: "simulation".into(),
        time_ms: TimeMs(EPOCH_MS),
        params,
        validators: (0..nodes)
            .map(|n| GenesisValidator {
                key: validator(n).public(),
                power: 10,
                account: owner(n).public(),
                stake: Amount(1_000),
            })
            .collect(),
        provers: (0..nodes)
            .map(|n| GenesisProver {
                account: prover(n).public(),
                weight: 1,
                steps_max: 1_000_000,
                deposit: Amount(500),
            })
            .collect(),
        accounts: (0..nodes)
            .flat_map(|n| [account(owner(n), 50_000), account(prover(n), 50_000)])
            .chain((0..USERS).map(|n| account(user(n), 1_000_000)))
            .collect(),
    }
}

/// Signs an action.
pub(crate) fn sign(genesis: GenesisHash, sender: &SecretKey, nonce: u64, now: TimeMs, action: Action) -> SignedTx {
    SenderTx { genesis, sender: sender.public(), nonce, expires_ms: now.plus(60_000), trace: 0, action }.sign(sender)
}

/// A transfer.
pub(crate) fn transfer(genesis: GenesisHash, from: usize, nonce: u64, now: TimeMs, dice: &mut Dice) -> Transaction {
    let to: PublicKey = user(dice.index(USERS)).public();
    let amount = Amount(u128::from(dice.between(1, 50)));
    Transaction::Signed(sign(genesis, &user(from), nonce, now, Action::Transfer { to, amount }))
}

/// A job with the availability signatures that its submission needs. One in four carries an idempotency key that may come
/// again with the same content.
pub(crate) fn job(
    genesis: GenesisHash,
    from: usize,
    nonce: u64,
    now: TimeMs,
    nodes: usize,
    dice: &mut Dice,
) -> Transaction {
    let repeated = dice.chance(250).then(|| dice.between(0, 3));
    let program = repeated.map_or_else(|| dice.bytes(), |n| [u8::try_from(n).unwrap_or(0); 32]);
    let spec = JobSpec {
        kind: ProgramKind::Cairo0,
        program: BlobRef { hash: BlobHash::new(program), bytes: 1_000 },
        program_hash: Felt::from_u128(5),
        hash_function: HashFunction::Poseidon,
        args: None,
        output_rule: OutputRule::Quorum,
        hint_processor: HINT_PROCESSOR_VERSION,
        proof_system: PROOF_SYSTEM_VERSION,
        max_steps: 100_000,
        max_fee: Amount(1_500),
        deadline_ms: 30_000,
        idempotency_key: repeated.map(|n| format!("key-{n}")),
    };
    let tx = sign(genesis, &user(from), nonce, now, Action::SubmitJob(Box::new(spec)));
    let mut availability: Vec<_> =
        (0..=nodes / 2).map(|n| AvailabilitySig::sign(&tx.id(), &validator(n), &genesis)).collect();
    availability.sort_by_key(|s| s.validator);
    Transaction::Submission { tx, availability }
}
