//! Whether what was seen in a round is what its faults excuse.

use std::time::Duration;

use super::excuse::{Excuse, Failures, Loss, PATIENCE};
use crate::prober::report::{RedisWriterReport, WriterReport};

/// What was seen in a round.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// By the writer through HTTP.
    pub(super) http: WriterReport,
    /// By the writer through Redis.
    pub(super) redis: RedisWriterReport,
    /// The slots of each shard at the start, by its index.
    pub(super) slots: Vec<String>,
}

/// What came of a round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Writes acknowledged, both ways.
    pub(super) acked: u64,
    /// Acknowledged writes that are gone and must not be.
    pub(super) lost: u64,
    /// Acknowledged writes that are gone, as the faults excuse.
    pub(super) excused: u64,
    /// HTTP requests that failed.
    pub(super) failed: u64,
    /// Stale reads.
    pub(super) stale: u64,
    /// The longest time in which some shard took no write.
    pub(super) gap: Duration,
    /// What was not as it should be.
    pub(super) complaints: Vec<String>,
    /// What a reader of the round should know, and is nobody's fault for the judge.
    pub(super) notes: Vec<String>,
}

/// Fewest acknowledged writes of a writer that say anything.
const FEWEST: u64 = 200;

/// Judges a round.
pub(super) fn judge(excuse: &Excuse, seen: &Seen) -> Verdict {
    let (http, redis) = (&seen.http, &seen.redis);
    let mut verdict = Verdict {
        acked: http.acked + redis.acked,
        failed: http.failed,
        stale: redis.stale,
        gap: Duration::from_millis(redis.gap_ms),
        ..Verdict::default()
    };
    // The HTTP client knows of no shards.
    let any = excuse.loss.values().copied().fold(Loss::None, Loss::or);
    let times = (http.lost_first_ms, http.lost_last_ms);
    verdict.count_lost(http.lost, any, times, || {
        format!("HTTP {:?}", http.examples)
    });
    for report in &redis.shards {
        let shard = shard_of(&seen.slots, &report.slots);
        let loss = shard.map_or(Loss::None, |shard| excuse.loss[&shard]);
        let times = (report.lost_first_ms, report.lost_last_ms);
        verdict.count_lost(report.lost, loss, times, || {
            format!("slots {} {:?}", report.slots, redis.examples)
        });
        let gap = Duration::from_millis(report.gap_ms);
        // What was read of a write that is gone is not among them.
        let stale = shard.map_or(Loss::None, |shard| excuse.stale[&shard]);
        let times = (report.stale_first_ms, report.stale_last_ms);
        if report.stale > 0 && !stale.covers_times(times) {
            verdict.complain(format!(
                "slots {}: {} stale reads, from {times:?}, excused {stale:?}, up to {:?} ms after a failover: {:?}",
                report.slots, report.stale, redis.stale_after_ms, redis.examples
            ));
        }
        let patience = Duration::from_secs(PATIENCE);
        let bound = shard.map(|shard| excuse.gap[&shard]);
        if report.failed > 0 && matches!(bound, Some(Some(bound)) if bound < patience) {
            verdict.complain(format!(
                "slots {}: {} writes failed, tried for {PATIENCE} s each: {:?} {:?}",
                report.slots, report.failed, redis.examples, redis.troubles
            ));
        }
        match bound {
            Some(Some(bound)) if gap > bound => verdict.complain(format!(
                "slots {} took no write for {} ms from {}, above {} ms",
                report.slots,
                report.gap_ms,
                report.gap_at_ms,
                bound.as_millis()
            )),
            Some(_) => {}
            None => verdict.complain(format!(
                "slots {} are none of {:?}",
                report.slots, seen.slots
            )),
        }
    }
    if let Failures::UpTo(most) = excuse.failures
        && http.failed > most
    {
        verdict.complain(format!(
            "{} HTTP requests failed, above {most}: {:?}",
            http.failed, http.examples
        ));
    }
    if http.unread > 0 || redis.unread > 0 {
        verdict.complain(format!(
            "{} and {} keys could not be read at the end: {:?} {:?}",
            http.unread, redis.unread, http.examples, redis.examples
        ));
    }
    if http.acked < FEWEST || redis.acked < FEWEST {
        verdict.complain(format!(
            "too few writes to say anything: {} by HTTP, {} by Redis: {:?} {:?}",
            http.acked, redis.acked, http.examples, redis.troubles
        ));
    }
    verdict
}

impl Verdict {
    /// Adds what was not as it should be.
    pub(super) fn complain(&mut self, what: String) {
        self.complaints.push(what);
    }

    fn count_lost(
        &mut self,
        lost: u64,
        loss: Loss,
        times: (Option<i64>, Option<i64>),
        examples: impl FnOnce() -> String,
    ) {
        if lost == 0 {
            return;
        }
        if loss.covers_times(times) {
            self.excused += lost;
            return;
        }
        self.lost += lost;
        self.complain(format!(
            "{lost} acknowledged writes are gone, acknowledged from {times:?}, excused {loss:?}: {}",
            examples()
        ));
    }
}

/// The shard that had a slot of `slots` at the start.
fn shard_of(shards: &[String], slots: &str) -> Option<u32> {
    let lowest = first_slot(slots)?;
    let index = shards.iter().position(|ranges| {
        ranges.split([',', ' ']).any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            match (first.parse::<u32>(), last.parse::<u32>()) {
                (Ok(first), Ok(last)) => (first..=last).contains(&lowest),
                _ => false,
            }
        })
    })?;
    u32::try_from(index).ok()
}

fn first_slot(slots: &str) -> Option<u32> {
    slots.split([',', ' ', '-']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::prober::report::ShardReport;

    fn excuse(loss: Loss) -> Excuse {
        Excuse {
            loss: BTreeMap::from([(0, loss), (1, Loss::None)]),
            stale: BTreeMap::from([(0, Loss::Within(3_000, 4_000)), (1, Loss::None)]),
            failures: Failures::UpTo(2),
            gap: BTreeMap::from([(0, Some(Duration::from_secs(5))), (1, None)]),
        }
    }

    fn seen() -> Seen {
        let shard = |slots: &str| ShardReport {
            slots: slots.to_owned(),
            acked: 500,
            gap_ms: 80,
            ..ShardReport::default()
        };
        Seen {
            http: WriterReport {
                acked: 1_000,
                ..WriterReport::default()
            },
            redis: RedisWriterReport {
                acked: 1_000,
                gap_ms: 80,
                shards: vec![shard("0-8191"), shard("8192-16383")],
                ..RedisWriterReport::default()
            },
            slots: vec!["0-8191".to_owned(), "8192-16383".to_owned()],
        }
    }

    fn complaints(loss: Loss, change: impl FnOnce(&mut Seen)) -> usize {
        let mut seen = seen();
        change(&mut seen);
        judge(&excuse(loss), &seen).complaints.len()
    }

    #[test]
    fn a_round_in_which_nothing_is_wrong_is_right() {
        let verdict = judge(&excuse(Loss::None), &seen());
        assert_eq!(verdict.complaints, Vec::<String>::new());
        assert_eq!((verdict.acked, verdict.gap.as_millis()), (2_000, 80));
    }

    #[test]
    fn a_loss_counts_against_its_own_shards_excuse() {
        let lose = |shard: usize, at_ms: i64| {
            move |seen: &mut Seen| {
                seen.redis.shards[shard].lost = 3;
                seen.redis.shards[shard].lost_first_ms = Some(at_ms);
                seen.redis.shards[shard].lost_last_ms = Some(at_ms + 10);
            }
        };
        let window = Loss::Within(1_000, 2_000);
        assert_eq!(complaints(window, lose(0, 1_500)), 0);
        assert_eq!(complaints(window, lose(0, 1_995)), 1);
        assert_eq!(complaints(window, lose(0, 900)), 1);
        assert_eq!(complaints(window, lose(1, 1_500)), 1);
        assert_eq!(complaints(Loss::None, lose(0, 1_500)), 1);
        assert_eq!(complaints(Loss::Until(9_000), lose(0, 5)), 0);
        assert_eq!(complaints(Loss::Until(9_000), lose(0, 9_500)), 1);
    }

    #[test]
    fn the_loss_over_http_needs_the_excuse_of_some_shard() {
        let lose = |seen: &mut Seen| {
            seen.http.lost = 1;
            seen.http.lost_first_ms = Some(1_500);
            seen.http.lost_last_ms = Some(1_500);
        };
        assert_eq!(complaints(Loss::Within(1_000, 2_000), lose), 0);
        assert_eq!(complaints(Loss::None, lose), 1);
    }

    #[test]
    fn a_stale_read_counts_against_its_own_shard_whatever_may_be_lost() {
        let stale = |shard: usize, at_ms: i64| {
            move |seen: &mut Seen| {
                seen.redis.shards[shard].stale = 2;
                seen.redis.shards[shard].stale_first_ms = Some(at_ms);
                seen.redis.shards[shard].stale_last_ms = Some(at_ms + 10);
            }
        };
        let lossy = Loss::Within(1_000, 9_000);
        assert_eq!(complaints(lossy, stale(0, 3_500)), 0);
        assert_eq!(complaints(lossy, stale(0, 3_995)), 1);
        assert_eq!(complaints(lossy, stale(0, 2_000)), 1);
        assert_eq!(complaints(lossy, stale(1, 3_500)), 1);
        assert_eq!(complaints(Loss::Until(9_000), stale(1, 3_500)), 1);
    }

    #[test]
    fn a_write_by_redis_may_fail_only_where_a_gap_may_be_longer_than_its_patience() {
        let fail = |shard: usize| move |seen: &mut Seen| seen.redis.shards[shard].failed = 1;
        assert_eq!(complaints(Loss::None, fail(0)), 1);
        assert_eq!(complaints(Loss::None, fail(1)), 0);
    }

    #[test]
    fn failures_gaps_unread_keys_and_silence_are_complained_of() {
        assert_eq!(complaints(Loss::None, |seen| seen.http.failed = 2), 0);
        assert_eq!(complaints(Loss::None, |seen| seen.http.failed = 3), 1);
        assert_eq!(
            complaints(Loss::None, |seen| seen.redis.shards[0].gap_ms = 5_001),
            1
        );
        assert_eq!(
            complaints(Loss::None, |seen| seen.redis.shards[1].gap_ms = 50_000),
            0
        );
        assert_eq!(complaints(Loss::None, |seen| seen.http.unread = 1), 1);
        assert_eq!(complaints(Loss::None, |seen| seen.http.acked = 3), 1);
        assert_eq!(complaints(Loss::None, |seen| seen.slots.truncate(1)), 1);
    }
}
