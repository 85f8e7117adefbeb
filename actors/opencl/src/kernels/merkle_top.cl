// The upper layers of a tree, or all of a small one, in one work-group that hands nodes on through local memory. Every item
// reaches every barrier; layers that a smaller tree does not have are passed through with nothing to do.

#define TOP_ITEMS 256

// Node t of a layer of `count` nodes from nodes 2 t and 2 t + 1 in local memory, word by word 256 apart; it goes to local
// and device memory.
#define TOP_LAYER(out, count) \
    if (t < (count)) { \
        uint m[16]; \
        TOP_WORDS(m, 0, 2 * t) \
        TOP_WORDS(m, 8, 2 * t + 1) \
        blake_start(h); \
        blake_compress(h, m, 64, 1); \
        blake_store(h, QUAD(out) + 2 * t); \
    } \
    barrier(CLK_LOCAL_MEM_FENCE); \
    TOP_KEEP(count) \
    barrier(CLK_LOCAL_MEM_FENCE);

#define TOP_WORDS(m, first, node) \
    m[first] = nodes[node]; \
    m[first + 1] = nodes[TOP_ITEMS + node]; \
    m[first + 2] = nodes[2 * TOP_ITEMS + node]; \
    m[first + 3] = nodes[3 * TOP_ITEMS + node]; \
    m[first + 4] = nodes[4 * TOP_ITEMS + node]; \
    m[first + 5] = nodes[5 * TOP_ITEMS + node]; \
    m[first + 6] = nodes[6 * TOP_ITEMS + node]; \
    m[first + 7] = nodes[7 * TOP_ITEMS + node];

#define TOP_KEEP(count) \
    if (t < (count)) { \
        nodes[t] = h[0]; \
        nodes[TOP_ITEMS + t] = h[1]; \
        nodes[2 * TOP_ITEMS + t] = h[2]; \
        nodes[3 * TOP_ITEMS + t] = h[3]; \
        nodes[4 * TOP_ITEMS + t] = h[4]; \
        nodes[5 * TOP_ITEMS + t] = h[5]; \
        nodes[6 * TOP_ITEMS + t] = h[6]; \
        nodes[7 * TOP_ITEMS + t] = h[7]; \
    }

#define TOP_LAYERS(n) \
    barrier(CLK_LOCAL_MEM_FENCE); \
    TOP_KEEP((n) / 2) \
    barrier(CLK_LOCAL_MEM_FENCE); \
    TOP_LAYER(out1, (n) / 4) \
    TOP_LAYER(out2, (n) / 8) \
    TOP_LAYER(out3, (n) / 16) \
    TOP_LAYER(out4, (n) / 32) \
    TOP_LAYER(out5, (n) / 64) \
    TOP_LAYER(out6, (n) / 128) \
    TOP_LAYER(out7, (n) / 256) \
    TOP_LAYER(out8, (n) / 512)

// All layers over n nodes, 2 to 512: out0 has n / 2 nodes, out1 half of that, and so on.
__kernel __attribute__((reqd_work_group_size(TOP_ITEMS, 1, 1)))
void merkle_top(SLABS, uint children, uint out0, uint out1, uint out2, uint out3, uint out4, uint out5, uint out6,
                uint out7, uint out8, uint n)
{
    __local uint nodes[8 * TOP_ITEMS];
    uint t = get_local_id(0);
    uint h[8];
    if (t < n / 2) {
        uint m[16];
        blake_load(m, QUAD(children) + 4 * t);
        blake_load(m + 8, QUAD(children) + 4 * t + 2);
        blake_start(h);
        blake_compress(h, m, 64, 1);
        blake_store(h, QUAD(out0) + 2 * t);
    }
    TOP_LAYERS(n)
}

// A whole tree of n leaves, 2 to 512.
__kernel __attribute__((reqd_work_group_size(TOP_ITEMS, 1, 1)))
void merkle_small(SLABS, uint table, uint columns, uint leaves, uint out0, uint out1, uint out2, uint out3, uint out4,
                  uint out5, uint out6, uint out7, uint out8, uint n)
{
    __local uint nodes[8 * TOP_ITEMS];
    uint t = get_local_id(0);
    uint h[8];
    if (t < n / 2) {
        uint m[16] = {0};
        for (uint side = 0; side < 2; side++) {
#pragma unroll
            for (uint k = 0; k < 8; k++) {
                m[k] = m[k + 8];
            }
            merkle_leaf(s0, s1, s2, s3, COLUMN(table), columns, 2 * t + side, h);
            blake_store(h, QUAD(leaves) + 2 * (2 * t + side));
#pragma unroll
            for (uint k = 0; k < 8; k++) {
                m[k + 8] = h[k];
            }
        }
        blake_start(h);
        blake_compress(h, m, 64, 1);
        blake_store(h, QUAD(out0) + 2 * t);
    }
    TOP_LAYERS(n)
}
