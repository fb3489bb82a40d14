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
//! | had all its members' memory taken, without volumes, whatever else befell it | all until the last member had stopped |
//! | is durable, whoever was struck | those within [`LAG`] of the crash of a member, or of its cut as above: volumes have the rest |
//!
//! Reads may be stale of a shard whose primary was cut off, or is lonely, from [`LAG`] before the cut until it stops to
//! serve ([`ISOLATED`]), or until the cut heals if that is earlier. A crash excuses none: what it took is lost, and
//! counted as that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

mod loss;
mod place;
#[cfg(test)]
mod tests;

pub(super) use self::loss::Loss;
use self::loss::{loss_of, millis, stale_of};
pub(super) use self::place::Strike;
pub(crate) use self::place::{Member, Placement};
use self::place::{all_struck, names, struck_of};
use super::fault::{Cut, Kind, Manner, Target};
use super::schedule::Shape;

/// How long around a crash a write may have been acknowledged and not have reached a replica. Clocks of the writer's node
/// and of this machine may differ by part of that.
pub(super) const LAG: Duration = Duration::from_secs(1);
/// How long a primary that hears no majority goes on acknowledging, at most: one and a half node timeouts, and two tenths of
/// a second.
const ISOLATED: Duration = Duration::from_millis(3_200);
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

/// What these strikes excuse in a cluster of this shape.
pub(super) fn excuse(shape: &Shape, strikes: &[Strike]) -> Excuse {
    let by_operator = needs_operator(shape, strikes);
    let away = operator_away(strikes);
    let without_operator = by_operator && away;
    let (mut loss, mut gap, mut stale) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let quorum = has_quorum(shape, strikes);
    let on_each: Vec<Vec<(&Strike, Vec<&Member>)>> = (0..shape.shards)
        .map(|shard| {
            let on_it = strikes
                .iter()
                .map(|strike| (strike, struck_of(strike, shard)));
            on_it.filter(|(_, members)| !members.is_empty()).collect()
        })
        .collect();
    // A primary without a successor that nobody reaches, and without which the others are no majority.
    let outvoted = !quorum
        && on_each.iter().any(|on_it| {
            let unreached = on_it
                .iter()
                .any(|(strike, _)| matches!(strike.fault.kind, Kind::Partition | Kind::PowerOff));
            unreached && all_struck(shape, on_it)
        });
    let mut nobody = outvoted;
    for (shard, on_it) in (0..).zip(on_each) {
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
        gap.insert(shard, (!all && !outvoted).then_some(bound));
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
            (Kind::DeleteAll | Kind::PowerOffAll, _) => return Failures::Any,
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
