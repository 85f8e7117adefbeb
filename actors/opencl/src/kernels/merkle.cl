// Merkle trees layer by layer, and the search for a proof of work.

__kernel void merkle_leaves(SLABS, uint table, uint columns, uint out, uint n)
{
    uint i = get_global_id(0);
    if (i >= n) {
        return;
    }
    uint h[8];
    merkle_leaf(s0, s1, s2, s3, COLUMN(table), columns, i, h);
    blake_store(h, QUAD(out) + 2 * (size_t)i);
}

// As merkle_leaves, where all columns lie in one slab and have n rows: `table` lists first granules only, and nothing is
// chosen or scaled per word.
__kernel void merkle_leaves_even(SLABS, uint table, uint columns, uint out, uint n, uint slab)
{
    uint i = get_global_id(0);
    if (i >= n) {
        return;
    }
    __global const uint *row = COLUMN(slab << 30) + i;
    __global const uint *list = COLUMN(table);
    uint h[8];
    uint m[16];
    blake_start(h);
    uint done = 0;
    while (done + 16 < columns) {
#pragma unroll
        for (uint k = 0; k < 16; k++) {
            m[k] = row[(ulong)list[done + k] << 4];
        }
        done += 16;
        blake_compress(h, m, done * 4, 0);
    }
#pragma unroll
    for (uint k = 0; k < 16; k++) {
        m[k] = done + k < columns ? row[(ulong)list[done + k] << 4] : 0;
    }
    blake_compress(h, m, columns * 4, 1);
    blake_store(h, QUAD(out) + 2 * (size_t)i);
}

__kernel void merkle_layer(SLABS, uint children, uint out, uint n)
{
    uint i = get_global_id(0);
    if (i >= n) {
        return;
    }
    merkle_node(QUAD(children), QUAD(out), i);
}

// Three layers at once, n nodes in the last: an item reads back what it has just written itself, so no barrier is needed.
__kernel void merkle_layers_3(SLABS, uint children, uint out1, uint out2, uint out3, uint n)
{
    uint i = get_global_id(0);
    if (i >= n) {
        return;
    }
    for (uint k = 0; k < 4; k++) {
        merkle_node(QUAD(children), QUAD(out1), 4 * i + k);
    }
    for (uint k = 0; k < 2; k++) {
        merkle_node(QUAD(out1), QUAD(out2), 2 * i + k);
    }
    merkle_node(QUAD(out2), QUAD(out3), i);
}

// Four columns to sixteen: row i of column (coordinate + 4 k) is row 4 i + k of the coordinate's column.
__kernel void pack_leaves(SLABS, uint table, uint n)
{
    uint i = get_global_id(0);
    uint c = get_global_id(1);
    if (i >= n) {
        return;
    }
    COLUMN(COLUMN(table)[4 + c])[i] = COLUMN(COLUMN(table)[c & 3])[4 * i + (c >> 2)];
}

// Leaf i of a layer that is folded several times at once: rows 4 i to 4 i + 3 of four columns, row by row.
__kernel void merkle_leaves_packed(SLABS, uint x0, uint x1, uint x2, uint x3, uint out, uint n)
{
    uint i = get_global_id(0);
    if (i >= n) {
        return;
    }
    uint4 a = QUAD(x0)[i];
    uint4 b = QUAD(x1)[i];
    uint4 c = QUAD(x2)[i];
    uint4 d = QUAD(x3)[i];
    uint m[16] = {a.x, b.x, c.x, d.x, a.y, b.y, c.y, d.y, a.z, b.z, c.z, d.z, a.w, b.w, c.w, d.w};
    uint h[8];
    blake_start(h);
    blake_compress(h, m, 64, 1);
    blake_store(h, QUAD(out) + 2 * (size_t)i);
}

// Items that look whether the search is over before they begin: those that do not start at once anyway.
#define GRIND_LATE 65536u

// Searches nonces in the order (high word, 20-bit low word), from number `first` on, for one whose hash with the prefix
// ends in `bits` zero bits; out[0] is lowered to the smallest offset found.
__kernel void grind(SLABS, uint prefix, uint out, uint first_low, uint first_high, uint bits, uint n)
{
    uint i = get_global_id(0);
    if (i >= n) {
        return;
    }
    // What was found may be lowered meanwhile, also to less than is read here: that costs a hash, no result.
    if (i >= GRIND_LATE && *(volatile __global uint *)COLUMN(out) < i) {
        return;
    }
    ulong number = (((ulong)first_high << 32) | first_low) + i;
    uint h[8];
    uint m[16];
#pragma unroll
    for (uint k = 0; k < 8; k++) {
        m[k] = COLUMN(prefix)[k];
    }
    m[8] = (uint)number & 0xfffffu;
    m[9] = (uint)(number >> 20);
#pragma unroll
    for (uint k = 10; k < 16; k++) {
        m[k] = 0;
    }
    blake_start(h);
    blake_compress(h, m, 40, 1);
    uint mask = bits >= 32 ? 0xffffffffu : (1u << bits) - 1;
    if ((h[0] & mask) == 0) {
        atomic_min(COLUMN(out), i);
    }
}
