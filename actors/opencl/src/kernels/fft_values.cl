// An item's values of a pass of @K@ layers, 2^lo apart from `base` on, in and out of a column.

INLINE void fft_load_@K@(uint *v, __global const uint *source, uint base, uint lo, uint source_len)
{
#pragma unroll
    for (uint m = 0; m < 1u << @K@; m++) {
        uint index = base + (m << lo);
        v[m] = index < source_len ? source[index] : 0;
    }
}

// Stores the values where they were loaded from, times `scale`.
INLINE void fft_store_@K@(__global uint *target, const uint *v, uint base, uint lo, uint scale)
{
#pragma unroll
    for (uint m = 0; m < 1u << @K@; m++) {
        target[base + (m << lo)] = scale == 1 ? v[m] : m31_mul(v[m], scale);
    }
}
