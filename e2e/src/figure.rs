//! Figures that a scenario measured.

use std::fmt;
use std::time::Duration;

/// One measured number, with the bound it is meant to keep, if there is one. How fast a cluster is says more of its
/// machine than of us: such a bound is printed. Others fail the scenario.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
    bound: Option<f64>,
    binding: bool,
}

impl Figure {
    /// A number of something.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn count(name: &'static str, value: u64) -> Self {
        Self::number(name, value as f64, "")
    }

    /// A number with a unit.
    pub(crate) fn number(name: &'static str, value: f64, unit: &'static str) -> Self {
        Self {
            name,
            value,
            unit,
            bound: None,
            binding: false,
        }
    }

    /// A time, shown in seconds.
    pub(crate) fn seconds(name: &'static str, value: Duration) -> Self {
        Self::number(name, value.as_secs_f64(), "s")
    }

    /// Memory, shown in MiB.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn mebibytes(name: &'static str, bytes: u64) -> Self {
        Self::number(name, bytes as f64 / f64::from(1 << 20), "MiB")
    }

    /// The same, in a unit.
    pub(crate) fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    /// The same, meant to be at most `bound`.
    pub(crate) fn at_most(mut self, bound: f64) -> Self {
        self.bound = Some(bound);
        self
    }

    /// The same; above `bound` the scenario has failed.
    pub(crate) fn never_above(mut self, bound: f64) -> Self {
        self.binding = true;
        self.at_most(bound)
    }

    /// Whether it fails the scenario.
    pub(crate) fn is_broken(&self) -> bool {
        self.binding && self.bound.is_some_and(|bound| self.value > bound)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = usize::from(self.value.fract() != 0.0);
        write!(f, "{} {:.digits$}", self.name, self.value)?;
        if !self.unit.is_empty() {
            write!(f, " {}", self.unit)?;
        }
        match self.bound {
            Some(bound) if self.value <= bound => write!(f, " (≤ {bound})"),
            Some(bound) => write!(f, " (ABOVE {bound})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_tells_whether_it_keeps_its_bound() {
        let ready =
            |seconds| Figure::seconds("ready", Duration::from_millis(seconds)).at_most(12.0);
        assert!(!ready(12_500).is_broken());
        assert!(Figure::count("lost", 1).never_above(0.0).is_broken());
        assert!(!Figure::count("lost", 0).never_above(0.0).is_broken());
        assert_eq!(ready(9_840).to_string(), "ready 9.8 s (≤ 12)");
        assert_eq!(ready(12_500).to_string(), "ready 12.5 s (ABOVE 12)");
        assert_eq!(Figure::count("lost", 0).to_string(), "lost 0");
        assert_eq!(Figure::mebibytes("api", 3 << 19).to_string(), "api 1.5 MiB");
    }
}
