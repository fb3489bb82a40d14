//! What the operator, the agent and the API agree on.
//!
//! Everything that one of them writes and another reads is named here, once: labels, ports, paths, environment
//! variables, and the settings document that the operator renders and the agent loads. Nothing here does IO.

pub mod agent;
pub mod durable;
pub mod fence;
pub mod labels;
pub mod names;
pub mod news;
pub mod paths;
pub mod ports;
pub mod report;

pub use agent::{AgentSettings, Persistence};
