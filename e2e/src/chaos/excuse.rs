//! What a round's faults excuse: decided from what was scheduled and from where the pods were when it struck, before any
//! report is read.
//!
//! | the shard | acknowledged writes that may be gone |
//! |---|---|
//! | was told to stop, one member after the other or some of them | none |
//! | lost its primary without a word | those within [`LAG`] of the crash |
//! | lost sight of its primary | those from [`LAG`] before the cut until the old primary stops to acknowledge ([`ISOLATED`]) |
//! | has a member on a node that is cut off together with a majority of the primaries, and its primary elsewhere | the same: it is the primary that is lonely |
//! | had all its members struck, with volumes | those from the first strike until the last |
//! | had all its members' memory taken, without volumes | all until the last member had stopped ([`STOPPING`]) |
//! | is durable, whoever was struck | those within [`LAG`] of the crash of a member, or of its cut as above: volumes have the rest |
//!
//! Reads may be stale of a shard whose primary was cut off, or is lonely, from [`LAG`] before the cut until it stops to
//! serve ([`ISOLATED`]), or until the cut heals if that is earlier. A crash excuses none: what it took is lost, and
//! counted as that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::fault::{Cut, Fault, Kind, Manner, Role, Target};
use super::schedule::Shape;

/// How long around a crash a write may have been acknowledged and not have reached a replica. Clocks of the writer's node
/// and of this machine may differ by part of that.
pub(super) const LAG: Duration = Duration::from_secs(1);
/// How long a primary that hears no majority goes on acknowledging, at most: one and a half node timeouts, and two tenths of
/// a second.
const ISOLATED: Duration = Duration::from_millis(3_200);
/// How long a server that is told to stop may go on acknowledging.
const STOPPING: Duration = Duration::from_secs(10);
/// Longest gap of a shard of which a copy lives, for each time that its primary dies.
const GAP: Duration = Duration::from_secs(5);
/// The same of a shard that nobody struck, while a majority can vote: for one that serves on.
const GAP_OF_OTHERS: Duration = Duration::from_secs(1);
/// The same where nobody can vote, so that the operator decides.
const GAP_BY_OPERATOR: Duration = Duration::from_secs(10);
/// The same where it is away meanwhile: it has to come back first.
const GAP_WITHOUT_OPERATOR: Duration = Duration::from_secs(60);
/// How much longer a durable shard that was struck may wait, for a replica or for the leave to go without.
const GAP_OF_DURABLE: Duration = Duration::from_secs(10);
/// Requests that a writer has under way at a time.
pub(super) const WORKERS: u64 = 8;
/// Writes a second of each writer.
pub(super) const RATE: u64 = 150;
/// When a writer gives up on a request, in seconds.
pub(super) const PATIENCE: u64 = 10;
/// How long Kubernetes may take to leave out an API pod that was killed, in seconds.
const LEFT_OUT: u64 = 3;
/// How long the kubelet of a node that is on again may take an API pod's new container for the ready one of before, in
/// seconds.
const BACK: u64 = 1;

/// A Redis pod, where it was when a fault struck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its name.
    pub(crate) pod: String,
    /// Its shard.
    pub(crate) shard: u32,
    /// Whether it was the primary.
    pub(crate) primary: bool,
    /// Its node's number, if it has one.
    pub(crate) node: Option<u32>,
}

/// Where everything was when a fault struck.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Redis pods.
    pub(crate) members: Vec<Member>,
    /// API pods: name and node.
    pub(crate) api: Vec<(String, Option<u32>)>,
    /// Nodes of the operator's pods.
    pub(crate) operator: Vec<Option<u32>>,
}

/// A fault that struck.
#[derive(Clone, Debug)]
pub(super) struct Strike {
    /// Which.
    pub(super) fault: Fault,
    /// Where everything was.
    pub(super) placement: Placement,
    /// When its injection began, in milliseconds since 1970.
    pub(super) began_ms: i64,
    /// When it had been injected.
    pub(super) ended_ms: i64,
}

/// Which acknowledged writes of a shard may be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// None.
    None,
    /// Those acknowledged in this time, in milliseconds since 1970, both ends included.
    Within(i64, i64),
    /// Any that was acknowledged before this time, in milliseconds since 1970.
    Until(i64),
}

/// Which requests may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failures {
    /// At most so many.
    UpTo(u64),
    /// Any: there is nobody to serve them.
    Any,
}

/// What a round's faults excuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Excuse {
    /// For each shard.
    pub(super) loss: BTreeMap<u32, Loss>,
    /// For each shard, when its reads may be stale.
    pub(super) stale: BTreeMap<u32, Loss>,
    /// Over HTTP.
    pub(super) failures: Failures,
    /// The longest time in which a shard takes no write; none if no copy lives.
    pub(super) gap: BTreeMap<u32, Option<Duration>>,
}

impl Loss {
    /// Whether the loss of writes acknowledged from `first` to `last` is excused.
    pub(super) fn covers(self, first: i64, last: i64) -> bool {
        match self {
            Self::None => false,
            Self::Within(from, to) => from <= first && last <= to,
            Self::Until(to) => last <= to,
        }
    }

    /// The same; times that nobody knows are not covered.
    pub(super) fn covers_times(self, times: (Option<i64>, Option<i64>)) -> bool {
        matches!(times, (Some(first), Some(last)) if self.covers(first, last))
    }

    /// What is excused by either.
    pub(super) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, loss) | (loss, Self::None) => loss,
            (Self::Within(a, b), Self::Within(c, d)) => Self::Within(a.min(c), b.max(d)),
            (Self::Until(a), Self::Within(_, b) | Self::Until(b))
            | (Self::Within(_, a), Self::Until(b)) => Self::Until(a.max(b)),
        }
    }
}

impl Placement {
    /// The Redis pods that a fault strikes.
    pub(super) fn struck(&self, fault: &Fault) -> Vec<&Member> {
        let on = |nodes: Vec<u32>| {
            let here = move |member: &&Member| member.node.is_some_and(|n| nodes.contains(&n));
            self.members.iter().filter(here).collect()
        };
        match (fault.kind, fault.target) {
            (Kind::DeleteAll, _) => self.members.iter().collect(),
            (_, Target::Member(shard, role)) => self.member(shard, role).into_iter().collect(),
            (_, Target::Shard(shard)) => self.members.iter().filter(|m| m.shard == shard).collect(),
            (_, Target::Link(_, Cut::ControlPlane) | Target::TheOne) => Vec::new(),
            // Somebody still hears both ends: nobody takes over, and nobody is struck.
            (_, Target::Link(_, Cut::Node(_))) => Vec::new(),
            (_, Target::Node(_) | Target::Link(..)) => on(fault.nodes()),
        }
    }

    /// The member of a shard with a role; if there is none with it, another one.
    pub(super) fn member(&self, shard: u32, role: Role) -> Option<&Member> {
        let wanted = role == Role::Primary;
        let mut members = self.members.iter().filter(|member| member.shard == shard);
        let any = members.clone().next();
        members.find(|member| member.primary == wanted).or(any)
    }

    /// The node that holds a majority of this many primaries, and how many.
    pub(super) fn majority(&self, shards: u32) -> Option<(u32, usize)> {
        let mut held: BTreeMap<u32, usize> = BTreeMap::new();
        for node in self
            .members
            .iter()
            .filter(|m| m.primary)
            .filter_map(|m| m.node)
        {
            *held.entry(node).or_default() += 1;
        }
        held.into_iter()
            .find(|(_, held)| *held > shards as usize / 2)
    }

    fn api_on(&self, nodes: &[u32]) -> usize {
        let here = |node: &Option<u32>| node.is_some_and(|node| nodes.contains(&node));
        self.api.iter().filter(|(_, node)| here(node)).count()
    }

    /// Whether the operator that leads may be there: the other one has to wait for its lease to end.
    fn operator_on(&self, nodes: &[u32]) -> bool {
        let here = |node: &Option<u32>| node.is_some_and(|node| nodes.contains(&node));
        self.operator.iter().any(here)
    }
}

/// What these strikes excuse in a cluster of this shape.
pub(super) fn excuse(shape: &Shape, strikes: &[Strike]) -> Excuse {
    let by_operator = needs_operator(shape, strikes);
    let away = operator_away(strikes);
    let without_operator = by_operator && away;
    let (mut loss, mut gap, mut stale) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let quorum = has_quorum(shape, strikes);
    let mut nobody = false;
    for shard in 0..shape.shards {
        let on_it: Vec<(&Strike, Vec<&Member>)> = strikes
            .iter()
            .map(|strike| (strike, struck_of(strike, shard)))
            .filter(|(_, members)| !members.is_empty())
            .collect();
        let lonely: Vec<&Strike> = strikes
            .iter()
            .filter(|strike| is_lonely(shape, strike, shard))
            .collect();
        let alone = lonely.iter().map(|strike| {
            let stops = strike.ended_ms + millis(ISOLATED) + millis(LAG);
            Loss::Within(strike.began_ms - millis(LAG), stops)
        });
        loss.insert(shard, alone.fold(loss_of(shape, &on_it), Loss::or));
        stale.insert(shard, stale_of(&on_it, &lonely));
        let all = all_struck(shape, &on_it);
        nobody |= all;
        let times = u32::try_from(on_it.len()).unwrap_or(1).max(1);
        let near = !lonely.is_empty() || is_near(strikes, shard);
        // A durable primary goes on without a replica only when the operator lets it.
        let waits = shape.durable && near;
        nobody |= waits && (away || any_silent(strikes, shard));
        // Of several replicas in sync all have to answer, before one of them is promoted.
        let missed = names(&on_it).len() > 1;
        let without_operator = without_operator || (waits && (away || missed));
        let bound = match (without_operator, by_operator) {
            (true, _) => GAP_WITHOUT_OPERATOR,
            (_, true) => GAP_BY_OPERATOR * times,
            _ if quorum && !near => GAP_OF_OTHERS,
            _ => GAP * times,
        };
        let bound = match waits {
            true => bound + GAP_OF_DURABLE,
            false => bound,
        };
        // A shard that is struck twice, or by the operator's own judgement, is waited for longer than a request lives.
        nobody |= on_it.len() > 1;
        gap.insert(shard, (!all).then_some(bound));
    }
    let failures = if nobody || by_operator {
        Failures::Any
    } else {
        failures(strikes)
    };
    Excuse {
        loss,
        stale,
        failures,
        gap,
    }
}

fn struck_of(strike: &Strike, shard: u32) -> Vec<&Member> {
    let mut struck = strike.placement.struck(&strike.fault);
    struck.retain(|member| member.shard == shard);
    struck
}

/// The names of the members that were struck; those whom Kubernetes evicts one after the other count as one.
fn names<'a>(on_it: &[(&Strike, Vec<&'a Member>)]) -> BTreeSet<&'a str> {
    on_it
        .iter()
        .flat_map(|(strike, members)| {
            let guarded = strike.fault.kind.manner() == Manner::Guarded;
            let most = if guarded { 1 } else { members.len() };
            members.iter().take(most).map(|member| member.pod.as_str())
        })
        .collect()
}

fn all_struck(shape: &Shape, on_it: &[(&Strike, Vec<&Member>)]) -> bool {
    names(on_it).len() >= shape.members()
}

fn loss_of(shape: &Shape, on_it: &[(&Strike, Vec<&Member>)]) -> Loss {
    let (lag, isolated) = (millis(LAG), millis(ISOLATED));
    let until = |strike: &Strike| match strike.fault.kind.manner() {
        Manner::Cut => strike.ended_ms + isolated + lag,
        _ => strike.ended_ms + lag,
    };
    let orderly = |strike: &Strike| {
        matches!(
            strike.fault.kind.manner(),
            Manner::Told | Manner::Guarded | Manner::Spared
        )
    };
    let Some(first) = on_it.iter().map(|(strike, _)| strike.began_ms).min() else {
        return Loss::None;
    };
    // Who is durable has on its volumes what it acknowledged: a crash takes no more than if others had lived.
    if all_struck(shape, on_it) && !shape.durable {
        let cut = |strike: &Strike| strike.fault.kind.manner() == Manner::Cut;
        if !shape.storage && !on_it.iter().any(|(strike, _)| cut(strike)) {
            let stopped = on_it.iter().map(|(strike, _)| match orderly(strike) {
                true => strike.ended_ms + millis(STOPPING),
                false => until(strike),
            });
            return Loss::Until(stopped.max().unwrap_or(first));
        }
        if on_it.iter().all(|(strike, _)| orderly(strike)) {
            return Loss::None;
        }
        let last = on_it.iter().map(|(strike, _)| until(strike)).max();
        return Loss::Within(first - lag, last.unwrap_or(first));
    }
    // Struck twice, anybody may have become the primary between.
    let twice = on_it.len() > 1;
    let windows = on_it.iter().filter(|(strike, members)| {
        !orderly(strike) && (twice || members.iter().any(|member| member.primary))
    });
    let windows = windows.map(|(strike, _)| (strike.began_ms - lag, until(strike)));
    let joined = windows.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
    joined.map_or(Loss::None, |(from, to)| Loss::Within(from, to))
}

/// When a shard's reads may be stale: while one that was its primary serves, and cannot hear who is by now.
fn stale_of(on_it: &[(&Strike, Vec<&Member>)], lonely: &[&Strike]) -> Loss {
    // Struck twice, anybody may have become the primary between.
    let twice = on_it.len() > 1;
    let cut = on_it.iter().filter(|(strike, members)| {
        strike.fault.kind.manner() == Manner::Cut
            && (twice || members.iter().any(|member| member.primary))
    });
    let cuts = cut.map(|(strike, _)| *strike).chain(lonely.iter().copied());
    cuts.map(|strike| {
        let healed =
            strike.began_ms + millis(strike.fault.lasts).max(strike.ended_ms - strike.began_ms);
        let stops = strike.ended_ms + millis(ISOLATED);
        Loss::Within(
            strike.began_ms - millis(LAG),
            stops.min(healed) + millis(LAG),
        )
    })
    .fold(Loss::None, Loss::or)
}

/// Whether a shard has a member that was struck, or on a node whose link to another was.
fn is_near(strikes: &[Strike], shard: u32) -> bool {
    strikes.iter().any(|strike| {
        let members = strike.placement.members.iter();
        let mut of_shard = members.filter(|member| member.shard == shard);
        match strike.fault.target {
            Target::Link(one, Cut::Node(other)) => {
                of_shard.any(|m| m.node.is_some_and(|node| node == one || node == other))
            }
            _ => !struck_of(strike, shard).is_empty(),
        }
    })
}

/// Whether a member of a shard that was struck may be taken for a living one for some time.
fn any_silent(strikes: &[Strike], shard: u32) -> bool {
    strikes.iter().any(|strike| {
        let kind = strike.fault.kind;
        let silent = kind.is_silent() || kind == Kind::HangServer;
        silent && !struck_of(strike, shard).is_empty()
    })
}

/// Whether every primary that was not struck goes on hearing a majority of them.
fn has_quorum(shape: &Shape, strikes: &[Strike]) -> bool {
    let mut away = BTreeSet::new();
    for strike in strikes {
        let primaries = strike.placement.members.iter().filter(|m| m.primary);
        match strike.fault.target {
            Target::Link(one, Cut::Node(other)) => {
                // Each end misses the primaries of the other one.
                let on = |node| {
                    let here = move |m: &&Member| m.node == Some(node);
                    primaries
                        .clone()
                        .filter(here)
                        .map(|m| m.shard)
                        .collect::<Vec<_>>()
                };
                let (ours, theirs) = (on(one), on(other));
                away.extend(if ours.len() > theirs.len() {
                    ours
                } else {
                    theirs
                });
            }
            _ => {
                let struck = strike.placement.struck(&strike.fault);
                away.extend(struck.iter().filter(|m| m.primary).map(|m| m.shard));
            }
        }
    }
    away.len() * 2 < shape.shards as usize
}

/// Whether a shard's primary is cut off from the majority though its node is not the one that was cut off, and the
/// majority can promote another member.
fn is_lonely(shape: &Shape, strike: &Strike, shard: u32) -> bool {
    let placement = &strike.placement;
    let nodes = strike.fault.nodes();
    let Some((node, _)) = placement.majority(shape.shards) else {
        return false;
    };
    let there = |member: &&Member| member.node.is_some_and(|node| nodes.contains(&node));
    let mut members = placement.members.iter().filter(|m| m.shard == shard);
    let splits = matches!(strike.fault.target, Target::Link(_, Cut::All | Cut::Nodes));
    let promotable = members.clone().any(|m| there(&m) && !m.primary);
    let elsewhere = members.any(|m| m.primary && !there(&m));
    splits && nodes.contains(&node) && promotable && elsewhere
}

/// Whether primaries died with nobody left behind who knows, and too few are left to vote.
fn needs_operator(shape: &Shape, strikes: &[Strike]) -> bool {
    let silent = strikes
        .iter()
        .filter(|strike| strike.fault.kind.is_silent())
        .flat_map(|strike| strike.placement.struck(&strike.fault))
        .filter(|member| member.primary)
        .map(|member| member.shard)
        .collect::<BTreeSet<_>>();
    let dead = strikes
        .iter()
        .filter(|strike| strike.fault.kind.manner() != Manner::Spared)
        .flat_map(|strike| strike.placement.struck(&strike.fault))
        .filter(|member| member.primary)
        .map(|member| member.shard)
        .collect::<BTreeSet<_>>();
    let left = (shape.shards as usize).saturating_sub(dead.len());
    !silent.is_empty() && left <= shape.shards as usize / 2
}

fn operator_away(strikes: &[Strike]) -> bool {
    let nodes: Vec<u32> = strikes
        .iter()
        .filter(|strike| strike.fault.kind.strikes_node())
        .flat_map(|strike| strike.fault.nodes())
        .collect();
    strikes.iter().any(|strike| {
        strike.fault.kind.disturbs_operator()
            || (!nodes.is_empty() && strike.placement.operator_on(&nodes))
    })
}

/// Requests that may fail though every shard serves: those with an API pod that died without a word.
fn failures(strikes: &[Strike]) -> Failures {
    let mut most = 0;
    for strike in strikes {
        let fault = &strike.fault;
        let lasts = fault.lasts.as_secs();
        let here = strike.placement.api_on(&fault.nodes());
        match (fault.kind, fault.target) {
            (Kind::DeleteAll, _) => return Failures::Any,
            (Kind::KillApi, _) => most += RATE * LEFT_OUT,
            // What an API pod cannot reach it cannot serve, and for Kubernetes it is well.
            (Kind::Partition, Target::Link(_, Cut::Node(_))) if here > 0 => return Failures::Any,
            (Kind::Partition, Target::Link(_, Cut::Node(_) | Cut::ControlPlane)) => {}
            (Kind::PowerOff | Kind::Partition, _) if here >= strike.placement.api.len() => {
                return Failures::Any;
            }
            (Kind::PowerOff, _) if here > 0 => {
                most += WORKERS * (lasts / PATIENCE + 2) + RATE * BACK;
            }
            (Kind::Partition, _) if here > 0 => most += WORKERS * (lasts / PATIENCE + 2),
            _ => {}
        }
    }
    Failures::UpTo(most)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(shards: u32, storage: bool) -> Shape {
        Shape {
            shards,
            replicas: 1,
            storage,
            durable: false,
            engine: "redis:8.2".to_owned(),
        }
    }

    fn durable(strikes: &[Strike]) -> Excuse {
        let durable = Shape {
            durable: true,
            ..shape(3, true)
        };
        excuse(&durable, strikes)
    }

    #[test]
    fn a_durable_shard_may_wait_and_lose_the_lag_of_a_crash_and_nothing_else() {
        let server = durable(&[strike(Kind::KillServer, PRIMARY, 10_000)]);
        assert_eq!(server.loss[&0], Loss::Within(9_000, 11_100));
        assert_eq!(server.failures, Failures::UpTo(0));
        assert_eq!(server.gap[&0], Some(GAP + GAP_OF_DURABLE));
        assert_eq!(server.gap[&1], Some(GAP_OF_OTHERS));
        for (kind, target) in [
            (Kind::HangServer, REPLICA),
            (Kind::KillContainer, PRIMARY),
            (Kind::PowerOff, Target::Node(3)),
        ] {
            let silent = durable(&[strike(kind, target, 10_000)]);
            assert_eq!(silent.failures, Failures::Any, "{kind:?}");
        }
        // All were struck: only the crash costs, and not what the one had acknowledged that was told to stop.
        let both = durable(&[
            strike(Kind::DeletePod, REPLICA, 10_000),
            strike(Kind::KillServer, PRIMARY, 12_000),
        ]);
        assert_eq!(both.loss[&0], Loss::Within(11_000, 13_100));
        assert_eq!(both.gap[&0], None);
        let mut both = [
            strike(Kind::PowerOff, Target::Node(2), 10_000),
            strike(Kind::KillServer, PRIMARY, 11_000),
        ];
        for strike in &mut both {
            strike.placement.members.push(Member {
                pod: "s0-2".to_owned(),
                shard: 0,
                primary: false,
                node: Some(3),
            });
        }
        let of_three = Shape {
            durable: true,
            replicas: 2,
            ..shape(3, true)
        };
        let awaited = excuse(&of_three, &both).gap[&0];
        assert_eq!(awaited, Some(GAP_WITHOUT_OPERATOR + GAP_OF_DURABLE));
        let all = durable(&[strike(Kind::DeleteAll, Target::TheOne, 10_000)]);
        assert!(all.loss.values().all(|loss| *loss == Loss::None));
        // Nobody lets the new primary go on alone.
        let alone = durable(&[
            strike(Kind::KillServer, PRIMARY, 10_000),
            strike(Kind::KillOperatorLoop, Target::TheOne, 10_500),
        ]);
        assert_eq!(alone.gap[&0], Some(GAP_WITHOUT_OPERATOR + GAP_OF_DURABLE));
        assert_eq!(alone.failures, Failures::Any);
    }

    /// Primaries of shard i on node i + 1, replicas on the next node; API and operator on nodes 1 and 2.
    fn placement(shards: u32) -> Placement {
        let member = |shard: u32, primary: bool| Member {
            pod: format!("s{shard}-{}", u8::from(!primary)),
            shard,
            primary,
            node: Some((shard + u32::from(!primary)) % 3 + 1),
        };
        Placement {
            members: (0..shards)
                .flat_map(|shard| [member(shard, true), member(shard, false)])
                .collect(),
            api: vec![("a".to_owned(), Some(1)), ("b".to_owned(), Some(2))],
            operator: vec![Some(1), Some(2)],
        }
    }

    fn strike(kind: Kind, target: Target, began_ms: i64) -> Strike {
        Strike {
            fault: Fault {
                kind,
                target,
                after: Duration::ZERO,
                lasts: Duration::from_secs(10),
            },
            placement: placement(3),
            began_ms,
            ended_ms: began_ms + 100,
        }
    }

    const PRIMARY: Target = Target::Member(0, Role::Primary);
    const REPLICA: Target = Target::Member(0, Role::Replica);

    fn of(storage: bool, strikes: &[Strike]) -> Excuse {
        excuse(&shape(3, storage), strikes)
    }

    #[test]
    fn orderly_faults_excuse_no_loss_and_no_failure() {
        for (kind, target) in [
            (Kind::DeletePod, PRIMARY),
            (Kind::ForceDeletePod, PRIMARY),
            (Kind::DeletePod, REPLICA),
            (Kind::Drain, Target::Node(2)),
            (Kind::KillOperator, Target::TheOne),
            (Kind::KillOperatorLoop, Target::TheOne),
            (Kind::StopApiServer, Target::TheOne),
        ] {
            let excuse = of(false, &[strike(kind, target, 10_000)]);
            assert!(
                excuse.loss.values().all(|loss| *loss == Loss::None),
                "{kind:?}"
            );
            assert_eq!(excuse.failures, Failures::UpTo(0), "{kind:?}");
            assert!(excuse.gap.values().all(|gap| *gap <= Some(GAP)), "{kind:?}");
        }
    }

    #[test]
    fn a_shard_that_nobody_struck_serves_on_while_a_majority_votes() {
        let gaps = |kind, target| {
            let gap = of(false, &[strike(kind, target, 10_000)]).gap;
            [0, 1, 2].map(|shard| gap[&shard].unwrap())
        };
        let (far, near) = (GAP_OF_OTHERS, GAP);
        assert_eq!(gaps(Kind::KillServer, PRIMARY), [near, far, far]);
        assert_eq!(gaps(Kind::StopApiServer, Target::TheOne), [far; 3]);
        assert_eq!(gaps(Kind::PowerOff, Target::Node(1)), [near, far, near]);
        let link = |cut| gaps(Kind::Partition, Target::Link(1, cut));
        assert_eq!(link(Cut::ControlPlane), [far; 3]);
        assert_eq!(link(Cut::Node(2)), [near; 3]);
        // Of two primaries, one is no majority.
        let two = Strike {
            placement: placement(2),
            ..strike(Kind::KillServer, PRIMARY, 10_000)
        };
        assert_eq!(excuse(&shape(2, false), &[two]).gap[&1], Some(near));
    }

    #[test]
    fn reads_may_be_stale_only_of_a_primary_that_is_cut_off_and_until_it_stops_or_is_back() {
        let stale = |strikes: &[Strike]| {
            let excuse = of(false, strikes);
            [0, 1, 2].map(|shard| excuse.stale[&shard])
        };
        let none = [Loss::None; 3];
        for crash in [
            strike(Kind::KillServer, PRIMARY, 10_000),
            strike(Kind::HangServer, PRIMARY, 10_000),
            strike(Kind::PowerOff, Target::Node(1), 10_000),
            strike(Kind::DeleteShard, Target::Shard(0), 10_000),
            strike(Kind::Partition, Target::Link(1, Cut::ControlPlane), 10_000),
        ] {
            assert_eq!(stale(&[crash]), none);
        }
        // Shard 2 has its replica there.
        let mut cut = strike(Kind::Partition, Target::Link(1, Cut::All), 10_000);
        let window = Loss::Within(9_000, 14_300);
        let of_one = [window, Loss::None, Loss::None];
        assert_eq!(stale(std::slice::from_ref(&cut)), of_one);
        let crash = strike(Kind::KillServer, Target::Member(2, Role::Primary), 9_500);
        assert_eq!(stale(&[crash, cut.clone()]), [window, Loss::None, window]);
        cut.fault.lasts = Duration::from_secs(2);
        assert_eq!(stale(&[cut])[0], Loss::Within(9_000, 13_000));
    }

    #[test]
    fn a_crashed_primary_excuses_the_lag_of_its_shard_and_nothing_else() {
        for kind in [Kind::KillServer, Kind::HangServer, Kind::KillContainer] {
            let excuse = of(false, &[strike(kind, PRIMARY, 10_000)]);
            assert_eq!(excuse.loss[&0], Loss::Within(9_000, 11_100));
            assert_eq!(excuse.loss[&1], Loss::None);
            assert_eq!(excuse.failures, Failures::UpTo(0));
        }
        let excuse = of(false, &[strike(Kind::KillServer, REPLICA, 10_000)]);
        assert_eq!(excuse.loss[&0], Loss::None);
    }

    #[test]
    fn a_lost_node_excuses_its_primaries_lag_and_what_was_under_way_on_its_api_pod() {
        let off = of(false, &[strike(Kind::PowerOff, Target::Node(1), 10_000)]);
        assert_eq!(off.loss[&0], Loss::Within(9_000, 11_100));
        assert_eq!((off.loss[&1], off.loss[&2]), (Loss::None, Loss::None));
        assert_eq!(off.failures, Failures::UpTo(24 + 150));
        let bare = of(false, &[strike(Kind::PowerOff, Target::Node(3), 10_000)]);
        assert_eq!(bare.failures, Failures::UpTo(0));
        let cut = of(
            false,
            &[strike(Kind::Partition, Target::Link(1, Cut::All), 10_000)],
        );
        assert_eq!(cut.loss[&0], Loss::Within(9_000, 14_300));
        let mild = of(
            false,
            &[strike(
                Kind::Partition,
                Target::Link(1, Cut::ControlPlane),
                10_000,
            )],
        );
        assert_eq!(mild.loss[&0], Loss::None);
        assert_eq!(mild.failures, Failures::UpTo(0));
    }

    #[test]
    fn a_primary_is_lonely_also_where_the_majority_was_cut_off() {
        // Node 3 holds the primaries of shards 1 and 2, and the replica of shard 0.
        let mut cut = strike(Kind::Partition, Target::Link(3, Cut::All), 10_000);
        for member in &mut cut.placement.members {
            member.node = Some(if member.primary == (member.shard > 0) {
                3
            } else {
                2
            });
        }
        assert_eq!(cut.placement.majority(3), Some((3, 2)));
        let excuse = of(false, std::slice::from_ref(&cut));
        assert_eq!(excuse.loss[&0], Loss::Within(9_000, 14_300));
        assert_eq!(excuse.failures, Failures::Any);
        // A minority that is cut off promotes nobody.
        for member in &mut cut.placement.members {
            member.node = Some(if member.primary { 2 } else { 3 });
        }
        assert_eq!(of(false, &[cut]).loss[&0], Loss::None);
        assert_eq!(placement(3).majority(3), None);
    }

    #[test]
    fn a_shard_without_memory_is_gone_unless_it_has_volumes() {
        let all = [strike(Kind::DeleteShard, Target::Shard(0), 10_000)];
        assert_eq!(of(false, &all).loss[&0], Loss::Until(20_100));
        assert_eq!(of(false, &all).loss[&1], Loss::None);
        assert_eq!(of(false, &all).gap[&0], None);
        assert_eq!(of(true, &all).loss[&0], Loss::None);
        let both = [
            strike(Kind::DeletePod, REPLICA, 10_000),
            strike(Kind::KillServer, PRIMARY, 11_000),
        ];
        assert_eq!(of(false, &both).loss[&0], Loss::Until(20_100));
        assert_eq!(of(true, &both).loss[&0], Loss::Within(9_000, 12_100));
        assert_eq!(of(true, &both).failures, Failures::Any);
    }

    #[test]
    fn what_a_cut_off_replica_holds_is_not_gone() {
        let both = [
            strike(Kind::Partition, Target::Link(2, Cut::All), 10_000),
            strike(Kind::KillServer, PRIMARY, 11_000),
        ];
        assert_eq!(of(false, &both).loss[&0], Loss::Within(9_000, 14_300));
    }

    #[test]
    fn another_member_that_lives_excuses_only_the_crash() {
        let mut three = shape(3, false);
        three.replicas = 2;
        let mut strikes = [
            strike(Kind::DeletePod, REPLICA, 10_000),
            strike(Kind::KillServer, PRIMARY, 11_000),
        ];
        for strike in &mut strikes {
            let third = Member {
                pod: "s0-2".to_owned(),
                shard: 0,
                primary: false,
                node: Some(3),
            };
            strike.placement.members.push(third);
        }
        assert_eq!(
            excuse(&three, &strikes).loss[&0],
            Loss::Within(10_000, 12_100)
        );
    }

    #[test]
    fn where_nobody_can_vote_the_operator_is_waited_for() {
        let one = Strike {
            placement: placement(1),
            ..strike(Kind::PowerOff, Target::Node(1), 10_000)
        };
        let mut afar = one.clone();
        afar.placement.operator = vec![Some(2), Some(3)];
        let alone = excuse(&shape(1, false), &[afar]);
        assert_eq!(alone.gap[&0], Some(GAP_BY_OPERATOR));
        let loop_ = Strike {
            placement: placement(1),
            ..strike(Kind::KillOperatorLoop, Target::TheOne, 10_500)
        };
        let without = excuse(&shape(1, false), &[one, loop_]);
        assert_eq!(without.gap[&0], Some(GAP_WITHOUT_OPERATOR));
        // Its agent knows, so that nobody has to vote.
        let server = Strike {
            placement: placement(1),
            ..strike(Kind::KillServer, PRIMARY, 10_000)
        };
        assert_eq!(excuse(&shape(1, false), &[server]).gap[&0], Some(GAP));
    }

    #[test]
    fn an_api_pod_that_dies_excuses_what_reaches_it_until_it_is_left_out() {
        let excuse = of(false, &[strike(Kind::KillApi, Target::TheOne, 10_000)]);
        assert_eq!(excuse.failures, Failures::UpTo(450));
        let all = of(false, &[strike(Kind::DeleteAll, Target::TheOne, 10_000)]);
        assert_eq!(all.failures, Failures::Any);
    }
}
