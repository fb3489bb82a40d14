//! What an acknowledged write is worth.

// KubeSchema derives shadow types that are `pub` inside a function body.
#![allow(unreachable_pub)]

use kube::KubeSchema;
use kube::core::Message;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What goes before what when not both can be had.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Availability: the freshest replica that can be reached becomes the primary, and one primary takes writes alone.
    #[default]
    Cache,
    /// Acknowledged writes: they are on disk and read by a replica, and nobody who may lack one is promoted.
    Durable,
}

/// How acknowledged writes are kept.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Durability {
    /// When the append-only file is forced to disk.
    #[serde(default)]
    pub fsync: Fsync,
}

/// When the append-only file is forced to disk.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fsync {
    /// Once a second: a machine that loses power loses up to about a second, which a replica still has.
    #[default]
    EverySecond,
    /// Before each write is acknowledged.
    Always,
}

/// CEL that is true while none of the directives of a durable cluster is there, from the one list that the agent keeps.
pub(crate) fn directives_rule() -> String {
    let names: Vec<String> = cachecluster_contract::durable::DIRECTIVES
        .iter()
        .map(|name| format!("'{name}'"))
        .collect();
    format!(
        "self.profile != 'Durable' || !has(self.engine.config) || self.engine.config.all(k, !(k in [{}]))",
        names.join(", ")
    )
}

/// What that rule says.
pub(crate) fn directives_message() -> Message {
    Message::Message(format!(
        "spec.engine.config: with profile Durable the operator decides {}: remove them, and see spec.durability.fsync",
        cachecluster_contract::durable::DIRECTIVES.join(", ")
    ))
}
