// Values of columns at a point outside of their domain: one vector of weights per point and length, then the inner
// products of all columns with it.

// Weight i of a coefficient vector: product of factors[k] over the set bits k of i. Each item makes 2^low of them.
__kernel void basis_weights(SLABS, uint factors, uint out, uint log_n, uint low)
{
    uint item = get_global_id(0);
    if (item >= 1u << (log_n - low)) {
        return;
    }
    qm31 weight = (qm31)(1, 0, 0, 0);
    for (uint k = low; k < log_n; k++) {
        qm31 moved = qm31_mul(weight, QUAD(factors)[k]);
        weight = (item >> (k - low)) & 1 ? moved : weight;
    }
    __global uint4 *target = QUAD(out) + ((size_t)item << low);
    target[0] = weight;
    for (uint k = 0; k < low; k++) {
        for (uint j = 0; j < 1u << k; j++) {
            target[(1u << k) + j] = qm31_mul(target[j], QUAD(factors)[k]);
        }
    }
}

// Barycentric weight i for the point (px, py): constants[i & 1] (1 + h.x) / h.y with h = p - point i. `table` holds px,
// py and the two constants.
__kernel void barycentric_weights(SLABS, uint table, uint domain, uint out, uint log_n)
{
    uint i = get_global_id(0);
    if (i >= 1u << log_n) {
        return;
    }
    uint2 point = domain_point(COLUMN(domain), i, log_n);
    qm31 px = QUAD(table)[0];
    qm31 py = QUAD(table)[1];
    // p - q = (px qx + py qy, py qx - px qy)
    qm31 x = qm31_add(qm31_mul_m31(px, point.x), qm31_mul_m31(py, point.y));
    qm31 y = qm31_sub(qm31_mul_m31(py, point.x), qm31_mul_m31(px, point.y));
    x.x = m31_add(x.x, 1);
    QUAD(out)[i] = qm31_mul(QUAD(table)[2 + (i & 1)], qm31_mul(x, qm31_inverse(y)));
}

// Adds the products of a weight with one row of four columns.
#define DOT_STEP(row) \
    do { \
        ulong4 weight = convert_ulong4(QUAD(weights)[row]); \
        sum0 += weight * (ulong)column0[row]; \
        sum1 += weight * (ulong)column1[row]; \
        sum2 += weight * (ulong)column2[row]; \
        sum3 += weight * (ulong)column3[row]; \
    } while (0)

#define DOT_FOLD(sum) sum = (sum & (ulong)P) + (sum >> 31)

#define DOT_STORE(sum, number) \
    if (c + number < columns) { \
        QUAD(out)[(size_t)(c + number) * items + t] = \
            (uint4)(m31_reduce(sum.x), m31_reduce(sum.y), m31_reduce(sum.z), m31_reduce(sum.w)); \
    }

// Partial inner products of four columns, which share the weights: item t sums the rows t, t + items, ... of which there are
// the same number for each.
__kernel void dot_columns(SLABS, uint table, uint weights, uint out, uint n, uint items, uint columns)
{
    uint t = get_global_id(0);
    uint c = 4 * get_global_id(1);
    if (t >= items) {
        return;
    }
    __global const uint *list = COLUMN(table);
    uint last = columns - 1;
    __global const uint *column0 = COLUMN(list[c]);
    __global const uint *column1 = COLUMN(list[min(c + 1, last)]);
    __global const uint *column2 = COLUMN(list[min(c + 2, last)]);
    __global const uint *column3 = COLUMN(list[min(c + 3, last)]);
    ulong4 sum0 = (ulong4)(0), sum1 = (ulong4)(0), sum2 = (ulong4)(0), sum3 = (ulong4)(0);
    uint i = t;
    // Four products and a folded sum are below 2^64, see constraints/emit.rs. n is below 2^31.
    for (; i + 3 * items < n; i += 4 * items) {
        DOT_STEP(i);
        DOT_STEP(i + items);
        DOT_STEP(i + 2 * items);
        DOT_STEP(i + 3 * items);
        DOT_FOLD(sum0);
        DOT_FOLD(sum1);
        DOT_FOLD(sum2);
        DOT_FOLD(sum3);
    }
    for (; i < n; i += items) {
        DOT_STEP(i);
        DOT_FOLD(sum0);
        DOT_FOLD(sum1);
        DOT_FOLD(sum2);
        DOT_FOLD(sum3);
    }
    DOT_STORE(sum0, 0)
    DOT_STORE(sum1, 1)
    DOT_STORE(sum2, 2)
    DOT_STORE(sum3, 3)
}

// out[i] = sum of `group` neighbours.
__kernel void sum_groups(SLABS, uint in, uint out, uint group, uint n)
{
    uint i = get_global_id(0);
    if (i >= n) {
        return;
    }
    qm31 sum = (qm31)(0);
    for (uint k = 0; k < group; k++) {
        sum = qm31_add(sum, QUAD(in)[(size_t)i * group + k]);
    }
    QUAD(out)[i] = sum;
}
