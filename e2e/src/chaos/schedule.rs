//! What happens when: a pure function of the seed and of what the cluster can be put through.
//!
//! Kinds of faults are dealt from decks, not thrown, so that all of them, pairs of them and faults while the cluster boots
//! come up within a bounded number of rounds, whatever the seed. The first rounds of a longer schedule are those of a
//! shorter one: a round is replayed by its seed and number.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::dice::{Deck, Dice};
use super::fault::{Cut, Fault, Kind, Role, Target};

/// What the Kubernetes cluster can be put through.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    /// Nodes of the testbed; none if it is another cluster.
    pub(super) nodes: Option<u32>,
    /// Engines, the default one first.
    pub(super) engines: Vec<String>,
    /// Whether pods can have volumes.
    pub(super) storage: bool,
}

/// What a cache cluster is made like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Number of shards.
    pub(super) shards: u32,
    /// Replicas of each.
    pub(super) replicas: u32,
    /// Whether there are volumes.
    pub(super) storage: bool,
    /// Whether it keeps what it acknowledged rather than serve: the durable profile.
    pub(super) durable: bool,
    /// Whether every write of a durable one is forced to disk before it is acknowledged, not all of them once a second.
    pub(super) always: bool,
    /// The engine's image.
    pub(super) engine: String,
}

/// When the first fault of a round strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// When the cluster is whole and writers write.
    Whole,
    /// So long after the cluster was created.
    Boot(Duration),
}

/// A round: one or two faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Round {
    /// From 0.
    pub(super) number: u32,
    /// Rounds of the same life use the same cache cluster, one after the other.
    pub(super) life: u32,
    /// What that is like.
    pub(super) shape: Shape,
    /// When the first fault strikes.
    pub(super) start: Start,
    /// The faults, in the order in which they strike.
    pub(super) faults: Vec<Fault>,
}

impl Shape {
    /// The resource's spec.
    pub(super) fn spec(&self) -> Value {
        let mut spec = crate::cluster::small(self.shards, self.replicas);
        spec["engine"] = json!({"image": self.engine});
        if self.storage {
            spec["storage"] = json!({"size": "128Mi", "onDelete": "Delete"});
        }
        if self.durable {
            spec["profile"] = json!("Durable");
            let fsync = if self.always { "Always" } else { "EverySecond" };
            spec["durability"] = json!({"fsync": fsync});
            spec["engine"]["eviction"] = json!("noeviction");
        }
        spec
    }

    /// Redis pods in all.
    pub(super) fn pods(&self) -> usize {
        self.shards as usize * self.members()
    }

    /// Redis pods of a shard.
    pub(super) fn members(&self) -> usize {
        1 + self.replicas as usize
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let storage = match (self.durable, self.always, self.storage) {
            (true, true, _) => " durable, always",
            (true, ..) => " durable",
            (_, _, true) => " stored",
            _ => "",
        };
        let engine = self.engine.rsplit('/').next().unwrap_or_default();
        write!(f, "{}x{} {engine}{storage}", self.shards, self.replicas)
    }
}

impl Round {
    /// When the last fault is undone, from the first one's strike on.
    pub(super) fn lasts(&self) -> Duration {
        let ends = self.faults.iter().map(|fault| fault.after + fault.lasts);
        ends.max().unwrap_or_default()
    }

    /// Whether somebody can write while the faults strike.
    pub(super) fn can_be_watched(&self) -> bool {
        !self.faults.iter().any(|fault| fault.kind.strikes_writers())
    }

    /// The nodes on which nothing that must live may run, in order.
    pub(super) fn struck_nodes(&self) -> Vec<u32> {
        let mut nodes: Vec<u32> = self.faults.iter().flat_map(Fault::nodes).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<String> = self.faults.iter().map(ToString::to_string).collect();
        write!(f, "{}: {}", self.shape, faults.join(" + "))?;
        match self.start {
            Start::Whole => Ok(()),
            Start::Boot(after) => write!(f, ", {} ms into the boot", after.as_millis()),
        }
    }
}

/// How many faults, and when.
#[derive(Clone, Copy, Debug)]
struct Mode {
    pair: bool,
    boot: bool,
}

/// Most rounds that a life has.
const LIFE: u32 = 4;

/// The first `count` rounds.
pub(super) fn schedule(seed: u64, profile: &Profile, count: u32) -> Vec<Round> {
    let mut dice = Dice::new(seed);
    let mut shapes = Deck::of([
        ((3, 1), 6),
        ((1, 1), 2),
        ((2, 1), 2),
        ((3, 2), 2),
        ((1, 2), 1),
        ((5, 1), 1),
    ]);
    let mut durables = Deck::of([(false, 5), (true, 1)]);
    let mode = |pair, boot| Mode { pair, boot };
    let mut modes = Deck::of([
        (mode(false, false), 4),
        (mode(true, false), 4),
        (mode(false, true), 1),
        (mode(true, true), 1),
    ]);
    let mut kinds = Deck::of(
        Kind::ALL
            .into_iter()
            .filter(|kind| profile.nodes.is_some() || !kind.needs_testbed())
            .filter(|kind| profile.storage || !kind.needs_storage())
            .map(|kind| (kind, weight(kind))),
    );
    let (mut rounds, mut life, mut left): (Vec<Round>, u32, u32) = (Vec::new(), 0, 0);
    let mut shape = None;
    for number in 0..count {
        let mode = modes.deal(&mut dice).unwrap_or(mode(false, false));
        if left == 0 || mode.boot || shape.is_none() {
            life += u32::from(number > 0);
            left = dice.between(1, LIFE);
            let durable = durables.deal(&mut dice).unwrap_or_default();
            shape = shapes
                .deal(&mut dice)
                .map(|size| draw_shape(&mut dice, profile, size, durable));
        }
        left -= 1;
        let Some(shape) = shape.clone() else {
            break;
        };
        let start = if mode.boot {
            Start::Boot(Duration::from_millis(u64::from(dice.between(0, 10_000))))
        } else {
            Start::Whole
        };
        rounds.push(Round {
            number,
            life,
            faults: draw_faults(&mut dice, &mut kinds, profile, &shape, mode.pair),
            shape,
            start,
        });
    }
    rounds
}

/// How long the API server goes on after it was asked for something.
const ASKED: Duration = Duration::from_millis(300);

/// How often a kind comes up in a deck. What destroys all copies where there are no volumes is rare.
fn weight(kind: Kind) -> usize {
    match kind {
        Kind::KillServer | Kind::KillContainer | Kind::PowerOff | Kind::Partition => 3,
        Kind::DeletePod | Kind::HangServer | Kind::StopApiServer | Kind::Drain => 2,
        _ => 1,
    }
}

fn draw_shape(
    dice: &mut Dice,
    profile: &Profile,
    (shards, replicas): (u32, u32),
    durable: bool,
) -> Shape {
    // Drawn also where it does not matter, so that the rest of the schedule stays the same.
    let (stored, other, always) = (dice.once_in(4), dice.once_in(4), dice.once_in(2));
    let engine = profile.engines.get(usize::from(other));
    Shape {
        shards,
        replicas,
        storage: (stored || durable) && profile.storage,
        durable: durable && profile.storage,
        always: durable && profile.storage && always,
        engine: engine
            .or_else(|| profile.engines.first())
            .cloned()
            .unwrap_or_default(),
    }
}

fn draw_faults(
    dice: &mut Dice,
    kinds: &mut Deck<Kind>,
    profile: &Profile,
    shape: &Shape,
    pair: bool,
) -> Vec<Fault> {
    let nodes = profile.nodes.unwrap_or(1);
    let fits = |kind: &Kind| shape.storage || !kind.needs_storage();
    let Some(kind) = kinds.deal_fitting(dice, fits) else {
        return Vec::new();
    };
    let first = draw_fault(dice, kind, shape, nodes);
    let mut faults = vec![first];
    let gap = Duration::from_millis(u64::from(dice.between(0, 2_000)));
    // Some do not go together; a few are tried.
    for _ in 0..if pair { 4 } else { 0 } {
        let Some(kind) = kinds.deal_fitting(dice, fits) else {
            break;
        };
        let mut second = draw_fault(dice, kind, shape, nodes);
        if dice.once_in(3) {
            second.target = same_shard(first.target, second.target);
        }
        if !fit(&first, &mut second, nodes) {
            continue;
        }
        // What is done through the API server is done before that stops.
        if first.kind == Kind::StopApiServer && second.kind.needs_api_server() {
            faults.insert(0, second);
        } else {
            faults.push(second);
        }
        let stops = faults[1].kind == Kind::StopApiServer;
        faults[1].after = if stops { gap.max(ASKED) } else { gap };
        break;
    }
    faults
}

fn draw_fault(dice: &mut Dice, kind: Kind, shape: &Shape, nodes: u32) -> Fault {
    let shard = dice.between(0, shape.shards - 1);
    let role = if dice.once_in(4) {
        Role::Replica
    } else {
        Role::Primary
    };
    let node = dice.between(1, nodes);
    let other = (node % nodes) + 1;
    let cut = match dice.between(0, 5) {
        0 | 1 => Cut::All,
        2 | 3 => Cut::Nodes,
        4 => Cut::ControlPlane,
        _ if other != node => Cut::Node(other),
        _ => Cut::All,
    };
    let target = match kind {
        Kind::DeletePod
        | Kind::ForceDeletePod
        | Kind::KillServer
        | Kind::HangServer
        | Kind::FailSaves
        | Kind::KillContainer
        | Kind::KillSandbox => Target::Member(shard, role),
        // Replicas take no orders that cost memory.
        Kind::OutOfMemory => Target::Member(shard, Role::Primary),
        Kind::DeleteShard => Target::Shard(shard),
        Kind::PowerOff | Kind::Drain => Target::Node(node),
        Kind::Partition => Target::Link(node, cut),
        Kind::DeleteAll
        | Kind::PowerOffAll
        | Kind::KillOperator
        | Kind::KillOperatorLoop
        | Kind::KillApi
        | Kind::StopApiServer => Target::TheOne,
    };
    let (low, high) = match kind {
        Kind::HangServer | Kind::FailSaves | Kind::PowerOffAll => (3, 12),
        Kind::KillOperatorLoop | Kind::Drain => (8, 16),
        // Longer than Kubernetes takes on the testbed to call a node lost, sometimes.
        Kind::PowerOff | Kind::Partition => (5, 24),
        Kind::StopApiServer => (5, 20),
        _ => (0, 0),
    };
    Fault {
        kind,
        target,
        after: Duration::ZERO,
        lasts: Duration::from_secs(u64::from(dice.between(low, high))),
    }
}

/// The second target, at the shard of the first.
fn same_shard(first: Target, second: Target) -> Target {
    match (first, second) {
        (Target::Member(shard, _) | Target::Shard(shard), Target::Member(_, role)) => {
            Target::Member(shard, role)
        }
        (Target::Member(shard, _), Target::Shard(_)) => Target::Shard(shard),
        _ => second,
    }
}

/// Whether both faults can happen together, the second one moved to another node if need be: each can be undone without
/// undoing the other, and some node stays as it is, for those who write.
fn fit(first: &Fault, second: &mut Fault, nodes: u32) -> bool {
    // A drain goes on talking to the API server.
    let kinds = [first.kind, second.kind];
    if kinds.contains(&Kind::Drain) && kinds.contains(&Kind::StopApiServer) {
        return false;
    }
    // Nothing that takes a living pod or node can be done where none is.
    let takes_life = |kind: &Kind| kind.strikes_node() || kind.needs_shell();
    if kinds.contains(&Kind::PowerOffAll) && kinds.iter().any(takes_life) {
        return false;
    }
    if first.kind == second.kind && matches!(first.target, Target::TheOne | Target::Link(..)) {
        return false;
    }
    if !(first.kind.strikes_node() && second.kind.strikes_node()) {
        return true;
    }
    let taken = first.nodes();
    let free: Vec<u32> = (1..=nodes).filter(|node| !taken.contains(node)).collect();
    let Some(node) = free.first().copied() else {
        return false;
    };
    match &mut second.target {
        Target::Node(struck) if taken.contains(struck) => *struck = node,
        Target::Link(struck, cut) => {
            if taken.contains(struck) {
                *struck = node;
            }
            if matches!(cut, Cut::Node(_)) {
                *cut = Cut::All;
            }
        }
        _ => {}
    }
    free.len() > 1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn testbed() -> Profile {
        Profile {
            nodes: Some(3),
            engines: vec!["redis:8.2".to_owned(), "valkey/valkey:9.1".to_owned()],
            storage: true,
        }
    }

    fn elsewhere() -> Profile {
        Profile {
            nodes: None,
            engines: vec!["redis:8.2".to_owned()],
            storage: false,
        }
    }

    /// Rounds within which everything has come up: two decks of kinds, of shapes with the longest lives.
    const ENOUGH: u32 = 96;

    proptest! {
        #[test]
        fn the_same_seed_gives_the_same_rounds_and_fewer_rounds_are_the_first_of_more(seed: u64, count in 1u32..40) {
            let long = schedule(seed, &testbed(), 40);
            prop_assert_eq!(&schedule(seed, &testbed(), 40), &long);
            prop_assert_eq!(&schedule(seed, &testbed(), count)[..], &long[..count as usize]);
        }

        #[test]
        fn everything_comes_up_within_a_bounded_number_of_rounds(seed: u64) {
            for profile in [testbed(), elsewhere()] {
                let rounds = schedule(seed, &profile, ENOUGH);
                let seen: BTreeSet<Kind> = rounds.iter().flat_map(|r| &r.faults).map(|f| f.kind).collect();
                for kind in Kind::ALL {
                    let possible = (profile.nodes.is_some() || !kind.needs_testbed()) && (profile.storage || !kind.needs_storage());
                    prop_assert_eq!(seen.contains(&kind), possible, "{}", kind.name());
                }
                for pair in [false, true] {
                    for boot in [false, true] {
                        let is = |round: &Round| (round.faults.len() == 2) == pair && (round.start != Start::Whole) == boot;
                        prop_assert!(rounds.iter().any(is), "pair {pair}, boot {boot}");
                    }
                }
                let shapes: BTreeSet<_> = rounds.iter().map(|r| (r.shape.shards, r.shape.replicas)).collect();
                prop_assert!(shapes.len() >= 4, "{shapes:?}");
                for durable in [false, true] {
                    let comes_up = rounds.iter().any(|round| round.shape.durable == durable);
                    prop_assert_eq!(comes_up, profile.storage || !durable);
                }
            }
        }

        #[test]
        fn every_round_can_be_undone_and_watched(seed: u64) {
            for (profile, nodes) in [(testbed(), 3), (elsewhere(), 1)] {
                for round in schedule(seed, &profile, ENOUGH) {
                    prop_assert!(matches!(round.faults.len(), 1 | 2), "{round}");
                    prop_assert!(round.struck_nodes().len() < 3, "nobody could watch: {round}");
                    prop_assert!(round.struck_nodes().iter().all(|node| (1..=nodes).contains(node)));
                    prop_assert!(round.lasts() <= Duration::from_secs(26));
                    prop_assert!(round.faults[0].after.is_zero());
                    let links = round.faults.iter().filter(|f| f.kind == Kind::Partition);
                    prop_assert!(links.count() < 2, "healing one heals both: {round}");
                    if let [first, second] = round.faults.as_slice() {
                        prop_assert!(second.after <= Duration::from_secs(2));
                        prop_assert!(!(first.kind == Kind::StopApiServer && second.kind.needs_api_server()), "{round}");
                        let both = first.nodes().iter().any(|node| second.nodes().contains(node));
                        prop_assert!(!both, "{round}");
                    }
                    for fault in &round.faults {
                        prop_assert!(round.shape.storage || !fault.kind.needs_storage(), "{round}");
                        if let Target::Member(shard, _) | Target::Shard(shard) = fault.target {
                            prop_assert!(shard < round.shape.shards, "{round}");
                        }
                    }
                }
            }
        }

        #[test]
        fn a_life_keeps_its_shape_and_faults_at_boot_begin_one(seed: u64) {
            let rounds = schedule(seed, &testbed(), ENOUGH);
            for pair in rounds.windows(2) {
                if pair[0].life == pair[1].life {
                    prop_assert_eq!(&pair[0].shape, &pair[1].shape);
                    prop_assert_eq!(pair[1].start, Start::Whole);
                } else {
                    prop_assert_eq!(pair[1].life, pair[0].life + 1);
                }
            }
            let lives: BTreeSet<u32> = rounds.iter().map(|r| r.life).collect();
            prop_assert!(lives.len() < rounds.len(), "no cluster lives for two rounds");
        }
    }

    /// Whether rounds that are few show much: a boot; under writers a cut or lost node, a drain, a server without memory, an
    /// operator or API server that is away, a pair; a shape that is not the usual one; and do not take long.
    fn shows_much(rounds: &[Round]) -> bool {
        let watched = rounds.iter().filter(|round| round.start == Start::Whole);
        let any = |kinds: &[Kind]| {
            let mut faults = watched.clone().flat_map(|round| &round.faults);
            faults.any(|fault| kinds.contains(&fault.kind))
        };
        // Writers write for 18 s around the faults of a round; a cluster takes half a minute to come and go.
        let lasts: Duration = rounds.iter().map(Round::lasts).sum();
        let lives = rounds.last().map_or(0, |round| round.life + 1);
        let pods: usize = rounds
            .iter()
            .map(|round| round.shape.pods())
            .max()
            .unwrap_or(0);
        rounds.iter().any(|round| round.start != Start::Whole)
            && rounds
                .iter()
                .any(|round| round.start == Start::Whole && round.faults.len() == 2)
            && any(&[Kind::Partition, Kind::PowerOff])
            && any(&[
                Kind::KillOperator,
                Kind::KillOperatorLoop,
                Kind::StopApiServer,
            ])
            && rounds
                .iter()
                .any(|round| (round.shape.shards, round.shape.replicas) != (3, 1))
            && any(&[Kind::Drain])
            && any(&[Kind::OutOfMemory])
            && rounds.iter().all(Round::can_be_watched)
            && lasts + lives * Duration::from_secs(30) <= Duration::from_secs(100)
            && pods <= 6
    }

    #[test]
    fn the_few_rounds_that_are_played_unless_one_asks_for_others_show_much() {
        use super::super::{DEFAULT_SEED, FEW};
        let few = |seed: u64| schedule(seed, &testbed(), FEW);
        // For whoever changed the schedule, and needs another seed.
        let others = || (1..2_000).filter(|seed| shows_much(&few(*seed)));
        assert!(
            shows_much(&few(DEFAULT_SEED)),
            "these do: {:?}",
            others().collect::<Vec<_>>()
        );
        assert!(!shows_much(&few(1)));
    }

    #[test]
    fn a_durable_cluster_has_volumes_and_forces_writes_to_disk() {
        let rounds = schedule(1, &testbed(), ENOUGH);
        let durable = rounds.iter().find(|round| round.shape.durable).unwrap();
        let spec = durable.shape.spec();
        assert_eq!(spec["profile"], "Durable");
        assert_eq!(spec["engine"]["eviction"], "noeviction");
        assert_eq!(spec["engine"]["image"], durable.shape.engine.as_str());
        assert!(spec["storage"].is_object());
        for (always, fsync, said) in [
            (true, "Always", " durable, always"),
            (false, "EverySecond", " durable"),
        ] {
            let shape = Shape {
                always,
                ..durable.shape.clone()
            };
            assert_eq!(shape.spec()["durability"]["fsync"], fsync);
            assert!(shape.to_string().ends_with(said), "{shape}");
        }
    }

    #[test]
    fn a_round_reads_as_what_is_done() {
        let said: Vec<String> = schedule(7, &testbed(), 3)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(
            said.iter()
                .all(|line| line.contains("x1") || line.contains("x2")),
            "{said:?}"
        );
        let fault = Fault {
            kind: Kind::Partition,
            target: Target::Link(2, Cut::Node(3)),
            after: Duration::from_millis(700),
            lasts: Duration::from_secs(9),
        };
        assert_eq!(
            fault.to_string(),
            "node-partition(node2 from node3) for 9 s after 700 ms"
        );
    }
}
