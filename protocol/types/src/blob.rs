//! Blobs addressed by BLAKE3, and their cut into chunks that are verified one by one.
//!
//! A chunk is a whole subtree of BLAKE3's own tree, so the list of the subtrees' chaining values is checked against the blob's
//! hash by merging it upwards, and each chunk against its chaining value alone: any peer may deliver any chunk.
//! Follows the tree structure of the BLAKE3 paper, section 2.1 (left subtrees are full powers of two).

use bincode::{Decode, Encode};
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::error::TypeError;
use crate::ids::BlobHash;
use crate::limits::{BLOB_BYTES_MAX, BLOB_CHUNK_BYTES};

/// Hash of a blob's bytes.
pub fn blob_hash(bytes: &[u8]) -> BlobHash {
    BlobHash::new(*blake3::hash(bytes).as_bytes())
}

/// Length and chunk chaining values of a blob.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct BlobManifest {
    /// Length in bytes.
    pub bytes: u64,
    /// Chaining value of each chunk of [`BLOB_CHUNK_BYTES`]; empty for a blob of one chunk, whose hash says it all.
    pub chunks: Vec<[u8; 32]>,
}

impl BlobManifest {
    /// The manifest of bytes at hand.
    pub fn of(bytes: &[u8]) -> Self {
        let length = bytes.len() as u64;
        let chunk = BLOB_CHUNK_BYTES as usize;
        if bytes.len() <= chunk {
            return Self { bytes: length, chunks: vec![] };
        }
        let chunks = bytes.chunks(chunk).zip(0u64..).map(|(part, i)| chunk_value(part, i)).collect();
        Self { bytes: length, chunks }
    }

    /// Number of chunks to fetch.
    pub fn n_chunks(&self) -> u32 {
        u32::try_from(self.bytes.div_ceil(BLOB_CHUNK_BYTES).max(1)).unwrap_or(u32::MAX)
    }

    /// Length of chunk `index`, bytes; `None` past the end.
    pub fn chunk_bytes(&self, index: u32) -> Option<u64> {
        let start = u64::from(index).checked_mul(BLOB_CHUNK_BYTES)?;
        (index < self.n_chunks()).then(|| self.bytes.saturating_sub(start).min(BLOB_CHUNK_BYTES))
    }

    /// Whether this is the manifest of the blob with hash `hash`.
    ///
    /// # Errors
    /// [`TypeError::OutOfBounds`] for a wrong length, number of chunks, or chaining values that don't merge to the hash.
    pub fn verify(&self, hash: &BlobHash) -> Result<(), TypeError> {
        let bad = |value: String, limit: &str| {
            Err(TypeError::OutOfBounds { field: "blob manifest", value, limit: limit.into() })
        };
        if self.bytes > BLOB_BYTES_MAX {
            return bad(format!("{} bytes", self.bytes), "at most 33554432 bytes");
        }
        let expected = if self.bytes <= BLOB_CHUNK_BYTES { 0 } else { self.n_chunks() as usize };
        if self.chunks.len() != expected {
            return bad(format!("{} chunks", self.chunks.len()), "one a chunk, none for a single chunk");
        }
        if let Some((left, right)) = split(&self.chunks) {
            let root = merge_subtrees_root(&merge(left), &merge(right), Mode::Hash);
            if root.as_bytes() != hash.as_bytes() {
                return bad("chaining values of another blob".into(), "chaining values that merge to the hash");
            }
        }
        Ok(())
    }

    /// Whether `part` is chunk `index` of the blob with hash `hash`; the manifest must have been verified.
    pub fn verify_chunk(&self, hash: &BlobHash, index: u32, part: &[u8]) -> bool {
        if self.chunk_bytes(index) != Some(part.len() as u64) {
            return false;
        }
        match self.chunks.get(index as usize) {
            Some(expected) => chunk_value(part, u64::from(index)) == *expected,
            None => self.chunks.is_empty() && blob_hash(part) == *hash,
        }
    }
}

/// Hash and manifest of a blob that passes by chunk by chunk.
#[derive(Clone, Debug, Default)]
pub struct ManifestBuilder {
    bytes: u64,
    chunks: Vec<ChainingValue>,
    /// Hash of the first chunk alone, in case no other follows.
    first: Option<BlobHash>,
}

impl ManifestBuilder {
    /// Takes the next chunk: [`BLOB_CHUNK_BYTES`] long, except that the last may be shorter.
    ///
    /// # Errors
    /// [`TypeError::OutOfBounds`] for a chunk after a short one, a longer chunk, and more than [`BLOB_BYTES_MAX`] in all.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), TypeError> {
        let bad = |field, value: u64, limit: &str| {
            Err(TypeError::OutOfBounds { field, value: value.to_string(), limit: limit.into() })
        };
        let length = chunk.len() as u64;
        if length == 0 {
            return Ok(());
        }
        if length > BLOB_CHUNK_BYTES || !self.bytes.is_multiple_of(BLOB_CHUNK_BYTES) {
            return bad("blob chunk (bytes)", length, "262144, only the last one shorter");
        }
        let bytes = self.bytes.saturating_add(length);
        if bytes > BLOB_BYTES_MAX {
            return bad("blob (bytes)", bytes, "at most 33554432");
        }
        self.first.get_or_insert_with(|| blob_hash(chunk));
        self.chunks.push(chunk_value(chunk, self.chunks.len() as u64));
        self.bytes = bytes;
        Ok(())
    }

    /// Hash and manifest of everything taken.
    pub fn finish(self) -> (BlobHash, BlobManifest) {
        match split(&self.chunks) {
            None => (self.first.unwrap_or_else(|| blob_hash(&[])), BlobManifest { bytes: self.bytes, chunks: vec![] }),
            Some((left, right)) => {
                let root = merge_subtrees_root(&merge(left), &merge(right), Mode::Hash);
                (BlobHash::new(*root.as_bytes()), BlobManifest { bytes: self.bytes, chunks: self.chunks })
            }
        }
    }
}

/// Non-root chaining value of chunk `index`.
fn chunk_value(part: &[u8], index: u64) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(index.saturating_mul(BLOB_CHUNK_BYTES));
    hasher.update(part);
    hasher.finalize_non_root()
}

/// Two neighbouring runs of chaining values.
type Halves<'a> = (&'a [ChainingValue], &'a [ChainingValue]);

/// Splits at the largest power of two below the length; `None` below two values.
fn split(values: &[ChainingValue]) -> Option<Halves<'_>> {
    (values.len() >= 2).then(|| values.split_at(values.len().div_ceil(2).next_power_of_two()))
}

fn merge(values: &[[u8; 32]]) -> ChainingValue {
    match (split(values), values.first()) {
        (Some((left, right)), _) => merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash),
        (None, Some(one)) => *one,
        (None, None) => [0; 32],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_verify_one_by_one_against_the_blob_hash() {
        let chunk = BLOB_CHUNK_BYTES as usize;
        for length in [0, 1, 1000, chunk, chunk + 1, 2 * chunk, 3 * chunk - 7, 5 * chunk, 7 * chunk + 9] {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
            let hash = blob_hash(&bytes);
            let manifest = BlobManifest::of(&bytes);
            manifest.verify(&hash).unwrap();
            let mut builder = ManifestBuilder::default();
            bytes.chunks(chunk).for_each(|part| builder.push(part).unwrap());
            assert!(length == 0 || length % chunk == 0 || builder.push(&[1]).is_err());
            assert_eq!(builder.finish(), (hash, manifest.clone()));
            for index in 0..manifest.n_chunks() {
                let from = index as usize * chunk;
                let mut part = bytes[from..(from + chunk).min(length)].to_vec();
                assert!(manifest.verify_chunk(&hash, index, &part), "{length} {index}");
                assert!(!manifest.verify_chunk(&hash, index + 1, &part) || part.is_empty());
                if let Some(first) = part.first_mut() {
                    *first ^= 1;
                    assert!(!manifest.verify_chunk(&hash, index, &part));
                }
            }
        }
    }

    #[test]
    fn a_false_manifest_is_refused() {
        let bytes = vec![5u8; 4 * BLOB_CHUNK_BYTES as usize];
        let hash = blob_hash(&bytes);
        let good = BlobManifest::of(&bytes);
        let mut swapped = good.clone();
        swapped.chunks[0][0] ^= 1;
        assert!(swapped.verify(&hash).is_err());
        let mut short = good.clone();
        short.chunks.pop();
        assert!(short.verify(&hash).is_err());
        let mut long = good;
        long.bytes = BLOB_BYTES_MAX + 1;
        assert!(long.verify(&hash).is_err());
    }
}
