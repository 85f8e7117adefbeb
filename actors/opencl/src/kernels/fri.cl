// Folding of FRI layers.

// The values of a polynomial at a point and at its mirror image, `t` the inverse of the coordinate that tells them apart.
INLINE qm31 fold_pair(qm31 left, qm31 right, uint t, qm31 alpha)
{
    qm31 odd = qm31_mul_m31(qm31_sub(left, right), t);
    return qm31_add(qm31_add(left, right), qm31_mul(odd, alpha));
}

// Row i: (f(p) + f(-p)) + alpha (f(p) - f(-p)) / t with t from `inverses`, from word `first` on: one per row, or with
// `circle` the y-coordinates that follow from pairs (x, y). Four source and four target columns.
__kernel void fold(SLABS, uint x0, uint x1, uint x2, uint x3, uint y0, uint y1, uint y2, uint y3, uint inverses,
                   uint first, uint circle, uint a0, uint a1, uint a2, uint a3, uint n)
{
    uint i = get_global_id(0);
    if (i >= n) {
        return;
    }
    uint r = i & 3;
    uint at = circle ? 2 * (i >> 2) + (r < 2 ? 1 : 0) : i;
    uint t = COLUMN(inverses)[first + at];
    t = circle && (r == 1 || r == 2) ? m31_sub(0, t) : t;
    uint k = 2 * i;
    qm31 left = (qm31)(COLUMN(x0)[k], COLUMN(x1)[k], COLUMN(x2)[k], COLUMN(x3)[k]);
    k++;
    qm31 right = (qm31)(COLUMN(x0)[k], COLUMN(x1)[k], COLUMN(x2)[k], COLUMN(x3)[k]);
    qm31 value = fold_pair(left, right, t, (qm31)(a0, a1, a2, a3));
    COLUMN(y0)[i] = value.x;
    COLUMN(y1)[i] = value.y;
    COLUMN(y2)[i] = value.z;
    COLUMN(y3)[i] = value.w;
}

// Subtracts lambda from the first half and adds it to the second; `table` lists four source and four target
// columns.
__kernel void decompose(SLABS, uint table, uint l0, uint l1, uint l2, uint l3, uint n)
{
    uint i = get_global_id(0);
    if (i >= n) {
        return;
    }
    __global const uint *list = COLUMN(table);
    qm31 value = (qm31)(COLUMN(list[0])[i], COLUMN(list[1])[i], COLUMN(list[2])[i], COLUMN(list[3])[i]);
    qm31 lambda = (qm31)(l0, l1, l2, l3);
    value = i < n / 2 ? qm31_sub(value, lambda) : qm31_add(value, lambda);
    COLUMN(list[4])[i] = value.x;
    COLUMN(list[5])[i] = value.y;
    COLUMN(list[6])[i] = value.z;
    COLUMN(list[7])[i] = value.w;
}
