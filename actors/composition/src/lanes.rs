//! Sixteen base field numbers at a time: the operations that the library does not let other crates inline.
//!
//! Numbers are held as the library holds them, in `0..=P` with zero twice. Products and blends use the processor's own
//! instructions for the two CPU levels that are built; any other target gets the library's functions.

use stwo::core::fields::m31::BaseField;
use stwo::prover::backend::simd::m31::PackedBaseField;

#[cfg(all(target_arch = "x86_64", target_feature = "avx512f"))]
mod wide {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi32, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_mask_blend_epi32,
        _mm512_mask_movehdup_ps, _mm512_mask_moveldup_ps, _mm512_min_epu32, _mm512_mul_epu32, _mm512_or_si512,
        _mm512_set1_epi32, _mm512_srli_epi32, _mm512_srli_epi64, _mm512_sub_epi32, _mm512_test_epi32_mask,
    };

    use stwo::core::fields::m31::P;
    use stwo::prover::backend::simd::m31::PackedBaseField;

    const EVEN: u16 = 0x5555;
    const ODD: u16 = 0xAAAA;

    #[allow(unsafe_code, reason = "one 64-byte vector seen as another")]
    #[inline(always)]
    fn raw(a: PackedBaseField) -> __m512i {
        // SAFETY: both are 64 bytes of plain numbers.
        unsafe { std::mem::transmute(a) }
    }

    #[allow(unsafe_code, reason = "one 64-byte vector seen as another")]
    #[inline(always)]
    fn packed(a: __m512i) -> PackedBaseField {
        // SAFETY: both are 64 bytes of plain numbers; callers keep every lane in 0..=P.
        unsafe { std::mem::transmute(a) }
    }

    #[allow(unsafe_code, reason = "instructions of the CPU level this is built for")]
    #[inline(always)]
    pub(super) fn mul(a: PackedBaseField, b: PackedBaseField) -> PackedBaseField {
        let (a, b) = (raw(a), raw(b));
        // SAFETY: AVX-512F is in the target's features.
        unsafe {
            // Doubling one factor puts the product's low 31 bits above one zero bit and its high 31 bits in the upper word.
            let doubled = _mm512_add_epi32(b, b);
            let even = _mm512_castsi512_ps(_mm512_mul_epu32(a, doubled));
            let odd =
                _mm512_castsi512_ps(_mm512_mul_epu32(_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(doubled)));
            let low = _mm512_srli_epi32::<1>(_mm512_castps_si512(_mm512_mask_moveldup_ps(even, ODD, odd)));
            let high = _mm512_castps_si512(_mm512_mask_movehdup_ps(odd, EVEN, even));
            let sum = _mm512_add_epi32(low, high);
            packed(_mm512_min_epu32(sum, _mm512_sub_epi32(sum, _mm512_set1_epi32(P.cast_signed()))))
        }
    }

    #[allow(unsafe_code, reason = "instructions of the CPU level this is built for")]
    #[inline(always)]
    pub(super) fn broadcast(value: u32) -> PackedBaseField {
        // SAFETY: AVX-512F is in the target's features.
        packed(unsafe { _mm512_set1_epi32(value.cast_signed()) })
    }

    #[allow(unsafe_code, reason = "instructions of the CPU level this is built for")]
    #[inline(always)]
    pub(super) fn all_zero([a, b, c]: [PackedBaseField; 3]) -> bool {
        // SAFETY: AVX-512F is in the target's features.
        unsafe {
            let any = _mm512_or_si512(_mm512_or_si512(raw(a), raw(b)), raw(c));
            _mm512_test_epi32_mask(any, any) == 0
        }
    }

    #[allow(unsafe_code, reason = "instructions of the CPU level this is built for")]
    #[inline(always)]
    pub(super) fn blend(even: PackedBaseField, odd: PackedBaseField) -> PackedBaseField {
        // SAFETY: AVX-512F is in the target's features.
        packed(unsafe { _mm512_mask_blend_epi32(ODD, raw(even), raw(odd)) })
    }
}

#[cfg(all(target_arch = "x86_64", target_feature = "avx2", not(target_feature = "avx512f")))]
mod wide {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi32, _mm256_blend_epi32, _mm256_castps_si256, _mm256_castsi256_ps, _mm256_min_epu32,
        _mm256_movehdup_ps, _mm256_moveldup_ps, _mm256_mul_epu32, _mm256_or_si256, _mm256_set1_epi32,
        _mm256_srli_epi32, _mm256_srli_epi64, _mm256_sub_epi32, _mm256_testz_si256,
    };

    use stwo::core::fields::m31::P;
    use stwo::prover::backend::simd::m31::PackedBaseField;

    const ODD: i32 = 0xAA;

    #[allow(unsafe_code, reason = "one 64-byte vector seen as two halves")]
    #[inline(always)]
    fn raw(a: PackedBaseField) -> [__m256i; 2] {
        // SAFETY: both are 64 bytes of plain numbers.
        unsafe { std::mem::transmute(a) }
    }

    #[allow(unsafe_code, reason = "two halves seen as one 64-byte vector")]
    #[inline(always)]
    fn packed(a: [__m256i; 2]) -> PackedBaseField {
        // SAFETY: both are 64 bytes of plain numbers; callers keep every lane in 0..=P.
        unsafe { std::mem::transmute(a) }
    }

    #[allow(unsafe_code, reason = "instructions of the CPU level this is built for")]
    #[inline(always)]
    fn mul_half(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: AVX2 is in the target's features.
        unsafe {
            // Doubling one factor puts the product's low 31 bits above one zero bit and its high 31 bits in the upper word.
            let doubled = _mm256_add_epi32(b, b);
            let even = _mm256_mul_epu32(a, doubled);
            let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(a), _mm256_srli_epi64::<32>(doubled));
            let odd_low = _mm256_castps_si256(_mm256_moveldup_ps(_mm256_castsi256_ps(odd)));
            let low = _mm256_srli_epi32::<1>(_mm256_blend_epi32::<ODD>(even, odd_low));
            let even_high = _mm256_castps_si256(_mm256_movehdup_ps(_mm256_castsi256_ps(even)));
            let sum = _mm256_add_epi32(low, _mm256_blend_epi32::<ODD>(even_high, odd));
            _mm256_min_epu32(sum, _mm256_sub_epi32(sum, _mm256_set1_epi32(P.cast_signed())))
        }
    }

    #[inline(always)]
    pub(super) fn mul(a: PackedBaseField, b: PackedBaseField) -> PackedBaseField {
        let ([a0, a1], [b0, b1]) = (raw(a), raw(b));
        packed([mul_half(a0, b0), mul_half(a1, b1)])
    }

    #[allow(unsafe_code, reason = "instructions of the CPU level this is built for")]
    #[inline(always)]
    pub(super) fn broadcast(value: u32) -> PackedBaseField {
        // SAFETY: AVX2 is in the target's features.
        packed(unsafe { [_mm256_set1_epi32(value.cast_signed()); 2] })
    }

    #[allow(unsafe_code, reason = "instructions of the CPU level this is built for")]
    #[inline(always)]
    pub(super) fn all_zero(vectors: [PackedBaseField; 3]) -> bool {
        let [[a, b], [c, d], [e, f]] = vectors.map(raw);
        // SAFETY: AVX2 is in the target's features.
        unsafe {
            let any =
                _mm256_or_si256(_mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d)), _mm256_or_si256(e, f));
            _mm256_testz_si256(any, any) == 1
        }
    }

    #[allow(unsafe_code, reason = "instructions of the CPU level this is built for")]
    #[inline(always)]
    pub(super) fn blend(even: PackedBaseField, odd: PackedBaseField) -> PackedBaseField {
        let ([a0, a1], [b0, b1]) = (raw(even), raw(odd));
        // SAFETY: AVX2 is in the target's features.
        packed(unsafe { [_mm256_blend_epi32::<ODD>(a0, b0), _mm256_blend_epi32::<ODD>(a1, b1)] })
    }
}

#[cfg(not(all(target_arch = "x86_64", any(target_feature = "avx2", target_feature = "avx512f"))))]
mod wide {
    use stwo::core::fields::m31::BaseField;
    use stwo::prover::backend::simd::m31::PackedBaseField;

    pub(super) fn mul(a: PackedBaseField, b: PackedBaseField) -> PackedBaseField {
        a * b
    }

    pub(super) fn broadcast(value: u32) -> PackedBaseField {
        PackedBaseField::broadcast(BaseField::from_u32_unchecked(value))
    }

    pub(super) fn all_zero(vectors: [PackedBaseField; 3]) -> bool {
        vectors.iter().all(num_traits::Zero::is_zero)
    }

    pub(super) fn blend(even: PackedBaseField, odd: PackedBaseField) -> PackedBaseField {
        let (mut lanes, odd) = (even.to_array(), odd.to_array());
        lanes.iter_mut().zip(odd).skip(1).step_by(2).for_each(|(lane, value)| *lane = value);
        PackedBaseField::from_array(lanes)
    }
}

/// Lane by lane, `a * b`.
#[inline(always)]
pub(crate) fn mul(a: PackedBaseField, b: PackedBaseField) -> PackedBaseField {
    wide::mul(a, b)
}

/// The same number in every lane.
#[inline(always)]
pub(crate) fn broadcast(value: BaseField) -> PackedBaseField {
    wide::broadcast(value.0)
}

/// Whether all lanes hold the number zero, written as zero: a `false` may be wrong, as the modulus stands for zero, too.
#[inline(always)]
pub(crate) fn all_zero(vectors: [PackedBaseField; 3]) -> bool {
    wide::all_zero(vectors)
}

/// Lanes with an even number of `even`, the others of `odd`.
#[inline(always)]
pub(crate) fn blend(even: PackedBaseField, odd: PackedBaseField) -> PackedBaseField {
    wide::blend(even, odd)
}

#[cfg(test)]
mod tests {
    use stwo::core::fields::m31::P;
    use stwo::prover::backend::simd::m31::N_LANES;

    use super::*;

    #[test]
    fn products_and_blends_are_those_of_single_numbers() {
        let edges = [0, 1, 2, P - 1, P, P / 2, 1 << 30, 0x1234_5678];
        for shift in 0..edges.len() {
            let a: [u32; N_LANES] = std::array::from_fn(|i| edges[i % edges.len()]);
            let b: [u32; N_LANES] = std::array::from_fn(|i| edges[(i / 2 + shift) % edges.len()]);
            let packed = |x: [u32; N_LANES]| PackedBaseField::from_array(x.map(BaseField::from_u32_unchecked));
            let expected = std::array::from_fn(|i| BaseField::reduce(u64::from(a[i]) * u64::from(b[i])));
            assert_eq!(mul(packed(a), packed(b)).to_array(), expected);
            let expected = std::array::from_fn(|i| BaseField::reduce(u64::from(if i % 2 == 0 { a[i] } else { b[i] })));
            assert_eq!(blend(packed(a), packed(b)).to_array(), expected);
        }
        assert_eq!(broadcast(BaseField::from(7)).to_array(), [BaseField::from(7); N_LANES]);
    }
}
