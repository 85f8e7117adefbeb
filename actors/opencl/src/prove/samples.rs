//! Values of all committed columns at their sample points: columns of one size with one point share the weights.

use std::collections::HashMap;

use stwo::core::circle::CirclePoint;
use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SecureField;
use stwo::core::pcs::TreeVec;
use stwo::core::pcs::quotients::PointSample;

use super::Scheme;
use crate::backend::{OclColumn, SampleJob, Weights, sample};

/// Where a sampled value belongs: tree, column, number of the point.
type Place = (usize, usize, usize);

/// The samples in the shape of `points`. Columns whose coefficients were kept are sampled through them, the others
/// through their values; both give the same.
pub(super) fn sample_columns(
    scheme: &Scheme<'_>,
    points: &TreeVec<Vec<Vec<CirclePoint<SecureField>>>>,
    lifting_log_size: u32,
) -> TreeVec<Vec<Vec<PointSample>>> {
    let mut jobs: Vec<SampleJob<'_>> = Vec::new();
    let mut places: Vec<Vec<Place>> = Vec::new();
    let mut known: HashMap<(Weights, u32, CirclePoint<SecureField>), usize> = HashMap::new();
    for (tree_index, (tree, tree_points)) in scheme.trees.iter().zip(points.iter()).enumerate() {
        for (column_index, (poly, column_points)) in tree.polynomials.iter().zip(tree_points).enumerate() {
            let log_size = poly.evals.domain.log_size();
            let (weights, column): (Weights, &OclColumn<BaseField>) = match &poly.coeffs {
                Some(coefficients) => (Weights::Basis, &coefficients.coeffs),
                None => (Weights::Barycentric, &poly.evals.values),
            };
            for (point_index, point) in column_points.iter().enumerate() {
                let folded = point.repeated_double(lifting_log_size - log_size);
                let job = *known.entry((weights, column.log_len(), folded)).or_insert_with(|| {
                    jobs.push(SampleJob { columns: Vec::new(), point: folded, weights });
                    places.push(Vec::new());
                    jobs.len() - 1
                });
                jobs[job].columns.push(column);
                places[job].push((tree_index, column_index, point_index));
            }
        }
    }
    let mut samples: Vec<Vec<Vec<PointSample>>> = points
        .iter()
        .map(|tree| {
            let empty = |point: &CirclePoint<SecureField>| PointSample { point: *point, value: SecureField::default() };
            tree.iter().map(|column| column.iter().map(empty).collect()).collect()
        })
        .collect();
    for (values, places) in sample(&jobs).into_iter().zip(places) {
        for (value, (tree, column, point)) in values.into_iter().zip(places) {
            samples[tree][column][point].value = value;
        }
    }
    TreeVec(samples)
}
