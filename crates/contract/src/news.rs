//! How an agent tells the operator at once that something has changed at its server: the operator asks, and the agent
//! answers when there is something to tell.

use serde::{Deserialize, Serialize};

/// The longest time that an agent thinks about the answer, in milliseconds.
pub const PATIENCE_MS: u64 = 30_000;

/// The query of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The number that was heard last. Without one, or with another than the present one, the answer comes at once.
    pub after: Option<u64>,
}

/// The answer. It does not say what has changed: whoever wants to know looks at the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// How many changes there have been since the agent's start. The same as asked after if there was none for
    /// [`PATIENCE_MS`].
    pub number: u64,
}
