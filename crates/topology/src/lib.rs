//! Redis Cluster as a pure domain: parse what nodes say, assess the whole, plan the one next step, simulate it.
//!
//! No IO, no clock, no async: the world comes in as a value and the plan goes out as one. What reads live nodes and
//! carries a plan out is the crate `cachecluster-redis-admin`.

pub mod action;
pub mod assess;
pub mod model;
pub mod parse;
pub mod plan;
mod roster;
pub mod sim;
pub mod slots;

pub use action::{Action, NodeRef};
pub use assess::{Health, ShardHealth, assess};
pub use model::{
    Durable, FailedSaves, KnownNode, LinkState, Member, NodeId, NodeView, Presence, Probe, Role,
    SLOT_COUNT, SlotRange, SlotRanges, Standing, World,
};
pub use parse::{ParseError, parse_cluster_info, parse_info, parse_nodes};
pub use plan::{ALLOW_UNSAFE_PROMOTION, Crowd, Plan, Relief, crowd, is_ready_to_lead, plan};
