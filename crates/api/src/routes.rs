//! The handlers, one file a resource.

pub mod cache;
pub mod health;
pub mod stats;
