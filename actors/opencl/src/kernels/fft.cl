// @K@ layers of the circle transforms in registers, without local memory or barriers. Each item holds 2^@K@ values that
// lie 2^lo apart, beginning at layer lo; hi is the number of its first value, divided by 2^(lo + @K@). `tables` lists the source columns, then the target columns.

static inline void fft_load_@K@(uint *v, __global const uint *source, uint base, uint lo, uint source_len)
{
#pragma unroll
    for (uint m = 0; m < 1u << @K@; m++) {
        uint index = base + (m << lo);
        v[m] = index < source_len ? source[index] : 0;
    }
}

// Stores the values where they were loaded from, times `scale`.
static inline void fft_store_@K@(__global uint *target, const uint *v, uint base, uint lo, uint scale)
{
#pragma unroll
    for (uint m = 0; m < 1u << @K@; m++) {
        target[base + (m << lo)] = scale == 1 ? v[m] : m31_mul(v[m], scale);
    }
}

// Twiddle number h of layer `layer`; layer 0, the circle's, follows from layer 1.
static inline uint fft_twiddle_@K@(__global const uint *w, uint w_len, uint log_w, uint layer, uint h)
{
    if (layer > 0) {
        return w[w_len - (1u << (log_w - layer)) + h];
    }
    uint r = h & 3;
    uint value = w[w_len - (1u << (log_w - 1)) + 2 * (h >> 2) + (r < 2 ? 1 : 0)];
    return r == 1 || r == 2 ? P - value : value;
}

// Layers lo + @K@ - 1 down to lo of the evaluation.
static inline void fft_down_@K@(uint *v, __global const uint *w, uint w_len, uint log_w, uint lo, uint hi)
{
#pragma unroll
    for (int d = @K@ - 1; d >= 0; d--) {
#pragma unroll
        for (uint q = 0; q < 1u << (@K@ - 1 - d); q++) {
            uint twice = fft_twiddle_@K@(w, w_len, log_w, lo + d, (hi << (@K@ - 1 - d)) + q) << 1;
#pragma unroll
            for (uint r = 0; r < 1u << d; r++) {
                uint a = (q << (d + 1)) + r;
                uint b = a + (1u << d);
                uint product = m31_mul_twice(v[b], twice);
                v[b] = m31_sub(v[a], product);
                v[a] = m31_add(v[a], product);
            }
        }
    }
}

// Layers lo up to lo + @K@ - 1 of the interpolation.
static inline void fft_up_@K@(uint *v, __global const uint *w, uint w_len, uint log_w, uint lo, uint hi)
{
#pragma unroll
    for (int d = 0; d < @K@; d++) {
#pragma unroll
        for (uint q = 0; q < 1u << (@K@ - 1 - d); q++) {
            uint twice = fft_twiddle_@K@(w, w_len, log_w, lo + d, (hi << (@K@ - 1 - d)) + q) << 1;
#pragma unroll
            for (uint r = 0; r < 1u << d; r++) {
                uint a = (q << (d + 1)) + r;
                uint b = a + (1u << d);
                uint difference = m31_sub(v[a], v[b]);
                v[a] = m31_add(v[a], v[b]);
                v[b] = m31_mul_twice(difference, twice);
            }
        }
    }
}

__kernel void fft_forward_@K@(SLABS, uint tables, uint columns, uint twiddle, uint w_len, uint log_w, uint lo,
                              uint source_len, uint items)
{
    uint item = get_global_id(0);
    uint column = get_global_id(1);
    if (item >= items) {
        return;
    }
    __global const uint *source = COLUMN(COLUMN(tables)[column]);
    __global uint *target = COLUMN(COLUMN(tables)[columns + column]);
    uint hi = item >> lo;
    uint base = (hi << (lo + @K@)) | (item & ((1u << lo) - 1));
    uint v[1 << @K@];
    fft_load_@K@(v, source, base, lo, source_len);
    fft_down_@K@(v, COLUMN(twiddle), w_len, log_w, lo, hi);
    fft_store_@K@(target, v, base, lo, 1);
}

// The last pass multiplies by `scale`, the inverse of the number of values; the others have 1.
__kernel void fft_inverse_@K@(SLABS, uint tables, uint columns, uint twiddle, uint w_len, uint log_w, uint lo,
                              uint scale, uint items)
{
    uint item = get_global_id(0);
    uint column = get_global_id(1);
    if (item >= items) {
        return;
    }
    __global const uint *source = COLUMN(COLUMN(tables)[column]);
    __global uint *target = COLUMN(COLUMN(tables)[columns + column]);
    uint hi = item >> lo;
    uint base = (hi << (lo + @K@)) | (item & ((1u << lo) - 1));
    uint v[1 << @K@];
    fft_load_@K@(v, source, base, lo, 0xffffffffu);
    fft_up_@K@(v, COLUMN(twiddle), w_len, log_w, lo, hi);
    fft_store_@K@(target, v, base, lo, scale);
}
