//! The HTTP cache API: an axum router over a [`Store`], which is either memory or a Redis Cluster.
//!
//! [`run`] is the whole life of the process: it opens the store, serves the public routes ([`router`]) and the admin
//! port, and stops in the order that loses no request ([`shutdown`]).

pub mod accept;
pub mod connection;
pub mod error;
pub mod life;
pub mod metrics;
pub mod middleware;
pub mod redis;
pub mod refusal;
pub mod room;
pub mod router;
pub mod routes;
pub mod serve;
pub mod settings;
pub mod shutdown;
pub mod store;

pub use error::Error;
pub use serve::{Listeners, run};
pub use settings::Settings;
pub use store::Store;
