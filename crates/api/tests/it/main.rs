//! The API as a client sees it, over each of its stores. Redis servers are real ones, started and stopped by the tests.

mod api;
mod cluster;
mod contract;
mod limits;
mod servers;
mod shutdown;
