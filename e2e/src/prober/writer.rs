//! The checker of acknowledged writes.
//!
//! Each key belongs to one worker, which writes increasing numbers to it and notes every acknowledgement. At the end
//! each key is read back: a value below the last acknowledged one is a lost write. A value above it is none, because a
//! write whose answer did not arrive may have been done. With as many keys as there are writes, each key is written once
//! and every single write is checked; with fewer, a later write covers the loss of an earlier one. What single writes do
//! not show is an old one that comes late, over a newer one: for that, a share of the writes can go to a few keys again
//! and again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use futures::StreamExt;
use tokio::task::JoinSet;

use super::client::{Answer, Client, Connections};
use super::ledger::{Acked, Found, Losses, Written, judge, note};
use super::pace::Pace;
use super::report::WriterReport;

/// `prober writer`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Base URL of the API, e.g. http://127.0.0.1:5000
    #[arg(long)]
    url: String,
    /// How long to write
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Writes a second, all workers together
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// Writes under way at a time, at most
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=256))]
    workers: u64,
    /// Keys in all; their hash slots are spread evenly enough to meet every shard
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    keys: u64,
    /// Each so-many-th write of a worker goes to one of a few further keys that it writes again and again; 0: none
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1000))]
    again: u64,
    /// What keys start with; a writer that follows another on the same cluster needs another, or finds its values
    #[arg(long, default_value = "writer")]
    prefix: String,
    /// How long to try to read the keys back, in seconds
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    settle: u64,
}

/// Keys that are written again and again, of all workers together.
const AGAIN: u64 = 64;

/// Writes, then reads back.
///
/// # Errors
/// When the URL is none.
pub(crate) async fn run(args: &Args) -> Result<WriterReport> {
    let timeout = Duration::from_secs(10);
    let workers = args.workers.min(args.keys);
    Client::new(&args.url, timeout, false)?
        .await_answer(timeout)
        .await?;
    super::announce();
    let start = Instant::now();
    let mut running = JoinSet::new();
    for worker in 0..workers {
        let client = Client::new(&args.url, timeout, Connections::Mixed.keeps(worker))?;
        let keys = (worker..args.keys).step_by(usize::try_from(workers)?);
        let once = keys.map(|key| format!("{}-{key}", args.prefix));
        let again = (0..(AGAIN / workers).max(1))
            .map(|key| format!("{}-again-{worker}-{key}", args.prefix));
        let keys = Keys::of(once, again, args.again);
        let interval = Duration::from_secs(1) * u32::try_from(workers)? / u32::try_from(args.rate)?;
        // Their turns are spread over the interval: together they write evenly, not in bursts.
        let turns = Turns {
            start,
            first: start + interval * u32::try_from(worker)? / u32::try_from(workers)?,
            interval,
            until: start + Duration::from_secs(args.seconds),
        };
        running.spawn(write(client, keys, turns));
    }
    let mut report = WriterReport::default();
    let mut pace = Pace::default();
    let (mut written, mut losses) = (Vec::new(), Losses::default());
    while let Some(joined) = running.join_next().await {
        let tally = joined.map_err(|error| anyhow!("a worker ended early: {error}"))?;
        report.acked += tally.acked;
        report.failed += tally.failed;
        note(&mut report.examples, tally.examples);
        written.extend(tally.written);
        let replaced = tally.replaced.into_iter();
        replaced.for_each(|found| losses.count(found));
        pace.add(tally.pace);
    }
    // Not later: at the end each worker waits for a turn that does not come.
    report.gap_ms = pace.gap_ms(Duration::from_secs(args.seconds));
    report.max_ms = pace.latency_ms(1.0);

    let client = Arc::new(Client::new(&args.url, timeout, true)?);
    let until = Instant::now() + Duration::from_secs(args.settle);
    let found: Vec<Found> = futures::stream::iter(written)
        .map(|key| read_back(client.clone(), key, until))
        .buffer_unordered(16)
        .collect()
        .await;
    found.into_iter().for_each(|found| losses.count(found));
    report.lost = losses.lost;
    report.lost_first_ms = losses.first_ms;
    report.lost_last_ms = losses.last_ms;
    report.unread = losses.unread;
    note(&mut report.examples, losses.examples);
    Ok(report)
}

#[derive(Debug, Default)]
struct Tally {
    acked: u64,
    failed: u64,
    examples: Vec<String>,
    written: Vec<Written>,
    /// How keys were found before they were written again.
    replaced: Vec<Found>,
    pace: Pace,
}

/// When a worker writes.
#[derive(Clone, Copy, Debug)]
struct Turns {
    /// When all began.
    start: Instant,
    /// The worker's own first write.
    first: Instant,
    /// From one to the next.
    interval: Duration,
    /// No write begins later.
    until: Instant,
}

/// The keys of one worker.
struct Keys {
    once: Vec<Written>,
    /// Those that are written again and again.
    again: Vec<Written>,
    /// Those that were, and are not any more.
    given_up: Vec<Written>,
    /// Each so-many-th write goes to one of `again`.
    share: u64,
}

impl Keys {
    /// Of these, with each `share`th write to one of `again`.
    fn of(
        once: impl Iterator<Item = String>,
        again: impl Iterator<Item = String>,
        share: u64,
    ) -> Self {
        Self {
            once: once.map(Written::new).collect(),
            again: again.map(Written::new).collect(),
            given_up: Vec::new(),
            share,
        }
    }

    /// The key of a worker's write of this number.
    fn at(&mut self, number: u64) -> &mut Written {
        let (keys, turn) = if self.is_again(number) {
            (&mut self.again, number / self.share)
        } else {
            (&mut self.once, number)
        };
        let place = turn % keys.len() as u64;
        #[allow(clippy::cast_possible_truncation)]
        let place = place as usize;
        &mut keys[place]
    }

    fn is_again(&self, number: u64) -> bool {
        self.share > 0 && number.is_multiple_of(self.share)
    }

    /// Gives up the key of this write, which was not acknowledged: it may still come, and would look like the loss of a
    /// newer one. Another takes its place; what was acknowledged of it is looked for all the same.
    fn give_up(&mut self, number: u64) {
        if !self.is_again(number) {
            return;
        }
        let key = self.at(number);
        let name = format!("{}-{number}", key.key);
        let given_up = std::mem::replace(key, Written::new(name));
        self.given_up.push(given_up);
    }

    /// How the key of this write is found that it replaces, if it was written before: the loss would not be seen any more
    /// after it. No answer is none: the write that follows tells of that.
    async fn look(&mut self, client: &Client, number: u64) -> Option<Found> {
        if !self.is_again(number) {
            return None;
        }
        let written = self.at(number);
        written.acked?;
        let answer = client.get(&written.key).await.ok()?;
        answer_tells(&answer, written)
    }

    fn all(self) -> Vec<Written> {
        [self.once, self.again, self.given_up].concat()
    }
}

async fn write(client: Client, mut keys: Keys, turns: Turns) -> Tally {
    let mut tally = Tally::default();
    let mut due = turns.first;
    // The number grows over all keys of this worker, so it grows for each key.
    for number in 1u64.. {
        tokio::time::sleep_until(due.into()).await;
        if Instant::now() >= turns.until {
            break;
        }
        due = (due + turns.interval).max(Instant::now());
        if let Some(found) = keys.look(&client, number).await {
            tally.replaced.push(found);
        }
        let sent = Instant::now();
        let answer = client.set(&keys.at(number).key, &number.to_string()).await;
        match answer {
            Ok(answer) if answer.status == 200 => {
                tally.acked += 1;
                keys.at(number).acked = Some(Acked::now(number));
                tally.pace.note(turns.start.elapsed(), sent.elapsed());
            }
            Ok(answer) => {
                tally.failed += 1;
                keys.give_up(number);
                let what = format!("write refused: {} {}", answer.status, answer.body);
                note(&mut tally.examples, [what]);
            }
            Err(error) => {
                tally.failed += 1;
                keys.give_up(number);
                note(&mut tally.examples, [format!("write failed: {error:#}")]);
            }
        }
    }
    tally.written = keys.all();
    tally
}

/// How a key is found by an answer to a read; nothing if that tells of no value.
fn answer_tells(answer: &Answer, written: &Written) -> Option<Found> {
    let value = answer.json()["value"].as_str().map(str::to_owned);
    matches!(answer.status, 200 | 404).then(|| judge(written, value.as_deref()))
}

async fn read_back(client: Arc<Client>, written: Written, until: Instant) -> Found {
    loop {
        let why = match client.get(&written.key).await {
            Ok(answer) => match answer_tells(&answer, &written) {
                Some(found) => return found,
                None => format!("{} {}", answer.status, answer.body),
            },
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= until {
            return Found::Unread(format!("{}: {why}", written.key));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        let once = (0..10).map(|key| format!("once-{key}"));
        Keys::of(
            once,
            ["again-0", "again-1"].map(str::to_owned).into_iter(),
            4,
        )
    }

    #[test]
    fn a_share_of_the_writes_goes_to_few_keys_again_and_again() {
        let mut keys = keys();
        let used: Vec<String> = (1..=12).map(|number| keys.at(number).key.clone()).collect();
        assert_eq!(
            [&used[3], &used[7], &used[11]],
            ["again-1", "again-0", "again-1"]
        );
        let once = used.iter().filter(|key| key.starts_with("once"));
        assert_eq!(once.count(), 9);
        let mut none = Keys::of(["k".to_owned()].into_iter(), std::iter::empty(), 0);
        assert_eq!(none.at(4).key, "k");
    }

    #[test]
    fn what_a_write_replaces_may_be_no_older_than_what_was_acknowledged() {
        let mut written = Written::new("k".to_owned());
        written.acked = Some(Acked::now(8));
        let answer = |status, body: &str| Answer {
            status,
            media_type: "application/json".to_owned(),
            allow: String::new(),
            body: body.to_owned(),
        };
        let tells = |status, body| answer_tells(&answer(status, body), &written);
        assert_eq!(tells(200, r#"{"key":"k","value":"8"}"#), Some(Found::Kept));
        assert!(matches!(
            tells(200, r#"{"key":"k","value":"4"}"#),
            Some(Found::Lost { .. })
        ));
        assert!(matches!(tells(404, "{}"), Some(Found::Lost { .. })));
        assert_eq!(tells(503, "{}"), None);
    }

    #[test]
    fn a_key_with_a_write_that_may_come_late_is_looked_for_and_not_written_again() {
        let mut keys = keys();
        keys.at(4).acked = Some(Acked::now(4));
        keys.give_up(12);
        assert_eq!(keys.at(20).key, "again-1-12");
        keys.give_up(1);
        let all = keys.all();
        let there = |key: &str| all.iter().find(|written| written.key == key);
        assert_eq!(there("again-1").unwrap().acked.unwrap().number, 4);
        assert_eq!(all.len(), 13);
    }
}
