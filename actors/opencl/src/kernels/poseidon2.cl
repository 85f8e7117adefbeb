// Poseidon2 over P: width 16, x^5, 8 full and 14 partial rounds; see src/air/poseidon2.

// circ(2 M, M, M, M) with M = circ(2, 3, 1, 1). Values are below P before and after.
INLINE void poseidon2_external(uint *s)
{
    ulong x[16];
#pragma unroll
    for (uint k = 0; k < 16; k += 4) {
        ulong sum = (ulong)s[k] + s[k + 1] + s[k + 2] + s[k + 3];
        x[k] = sum + s[k] + 2 * (ulong)s[k + 1];
        x[k + 1] = sum + s[k + 1] + 2 * (ulong)s[k + 2];
        x[k + 2] = sum + s[k + 2] + 2 * (ulong)s[k + 3];
        x[k + 3] = sum + s[k + 3] + 2 * (ulong)s[k];
    }
#pragma unroll
    for (uint k = 0; k < 4; k++) {
        ulong sum = x[k] + x[k + 4] + x[k + 8] + x[k + 12];
        s[k] = m31_reduce(x[k] + sum);
        s[k + 4] = m31_reduce(x[k + 4] + sum);
        s[k + 8] = m31_reduce(x[k + 8] + sum);
        s[k + 12] = m31_reduce(x[k + 12] + sum);
    }
}

// 1 + diag(-2, 1, 2, 4, ...).
INLINE void poseidon2_internal(uint *s)
{
    ulong sum = 0;
#pragma unroll
    for (uint k = 0; k < 16; k++) {
        sum += s[k];
    }
    s[0] = m31_reduce(sum + 2 * (ulong)(P - s[0]));
#pragma unroll
    for (uint k = 1; k < 16; k++) {
        uint shift = k < 10 ? k - 1 : k == 10 ? 10 : k + 1;
        s[k] = m31_reduce(sum + ((ulong)s[k] << shift));
    }
}

// Row i: the permutation of (seed, i, zeros). `table` lists eight columns of output words, then with `cells` the columns
// of each S-box's square and fifth power; `params` holds the seed and the round constants.
__kernel void poseidon2(SLABS, uint table, uint params, uint cells, uint n)
{
    uint i = get_global_id(0);
    if (i >= n) {
        return;
    }
    __global const uint *list = COLUMN(table);
    __global const uint *next = COLUMN(params) + 8;
    uint s[16];
#pragma unroll
    for (uint k = 0; k < 16; k++) {
        s[k] = k < 8 ? COLUMN(params)[k] : k == 8 ? i : 0;
    }
    uint at = 8;
#define POSEIDON2_SBOX(value) \
    do { \
        uint x = m31_add(value, *next++); \
        uint square = m31_mul(x, x); \
        value = m31_mul(m31_mul(square, square), x); \
        if (cells) { \
            COLUMN(list[at])[i] = square; \
            COLUMN(list[at + 1])[i] = value; \
        } \
        at += 2; \
    } while (0)
    poseidon2_external(s);
    for (uint side = 0; side < 2; side++) {
        for (uint round = 0; round < 4; round++) {
#pragma unroll
            for (uint k = 0; k < 16; k++) {
                POSEIDON2_SBOX(s[k]);
            }
            poseidon2_external(s);
        }
        for (uint round = 0; round < (side == 0 ? 14 : 0); round++) {
            POSEIDON2_SBOX(s[0]);
            poseidon2_internal(s);
        }
    }
#undef POSEIDON2_SBOX
#pragma unroll
    for (uint k = 0; k < 8; k++) {
        COLUMN(list[k])[i] = s[k];
    }
}

__kernel void row_numbers(SLABS, uint out, uint n)
{
    uint i = get_global_id(0);
    if (i >= n) {
        return;
    }
    COLUMN(out)[i] = i;
}

// Row in which a column in committed order holds place `place` of the coset; log_n is at least 1.
INLINE uint coset_row(uint place, uint log_n)
{
    uint index = place & 1 ? (1u << log_n) - (place + 1) / 2 : place / 2;
    return reverse_bits(index, log_n);
}

// Sums of (value - mean) over the blocks of the coset: block t of column c to word c * blocks + t. `table` lists the
// source columns, the target columns and the means.
__kernel void coset_sums(SLABS, uint table, uint sums, uint columns, uint log_n, uint log_block)
{
    uint t = get_global_id(0);
    uint c = get_global_id(1);
    uint blocks = 1u << (log_n - log_block);
    if (t >= blocks) {
        return;
    }
    __global const uint *source = COLUMN(COLUMN(table)[c]);
    uint loss = m31_sub(P, COLUMN(table)[2 * columns + c]);
    uint sum = 0;
    for (uint k = 0; k < 1u << log_block; k++) {
        sum = m31_add(sum, m31_add(source[coset_row((t << log_block) + k, log_n)], loss));
    }
    COLUMN(sums)[c * blocks + t] = sum;
}

// Replaces the sums of each column's blocks by the sums of the blocks before.
__kernel void sums_before(SLABS, uint sums, uint blocks, uint columns)
{
    uint c = get_global_id(0);
    if (c >= columns) {
        return;
    }
    __global uint *list = COLUMN(sums) + c * blocks;
    uint sum = 0;
    for (uint t = 0; t < blocks; t++) {
        uint value = list[t];
        list[t] = sum;
        sum = m31_add(sum, value);
    }
}

// The running sums of (value - mean) along the coset; arguments as for coset_sums after sums_before.
__kernel void coset_running(SLABS, uint table, uint sums, uint columns, uint log_n, uint log_block)
{
    uint t = get_global_id(0);
    uint c = get_global_id(1);
    uint blocks = 1u << (log_n - log_block);
    if (t >= blocks) {
        return;
    }
    __global const uint *source = COLUMN(COLUMN(table)[c]);
    __global uint *target = COLUMN(COLUMN(table)[columns + c]);
    uint loss = m31_sub(P, COLUMN(table)[2 * columns + c]);
    uint sum = COLUMN(sums)[c * blocks + t];
    for (uint k = 0; k < 1u << log_block; k++) {
        uint row = coset_row((t << log_block) + k, log_n);
        sum = m31_add(sum, m31_add(source[row], loss));
        target[row] = sum;
    }
}
