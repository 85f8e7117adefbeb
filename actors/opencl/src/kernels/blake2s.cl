// Blake2s with 32-byte digests, and the leaves and nodes of Merkle trees over it: functions, no kernels.

#define BLAKE_G(a, b, c, d, x, y) \
    a = a + b + m[x]; \
    d = rotate(d ^ a, 16u); \
    c = c + d; \
    b = rotate(b ^ c, 20u); \
    a = a + b + m[y]; \
    d = rotate(d ^ a, 24u); \
    c = c + d; \
    b = rotate(b ^ c, 25u)

#define BLAKE_ROUND(a, b, c, d, e, f, g, h, i, j, k, l, o, p, q, r) \
    BLAKE_G(v0, v4, v8, v12, a, b); \
    BLAKE_G(v1, v5, v9, v13, c, d); \
    BLAKE_G(v2, v6, v10, v14, e, f); \
    BLAKE_G(v3, v7, v11, v15, g, h); \
    BLAKE_G(v0, v5, v10, v15, i, j); \
    BLAKE_G(v1, v6, v11, v12, k, l); \
    BLAKE_G(v2, v7, v8, v13, o, p); \
    BLAKE_G(v3, v4, v9, v14, q, r)

INLINE void blake_start(uint *h)
{
    h[0] = 0x6a09e667u ^ 0x01010020u;
    h[1] = 0xbb67ae85u;
    h[2] = 0x3c6ef372u;
    h[3] = 0xa54ff53au;
    h[4] = 0x510e527fu;
    h[5] = 0x9b05688cu;
    h[6] = 0x1f83d9abu;
    h[7] = 0x5be0cd19u;
}

// `length`: bytes so far, this block included; messages are shorter than 2^32 bytes.
INLINE void blake_compress(uint *h, const uint *m, uint length, uint last)
{
    uint v0 = h[0], v1 = h[1], v2 = h[2], v3 = h[3], v4 = h[4], v5 = h[5], v6 = h[6], v7 = h[7];
    uint v8 = 0x6a09e667u, v9 = 0xbb67ae85u, v10 = 0x3c6ef372u, v11 = 0xa54ff53au;
    uint v12 = 0x510e527fu ^ length, v13 = 0x9b05688cu, v14 = 0x1f83d9abu ^ (last ? 0xffffffffu : 0u), v15 = 0x5be0cd19u;
    BLAKE_ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    BLAKE_ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3);
    BLAKE_ROUND(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4);
    BLAKE_ROUND(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8);
    BLAKE_ROUND(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13);
    BLAKE_ROUND(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9);
    BLAKE_ROUND(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11);
    BLAKE_ROUND(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10);
    BLAKE_ROUND(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5);
    BLAKE_ROUND(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0);
    h[0] ^= v0 ^ v8;
    h[1] ^= v1 ^ v9;
    h[2] ^= v2 ^ v10;
    h[3] ^= v3 ^ v11;
    h[4] ^= v4 ^ v12;
    h[5] ^= v5 ^ v13;
    h[6] ^= v6 ^ v14;
    h[7] ^= v7 ^ v15;
}

INLINE void blake_store(const uint *h, __global uint4 *out)
{
    out[0] = (uint4)(h[0], h[1], h[2], h[3]);
    out[1] = (uint4)(h[4], h[5], h[6], h[7]);
}

// Hash of row i of all columns, listed as (address, doublings to the longest) by growing length.
INLINE void merkle_leaf(SLABS, __global const uint *list, uint columns, uint i, uint *h)
{
    uint m[16];
    blake_start(h);
    uint done = 0;
    do {
        uint left = columns - done;
#pragma unroll
        for (uint k = 0; k < 16; k++) {
            uint value = 0;
            if (k < left) {
                uint at = 2 * (done + k);
                value = COLUMN(list[at])[lifted(i, list[at + 1])];
            }
            m[k] = value;
        }
        done += min(left, 16u);
        blake_compress(h, m, done * 4, done == columns);
    } while (done < columns);
}

INLINE void blake_load(uint *m, __global const uint4 *in)
{
#pragma unroll
    for (uint k = 0; k < 2; k++) {
        uint4 part = in[k];
        m[4 * k] = part.x;
        m[4 * k + 1] = part.y;
        m[4 * k + 2] = part.z;
        m[4 * k + 3] = part.w;
    }
}

// Node i: hash of children 2i and 2i + 1.
INLINE void merkle_node(__global const uint4 *children, __global uint4 *out, uint i)
{
    uint h[8];
    uint m[16];
    blake_load(m, children + 4 * (size_t)i);
    blake_load(m + 8, children + 4 * (size_t)i + 2);
    blake_start(h);
    blake_compress(h, m, 64, 1);
    blake_store(h, out + 2 * (size_t)i);
}

