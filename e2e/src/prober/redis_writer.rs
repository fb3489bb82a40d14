//! The checker of acknowledged writes, as a Redis Cluster client.
//!
//! Every shard has workers of its own, so that a shard that does not answer holds up no other, and its longest gap is
//! its own. Numbers grow over all writes of a shard. Reads go on beside the writes: one that gives less than was
//! acknowledged before it began is stale, unless the write turns out to be lost.
//!
//! A key that is written once shows every loss, but not an old write that comes late and covers a newer one. So a share of
//! the writes goes to a few keys of each worker's own, again and again; each of those also tells what it replaces.

mod keys;
#[cfg(test)]
mod live;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::StreamExt;
use redis::Value;
use tokio::task::JoinSet;

use super::ledger::{Acked, Found, Losses, Written, judge, note, now_ms};
use super::pace::Pace;
use super::report::{RedisWriterReport, Served, ShardReport};
use super::router::Router;
use super::slots::{Map, slot_of};
use keys::Keys;

/// `prober redis-writer`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The Service that Redis Cluster clients start from, e.g. redis://demo-redis:6379
    #[arg(long)]
    url: String,
    /// File with the password
    #[arg(long)]
    password_file: PathBuf,
    /// How long to write
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Writes a second, all shards together
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// Reads a second, all shards together; 0: none
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=100_000))]
    reads: u64,
    /// Writes under way at a time for each shard, at most
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=256))]
    workers: u64,
    /// Keys in all; 0: another one for each write, so that every single write is checked at the end
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    keys: u64,
    /// Each so-many-th write of a worker goes to one of a few keys of its own that it writes again and again; 0: none
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1000))]
    again: u64,
    /// What keys start with; two writers on one cluster need two
    #[arg(long, default_value = "redis-writer")]
    prefix: String,
    /// How long to wait until every slot is served, before the first write, in seconds
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=600))]
    patience: u64,
    /// How long to try to read the keys back, in seconds
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    settle: u64,
}

/// Longest time for one write or read, with all its attempts.
const DEADLINE: Duration = Duration::from_secs(10);
/// How many of the last written keys are read.
const RECENT: usize = 256;
/// Keys of a shard that are written again and again.
const AGAIN: u64 = 64;

/// One shard: its slots as at the start, and what happened to them.
struct Shard {
    ranges: Vec<(u16, u16)>,
    /// How many writes were begun.
    begun: AtomicU64,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    acked: u64,
    failed: u64,
    pace: Pace,
    served: Vec<Served>,
    written: Vec<Written>,
    /// What was found before it was written over.
    replaced: Vec<Found>,
    recent: VecDeque<(String, u64)>,
    reads: u64,
    stale: Vec<Stale>,
    examples: Vec<String>,
}

/// A read that gave less than was acknowledged before.
struct Stale {
    key: String,
    wanted: u64,
    got: Option<String>,
    /// When the answer came, in milliseconds since 1970.
    at_ms: i64,
    /// Since the first acknowledgement by the primary of then, in milliseconds, if the shard had another before.
    after_ms: Option<i64>,
}

/// Writes and reads, then reads everything back.
///
/// # Errors
/// When the password file cannot be read, the URL is none, or the cluster does not serve every slot at the start.
pub(crate) async fn run(args: &Args) -> Result<RedisWriterReport> {
    let patience = Duration::from_secs(args.patience);
    let router = Router::open(&args.url, &args.password_file, patience).await?;
    let shards: Vec<Arc<Shard>> = shards(&router.map());
    super::announce();
    let start = Instant::now();
    let until = start + Duration::from_secs(args.seconds);
    let count = u32::try_from(shards.len())?;
    let mut running = JoinSet::new();
    for (shard, place) in shards.iter().zip(0u32..) {
        let keys = Keys::of(&args.prefix, &shard.ranges, args.keys / u64::from(count));
        let keys = Arc::new(Mutex::new(keys));
        let workers = u32::try_from(args.workers)?;
        let interval = Duration::from_secs(1) * count * workers / u32::try_from(args.rate)?;
        for worker in 0..workers {
            let (router, shard) = (router.clone(), shard.clone());
            let first = start + interval * (worker * count + place) / (workers * count);
            let again = format!("{}-again-{worker}", args.prefix);
            let most = (AGAIN / args.workers).max(1);
            let own = Own {
                share: args.again,
                keys: Keys::of(&again, &shard.ranges, most),
                once: keys.clone(),
            };
            running.spawn(write(router, shard, own, start, first, interval, until));
        }
        if let Ok(reads @ 1..) = u32::try_from(args.reads) {
            let interval = Duration::from_secs(1) * count / reads;
            running.spawn(read(router.clone(), shard.clone(), interval, until));
        }
    }
    while let Some(joined) = running.join_next().await {
        joined?;
    }
    let began_ms = now_ms() - i64::try_from(start.elapsed().as_millis())?;
    // Not later: at the end each worker waits for a turn that does not come.
    let end = until - start;

    let settled = Instant::now() + Duration::from_secs(args.settle);
    let mut report = RedisWriterReport::default();
    for shard in shards {
        let summed = sum(&router, &shard, settled, end, began_ms, &mut report).await;
        report.shards.push(summed);
    }
    report.troubles = router.troubles();
    Ok(report)
}

fn shards(map: &Map) -> Vec<Arc<Shard>> {
    let shard = |ranges| {
        Arc::new(Shard {
            ranges,
            begun: AtomicU64::new(0),
            log: Mutex::default(),
        })
    };
    map.shards().into_iter().map(shard).collect()
}

/// Where a worker takes its keys from.
struct Own {
    /// Each so-many-th write goes to one of `keys`.
    share: u64,
    /// The worker's own, written again and again.
    keys: Keys,
    /// Those of all workers of the shard.
    once: Arc<Mutex<Keys>>,
}

impl Own {
    /// The key of the worker's next write, and whether it is one of its own.
    fn take(&mut self, turn: u64) -> (Written, bool) {
        if self.share > 0 && turn.is_multiple_of(self.share) {
            return (self.keys.take(), true);
        }
        (lock(&self.once).take(), false)
    }

    fn put(&mut self, written: Written, own: bool, late: bool) -> Option<Written> {
        if own {
            return self.keys.put(written, late);
        }
        lock(&self.once).put(written, late)
    }
}

async fn write(
    router: Router,
    shard: Arc<Shard>,
    mut keys: Own,
    start: Instant,
    first: Instant,
    interval: Duration,
    until: Instant,
) {
    let mut due = first;
    for turn in 1u64.. {
        tokio::time::sleep_until(due.into()).await;
        if Instant::now() >= until {
            break;
        }
        due = (due + interval).max(Instant::now());
        let number = shard.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let (mut written, own) = keys.take(turn);
        let mut set = redis::cmd("SET");
        set.arg(&written.key).arg(number);
        if own {
            set.arg("GET");
        }
        let began = Instant::now();
        let sent = router
            .send(slot_of(&written.key), &set, began + DEADLINE)
            .await;
        let acked = sent.answer.is_some();
        if let Some((value, node)) = &sent.answer {
            // An attempt that came through before the last one has replaced it already, by this number.
            let replaced = own.then(|| judge(&written, text(value.clone()).as_deref()));
            written.acked = Some(Acked::now(number));
            let mut log = lock(&shard.log);
            log.acked += 1;
            log.pace.note(start.elapsed(), began.elapsed());
            log.serve(node, now_ms());
            // The losses of a key that is written again are seen by whoever writes it; reads are of the others, where a
            // loss is still there at the end.
            match replaced {
                Some(Found::Kept) => {}
                Some(found) => log.replaced.push(found),
                None => log.recent.push_back((written.key.clone(), number)),
            }
            if log.recent.len() > RECENT {
                log.recent.pop_front();
            }
        }
        let late = sent.late || !acked;
        let done = keys.put(written, own, late);
        let mut log = lock(&shard.log);
        log.written.extend(done);
        if !acked {
            log.failed += 1;
            let what = format!("write {number} failed: {}", sent.trouble);
            note(&mut log.examples, [what]);
        }
    }
    // Whoever ends last takes what is free.
    let mut free = lock(&keys.once).drain();
    free.extend(keys.keys.drain());
    lock(&shard.log).written.extend(free);
}

impl Log {
    fn serve(&mut self, node: &str, at_ms: i64) {
        match self.served.last_mut() {
            Some(served) if served.node == node => {
                served.last_ms = at_ms;
                served.acked += 1;
            }
            _ => self.served.push(Served {
                node: node.to_owned(),
                first_ms: at_ms,
                last_ms: at_ms,
                acked: 1,
            }),
        }
    }
}

async fn read(router: Router, shard: Arc<Shard>, interval: Duration, until: Instant) {
    let mut due = Instant::now();
    for turn in 0usize.. {
        due = (due + interval).max(Instant::now());
        tokio::time::sleep_until(due.into()).await;
        if Instant::now() >= until {
            return;
        }
        let Some((key, wanted)) = ({
            let log = lock(&shard.log);
            // The newest and any older one in turns: what a new primary lacks is new.
            let back = if turn % 2 == 0 { 0 } else { turn * 31 };
            let place = log.recent.len().checked_sub(1);
            place.and_then(|last| log.recent.get(last - back % (last + 1)).cloned())
        }) else {
            continue;
        };
        let mut get = redis::cmd("GET");
        get.arg(&key);
        let sent = router
            .send(slot_of(&key), &get, Instant::now() + DEADLINE)
            .await;
        // A read without an answer is told by the writes, too.
        let Some((value, _)) = sent.answer else {
            continue;
        };
        let mut log = lock(&shard.log);
        log.reads += 1;
        let got = text(value);
        if is_older(got.as_deref(), wanted) {
            let after_ms = match log.served.as_slice() {
                [.., _, now] => Some(now_ms() - now.first_ms),
                _ => None,
            };
            log.stale.push(Stale {
                key,
                wanted,
                got,
                at_ms: now_ms(),
                after_ms,
            });
        }
    }
}

fn is_older(got: Option<&str>, wanted: u64) -> bool {
    got.and_then(|got| got.parse::<u64>().ok())
        .is_none_or(|got| got < wanted)
}

fn text(value: Value) -> Option<String> {
    redis::from_redis_value::<Option<String>>(value)
        .ok()
        .flatten()
}

/// Reads a shard's keys back, adds what was found to the report, and tells the shard's own part.
async fn sum(
    router: &Router,
    shard: &Shard,
    settled: Instant,
    end: Duration,
    began_ms: i64,
    report: &mut RedisWriterReport,
) -> ShardReport {
    let mut log = std::mem::take(&mut *lock(&shard.log));
    let found: Vec<(Found, Written)> = futures::stream::iter(std::mem::take(&mut log.written))
        .map(|written| async {
            let found = read_back(router, &written, settled).await;
            (found, written)
        })
        .buffer_unordered(64)
        .collect()
        .await;
    let mut losses = Losses::default();
    log.replaced
        .into_iter()
        .for_each(|found| losses.count(found));
    let mut lost = std::collections::BTreeSet::new();
    for (found, written) in found {
        if let (Found::Lost { .. }, Some(acked)) = (&found, written.acked) {
            lost.insert((written.key, acked.number));
        }
        losses.count(found);
    }
    let (mut stale_times, mut stale_reads) = ((None, None), 0);
    for stale in log.stale {
        if lost.contains(&(stale.key.clone(), stale.wanted)) {
            continue;
        }
        report.stale += 1;
        stale_reads += 1;
        stale_times = (
            earliest(stale_times.0, Some(stale.at_ms)),
            stale_times.1.max(Some(stale.at_ms)),
        );
        report.stale_after_ms = report.stale_after_ms.max(stale.after_ms);
        let (key, wanted, got) = (stale.key, stale.wanted, stale.got);
        let what = format!("{key}: read {got:?} after {wanted} was acknowledged");
        note(&mut report.examples, [what]);
    }
    let (gap_at, gap_ms) = log.pace.longest_gap(end);
    report.acked += log.acked;
    report.failed += log.failed;
    report.reads += log.reads;
    report.lost += losses.lost;
    report.unread += losses.unread;
    report.gap_ms = report.gap_ms.max(gap_ms);
    report.lost_first_ms = earliest(report.lost_first_ms, losses.first_ms);
    report.lost_last_ms = report.lost_last_ms.max(losses.last_ms);
    note(&mut report.examples, losses.examples);
    note(&mut report.examples, log.examples);
    let ranges = shard.ranges.iter().map(|(first, last)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    });
    ShardReport {
        slots: ranges.collect::<Vec<_>>().join(","),
        acked: log.acked,
        failed: log.failed,
        gap_ms,
        gap_at_ms: began_ms.saturating_add_unsigned(gap_at),
        lost: losses.lost,
        lost_first_ms: losses.first_ms,
        lost_last_ms: losses.last_ms,
        stale: stale_reads,
        stale_first_ms: stale_times.0,
        stale_last_ms: stale_times.1,
        served: log.served,
    }
}

fn earliest(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    a.into_iter().chain(b).min()
}

async fn read_back(router: &Router, written: &Written, until: Instant) -> Found {
    let mut get = redis::cmd("GET");
    get.arg(&written.key);
    let sent = router.send(slot_of(&written.key), &get, until).await;
    match sent.answer {
        Some((value, _)) => judge(written, text(value).as_deref()),
        None => Found::Unread(format!("{}: {}", written.key, sent.trouble)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_less_than_was_acknowledged_is_stale() {
        assert!(!is_older(Some("7"), 7) && !is_older(Some("8"), 7));
        assert!(is_older(Some("6"), 7) && is_older(None, 7) && is_older(Some("x"), 7));
    }

    #[test]
    fn who_served_a_shard_is_told_in_order() {
        let mut log = Log::default();
        for (node, at) in [("a", 1), ("a", 2), ("b", 3), ("a", 4)] {
            log.serve(node, at);
        }
        let times: Vec<_> = log.served.iter().map(|s| (s.first_ms, s.last_ms)).collect();
        assert_eq!(times, [(1, 2), (3, 3), (4, 4)]);
    }
}
