//! The server's configuration file, from settings and the pod's facts. Pure.
//!
//! Every directive here exists in Redis 7.0 to 8.x and in Valkey 8 and 9.

use std::fmt::Write;

use cachecluster_contract::Persistence;
use cachecluster_contract::agent::RESERVED_DIRECTIVES;
use cachecluster_contract::durable::{self, Fsync};
use cachecluster_topology::NodeView;

use crate::settings::Settings;

/// Name of the file in which the server keeps its identity and what it knows of the cluster.
pub const NODES_CONF: &str = "nodes.conf";

/// Why no configuration can be rendered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A directive of the user's that belongs to the operator.
    #[error("engine.config may not set {0}: the operator decides it")]
    Reserved(String),
    /// The name of a directive of the user's is none.
    #[error(
        "engine.config: {0:?} is no name of a directive (lower case letters, digits and dashes)"
    )]
    Name(String),
    /// A value with a line break or another control character in it. The value itself may be secret.
    #[error("the value of {0} has a control character in it")]
    Value(String),
}

const MIB: u64 = 1024 * 1024;

/// Renders `redis.conf`.
///
/// # Errors
/// See [`ConfigError`].
pub fn render(settings: &Settings) -> Result<String, ConfigError> {
    let cluster = &settings.cluster;
    let mut file = File::default();
    file.raw("bind", "* -::*");
    file.raw("port", settings.redis_port);
    // Everybody has to authenticate; protected mode would refuse other pods besides.
    file.raw("protected-mode", "no");
    file.quoted("requirepass", settings.password.expose())?;
    file.quoted("masterauth", settings.password.expose())?;
    file.quoted("dir", &settings.data_dir.to_string_lossy())?;
    file.raw("daemonize", "no");
    file.quoted("logfile", "")?;
    file.raw("always-show-logo", "no");
    file.raw("tcp-keepalive", 60);

    file.raw("cluster-enabled", "yes");
    file.raw("cluster-config-file", NODES_CONF);
    file.raw("cluster-announce-ip", settings.pod_ip);
    if let Some(hostname) = &settings.hostname {
        // Clients are still redirected to addresses; this is for people.
        file.raw("cluster-announce-hostname", hostname);
    }
    file.raw("cluster-node-timeout", cluster.node_timeout);
    // A shard that is down must not take the others with it.
    file.raw("cluster-require-full-coverage", "no");
    // Pods belong to their shard's StatefulSet: replicas must not wander off to other shards.
    file.raw("cluster-allow-replica-migration", "no");
    if cluster.durable.is_some() {
        // Votes know nothing of the in-sync set: they may only take who lost touch a moment ago.
        file.raw("cluster-replica-validity-factor", durable::VALIDITY_FACTOR);
        file.raw("repl-ping-replica-period", durable::PING_SECONDS);
    } else if cluster.persistence == Persistence::Volume {
        // One that has just loaded its data, and has not heard its primary since, is not to be elected: its primary may come
        // back with more. Agents and the operator know for how long to wait.
        let factor = NodeView::LATE_SECONDS * 1000 / cluster.node_timeout.max(1);
        file.raw("cluster-replica-validity-factor", factor.max(1));
    } else {
        // A replica that lost touch for long is still better than no primary; the fresher one has the earlier turn.
        file.raw("cluster-replica-validity-factor", 0);
    }

    file.raw("maxmemory", cluster.maxmemory);
    file.quoted("maxmemory-policy", &cluster.eviction)?;
    // Memory is given back in the background, not while clients wait.
    for lazy in [
        "lazyfree-lazy-eviction",
        "lazyfree-lazy-expire",
        "lazyfree-lazy-server-del",
        "lazyfree-lazy-user-del",
        "replica-lazy-flush",
    ] {
        file.raw(lazy, "yes");
    }

    file.raw("repl-diskless-sync", "yes");
    file.raw("repl-diskless-sync-delay", 0);
    // Bridges a replica's short absence without a full copy.
    let backlog = (cluster.maxmemory / 16).clamp(MIB, 64 * MIB);
    file.raw("repl-backlog-size", backlog);

    // The agent has handed over before it stops the server: nothing is left to wait for.
    file.raw("shutdown-on-sigterm", "nosave now force");
    // The append-only file is what a volume is for. Snapshots besides would cost a fork and as much of the disk again, and a
    // server refuses writes for as long as one that it makes by itself fails.
    file.quoted("save", "")?;
    match cluster.persistence {
        Persistence::Ephemeral => {
            file.raw("appendonly", "no");
            // A copy that was received long ago must not come back as the data of a server that starts again.
            file.raw("rdb-del-sync-files", "yes");
        }
        Persistence::Volume => {
            file.raw("appendonly", "yes");
            let fsync = cluster.durable.map_or(Fsync::Everysec, |it| it.fsync);
            file.raw("appendfsync", fsync.as_str());
        }
    }
    if let Some(durable) = cluster.durable {
        // Until the operator knows that no replica is in step, a write that none reads is not acknowledged.
        file.raw("min-replicas-to-write", durable.least_replicas);
        file.raw("min-replicas-max-lag", durable::MAX_LAG_SECONDS);
    }

    for (name, value) in &cluster.directives {
        if cluster.durable.is_some() && durable::DIRECTIVES.contains(&name.as_str()) {
            return Err(ConfigError::Reserved(name.clone()));
        }
        file.user(name, value)?;
    }
    Ok(file.0)
}

#[derive(Default)]
struct File(String);

impl File {
    /// A value of ours that needs no quotes.
    fn raw(&mut self, name: &str, value: impl std::fmt::Display) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "{name} {value}");
    }

    /// A value that is one word whatever is in it.
    fn quoted(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        refuse_control(name, value)?;
        let mut word = String::with_capacity(value.len() + 2);
        for char in value.chars() {
            if matches!(char, '"' | '\\') {
                word.push('\\');
            }
            word.push(char);
        }
        self.raw(name, format_args!("\"{word}\""));
        Ok(())
    }

    /// A directive as the user would write it into the file: its value may be several words.
    fn user(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(ConfigError::Name(name.to_owned()));
        }
        if RESERVED_DIRECTIVES.contains(&name) {
            return Err(ConfigError::Reserved(name.to_owned()));
        }
        refuse_control(name, value)?;
        match value.trim() {
            "" => self.quoted(name, "")?,
            value => self.raw(name, value),
        }
        Ok(())
    }
}

fn refuse_control(name: &str, value: &str) -> Result<(), ConfigError> {
    match value.chars().any(char::is_control) {
        true => Err(ConfigError::Value(name.to_owned())),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cachecluster_contract::AgentSettings;
    use cachecluster_redis_admin::Password;
    use std::time::Duration;

    fn settings() -> Settings {
        Settings {
            cluster: AgentSettings {
                cluster: "quickstart".to_owned(),
                peers: "quickstart-nodes.default.svc".to_owned(),
                maxmemory: 512 * MIB,
                eviction: "allkeys-lfu".to_owned(),
                node_timeout: 2000,
                persistence: Persistence::Ephemeral,
                durable: None,
                directives: [("maxclients".to_owned(), "500".to_owned())].into(),
            },
            password: Password::new("pa ss\"w\\rd#"),
            data_dir: "/data".into(),
            run_dir: "/run/cachecluster".into(),
            server: "redis-server".into(),
            redis_port: 6379,
            peer_admin_offset: None,
            admin_port: 0,
            pod_ip: [10, 0, 0, 7].into(),
            hostname: Some("quickstart-shard-0-1".to_owned()),
            hold: Duration::from_secs(1),
            hang_limit: Duration::from_secs(5),
            cgroup_dir: "/sys/fs/cgroup".into(),
        }
    }

    #[test]
    fn facts_and_settings_are_in_the_file_and_the_users_directives_come_last() {
        let text = render(&settings()).unwrap();
        for line in [
            "port 6379",
            "cluster-announce-ip 10.0.0.7",
            "cluster-announce-hostname quickstart-shard-0-1",
            "cluster-node-timeout 2000",
            "maxmemory 536870912",
            "maxmemory-policy \"allkeys-lfu\"",
            "repl-backlog-size 33554432",
            "requirepass \"pa ss\\\"w\\\\rd#\"",
            "masterauth \"pa ss\\\"w\\\\rd#\"",
            "save \"\"",
            "appendonly no",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert_eq!(text.lines().last(), Some("maxclients 500"));
    }

    #[test]
    fn a_volume_brings_persistence() {
        let mut settings = settings();
        settings.cluster.persistence = Persistence::Volume;
        let text = render(&settings).unwrap();
        assert!(text.contains("\nappendonly yes\n"));
        // 30 s at a node timeout of 2 s.
        assert!(text.contains("\ncluster-replica-validity-factor 15\n"));
        assert!(text.contains("\nsave \"\"\n"), "no snapshots besides");
    }

    #[test]
    fn a_durable_server_starts_strict_and_its_directives_are_not_the_users() {
        let mut settings = settings();
        settings.cluster.persistence = Persistence::Volume;
        settings.cluster.durable = Some(durable::Durable {
            fsync: Fsync::Always,
            least_replicas: 1,
        });
        let text = render(&settings).unwrap();
        for line in [
            "appendonly yes",
            "appendfsync always",
            "min-replicas-to-write 1",
            "min-replicas-max-lag 2",
            "cluster-replica-validity-factor 1",
            "repl-ping-replica-period 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(!text.contains("cluster-replica-validity-factor 0"));
        settings.cluster.directives = [("appendfsync".to_owned(), "no".to_owned())].into();
        assert_eq!(
            render(&settings),
            Err(ConfigError::Reserved("appendfsync".to_owned()))
        );
    }

    #[test]
    fn what_would_break_the_file_is_refused_by_name() {
        let refused = |name: &str, value: &str| {
            let mut settings = settings();
            settings.cluster.directives = [(name.to_owned(), value.to_owned())].into();
            render(&settings).unwrap_err()
        };
        assert_eq!(
            refused("requirepass", "x"),
            ConfigError::Reserved("requirepass".to_owned())
        );
        assert_eq!(
            refused("maxclients", "5\nrequirepass x"),
            ConfigError::Value("maxclients".to_owned())
        );
        assert_eq!(
            refused("max clients", "5"),
            ConfigError::Name("max clients".to_owned())
        );
        let mut settings = settings();
        settings.password = Password::new("two\nlines");
        assert_eq!(
            render(&settings),
            Err(ConfigError::Value("requirepass".to_owned()))
        );
    }
}
