// Traces that are made on the device.

// Row i: 1, i, then the sum of the squares of the two values before. `table` lists the columns.
__kernel void wide_fibonacci(SLABS, uint table, uint columns, uint n)
{
    uint i = get_global_id(0);
    if (i >= n) {
        return;
    }
    uint a = 1;
    uint b = i;
    COLUMN(COLUMN(table)[0])[i] = a;
    COLUMN(COLUMN(table)[1])[i] = b;
    for (uint c = 2; c < columns; c++) {
        uint next = m31_reduce((ulong)a * a + (ulong)b * b);
        a = b;
        b = next;
        COLUMN(COLUMN(table)[c])[i] = next;
    }
}
