//! The list of reserved directives against what the renderer sets and what the real server knows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use cachecluster_agent::config::render;
use cachecluster_agent::settings::Settings;
use cachecluster_contract::agent::RESERVED_DIRECTIVES;
use cachecluster_contract::durable::{DIRECTIVES, Durable, Fsync};
use cachecluster_contract::{AgentSettings, Persistence};
use cachecluster_redis_admin::fixture::{PASSWORD, Server, password};

/// What the renderer sets and users may set otherwise: their directives come last.
const TUNABLE: &[&str] = &[
    "appendfsync",
    "lazyfree-lazy-eviction",
    "lazyfree-lazy-expire",
    "lazyfree-lazy-server-del",
    "lazyfree-lazy-user-del",
    "repl-backlog-size",
    "repl-diskless-sync",
    "repl-diskless-sync-delay",
    "replica-lazy-flush",
    "tcp-keepalive",
];

fn rendered(persistence: Persistence, durable: Option<Durable>) -> BTreeSet<String> {
    let settings = Settings {
        cluster: AgentSettings {
            cluster: "test".to_owned(),
            peers: "localhost".to_owned(),
            maxmemory: 64 << 20,
            eviction: "allkeys-lru".to_owned(),
            node_timeout: 2000,
            persistence,
            durable,
            directives: [].into(),
        },
        password: password(),
        data_dir: "/data".into(),
        run_dir: "/run".into(),
        server: "redis-server".into(),
        redis_port: 6379,
        peer_admin_offset: None,
        admin_port: 0,
        pod_ip: [10, 0, 0, 7].into(),
        hostname: Some("test-shard-0-0".to_owned()),
        hold: Duration::from_secs(1),
        hang_limit: Duration::from_secs(5),
        cgroup_dir: "/sys/fs/cgroup".into(),
    };
    let text = render(&settings).unwrap();
    text.lines()
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect()
}

#[test]
fn what_is_rendered_is_reserved_or_meant_to_be_tuned() {
    for persistence in [Persistence::Ephemeral, Persistence::Volume] {
        for name in rendered(persistence, None) {
            let reserved = RESERVED_DIRECTIVES.contains(&name.as_str());
            assert_ne!(reserved, TUNABLE.contains(&name.as_str()), "{name}");
        }
    }
}

#[test]
fn what_a_durable_cluster_adds_is_not_its_users_to_set() {
    let durable = Durable {
        fsync: Fsync::Always,
        least_replicas: 1,
    };
    let cache = rendered(Persistence::Volume, None);
    let all = rendered(Persistence::Volume, Some(durable));
    let added: Vec<_> = all.difference(&cache).map(String::as_str).collect();
    let expected = [
        "min-replicas-max-lag",
        "min-replicas-to-write",
        "repl-ping-replica-period",
    ];
    assert_eq!(added, expected);
    for name in added.into_iter().chain(["appendfsync"]) {
        assert!(
            RESERVED_DIRECTIVES.contains(&name) || DIRECTIVES.contains(&name),
            "{name}"
        );
    }
}

#[tokio::test]
async fn what_is_refused_in_a_durable_cluster_exists_and_has_no_second_name_that_is_not() {
    let server = Server::start().await;
    let mut connection = server.connect().await.unwrap();
    for name in DIRECTIVES {
        assert!(connection.config(name).await.unwrap().is_some(), "{name}");
        for (one, other) in [("replica", "slave"), ("slave", "replica")] {
            let alias = name.replace(one, other);
            let known = connection.config(&alias).await.unwrap().is_some();
            assert!(!known || DIRECTIVES.contains(&alias.as_str()), "{alias}");
        }
    }
}

#[tokio::test]
async fn no_reserved_directive_has_a_second_name_that_is_not() {
    let server = Server::start().await;
    let output = Command::new("redis-cli")
        .args(["-p", &server.port.to_string(), "CONFIG", "GET", "*"])
        .env("REDISCLI_AUTH", PASSWORD)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // Names and values by turns.
    let names: BTreeSet<&str> = text.lines().step_by(2).collect();
    assert!(names.contains("cluster-enabled"), "{text}");
    let mut pairs = 0;
    for name in RESERVED_DIRECTIVES {
        for (one, other) in [
            ("replica", "slave"),
            ("slave", "replica"),
            ("master", "primary"),
        ] {
            let alias = name.replace(one, other);
            if alias != *name && names.contains(name) && names.contains(alias.as_str()) {
                pairs += 1;
                assert!(
                    RESERVED_DIRECTIVES.contains(&alias.as_str()),
                    "{name} is reserved, and {alias} is the same"
                );
            }
        }
    }
    assert!(pairs > 10, "{pairs}");
    // What opens the server to more than the operator meant, whatever the version calls it.
    for name in names {
        let opens = name.starts_with("enable-")
            || name.starts_with("cluster-announce-")
            || ["tls-cluster", "tls-replication", "tls-auth-clients"].contains(&name);
        assert!(!opens || RESERVED_DIRECTIVES.contains(&name), "{name}");
    }
}
