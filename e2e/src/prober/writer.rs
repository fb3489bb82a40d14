//! The checker of acknowledged writes.
//!
//! Each key belongs to one worker, which writes increasing numbers to it and notes every acknowledgement. At the end
//! each key is read back: a value below the last acknowledged one is a lost write. A value above it is none, because a
//! write whose answer did not arrive may have been done. With as many keys as there are writes, each key is written once
//! and every single write is checked; with fewer, a later write covers the loss of an earlier one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use futures::StreamExt;
use tokio::task::JoinSet;

use super::client::{Client, Connections};
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
    /// How long to try to read the keys back, in seconds
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    settle: u64,
}

/// What happened to one key.
#[derive(Clone, Debug)]
struct Written {
    key: String,
    acked: Option<Acked>,
}

/// The last acknowledged write of a key.
#[derive(Clone, Copy, Debug)]
struct Acked {
    number: u64,
    /// When the acknowledgement arrived, in milliseconds since 1970.
    at_ms: i64,
}

/// How a key was found at the end.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Kept,
    Lost { at_ms: i64, how: String },
    Unread(String),
}

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
        let keys: Vec<String> = keys.map(|key| format!("writer-{key}")).collect();
        let interval = Duration::from_secs(1) * u32::try_from(workers)? / u32::try_from(args.rate)?;
        let until = start + Duration::from_secs(args.seconds);
        running.spawn(write(client, keys, interval, start, until));
    }
    let mut report = WriterReport::default();
    let mut pace = Pace::default();
    let mut written = Vec::new();
    while let Some(joined) = running.join_next().await {
        let tally = joined.map_err(|error| anyhow!("a worker ended early: {error}"))?;
        report.acked += tally.acked;
        report.failed += tally.failed;
        note(&mut report.examples, tally.examples);
        written.extend(tally.written);
        pace.add(tally.pace);
    }
    report.gap_ms = pace.gap_ms(start.elapsed());

    let client = Arc::new(Client::new(&args.url, timeout, true)?);
    let until = Instant::now() + Duration::from_secs(args.settle);
    let found: Vec<Found> = futures::stream::iter(written)
        .map(|key| read_back(client.clone(), key, until))
        .buffer_unordered(16)
        .collect()
        .await;
    for found in found {
        match found {
            Found::Kept => {}
            Found::Lost { at_ms, how } => {
                report.lost += 1;
                report.lost_first_ms = Some(report.lost_first_ms.map_or(at_ms, |t| t.min(at_ms)));
                report.lost_last_ms = report.lost_last_ms.max(Some(at_ms));
                note(&mut report.examples, [how]);
            }
            Found::Unread(how) => {
                report.unread += 1;
                note(&mut report.examples, [how]);
            }
        }
    }
    Ok(report)
}

/// Keeps the first ten.
fn note(examples: &mut Vec<String>, more: impl IntoIterator<Item = String>) {
    let room = 10usize.saturating_sub(examples.len());
    examples.extend(more.into_iter().take(room));
}

#[derive(Debug, Default)]
struct Tally {
    acked: u64,
    failed: u64,
    examples: Vec<String>,
    written: Vec<Written>,
    pace: Pace,
}

async fn write(
    client: Client,
    keys: Vec<String>,
    interval: Duration,
    start: Instant,
    until: Instant,
) -> Tally {
    let mut tally = Tally {
        written: keys
            .into_iter()
            .map(|key| Written { key, acked: None })
            .collect(),
        ..Tally::default()
    };
    let mut due = start;
    // The number grows over all keys of this worker, so it grows for each key.
    for number in 1u64.. {
        let count = tally.written.len() as u64;
        #[allow(clippy::cast_possible_truncation)]
        let index = (number % count) as usize;
        if Instant::now() >= until {
            break;
        }
        due = (due + interval).max(Instant::now());
        let sent = Instant::now();
        let answer = client
            .set(&tally.written[index].key, &number.to_string())
            .await;
        match answer {
            Ok(answer) if answer.status == 200 => {
                tally.acked += 1;
                tally.written[index].acked = Some(Acked {
                    number,
                    at_ms: jiff::Timestamp::now().as_millisecond(),
                });
                tally.pace.note(start.elapsed(), sent.elapsed());
            }
            Ok(answer) => {
                tally.failed += 1;
                let what = format!("write refused: {} {}", answer.status, answer.body);
                note(&mut tally.examples, [what]);
            }
            Err(error) => {
                tally.failed += 1;
                note(&mut tally.examples, [format!("write failed: {error:#}")]);
            }
        }
        tokio::time::sleep_until(due.into()).await;
    }
    tally
}

async fn read_back(client: Arc<Client>, written: Written, until: Instant) -> Found {
    loop {
        let why = match client.get(&written.key).await {
            Ok(answer) if answer.status == 200 || answer.status == 404 => {
                let value = answer.json()["value"].as_str().map(str::to_owned);
                return judge(&written, value.as_deref());
            }
            Ok(answer) => format!("{} {}", answer.status, answer.body),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= until {
            return Found::Unread(format!("{}: {why}", written.key));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Whether the value read at the end is at least as new as the last acknowledged write.
fn judge(written: &Written, value: Option<&str>) -> Found {
    let Some(Acked { number, at_ms }) = written.acked else {
        return Found::Kept;
    };
    let there = match value.map(str::parse::<u64>) {
        Some(Ok(read)) if read >= number => return Found::Kept,
        Some(_) => format!("{value:?} is there"),
        None => "nothing is there".to_owned(),
    };
    let key = &written.key;
    Found::Lost {
        at_ms,
        how: format!("{key}: {number} was acknowledged at {at_ms}, {there}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledged_write_is_lost_if_an_older_value_or_none_is_there() {
        let acked = |number: Option<u64>| Written {
            key: "k".to_owned(),
            acked: number.map(|number| Acked { number, at_ms: 7 }),
        };
        assert_eq!(judge(&acked(Some(5)), Some("5")), Found::Kept);
        assert_eq!(judge(&acked(Some(5)), Some("6")), Found::Kept);
        assert_eq!(judge(&acked(None), None), Found::Kept);
        for value in [Some("4"), Some("other"), None] {
            assert!(matches!(
                judge(&acked(Some(5)), value),
                Found::Lost { at_ms: 7, .. }
            ));
        }
    }
}
