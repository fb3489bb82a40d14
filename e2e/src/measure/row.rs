//! What is measured, and what is promised of it.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Value, json};

use super::table::Run;
use crate::chaos::fault::{Kind, Manner};
use crate::cluster::small;
use crate::trial::{Seen, Struck};

/// How long a primary that is cut off may go on acknowledging, in milliseconds: see docs/reliability.md.
const ISOLATED: i64 = 3_200;
/// How long writers write, in seconds, where an operator that was killed again and again has to be back by the end: the
/// kubelet keeps it waiting for up to 40 s, and its lease for 15 s.
const OPERATOR_BACK: u64 = 80;
/// Requests that may hang on the API pod of a node that goes. The writer through HTTP has eight under way, each for ten
/// seconds at most. By then none are sent there any more, or, where the operator that leads went, too, after as long again.
const UNDER_WAY: u64 = 2 * 8;
/// How long a server that is told to stop may go on acknowledging, in milliseconds.
const STOPPING: i64 = 10_000;

/// What happens to the cluster.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// Nothing: what the clients themselves take.
    Nothing,
    /// To the first shard's primary.
    Primary(Kind),
    /// To the node of the first shard's primary.
    Node(Kind),
    /// To every pod.
    All,
    /// The second to the first shard's primary, while the first goes on.
    During(Kind, Kind),
}

/// What keeps the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// Memory alone.
    InMemory,
    /// Volumes.
    Stored,
    /// Volumes, of a durable cluster that writes to them before it acknowledges.
    Always,
}

/// A fault to measure.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) event: Event,
    shards: u32,
    kept: Kept,
    /// How long the fault lasts, in seconds, before it is undone.
    pub(super) lasts: u64,
    /// How long writers write, in seconds.
    pub(super) writes: u64,
    /// What the longest gap of a Redis client is to be at most, in milliseconds.
    pub(super) gap: Option<u64>,
    /// After how many seconds the cluster is to be whole again, at most.
    pub(super) whole: Option<u64>,
    /// How many HTTP requests may fail; none: any, since nobody is there to answer them.
    failed: Option<u64>,
}

const BASE: Row = Row {
    name: "",
    event: Event::Nothing,
    shards: 3,
    kept: Kept::InMemory,
    lasts: 0,
    writes: 30,
    gap: None,
    whole: None,
    failed: Some(0),
};

/// In the order of docs/reliability.md.
pub(super) fn rows() -> Vec<Row> {
    let row = |name, event, gap| Row {
        name,
        event,
        gap,
        ..BASE
    };
    vec![
        Row {
            name: "no fault",
            writes: 20,
            ..BASE
        },
        row("pod deleted", Event::Primary(Kind::DeletePod), Some(120)),
        row(
            "pod deleted by force",
            Event::Primary(Kind::ForceDeletePod),
            Some(120),
        ),
        Row {
            writes: 60,
            ..row("node drained", Event::Node(Kind::Drain), Some(120))
        },
        row("server killed", Event::Primary(Kind::KillServer), Some(250)),
        Row {
            shards: 1,
            ..row(
                "server killed, one shard",
                Event::Primary(Kind::KillServer),
                Some(250),
            )
        },
        row(
            "agent and server killed",
            Event::Primary(Kind::KillContainer),
            Some(1500),
        ),
        Row {
            lasts: 5,
            ..row(
                "server hung (SIGSTOP)",
                Event::Primary(Kind::HangServer),
                Some(1500),
            )
        },
        Row {
            lasts: 25,
            writes: 70,
            failed: Some(UNDER_WAY),
            ..row("node powered off", Event::Node(Kind::PowerOff), Some(1500))
        },
        Row {
            lasts: 20,
            writes: 60,
            failed: Some(UNDER_WAY),
            ..row("node cut off", Event::Node(Kind::Partition), Some(1500))
        },
        Row {
            writes: 60,
            whole: Some(20),
            failed: None,
            ..row("every pod deleted", Event::All, None)
        },
        Row {
            writes: 60,
            whole: Some(20),
            kept: Kept::Stored,
            failed: None,
            ..row("every pod deleted, with storage", Event::All, None)
        },
        Row {
            writes: 60,
            whole: Some(20),
            kept: Kept::Always,
            failed: None,
            ..row("every pod deleted, durable, fsync Always", Event::All, None)
        },
        Row {
            writes: OPERATOR_BACK,
            ..row(
                "pod deleted, operator killed in a loop",
                Event::During(Kind::KillOperatorLoop, Kind::DeletePod),
                Some(120),
            )
        },
        Row {
            writes: OPERATOR_BACK,
            ..row(
                "server killed, operator killed in a loop",
                Event::During(Kind::KillOperatorLoop, Kind::KillServer),
                Some(250),
            )
        },
        Row {
            writes: 45,
            ..row(
                "server killed, API server away",
                Event::During(Kind::StopApiServer, Kind::KillServer),
                Some(250),
            )
        },
    ]
}

impl Row {
    pub(super) fn needs_testbed(&self) -> bool {
        match self.event {
            Event::Nothing | Event::All => false,
            Event::Primary(kind) => kind.needs_testbed(),
            Event::Node(_) | Event::During(..) => true,
        }
    }

    pub(super) fn spec(&self) -> Value {
        let mut spec = small(self.shards, 1);
        if self.kept != Kept::InMemory {
            spec["storage"] = json!({"size": "128Mi", "onDelete": "Delete"});
        }
        if self.kept == Kept::Always {
            spec["profile"] = json!("Durable");
            spec["durability"] = json!({"fsync": "Always"});
            spec["engine"] = json!({"eviction": "noeviction"});
        }
        spec
    }

    /// When the writes were acknowledged that may be gone, if any may, in milliseconds since 1970.
    fn window(&self, crash: &RangeInclusive<i64>) -> Option<RangeInclusive<i64>> {
        let kind = match self.event {
            Event::Nothing => return None,
            Event::All => {
                // Without volumes, nothing is left of what memory held.
                return (self.kept == Kept::InMemory).then(|| 0..=crash.end() + STOPPING);
            }
            Event::Primary(kind) | Event::Node(kind) | Event::During(_, kind) => kind,
        };
        match kind.manner() {
            Manner::Crashed => Some(crash.clone()),
            Manner::Cut => Some(*crash.start()..=crash.end() + ISOLATED),
            Manner::Told | Manner::Guarded | Manner::Spared => None,
        }
    }

    /// What this fault is promised not to do, and did.
    fn wrong(&self, seen: &Seen, struck: &Struck) -> Vec<String> {
        let kept = seen.lost_only_within(self.window(&struck.crash));
        let lost = kept.err().map(|error| format!("{error:#}"));
        let failed = seen.http.failed;
        let above = self.failed.is_some_and(|most| failed > most);
        let refused =
            above.then(|| format!("{failed} HTTP requests failed: {:?}", seen.http.examples));
        lost.into_iter().chain(refused).collect()
    }

    pub(super) fn sum(&self, seen: &Seen, struck: &Struck) -> Run {
        Run {
            wrong: self.wrong(seen, struck),
            redis_gap_ms: seen.redis.gap_ms,
            http_gap_ms: seen.http.gap_ms,
            http_slowest_ms: seen.http.max_ms,
            http_failed: seen.http.failed,
            lost: seen.lost(),
            stale: seen.redis.stale,
            whole: struck.whole.saturating_sub(Duration::from_secs(self.lasts)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::table::Line;
    use crate::prober::report::{RedisWriterReport, WriterReport};

    #[test]
    fn every_row_has_a_name_of_its_own_and_ends_before_its_writers() {
        let rows = rows();
        let names: std::collections::BTreeSet<_> = rows.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), rows.len());
        assert!(rows.iter().all(|row| row.writes >= row.lasts + 20));
    }

    /// How many promises of a row a run breaks, with a crash from 50,000 on.
    fn broken(name: &str, change: impl FnOnce(&mut Seen)) -> usize {
        let mut seen = Seen {
            redis: RedisWriterReport::default(),
            http: WriterReport::default(),
        };
        change(&mut seen);
        let struck = Struck {
            crash: 50_000..=50_100,
            whole: Duration::ZERO,
        };
        let rows = rows();
        let row = rows.iter().find(|row| row.name == name).unwrap();
        let run = row.sum(&seen, &struck);
        let mut line = Line::new(row.name, None, None);
        line.runs.push(run.clone());
        assert_eq!(line.is_good(), run.wrong.is_empty());
        run.wrong.len()
    }

    #[test]
    fn a_run_that_loses_more_than_its_fault_takes_breaks_a_promise() {
        let lose = |at_ms| {
            move |seen: &mut Seen| {
                (seen.redis.lost_first_ms, seen.redis.lost_last_ms) = (Some(at_ms), Some(at_ms));
            }
        };
        assert_eq!(broken("server killed", |_| ()), 0);
        assert_eq!(broken("server killed", lose(50_000)), 0);
        assert_eq!(broken("server killed", lose(52_000)), 1);
        assert_eq!(broken("node cut off", lose(53_000)), 0);
        assert_eq!(broken("node cut off", lose(55_000)), 1);
        for none in ["no fault", "pod deleted", "node drained"] {
            assert_eq!(broken(none, lose(50_000)), 1, "{none}");
        }
        assert_eq!(broken("every pod deleted", lose(20_000)), 0);
        assert_eq!(broken("every pod deleted", lose(90_000)), 1);
        for kept in ["with storage", "durable, fsync Always"] {
            let name = format!("every pod deleted, {kept}");
            assert_eq!(broken(&name, lose(20_000)), 1);
        }
    }

    #[test]
    fn a_run_with_stale_reads_or_failed_requests_breaks_a_promise() {
        assert_eq!(broken("server killed", |seen| seen.redis.stale = 1), 1);
        assert_eq!(broken("server killed", |seen| seen.http.failed = 1), 1);
        assert_eq!(broken("node powered off", |seen| seen.http.failed = 1), 0);
        assert_eq!(broken("every pod deleted", |seen| seen.http.failed = 1), 0);
    }
}
