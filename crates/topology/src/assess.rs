//! How the cluster is: what a status shows, and the definition of healthy that planning works towards.

use crate::action::NodeRef;
use crate::model::{NodeId, Probe, Role, World};
use crate::roster::{Node, Owner, Roster};
use crate::slots::SlotRanges;

/// The state of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardHealth {
    /// Its index, counted from 0.
    pub index: u32,
    /// The answering node that owns its slots.
    pub primary: Option<NodeRef>,
    /// Replicas that follow this primary over a link that is up, in the order of their ordinals.
    pub in_sync: Vec<NodeRef>,
    /// The slots that it owns, also while their owner is silent.
    pub slots: SlotRanges,
    /// Keys that its primary holds.
    pub keys: u64,
    /// What is wrong with it, in sentences.
    pub problems: Vec<String>,
    /// Whom it lacks because a user wants so, in sentences; while it has a primary that answers.
    pub fences: Vec<String>,
}

/// The state of the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The wanted shards, by index.
    pub shards: Vec<ShardHealth>,
    /// Slots whose owner answered.
    pub covered: SlotRanges,
    /// Whether all members that answered hear each other at their present addresses.
    pub joined: bool,
    /// Whether all members that answered agree on who owns which slots.
    pub agreed: bool,
    /// Whether a majority of the owners of slots answered, so that elections can succeed.
    pub majority: bool,
    /// Ids that some node knows and that cannot be traced to a member, by id.
    pub ghosts: Vec<NodeId>,
    /// What is wrong beyond single shards, in sentences.
    whole: Vec<String>,
}

impl Health {
    /// Whether everything is as wanted: then there is nothing to plan.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.problems().next().is_none()
    }

    /// Whether everything is as wanted, but for servers that users have stopped: no look at it soon will show more.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.whole.is_empty() && self.shards.iter().all(|shard| shard.problems.is_empty())
    }

    /// Whether every slot has an owner that answers, and the owners can elect: clients are served, perhaps with fewer
    /// replicas than wanted.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.covered == SlotRanges::all() && self.majority
    }

    /// What is wrong, in sentences for people: the shards' own first, then the whole's. Empty when healthy.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        let shards = self
            .shards
            .iter()
            .flat_map(|s| s.problems.iter().chain(&s.fences));
        shards.chain(&self.whole).map(String::as_str)
    }
}

/// Assesses `world`. Equal worlds give equal answers, whatever the order of members.
#[must_use]
pub fn assess(world: &World) -> Health {
    let roster = Roster::of(world);
    let mut whole = Vec::new();
    if let Some((one, other)) = roster.twins() {
        let (one, other) = (&one.member.name, &other.member.name);
        whole.push(format!("{one} and {other} say that they are the same node"));
    }

    let covered = roster
        .nodes
        .iter()
        .fold(SlotRanges::default(), |all, n| all.union(&n.slots));
    let missing = SlotRanges::all().minus(&covered);
    if !missing.is_empty() {
        whole.push(format!("slots {missing} are not served"));
    }

    let deaf = deaf_pairs(&roster);
    if let Some((a, b)) = deaf.first() {
        let more = match deaf.len() {
            1 => String::new(),
            n => format!(" (and {} more pairs)", n - 1),
        };
        whole.push(format!("{a} does not hear {b}{more}"));
    }

    let dissenter = dissenter(&roster);
    if let Some(name) = dissenter {
        whole.push(format!("{name} has another view of who owns which slots"));
    }

    let answering = roster.nodes.iter().filter(|n| !n.slots.is_empty()).count();
    let lost = roster.strangers.iter().filter(|s| !s.slots.is_empty());
    let owners = answering + lost.count();
    let majority = answering * 2 > owners;
    if owners > 0 && !majority {
        whole.push(format!(
            "only {answering} of {owners} primaries answer: there is no majority to elect others"
        ));
    }

    let strangers = roster.strangers.iter();
    let ghosts: Vec<NodeId> = strangers
        .filter(|s| s.member.is_none())
        .map(|s| s.id.clone())
        .collect();
    whole.extend(
        ghosts
            .iter()
            .map(|id| format!("node {id} is remembered, but is no member's")),
    );

    Health {
        shards: (0..world.shards)
            .map(|i| assess_shard(&roster, i))
            .collect(),
        covered,
        joined: deaf.is_empty(),
        agreed: dissenter.is_none(),
        majority,
        ghosts,
        whole,
    }
}

fn assess_shard(roster: &Roster<'_>, index: u32) -> ShardHealth {
    let mut problems = Vec::new();
    let owner = roster.owner(index);
    let primary = match owner {
        Owner::Node(i) => Some(&roster.nodes[i]),
        Owner::Gone(_) | Owner::Nobody => None,
    };
    let members = || roster.members.iter().filter(|m| m.shard == index);
    let places = u64::from(roster.world.replicas) + 1;
    let wanted = members().filter(|m| m.is_wanted(roster.world)).count();
    if u64::try_from(wanted).is_ok_and(|wanted| wanted < places) {
        problems.push(format!("shard {index} has {wanted} of {places} places"));
    }

    let mut fences: Vec<String> = members()
        .filter(|m| m.is_wanted(roster.world) && m.fenced)
        .map(|m| format!("{} is fenced", m.name))
        .collect();
    let mut silences: Vec<String> = members()
        .filter(|m| m.is_wanted(roster.world) && !m.fenced && !roster.answered(m))
        .map(|m| match &m.probe {
            Probe::Silent(why) => format!("{} is silent ({why})", m.name),
            Probe::Loading => format!("{} is loading its data set", m.name),
            Probe::Refused(why) => format!("{} gives no account of itself ({why})", m.name),
            Probe::Answered(_) => format!("{} has no address", m.name),
        })
        .collect();
    if primary.is_none() {
        fences.append(&mut silences);
        silences = std::mem::take(&mut fences);
        let why = match owner {
            _ if !silences.is_empty() => silences.join(", "),
            Owner::Gone(i) => format!("node {} is gone", roster.strangers[i].id),
            _ => "no slots are given to it".to_owned(),
        };
        problems.push(format!("shard {index} has no primary: {why}"));
    } else {
        problems.extend(silences);
    }

    let mut in_sync = Vec::new();
    for node in roster.nodes.iter().filter(|n| n.member.shard == index) {
        let name = &node.member.name;
        if node.view.loading {
            problems.push(format!("{name} is loading its data set"));
        }
        let Some(primary) = primary else { continue };
        let leader = &primary.member.name;
        if primary.view.id == node.view.id {
            if !node.view.cluster_ok {
                problems.push(format!("{name} reports that the cluster is down"));
            }
        } else if !node.slots.is_empty() {
            problems.push(format!("{name} owns slots beside {leader}"));
        } else if node.view.role != Role::Replica
            || node.view.primary.as_ref() != Some(&primary.view.id)
        {
            problems.push(format!("{name} does not follow {leader}"));
        } else if let Some((ip, port)) = node
            .view
            .standing
            .dials
            .filter(|_| node.view.dials_in_vain(primary.addr))
        {
            problems.push(format!(
                "{name} has no link to {leader}: it looks for it at {ip}:{port}"
            ));
        } else if !node.view.link_up {
            problems.push(format!("{name} has no link to {leader}"));
        } else {
            in_sync.push(node.to_ref());
        }
    }

    ShardHealth {
        index,
        primary: primary.map(Node::to_ref),
        in_sync,
        slots: match owner {
            Owner::Node(i) => roster.nodes[i].slots.clone(),
            Owner::Gone(i) => roster.strangers[i].slots.clone(),
            Owner::Nobody => SlotRanges::default(),
        },
        keys: primary.map_or(0, |node| node.view.keys),
        problems,
        fences,
    }
}

/// Pairs of answering members of which the first does not hear the second. A node that is not wanted and never joined
/// need not be heard.
fn deaf_pairs<'w>(roster: &Roster<'w>) -> Vec<(&'w str, &'w str)> {
    let joining = |n: &&Node<'_>| n.member.is_wanted(roster.world) || !n.view.is_blank();
    let mut pairs = Vec::new();
    for a in roster.nodes.iter().filter(joining) {
        for b in roster.nodes.iter().filter(joining) {
            if a.member.name != b.member.name && !a.hears(b) {
                pairs.push((&*a.member.name, &*b.member.name));
            }
        }
    }
    pairs
}

/// The first member whose view of the slots is not the one that epochs settle.
fn dissenter<'w>(roster: &Roster<'w>) -> Option<&'w str> {
    let agrees = |observer: &Node<'_>, of: &Node<'_>| {
        if observer.view.id == of.view.id {
            return observer.view.slots == of.slots;
        }
        let account = observer.account_of(of);
        account.is_none_or(|known| known.slots == of.slots)
    };
    let mut nodes = roster.nodes.iter();
    nodes
        .find(|observer| !roster.nodes.iter().all(|of| agrees(observer, of)))
        .map(|observer| &*observer.member.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Sim;

    fn formed(shards: u32, replicas: u32) -> Sim {
        let mut sim = Sim::new(shards, replicas);
        assert!(sim.run(10).is_some());
        sim
    }

    #[test]
    fn a_healthy_cluster() {
        let mut sim = formed(3, 1);
        assert!(sim.write(1, 42));
        let health = assess(&sim.world());
        assert!(health.is_healthy() && health.is_serving() && health.joined && health.agreed);
        assert_eq!(health.shards[1].keys, 42);
        assert_eq!(health.shards[1].slots.to_string(), "5461-10921");
        assert_eq!(health.shards[1].in_sync[0].name, "quickstart-shard-1-1");
    }

    #[test]
    fn problems_read_as_sentences() {
        let mut sim = formed(3, 1);
        sim.kill(1, 0);
        sim.gossip();
        let health = assess(&sim.world());
        assert!(!health.is_serving() && health.majority);
        let problems: Vec<_> = health.problems().collect();
        let expected = [
            "shard 1 has no primary: quickstart-shard-1-0 is silent (connection refused)",
            "slots 5461-10921 are not served",
        ];
        assert_eq!(problems, expected);
    }

    #[test]
    fn a_lost_replica_is_a_problem_but_clients_are_served() {
        let mut sim = formed(1, 1);
        sim.delete(0, 1);
        let health = assess(&sim.world());
        assert!(!health.is_healthy() && health.is_serving());
        let problems: Vec<_> = health.problems().collect();
        assert!(
            problems.contains(&"quickstart-shard-0-1 is silent (no such pod)"),
            "{problems:?}"
        );
    }

    #[test]
    fn a_fenced_server_is_missed_but_not_awaited() {
        let mut sim = formed(3, 1);
        sim.fence(1, 1);
        let health = assess(&sim.world());
        let fenced = ["quickstart-shard-1-1 is fenced"];
        assert_eq!(health.problems().collect::<Vec<_>>(), fenced);
        sim.kill(1, 1);
        sim.gossip();
        let health = assess(&sim.world());
        assert_eq!(health.problems().collect::<Vec<_>>(), fenced);
        assert!(!health.is_healthy() && health.is_at_rest() && health.is_serving());
        // Without a primary the shard does not rest.
        sim.fence(1, 0);
        sim.kill(1, 0);
        let health = assess(&sim.world());
        assert!(!health.is_at_rest());
        assert_eq!(
            health.problems().next(),
            Some(
                "shard 1 has no primary: quickstart-shard-1-0 is fenced, quickstart-shard-1-1 is fenced"
            )
        );
    }

    #[test]
    fn a_new_cluster_says_what_it_lacks() {
        let health = assess(&Sim::new(2, 0).world());
        let problems: Vec<_> = health.problems().collect();
        let expected = [
            "shard 0 has no primary: no slots are given to it",
            "shard 1 has no primary: no slots are given to it",
            "slots 0-16383 are not served",
            "quickstart-shard-0-0 does not hear quickstart-shard-1-0 (and 1 more pairs)",
        ];
        assert_eq!(problems, expected);
    }
    #[test]
    fn between_two_claims_the_higher_epoch_decides() {
        let mut sim = formed(3, 1);
        // Cut off from the others, the old primary does not learn that it was replaced.
        sim.set_connected(0, 0, false);
        sim.gossip();
        assert!(sim.elect());
        sim.gossip();
        let health = assess(&sim.world());
        let primary = health.shards[0].primary.as_ref().unwrap();
        assert_eq!(primary.name, "quickstart-shard-0-1");
        assert!(!health.agreed && health.covered == SlotRanges::all());
        sim.set_connected(0, 0, true);
        assert!(sim.run(5).is_some());
        let health = assess(&sim.world());
        assert_eq!(health.shards[0].in_sync[0].name, "quickstart-shard-0-0");
    }
}
