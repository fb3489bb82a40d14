//! `chaos`: random faults by a seed on the cluster that `up` made.

use anyhow::{Result, bail};

use crate::cluster::Cluster;
use crate::packages::{self, Need};
use crate::{command, images, install, suite, testbed, up};

/// `chaos`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A number, or `random`; the same seed gives the same rounds. Absent: that of the short run in `test`
    #[arg(long)]
    seed: Option<String>,
    /// Begin no round after so many minutes
    #[arg(long, conflicts_with = "rounds")]
    minutes: Option<u64>,
    /// Play so many rounds
    #[arg(long)]
    rounds: Option<u32>,
    /// Play this round only, or these, e.g. 7 or 5-7
    #[arg(long, conflicts_with_all = ["minutes", "rounds"])]
    round: Option<String>,
    /// Print what would be done
    #[arg(long)]
    list: bool,
    /// Stop at the first round that fails, and leave its cluster for a look at it
    #[arg(long)]
    stop_at_first: bool,
    /// Build and install nothing: use what is on the cluster, and the program as it was built last
    #[arg(long)]
    as_installed: bool,
    /// Image of the prober, if it is another one than this checkout's
    #[arg(long)]
    prober_image: Option<String>,
    /// The context that was given to `up`
    #[arg(long)]
    context: Option<String>,
}

/// `cargo xtask chaos`
pub(crate) fn task(args: &Args) -> Result<()> {
    let cluster = Cluster::choose(args.context.as_deref());
    packages::ensure(&[Need::Tests])?;
    if args.as_installed {
        // Nothing.
    } else if cluster.takes_images() {
        up::start(&cluster, testbed::nodes().unwrap_or(3), images::ENGINES)?;
        install::install(&cluster, &[])?;
    } else {
        images::build()?;
    }
    let mut chaos = suite::e2e_command(&cluster, "chaos")?;
    let minutes = args.minutes.map(|minutes| minutes.to_string());
    let rounds = args.rounds.map(|rounds| rounds.to_string());
    for (option, value) in [
        ("--seed", &args.seed),
        ("--minutes", &minutes),
        ("--rounds", &rounds),
        ("--round", &args.round),
        ("--prober-image", &args.prober_image),
    ] {
        if let Some(value) = value {
            chaos.args([option, value]);
        }
    }
    if args.list {
        chaos.arg("--list");
    }
    if args.stop_at_first {
        chaos.arg("--stop-at-first");
    }
    if !chaos.status()?.success() {
        bail!("chaos was not survived");
    }
    Ok(())
}

/// The short run of `test`, a few rounds of a seed that is the same for everybody: how many were survived.
///
/// # Errors
/// When one was not.
pub(crate) fn check(cluster: &Cluster) -> Result<usize> {
    let mut chaos = suite::e2e_command(cluster, "chaos")?;
    command::run("chaos", &mut chaos)?;
    suite::passed_of_table("chaos", "fault ")
}
