//! The testbed: `testbed/cluster`, three nodes on this machine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};
use clap::Subcommand;

use crate::command;

/// The testbed's command.
pub(crate) const SCRIPT: &str = "testbed/cluster";

/// What can be done to nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeAction {
    /// Power it off: processes, pods and memory are gone at once
    Kill {
        /// Its number, from 1
        node: u32,
    },
    /// Power it on again
    Start {
        /// Its number, from 1
        node: u32,
    },
    /// Drop every packet between two ends: numbers of nodes, or `cp` for the control plane
    Partition {
        /// One end
        a: String,
        /// The other
        b: String,
    },
    /// End all partitions
    Heal,
    /// Kill the API server
    StopApiserver,
    /// Start it again
    StartApiserver,
}

/// `cargo xtask node …`
pub(crate) fn node(action: &NodeAction) -> Result<()> {
    let words: Vec<String> = match action {
        NodeAction::Kill { node } => vec!["kill-node".into(), node.to_string()],
        NodeAction::Start { node } => vec!["start-node".into(), node.to_string()],
        NodeAction::Partition { a, b } => vec!["partition".into(), a.clone(), b.clone()],
        NodeAction::Heal => vec!["heal".into()],
        NodeAction::StopApiserver => vec!["apiserver".into(), "stop".into()],
        NodeAction::StartApiserver => vec!["apiserver".into(), "start".into()],
    };
    let status = cluster().args(words).status()?;
    if !status.success() {
        bail!("the testbed refused");
    }
    Ok(())
}

/// Starts it, or does nothing if it runs with that many nodes.
///
/// # Errors
/// Not root, or something does not come up; the log tells what.
pub(crate) fn up(nodes: u32) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "the testbed makes network namespaces: run this as root, or install kind, or name a --context"
        );
    }
    command::run("testbed-up", cluster().args(["up", &nodes.to_string()]))
}

/// Stops it and removes every trace; nothing if there is none.
///
/// # Errors
/// When something does not end, or it runs and this is not root.
pub(crate) fn down() -> Result<()> {
    // Whoever uses kind need not be root to find that there is no testbed.
    if !nix::unistd::geteuid().is_root() && !state().exists() {
        return Ok(());
    }
    command::run("testbed-down", cluster().arg("down"))
}

/// Where the script keeps the state of what it started.
fn state() -> PathBuf {
    std::env::var_os("CLUSTER_ROOT")
        .map_or_else(|| "/var/lib/cachecluster-testbed".into(), PathBuf::from)
}

/// Whether it runs.
pub(crate) fn is_up() -> bool {
    command::succeeds(cluster().arg("status"))
}

/// How many nodes it was started with, while it runs.
pub(crate) fn nodes() -> Option<u32> {
    let nodes = std::fs::read_to_string(state().join("nodes")).ok()?;
    is_up().then(|| nodes.trim().parse().ok())?
}

/// Its kubeconfig, valid on this machine while it runs.
///
/// # Errors
/// When the script cannot be run.
pub(crate) fn kubeconfig() -> Result<PathBuf> {
    Ok(command::output(cluster().arg("kubeconfig"))?.into())
}

/// Copies images into its nodes.
///
/// # Errors
/// When one is not in the engine, or a node refuses.
pub(crate) fn load(images: &[String]) -> Result<()> {
    command::run("load", cluster().arg("load").args(images))
}

/// Builds the programs that no package has; quick when they are there.
///
/// # Errors
/// When Go is missing or a build fails.
pub(crate) fn build_programs(names: &[&str]) -> Result<()> {
    command::run(
        &format!("programs-{}", names.join("-")),
        Command::new("testbed/binaries").arg("ensure").args(names),
    )
}

/// Where such a program is: on the PATH, or built.
///
/// # Errors
/// When the script cannot be run.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    Ok(command::output(Command::new("testbed/binaries").args(["path", name]))?.into())
}

fn cluster() -> Command {
    Command::new(SCRIPT)
}
