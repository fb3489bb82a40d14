//! System packages: what the tasks need from Debian. Installed when root on Debian, else named with the command to type.

use std::process::Command;

use anyhow::{Result, bail};

use crate::command;
use crate::progress::Step;

/// Who needs it, the program that shows its presence, and its package.
const NEEDED: &[(Need, &str, &str)] = &[
    (Need::Engine, "docker", "docker.io"),
    (Need::Engine, "cc", "gcc libc6-dev"),
    (Need::Engine, "debootstrap", "debootstrap"),
    (Need::Daemon, "dockerd", "docker.io"),
    (Need::Testbed, "containerd", "containerd"),
    (Need::Testbed, "runc", "runc"),
    (Need::Testbed, "nft", "nftables"),
    (Need::Testbed, "iptables", "iptables"),
    (Need::Testbed, "etcd", "etcd-server"),
    (Need::Testbed, "conntrack", "conntrack"),
    (Need::Testbed, "ip", "iproute2"),
    (Need::Testbed, "openssl", "openssl"),
    (Need::Tests, "redis-server", "redis-server"),
    (Need::Tests, "redis-cli", "redis-tools"),
    (Need::Tests, "iptables", "iptables"),
    (Need::Tests, "ip", "iproute2"),
    (Need::Compose, "docker-compose", "docker-compose"),
];

/// Where Debian, and others, put the CNI plugins.
const CNI_PLUGINS: &[&str] = &[
    "/usr/lib/cni/ptp",
    "/opt/cni/bin/ptp",
    "/usr/libexec/cni/ptp",
];

/// What a task is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Build and run images.
    Engine,
    /// Start an engine here, where none answers.
    Daemon,
    /// Start the test cluster.
    Testbed,
    /// Run tests with real Redis servers, some in networks of their own.
    Tests,
    /// Run docker-compose.
    Compose,
}

/// Makes sure that the packages for these needs are there.
///
/// # Errors
/// With the command to type, when something is missing and this is not root on Debian; when apt-get fails.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root || command::find("apt-get").is_none() {
        bail!(
            "these packages are missing; install them with:\n  sudo apt-get update && sudo apt-get install -y {}",
            missing.join(" ")
        );
    }
    let step = Step::start(format!("installing {}", missing.join(" ")));
    command::run("apt-update", Command::new("apt-get").args(["update", "-q"]))?;
    command::run(
        "apt-install",
        Command::new("apt-get")
            .args(["install", "-y", "-q", "--no-install-recommends"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive")
            // In single-user mode packages do not start their services: a Redis of the system's would hold port 6379.
            .env("RUNLEVEL", "1"),
    )?;
    step.done();
    Ok(())
}

fn missing(needs: &[Need]) -> Vec<&'static str> {
    let absent = NEEDED
        .iter()
        .filter(|(need, program, _)| needs.contains(need) && !is_there(program))
        .flat_map(|(_, _, packages)| packages.split(' '));
    let cni = needs.contains(&Need::Testbed)
        && !CNI_PLUGINS
            .iter()
            .any(|plugin| std::path::Path::new(plugin).exists());
    absent
        .chain(cni.then_some("containernetworking-plugins"))
        .collect()
}

fn is_there(program: &str) -> bool {
    command::find(program).is_some()
        || (program == "docker-compose"
            && command::succeeds(Command::new("docker").args(["compose", "version"])))
}
