// Folding of FRI layers.

// Row i: (f(p) + f(-p)) + alpha (f(p) - f(-p)) / t with t from `inverses`, from word `first` on: one per row, or with
// `circle` the y-coordinates that follow from pairs (x, y). `table` lists four source and four target columns.
__kernel void fold(SLABS, uint table, uint inverses, uint first, uint circle, uint a0, uint a1, uint a2, uint a3, uint n)
{
    uint i = get_global_id(0);
    if (i >= n) {
        return;
    }
    __global const uint *list = COLUMN(table);
    uint r = i & 3;
    uint at = circle ? 2 * (i >> 2) + (r < 2 ? 1 : 0) : i;
    uint t = COLUMN(inverses)[first + at];
    t = circle && (r == 1 || r == 2) ? m31_sub(0, t) : t;
    qm31 left, right;
    left.x = COLUMN(list[0])[2 * i];
    left.y = COLUMN(list[1])[2 * i];
    left.z = COLUMN(list[2])[2 * i];
    left.w = COLUMN(list[3])[2 * i];
    right.x = COLUMN(list[0])[2 * i + 1];
    right.y = COLUMN(list[1])[2 * i + 1];
    right.z = COLUMN(list[2])[2 * i + 1];
    right.w = COLUMN(list[3])[2 * i + 1];
    qm31 odd = qm31_mul_m31(qm31_sub(left, right), t);
    qm31 value = qm31_add(qm31_add(left, right), qm31_mul(odd, (qm31)(a0, a1, a2, a3)));
    COLUMN(list[4])[i] = value.x;
    COLUMN(list[5])[i] = value.y;
    COLUMN(list[6])[i] = value.z;
    COLUMN(list[7])[i] = value.w;
}

// Subtracts lambda from the first half and adds it to the second; `table` as in fold.
__kernel void decompose(SLABS, uint table, uint l0, uint l1, uint l2, uint l3, uint n)
{
    uint i = get_global_id(0);
    if (i >= n) {
        return;
    }
    __global const uint *list = COLUMN(table);
    uint lambda[4] = {l0, l1, l2, l3};
    for (uint k = 0; k < 4; k++) {
        uint value = COLUMN(list[k])[i];
        COLUMN(list[4 + k])[i] = i < n / 2 ? m31_sub(value, lambda[k]) : m31_add(value, lambda[k]);
    }
}
