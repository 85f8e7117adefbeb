// @K@ layers of the circle transforms in registers, without local memory or barriers. Each item holds 2^@K@ values that
// lie 2^lo apart, beginning at layer lo; hi is the number of its first value, divided by 2^(lo + @K@). `tables` lists the
// source columns, and `targets_after` words later the target columns.

__kernel void fft_forward_@K@(SLABS, uint tables, uint targets_after, uint twiddle, uint w_len, uint log_w, uint lo,
                              uint source_len, uint items)
{
    uint item = get_global_id(0);
    uint column = get_global_id(1);
    if (item >= items) {
        return;
    }
    __global const uint *source = COLUMN(COLUMN(tables)[column]);
    __global uint *target = COLUMN(COLUMN(tables)[targets_after + column]);
    uint hi = item >> lo;
    uint base = (hi << (lo + @K@)) | (item & ((1u << lo) - 1));
    uint v[1 << @K@];
    fft_load_@K@(v, source, base, lo, source_len);
    fft_down_@K@(v, COLUMN(twiddle), w_len, log_w, lo, hi);
    fft_store_@K@(target, v, base, lo, 1);
}

// The last pass multiplies by `scale`, the inverse of the number of values; the others have 1.
__kernel void fft_inverse_@K@(SLABS, uint tables, uint targets_after, uint twiddle, uint w_len, uint log_w, uint lo,
                              uint scale, uint items)
{
    uint item = get_global_id(0);
    uint column = get_global_id(1);
    if (item >= items) {
        return;
    }
    __global const uint *source = COLUMN(COLUMN(tables)[column]);
    __global uint *target = COLUMN(COLUMN(tables)[targets_after + column]);
    uint hi = item >> lo;
    uint base = (hi << (lo + @K@)) | (item & ((1u << lo) - 1));
    uint v[1 << @K@];
    fft_load_@K@(v, source, base, lo, 0xffffffffu);
    fft_up_@K@(v, COLUMN(twiddle), w_len, log_w, lo, hi);
    fft_store_@K@(target, v, base, lo, scale);
}
