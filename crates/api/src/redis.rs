//! The slot-aware Redis client.

pub mod seeds;

pub use seeds::{Seed, SeedError};
