//! Who is ready to relieve a primary that could stay: a hand-over that need not be must not cost anybody a write.
//!
//! From the moment at which `CLUSTER FAILOVER` reaches it, the primary lets every write wait until its replica has read
//! the rest and is elected. When that does not come about, writes wait for all of the server's five seconds: nothing
//! ends that pause sooner (`CLIENT UNPAUSE` ends only what `CLIENT PAUSE` began), and each further try begins it anew.

use crate::model::{LinkState, NodeId, World};
use crate::roster::{Node, Roster};

/// How many bytes of the stream a replica may have yet to apply. Writes wait while they go over, which takes some 10 ms
/// on a link of 1 Gbit/s; and as much is written by a busy primary between our looks at the two.
const REST: u64 = 1 << 20;

/// Whether the node `id` is a replica to which its primary can be expected to hand over within a moment: its link is up
/// and alive, it has all but the last of what was written, and both hear the majority that elects it.
#[must_use]
pub fn is_ready_to_lead(world: &World, id: &NodeId) -> bool {
    let roster = Roster::of(world);
    let find = |id: &NodeId| roster.nodes.iter().find(|n| n.view.id == *id);
    let pair = find(id).and_then(|replica| Some((find(replica.view.primary.as_ref()?)?, replica)));
    pair.is_some_and(|(primary, replica)| is_ready(&roster, primary, replica))
}

/// The same, of a replica and its primary.
pub(super) fn is_ready(roster: &Roster<'_>, primary: &Node<'_>, replica: &Node<'_>) -> bool {
    let steady = |node: &Node<'_>| {
        let mut known = node.view.known.values();
        // Whom a majority has declared dead is no sign of trouble to come; who was just missed is.
        let doubts = known.any(|k| k.link == LinkState::Suspected);
        !doubts && node.view.cluster_ok && !node.view.loading && roster.hears_majority(node)
    };
    let acquainted = replica.hears(primary) && primary.hears(replica);
    acquainted && steady(primary) && steady(replica) && reads(primary, replica)
}

/// Whether the stream flows. A link that a partition broke is up by both accounts until somebody misses something.
fn reads(primary: &Node<'_>, replica: &Node<'_>) -> bool {
    let (written, applied) = (primary.view.offset, replica.view.offset);
    let streams = replica.view.is_in_step() && applied.saturating_add(REST) >= written;
    // Nothing is written, and a primary pings only now and then: its replica's acknowledgements come each second.
    let attached = &primary.view.standing.attached;
    let idles = replica.view.link_up && attached.contains(&replica.addr) && applied >= written;
    streams || idles
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NodeView, Probe};
    use crate::sim::Sim;

    /// The second of two nodes of the first shard is its replica, of these three shards.
    fn formed() -> World {
        let mut sim = Sim::new(3, 1);
        assert!(sim.run(10).is_some());
        sim.world()
    }

    fn change(world: &mut World, ordinal: u32, how: impl Fn(&mut NodeView)) {
        let mut members = world.members.iter_mut();
        let member = members.find(|m| (m.shard, m.ordinal) == (0, ordinal));
        let Probe::Answered(view) = &mut member.unwrap().probe else {
            panic!();
        };
        how(view);
    }

    fn id(world: &World, ordinal: u32) -> NodeId {
        let mut members = world.members.iter();
        let member = members.find(|m| (m.shard, m.ordinal) == (0, ordinal));
        member.unwrap().view().unwrap().id.clone()
    }

    fn is_ready_after(ordinal: u32, how: impl Fn(&mut NodeView)) -> bool {
        let mut world = formed();
        change(&mut world, ordinal, how);
        is_ready_to_lead(&world, &id(&world, 1))
    }

    #[test]
    fn a_replica_in_step_is_ready_and_nobody_else() {
        let world = formed();
        assert!(is_ready_to_lead(&world, &id(&world, 1)));
        assert!(!is_ready_to_lead(&world, &id(&world, 0)), "a primary");
        let nobody = NodeId::parse(&"f".repeat(40)).unwrap();
        assert!(!is_ready_to_lead(&world, &nobody));
    }

    #[test]
    fn who_lacks_more_than_the_last_of_the_stream_is_not_ready() {
        assert!(is_ready_after(0, |view| view.offset += REST));
        assert!(!is_ready_after(0, |view| view.offset += REST + 1));
        assert!(!is_ready_after(1, |view| view.link_up = false));
        assert!(!is_ready_after(1, |view| view.loading = true));
    }

    #[test]
    fn a_link_that_is_silent_must_lack_nothing_and_be_acknowledged() {
        let silent = || {
            let mut world = formed();
            change(&mut world, 1, |view| {
                view.standing.unheard_seconds = Some(9)
            });
            world
        };
        let ready = |world: &World| is_ready_to_lead(world, &id(world, 1));
        assert!(ready(&silent()));
        let mut behind = silent();
        change(&mut behind, 0, |view| view.offset += 1);
        assert!(!ready(&behind));
        let mut unread = silent();
        change(&mut unread, 0, |view| view.standing.attached.clear());
        assert!(!ready(&unread));
    }

    #[test]
    fn both_must_hear_the_others() {
        let doubt = |link| {
            move |view: &mut NodeView| {
                let mut known = view.known.values_mut();
                let other =
                    known.find(|k| k.slots.is_empty() && k.primary.as_ref() != Some(&view.id));
                other.unwrap().link = link;
            }
        };
        for ordinal in [0, 1] {
            assert!(!is_ready_after(ordinal, |view| view.cluster_ok = false));
            assert!(!is_ready_after(ordinal, doubt(LinkState::Suspected)));
            assert!(
                is_ready_after(ordinal, doubt(LinkState::Failed)),
                "long known"
            );
            assert!(!is_ready_after(ordinal, |view| {
                for known in view.known.values_mut() {
                    known.link = LinkState::Failed;
                }
            }));
        }
    }
}
