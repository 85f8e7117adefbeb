// The lowest twelve layers of the circle transforms in one pass: a work-group of 256 items holds a tile of 4096 values,
// 16 in the registers of each item, and exchanges them through local memory between three steps of four layers. Groups
// are always whole, so that every item reaches every barrier. Loads, layers and stores are those of fft.cl for four layers.

#define TILE_ITEMS 256
// Place of value i of the tile: a word is left out after every 16, so that strided items meet different banks.
#define TILE_AT(i) ((i) + ((i) >> 4))
#define TILE_WORDS TILE_AT(4096)

// An item's 16 values, 2^lo apart from `base` on, into the tile.
INLINE void tile_put(__local uint *tile, const uint *v, uint base, uint lo)
{
#pragma unroll
    for (uint m = 0; m < 16; m++) {
        tile[TILE_AT(base + (m << lo))] = v[m];
    }
}

// And out of it.
INLINE void tile_get(uint *v, __local const uint *tile, uint base, uint lo)
{
#pragma unroll
    for (uint m = 0; m < 16; m++) {
        v[m] = tile[TILE_AT(base + (m << lo))];
    }
}

__kernel __attribute__((reqd_work_group_size(TILE_ITEMS, 1, 1)))
void fft_forward_tile(SLABS, uint tables, uint targets_after, uint twiddle, uint w_len, uint log_w, uint source_len)
{
    __local uint tile[TILE_WORDS];
    uint t = get_local_id(0);
    uint group = get_group_id(0);
    uint column = get_global_id(1);
    __global const uint *source = COLUMN(COLUMN(tables)[column]);
    __global uint *target = COLUMN(COLUMN(tables)[targets_after + column]);
    __global const uint *w = COLUMN(twiddle);
    uint first = (group << 12) + t;
    uint middle = ((t >> 4) << 8) | (t & 15);
    uint v[16];
    fft_load_4(v, source, first, 8, source_len);
    fft_down_4(v, w, w_len, log_w, 8, group);
    tile_put(tile, v, t, 8);
    barrier(CLK_LOCAL_MEM_FENCE);
    tile_get(v, tile, middle, 4);
    fft_down_4(v, w, w_len, log_w, 4, (group << 4) | (t >> 4));
    tile_put(tile, v, middle, 4);
    barrier(CLK_LOCAL_MEM_FENCE);
    tile_get(v, tile, t << 4, 0);
    fft_down_4(v, w, w_len, log_w, 0, (group << 8) | t);
    tile_put(tile, v, t << 4, 0);
    barrier(CLK_LOCAL_MEM_FENCE);
    // Through the tile once more: neighbouring items then write neighbouring words.
    tile_get(v, tile, t, 8);
    fft_store_4(target, v, first, 8, 1);
}

// `scale` as in fft_inverse_*.
__kernel __attribute__((reqd_work_group_size(TILE_ITEMS, 1, 1)))
void fft_inverse_tile(SLABS, uint tables, uint targets_after, uint twiddle, uint w_len, uint log_w, uint scale)
{
    __local uint tile[TILE_WORDS];
    uint t = get_local_id(0);
    uint group = get_group_id(0);
    uint column = get_global_id(1);
    __global const uint *source = COLUMN(COLUMN(tables)[column]);
    __global uint *target = COLUMN(COLUMN(tables)[targets_after + column]);
    __global const uint *w = COLUMN(twiddle);
    uint first = (group << 12) + t;
    uint middle = ((t >> 4) << 8) | (t & 15);
    uint v[16];
    fft_load_4(v, source, first, 8, 0xffffffffu);
    tile_put(tile, v, t, 8);
    barrier(CLK_LOCAL_MEM_FENCE);
    tile_get(v, tile, t << 4, 0);
    fft_up_4(v, w, w_len, log_w, 0, (group << 8) | t);
    tile_put(tile, v, t << 4, 0);
    barrier(CLK_LOCAL_MEM_FENCE);
    tile_get(v, tile, middle, 4);
    fft_up_4(v, w, w_len, log_w, 4, (group << 4) | (t >> 4));
    tile_put(tile, v, middle, 4);
    barrier(CLK_LOCAL_MEM_FENCE);
    tile_get(v, tile, t, 8);
    fft_up_4(v, w, w_len, log_w, 8, group);
    fft_store_4(target, v, first, 8, scale);
}
