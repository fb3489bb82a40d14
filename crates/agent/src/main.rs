//! `cachecluster-agent`: installs itself into Redis pods, and runs as their first process.

use cachecluster_agent::{install, run, settings};
use clap::Parser;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match settings::Cli::parse().command {
        settings::Command::Install { dir } => Ok(install::install(&dir)?),
        settings::Command::Run(args) => run(*args).await,
    }
}
