// @K@ folds of a line at once, in registers: alpha is squared from one to the next. The layers of the inverses follow each
// other; the first one used begins 2^log_line words before their end, `inverses_len`.
__kernel void fold_lines_@K@(SLABS, uint x0, uint x1, uint x2, uint x3, uint y0, uint y1, uint y2, uint y3,
                             uint inverses, uint inverses_len, uint log_line, uint a0, uint a1, uint a2, uint a3, uint n)
{
    uint i = get_global_id(0);
    if (i >= n) {
        return;
    }
    qm31 v[1 << @K@];
#pragma unroll
    for (uint m = 0; m < 1u << @K@; m++) {
        uint k = (i << @K@) + m;
        v[m] = (qm31)(COLUMN(x0)[k], COLUMN(x1)[k], COLUMN(x2)[k], COLUMN(x3)[k]);
    }
    qm31 alpha = (qm31)(a0, a1, a2, a3);
#pragma unroll
    for (uint d = 0; d < @K@; d++) {
        __global const uint *layer = COLUMN(inverses) + (inverses_len - (1u << (log_line - d)));
#pragma unroll
        for (uint q = 0; q < 1u << (@K@ - 1 - d); q++) {
            uint t = layer[(i << (@K@ - 1 - d)) + q];
            qm31 odd = qm31_mul_m31(qm31_sub(v[2 * q], v[2 * q + 1]), t);
            v[q] = qm31_add(qm31_add(v[2 * q], v[2 * q + 1]), qm31_mul(odd, alpha));
        }
        alpha = qm31_mul(alpha, alpha);
    }
    COLUMN(y0)[i] = v[0].x;
    COLUMN(y1)[i] = v[0].y;
    COLUMN(y2)[i] = v[0].z;
    COLUMN(y3)[i] = v[0].w;
}
