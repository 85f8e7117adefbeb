//! The field functions of the kernels, one by one: what the self-test and the tests compare with the host's.

use super::{Launch, runtime};

/// Words of a row that goes in: two elements of the secure field.
const IN_WORDS: usize = 8;
/// Words of a row that comes out: sum, difference, product, inverse of the first, product with a base element, and the
/// same of the first words as base elements.
const OUT_WORDS: usize = 24;

/// Results of the device's field functions for pairs of elements whose words are in [0, P].
#[must_use]
pub fn field_results(rows: &[[u32; IN_WORDS]]) -> Vec<[u32; OUT_WORDS]> {
    let runtime = runtime();
    let source = runtime.take(rows.len() * IN_WORDS);
    let target = runtime.take(rows.len() * OUT_WORDS);
    runtime.write(&source, 0, rows.concat());
    let args = [source.address(0), target.address(0), rows.len() as u32];
    runtime.launch(&Launch { kernel: "field_test", items: rows.len(), rows: 1, args: &args });
    let words = runtime.read(&target, 0, rows.len() * OUT_WORDS);
    words.as_chunks::<OUT_WORDS>().0.to_vec()
}
