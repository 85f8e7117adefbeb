//! Quantiles of samples.

/// Numbers of one kind, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest sample that at least `permille` thousandths of all do not exceed; 0 without samples.
    pub(super) fn quantile(&self, permille: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * permille).div_ceil(1000).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }

    pub(super) fn p50(&self) -> f64 {
        self.quantile(500)
    }

    pub(super) fn p99(&self) -> f64 {
        self.quantile(990)
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples_by_nearest_rank() {
        let samples: Samples = (1..=200).rev().map(f64::from).collect();
        assert_eq!((samples.p50(), samples.p99(), samples.quantile(1000)), (100.0, 198.0, 200.0));
        let one: Samples = [7.0].into_iter().collect();
        assert_eq!((one.p50(), one.p99(), one.len()), (7.0, 7.0, 1));
        assert_eq!(Samples::default().p99(), 0.0);
    }
}
