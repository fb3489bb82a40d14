//! Fencing: a user has one pod's server stopped, and kept stopped, by naming the pod in an annotation.
//!
//! The operator tells the pod's agent over HTTP, on its admin port: `PUT` [`PATH`] raises the fence, `DELETE` lifts it. Both
//! carry [`credentials`] and no body, are idempotent, and are answered with a [`State`]; 401 when the credentials are
//! wrong, and then nothing happens.

use serde::{Deserialize, Serialize};

/// Annotation on a `CacheCluster`: names of the pods that shall be fenced, separated by commas.
pub const ANNOTATION: &str = "cachecluster.io/fenced";
/// Where the agent is told.
pub const PATH: &str = "/fence";
/// Name of the header with the [`credentials`].
pub const HEADER: &str = "authorization";
/// Name of the file in the data directory that keeps the fence over restarts of the container, and of the pod if it has
/// a volume.
pub const FILE: &str = "cachecluster-fenced";

/// What an agent says of its fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Whether the fence is up.
    pub fenced: bool,
    /// Whether the server is down because of it: it may take some seconds to hand over and to stop.
    pub stopped: bool,
}

/// The value of [`HEADER`]: the cluster's password in hexadecimal digits, because a header cannot carry every text.
#[must_use]
pub fn credentials(password: &str) -> String {
    let digits: String = password.bytes().map(|b| format!("{b:02x}")).collect();
    format!("Bearer {digits}")
}

/// The pods that the annotation's value names, in the order of the text.
pub fn names(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_password_makes_a_header_of_plain_letters() {
        assert_eq!(credentials("a b\u{e4}"), "Bearer 612062c3a4");
        assert_ne!(credentials("a"), credentials("a "));
    }

    #[test]
    fn spaces_and_empty_names_do_not_count() {
        assert_eq!(names(" a, b,,c ,").collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(names("").next(), None);
    }
}
