//! What the process is told: [`Args`] as they were given, [`Settings`] as the rest of the crate reads them.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use cachecluster_contract::ports;
use cachecluster_telemetry::logs::Format;
use clap::{Parser, Subcommand};

use crate::check::CheckArgs;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "cachecluster-operator",
    version,
    about = "The Kubernetes operator for CacheCluster resources"
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator
    Run(Box<RunArgs>),
    /// Print the CustomResourceDefinition as YAML
    Crd,
    /// Prove an installation with a small cluster of its own, which is deleted again
    Check(CheckArgs),
}

/// Arguments of `run`. Each can be given by environment as well.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Image that the agent is copied from into each Redis pod
    #[arg(long, env = "OPERATOR_AGENT_IMAGE")]
    agent_image: String,
    /// Image of the HTTP API
    #[arg(long, env = "OPERATOR_API_IMAGE")]
    api_image: String,
    /// When nodes pull images: Always, IfNotPresent or Never
    #[arg(long, env = "OPERATOR_IMAGE_PULL_POLICY", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: String,
    /// Secret for a private registry, which every namespace with clusters must have; repeat it or separate by commas
    #[arg(long, env = "OPERATOR_IMAGE_PULL_SECRETS", value_delimiter = ',')]
    image_pull_secret: Vec<String>,
    /// Namespace to look after; repeat it or separate by commas. Without it: all namespaces
    #[arg(long, env = "OPERATOR_WATCH_NAMESPACE", value_delimiter = ',')]
    watch_namespace: Vec<String>,
    /// Address of /metrics, /livez and /readyz; all of IPv4 instead where the machine has no IPv6
    #[arg(long, env = "OPERATOR_ADMIN_LISTEN", default_value_t = SocketAddr::from((Ipv6Addr::UNSPECIFIED, ports::OPERATOR_ADMIN)))]
    admin_listen: SocketAddr,
    /// The operator's own namespace: its lease is there, and its pods may reach Redis from there
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    lease_namespace: String,
    /// The operator's own name, unique among its replicas
    #[arg(long, env = "POD_NAME", default_value_t = identity())]
    identity: String,
    /// Clusters worked on at a time
    #[arg(long, env = "OPERATOR_CONCURRENCY", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Longest time for one pass over one cluster, in seconds
    #[arg(long, env = "OPERATOR_RECONCILE_TIMEOUT", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    reconcile_timeout: u64,
    /// Silence between Redis nodes, in milliseconds, after which their votes may replace a primary
    #[arg(long, env = "OPERATOR_NODE_TIMEOUT", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(500..=60_000))]
    node_timeout: u64,
    /// What to log, in RUST_LOG's syntax
    #[arg(long, env = "OPERATOR_LOG", default_value = "info")]
    log: String,
    /// How log lines look: text or json
    #[arg(long, env = "OPERATOR_LOG_FORMAT", default_value = "text")]
    log_format: Format,
}

/// Settings of a running operator.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What goes into the pods of every cluster.
    pub workload: Workload,
    /// Namespaces to look after; empty for all.
    pub namespaces: Vec<String>,
    /// Address of the admin port.
    pub admin_listen: SocketAddr,
    /// Name of this process among the operator's replicas.
    pub identity: String,
    /// Clusters worked on at a time.
    pub concurrency: u16,
    /// Longest time for one pass.
    pub reconcile_timeout: Duration,
    /// Filter of the log.
    pub log: String,
    /// Look of the log.
    pub log_format: Format,
}

/// The part of the settings that decides what pods look like.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Image of the agent.
    pub agent_image: String,
    /// Image of the HTTP API.
    pub api_image: String,
    /// `imagePullPolicy` of both, and of the engine.
    pub image_pull_policy: String,
    /// Secrets of each cluster's own namespace with which its pods pull images.
    pub image_pull_secrets: Vec<String>,
    /// Namespace of the operator's own pods: they have to reach Redis.
    pub operator_namespace: String,
    /// `cluster-node-timeout`, in milliseconds.
    pub node_timeout: u64,
}

impl From<Box<RunArgs>> for Settings {
    fn from(args: Box<RunArgs>) -> Self {
        Self {
            workload: Workload {
                agent_image: args.agent_image,
                api_image: args.api_image,
                image_pull_policy: args.image_pull_policy,
                image_pull_secrets: names(args.image_pull_secret),
                operator_namespace: args.lease_namespace,
                node_timeout: args.node_timeout,
            },
            namespaces: names(args.watch_namespace),
            admin_listen: args.admin_listen,
            identity: args.identity,
            concurrency: args.concurrency,
            reconcile_timeout: Duration::from_secs(args.reconcile_timeout),
            log: args.log,
            log_format: args.log_format,
        }
    }
}

/// Names without what is around them in a list that people wrote.
fn names(list: Vec<String>) -> Vec<String> {
    list.into_iter()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

/// A name for a process that no pod name was given to.
fn identity() -> String {
    format!("operator-{:08x}", rand::random::<u32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(more: &[&str]) -> Settings {
        let words = [
            "cachecluster-operator",
            "run",
            "--agent-image",
            "agent:1",
            "--api-image",
            "api:1",
        ];
        match Args::try_parse_from([&words, more].concat())
            .unwrap()
            .command
        {
            Command::Run(args) => args.into(),
            _ => panic!("another command"),
        }
    }

    #[test]
    fn without_namespaces_all_are_looked_after() {
        assert!(settings(&[]).namespaces.is_empty());
        assert!(settings(&["--watch-namespace", ""]).namespaces.is_empty());
    }

    #[test]
    fn secrets_for_registries_are_as_many_as_are_given() {
        assert!(settings(&[]).workload.image_pull_secrets.is_empty());
        let given = settings(&["--image-pull-secret", "one, two", "--image-pull-secret", ""]);
        assert_eq!(given.workload.image_pull_secrets, ["one", "two"]);
    }

    #[test]
    fn namespaces_are_repeated_or_separated_by_commas() {
        let given = settings(&["--watch-namespace", "a, b", "--watch-namespace", "c"]);
        assert_eq!(given.namespaces, ["a", "b", "c"]);
    }
}
