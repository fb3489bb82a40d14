//! The API as a client sees it, over each of its stores. Redis servers are real ones, started and stopped by the tests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
mod cluster;
mod contract;
mod faults;
mod limits;
mod malformed;
mod netns;
mod servers;
mod shutdown;
