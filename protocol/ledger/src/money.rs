//! Prices and shares in whole credits, without overflow for every supply below 2^120.

use types::ids::Amount;
use types::params::Fees;

/// Price of a job of `steps` steps: the base plus the fee of every started thousand. `None` past the range.
pub fn price(fees: &Fees, steps: u64) -> Option<Amount> {
    let started = u128::from(steps.div_ceil(1_000));
    let for_steps = fees.per_kilostep.0.checked_mul(started).map(Amount)?;
    fees.job_base.checked_add(for_steps)
}

/// `amount * numerator / denominator`, rounded down, without overflow while `numerator <= denominator`. 0 for
/// denominator 0.
pub fn fraction(amount: Amount, numerator: u64, denominator: u64) -> Amount {
    let (n, d) = (u128::from(numerator), u128::from(denominator));
    let Some((quotient, rest)) = amount.0.checked_div(d).zip(amount.0.checked_rem(d)) else { return Amount::ZERO };
    // rest < 2^64 and n < 2^64, so their product fits; the quotient's product is at most the amount while n <= d.
    let fine = rest.saturating_mul(n).checked_div(d).unwrap_or(0);
    Amount(quotient.saturating_mul(n).saturating_add(fine))
}

/// How a price is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// For the validators together, by power.
    pub validators: Amount,
    /// For the account that recorded the certificate.
    pub certifier: Amount,
}

/// Shares of `price`, rounded down; the prover gets what is left, remainders included.
pub fn shares(fees: &Fees, price: Amount) -> Shares {
    let share = |permille: u32| fraction(price, u64::from(permille.min(1_000)), 1_000);
    Shares { validators: share(fees.validators_permille), certifier: share(fees.certifier_permille) }
}

/// Whether `a * b >= c * d`, exactly.
pub fn product_at_least(a: Amount, b: u64, c: Amount, d: u64) -> bool {
    wide(a.0, b) >= wide(c.0, d)
}

/// `a * b` as (high, low) with the low part below 2^64.
fn wide(a: u128, b: u64) -> (u128, u128) {
    const LOW: u128 = u64::MAX as u128;
    let b = u128::from(b);
    // Both halves are below 2^64, so neither product overflows, nor does the high one with the low one's carry.
    let low = (a & LOW).saturating_mul(b);
    let high = (a >> 64).saturating_mul(b).saturating_add(low >> 64);
    (high, low & LOW)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use types::params::Params;

    use super::*;

    #[test]
    fn prices_count_started_thousands() {
        let fees = Params::standard().fees;
        assert_eq!(price(&fees, 0), Some(Amount(1_000)));
        assert_eq!(price(&fees, 1), Some(Amount(1_001)));
        assert_eq!(price(&fees, 1_000), Some(Amount(1_001)));
        assert_eq!(price(&fees, 1_001), Some(Amount(1_002)));
        let dear = Fees { per_kilostep: Amount(u128::MAX), ..fees };
        assert_eq!(price(&dear, 2_000), None);
    }

    proptest! {
        #[test]
        fn fractions_are_exact_to_a_whole_credit(amount in 0u128..1 << 63, n in 0u64..1000, d in 1u64..1000) {
            let n = n.min(d);
            prop_assert_eq!(fraction(Amount(amount), n, d).0, amount * u128::from(n) / u128::from(d));
        }

        #[test]
        fn shares_leave_the_rest_to_the_prover(amount in 0u128..1 << 120) {
            let fees = Params::standard().fees;
            let s = shares(&fees, Amount(amount));
            let prover = amount - s.validators.0 - s.certifier.0;
            prop_assert!(prover >= amount / 1000 * 800);
        }

        #[test]
        fn wide_products_compare_exactly(a in 0u128..1 << 64, b: u64, c in 0u128..1 << 64, d: u64, shift in 0u32..56) {
            let exact = a.checked_mul(b.into()).zip(c.checked_mul(d.into())).map(|(x, y)| x >= y).unwrap();
            prop_assert_eq!(product_at_least(Amount(a), b, Amount(c), d), exact);
            prop_assert_eq!(product_at_least(Amount(a << shift), b, Amount(c << shift), d), exact);
        }
    }
}
