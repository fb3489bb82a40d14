//! Logs, metrics, probes and the shutdown signal: one way to do each, for every binary.

pub mod admin;
pub mod logs;
pub mod process;
pub mod shutdown;

pub use admin::{Admin, Readiness};
