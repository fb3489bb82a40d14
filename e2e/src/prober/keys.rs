//! Numbered keys: written before something happens, looked for after it.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;
use futures::StreamExt;

use super::client::Client;
use super::report::KeysReport;

/// `prober keys`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Base URL of the API, e.g. http://127.0.0.1:5000
    #[arg(long)]
    url: String,
    /// What to do with each key
    #[arg(value_enum)]
    action: Action,
    /// Number of keys
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    count: u64,
    /// Start of the keys' names, of letters, digits and '-'
    #[arg(long, default_value = "numbered")]
    prefix: String,
    /// How long to go on trying where there is no answer, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    settle: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Write it
    Write,
    /// Look for it
    Read,
}

/// What became of one key.
enum Seen {
    Present,
    Absent,
    Other(String),
}

/// Writes or reads every key.
///
/// # Errors
/// When the URL is none.
pub(crate) async fn run(args: &Args) -> Result<KeysReport> {
    let client = Client::new(&args.url, Duration::from_secs(10), true)?;
    let until = Instant::now() + Duration::from_secs(args.settle);
    super::announce();
    let seen: Vec<Seen> = futures::stream::iter(0..args.count)
        .map(|number| {
            let (key, value) = (format!("{}-{number}", args.prefix), format!("v{number}"));
            one(&client, args.action, key, value, until)
        })
        .buffer_unordered(16)
        .collect()
        .await;
    let mut report = KeysReport::default();
    for seen in seen {
        match seen {
            Seen::Present => report.present += 1,
            Seen::Absent => report.absent += 1,
            Seen::Other(how) => {
                report.other += 1;
                if report.examples.len() < 5 {
                    report.examples.push(how);
                }
            }
        }
    }
    Ok(report)
}

async fn one(client: &Client, action: Action, key: String, value: String, until: Instant) -> Seen {
    loop {
        let answer = match action {
            Action::Write => client.set(&key, &value).await,
            Action::Read => client.get(&key).await,
        };
        let why = match answer {
            Ok(answer) if answer.status == 404 => return Seen::Absent,
            Ok(answer) if answer.status == 200 => {
                let right = action == Action::Write || answer.json()["value"] == value.as_str();
                return if right {
                    Seen::Present
                } else {
                    Seen::Other(format!("{key}: {}", answer.body))
                };
            }
            Ok(answer) => format!("{} {}", answer.status, answer.body),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= until {
            return Seen::Other(format!("{key}: {why}"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
