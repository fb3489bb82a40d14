//! What the agent is told, by flags, environment, settings document and Secret: read once.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cachecluster_contract::agent::HANG_LIMIT_MS;
use cachecluster_contract::{AgentSettings, paths, ports};
use cachecluster_redis_admin::Password;
use cachecluster_telemetry::logs;
use clap::{Args, Parser, Subcommand};

/// Where container runtimes mount the control groups.
const CGROUP_DIR: &str = "/sys/fs/cgroup";

/// The command line.
#[derive(Parser, Debug)]
#[command(name = "cachecluster-agent", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Copy this binary into a directory, for the Redis container to run.
    Install {
        /// The directory.
        dir: PathBuf,
    },
    /// Run and look after the Redis server of this pod.
    Run(Box<RunArgs>),
}

/// Flags of `run`. The defaults are those of a Redis pod; tests put several agents on one machine.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// The operator's settings document.
    #[arg(long, default_value = paths::AGENT_SETTINGS)]
    pub settings: PathBuf,
    /// File with the cluster's password.
    #[arg(long, default_value = paths::PASSWORD_FILE)]
    pub password_file: PathBuf,
    /// The server's working directory.
    #[arg(long, default_value = paths::DATA_DIR)]
    pub data_dir: PathBuf,
    /// Directory for the rendered configuration; in memory in a pod.
    #[arg(long, default_value = paths::RUN_DIR)]
    pub run_dir: PathBuf,
    /// The server's binary: a path, or a name to be found in PATH. Default: redis-server, else valkey-server.
    #[arg(long)]
    pub server: Option<PathBuf>,
    /// The server's client port.
    #[arg(long, default_value_t = ports::REDIS)]
    pub redis_port: u16,
    /// Port of probes and metrics.
    #[arg(long, default_value_t = ports::AGENT)]
    pub admin_port: u16,
    /// Address that the other nodes shall use for this one.
    #[arg(long, env = paths::env::POD_IP)]
    pub pod_ip: IpAddr,
    /// Name of the pod, told to the other nodes and to clients as a host name besides the address.
    #[arg(long, env = paths::env::POD_NAME)]
    pub pod_name: Option<String>,
    /// For how many seconds a primary that lost its memory is held back while no replica with data can be reached.
    #[arg(long, default_value_t = 30)]
    pub hold_seconds: u64,
    /// For how many milliseconds the server may live without an answer before it is killed and replaced. Default: 5000,
    /// or the cluster's node timeout where that is longer.
    #[arg(long)]
    pub hang_limit_ms: Option<u64>,
    /// Where the agents of other nodes listen, counted from their servers' client ports. Default: on the same port as this
    /// one, as pods do; for tests, where several run on one machine.
    #[arg(long)]
    pub peer_admin_offset: Option<u16>,
    /// Where the reason of an end with an error goes, for the pod's status. Only written to when it is there.
    #[arg(long, default_value = paths::TERMINATION_LOG)]
    pub termination_log: PathBuf,
    /// Where the container's control groups are mounted, which count kills for want of memory.
    #[arg(long, default_value = CGROUP_DIR)]
    pub cgroup_dir: PathBuf,
    /// Levels of the log, in the syntax of RUST_LOG.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log: String,
    /// How log lines look: json or text.
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    pub log_format: logs::Format,
}

/// Everything that the agent goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The operator's decisions.
    pub cluster: AgentSettings,
    /// The cluster's password.
    pub password: Password,
    /// The server's working directory.
    pub data_dir: PathBuf,
    /// Directory for the rendered configuration.
    pub run_dir: PathBuf,
    /// The server's binary.
    pub server: PathBuf,
    /// The server's client port.
    pub redis_port: u16,
    /// Port on which probes and metrics are served.
    pub admin_port: u16,
    /// What the port of a node's agent is counted from the client port of its server, where not all agents have the same.
    pub peer_admin_offset: Option<u16>,
    /// The address that is announced to the other nodes.
    pub pod_ip: IpAddr,
    /// The host name that is announced besides. `None` when the pod's name is unknown or is no host name.
    pub hostname: Option<String>,
    /// Bound of the safe boot's wait.
    pub hold: Duration,
    /// For how long the server may live without an answer.
    pub hang_limit: Duration,
    /// Where the container's control groups are mounted.
    pub cgroup_dir: PathBuf,
}

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The settings document is not what this agent understands.
    #[error("{path}: {source}")]
    Document {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// No server binary.
    #[error("found none of {0} in PATH: is this an image of Redis or Valkey?")]
    NoServer(String),
}

impl RunArgs {
    /// Reads the files and finds the server.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn resolve(self, path: &std::ffi::OsStr) -> Result<Settings, SettingsError> {
        let document = read(&self.settings)?;
        let cluster = parse(&document).map_err(|source| SettingsError::Document {
            path: self.settings.clone(),
            source,
        })?;
        // Editors and `echo` end files with a newline, which is no part of the password.
        let password = read(&self.password_file)?;
        let password = Password::new(password.trim_end_matches(['\n', '\r']));
        let names = match &self.server {
            Some(server) => vec![server.clone()],
            None => ["redis-server", "valkey-server"].map(PathBuf::from).into(),
        };
        let server = find(&names, path).ok_or_else(|| {
            let names: Vec<_> = names.iter().map(|n| n.display().to_string()).collect();
            SettingsError::NoServer(names.join(", "))
        })?;
        let hang_limit = self
            .hang_limit_ms
            .unwrap_or_else(|| HANG_LIMIT_MS.max(cluster.node_timeout));
        Ok(Settings {
            cluster,
            password,
            data_dir: self.data_dir,
            run_dir: self.run_dir,
            server,
            redis_port: self.redis_port,
            admin_port: self.admin_port,
            peer_admin_offset: self.peer_admin_offset,
            pod_ip: self.pod_ip,
            hostname: self.pod_name.filter(|name| is_hostname(name)),
            hold: Duration::from_secs(self.hold_seconds),
            hang_limit: Duration::from_millis(hang_limit),
            cgroup_dir: self.cgroup_dir,
        })
    }
}

impl Settings {
    /// The port of the agent whose server has this client port.
    #[must_use]
    pub fn peer_admin_port(&self, redis_port: u16) -> u16 {
        match self.peer_admin_offset {
            Some(offset) => redis_port.wrapping_add(offset),
            None => self.admin_port,
        }
    }
}

fn parse(document: &str) -> Result<AgentSettings, serde_json::Error> {
    let settings: AgentSettings = serde_json::from_str(document)?;
    let unknown = unknown(document, &settings)?;
    if !unknown.is_empty() {
        tracing::warn!(
            ?unknown,
            "settings of a newer operator are passed over until this pod is replaced"
        );
    }
    Ok(settings)
}

/// The document's members that are not among the settings' own.
fn unknown(document: &str, settings: &AgentSettings) -> Result<Vec<String>, serde_json::Error> {
    let told: serde_json::Map<String, serde_json::Value> = serde_json::from_str(document)?;
    let known = serde_json::to_value(settings)?;
    let names = told.into_iter().map(|(name, _)| name);
    Ok(names.filter(|name| known.get(name).is_none()).collect())
}

/// Whether the server takes it for a host name. Names of pods always are.
fn is_hostname(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    (1..=253).contains(&name.len()) && name.bytes().all(plain)
}

fn read(path: &Path) -> Result<String, SettingsError> {
    fs::read_to_string(path).map_err(|source| SettingsError::Read {
        path: path.to_owned(),
        source,
    })
}

/// The first of `names` that is a file, looked up in the directories of `path` unless it has a directory of its own.
fn find(names: &[PathBuf], path: &std::ffi::OsStr) -> Option<PathBuf> {
    names.iter().find_map(|name| {
        if name.components().count() > 1 {
            return name.is_file().then(|| name.clone());
        }
        std::env::split_paths(path)
            .map(|dir| dir.join(name))
            .find(|candidate| candidate.is_file())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_is_preferred_and_valkey_found_without_it() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["redis-server", "valkey-server"].map(PathBuf::from);
        let path = dir.path().as_os_str();
        assert_eq!(find(&names, path), None);
        fs::write(dir.path().join("valkey-server"), "").unwrap();
        assert_eq!(find(&names, path), Some(dir.path().join("valkey-server")));
        fs::write(dir.path().join("redis-server"), "").unwrap();
        assert_eq!(find(&names, path), Some(dir.path().join("redis-server")));
    }

    #[test]
    fn only_names_of_hosts_are_announced() {
        for name in ["quickstart-shard-0-1", "a", "a.b"] {
            assert!(is_hostname(name), "{name}");
        }
        for name in ["", "a b", "a,b", "a_b", "\u{e4}", &"a".repeat(254)] {
            assert!(!is_hostname(name), "{name}");
        }
    }

    #[test]
    fn what_a_newer_operator_adds_is_named_and_passed_over() {
        let document = r#"{"cluster":"a","peers":"b","maxmemory":1,"eviction":"c","nodeTimeout":2,
            "persistence":"volume","fromTheFuture":{"a":1}}"#;
        let settings = parse(document).unwrap();
        assert_eq!(settings.node_timeout, 2);
        assert_eq!(unknown(document, &settings).unwrap(), ["fromTheFuture"]);
        assert!(parse("{}").is_err());
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
