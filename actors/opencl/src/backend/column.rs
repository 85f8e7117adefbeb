//! Columns in device memory, tables of their addresses, and reading many single values in one transfer.

use std::marker::PhantomData;
use std::sync::Arc;

use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SecureField;
use stwo::core::vcs::blake2_hash::Blake2sHash;
use stwo::prover::backend::{Column, ColumnOps};

use super::OclBackend;
use crate::device::{Block, Launch, runtime};
use crate::error::{Error, raise};
use crate::field::{Word, from_words, to_words};

/// Words of columns that share a block, unless a single column is longer: a block must fit what a slab has free.
const UPLOAD_WORDS: usize = 16 << 20;

/// Columns are cut only at multiples of this many words, so that every column begins where kernels can address it.
const CUT_WORDS: usize = 16;

/// A column of `len` elements in device memory. Cloning copies it on the device.
#[derive(Debug)]
pub struct OclColumn<T: Word> {
    /// The block may be shared with the other half of a split column; their words do not overlap.
    block: Arc<Block>,
    /// First word in the block.
    offset: usize,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Word> OclColumn<T> {
    /// A column whose content is undefined until a kernel has written it.
    pub(crate) fn undefined(len: usize) -> Self {
        let block = runtime().take(len * T::WIDTH);
        Self { block: Arc::new(block), offset: 0, len, element: PhantomData }
    }

    /// A column with these values.
    #[must_use]
    pub fn from_cpu(values: &[T]) -> Self {
        Self::from_raw(to_words(values), values.len())
    }

    fn from_raw(words: Vec<u32>, len: usize) -> Self {
        let column = Self::undefined(len);
        runtime().write(&column.block, 0, words);
        column
    }

    /// What kernels call this column.
    pub(crate) fn address(&self) -> u32 {
        self.block.address(self.offset)
    }

    /// The elements from `start` on, in one transfer.
    pub(crate) fn read_range(&self, start: usize, len: usize) -> Vec<T> {
        if start + len > self.len {
            raise(Error::Input {
                field: "column range",
                value: format!("{start} + {len}"),
                limit: format!("{}", self.len),
            });
        }
        from_words(&runtime().read(&self.block, self.offset + start * T::WIDTH, len * T::WIDTH))
    }

    /// The block and the first word in it.
    pub(super) fn place(&self) -> (&Block, usize) {
        (&self.block, self.offset)
    }

    /// Number of elements.
    pub(crate) fn count(&self) -> usize {
        self.len
    }

    /// Binary logarithm of the number of elements; [`raise`]s if it is not a power of two.
    pub(crate) fn log_len(&self) -> u32 {
        if !self.len.is_power_of_two() {
            raise(Error::Input {
                field: "column length",
                value: self.len.to_string(),
                limit: "a power of two".to_owned(),
            });
        }
        self.len.ilog2()
    }
}

impl<T: Word> Clone for OclColumn<T> {
    fn clone(&self) -> Self {
        let copy = Self::undefined(self.len);
        runtime().copy((&self.block, self.offset), (&copy.block, 0), self.len * T::WIDTH);
        copy
    }
}

impl<T: Word> FromIterator<T> for OclColumn<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self::from_cpu(&values.into_iter().collect::<Vec<T>>())
    }
}

impl<T: Word> Column<T> for OclColumn<T> {
    fn zeros(len: usize) -> Self {
        let column = Self::undefined(len);
        runtime().zero(&column.block, 0, len * T::WIDTH);
        column
    }

    #[allow(unsafe_code, reason = "the trait declares it so")]
    unsafe fn uninitialized(len: usize) -> Self {
        Self::undefined(len)
    }

    fn to_cpu(&self) -> Vec<T> {
        self.read_range(0, self.len)
    }

    fn len(&self) -> usize {
        self.len
    }

    fn at(&self, index: usize) -> T {
        runtime().element_read(self.len);
        let values = self.read_range(index, 1);
        values[0]
    }

    fn set(&mut self, index: usize, value: T) {
        if index >= self.len {
            raise(Error::Input {
                field: "column index",
                value: index.to_string(),
                limit: format!("below {}", self.len),
            });
        }
        runtime().element_read(self.len);
        runtime().write(&self.block, self.offset + index * T::WIDTH, to_words(&[value]));
    }

    fn split_at_mid(self) -> (Self, Self) {
        let half = self.len / 2;
        let rest = self.len - half;
        let cut = self.offset + half * T::WIDTH;
        let second = if cut.is_multiple_of(CUT_WORDS) {
            Self { block: Arc::clone(&self.block), offset: cut, len: rest, element: PhantomData }
        } else {
            let copy = Self::undefined(rest);
            runtime().copy((&self.block, cut), (&copy.block, 0), rest * T::WIDTH);
            copy
        };
        (Self { len: half, ..self }, second)
    }
}

/// Copies columns to the device, packed into as few transfers as their sizes allow: one per 64 MiB.
pub(crate) fn upload(columns: &[&[BaseField]]) -> Vec<OclColumn<BaseField>> {
    let mut uploaded = Vec::with_capacity(columns.len());
    let room = |column: &[BaseField]| column.len().next_multiple_of(CUT_WORDS);
    let mut rest = columns;
    while !rest.is_empty() {
        let mut words_in_pack = 0;
        let count = rest
            .iter()
            .take_while(|column| {
                words_in_pack += room(column);
                words_in_pack <= UPLOAD_WORDS
            })
            .count()
            .max(1);
        let (pack, later) = rest.split_at(count);
        let mut words = 0;
        let mut parts = Vec::with_capacity(pack.len());
        for column in pack {
            parts.push((words, *column));
            words += room(column);
        }
        let block = Arc::new(runtime().take(words));
        runtime().write_columns(&block, words, &parts);
        uploaded.extend(parts.into_iter().map(|(offset, column)| OclColumn {
            block: Arc::clone(&block),
            offset,
            len: column.len(),
            element: PhantomData,
        }));
        rest = later;
    }
    uploaded
}

fn bit_reverse<T: Word>(column: &mut OclColumn<T>) {
    let log_n = column.log_len();
    let target = OclColumn::undefined(column.len);
    let args = [column.address(), target.address(), log_n, T::WIDTH as u32];
    runtime().launch(&Launch { kernel: "bit_reverse", items: column.len, rows: 1, args: &args });
    *column = target;
}

impl ColumnOps<BaseField> for OclBackend {
    type Column = OclColumn<BaseField>;

    fn bit_reverse_column(column: &mut Self::Column) {
        bit_reverse(column);
    }
}

impl ColumnOps<SecureField> for OclBackend {
    type Column = OclColumn<SecureField>;

    fn bit_reverse_column(column: &mut Self::Column) {
        bit_reverse(column);
    }
}

impl ColumnOps<Blake2sHash> for OclBackend {
    type Column = OclColumn<Blake2sHash>;

    fn bit_reverse_column(column: &mut Self::Column) {
        bit_reverse(column);
    }
}

/// Words that a kernel reads as a table: addresses, factors, points.
#[derive(Debug)]
pub(crate) struct Table(Block);

impl Table {
    /// Copies the words to the device.
    pub(crate) fn new(words: Vec<u32>) -> Self {
        let block = runtime().take(words.len());
        runtime().write(&block, 0, words);
        Self(block)
    }

    /// Copies several lists of words to the device in one transfer; their addresses in order.
    pub(crate) fn joined<const N: usize>(parts: [&[u32]; N]) -> (Self, [u32; N]) {
        let mut words = Vec::new();
        let starts = parts.map(|part| {
            // A kernel's list begins where kernels can address it.
            words.resize(words.len().next_multiple_of(CUT_WORDS), 0);
            let start = words.len();
            words.extend_from_slice(part);
            start
        });
        let table = Self::new(words);
        let addresses = starts.map(|start| table.0.address(start));
        (table, addresses)
    }

    /// Room for `words` words that a kernel writes.
    pub(crate) fn room(words: usize) -> Self {
        Self(runtime().take(words))
    }

    /// A table of zeros.
    pub(crate) fn zeros(words: usize) -> Self {
        let table = Self::room(words);
        runtime().zero(&table.0, 0, words);
        table
    }

    /// What kernels call it.
    pub(crate) fn address(&self) -> u32 {
        self.0.address(0)
    }

    /// Its first words, after everything started before.
    pub(crate) fn read(&self, len: usize) -> Vec<u32> {
        runtime().read(&self.0, 0, len)
    }
}

/// Reads single words of many columns in one transfer: pairs of column address and word number.
pub(crate) fn gather(places: &[(u32, u32)]) -> Vec<u32> {
    gather_all(places, &[]).0
}

/// Reads single words and whole hashes of many columns in one transfer: pairs of column address and number in the column.
pub(crate) fn gather_all(words: &[(u32, u32)], hashes: &[(u32, u32)]) -> (Vec<u32>, Vec<Blake2sHash>) {
    let list =
        |places: &[(u32, u32)]| -> Vec<u32> { places.iter().flat_map(|(address, index)| [*address, *index]).collect() };
    // Hashes are copied in quads of words.
    let first = words.len().next_multiple_of(4);
    let count = first + hashes.len() * Blake2sHash::WIDTH;
    if count == 0 {
        return (Vec::new(), Vec::new());
    }
    let out = Table::room(count);
    let (_places, [words_at, hashes_at]) = Table::joined([&list(words), &list(hashes)]);
    if !words.is_empty() {
        let args = [words_at, out.address(), words.len() as u32];
        runtime().launch(&Launch { kernel: "gather", items: words.len(), rows: 1, args: &args });
    }
    if !hashes.is_empty() {
        let args = [hashes_at, out.address(), (first / 4) as u32, hashes.len() as u32];
        runtime().launch(&Launch { kernel: "gather_hashes", items: 2 * hashes.len(), rows: 1, args: &args });
    }
    let mut found = out.read(count);
    let hashes = from_words(&found[first..]);
    found.truncate(words.len());
    (found, hashes)
}
