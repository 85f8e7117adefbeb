// Quotients of the opened columns.

// Row i: sum of column * factor over the columns, minus `constant`. `table` lists the column addresses, `factors` four
// words per column; `out` lists four target columns.
__kernel void numerators(SLABS, uint table, uint factors, uint columns, uint out, uint b0, uint b1, uint b2, uint b3,
                         uint n)
{
    uint i = get_global_id(0);
    if (i >= n) {
        return;
    }
    __global const uint *list = COLUMN(table);
    __global const uint4 *factor = QUAD(factors);
    ulong4 sum = (ulong4)(0);
    uint c = 0;
    // Four products and a folded sum are below 2^64, see constraints/emit.rs.
    for (; c + 4 <= columns; c += 4) {
        ulong value0 = COLUMN(list[c])[i];
        ulong value1 = COLUMN(list[c + 1])[i];
        ulong value2 = COLUMN(list[c + 2])[i];
        ulong value3 = COLUMN(list[c + 3])[i];
        sum += convert_ulong4(factor[c]) * value0;
        sum += convert_ulong4(factor[c + 1]) * value1;
        sum += convert_ulong4(factor[c + 2]) * value2;
        sum += convert_ulong4(factor[c + 3]) * value3;
        sum = (sum & (ulong)P) + (sum >> 31);
    }
    for (; c < columns; c++) {
        sum += convert_ulong4(factor[c]) * (ulong)COLUMN(list[c])[i];
        sum = (sum & (ulong)P) + (sum >> 31);
    }
    qm31 total = (qm31)(m31_reduce(sum.x), m31_reduce(sum.y), m31_reduce(sum.z), m31_reduce(sum.w));
    total = qm31_sub(total, (qm31)(b0, b1, b2, b3));
    COLUMN(COLUMN(out)[0])[i] = total.x;
    COLUMN(COLUMN(out)[1])[i] = total.y;
    COLUMN(COLUMN(out)[2])[i] = total.z;
    COLUMN(COLUMN(out)[3])[i] = total.w;
}

// Row i: sum over the sample points of (numerator - a y) / line. Per point `table` has 17 words: four columns, their
// doublings to full length, a, and the point's re x, im x, re y, im y of two words each.
__kernel void quotients(SLABS, uint table, uint points, uint domain, uint out, uint log_n)
{
    uint i = get_global_id(0);
    if (i >= 1u << log_n) {
        return;
    }
    uint2 point = domain_point(COLUMN(domain), i, log_n);
    qm31 sum = (qm31)(0);
    for (uint k = 0; k < points; k++) {
        __global const uint *entry = COLUMN(table) + 17 * k;
        uint row = lifted(i, entry[4]);
        qm31 numerator = (qm31)(COLUMN(entry[0])[row], COLUMN(entry[1])[row], COLUMN(entry[2])[row], COLUMN(entry[3])[row]);
        qm31 slope = (qm31)(entry[5], entry[6], entry[7], entry[8]);
        numerator = qm31_sub(numerator, qm31_mul_m31(slope, point.y));
        uint2 re_x = (uint2)(m31_sub(entry[9], point.x), entry[10]);
        uint2 im_x = (uint2)(entry[11], entry[12]);
        uint2 re_y = (uint2)(m31_sub(entry[13], point.y), entry[14]);
        uint2 im_y = (uint2)(entry[15], entry[16]);
        uint2 line = cm31_sub(cm31_mul(re_x, im_y), cm31_mul(re_y, im_x));
        sum = qm31_add(sum, qm31_mul_cm31(numerator, cm31_inverse(line)));
    }
    COLUMN(COLUMN(out)[0])[i] = sum.x;
    COLUMN(COLUMN(out)[1])[i] = sum.y;
    COLUMN(COLUMN(out)[2])[i] = sum.z;
    COLUMN(COLUMN(out)[3])[i] = sum.w;
}
