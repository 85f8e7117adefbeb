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
@FOLDS@    COLUMN(y0)[i] = v[0].x;
    COLUMN(y1)[i] = v[0].y;
    COLUMN(y2)[i] = v[0].z;
    COLUMN(y3)[i] = v[0].w;
}
