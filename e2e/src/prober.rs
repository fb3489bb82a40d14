//! The client side: what a user's program would do to a cache, and what it saw, as one JSON line.
//!
//! The last line on stdout is the report. The exit status is 0 if everything was as promised, 1 if something was not,
//! and 2 if the prober itself could not work.

pub(crate) mod client;
mod contract;
mod keys;
mod ledger;
mod load;
mod names;
mod pace;
mod redis_check;
mod redis_writer;
pub(crate) mod report;
mod router;
mod slots;
mod writer;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::Serialize;

/// `prober …`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    probe: Probe,
}

#[derive(Debug, Subcommand)]
enum Probe {
    /// The whole HTTP contract, body by body and code by code
    Contract(contract::Args),
    /// Mixed requests for some time: failures, latency, longest gap
    Load(load::Args),
    /// 2,000 mixed requests by 100 workers, as fast as they go
    Burst(load::BurstArgs),
    /// Increasing values under many keys; every acknowledged one must be there at the end
    Writer(writer::Args),
    /// Write numbered keys, or look whether they are there
    Keys(keys::Args),
    /// Plain Redis clients at the cluster's Services
    RedisCheck(redis_check::Args),
    /// As `writer`, through Redis Cluster itself, with the gaps of each shard and stale reads
    RedisWriter(redis_writer::Args),
}

/// Runs one probe, prints its report, and says whether all was as promised.
///
/// # Errors
/// When the probe could not do its work at all, e.g. for an unreadable password file.
pub(crate) async fn run(args: Args) -> Result<bool> {
    match args.probe {
        Probe::Contract(args) => {
            let report = contract::run(&args).await?;
            print(&report, report.failures.is_empty())
        }
        Probe::Load(args) => {
            let report = load::run(&args).await?;
            print(&report, report.failed == 0)
        }
        Probe::Burst(args) => {
            let report = load::burst(&args).await?;
            print(&report, report.failed == 0)
        }
        Probe::Writer(args) => {
            let report = writer::run(&args).await?;
            print(&report, report.lost == 0 && report.unread == 0)
        }
        Probe::Keys(args) => {
            let report = keys::run(&args).await?;
            print(&report, report.other == 0)
        }
        Probe::RedisCheck(args) => {
            let report = redis_check::run(&args).await?;
            print(&report, report.failures.is_empty())
        }
        Probe::RedisWriter(args) => {
            let report = redis_writer::run(&args).await?;
            print(&report, report.lost == 0 && report.unread == 0)
        }
    }
}

fn print(report: &impl Serialize, good: bool) -> Result<bool> {
    println!("{}", serde_json::to_string(report).context("the report")?);
    Ok(good)
}

/// Tells whoever reads the log that requests are on their way from now on.
fn announce() {
    println!("{}", report::STARTED);
}
