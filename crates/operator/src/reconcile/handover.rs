//! When a primary that could stay is relieved: only of a cluster that has been well, and had the same primaries, for a
//! while, and after a try in vain not soon again.
//!
//! A failed `CLUSTER FAILOVER` is dear: the primary's writes wait for up to five seconds (see
//! [`is_ready_to_lead`](cachecluster_topology::is_ready_to_lead)). All that is remembered is in the operator's memory;
//! losing it costs one more try.

use std::time::Duration;

use cachecluster_topology::{Action, Health, NodeRef};
use tokio::time::Instant;

use super::decide::Plan;

/// For how long a cluster has to be well before anybody is relieved: several node timeouts, so that whatever a partition
/// broke has been missed by somebody since.
const CALM: Duration = Duration::from_secs(10);
/// The pause after the first try in vain; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// What is remembered of one cluster's hand-overs.
#[derive(Debug, Default)]
pub struct Handovers {
    /// Since when everything has been as wanted, with these primaries.
    healthy: Option<Instant>,
    /// The primaries at the last look, by shard, with what has been handed over since.
    primaries: Vec<Option<NodeRef>>,
    /// Since when clients are served and all servers that answer hear each other and agree.
    calm: Option<Instant>,
    /// Tries in vain, in a row.
    failures: u32,
    /// No further try before.
    paused: Option<Instant>,
}

impl Handovers {
    /// Takes a hand-over out of the plan whose time has not come, and has the cluster looked at again when it has.
    pub fn weigh(&mut self, plan: &mut Plan, now: Instant) {
        self.note(&plan.health, now);
        if !matches!(plan.action, Some(Action::Failover { .. })) {
            return;
        }
        // A place that is not wanted any more may wait for its primary to go while something else is amiss.
        let well = match plan.health.is_healthy() {
            true => self.healthy,
            false => self.calm,
        };
        let due = well.unwrap_or(now) + CALM;
        let due = self.paused.map_or(due, |paused| due.max(paused));
        if due > now {
            plan.action = None;
            plan.requeue = plan.otherwise.min(due - now);
        }
    }

    fn note(&mut self, health: &Health, now: Instant) {
        let calm = health.is_serving() && health.joined && health.agreed;
        let since = |is: bool, was: Option<Instant>| is.then(|| was.unwrap_or(now));
        // Who has just stepped down may be about to stop. A kubelet that restarts a container, or makes a pod's sandbox
        // anew, tells its agent and nobody else. Asked back, it would be gone while the primary holds writes back for it.
        let primaries: Vec<_> = health.shards.iter().map(|it| it.primary.clone()).collect();
        if primaries != self.primaries {
            (self.healthy, self.calm, self.primaries) = (None, None, primaries);
        }
        self.healthy = since(health.is_healthy(), self.healthy);
        self.calm = since(calm, self.calm);
    }

    /// What came of the plan's action: `Some(true)` if it was taken with success, `None` if it was not taken.
    pub fn tried(&mut self, plan: &Plan, success: Option<bool>, now: Instant) {
        let Some(Action::Failover { replica }) = &plan.action else {
            return;
        };
        match success {
            Some(true) => {
                (self.failures, self.paused) = (0, None);
                // What it did itself is no reason to wait.
                let mut shards = plan.health.shards.iter().zip(&mut self.primaries);
                if let Some((_, primary)) = shards.find(|(it, _)| it.in_sync.contains(replica)) {
                    *primary = Some(replica.clone());
                }
            }
            Some(false) => {
                let doublings = self.failures.min(16);
                let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(doublings));
                let pause = pause.min(LONGEST_PAUSE);
                self.failures = self.failures.saturating_add(1);
                self.paused = Some(now + pause);
                tracing::info!(
                    pause_s = pause.as_secs(),
                    "no primary is relieved again for a while"
                );
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use cachecluster_topology::sim::Sim;
    use serde_json::json;

    use super::*;
    use crate::reconcile::decide::{UNHEALTHY, decide};
    use crate::reconcile::fixture::{formed, valid, world};

    /// All primaries on one machine, and all replicas on another.
    fn lopsided(shards: u32) -> Sim {
        let mut sim = formed(shards, 1);
        for shard in 0..shards {
            sim.put(shard, 0, "full", None);
            sim.put(shard, 1, "empty", None);
        }
        sim
    }

    fn weighed(memory: &mut Handovers, sim: &Sim, now: Instant) -> Plan {
        let mut plan = decide(&valid(json!({})), &world(sim.world()));
        memory.weigh(&mut plan, now);
        plan
    }

    #[test]
    fn nobody_is_relieved_before_the_cluster_has_been_healthy_for_a_while() {
        let mut sim = lopsided(3);
        let mut memory = Handovers::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let first = weighed(&mut memory, &sim, at(0));
        assert_eq!((first.action, first.requeue), (None, CALM));
        assert_eq!(weighed(&mut memory, &sim, at(9)).action, None);
        // A moment's illness, and all begins anew.
        sim.set_visible(2, 1, false);
        assert_eq!(weighed(&mut memory, &sim, at(10)).action, None);
        sim.set_visible(2, 1, true);
        assert_eq!(weighed(&mut memory, &sim, at(11)).action, None);
        assert_eq!(weighed(&mut memory, &sim, at(20)).action, None);
        assert!(weighed(&mut memory, &sim, at(21)).action.is_some());
    }

    #[test]
    fn who_has_just_stepped_down_is_not_asked_back_at_once() {
        let mut sim = lopsided(5);
        let mut memory = Handovers::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        weighed(&mut memory, &sim, at(0));
        let due = weighed(&mut memory, &sim, at(10));
        sim.apply(due.action.as_ref().unwrap());
        sim.gossip();
        // Between two looks, nothing has been amiss. Its own hand-overs follow each other without a pause.
        let mut own = Handovers {
            healthy: memory.healthy,
            primaries: memory.primaries.clone(),
            ..Handovers::default()
        };
        own.tried(&due, Some(true), at(10));
        assert!(weighed(&mut own, &sim, at(11)).action.is_some());
        let next = weighed(&mut memory, &sim, at(11));
        assert!(next.health.is_healthy(), "{:?}", next.health);
        assert_eq!((next.action, next.requeue), (None, CALM));
        assert_eq!(weighed(&mut memory, &sim, at(20)).action, None);
        assert!(weighed(&mut memory, &sim, at(21)).action.is_some());
    }

    #[test]
    fn after_a_try_in_vain_the_pause_grows() {
        let sim = lopsided(3);
        let mut memory = Handovers::default();
        let mut now = Instant::now();
        weighed(&mut memory, &sim, now);
        now += CALM;
        for pause in [30, 60, 120, 240, 480, 600, 600] {
            let plan = weighed(&mut memory, &sim, now);
            assert!(plan.action.is_some(), "{pause}");
            memory.tried(&plan, Some(false), now);
            let second = Duration::from_secs(1);
            now += Duration::from_secs(pause) - second;
            let early = weighed(&mut memory, &sim, now);
            assert_eq!((early.action, early.requeue), (None, second), "{pause}");
            now += second;
        }
        // What is not taken changes nothing, and success ends it.
        let plan = weighed(&mut memory, &sim, now);
        memory.tried(&plan, None, now);
        assert!(weighed(&mut memory, &sim, now).action.is_some());
        memory.tried(&plan, Some(true), now);
        assert_eq!((memory.failures, memory.paused), (0, None));
        memory.tried(&plan, Some(false), now);
        assert_eq!(memory.paused, Some(now + FIRST_PAUSE));
    }

    #[test]
    fn repairs_do_not_wait() {
        let mut memory = Handovers::default();
        let mut sim = formed(3, 1);
        let now = Instant::now();
        memory.failures = 9;
        memory.paused = Some(now + LONGEST_PAUSE);
        sim.kill(1, 0);
        sim.gossip();
        let plan = weighed(&mut memory, &sim, now);
        assert!(matches!(plan.action, Some(Action::ForceFailover { .. })));
        memory.tried(&plan, Some(true), now);
        assert_eq!(memory.failures, 9);
    }

    #[test]
    fn a_place_that_is_not_wanted_hands_over_while_another_shard_is_ill() {
        let mut sim = formed(3, 2);
        let health = cachecluster_topology::assess(&sim.world());
        let last = health.shards[0].in_sync[1].clone();
        sim.apply(&Action::Failover { replica: last });
        sim.gossip();
        assert!(sim.run(10).is_some());
        sim.kill(2, 1);
        sim.gossip();
        sim.gossip();
        let mut memory = Handovers::default();
        let mut look = |now| {
            let cluster = valid(json!({"replicas": 1}));
            let mut plan = decide(&cluster, &world(sim.world()));
            memory.weigh(&mut plan, now);
            assert!(!plan.health.is_healthy());
            plan
        };
        let now = Instant::now();
        let early = look(now);
        assert_eq!((early.action, early.requeue), (None, UNHEALTHY));
        assert!(matches!(
            look(now + CALM).action,
            Some(Action::Failover { .. })
        ));
    }
}
