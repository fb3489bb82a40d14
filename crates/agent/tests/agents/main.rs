//! Agents with real servers on this machine: what a pod's life does to the data.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agent;
mod alone;
mod cluster;
mod death;
mod fence;
mod handover;
mod trouble;
mod vigil;
mod volume;
