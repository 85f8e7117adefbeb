//! Sums of secure columns of equal or growing length.

use stwo::core::fields::qm31::SecureField;
use stwo::prover::AccumulationOps;
use stwo::prover::secure_column::SecureColumnByCoords;

use super::{OclBackend, OclColumn, Table};
use crate::device::{Launch, runtime};
use crate::error::{Error, raise};

/// Adds the shorter or equal column, lifted, to `target`.
fn lift_add(target: &SecureColumnByCoords<OclBackend>, source: &SecureColumnByCoords<OclBackend>) {
    let (long, short) = (target.columns[0].log_len(), source.columns[0].log_len());
    let Some(ratio) = long.checked_sub(short) else {
        raise(Error::Input {
            field: "accumulated column",
            value: format!("2^{short}"),
            limit: format!("2^{long} at most"),
        })
    };
    let pairs = target.columns.iter().zip(&source.columns);
    let table = Table::new(pairs.flat_map(|(target, source)| [target.address(), source.address()]).collect());
    let args = [table.address(), ratio, 1 << long];
    runtime().launch(&Launch { kernel: "lift_add", items: 1 << long, rows: target.columns.len(), args: &args });
}

impl AccumulationOps for OclBackend {
    fn accumulate(column: &mut SecureColumnByCoords<Self>, other: &SecureColumnByCoords<Self>) {
        lift_add(column, other);
    }

    fn generate_secure_powers(felt: SecureField, n_powers: usize) -> Vec<SecureField> {
        // The result is a host vector, and every constraint takes one: no device work is saved or skipped here.
        std::iter::successors(Some(SecureField::from(1)), |power| Some(*power * felt)).take(n_powers).collect()
    }

    fn lift_and_accumulate(cols: Vec<SecureColumnByCoords<Self>>) -> Option<SecureColumnByCoords<Self>> {
        let mut columns = cols.into_iter();
        let mut sum = columns.next()?;
        if sum.columns.iter().any(|column: &OclColumn<_>| column.count() < 2) {
            raise(Error::Input {
                field: "accumulated column",
                value: sum.len().to_string(),
                limit: "2 rows or more".to_owned(),
            });
        }
        for column in columns {
            lift_add(&column, &sum);
            sum = column;
        }
        Some(sum)
    }
}
