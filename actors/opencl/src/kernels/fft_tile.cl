// The lowest twelve layers of the circle transforms in one pass: a work-group of 256 items holds a tile of 4096 values,
// 16 in the registers of each item, and exchanges them through local memory between three steps of four layers. Groups
// are always whole, so that every item reaches every barrier.

#define TILE_ITEMS 256
// Place of value i of the tile: a word is left out after every 16, so that strided items meet different banks.
#define TILE_AT(i) ((i) + ((i) >> 4))
#define TILE_WORDS TILE_AT(4096)

__kernel __attribute__((reqd_work_group_size(TILE_ITEMS, 1, 1)))
void fft_forward_tile(SLABS, uint tables, uint columns, uint twiddle, uint w_len, uint log_w, uint source_len)
{
    __local uint tile[TILE_WORDS];
    uint t = get_local_id(0);
    uint group = get_group_id(0);
    uint column = get_global_id(1);
    __global const uint *source = COLUMN(COLUMN(tables)[column]);
    __global uint *target = COLUMN(COLUMN(tables)[columns + column]);
    __global const uint *w = COLUMN(twiddle);
    uint first = (group << 12) + t;
    uint middle = ((t >> 4) << 8) | (t & 15);
    uint v[16];
#pragma unroll
    for (uint m = 0; m < 16; m++) {
        v[m] = first + (m << 8) < source_len ? source[first + (m << 8)] : 0;
    }
    fft_down_4(v, w, w_len, log_w, 8, group);
#pragma unroll
    for (uint m = 0; m < 16; m++) {
        tile[TILE_AT(t + (m << 8))] = v[m];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
    for (uint m = 0; m < 16; m++) {
        v[m] = tile[TILE_AT(middle + (m << 4))];
    }
    fft_down_4(v, w, w_len, log_w, 4, (group << 4) | (t >> 4));
#pragma unroll
    for (uint m = 0; m < 16; m++) {
        tile[TILE_AT(middle + (m << 4))] = v[m];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
    for (uint m = 0; m < 16; m++) {
        v[m] = tile[TILE_AT((t << 4) + m)];
    }
    fft_down_4(v, w, w_len, log_w, 0, (group << 8) | t);
#pragma unroll
    for (uint m = 0; m < 16; m++) {
        tile[TILE_AT((t << 4) + m)] = v[m];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
    for (uint m = 0; m < 16; m++) {
        target[first + (m << 8)] = tile[TILE_AT(t + (m << 8))];
    }
}

// `scale` as in fft_inverse_*.
__kernel __attribute__((reqd_work_group_size(TILE_ITEMS, 1, 1)))
void fft_inverse_tile(SLABS, uint tables, uint columns, uint twiddle, uint w_len, uint log_w, uint scale)
{
    __local uint tile[TILE_WORDS];
    uint t = get_local_id(0);
    uint group = get_group_id(0);
    uint column = get_global_id(1);
    __global const uint *source = COLUMN(COLUMN(tables)[column]);
    __global uint *target = COLUMN(COLUMN(tables)[columns + column]);
    __global const uint *w = COLUMN(twiddle);
    uint first = (group << 12) + t;
    uint middle = ((t >> 4) << 8) | (t & 15);
    uint v[16];
#pragma unroll
    for (uint m = 0; m < 16; m++) {
        tile[TILE_AT(t + (m << 8))] = source[first + (m << 8)];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
    for (uint m = 0; m < 16; m++) {
        v[m] = tile[TILE_AT((t << 4) + m)];
    }
    fft_up_4(v, w, w_len, log_w, 0, (group << 8) | t);
#pragma unroll
    for (uint m = 0; m < 16; m++) {
        tile[TILE_AT((t << 4) + m)] = v[m];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
    for (uint m = 0; m < 16; m++) {
        v[m] = tile[TILE_AT(middle + (m << 4))];
    }
    fft_up_4(v, w, w_len, log_w, 4, (group << 4) | (t >> 4));
#pragma unroll
    for (uint m = 0; m < 16; m++) {
        tile[TILE_AT(middle + (m << 4))] = v[m];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
    for (uint m = 0; m < 16; m++) {
        v[m] = tile[TILE_AT(t + (m << 8))];
    }
    fft_up_4(v, w, w_len, log_w, 8, group);
#pragma unroll
    for (uint m = 0; m < 16; m++) {
        target[first + (m << 8)] = scale == 1 ? v[m] : m31_mul(v[m], scale);
    }
}
