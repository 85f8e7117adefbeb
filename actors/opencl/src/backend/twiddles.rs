//! Twiddles in device memory. A subdomain's twiddles are a view: each of its layers is the beginning of the domain's.

use std::sync::Arc;

use stwo::core::circle::Coset;
use stwo::core::fields::m31::BaseField;
use stwo::prover::poly::BitReversedOrder;
use stwo::prover::poly::twiddles::{TwiddleBuffer, TwiddleTree};

use super::{OclBackend, OclColumn, Table};
use crate::device::{Launch, runtime};
use crate::error::{Error, raise};
use crate::field::tower_table;

/// The layers of a coset tower, largest first, or a view for a subdomain.
#[derive(Debug, Clone, Default)]
pub struct OclTwiddles {
    column: Option<Arc<OclColumn<BaseField>>>,
    /// Doublings between the domain whose layers these are and the one they are used for.
    shift: u32,
}

/// Arguments by which kernels find a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TwiddleArgs {
    pub(crate) address: u32,
    /// Words of the whole buffer.
    pub(crate) len: u32,
    /// Logarithm of the domain size plus the view's shift: layer i >= 1 begins at len - 2^(log - i).
    pub(crate) log: u32,
}

impl OclTwiddles {
    pub(crate) fn new(column: OclColumn<BaseField>) -> Self {
        Self { column: Some(Arc::new(column)), shift: 0 }
    }

    /// How kernels find the layers of a circle domain of 2^`log_size` points; [`raise`]s if they are not there.
    pub(crate) fn args(&self, log_size: u32) -> TwiddleArgs {
        let missing = |have: String| -> ! {
            raise(Error::Input { field: "twiddles", value: format!("a domain of 2^{log_size}"), limit: have })
        };
        let Some(column) = &self.column else { missing("empty".to_owned()) };
        let log = log_size + self.shift;
        let have = column.log_len();
        if log > have + 1 {
            missing(format!("2^{} at most", have + 1 - self.shift));
        }
        TwiddleArgs { address: column.address(), len: column.count() as u32, log }
    }

    /// The buffer in host memory, for tests and for work on the host.
    #[must_use]
    pub fn to_cpu(&self) -> Vec<BaseField> {
        self.column.as_ref().map(|column| column.read_range(0, column.count())).unwrap_or_default()
    }
}

impl TwiddleBuffer<BitReversedOrder> for OclTwiddles {
    fn empty() -> Self {
        Self::default()
    }

    fn extract_subdomain_twiddles(&self, domain_log_size: u32, subdomain_log_size: u32) -> Self {
        // Asks for the domain's layers, so that what is missing is named here.
        self.args(domain_log_size);
        let Some(shift) = domain_log_size.checked_sub(subdomain_log_size) else {
            raise(Error::Input {
                field: "subdomain",
                value: format!("2^{subdomain_log_size}"),
                limit: format!("2^{domain_log_size} at most"),
            })
        };
        Self { column: self.column.clone(), shift: self.shift + shift }
    }
}

/// Computes the twiddles of a coset and their inverses.
pub(super) fn precompute(coset: Coset) -> TwiddleTree<OclBackend> {
    let len = 1_usize << coset.log_size;
    let forward = OclColumn::<BaseField>::undefined(len);
    let inverse = OclColumn::<BaseField>::undefined(len);
    let points = Table::new(tower_table(coset));
    let args = [points.address(), forward.address(), inverse.address(), coset.log_size];
    runtime().launch(&Launch { kernel: "twiddles", items: len, rows: 1, args: &args });
    TwiddleTree { root_coset: coset, twiddles: OclTwiddles::new(forward), itwiddles: OclTwiddles::new(inverse) }
}
