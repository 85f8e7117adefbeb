//! The ledger as a whole: lives of jobs, blocks that are valid and blocks that are not, and properties over random
//! histories.

mod blocks;
mod jobs;
mod properties;
mod rejected;
mod sets;
