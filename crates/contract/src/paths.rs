//! Paths inside the pods, and the keys of the Secrets and ConfigMaps that are mounted there.

/// Where the init container puts the agent's binary (a volume of its own).
pub const AGENT_DIR: &str = "/opt/cachecluster";
/// The agent's binary in a Redis pod.
pub const AGENT_BINARY: &str = "/opt/cachecluster/cachecluster-agent";
/// Redis's working directory: `nodes.conf`, snapshots, append-only files.
pub const DATA_DIR: &str = "/data";
/// Writable scratch of the agent, in memory: the rendered configuration with its secrets.
pub const RUN_DIR: &str = "/run/cachecluster";
/// The agent's settings document (an [`AgentSettings`](crate::AgentSettings) as JSON), mounted from a ConfigMap.
pub const AGENT_SETTINGS: &str = "/etc/cachecluster/settings/settings.json";
/// Directory of [`AGENT_SETTINGS`].
pub const AGENT_SETTINGS_DIR: &str = "/etc/cachecluster/settings";
/// Key of the settings document in the ConfigMap.
pub const SETTINGS_KEY: &str = "settings.json";
/// Where Kubernetes takes a container's termination message from; writable also where the root file system is not. The
/// agent writes plain text there when it ends with an error: what the server printed last, then a line with the reason.
pub const TERMINATION_LOG: &str = "/dev/termination-log";
/// How many bytes of [`TERMINATION_LOG`] Kubernetes keeps.
pub const TERMINATION_LOG_BYTES: usize = 4096;
/// Directory into which the password Secret is mounted.
pub const AUTH_DIR: &str = "/etc/cachecluster/auth";
/// The password file, in Redis pods and in API pods.
pub const PASSWORD_FILE: &str = "/etc/cachecluster/auth/password";
/// Key of the password in the Secret.
pub const PASSWORD_KEY: &str = "password";

/// Environment variables that the agent reads: facts about its own pod, by the downward API. Never secrets.
pub mod env {
    /// The pod's name, e.g. `quickstart-shard-0-1`, announced to the other nodes as a host name.
    pub const POD_NAME: &str = "POD_NAME";
    /// The pod's IP address, announced to the other nodes.
    pub const POD_IP: &str = "POD_IP";
}
