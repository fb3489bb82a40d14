//! `up` and `down`: from a bare machine to a key in the cache, and back.

use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::cluster::Cluster;
use crate::packages::{self, Need};
use crate::progress::step;
use crate::{cluster, command, engine, images, install, quickstart, testbed};

/// `up`
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// A context of your kubeconfig; without it kind is used if it is installed, else the testbed
    #[arg(long)]
    context: Option<String>,
    /// Nodes of the cluster that is made
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=9))]
    nodes: u32,
    /// A value of the chart, as Helm takes it, e.g. image.registry=registry.example.com where nodes pull from there
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// `down`
#[derive(Debug, clap::Args)]
pub(crate) struct DownArgs {
    /// The context that was given to `up`: everything is removed from that cluster, which stays
    #[arg(long)]
    context: Option<String>,
}

/// `cargo xtask up`
pub(crate) fn up(args: &UpArgs) -> Result<()> {
    let cluster = Cluster::choose(args.context.as_deref());
    eprintln!("Using {}.", cluster.description());
    start(&cluster, args.nodes, &[images::DEFAULT_ENGINE])?;
    deploy(&cluster, &args.set)?;
    quickstart::print_lines(&cluster)
}

/// The cluster, with the images of this checkout and these public ones on its nodes.
///
/// # Errors
/// When a package, a program, an image or a node is not to be had.
pub(crate) fn start(cluster: &Cluster, nodes: u32, public: &[&str]) -> Result<()> {
    let programs = programs(cluster);
    if cluster.takes_images() {
        if matches!(cluster, Cluster::Testbed) {
            packages::ensure(&[Need::Testbed])?;
        }
        step("starting the Docker engine", engine::ensure)?;
    }
    // Kubernetes takes long to build the first time: meanwhile cargo builds.
    let building = thread::spawn(move || testbed::build_programs(&programs));
    if cluster.takes_images() {
        images::build()?;
        step("getting the public images", || {
            images::ensure_public(public)
        })?;
    }
    step(
        "building Kubernetes' and Helm's programs, or finding them built",
        || {
            building
                .join()
                .map_err(|_| anyhow!("the build was cut short"))?
        },
    )?;
    step(&format!("starting {}", cluster.description()), || {
        cluster.up(nodes)
    })?;
    if cluster.takes_images() {
        let mut names = images::all();
        names.extend(public.iter().map(ToString::to_string));
        step("copying the images into its nodes", || cluster.load(&names))?;
    }
    Ok(())
}

/// What has to be built for this cluster.
fn programs(cluster: &Cluster) -> Vec<&'static str> {
    let clients = ["kubectl", "helm"];
    match cluster {
        Cluster::Testbed => ["kubernetes", "coredns", "support"]
            .into_iter()
            .chain(clients)
            .collect(),
        Cluster::Kind | Cluster::Context(_) => clients.to_vec(),
    }
}

/// The chart with these values, the quickstart, and a key set and got.
///
/// # Errors
/// When one of them fails.
pub(crate) fn deploy(cluster: &Cluster, values: &[String]) -> Result<()> {
    step("installing the chart", || install::install(cluster, values))?;
    quickstart::apply(cluster)?;
    step("setting and getting a key", || {
        quickstart::set_and_get(cluster)
    })
}

/// `cargo xtask down`
pub(crate) fn down(args: &DownArgs) -> Result<()> {
    if let Some(context) = &args.context {
        let cluster = Cluster::Context(context.clone());
        return step("removing the caches and the operator", || {
            install::uninstall(&cluster)
        });
    }
    step("removing the testbed", testbed::down).context("the testbed")?;
    if engine::answers() {
        if command::find("kind").is_some() && cluster::has_kind()? {
            step("removing the kind cluster", || Cluster::Kind.down())?;
        }
        step("removing images", images::remove)?;
    }
    step(
        "stopping the Docker engine, if it was started here",
        engine::stop,
    )
}
