//! What the operator shall leave alone for a while.

// KubeSchema derives shadow types that are `pub` inside a function body.
#![allow(unreachable_pub)]

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What the operator shall leave alone for a while.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Maintenance {
    /// Whether the operator keeps its hands off: it looks on and writes the status, but applies no object, marks no pod
    /// and takes no step on the Redis nodes. Agents and Redis Cluster go on replacing primaries that die.
    #[serde(default)]
    pub paused: bool,
}
