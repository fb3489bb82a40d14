//! Mixed requests, and every answer looked at.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use tokio::task::JoinSet;

use super::client::{Answer, Client, Connections};
use super::pace::Pace;
use super::report::LoadReport;

/// `prober load`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Base URL of the API, e.g. http://127.0.0.1:5000
    #[arg(long)]
    url: String,
    /// How long to go on
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Requests a second, all workers together
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// Requests under way at a time, at most
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024))]
    workers: u64,
    /// How connections are used
    #[arg(long, value_enum, default_value_t = Connections::Mixed)]
    connections: Connections,
    /// Number of keys
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    keys: u64,
    /// When a request counts as failed, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
}

/// `prober burst`
#[derive(Debug, clap::Args)]
pub(crate) struct BurstArgs {
    /// Base URL of the API, e.g. http://127.0.0.1:5000
    #[arg(long)]
    url: String,
    /// Requests in all
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    requests: u64,
    /// Requests under way at a time
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1024))]
    workers: u64,
    /// How connections are used
    #[arg(long, value_enum, default_value_t = Connections::PerRequest)]
    connections: Connections,
}

/// How long to wait for a first answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one worker does.
#[derive(Clone, Copy, Debug)]
struct Share {
    /// At most so many requests.
    requests: u64,
    /// At most so long.
    time: Duration,
    /// At least so long from one request's start to the next one's; zero for as fast as it goes.
    interval: Duration,
    keys: u64,
}

/// Requests at a steady rate for some time.
///
/// # Errors
/// When the URL is none.
pub(crate) async fn run(args: &Args) -> Result<LoadReport> {
    let share = Share {
        requests: u64::MAX,
        time: Duration::from_secs(args.seconds),
        interval: Duration::from_secs(1) * u32::try_from(args.workers)? / u32::try_from(args.rate)?,
        keys: args.keys,
    };
    let timeout = Duration::from_secs(args.timeout);
    drive(&args.url, args.workers, args.connections, timeout, |_| {
        share
    })
    .await
}

/// A number of requests as fast as they go.
///
/// # Errors
/// When the URL is none.
pub(crate) async fn burst(args: &BurstArgs) -> Result<LoadReport> {
    let share = |worker| Share {
        requests: args.requests / args.workers + u64::from(worker < args.requests % args.workers),
        time: Duration::from_secs(300),
        interval: Duration::ZERO,
        keys: 200,
    };
    let timeout = Duration::from_secs(30);
    let report = drive(&args.url, args.workers, args.connections, timeout, share).await?;
    let answered = report.ok + report.failed;
    ensure!(
        answered == args.requests,
        "{answered} of {} requests were sent within five minutes",
        args.requests
    );
    Ok(report)
}

async fn drive(
    url: &str,
    workers: u64,
    connections: Connections,
    timeout: Duration,
    share: impl Fn(u64) -> Share,
) -> Result<LoadReport> {
    let keeping = Client::new(url, timeout, true)?;
    let closing = Client::new(url, timeout, false)?;
    closing.await_answer(PATIENCE).await?;
    super::announce();
    let start = Instant::now();
    let mut running = JoinSet::new();
    for worker in 0..workers {
        let client = if connections.keeps(worker) {
            keeping.clone()
        } else {
            closing.clone()
        };
        running.spawn(work(client, worker, start, share(worker)));
    }
    let mut pace = Pace::default();
    let mut failures = BTreeMap::new();
    let mut ok = 0;
    while let Some(joined) = running.join_next().await {
        let tally = joined.map_err(|error| anyhow!("a worker ended early: {error}"))?;
        ok += tally.ok;
        pace.add(tally.pace);
        for (kind, count) in tally.failures {
            *failures.entry(kind).or_default() += count;
        }
    }
    let taken = start.elapsed();
    Ok(LoadReport {
        ok,
        failed: failures.values().sum(),
        p50_ms: pace.latency_ms(0.5),
        p99_ms: pace.latency_ms(0.99),
        max_ms: pace.latency_ms(1.0),
        gap_ms: pace.gap_ms(taken),
        seconds: (taken.as_secs_f64() * 100.0).round() / 100.0,
        failures,
    })
}

#[derive(Debug, Default)]
struct Tally {
    ok: u64,
    failures: BTreeMap<String, u64>,
    pace: Pace,
}

async fn work(client: Client, worker: u64, start: Instant, share: Share) -> Tally {
    let mut tally = Tally::default();
    let mut due = start;
    for turn in 0..share.requests {
        if start.elapsed() >= share.time {
            break;
        }
        // A worker that fell behind does not catch up: the rate is an upper bound.
        due = (due + share.interval).max(Instant::now());
        let sent = Instant::now();
        match Request::of(worker, turn, share.keys).send(&client).await {
            Ok(()) => {
                tally.ok += 1;
                tally.pace.note(start.elapsed(), sent.elapsed());
            }
            Err(kind) => {
                // As many kinds as a reader can take in; the count stays right.
                let kind = if tally.failures.len() < 8 || tally.failures.contains_key(&kind) {
                    kind
                } else {
                    "others".to_owned()
                };
                *tally.failures.entry(kind).or_default() += 1;
            }
        }
        if !share.interval.is_zero() {
            tokio::time::sleep_until(due.into()).await;
        }
    }
    tally
}

/// One request of the mix: five reads, four writes, one removal in ten.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    Get(u64),
    Set(u64, u64),
    Delete(u64),
}

impl Request {
    /// The same numbers make the same request, and workers spread over all keys.
    fn of(worker: u64, turn: u64, keys: u64) -> Self {
        let step = worker.wrapping_mul(7_919).wrapping_add(turn);
        let key = step.wrapping_mul(2_654_435_761) % keys;
        match (turn + worker) % 10 {
            0 | 2 | 4 | 6 | 8 => Self::Get(key),
            9 => Self::Delete(key),
            _ => Self::Set(key, turn),
        }
    }

    /// Sends it; the error is the kind of failure, in few words.
    async fn send(&self, client: &Client) -> Result<(), String> {
        let answer = match self {
            Self::Get(key) => client.get(&format!("load-{key}")).await,
            Self::Set(key, turn) => {
                let value = format!("load-{key}:{turn}");
                client.set(&format!("load-{key}"), &value).await
            }
            Self::Delete(key) => client.delete(&format!("load-{key}")).await,
        };
        let answer = answer.map_err(|error| kind_of(&error))?;
        if self.promised(&answer) {
            Ok(())
        } else {
            let body: String = answer.body.chars().take(120).collect();
            Err(format!("{} {body}", answer.status))
        }
    }

    /// Whether the answer is one that the contract gives to this request, with a value of this key.
    fn promised(&self, answer: &Answer) -> bool {
        let body = answer.body.as_str();
        match (self, answer.status) {
            (Self::Set(..), 200) => body == r#"{"message":"Cache set successfully!"}"#,
            (Self::Delete(_), 200) => body == r#"{"message":"Key deleted"}"#,
            (Self::Get(key), 200) => answer.json()["value"]
                .as_str()
                .is_some_and(|value| value.starts_with(&format!("load-{key}:"))),
            (Self::Get(_) | Self::Delete(_), 404) => body == r#"{"error":"Key not found"}"#,
            _ => false,
        }
    }
}

/// What went wrong on the way, without addresses and other parts that make each failure a kind of its own.
fn kind_of(error: &anyhow::Error) -> String {
    match error.downcast_ref::<reqwest::Error>() {
        Some(error) if error.is_timeout() => "no answer in time".to_owned(),
        Some(error) if error.is_connect() => format!("connect: {}", root(error)),
        Some(error) => format!("request: {}", root(error)),
        None => error.to_string(),
    }
}

fn root(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status,
            media_type: "application/json".to_owned(),
            allow: String::new(),
            body: body.to_owned(),
        }
    }

    #[test]
    fn ten_requests_are_five_reads_four_writes_and_a_removal() {
        for worker in 0..3 {
            let ten: Vec<_> = (0..10).map(|turn| Request::of(worker, turn, 50)).collect();
            let count = |like: fn(&Request) -> bool| ten.iter().filter(|r| like(r)).count();
            assert_eq!(count(|r| matches!(r, Request::Get(_))), 5);
            assert_eq!(count(|r| matches!(r, Request::Set(..))), 4);
            assert_eq!(count(|r| matches!(r, Request::Delete(_))), 1);
        }
    }

    #[test]
    fn another_keys_value_and_a_server_error_are_failures() {
        let get = Request::Get(7);
        assert!(get.promised(&answer(200, r#"{"key":"load-7","value":"load-7:3"}"#)));
        assert!(get.promised(&answer(404, r#"{"error":"Key not found"}"#)));
        assert!(!get.promised(&answer(200, r#"{"key":"load-7","value":"load-77:3"}"#)));
        assert!(!get.promised(&answer(503, r#"{"error":"busy"}"#)));
        assert!(!Request::Set(7, 1).promised(&answer(404, r#"{"error":"Key not found"}"#)));
    }
}
