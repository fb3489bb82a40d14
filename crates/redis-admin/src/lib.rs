//! The topology planner's hands on live Redis nodes: [`observe`] reads each of them, [`execute`] carries out one
//! [`Action`](cachecluster_topology::Action).
//!
//! Every node is asked over a connection of its own, because nodes disagree while gossip converges, and every call
//! has a deadline, because silence is an answer too.

pub mod connect;
pub mod execute;
#[cfg(feature = "fixture")]
pub mod fixture;
pub mod observe;

pub use connect::{Connection, Password, connect, is_refusal};
pub use execute::{ExecuteError, execute};
pub use observe::{observe, probe};
