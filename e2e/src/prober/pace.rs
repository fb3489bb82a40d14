//! Latencies and gaps, counted without losing the outliers.

use std::time::Duration;

/// When good answers came and how long each took, in microseconds since the start.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    taken: Vec<u64>,
    at: Vec<u64>,
}

impl Pace {
    /// Notes a good answer `at` after the start, which took `taken`.
    pub(crate) fn note(&mut self, at: Duration, taken: Duration) {
        self.at.push(micros(at));
        self.taken.push(micros(taken));
    }

    /// Adds what another worker noted.
    pub(crate) fn add(&mut self, other: Self) {
        self.taken.extend(other.taken);
        self.at.extend(other.at);
    }

    /// The latency, in milliseconds, below or at which `share` of the answers came; 0 if there was none.
    pub(crate) fn latency_ms(&mut self, share: f64) -> f64 {
        self.taken.sort_unstable();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let rank = (self.taken.len() as f64 * share).ceil() as usize;
        self.taken
            .get(rank.saturating_sub(1))
            .map_or(0.0, |micros| in_millis(*micros))
    }

    /// The longest time, in milliseconds, in which no good answer came, from the start to `end`.
    pub(crate) fn gap_ms(&mut self, end: Duration) -> u64 {
        self.longest_gap(end).1
    }

    /// The same with the time after the start at which it began, in milliseconds, before it.
    pub(crate) fn longest_gap(&mut self, end: Duration) -> (u64, u64) {
        self.at.sort_unstable();
        let mut last = 0;
        let mut longest = (0, 0);
        for at in self.at.iter().copied().chain([micros(end)]) {
            let gap = at.saturating_sub(last);
            if gap > longest.1 {
                longest = (last, gap);
            }
            last = at;
        }
        (longest.0 / 1000, longest.1 / 1000)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Microseconds as milliseconds with one decimal.
#[allow(clippy::cast_precision_loss)]
fn in_millis(micros: u64) -> f64 {
    (micros / 100) as f64 / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(answers: &[(u64, u64)]) -> Pace {
        let mut pace = Pace::default();
        for (at, taken) in answers {
            pace.note(Duration::from_millis(*at), Duration::from_millis(*taken));
        }
        pace
    }

    #[test]
    fn a_share_of_answers_came_within_its_latency() {
        let mut hundred = pace(&(1..=100).map(|n| (n, n)).collect::<Vec<_>>());
        assert_eq!(
            [0.5, 0.99, 1.0].map(|share| hundred.latency_ms(share)),
            [50.0, 99.0, 100.0]
        );
        assert_eq!(pace(&[]).latency_ms(0.99), 0.0);
    }

    #[test]
    fn a_gap_may_lie_before_between_or_after_the_answers() {
        let end = Duration::from_millis(100);
        assert_eq!(pace(&[(40, 1), (50, 1), (90, 1)]).gap_ms(end), 40);
        assert_eq!(pace(&[(90, 1), (10, 1)]).gap_ms(end), 80);
        assert_eq!(pace(&[(5, 1), (25, 1)]).gap_ms(end), 75);
        assert_eq!(pace(&[]).gap_ms(end), 100);
        assert_eq!(pace(&[(5, 1), (25, 1)]).longest_gap(end), (25, 75));
    }
}
