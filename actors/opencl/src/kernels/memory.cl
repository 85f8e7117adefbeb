// Addresses. Device memory is up to four slabs; a block's address holds the slab in the upper two bits and its first
// granule of 16 words in the lower thirty. Every kernel takes the slabs first, then scalars only.

// Functions that take an item's values by pointer must become part of the kernel: what a call is handed a pointer to lies in
// memory, and LLVM's compilers for GPUs do call functions of this size.
#define INLINE static inline __attribute__((always_inline))

#define SLABS __global uint *s0, __global uint *s1, __global uint *s2, __global uint *s3
#define COLUMN(address) column_at(s0, s1, s2, s3, address)
#define QUAD(address) ((__global uint4 *)column_at(s0, s1, s2, s3, address))

INLINE __global uint *column_at(SLABS, uint address)
{
    uint slab = address >> 30;
    __global uint *base = slab == 0 ? s0 : slab == 1 ? s1 : slab == 2 ? s2 : s3;
    return base + ((ulong)(address & 0x3fffffffu) << 4);
}

// Reverses the lower `bits` bits of `value`; `bits` is at least 1.
INLINE uint reverse_bits(uint value, uint bits)
{
    value = ((value >> 1) & 0x55555555u) | ((value & 0x55555555u) << 1);
    value = ((value >> 2) & 0x33333333u) | ((value & 0x33333333u) << 2);
    value = ((value >> 4) & 0x0f0f0f0fu) | ((value & 0x0f0f0f0fu) << 4);
    value = ((value >> 8) & 0x00ff00ffu) | ((value & 0x00ff00ffu) << 8);
    value = (value >> 16) | (value << 16);
    return value >> (32 - bits);
}

// Row of a column shorter by `ratio` doublings that stands for row `row` of the long one.
INLINE uint lifted(uint row, uint ratio)
{
    return ((row >> (ratio + 1)) << 1) + (row & 1);
}
