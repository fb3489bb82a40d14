//! `cachecluster-agent`: installs itself into Redis pods, and runs as their first process.

use cachecluster_agent::{install, run, settings};
use clap::Parser;

fn main() -> anyhow::Result<()> {
    match settings::Cli::parse().command {
        settings::Command::Install { dir } => Ok(install::install(&dir)?),
        settings::Command::Run(args) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let outcome = runtime.block_on(run(*args));
            // A thread that waits for a disk that hangs does not keep the pod.
            runtime.shutdown_background();
            outcome
        }
    }
}
