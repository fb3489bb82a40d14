//! What is printed: a line for each round, and a table at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::round::Outcome;

/// One round in one line; what was wrong follows in further ones.
pub(super) fn line(outcome: &Outcome) -> String {
    let Outcome {
        round,
        verdict,
        whole,
        taken,
        ..
    } = outcome;
    let word = if outcome.is_good() { "ok" } else { "FAILED" };
    let mut text = format!("{word:>6} {:>4} {round}", round.number);
    match verdict {
        Ok(verdict) => {
            let _ = write!(
                text,
                " | acked {}, lost {}, excused {}, failed {}, stale {}, gap {} ms, whole after {:.1} s, {:.0} s",
                verdict.acked,
                verdict.lost,
                verdict.excused,
                verdict.failed,
                verdict.stale,
                verdict.gap.as_millis(),
                whole.as_secs_f64(),
                taken.as_secs_f64(),
            );
            for more in verdict.complaints.iter().chain(&verdict.notes) {
                let _ = write!(text, "\n            {more}");
            }
        }
        Err(error) => {
            let _ = write!(
                text,
                " | {:.0} s\n            {error:#}",
                taken.as_secs_f64()
            );
        }
    }
    text
}

/// What came of a kind of fault.
#[derive(Default)]
struct Row {
    rounds: usize,
    failed_rounds: usize,
    pairs: usize,
    acked: u64,
    lost: u64,
    excused: u64,
    failed: u64,
    gap: Duration,
    whole: Duration,
}

impl Row {
    fn add(&mut self, outcome: &Outcome) {
        self.rounds += 1;
        self.failed_rounds += usize::from(!outcome.is_good());
        self.pairs += usize::from(outcome.round.faults.len() > 1);
        self.whole = self.whole.max(outcome.whole);
        if let Ok(verdict) = &outcome.verdict {
            self.acked += verdict.acked;
            self.lost += verdict.lost;
            self.excused += verdict.excused;
            self.failed += verdict.failed;
            self.gap = self.gap.max(verdict.gap);
        }
    }

    fn write(&self, text: &mut String, name: &str) {
        let _ = writeln!(
            text,
            "{name:<20} {:>6} {:>6} {:>6} {:>8} {:>5} {:>8} {:>7} {:>8} {:>8.1}",
            self.rounds,
            self.failed_rounds,
            self.pairs,
            self.acked,
            self.lost,
            self.excused,
            self.failed,
            self.gap.as_millis(),
            self.whole.as_secs_f64(),
        );
    }
}

/// All rounds by kind of fault; a pair counts for both of its kinds. The last line is the sum.
pub(super) fn table(outcomes: &[Outcome]) -> String {
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    let mut all = Row::default();
    for outcome in outcomes {
        let mut kinds: Vec<_> = outcome.round.faults.iter().map(|f| f.kind.name()).collect();
        kinds.dedup();
        for kind in kinds {
            rows.entry(kind).or_default().add(outcome);
        }
        all.add(outcome);
    }
    let mut text = format!(
        "\n{:<20} {:>6} {:>6} {:>6} {:>8} {:>5} {:>8} {:>7} {:>8} {:>8}\n",
        "fault",
        "rounds",
        "FAILED",
        "pairs",
        "acked",
        "lost",
        "excused",
        "failed",
        "gap ms",
        "whole s"
    );
    for (name, row) in &rows {
        row.write(&mut text, name);
    }
    all.write(&mut text, "all");
    let passed = all.rounds - all.failed_rounds;
    let _ = writeln!(text, "{passed} passed, {} failed", all.failed_rounds);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::judge::Verdict;
    use crate::chaos::schedule::{Profile, schedule};

    fn outcomes() -> Vec<Outcome> {
        let profile = Profile {
            nodes: Some(3),
            engines: vec!["redis:8.2".to_owned()],
            storage: false,
        };
        let rounds = schedule(3, &profile, 2).into_iter();
        let verdicts = [
            Ok(Verdict {
                acked: 7,
                ..Verdict::default()
            }),
            Err(anyhow::anyhow!("it fell over")),
        ];
        rounds
            .zip(verdicts)
            .map(|(round, verdict)| Outcome {
                round,
                verdict,
                whole: Duration::from_secs(2),
                taken: Duration::from_secs(50),
                record: String::new(),
            })
            .collect()
    }

    #[test]
    fn a_line_tells_the_round_and_what_was_wrong() {
        let outcomes = outcomes();
        assert!(
            line(&outcomes[0]).starts_with("    ok    0 "),
            "{}",
            line(&outcomes[0])
        );
        assert!(line(&outcomes[0]).contains("acked 7, lost 0"));
        assert!(line(&outcomes[1]).starts_with("FAILED    1 "));
        assert!(line(&outcomes[1]).ends_with("it fell over"));
    }

    #[test]
    fn the_table_ends_with_the_sum() {
        let table = table(&outcomes());
        assert!(table.ends_with("1 passed, 1 failed\n"), "{table}");
        assert!(table.contains("\nall "), "{table}");
    }
}
