//! Plain clients of a cluster of one shard, when its primary is demoted while it lives on.
//!
//! A program that has never heard of Redis Cluster connects to the primary's Service. Its connection stays at the pod that
//! it once led to, which answers every command with a redirection after a failover: for such a program, an error without
//! end. Closed, it connects again, through the Service, which points at the new primary a moment later. Clients that speak
//! Redis Cluster follow the redirection, so with more shards, where nobody else can be served, all are left alone.

use std::time::Duration;

use cachecluster_topology::{NodeView, Role};
use tokio::time::Instant;

/// When clients are sent away, counted from the demotion: at once, and again until the Service points elsewhere, which
/// takes the operator a look.
const AFTER: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// What closes the connections of clients, and of nobody who replicates; the one who asks keeps its own.
pub const SEND_AWAY: [&str; 6] = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];

/// What is known of a server's demotion.
#[derive(Debug, Default)]
pub struct Demotion {
    /// Of which server: when it was started.
    of: Option<Instant>,
    was_primary: bool,
    since: Option<Instant>,
    /// How many of [`AFTER`] are over.
    done: usize,
}

impl Demotion {
    /// Notes what the server that was started at `of` said `now`. Whether its clients are to be sent away.
    pub fn note(&mut self, of: Instant, view: Option<&NodeView>, now: Instant) -> bool {
        if self.of != Some(of) {
            *self = Self {
                of: Some(of),
                ..Self::default()
            };
        }
        let Some(view) = view else {
            return false;
        };
        if view.role == Role::Primary {
            self.was_primary = !view.slots.is_empty();
            self.since = None;
            return false;
        }
        if std::mem::take(&mut self.was_primary) && is_one_shard(view) {
            (self.since, self.done) = (Some(now), 0);
        }
        let due = |since: Instant| {
            AFTER
                .get(self.done)
                .is_some_and(|after| now >= since + *after)
        };
        let is_due = self.since.is_some_and(due);
        self.done += usize::from(is_due);
        is_due
    }
}

fn is_one_shard(view: &NodeView) -> bool {
    let primaries = view.known.values().filter(|node| !node.slots.is_empty());
    primaries.count() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a node says in a cluster of so many primaries, of which the first has replaced it if it is a replica.
    fn view(role: Role, primaries: u8) -> NodeView {
        let id = |n: u8| format!("{n:02x}").repeat(20);
        let mut nodes = match role {
            Role::Primary => format!(
                "{} 127.0.0.1:1@2 myself,master - 0 0 1 connected 0-9\n",
                id(9)
            ),
            Role::Replica => format!(
                "{} 127.0.0.1:1@2 myself,slave {} 0 0 1 connected\n",
                id(9),
                id(1)
            ),
        };
        for n in 1..=primaries {
            nodes += &format!(
                "{} 127.0.0.1:{n}1@2 master - 0 0 2 connected {n}0-{n}9\n",
                id(n)
            );
        }
        let info = "redis_version:7.0.15\nused_memory:1\nloading:0\nmaster_repl_offset:1\nconnected_slaves:0\n";
        NodeView::assemble(&nodes, "cluster_state:ok\ncluster_current_epoch:1\n", info).unwrap()
    }

    /// After how many seconds clients are sent away, of twenty looks, one a second, the first of them at a primary.
    fn sent_away(primaries: u8) -> Vec<u64> {
        let start = Instant::now();
        let mut demotion = Demotion::default();
        assert!(!demotion.note(start, Some(&view(Role::Primary, 0)), start));
        let replica = view(Role::Replica, primaries);
        let at = |second: &u64| {
            let now = start + Duration::from_secs(*second);
            demotion.note(start, Some(&replica), now)
        };
        (1..20).filter(at).collect()
    }

    #[test]
    fn a_demoted_primary_of_the_only_shard_sends_its_clients_away_a_few_times() {
        assert_eq!(sent_away(1), [1, 2, 3, 5, 9]);
        assert!(sent_away(2).is_empty(), "who speaks Redis Cluster may stay");
    }

    #[test]
    fn a_server_that_comes_back_as_a_replica_has_demoted_nobody() {
        let start = Instant::now();
        let mut demotion = Demotion::default();
        demotion.note(start, Some(&view(Role::Primary, 0)), start);
        let again = start + Duration::from_secs(1);
        assert!(!demotion.note(again, Some(&view(Role::Replica, 1)), again));
    }
}
