//! `measure`: faults one by one on the cluster that `up` made, several times each, as a table.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::cluster::Cluster;
use crate::packages::{self, Need};
use crate::{images, install, suite, testbed, up};

/// `measure`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Words: faults whose name contains one of them
    filter: Vec<String>,
    /// How often each
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// Put the table into this page, between its two marks
    #[arg(long)]
    write: Option<PathBuf>,
    /// Use the operator and the images as they are on the cluster
    #[arg(long)]
    as_installed: bool,
    /// Image of the prober, if it is another one than this checkout's
    #[arg(long)]
    prober_image: Option<String>,
    /// The context that was given to `up`
    #[arg(long)]
    context: Option<String>,
}

/// `cargo xtask measure`
pub(crate) fn task(args: &Args) -> Result<()> {
    let cluster = Cluster::choose(args.context.as_deref());
    packages::ensure(&[Need::Tests])?;
    if cluster.takes_images() && !args.as_installed {
        up::start(&cluster, testbed::nodes().unwrap_or(3), images::ENGINES)?;
        install::install(&cluster, &[])?;
    }
    let mut measure = suite::e2e_command(&cluster, "measure")?;
    measure.args(["--runs", &args.runs.to_string()]);
    if let Some(image) = &args.prober_image {
        measure.args(["--prober-image", image]);
    }
    if let Some(page) = &args.write {
        measure.arg("--write").arg(page);
    }
    if !measure.args(&args.filter).status()?.success() {
        bail!("some runs could not be made, or broke a promise");
    }
    Ok(())
}
