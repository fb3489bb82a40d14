//! The slot-aware Redis client: a few multiplexed connections to each node, a slot map, and the patience to sit out a
//! failover.
//!
//! # What it does
//! A key's slot ([`slots`]) names its primary in the slot map ([`map`]), which is merged from what several nodes say
//! ([`view`]) and kept fresh in the background ([`refresh`]). A command goes down one connection of that node ([`node`])
//! together with everyone else's, so that pipelining comes by itself. [`route`] follows `MOVED` and `ASK`, and tries
//! again, until the request's deadline, whatever a change of the cluster can cause: lost connections, silent nodes,
//! `CLUSTERDOWN`, `LOADING`, `READONLY`, `TRYAGAIN`, `MASTERDOWN`, `NOREPLICAS`, and slots that nobody owns for a moment.
//! A server without cluster mode is a cluster of one node with every slot.
//!
//! # What trying again means
//! Only commands that may run twice are sent: `GET`; `SET` of a whole value; `DEL`. If an attempt's outcome is unknown
//! (sent, but never answered), the next one makes it so again:
//! - **`SET`** ends with the value set. Its TTL is what is left of the one asked for, counted from the request's arrival,
//!   so that a late attempt does not prolong it; no clock of another machine is trusted.
//! - **`DEL`** ends with no value. If an earlier attempt's outcome is unknown, "nothing there" is reported as deleted,
//!   since it may well have been that attempt.
//! - **`GET`** reads the primary only.
//!
//! An attempt that was given up must not be carried out after a later one was answered, or it would undo what was written
//! since. So connections are closed without lingering ([`node`]): what the kernel still had to send, it would otherwise
//! send for minutes, and deliver when a partition heals. What the server's kernel has received already is carried out when
//! a hung server goes on, before anything that was sent later: it takes up its sockets in the order in which they had
//! something to read, and answers after each round. What went to a primary that is deposed goes with what else its replica
//! never got.
//!
//! Everything that waits does so until the deadline that it was given at most, and the number of commands that one node may
//! owe us answers to is bounded.

mod link;
pub mod map;
mod names;
pub mod node;
pub mod refresh;
pub mod route;
pub mod seeds;
mod setback;
pub mod slots;
pub mod view;

pub use route::Cluster;
pub use seeds::{Seed, SeedError};
