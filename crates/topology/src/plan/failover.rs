//! Promotes a replica whose primary is gone: by votes where there are any, else by decree, and only behind a fence.

use std::cmp::Reverse;

use super::durable;
use crate::action::Action;
use crate::model::{Presence, Role};
use crate::roster::{Node, Roster, Stranger};

/// The annotation by which a user accepts that acknowledged writes are lost. Its value is the pod to promote.
pub const ALLOW_UNSAFE_PROMOTION: &str = "cachecluster.io/allow-unsafe-promotion";

/// Asks the primaries' votes for the best replica of a primary that owns slots and is gone.
pub(crate) fn force(roster: &Roster<'_>, waiting: &mut Vec<String>) -> Option<Action> {
    promotable(roster, waiting)
        .find(|replica| roster.hears_majority(replica))
        .map(|replica| Action::ForceFailover {
            replica: replica.to_ref(),
        })
}

/// Promotes without votes, where no majority of primaries can be heard.
///
/// The fence: [`promotable`] has made sure that the old primary answers neither us nor any node that answers us. That
/// may also be so because we, and they, are the ones cut off. So nothing is done while the silent ones could go on without
/// us, as far as Kubernetes can tell ([`Member::vouched`](crate::Member::vouched)): as a majority of the primaries, or
/// because most of the agents are among them.
pub(crate) fn takeover(roster: &Roster<'_>, waiting: &mut Vec<String>) -> Option<Action> {
    let mut unheard = Vec::new();
    let replica =
        promotable(roster, &mut unheard).find(|replica| !roster.hears_majority(replica))?;
    if roster.majority_may_be_elsewhere() {
        waiting.push(format!(
            "{} is not promoted: most primaries, or most pods, are silent, but Kubernetes says that they serve; \
             this operator may be the one that is cut off",
            replica.member.name
        ));
        return None;
    }
    Some(replica).map(|replica| Action::Takeover {
        replica: replica.to_ref(),
    })
}

/// The best replica of each primary that is gone, in the order of shards.
fn promotable<'r, 'w>(
    roster: &'r Roster<'w>,
    waiting: &mut Vec<String>,
) -> impl Iterator<Item = &'r Node<'w>> {
    let mut gone: Vec<&Stranger<'w>> = roster.strangers.iter().collect();
    gone.retain(|stranger| !stranger.slots.is_empty());
    gone.sort_by_key(|stranger| (stranger.shard, stranger.id));
    let mut promotable = Vec::new();
    for stranger in gone {
        let Some(choice) = choose(roster, stranger) else {
            continue;
        };
        let who = stranger.member.map_or_else(
            || format!("node {}", stranger.id),
            |member| member.name.clone(),
        );
        if !stranger.is_doubted_by_all() {
            waiting.push(format!(
                "{who} is silent, but other nodes still hear it: no replica is promoted"
            ));
            continue;
        }
        if roster.may_load(stranger) {
            waiting.push(format!(
                "{who} is loading its data set: no replica is promoted"
            ));
            continue;
        }
        let best = match choice {
            Choice::Allowed(replica) => {
                promotable.push(replica);
                continue;
            }
            Choice::Best(replica) => replica,
            Choice::Unsafe(why) => {
                waiting.push(why);
                continue;
            }
        };
        let name = &best.member.name;
        let doubt = if never_synced(best) {
            Some(format!(
                "{name} was never in step with it: waiting for a member that has the data"
            ))
        } else if best.view.is_late() {
            Some(format!(
                "{name} came from its disk without having heard it: it may come back from its own with more"
            ))
        } else {
            loader(roster, stranger)
                .filter(|_| was_behind(best))
                .map(|loader| {
                    format!(
                        "{name} had lost touch with it, and {loader} is loading: that may have more"
                    )
                })
        };
        match doubt.filter(|_| !is_all_there_is(roster, stranger)) {
            Some(doubt) => waiting.push(format!("{who} is gone, and {doubt}")),
            None => promotable.push(best),
        }
    }
    promotable.into_iter()
}

/// A member of the shard that loads its data set; the primary that is gone is none.
fn loader<'w>(roster: &Roster<'w>, gone: &Stranger<'w>) -> Option<&'w str> {
    let primary = gone.member.map(|member| member.name.as_str());
    let mut members = roster.world.members.iter();
    let loader = members.find(|member| {
        let sibling = Some(member.shard) == gone.shard && Some(member.name.as_str()) != primary;
        sibling && member.is_loading()
    });
    loader.map(|member| member.name.as_str())
}

/// Whether a replica had probably not heard its primary for some time when that one was lost: losses are noticed within
/// seconds.
fn was_behind(replica: &Node<'_>) -> bool {
    const NOTICED_SECONDS: u64 = 10;
    let unheard = replica.view.standing.unheard_seconds;
    unheard.is_none_or(|seconds| seconds > NOTICED_SECONDS)
}

/// Why shards that have lost their primary are left without one although they have replicas, in sentences.
pub(crate) fn refused(roster: &Roster<'_>) -> Vec<String> {
    let gone = roster.strangers.iter().filter(|stranger| {
        !stranger.slots.is_empty() && stranger.is_doubted_by_all() && !roster.may_load(stranger)
    });
    gone.filter_map(|stranger| match choose(roster, stranger)? {
        Choice::Unsafe(why) => Some(why),
        Choice::Best(_) | Choice::Allowed(_) => None,
    })
    .collect()
}

/// Who shall follow a primary that is gone.
enum Choice<'r, 'w> {
    /// The replica that lost least, and in a durable cluster lost nothing.
    Best(&'r Node<'w>),
    /// The replica that the user names, whatever it lost.
    Allowed(&'r Node<'w>),
    /// Nobody: each might lack an acknowledged write.
    Unsafe(String),
}

/// `None` when there is no replica to choose.
fn choose<'r, 'w>(roster: &'r Roster<'w>, gone: &Stranger<'w>) -> Option<Choice<'r, 'w>> {
    let best = best_replica(roster, gone, |_| true)?;
    let Some(durable) = &roster.world.durable else {
        return Some(Choice::Best(best));
    };
    let none = Vec::new();
    let shard = gone.shard.unwrap_or(best.member.shard);
    let set = durable.in_sync.get(&shard).unwrap_or(&none);
    let follows = |n: &Node<'_>| n.view.primary.as_ref() == Some(gone.id) && !n.view.loading;
    let answers = |name: &String| {
        let mut nodes = roster.nodes.iter();
        nodes.any(|n| n.member.name == *name && follows(n))
    };
    // A write is acknowledged when one replica of the set reads it: only when all of them are compared is the best one
    // known to have it. The primary itself is the one that is not there to be compared.
    let primary = gone.member.map(|member| &member.name).or(set.first());
    let missing: Vec<&str> = set
        .iter()
        .filter(|name| Some(*name) != primary && !answers(name))
        .map(String::as_str)
        .collect();
    // Who was started again without hearing the primary lacks what that one acknowledged before it noticed.
    let leads = |n: &Node<'_>| durable::may_lead(roster, n.member);
    let inside = best_replica(roster, gone, |n| {
        leads(n) && !n.view.is_unheard_since_start()
    });
    // One that attached after the operator last looked may have let the primary acknowledge what nobody in the set has read.
    // It may also be ahead in a history of its own.
    let ahead = best_replica(roster, gone, |n| {
        inside.is_some_and(|inside| n.view.offset > inside.view.offset)
    });
    if let (Some(replica), true, None) = (inside, missing.is_empty(), ahead) {
        return Some(Choice::Best(replica));
    }
    let allowed = |n: &Node<'_>| Some(&n.member.name) == durable.allowed.as_ref();
    if let Some(replica) = best_replica(roster, gone, allowed) {
        return Some(Choice::Allowed(replica));
    }
    let name = &best.member.name;
    let why = match inside {
        _ if set.is_empty() => "it is not known who holds every acknowledged write".to_owned(),
        None if leads(best) => {
            "it has not heard the primary since it was started, and may lack acknowledged writes"
                .to_owned()
        }
        None => format!(
            "waiting for one that holds every acknowledged write: {}",
            set.join(", ")
        ),
        Some(inside) if missing.is_empty() => format!(
            "it is ahead of {}, but may lack acknowledged writes that {} holds",
            inside.member.name, inside.member.name
        ),
        Some(_) => format!(
            "waiting for {}, which may hold acknowledged writes that it lacks",
            missing.join(", ")
        ),
    };
    Some(Choice::Unsafe(format!(
        "shard {shard} has lost its primary, and {name} is not promoted: {why}; to accept that writes are lost, annotate \
         the CacheCluster with {ALLOW_UNSAFE_PROMOTION}={name}"
    )))
}

/// Whether a replica has yet to receive anything: made a replica a moment ago, say. An election held by the cluster
/// itself would not take it, but one that we ask for does.
fn never_synced(replica: &Node<'_>) -> bool {
    let view = replica.view;
    view.offset <= 1 && view.keys == 0 && !view.link_up
}

/// Whether no silent place is left that may hold what the gone primary held.
fn is_all_there_is(roster: &Roster<'_>, gone: &Stranger<'_>) -> bool {
    roster.everybody_answered() || gone.shard.is_some_and(|shard| roster.all_answered(shard))
}

/// The replica that lost least: the highest offset; among equals one that stays, then the lowest ordinal.
fn best_replica<'r, 'w>(
    roster: &'r Roster<'w>,
    gone: &Stranger<'w>,
    suits: impl Fn(&Node<'_>) -> bool,
) -> Option<&'r Node<'w>> {
    let nodes = roster.nodes.iter();
    let replicas = nodes.filter(|n| {
        n.view.role == Role::Replica
            && n.view.primary.as_ref() == Some(gone.id)
            && !n.view.loading
            // About to stop, and not to come back soon.
            && !n.member.fenced
            && suits(n)
    });
    replicas.min_by_key(|n| {
        let leaving = n.member.presence == Presence::Terminating;
        (Reverse(n.view.offset), leaving, n.member.ordinal)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assess::assess;
    use crate::model::{Probe, World};
    use crate::plan::plan;
    use crate::sim::Sim;

    fn formed(shards: u32, replicas: u32) -> Sim {
        let mut sim = Sim::new(shards, replicas);
        assert!(sim.run(10).is_some());
        sim
    }

    #[test]
    fn votes_decide_while_a_majority_is_left() {
        let mut sim = formed(3, 1);
        sim.kill(1, 0);
        sim.gossip();
        let Some(Action::ForceFailover { replica }) = plan(&sim.world()).action else {
            panic!("{:?}", plan(&sim.world()));
        };
        assert_eq!(replica.name, "quickstart-shard-1-1");
    }

    #[test]
    fn without_a_majority_the_replica_takes_over() {
        for shards in [1, 2] {
            let mut sim = formed(shards, 1);
            sim.kill(0, 0);
            sim.gossip();
            let Some(Action::Takeover { replica }) = plan(&sim.world()).action else {
                panic!("{:?}", plan(&sim.world()));
            };
            assert_eq!(replica.name, "quickstart-shard-0-1");
        }
    }

    #[test]
    fn of_two_primaries_none_is_replaced_against_most_of_the_members() {
        let mut sim = formed(2, 2);
        // We and a replica of the second shard are cut off with the first primary.
        for (shard, ordinal) in [(0, 1), (0, 2), (1, 0), (1, 1)] {
            sim.set_visible(shard, ordinal, false);
            sim.set_connected(shard, ordinal, false);
        }
        sim.gossip();
        let planned = plan(&sim.world());
        assert_eq!(planned.action, None);
        let said = planned.waiting.join("; ");
        assert!(said.contains("may be the one that is cut off"), "{said}");
        // With one more of them on our side it is a tie, and agents do nothing in a tie.
        sim.set_visible(1, 1, true);
        sim.set_connected(1, 1, true);
        sim.gossip();
        assert!(matches!(
            plan(&sim.world()).action,
            Some(Action::Takeover { .. })
        ));
    }

    #[test]
    fn who_may_be_cut_off_from_a_living_majority_promotes_nobody() {
        let mut sim = formed(3, 1);
        let cut_off = [(0, 0), (1, 1), (2, 0), (2, 1)];
        for (shard, ordinal) in cut_off {
            sim.set_visible(shard, ordinal, false);
            sim.set_connected(shard, ordinal, false);
        }
        sim.gossip();
        let planned = plan(&sim.world());
        assert_eq!(planned.action, None);
        let said = planned.waiting.join("; ");
        assert!(said.contains("may be the one that is cut off"), "{said}");

        // Their kubelets, or the lack of them, say otherwise after a while.
        let mut world = sim.world();
        for member in &mut world.members {
            member.vouched = false;
        }
        assert!(matches!(
            plan(&world).action,
            Some(Action::Takeover { replica }) if replica.name == "quickstart-shard-0-1"
        ));
    }

    #[test]
    fn primaries_whose_new_addresses_nobody_knows_may_go_on_too() {
        let mut sim = formed(3, 2);
        for shard in [0, 1] {
            sim.set_visible(shard, 0, false);
        }
        sim.restart_all(true);
        for _ in 0..3 {
            let planned = plan(&sim.world());
            if let Some(action) = planned.action {
                let forced = matches!(
                    action,
                    Action::Takeover { .. } | Action::ForceFailover { .. }
                );
                assert!(!forced, "{action:?}");
                sim.apply(&action);
            }
            sim.gossip();
        }
        sim.set_visible(0, 0, true);
        sim.set_visible(1, 0, true);
        assert!(sim.run(10).is_some());
    }

    #[test]
    fn a_replica_that_was_started_from_its_disk_waits_for_its_primary_to_return_from_its_own() {
        for (shards, returns) in [(1, true), (3, true), (3, false)] {
            let mut sim = formed(shards, 1);
            assert!(sim.write(0, 7));
            sim.gossip();
            sim.restart_all(true);
            sim.kill(0, 0);
            let mut waited = 0;
            let promoted = loop {
                sim.gossip();
                let planned = plan(&sim.world());
                match planned.action {
                    Some(Action::Takeover { .. } | Action::ForceFailover { .. }) => break true,
                    Some(action) => drop(sim.apply(&action)),
                    None if assess(&sim.world()).is_healthy() => break false,
                    None => {
                        let said = planned.waiting.join("; ");
                        assert!(said.contains("came from its disk"), "{said}");
                        waited += 1;
                        if returns {
                            sim.start(0, 0, true);
                        }
                    }
                }
            };
            assert_eq!((promoted, waited > 0), (!returns, true));
        }
    }

    #[test]
    fn nobody_is_promoted_while_any_node_hears_the_primary() {
        let mut sim = formed(1, 2);
        // Only we do not reach it.
        sim.set_visible(0, 0, false);
        sim.gossip();
        let planned = plan(&sim.world());
        assert_eq!(planned.action, None);
        assert!(planned.waiting[0].contains("other nodes still hear it"));
        // One replica lost it, the other did not.
        sim.set_connected(0, 1, false);
        sim.gossip();
        assert_eq!(plan(&sim.world()).action, None);
    }

    #[test]
    fn a_primary_that_loads_its_data_is_alive() {
        let mut sim = formed(1, 1);
        sim.kill(0, 0);
        sim.gossip();
        let mut world = sim.world();
        world.members[0].probe = Probe::Loading;
        let planned = plan(&world);
        assert_eq!(planned.action, None);
        assert!(planned.waiting[0].contains("is loading"));
    }

    #[test]
    fn a_primary_that_loads_its_data_where_nobody_knows_it_to_be_is_alive() {
        let mut sim = formed(1, 1);
        assert!(sim.write(0, 7));
        sim.gossip();
        sim.restart_all(true);
        sim.kill(0, 0);
        let plan_after = |sim: &mut Sim, probe: Probe| {
            // Longer than it is late.
            (0..12).for_each(|_| sim.gossip());
            let mut world = sim.world();
            world.members[0].probe = probe;
            plan(&world)
        };
        let loading = plan_after(&mut sim, Probe::Loading);
        assert_eq!(loading.action, None);
        assert!(loading.waiting[0].contains("is loading"), "{loading:?}");
        let gone = plan_after(&mut sim, Probe::Silent("connection refused".to_owned()));
        assert!(
            matches!(gone.action, Some(Action::Takeover { .. })),
            "{gone:?}"
        );
    }

    #[test]
    fn a_replica_that_loads_is_not_taken_for_the_primary_whose_pod_is_gone() {
        let mut sim = formed(1, 2);
        sim.kill(0, 0);
        sim.gossip();
        let mut world = sim.world();
        let gone = &mut world.members[0];
        (gone.addr, gone.presence) = (None, crate::model::Presence::Absent);
        world.members[2].probe = Probe::Loading;
        let unheard_for = |world: &mut World, seconds| {
            let Probe::Answered(view) = &mut world.members[1].probe else {
                panic!("{:?}", world.members[1]);
            };
            view.standing.unheard_seconds = Some(seconds);
            plan(world)
        };
        let planned = unheard_for(&mut world, 3);
        assert!(
            matches!(planned.action, Some(Action::Takeover { .. })),
            "{planned:?}"
        );
        // Unless the other one was behind already when it was lost.
        let planned = unheard_for(&mut world, 60);
        assert_eq!(planned.action, None);
        assert!(planned.waiting[0].contains("is loading"), "{planned:?}");
    }

    #[test]
    fn the_replica_that_lost_least_is_chosen_and_the_first_among_equals() {
        let mut sim = formed(3, 3);
        sim.kill(0, 0);
        sim.gossip();
        let mut world = sim.world();
        let promoted = |world: &crate::model::World| match plan(world).action {
            Some(Action::ForceFailover { replica }) => replica.name,
            other => panic!("{other:?}"),
        };
        assert_eq!(promoted(&world), "quickstart-shard-0-1");
        let best = world
            .members
            .iter_mut()
            .find(|m| m.shard == 0 && m.ordinal == 3);
        let Probe::Answered(view) = &mut best.unwrap().probe else {
            panic!();
        };
        view.offset += 1;
        assert_eq!(promoted(&world), "quickstart-shard-0-3");
    }

    #[test]
    fn a_fenced_primary_is_replaced_and_nobody_fenced_replaces_it() {
        for shards in [1, 3] {
            let mut sim = formed(shards, 2);
            sim.fence(0, 0);
            assert_eq!(plan(&sim.world()).action, None, "its agent hands over");
            sim.fence(0, 1);
            sim.kill(0, 0);
            sim.gossip();
            let planned = plan(&sim.world()).action;
            let Some(Action::ForceFailover { replica } | Action::Takeover { replica }) = planned
            else {
                panic!("{planned:?}");
            };
            assert_eq!(replica.name, "quickstart-shard-0-2");
            assert!(sim.apply(&Action::Takeover { replica }).is_empty());
            sim.kill(0, 1);
            for _ in 0..5 {
                sim.gossip();
                assert_eq!(plan(&sim.world()), crate::Plan::default());
            }
            for ordinal in [0, 1] {
                sim.lift(0, ordinal);
                sim.start(0, ordinal, true);
            }
            assert!(sim.run(10).is_some());
        }
    }

    #[test]
    fn an_empty_replica_waits_for_whoever_has_the_data() {
        let mut sim = formed(1, 1);
        sim.write(0, 3);
        sim.replace(0, 1, false);
        // It met, and was made a replica, but has received nothing yet when the primary dies.
        for _ in 0..5 {
            let Some(action) = plan(&sim.world()).action else {
                sim.gossip();
                continue;
            };
            sim.apply(&action);
            if matches!(action, Action::Replicate { .. }) {
                break;
            }
            sim.gossip();
        }
        sim.kill(0, 0);
        sim.gossip();
        let planned = plan(&sim.world());
        assert_eq!(planned.action, None);
        assert!(
            planned.waiting[0].contains("was never in step"),
            "{planned:?}"
        );
    }
}
