//! The one next step, or what is awaited.
//!
//! Each planner looks at the same [`Roster`] and offers an action or nothing; the first offer in a fixed order is the
//! plan. Nothing is remembered between passes: a step that was cut short leaves a world from which the same planners
//! go on.

mod bootstrap;
mod crowd;
mod durable;
mod failover;
mod forget;
mod handover;
mod heal;
mod join;
mod placement;
mod spread;
mod zones;

use std::collections::BTreeMap;

use crate::action::Action;
use crate::model::World;
use crate::roster::Roster;

pub use crowd::{Crowd, Relief, crowd};
pub use failover::ALLOW_UNSAFE_PROMOTION;
pub use handover::is_ready_to_lead;

/// What to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The one next step. `None` when all is well, or when time or somebody else must act first.
    pub action: Option<Action>,
    /// What is not as it should be and is waited for, in words for a status or a log.
    pub waiting: Vec<String>,
    /// Which shards of a durable cluster are left without a primary because every replica might lack an acknowledged
    /// write, in sentences.
    pub refused: Vec<String>,
    /// By shard of a durable cluster: the pods that hold every acknowledged write from now on, its primary first. Nothing
    /// is done upon that before a world says the same.
    pub in_sync: BTreeMap<u32, Vec<String>>,
}

/// A planner: may offer a step, may say what it waits for.
type Planner = fn(&Roster<'_>, &mut Vec<String>) -> Option<Action>;

/// In this order, because votes save a shard fastest; a primary that refuses writes in vain keeps clients waiting; with addresses put right, more votes may be had before anyone is promoted without;
/// slots that nobody can bring back are given out again only after every promotion was considered;
/// replicas need a primary; what no other step needs any more is forgotten; a replica that seeks its primary in vain is
/// sent to it; and only a healthy cluster is evened out.
const ORDER: [Planner; 10] = [
    failover::force,
    durable::writes,
    join::meet,
    failover::takeover,
    heal::abandon,
    heal::assign,
    join::replicate,
    forget::ghosts,
    join::redial,
    spread::primaries,
];

/// Plans the next step for `world`: at most one action. Equal worlds give equal plans, whatever the order of members.
#[must_use]
pub fn plan(world: &World) -> Plan {
    let roster = Roster::of(world);
    let mut waiting = Vec::new();
    if let Some((one, other)) = roster.twins() {
        waiting.push(format!(
            "{} and {} both say they are node {}: one has the other's volume; nothing is done until one is gone",
            one.member.name, other.member.name, one.view.id
        ));
        return Plan {
            waiting,
            // Nobody joins and nobody leaves.
            in_sync: world.durable.clone().unwrap_or_default().in_sync,
            ..Plan::default()
        };
    }
    // Before anything else, and nothing else while it waits: once its nodes have met, a new cluster's epochs can no
    // longer be set.
    let mut action = bootstrap::assign(&roster, &mut waiting);
    if action.is_none() && waiting.is_empty() {
        action = ORDER
            .iter()
            .find_map(|planner| planner(&roster, &mut waiting));
    }
    Plan {
        action,
        waiting,
        refused: failover::refused(&roster),
        in_sync: durable::in_sync(&roster).unwrap_or_default(),
    }
}
