// Arithmetic modulo P = 2^31 - 1 and in its extensions. Arguments are in [0, P], both forms of zero allowed; results of
// m31_mul and m31_reduce are below P, those of m31_add and m31_sub too if one argument is. Columns hold values below P.

#define P 0x7fffffffu
#define P_SQUARED 0x3fffffff00000001ul

typedef uint4 qm31; // (a + b i) + (c + d i) u with i^2 = -1, u^2 = 2 + i

INLINE uint m31_add(uint a, uint b)
{
    uint sum = a + b;
    return min(sum, sum - P);
}

INLINE uint m31_sub(uint a, uint b)
{
    uint difference = a - b;
    return min(difference, difference + P);
}

// Any value below 2^63.
INLINE uint m31_reduce(ulong value)
{
    value = (value & P) + (value >> 31);
    uint folded = (uint)(value & P) + (uint)(value >> 31);
    return min(folded, folded - P);
}

INLINE uint m31_mul(uint a, uint b)
{
    ulong product = (ulong)a * b;
    uint folded = ((uint)product & P) + (uint)(product >> 31);
    return min(folded, folded - P);
}

// a times b, given twice b (b at most P): the upper word of the product is the upper part of a b.
INLINE uint m31_mul_twice(uint a, uint twice)
{
    ulong product = (ulong)a * twice;
    uint folded = (uint)(product >> 32) + ((uint)product >> 1);
    return min(folded, folded - P);
}

INLINE uint m31_square_times(uint a, uint count)
{
    for (uint k = 0; k < count; k++) {
        a = m31_mul(a, a);
    }
    return a;
}

// a^(P - 2); zero for zero.
INLINE uint m31_inverse(uint a)
{
    uint b = m31_mul(m31_square_times(a, 2), a);                // 2^2 + 1
    uint c = m31_mul(m31_mul(b, b), b);                         // 2^4 - 1
    uint d = m31_mul(m31_square_times(c, 4), c);                // 2^8 - 1
    uint e = m31_square_times(d, 8);                            // 2^16 - 2^8
    uint f = m31_mul(e, d);                                     // 2^16 - 1
    uint g = m31_mul(m31_square_times(f, 8), d);                // 2^24 - 1
    uint h = m31_mul(m31_square_times(g, 4), c);                // 2^28 - 1
    uint low = m31_mul(m31_mul(a, a), a);                       // a^3
    // P - 2 = 2^31 - 3 = (2^28 - 1) * 8 + 5
    return m31_mul(m31_square_times(h, 3), m31_mul(low, m31_mul(a, a)));
}

INLINE uint2 cm31_mul(uint2 a, uint2 b)
{
    ulong re = (ulong)a.x * b.x + (P_SQUARED - (ulong)a.y * b.y);
    ulong im = (ulong)a.x * b.y + (ulong)a.y * b.x;
    return (uint2)(m31_reduce(re), m31_reduce(im));
}

INLINE uint2 cm31_sub(uint2 a, uint2 b)
{
    return (uint2)(m31_sub(a.x, b.x), m31_sub(a.y, b.y));
}

INLINE uint2 cm31_inverse(uint2 a)
{
    uint norm = m31_inverse(m31_reduce((ulong)a.x * a.x + (ulong)a.y * a.y));
    return (uint2)(m31_mul(a.x, norm), m31_mul(m31_sub(0, a.y), norm));
}

INLINE qm31 qm31_add(qm31 a, qm31 b)
{
    qm31 sum = a + b;
    return min(sum, sum - P);
}

INLINE qm31 qm31_sub(qm31 a, qm31 b)
{
    qm31 difference = a - b;
    return min(difference, difference + P);
}

INLINE qm31 qm31_mul_m31(qm31 a, uint b)
{
    return (qm31)(m31_mul(a.x, b), m31_mul(a.y, b), m31_mul(a.z, b), m31_mul(a.w, b));
}

INLINE qm31 qm31_mul_cm31(qm31 a, uint2 b)
{
    return (qm31)(cm31_mul(a.xy, b), cm31_mul(a.zw, b));
}

INLINE qm31 qm31_mul(qm31 a, qm31 b)
{
    uint2 low = cm31_mul(a.xy, b.xy);
    uint2 high = cm31_mul(a.zw, b.zw);
    // Two products each: below 2^63 before the negative ones are completed.
    ulong re = (ulong)a.x * b.z + (P_SQUARED - (ulong)a.y * b.w);
    ulong im = (ulong)a.x * b.w + (ulong)a.y * b.z;
    re = (re & P) + (re >> 31);
    im = (im & P) + (im >> 31);
    re += (ulong)a.z * b.x + (P_SQUARED - (ulong)a.w * b.y);
    im += (ulong)a.z * b.y + (ulong)a.w * b.x;
    // (2 + i) * high
    uint re_high = m31_sub(m31_add(high.x, high.x), high.y);
    uint im_high = m31_add(m31_add(high.y, high.y), high.x);
    return (qm31)(m31_add(low.x, re_high), m31_add(low.y, im_high), m31_reduce(re), m31_reduce(im));
}

INLINE qm31 qm31_inverse(qm31 a)
{
    // (a0 + a1 u)^-1 = (a0 - a1 u) / (a0^2 - (2 + i) a1^2)
    uint2 low = cm31_mul(a.xy, a.xy);
    uint2 high = cm31_mul(a.zw, a.zw);
    uint2 twisted = (uint2)(m31_sub(m31_add(high.x, high.x), high.y), m31_add(m31_add(high.y, high.y), high.x));
    uint2 inverse = cm31_inverse(cm31_sub(low, twisted));
    uint2 negative = (uint2)(m31_sub(0, a.z), m31_sub(0, a.w));
    return (qm31)(cm31_mul(a.xy, inverse), cm31_mul(negative, inverse));
}

INLINE uint2 point_add(uint2 a, uint2 b)
{
    return cm31_mul(a, b);
}

// Point number `row` of a circle domain of 2^log_n points in bit-reversed order. `table` holds (x, y) of the first
// point of the half coset, then of its step times 2^(log_n - 2 - k) for bit k of the row's upper part.
INLINE uint2 domain_point(__global const uint *table, uint row, uint log_n)
{
    uint2 point = (uint2)(table[0], table[1]);
    uint upper = row >> 1;
    for (uint k = 0; k + 1 < log_n; k++) {
        uint2 step = (uint2)(table[2 + 2 * k], table[3 + 2 * k]);
        uint2 moved = point_add(point, step);
        point = (upper >> k) & 1 ? moved : point;
    }
    return row & 1 ? (uint2)(point.x, m31_sub(0, point.y)) : point;
}
