//! Where everything was when a fault struck.

use std::collections::{BTreeMap, BTreeSet};

use crate::chaos::fault::{Cut, Fault, Kind, Manner, Role, Target};
use crate::chaos::schedule::Shape;

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
pub(in crate::chaos) struct Strike {
    /// Which.
    pub(in crate::chaos) fault: Fault,
    /// Where everything was.
    pub(in crate::chaos) placement: Placement,
    /// When its injection began, in milliseconds since 1970.
    pub(in crate::chaos) began_ms: i64,
    /// When it had been injected.
    pub(in crate::chaos) ended_ms: i64,
}

impl Placement {
    /// The Redis pods that a fault strikes.
    pub(in crate::chaos) fn struck(&self, fault: &Fault) -> Vec<&Member> {
        let on = |nodes: Vec<u32>| {
            let here = move |member: &&Member| member.node.is_some_and(|n| nodes.contains(&n));
            self.members.iter().filter(here).collect()
        };
        match (fault.kind, fault.target) {
            (Kind::DeleteAll | Kind::PowerOffAll, _) => self.members.iter().collect(),
            // Nobody is killed, nor moved.
            (Kind::FailSaves, _) => Vec::new(),
            (_, Target::Member(shard, role)) => self.member(shard, role).into_iter().collect(),
            (_, Target::Shard(shard)) => self.members.iter().filter(|m| m.shard == shard).collect(),
            (_, Target::Link(_, Cut::ControlPlane) | Target::TheOne) => Vec::new(),
            // Somebody still hears both ends: nobody takes over, and nobody is struck.
            (_, Target::Link(_, Cut::Node(_))) => Vec::new(),
            (_, Target::Node(_) | Target::Link(..)) => on(fault.nodes()),
        }
    }

    /// The member of a shard with a role; if there is none with it, another one.
    pub(crate) fn member(&self, shard: u32, role: Role) -> Option<&Member> {
        let wanted = role == Role::Primary;
        let mut members = self.members.iter().filter(|member| member.shard == shard);
        let any = members.clone().next();
        members.find(|member| member.primary == wanted).or(any)
    }

    /// The node that holds a majority of this many primaries, and how many.
    pub(in crate::chaos) fn majority(&self, shards: u32) -> Option<(u32, usize)> {
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

    /// How many API pods are on these nodes.
    pub(super) fn api_on(&self, nodes: &[u32]) -> usize {
        let here = |node: &Option<u32>| node.is_some_and(|node| nodes.contains(&node));
        self.api.iter().filter(|(_, node)| here(node)).count()
    }

    /// Whether the operator that leads may be there: the other one has to wait for its lease to end.
    pub(super) fn operator_on(&self, nodes: &[u32]) -> bool {
        let here = |node: &Option<u32>| node.is_some_and(|node| nodes.contains(&node));
        self.operator.iter().any(here)
    }
}

/// The members of a shard that a fault strikes.
pub(super) fn struck_of(strike: &Strike, shard: u32) -> Vec<&Member> {
    let mut struck = strike.placement.struck(&strike.fault);
    struck.retain(|member| member.shard == shard);
    struck
}

/// The names of the members that were struck; those whom Kubernetes evicts one after the other count as one.
pub(super) fn names<'a>(
    on_it: impl IntoIterator<Item = &'a (&'a Strike, Vec<&'a Member>)>,
) -> BTreeSet<&'a str> {
    on_it
        .into_iter()
        .flat_map(|(strike, members)| {
            let guarded = strike.fault.kind.manner() == Manner::Guarded;
            let most = if guarded { 1 } else { members.len() };
            members.iter().take(most).map(|member| member.pod.as_str())
        })
        .collect()
}

/// Whether none of a shard's members was spared.
pub(super) fn all_struck<'a>(
    shape: &Shape,
    on_it: impl IntoIterator<Item = &'a (&'a Strike, Vec<&'a Member>)>,
) -> bool {
    names(on_it).len() >= shape.members()
}
