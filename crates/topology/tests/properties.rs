//! What must hold whatever goes wrong, and in whatever order it is seen.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

use cachecluster_topology::sim::Sim;
use cachecluster_topology::{
    Action, Durable, LinkState, Member, NodeId, NodeView, Presence, Role, SlotRanges, World,
    assess, is_ready_to_lead, plan,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// Passes within which every world must be healthy once nothing more goes wrong.
const ENOUGH: usize = 40;

/// What happens to a cluster, besides what its operator does.
#[derive(Clone, Debug)]
enum Event {
    Kill(Index),
    Delete(Index),
    Start(Index, bool),
    Replace(Index, bool),
    Unplace(Index),
    RestartAll,
    Terminate(Index),
    Fence(Index),
    Lift(Index),
    Visible(Index, bool),
    Connected(Index, bool),
    Scale(u32),
    Write(Index, u64),
    Gossip,
    Elect,
    /// The operator passes; only so many commands of its action are carried out.
    Pass(usize),
}

fn event() -> impl Strategy<Value = Event> {
    use Event::*;
    let at = any::<Index>;
    prop_oneof![
        3 => at().prop_map(Kill),
        3 => at().prop_map(Delete),
        4 => (at(), any::<bool>()).prop_map(|(i, volume)| Start(i, volume)),
        3 => (at(), any::<bool>()).prop_map(|(i, volume)| Replace(i, volume)),
        2 => at().prop_map(Unplace),
        1 => Just(RestartAll),
        1 => at().prop_map(Terminate),
        1 => at().prop_map(Fence),
        1 => at().prop_map(Lift),
        2 => (at(), any::<bool>()).prop_map(|(i, on)| Visible(i, on)),
        2 => (at(), any::<bool>()).prop_map(|(i, on)| Connected(i, on)),
        1 => (0..3_u32).prop_map(Scale),
        3 => (at(), 1..9_u64).prop_map(|(i, keys)| Write(i, keys)),
        6 => Just(Gossip),
        1 => Just(Elect),
        6 => (0..4_usize).prop_map(Pass),
        6 => Just(Pass(usize::MAX)),
    ]
}

/// A cluster under test, which checks every step.
struct Trial {
    sim: Sim,
    shards: u32,
    replicas: u32,
    /// Whether no event may destroy the last copy of a shard's data.
    careful: bool,
    /// For a durable cluster: what its status says.
    durable: Option<Durable>,
    /// For a durable cluster: keys of each shard that were acknowledged and are not known to be lost.
    acknowledged: Vec<u64>,
}

impl Trial {
    fn new(shards: u32, replicas: u32, careful: bool) -> Self {
        Self {
            sim: Sim::new(shards, replicas),
            shards,
            replicas,
            careful,
            durable: None,
            acknowledged: vec![0; shards as usize],
        }
    }

    fn durable(shards: u32, replicas: u32) -> Self {
        let mut trial = Self::new(shards, replicas, false);
        trial.sim.demand_replicas();
        trial.durable = Some(Durable::default());
        trial
    }

    /// What an operator sees now.
    fn world(&self) -> World {
        let mut world = self.sim.world();
        world.durable = self.durable.clone();
        if let Some(durable) = &mut world.durable {
            // Nobody else promotes anybody, except where a test says so.
            durable.expired = world.members.iter().map(|m| m.name.clone()).collect();
        }
        world
    }

    /// Whether somebody in the shard's set reads what its primary writes now, besides the primary, if there is anybody: a
    /// replica that attached since the last pass also lets a write be acknowledged, and nothing is promised then.
    fn set_reads(&self, shard: u32) -> bool {
        let Some(durable) = &self.durable else {
            return true;
        };
        let mut sim = self.sim.clone();
        for member in sim.world().members {
            sim.set_visible(member.shard, member.ordinal, true);
        }
        let world = sim.world();
        let members = world.members.iter().filter(|m| m.shard == shard);
        let in_sync = durable.in_sync.get(&shard);
        let mut set = members.filter(|m| in_sync.is_some_and(|set| set.contains(&m.name)));
        let alone = in_sync.is_none_or(|set| set.len() < 2);
        alone || set.any(|m| m.view().is_some_and(NodeView::is_in_step))
    }

    fn at(&self, index: Index) -> (u32, u32) {
        let world = self.sim.world();
        let member = &world.members[index.index(world.members.len())];
        (member.shard, member.ordinal)
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Kill(i) => {
                let (s, o) = self.at(i);
                self.sim.kill(s, o);
            }
            Event::Delete(i) => {
                let (s, o) = self.at(i);
                self.sim.delete(s, o);
            }
            Event::Start(i, volume) => {
                let (s, o) = self.at(i);
                let wanted = o <= self.replicas;
                let spare = !self.careful || self.sim.has_copy_beside(s, o);
                if wanted {
                    self.sim.start(s, o, volume || !spare);
                }
            }
            Event::Replace(i, volume) => {
                let (s, o) = self.at(i);
                let spare = !self.careful || self.sim.has_copy_beside(s, o);
                self.sim.replace(s, o, volume || !spare);
            }
            Event::Unplace(i) => {
                let (s, o) = self.at(i);
                let spare = !self.careful || self.sim.has_copy_beside(s, o);
                if spare && o <= self.replicas {
                    self.sim.unplace(s, o);
                }
            }
            Event::RestartAll => self.sim.restart_all(true),
            Event::Terminate(i) => {
                let (s, o) = self.at(i);
                let world = self.sim.world();
                let here = |m: &&cachecluster_topology::Member| (m.shard, m.ordinal) == (s, o);
                if world.members.iter().find(here).unwrap().presence == Presence::Running {
                    self.sim.mark(s, o, Presence::Terminating);
                }
            }
            Event::Fence(i) => {
                let (s, o) = self.at(i);
                self.sim.fence(s, o);
            }
            Event::Lift(i) => {
                let (s, o) = self.at(i);
                self.sim.lift(s, o);
            }
            Event::Visible(i, on) => {
                let (s, o) = self.at(i);
                self.sim.set_visible(s, o, on);
            }
            Event::Connected(i, on) => {
                let (s, o) = self.at(i);
                self.sim.set_connected(s, o, on);
            }
            Event::Scale(replicas) if !self.careful => {
                self.replicas = replicas;
                self.sim.scale_replicas(replicas);
            }
            Event::Scale(_) => {}
            Event::Write(i, keys) => {
                let shard = i.index(self.shards as usize);
                if self.durable.is_some() {
                    // Replication is instant here: a primary knows who reads what it writes.
                    self.sim.gossip();
                }
                if self.sim.write(shard as u32, keys) && self.set_reads(shard as u32) {
                    self.acknowledged[shard] += keys;
                }
                self.sim.gossip();
            }
            Event::Gossip => self.sim.gossip(),
            Event::Elect => {
                if self.sim.elect() {
                    // Votes do not ask for more than a recent link.
                    self.acknowledged.fill(0);
                }
            }
            Event::Pass(commands) => {
                self.pass(commands);
            }
        }
    }

    /// One pass of an operator that dies after so many commands, with everything checked that must hold of any plan.
    fn pass(&mut self, commands: usize) -> bool {
        let world = self.world();
        let planned = plan(&world);
        assert_eq!(
            planned,
            plan(&shuffled(&world)),
            "the order of members matters"
        );
        let healthy = assess(&world).is_healthy();
        if healthy {
            // A primary that has just come back counts its replicas anew, which only matters where it demands one.
            let at_rest = planned.waiting.is_empty();
            assert!(at_rest || self.durable.is_some(), "{:?}", planned.waiting);
            let evens_out = |action: &Action| match action {
                Action::Failover { .. } => true,
                Action::RequireReplicas { .. } => self.durable.is_some(),
                _ => false,
            };
            assert!(
                planned.action.iter().all(evens_out),
                "a healthy world needs no {:?}",
                planned.action
            );
            let sets = self.durable.as_ref().map(|durable| &durable.in_sync);
            if planned.action.is_none()
                && at_rest
                && sets.is_none_or(|sets| *sets == planned.in_sync)
            {
                return true;
            }
        }
        if let Some(action) = planned.action {
            self.check(&world, &action);
            let served = self.sim.served();
            let refused = self.sim.apply_part(&action, commands);
            let lost = served.minus(&self.sim.served());
            assert!(lost.is_empty(), "{action:?} uncovered slots {lost}");
            // What is planned on what a node said a moment ago, it does not refuse.
            assert!(refused.is_empty(), "{action:?} was refused: {refused:?}");
            if let Action::AssignSlots { assignments } = &action {
                // All that was there is gone, with every place of the shard.
                for (node, ..) in assignments {
                    let mut members = world.members.iter();
                    let shard = members.find(|m| m.name == node.name).unwrap().shard;
                    self.acknowledged[shard as usize] = 0;
                }
            }
        }
        if let Some(durable) = self.durable.as_mut().filter(|_| commands > 0) {
            durable.in_sync = planned.in_sync;
        }
        false
    }

    fn check(&self, world: &World, action: &Action) {
        match action {
            Action::ForceFailover { replica } | Action::Takeover { replica } => {
                let views = || world.members.iter().filter_map(|m| m.view());
                let this = views().find(|v| v.id == replica.id).unwrap();
                let primary = this.primary.as_ref().unwrap();
                assert!(
                    views().all(|v| v.id != *primary),
                    "promoted over a reachable primary"
                );
                let mut heard = views().filter_map(|v| v.known.get(primary));
                assert!(
                    heard.all(|k| k.link != LinkState::Ok),
                    "promoted although another node hears the primary"
                );
                let fenced = |id: &NodeId| {
                    let mut fenced = world.members.iter().filter(|m| m.fenced);
                    fenced.any(|m| m.view().is_some_and(|v| v.id == *id))
                };
                assert!(!fenced(&replica.id), "promoted one that stops");
                let siblings = views().filter(|v| {
                    v.primary.as_ref() == Some(primary) && !v.loading && !fenced(&v.id)
                });
                let best = siblings.map(|v| v.offset).max();
                match &self.durable {
                    None => {
                        assert_eq!(best, Some(this.offset), "promoted over a fresher replica");
                        let silent = world.members.iter().any(|m| m.view().is_none());
                        assert!(
                            !this.is_late() || !silent,
                            "promoted before its primary could return"
                        );
                    }
                    Some(durable) => self.check_durable(durable, world, &replica.name, this),
                }
                // With one or two shards nobody can tell a majority from a single node that is cut off with us: there
                // the silence of the primary to everybody we hear has to do.
                if world.shards >= 3 && matches!(action, Action::Takeover { .. }) {
                    let hidden = world.members.iter().filter(|m| {
                        let silent = m.vouched && m.view().is_none();
                        silent && self.sim.is_connected_owner(m.shard, m.ordinal)
                    });
                    let (hidden, shards) = (hidden.count(), world.shards as usize);
                    assert!(
                        hidden * 2 <= shards,
                        "promoted by decree while {hidden} of {shards} primaries go on elsewhere"
                    );
                }
                // Agents that are cut off with most of the members may do without votes.
                if matches!(action, Action::Takeover { .. }) {
                    let silent = world
                        .members
                        .iter()
                        .filter(|m| m.vouched && m.view().is_none());
                    assert!(
                        silent.count() * 2 <= world.members.len(),
                        "promoted by decree against most of the agents"
                    );
                }
            }
            Action::Forget { gone, .. } => {
                for id in gone {
                    let owner = self.sim.alive(id).is_some_and(|v| !v.slots.is_empty());
                    assert!(!owner, "forgot {id:?}, which is alive and owns slots");
                }
            }
            Action::Replicate { pairs } => {
                for (node, _) in pairs {
                    let view = self.sim.alive(&node.id).unwrap();
                    assert!(view.slots.is_empty(), "{} owns slots", node.name);
                    assert!(view.role == Role::Replica || view.keys == 0);
                }
            }
            Action::AssignSlots { assignments } => {
                let all = assignments.iter().map(|(_, slots, _)| slots);
                let mut taken = SlotRanges::default();
                for slots in all {
                    assert!(taken.intersection(slots).is_empty());
                    taken = taken.union(slots);
                }
                for (node, _, _) in assignments {
                    let mut members = world.members.iter();
                    let fenced = members.any(|m| m.fenced && m.name == node.name);
                    assert!(!fenced, "{} stops, and is given slots", node.name);
                    let view = self.sim.alive(&node.id).unwrap();
                    assert_eq!(view.role, Role::Primary, "{} follows somebody", node.name);
                }
                let claimed = self.sim.served().intersection(&taken);
                assert!(claimed.is_empty(), "{claimed} are owned still");
            }
            Action::Meet { via, peers } => {
                let ids: BTreeSet<_> = peers.iter().map(|p| &p.id).collect();
                assert!(ids.len() == peers.len() && !ids.contains(&via.id));
            }
            Action::RequireReplicas { nodes, least } => {
                let durable = self.durable.as_ref().unwrap();
                for node in nodes.iter().filter(|_| *least == 0) {
                    let mut sets = durable.in_sync.values();
                    let alone = [node.name.clone()];
                    assert!(sets.any(|set| *set == alone), "{} is not alone", node.name);
                    assert!(self.sim.alive(&node.id).unwrap().cluster_ok);
                }
            }
            Action::Failover { replica } => {
                let of = |id: &NodeId| {
                    let mut members = world.members.iter();
                    let this = members.find(|m| m.view().is_some_and(|v| v.id == *id));
                    this.unwrap()
                };
                let to = of(&replica.id);
                assert!(!to.fenced, "handed over to one that stops");
                assert!(is_ready_to_lead(world, &replica.id));
                let from = of(to.view().unwrap().primary.as_ref().unwrap());
                let load = |member: &Member| owners_at(world, |m| m.machine == member.machine);
                if load(to) + 1 < load(from) {
                    return;
                }
                assert!(load(to) < load(from), "a machine comes off worse");
                let zone = |member: &Member| owners_at(world, |m| m.zone == member.zone);
                assert!(zone(to) < zone(from), "nothing is evened out");
                let fullest = world.members.iter().map(zone).max().unwrap();
                assert!(
                    fullest * 2 >= owners_at(world, |_| true),
                    "nobody needs that"
                );
            }
        }
    }

    fn check_durable(&self, durable: &Durable, world: &World, name: &String, view: &NodeView) {
        if durable.allowed.as_ref() == Some(name) {
            return;
        }
        let mut members = world.members.iter();
        let shard = members.find(|m| m.name == *name).unwrap().shard;
        assert!(
            !view.is_unheard_since_start(),
            "promoted {name}, which was started again and has heard nobody since"
        );
        let set = &durable.in_sync[&shard];
        assert!(
            set.contains(name),
            "promoted {name}, which is not in {set:?}"
        );
        let acknowledged = self.acknowledged[shard as usize];
        assert!(
            view.keys >= acknowledged,
            "promoted {name}, which lacks {} of {acknowledged} keys",
            acknowledged - view.keys
        );
    }

    /// The user accepts what a refusal says is lost. Whether there was one.
    fn allow(&mut self) -> bool {
        let refused = plan(&self.world()).refused;
        let pod = refused.first().and_then(|why| why.rsplit_once('='));
        let Some((durable, (_, pod))) = self.durable.as_mut().zip(pod) else {
            return false;
        };
        durable.allowed = Some(pod.to_owned());
        true
    }

    /// Everything that can be repaired from outside is: pods run, networks work.
    fn calm(&mut self) {
        for member in self.sim.world().members {
            let (s, o) = (member.shard, member.ordinal);
            self.sim.set_visible(s, o, true);
            self.sim.set_connected(s, o, true);
            self.sim.lift(s, o);
            if member.presence == Presence::Terminating {
                self.sim.delete(s, o);
            }
            if o <= self.replicas {
                self.sim.start(s, o, true);
            } else {
                self.sim.delete(s, o);
            }
        }
    }

    fn must_heal(&mut self) {
        for _ in 0..ENOUGH {
            self.sim.gossip();
            if self.pass(usize::MAX) {
                return;
            }
        }
        // One shard at a time: the annotation names one pod.
        while self.allow() {
            for _ in 0..ENOUGH {
                self.sim.gossip();
                if self.pass(usize::MAX) {
                    return;
                }
            }
        }
        let world = self.world();
        let health = assess(&world);
        let problems: Vec<_> = health.problems().collect();
        let plan = plan(&world);
        // Where copies were destroyed while other copies were away, a cluster may have been born anew before those came
        // back. What they hold is not thrown away for the sake of wholeness: people must decide, and are told so.
        let told = plan.waiting.iter().any(|w| w.contains("are kept apart"));
        let views = world.members.iter().filter_map(|m| m.view());
        let claims = |v: &NodeView| v.known.is_empty() && !v.slots.is_empty();
        let holds = |v: &NodeView| claims(v) || (v.keys > 0 && !v.cluster_ok);
        if !self.careful && told && views.into_iter().any(holds) {
            return;
        }
        panic!("after {ENOUGH} passes still: {problems:#?}\n{plan:#?}\n{world:#?}");
    }

    fn keys(&self) -> u64 {
        assess(&self.sim.world())
            .shards
            .iter()
            .map(|s| s.keys)
            .sum()
    }
}

/// How many owners of slots are where `there` says.
fn owners_at(world: &World, there: impl Fn(&Member) -> bool) -> usize {
    let owns = |m: &&Member| m.view().is_some_and(|v| !v.slots.is_empty());
    world
        .members
        .iter()
        .filter(owns)
        .filter(|m| there(m))
        .count()
}

/// The same world told in another order.
fn shuffled(world: &World) -> World {
    let mut world = world.clone();
    world.members.reverse();
    let half = world.members.len() / 2;
    world.members.rotate_left(half);
    world
}

/// 256 cases each, or as many as `PROPTEST_CASES` says.
fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_birth_that_is_cut_anywhere_still_completes(
        shards in 1..6_u32, replicas in 0..4_u32, cuts in vec((0..4_usize, any::<bool>()), 0..12)
    ) {
        let mut trial = Trial::new(shards, replicas, true);
        for (commands, gossip) in cuts {
            trial.pass(commands);
            if gossip {
                trial.sim.gossip();
            }
        }
        trial.must_heal();
        let health = assess(&trial.sim.world());
        for shard in &health.shards {
            prop_assert_eq!(&shard.slots, &SlotRanges::share(shard.index, shards));
            prop_assert_eq!(shard.in_sync.len(), replicas as usize);
        }
    }

    #[test]
    fn a_birth_does_not_wait_for_replicas_without_a_machine(
        shards in 1..6_u32, replicas in 0..4_u32, born in vec(any::<Index>(), 5), more in vec(any::<bool>(), 20),
        cuts in vec((0..4_usize, any::<bool>()), 0..12)
    ) {
        let mut trial = Trial::new(shards, replicas, true);
        // One place of each shard has a machine, and any number of the others.
        for shard in 0..shards {
            let first = born[shard as usize].index(replicas as usize + 1);
            for ordinal in 0..=replicas {
                let placed = more[(shard * 4 + ordinal) as usize];
                if ordinal as usize != first && !placed {
                    trial.sim.unplace(shard, ordinal);
                }
            }
        }
        for (commands, gossip) in cuts {
            trial.pass(commands);
            if gossip {
                trial.sim.gossip();
            }
        }
        for _ in 0..ENOUGH {
            trial.sim.gossip();
            trial.pass(usize::MAX);
        }
        let health = assess(&trial.sim.world());
        prop_assert!(health.is_serving() && health.joined && health.agreed, "{:?}", health);
        for shard in 0..shards {
            prop_assert!(trial.sim.write(shard, 7));
        }
        trial.sim.gossip();
        // The others come, and take nothing.
        trial.calm();
        trial.must_heal();
        prop_assert_eq!(trial.keys(), 7 * u64::from(shards));
    }

    #[test]
    fn faults_that_spare_a_copy_lose_no_key(
        shards in 1..6_u32, replicas in 0..4_u32, keys in 1..99_u64, events in vec(event(), 0..40)
    ) {
        let mut trial = Trial::new(shards, replicas, true);
        trial.must_heal();
        for shard in 0..shards {
            prop_assert!(trial.sim.write(shard, keys));
        }
        trial.sim.gossip();
        for event in &events {
            if !matches!(event, Event::Write(..)) {
                trial.happen(event);
            }
        }
        trial.calm();
        trial.must_heal();
        prop_assert_eq!(trial.keys(), keys * u64::from(shards));
    }

    #[test]
    fn whatever_happens_the_cluster_becomes_whole_again(
        shards in 1..6_u32, replicas in 0..4_u32, events in vec(event(), 0..60)
    ) {
        let mut trial = Trial::new(shards, replicas, false);
        for event in &events {
            trial.happen(event);
        }
        trial.calm();
        trial.must_heal();
    }

    #[test]
    fn primaries_come_to_rest_where_machines_and_zones_share_them(
        shards in 1..8_u32, replicas in 0..3_u32, machines in vec(0..7_u32, 24), zones in 1..5_u32,
        events in vec(event(), 0..20)
    ) {
        let mut trial = Trial::new(shards, replicas, true);
        for shard in 0..shards {
            for ordinal in 0..=replicas {
                let machine = machines[(shard * 3 + ordinal) as usize];
                let zone = format!("zone-{}", machine % zones);
                trial.sim.put(shard, ordinal, &format!("machine-{machine}"), Some(&zone));
            }
        }
        trial.must_heal();
        for event in &events {
            trial.happen(event);
        }
        trial.calm();
        let mut handed_over = 0;
        while !trial.pass(usize::MAX) {
            trial.sim.gossip();
            handed_over += 1;
            prop_assert!(handed_over < 100, "no end");
        }
        // At rest. No single hand-over to a machine with fewer would relieve a zone that holds too many.
        let world = trial.sim.world();
        let all: BTreeSet<_> = world.members.iter().map(|m| &m.zone).collect();
        let fullest = world.members.iter().map(|m| owners_at(&world, |o| o.zone == m.zone)).max();
        let fullest = fullest.unwrap();
        if all.len() < 3 || fullest * 2 < shards as usize {
            return Ok(());
        }
        for to in &world.members {
            let Some(id) = &to.view().unwrap().primary else { continue };
            let mut members = world.members.iter();
            let from = members.find(|m| m.view().unwrap().id == *id).unwrap();
            let on = |m: &Member| owners_at(&world, |o| o.machine == m.machine);
            let within = |m: &Member| owners_at(&world, |o| o.zone == m.zone);
            let helps = within(from) == fullest && within(to) + 2 <= fullest;
            prop_assert!(!(helps && on(to) < on(from)), "{} could take over", to.name);
        }
    }

    #[test]
    fn a_durable_cluster_promotes_nobody_who_lacks_an_acknowledged_write(
        shards in 1..5_u32, replicas in 0..4_u32, born in any::<bool>(), events in vec(event(), 0..60)
    ) {
        let mut trial = Trial::durable(shards, replicas);
        if born {
            trial.must_heal();
        }
        for event in &events {
            trial.happen(event);
        }
        trial.calm();
        trial.must_heal();
        for shard in 0..shards {
            prop_assert!(trial.sim.write(shard, 1), "{:#?}", trial.durable);
        }
    }
}
