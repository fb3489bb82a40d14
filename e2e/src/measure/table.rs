//! What was measured, as the table of docs/reliability.md.

use std::fmt;
use std::time::Duration;

/// Above the table in the page.
const BEGIN: &str = "<!-- measured: written by `cargo xtask measure --write` -->";
/// Below it.
const END: &str = "<!-- end of what was measured -->";
const HEAD: &str = "\
| fault | longest gap, Redis client (ms) | longest gap, HTTP (ms) | slowest HTTP write (ms) | failed HTTP requests | acknowledged writes lost | whole again after (s) | runs |
|---|---|---|---|---|---|---|---|";

/// One run.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// Longest time between two acknowledgements of one shard, through Redis.
    pub(super) redis_gap_ms: u64,
    /// Longest time between two acknowledgements to anybody, through HTTP.
    pub(super) http_gap_ms: u64,
    /// Longest time that one acknowledged HTTP request took.
    pub(super) http_slowest_ms: f64,
    /// HTTP requests that failed.
    pub(super) http_failed: u64,
    /// Acknowledged writes that are gone, of both writers.
    pub(super) lost: u64,
    /// Reads that gave less than was acknowledged, and is not lost.
    pub(super) stale: u64,
    /// From the fault, or from its end if it lasts, until the cluster was whole.
    pub(super) whole: Duration,
    /// What was promised and not kept, in words.
    pub(super) wrong: Vec<String>,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "gap {} ms, by HTTP {} ms, slowest {:.0} ms, failed {}, lost {}, stale {}, whole after {:.1} s",
            self.redis_gap_ms,
            self.http_gap_ms,
            self.http_slowest_ms,
            self.http_failed,
            self.lost,
            self.stale,
            self.whole.as_secs_f64()
        )
    }
}

/// All runs of a fault.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Of the fault.
    pub(super) name: &'static str,
    gap: Option<u64>,
    whole: Option<u64>,
    /// Those that could be made.
    pub(super) runs: Vec<Run>,
    /// How many could not.
    pub(super) failures: u32,
}

impl Line {
    /// Of a fault with its bounds: the gap's in milliseconds, the recovery's in seconds.
    pub(super) fn new(name: &'static str, gap: Option<u64>, whole: Option<u64>) -> Self {
        Self {
            name,
            gap,
            whole,
            runs: Vec::new(),
            failures: 0,
        }
    }

    /// Whether every run could be made, and kept what is promised.
    pub(super) fn is_good(&self) -> bool {
        self.failures == 0 && self.runs.iter().all(|run| run.wrong.is_empty())
    }

    /// The line of the table: the median and the worst of each, and the bound if the worst is above it.
    pub(super) fn markdown(&self) -> String {
        if self.runs.is_empty() {
            return format!("| {} | could not be measured | | | | | | |", self.name);
        }
        let cell = |digits: usize, bound: Option<u64>, of: &dyn Fn(&Run) -> f64| {
            let (median, worst) = spread(self.runs.iter().map(of).collect());
            let text = format!("{median:.digits$}, worst {worst:.digits$}");
            match bound {
                #[allow(clippy::cast_precision_loss)]
                Some(bound) if worst > bound as f64 => format!("{text} (above {bound})"),
                Some(bound) => format!("{text} (≤ {bound})"),
                None => text,
            }
        };
        #[allow(clippy::cast_precision_loss)]
        let cells = [
            cell(0, self.gap, &|run| run.redis_gap_ms as f64),
            cell(0, None, &|run| run.http_gap_ms as f64),
            cell(0, None, &|run| run.http_slowest_ms),
            cell(0, None, &|run| run.http_failed as f64),
            cell(0, None, &|run| run.lost as f64),
            cell(1, self.whole, &|run| run.whole.as_secs_f64()),
        ];
        let failures = match self.failures {
            0 => String::new(),
            failures => format!(" and {failures} that could not be made"),
        };
        let date = jiff::Timestamp::now().strftime("%Y-%m-%d");
        let cells = cells.join(" | ");
        let runs = self.runs.len();
        format!("| {} | {cells} | {runs}{failures}, {date} |", self.name)
    }
}

/// Median and largest; of an even number, the larger of the two in the middle.
fn spread(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    (at(values.len() / 2), at(values.len().saturating_sub(1)))
}

/// The table of these lines.
pub(super) fn markdown<'l>(lines: impl IntoIterator<Item = &'l str>) -> String {
    let lines: Vec<&str> = lines.into_iter().collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "Median and worst of some runs of each, with {cores} cores for everything.\n\n{HEAD}\n{}\n",
        lines.join("\n")
    )
}

/// The page with what was measured between its marks, which stay. What was not measured now stays as it was; lines are in the
/// order of `names`. Nothing if the marks are not there.
pub(super) fn insert(page: &str, names: &[&str], measured: &[(&str, String)]) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (old, after) = rest.split_once(END)?;
    let lines = names.iter().filter_map(|name| {
        let new = measured.iter().find(|(of, _)| of == name);
        let start = format!("| {name} | ");
        new.map(|(_, line)| line.as_str())
            .or_else(|| old.lines().find(|line| line.starts_with(&start)))
    });
    let table = markdown(lines);
    Some(format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(gap: u64) -> Run {
        Run {
            redis_gap_ms: gap,
            http_gap_ms: 5,
            http_slowest_ms: 7.4,
            http_failed: 0,
            lost: 1,
            stale: 0,
            whole: Duration::from_millis(2_500),
            wrong: Vec::new(),
        }
    }

    #[test]
    fn a_line_tells_median_worst_and_whether_the_bound_was_kept() {
        let mut line = Line::new("pod deleted", Some(120), None);
        line.runs = [70, 90, 80].map(run).to_vec();
        let told = line.markdown();
        let cells = "| pod deleted | 80, worst 90 (≤ 120) | 5, worst 5 | 7, worst 7 | 0, worst 0 | 1, worst 1 | 2.5, worst 2.5 | 3, ";
        assert!(told.starts_with(cells), "{told}");
        line.runs.push(run(150));
        assert!(line.markdown().contains("90, worst 150 (above 120)"));
        line.failures = 1;
        assert!(
            line.markdown()
                .contains("| 4 and 1 that could not be made, ")
        );
        let none = Line::new("x", None, None).markdown();
        assert!(none.contains("could not be measured"));
    }

    #[test]
    fn a_line_takes_the_place_of_the_last_one_of_its_fault_and_the_others_stay() {
        let page = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let names = ["one", "one, again", "two"];
        let line = |name: &'static str, cell: &str| (name, format!("| {name} | {cell} |"));
        let first = [line("two", "2"), line("one, again", "1")];
        let page = insert(&page, &names, &first).unwrap();
        let table = |lines: &str| {
            format!(
                "{}{lines}\n\n{END}\nb\n",
                markdown([]).trim_end_matches('\n').to_owned() + "\n"
            )
        };
        assert!(
            page.ends_with(&table("| one, again | 1 |\n| two | 2 |")),
            "{page}"
        );
        let page = insert(&page, &names, &[line("one", "0"), line("two", "3")]).unwrap();
        assert!(
            page.ends_with(&table("| one | 0 |\n| one, again | 1 |\n| two | 3 |")),
            "{page}"
        );
        assert_eq!(insert("no marks", &names, &[]), None);
    }
}
