//! Orders and quantiles of what was measured.

/// Values in ascending order.
#[derive(Debug)]
pub(crate) struct Sorted(Vec<f64>);

impl Sorted {
    /// # Panics
    /// If there is no value, or one is not a number.
    pub(crate) fn new(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "nothing was measured");
        values.sort_by(|a, b| a.partial_cmp(b).expect("what is measured is a number"));
        Self(values)
    }

    /// The value below which `share` (0 to 1) of all lie.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list, from 0 to its length")]
        let place = (share * self.0.len() as f64) as usize;
        self.0[place.min(self.0.len() - 1)]
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(crate) fn least(&self) -> f64 {
        self.quantile(0.0)
    }

    pub(crate) fn most(&self) -> f64 {
        self.quantile(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Sorted;

    #[test]
    fn quantiles() {
        let sorted = Sorted::new((0..100).rev().map(f64::from).collect());
        let got = [sorted.least(), sorted.median(), sorted.quantile(0.99), sorted.most()];
        assert_eq!(got, [0.0, 50.0, 99.0, 99.0]);
    }
}
