// Whole columns: order, sums, single values; and the field functions one by one for the self-test.

// target[i] = source[bit-reversed i], elements of `width` words.
__kernel void bit_reverse(SLABS, uint source, uint target, uint log_n, uint width)
{
    uint i = get_global_id(0);
    if (i >= 1u << log_n) {
        return;
    }
    uint j = log_n == 0 ? 0 : reverse_bits(i, log_n);
    for (uint k = 0; k < width; k++) {
        COLUMN(target)[i * width + k] = COLUMN(source)[j * width + k];
    }
}

// target[i] += source[lifted i] for column pairs listed as (target, source).
__kernel void lift_add(SLABS, uint table, uint ratio, uint n)
{
    uint i = get_global_id(0);
    uint c = get_global_id(1);
    if (i >= n) {
        return;
    }
    __global uint *target = COLUMN(COLUMN(table)[2 * c]);
    __global uint *source = COLUMN(COLUMN(table)[2 * c + 1]);
    target[i] = m31_add(target[i], source[lifted(i, ratio)]);
}

// out[i] = word number table[2 i + 1] of the column at table[2 i].
__kernel void gather(SLABS, uint table, uint out, uint n)
{
    uint i = get_global_id(0);
    if (i >= n) {
        return;
    }
    COLUMN(out)[i] = COLUMN(COLUMN(table)[2 * i])[COLUMN(table)[2 * i + 1]];
}

// Half i & 1 of hash number i / 2 of a list of (column, number of the hash in it), to quad `first` + i of `out`.
__kernel void gather_hashes(SLABS, uint table, uint out, uint first, uint n)
{
    uint i = get_global_id(0);
    if (i >= 2 * n) {
        return;
    }
    __global const uint *place = COLUMN(table) + 2 * (i >> 1);
    QUAD(out)[first + i] = QUAD(place[0])[2 * (size_t)place[1] + (i & 1)];
}

// Rows of 8 words (two field elements) to rows of 24: sum, difference, product, inverse of the first, product with the
// second's first word, and as base elements: a+b, a-b, ab, 1/a.
__kernel void field_test(SLABS, uint in, uint out, uint n)
{
    uint i = get_global_id(0);
    if (i >= n) {
        return;
    }
    qm31 a = QUAD(in)[2 * i];
    qm31 b = QUAD(in)[2 * i + 1];
    QUAD(out)[6 * i] = qm31_add(a, b);
    QUAD(out)[6 * i + 1] = qm31_sub(a, b);
    QUAD(out)[6 * i + 2] = qm31_mul(a, b);
    QUAD(out)[6 * i + 3] = qm31_inverse(a);
    QUAD(out)[6 * i + 4] = qm31_mul_m31(a, b.x);
    QUAD(out)[6 * i + 5] = (uint4)(m31_add(a.x, b.x), m31_sub(a.x, b.x), m31_mul(a.x, b.x), m31_inverse(a.x));
}

// Transforms of 2 and 4 values, one column per item. `x`, `y` are the first point's coordinates (their inverses for the
// inverse transform, which ends with a multiplication by `scale`; 0 means forward).
__kernel void fft_tiny(SLABS, uint tables, uint targets_after, uint columns, uint log_n, uint x, uint y, uint scale, uint source_len)
{
    uint column = get_global_id(0);
    if (column >= columns) {
        return;
    }
    __global const uint *source = COLUMN(COLUMN(tables)[column]);
    __global uint *target = COLUMN(COLUMN(tables)[targets_after + column]);
    uint n = 1u << log_n;
    uint v[4];
#pragma unroll
    for (uint k = 0; k < 4; k++) {
        v[k] = k < n && k < source_len ? source[k] : 0;
    }
    uint ys[2] = {y, m31_sub(0, y)};
    if (scale == 0) {
        if (log_n == 2) {
            for (uint k = 0; k < 2; k++) {
                uint product = m31_mul(v[k + 2], x);
                v[k + 2] = m31_sub(v[k], product);
                v[k] = m31_add(v[k], product);
            }
        }
        for (uint k = 0; k < 2; k++) {
            uint product = m31_mul(v[2 * k + 1], ys[k]);
            v[2 * k + 1] = m31_sub(v[2 * k], product);
            v[2 * k] = m31_add(v[2 * k], product);
        }
    } else {
        for (uint k = 0; k < 2; k++) {
            uint difference = m31_sub(v[2 * k], v[2 * k + 1]);
            v[2 * k] = m31_mul(m31_add(v[2 * k], v[2 * k + 1]), scale);
            v[2 * k + 1] = m31_mul(m31_mul(difference, ys[k]), scale);
        }
        if (log_n == 2) {
            for (uint k = 0; k < 2; k++) {
                uint difference = m31_sub(v[k], v[k + 2]);
                v[k] = m31_add(v[k], v[k + 2]);
                v[k + 2] = m31_mul(difference, x);
            }
        }
    }
#pragma unroll
    for (uint k = 0; k < 4; k++) {
        if (k < n) {
            target[k] = v[k];
        }
    }
}
