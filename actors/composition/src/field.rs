//! The two fields in which constraints are evaluated, sixteen rows at a time, with every operation open to inlining.
//!
//! [`Base`] holds a base field number per row, [`Extension`] four, the coordinates over (1, i, u, iu) with i^2 = -1 and
//! u^2 = 2 + i.

use std::ops::{Add, AddAssign, Mul, MulAssign, Neg, Sub};

use num_traits::{One, Zero};
use stwo::core::fields::FieldExpOps;
use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SecureField;
use stwo::prover::backend::simd::m31::PackedBaseField;

use crate::lanes;

/// A base field number per row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base(pub(crate) PackedBaseField);

/// An extension field number per row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extension(pub(crate) [Base; 4]);

impl Base {
    #[inline(always)]
    fn number(value: u32) -> Self {
        Self(lanes::broadcast(BaseField::from_u32_unchecked(value)))
    }
}

impl Extension {
    /// `self * other`, in less than half the time where `other` is in the base field in all rows.
    #[inline(always)]
    pub(crate) fn times_mostly_base(self, other: Self) -> Self {
        let Self([first, rest @ ..]) = other;
        if lanes::all_zero(rest.map(|coordinate| coordinate.0)) { self * first } else { self * other }
    }
}

impl From<BaseField> for Base {
    #[inline(always)]
    fn from(value: BaseField) -> Self {
        Self(lanes::broadcast(value))
    }
}

impl Add for Base {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for Base {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl Neg for Base {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self(-self.0)
    }
}

impl Mul for Base {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(lanes::mul(self.0, other.0))
    }
}

impl AddAssign for Base {
    #[inline(always)]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl AddAssign<BaseField> for Base {
    #[inline(always)]
    fn add_assign(&mut self, other: BaseField) {
        *self = *self + Self::from(other);
    }
}

impl MulAssign for Base {
    #[inline(always)]
    fn mul_assign(&mut self, other: Self) {
        *self = *self * other;
    }
}

impl Mul<BaseField> for Base {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: BaseField) -> Self {
        self * Self::from(other)
    }
}

impl Add<SecureField> for Base {
    type Output = Extension;
    #[inline(always)]
    fn add(self, other: SecureField) -> Extension {
        Extension::from(other) + self
    }
}

impl Mul<SecureField> for Base {
    type Output = Extension;
    #[inline(always)]
    fn mul(self, other: SecureField) -> Extension {
        Extension::from(other) * self
    }
}

impl Zero for Base {
    #[inline(always)]
    fn zero() -> Self {
        Self::number(0)
    }

    fn is_zero(&self) -> bool {
        self.0.is_zero()
    }
}

impl One for Base {
    #[inline(always)]
    fn one() -> Self {
        Self::number(1)
    }
}

impl FieldExpOps for Base {
    fn inverse(&self) -> Self {
        Self(self.0.inverse())
    }
}

impl From<Base> for Extension {
    #[inline(always)]
    fn from(value: Base) -> Self {
        let zero = Base::zero();
        Self([value, zero, zero, zero])
    }
}

impl From<SecureField> for Extension {
    #[inline(always)]
    fn from(value: SecureField) -> Self {
        Self([value.0.0, value.0.1, value.1.0, value.1.1].map(Base::from))
    }
}

impl Add for Extension {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let (Self([a, b, c, d]), Self([e, f, g, h])) = (self, other);
        Self([a + e, b + f, c + g, d + h])
    }
}

impl Sub for Extension {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        let (Self([a, b, c, d]), Self([e, f, g, h])) = (self, other);
        Self([a - e, b - f, c - g, d - h])
    }
}

impl Neg for Extension {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self(self.0.map(Neg::neg))
    }
}

/// Product in the field of (1, i), by three products instead of four.
#[inline(always)]
fn complex([a, b]: [Base; 2], [c, d]: [Base; 2]) -> [Base; 2] {
    let (ac, bd) = (a * c, b * d);
    [ac - bd, (a + b) * (c + d) - ac - bd]
}

impl Mul for Extension {
    type Output = Self;
    #[inline]
    fn mul(self, other: Self) -> Self {
        let (Self([a, b, c, d]), Self([e, f, g, h])) = (self, other);
        let [p, q] = complex([a, b], [e, f]);
        let [r, s] = complex([c, d], [g, h]);
        let [v, w] = complex([a + c, b + d], [e + g, f + h]);
        // (p + qi) + (2 + i)(r + si), and what the cross product holds beyond both.
        Self([p + r + r - s, q + s + s + r, v - p - r, w - q - s])
    }
}

impl AddAssign for Extension {
    #[inline(always)]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Add<Base> for Extension {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Base) -> Self {
        let Self([a, b, c, d]) = self;
        Self([a + other, b, c, d])
    }
}

impl Mul<Base> for Extension {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Base) -> Self {
        let Self([a, b, c, d]) = self;
        Self([a * other, b * other, c * other, d * other])
    }
}

impl Add<BaseField> for Extension {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: BaseField) -> Self {
        self + Base::from(other)
    }
}

impl Mul<BaseField> for Extension {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: BaseField) -> Self {
        self * Base::from(other)
    }
}

impl Add<SecureField> for Extension {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: SecureField) -> Self {
        self + Self::from(other)
    }
}

impl Sub<SecureField> for Extension {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: SecureField) -> Self {
        self - Self::from(other)
    }
}

impl Mul<SecureField> for Extension {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: SecureField) -> Self {
        self * Self::from(other)
    }
}

impl Zero for Extension {
    #[inline(always)]
    fn zero() -> Self {
        Self([Base::zero(); 4])
    }

    fn is_zero(&self) -> bool {
        self.0.iter().all(Zero::is_zero)
    }
}

impl One for Extension {
    #[inline(always)]
    fn one() -> Self {
        Self::from(Base::one())
    }
}

#[cfg(test)]
mod tests {
    use stwo::prover::backend::simd::m31::N_LANES;

    use super::*;

    fn numbers(seed: u32) -> [SecureField; N_LANES] {
        std::array::from_fn(|i| {
            let n = |k: u32| seed.wrapping_mul(2_654_435_761).wrapping_add((i as u32 * 4 + k) * 0x9E37_79B9) >> 1;
            SecureField::from_m31_array([n(0), n(1), n(2), n(3)].map(|n| BaseField::reduce(u64::from(n))))
        })
    }

    fn packed(values: [SecureField; N_LANES]) -> Extension {
        Extension(std::array::from_fn(|k| {
            Base(PackedBaseField::from_array(values.map(|value| value.to_m31_array()[k])))
        }))
    }

    fn unpacked(values: Extension) -> [SecureField; N_LANES] {
        let columns = values.0.map(|column| column.0.to_array());
        std::array::from_fn(|i| SecureField::from_m31_array(columns.map(|column| column[i])))
    }

    #[test]
    fn arithmetic_is_that_of_single_numbers() {
        let (a, b) = (numbers(1), numbers(2));
        let (x, y) = (packed(a), packed(b));
        let each = |f: &dyn Fn(SecureField, SecureField) -> SecureField| std::array::from_fn(|i| f(a[i], b[i]));
        assert_eq!(unpacked(x * y), each(&|a, b| a * b));
        assert_eq!(unpacked(x + y), each(&|a, b| a + b));
        assert_eq!(unpacked(x - y), each(&|a, b| a - b));
        assert_eq!(unpacked(-x), each(&|a, _| -a));
        assert_eq!(unpacked(x * y.0[2]), each(&|a, b| a * b.to_m31_array()[2]));
        assert_eq!(unpacked(x.times_mostly_base(y)), each(&|a, b| a * b));
        let base = Extension::from(y.0[2]);
        assert_eq!(unpacked(x.times_mostly_base(base)), each(&|a, b| a * b.to_m31_array()[2]));
        assert_eq!(unpacked(x + y.0[1]), each(&|a, b| a + b.to_m31_array()[1]));
        assert_eq!(unpacked(x * b[3]), each(&|a, _| a * b[3]));
        assert_eq!(unpacked(y.0[3] * a[5]), each(&|_, b| a[5] * b.to_m31_array()[3]));
    }
}
