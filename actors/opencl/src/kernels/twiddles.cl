// Twiddles of a coset tower: layer k has 2^(log_n - 1 - k) x-coordinates of the k times doubled coset, in bit-reversed
// order; the layers follow each other, and a 1 fills the last place.

// `points` holds (x, y) of: the k times doubled first point for k = 0.., then the k times doubled step for k = 0..
__kernel void twiddles(SLABS, uint points, uint forward, uint inverse, uint log_n)
{
    uint i = get_global_id(0);
    uint n = 1u << log_n;
    if (i >= n) {
        return;
    }
    uint rest = n - i; // layer k occupies rest in (2^(log_n - 1 - k), 2^(log_n - k)]
    uint x = 1;
    if (rest > 1) {
        uint bits = 32 - clz(rest - 1);
        uint layer = log_n - bits;
        uint index = (1u << bits) - rest;
        __global const uint *table = COLUMN(points);
        uint2 point = (uint2)(table[2 * layer], table[2 * layer + 1]);
        // Place `index` of 2^(bits - 1) holds the point whose number is its reversal.
        for (uint k = 0; k + 1 < bits; k++) {
            uint at = 2 * (log_n + layer + (bits - 2 - k));
            uint2 moved = point_add(point, (uint2)(table[at], table[at + 1]));
            point = (index >> k) & 1 ? moved : point;
        }
        x = point.x;
    }
    COLUMN(forward)[i] = x;
    COLUMN(inverse)[i] = m31_inverse(x);
}
