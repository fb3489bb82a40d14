//! What nodes say, from text to values.
//!
//! The texts are those of Redis 7 and 8 and of Valkey 8 and 9. Fields that nobody here needs are passed over, and so
//! are fields that do not exist yet; a field that *is* needed and missing or malformed is an error, because a guess
//! would be planned upon.

pub mod info;
pub mod nodes;

use crate::model::{NodeView, Role, Standing};

pub use info::{ClusterInfo, Info, parse_cluster_info, parse_info};
pub use nodes::{Myself, parse_nodes};

/// What is wrong with a node's answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A line of `CLUSTER NODES` does not read as one.
    #[error("CLUSTER NODES line {line}: {what}: {text:?}")]
    Node {
        /// Number of the line, counted from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
        /// The offending part of it.
        text: String,
    },
    /// `CLUSTER NODES` has no line, or several, with the flag `myself`.
    #[error("CLUSTER NODES has {0} lines flagged myself, not one")]
    Myself(usize),
    /// A field that is needed is not there.
    #[error("{command} has no field {field}")]
    Missing {
        /// The command whose answer it is.
        command: &'static str,
        /// The field's name.
        field: &'static str,
    },
    /// A field's value does not read as what it should be.
    #[error("{command} line {line}: {field} is not {wanted}: {value:?}")]
    Field {
        /// The command whose answer it is.
        command: &'static str,
        /// Number of the line, counted from 1.
        line: usize,
        /// The field's name.
        field: String,
        /// What it should be.
        wanted: &'static str,
        /// What it is.
        value: String,
    },
}

impl NodeView {
    /// Puts one node's account together from its answers to `CLUSTER NODES`, `CLUSTER INFO` and `INFO` (all sections or
    /// at least server, memory, persistence, replication and keyspace).
    ///
    /// The offset is the one that compares across a shard: what a primary has written, what a replica has applied. A
    /// replica's own `master_repl_offset` counts what it passed on and may differ.
    ///
    /// # Errors
    /// When an answer does not read as one, or lacks a field that planning needs.
    pub fn assemble(nodes: &str, cluster_info: &str, info: &str) -> Result<Self, ParseError> {
        let (myself, known) = parse_nodes(nodes)?;
        let cluster = parse_cluster_info(cluster_info)?;
        let info = parse_info(info)?;
        let replica = myself.role == Role::Replica;
        let offset = if replica {
            info.slave_repl_offset.unwrap_or(0)
        } else {
            info.master_repl_offset
        };
        Ok(Self {
            id: myself.id,
            role: myself.role,
            primary: myself.primary,
            slots: myself.slots,
            cluster_ok: cluster.state_ok,
            current_epoch: cluster.current_epoch,
            epoch: myself.epoch,
            offset,
            link_up: replica && info.master_link_up,
            standing: Standing {
                unheard_seconds: info.unheard_seconds.filter(|_| replica),
                dials: info.dials.filter(|_| replica),
                attached: info.attached,
                required: None,
            },
            loading: info.loading,
            keys: info.keys,
            used_memory: info.used_memory,
            failed_saves: info.failed_saves,
            uptime_seconds: info.uptime_seconds,
            version: info.version,
            known,
        })
    }
}
