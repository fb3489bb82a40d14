//! A shard for tests: primary 1 fell, 11 and 12 follow it.

use std::time::SystemTime;

use cachecluster_contract::Persistence;
use cachecluster_topology::NodeView;

use super::fallen::Fallen;
use super::peer::Peer;

fn id(n: u8) -> String {
    format!("{n:02x}").repeat(20)
}

/// The fallen primary 1, its replicas 11 and 12, and the other primaries.
pub(super) fn nodes_conf(others: u8) -> String {
    let mut text = format!(
        "{} 127.0.0.1:1@10001 myself,master - 0 0 1 connected 0-99\n",
        id(1)
    );
    for n in [11, 12] {
        let line = format!(
            "{} 127.0.0.1:{n}@10011 slave {} 0 0 1 connected\n",
            id(n),
            id(1)
        );
        text.push_str(&line);
    }
    for n in 2..2 + others {
        let line = format!(
            "{} 127.0.0.1:{n}@10002 master - 0 0 {n} connected {n}00-{n}99\n",
            id(n)
        );
        text.push_str(&line);
    }
    text + "vars currentEpoch 9 lastVoteEpoch 0\n"
}

pub(super) fn fallen(persistence: Persistence, offset: Option<u64>) -> Fallen {
    let fallen = Fallen::parse(&nodes_conf(2), persistence, offset).unwrap();
    Fallen {
        // Before anybody listened.
        written: (persistence == Persistence::Volume).then_some(SystemTime::UNIX_EPOCH),
        ..fallen
    }
}

/// What replica `n` says: that it follows `primary`, or that it is a primary itself.
pub(super) fn replica(n: u8, primary: Option<u8>, offset: u64, others: u8) -> Peer {
    let text = nodes_conf(others);
    let mut nodes = String::new();
    for line in text.lines().filter(|line| !line.starts_with("vars")) {
        let line = line.replace("myself,", "");
        let line = match (line.starts_with(&id(n)), primary) {
            (false, _) => line,
            (true, Some(p)) => line
                .replace("slave", "myself,slave")
                .replace(&id(1), &id(p)),
            (true, None) => format!(
                "{} 127.0.0.1:{n}@1 myself,master - 0 0 9 connected 0-99",
                id(n)
            ),
        };
        nodes += &line;
        nodes += "\n";
    }
    let info = format!(
        "redis_version:7.0.15\nused_memory:1\nloading:0\nmaster_repl_offset:{offset}\nconnected_slaves:0\n\
         slave_repl_offset:{offset}\n"
    );
    let cluster = "cluster_state:ok\ncluster_current_epoch:9\n";
    let view = NodeView::assemble(&nodes, cluster, &info).unwrap();
    Peer {
        addr: ([127, 0, 0, 1], u16::from(n)).into(),
        view,
        heard: Some(SystemTime::UNIX_EPOCH),
    }
}
