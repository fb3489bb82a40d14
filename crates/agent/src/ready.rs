//! Whether the server does its part. Pure.

use std::time::Duration;

use cachecluster_topology::Role;

use crate::sample::Sample;

/// How long neither a replica's primary nor that one's agent may be unheard. A link over which nothing comes any more is
/// up for the server until its own time-out, which is a minute. Where the primaries can vote, the replica has been
/// promoted before this is over; where they cannot, Kubernetes notices, and the operator looks.
const SILENCE: Duration = Duration::from_millis(1000);

/// Ready: a primary that serves its slots, or a replica whose replication link is up and whose primary was heard less
/// than a second ago; `silence` is for how long it was not.
///
/// # Errors
/// The reason, for whoever reads the probe's answer.
pub fn ready(sample: &Sample, silence: Duration) -> Result<(), String> {
    let not = |reason: &str| Err(reason.to_owned());
    if sample.info.loading() {
        return not("loading its data set");
    }
    let Some(view) = &sample.view else {
        return not("does not say what its place in the cluster is");
    };
    match view.role {
        Role::Primary if view.slots.is_empty() && view.known.is_empty() => {
            not("has not joined the cluster yet")
        }
        Role::Primary if view.slots.is_empty() => not("a primary without slots"),
        Role::Primary if !view.cluster_ok => not("cluster_state is fail: it does not serve"),
        Role::Replica if !view.link_up => not("the replication link is down"),
        Role::Replica if silence >= SILENCE => not("its primary and that one's agent are silent"),
        Role::Primary | Role::Replica => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Info;
    use cachecluster_topology::NodeView;

    const ID: &str = "e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca";
    const OTHER: &str = "67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1";

    fn sample(nodes: &str, state: &str, info: &str) -> Sample {
        let info = format!(
            "redis_version:7.0.15\nused_memory:1\nloading:0\nmaster_repl_offset:1\nconnected_slaves:0\n{info}"
        );
        let cluster = format!("cluster_state:{state}\ncluster_current_epoch:1\n");
        Sample {
            view: Some(NodeView::assemble(nodes, &cluster, &info).unwrap()),
            info: Info::parse(&info),
        }
    }

    #[test]
    fn a_primary_is_ready_when_it_serves_slots() {
        let with = format!("{ID} 127.0.0.1:1@2 myself,master - 0 0 1 connected 0-16383");
        assert_eq!(ready(&sample(&with, "ok", ""), Duration::ZERO), Ok(()));
        assert!(ready(&sample(&with, "fail", ""), Duration::ZERO).is_err());
        let without = format!("{ID} 127.0.0.1:1@2 myself,master - 0 0 1 connected");
        assert!(
            ready(&sample(&without, "ok", ""), Duration::ZERO)
                .unwrap_err()
                .contains("joined")
        );
        let mut loading = sample(&with, "ok", "");
        loading.info = Info::parse("loading:1");
        assert!(
            ready(&loading, Duration::ZERO)
                .unwrap_err()
                .contains("loading")
        );
    }

    #[test]
    fn a_replica_is_ready_when_its_link_is_up() {
        let nodes = format!(
            "{ID} 127.0.0.1:1@2 myself,slave {OTHER} 0 0 1 connected\n\
             {OTHER} 127.0.0.1:3@4 master - 0 0 1 connected 0-16383"
        );
        assert_eq!(
            ready(
                &sample(&nodes, "ok", "master_link_status:up"),
                Duration::ZERO
            ),
            Ok(())
        );
        assert!(
            ready(
                &sample(&nodes, "ok", "master_link_status:down"),
                Duration::ZERO
            )
            .is_err()
        );
        // The server believes in its link for longer than that.
        let up = sample(&nodes, "ok", "master_link_status:up");
        assert_eq!(ready(&up, SILENCE - Duration::from_millis(1)), Ok(()));
        assert!(ready(&up, SILENCE).unwrap_err().contains("silent"));
    }
}
