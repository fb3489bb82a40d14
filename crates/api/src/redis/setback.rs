//! What can stand in the way of a command, and what it means: go elsewhere, try again, or give up.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::node::Fault;
use super::view::Address;
use crate::metrics::Retry;
use crate::store::StoreError;

/// What stood in the way of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Setback {
    /// Another node serves the slot.
    Moved(Address),
    /// Another node serves this key, this time.
    Ask(Address),
    /// It may go better in a moment.
    Again {
        /// Why it did not go well.
        reason: Retry,
        /// Whether the node may have carried it out all the same.
        sent: bool,
    },
    /// The deadline passed.
    Late {
        /// As above.
        sent: bool,
    },
    /// It will not.
    Fatal(StoreError),
}

/// What is told to a client whose deadline passed, from what stood in the way last. Names no nodes: it is shown to users.
/// `uncertain` tells whether an attempt may have been carried out.
pub(super) fn gave_up(last: Retry, uncertain: bool) -> StoreError {
    let why = match last {
        Retry::Connection => "no connection to the shard that has this key",
        Retry::Timeout | Retry::Rerouted => "no answer from the shard that has this key",
        Retry::Uncovered => "no shard is known that has this key",
        Retry::ClusterDown | Retry::Loading | Retry::NotPrimary | Retry::Moving | Retry::Busy => {
            "the shard that has this key cannot serve now"
        }
        Retry::NoReplicas => {
            "the shard that has this key takes no writes until a replica can keep them as well"
        }
        Retry::Credentials => "the shard that has this key does not accept our credentials",
    };
    if uncertain {
        StoreError::Unanswered(why.to_owned())
    } else {
        StoreError::Unavailable(why.to_owned())
    }
}

/// Tells what to do about a fault. `node` is who answered, `sent` whether the command had left.
pub(super) fn classify(fault: Fault, node: &Address, sent: bool) -> Setback {
    match fault {
        Fault::Connect(_) => Setback::Again {
            reason: Retry::Connection,
            sent: false,
        },
        Fault::Credentials(_) => Setback::Again {
            reason: Retry::Credentials,
            sent: false,
        },
        Fault::Reply(error) => classify_reply(&error, node, sent),
    }
}

fn classify_reply(error: &RedisError, node: &Address, sent: bool) -> Setback {
    // What the server refused was not carried out.
    let refused = |reason| Setback::Again {
        reason,
        sent: false,
    };
    let elsewhere = || Address::parse(error.redirect_node()?.0, node);
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::Moved) => {
            elsewhere().map_or(refused(Retry::Moving), Setback::Moved)
        }
        ErrorKind::Server(ServerErrorKind::Ask) => {
            elsewhere().map_or(refused(Retry::Moving), Setback::Ask)
        }
        ErrorKind::Server(ServerErrorKind::TryAgain) => refused(Retry::Moving),
        ErrorKind::Server(ServerErrorKind::ClusterDown) => refused(Retry::ClusterDown),
        ErrorKind::Server(ServerErrorKind::BusyLoading) => refused(Retry::Loading),
        ErrorKind::Server(ServerErrorKind::MasterDown | ServerErrorKind::ReadOnly) => {
            refused(Retry::NotPrimary)
        }
        _ => match error.code() {
            Some("NOAUTH" | "WRONGPASS") => refused(Retry::Credentials),
            Some("NOREPLICAS") => refused(Retry::NoReplicas),
            Some("BUSY") => refused(Retry::Busy),
            // The primary just handed over.
            Some("UNBLOCKED") => refused(Retry::NotPrimary),
            Some("OOM") => Setback::Fatal(StoreError::Unavailable("its memory is full".to_owned())),
            Some("MISCONF") => Setback::Fatal(StoreError::Unavailable(
                "it cannot persist writes".to_owned(),
            )),
            Some("WRONGTYPE") => Setback::Fatal(StoreError::WrongType),
            Some(_) => Setback::Fatal(StoreError::Refused(error.to_string())),
            // No code: not an answer, but the end of the connection, or one that does not parse.
            None => Setback::Again {
                reason: Retry::Connection,
                sent,
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::{Value, parse_redis_value};

    fn answered(line: &str) -> Setback {
        let node = Address {
            host: "10.0.0.9".into(),
            port: 6379,
        };
        let answer =
            parse_redis_value(format!("-{line}\r\n").as_bytes()).and_then(Value::extract_error);
        classify(Fault::Reply(answer.unwrap_err()), &node, true)
    }

    fn at(host: &str, port: u16) -> Address {
        Address {
            host: host.into(),
            port,
        }
    }

    #[test]
    fn redirections_name_the_other_node() {
        assert_eq!(
            answered("MOVED 3999 10.0.0.1:6381"),
            Setback::Moved(at("10.0.0.1", 6381))
        );
        assert_eq!(
            answered("MOVED 3999 :6381"),
            Setback::Moved(at("10.0.0.9", 6381))
        );
        assert_eq!(
            answered("ASK 3999 10.0.0.1:6381"),
            Setback::Ask(at("10.0.0.1", 6381))
        );
        // One that names nobody is waited out.
        let waited_out = Setback::Again {
            reason: Retry::Moving,
            sent: false,
        };
        assert_eq!(answered("MOVED 3999 nowhere"), waited_out);
    }

    #[test]
    fn what_passes_is_waited_out_and_was_not_carried_out() {
        for (line, reason) in [
            (
                "TRYAGAIN Multiple keys request during rehashing of slot",
                Retry::Moving,
            ),
            ("CLUSTERDOWN The cluster is down", Retry::ClusterDown),
            ("CLUSTERDOWN Hash slot not served", Retry::ClusterDown),
            (
                "LOADING Redis is loading the dataset in memory",
                Retry::Loading,
            ),
            (
                "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
                Retry::NotPrimary,
            ),
            (
                "READONLY You can't write against a read only replica.",
                Retry::NotPrimary,
            ),
            (
                "UNBLOCKED force unblock from blocking operation",
                Retry::NotPrimary,
            ),
            (
                "NOREPLICAS Not enough good replicas to write.",
                Retry::NoReplicas,
            ),
            ("BUSY Redis is busy running a script.", Retry::Busy),
        ] {
            let expected = Setback::Again {
                reason,
                sent: false,
            };
            assert_eq!(answered(line), expected, "{line}");
        }
        let credentials = Setback::Again {
            reason: Retry::Credentials,
            sent: false,
        };
        assert_eq!(answered("NOAUTH Authentication required."), credentials);
    }

    #[test]
    fn what_does_not_pass_is_told_at_once() {
        assert_eq!(
            answered("WRONGTYPE Operation against a key"),
            Setback::Fatal(StoreError::WrongType)
        );
        for line in [
            "OOM command not allowed",
            "MISCONF Redis is configured to save",
        ] {
            assert!(
                matches!(answered(line), Setback::Fatal(StoreError::Unavailable(_))),
                "{line}"
            );
        }
        assert!(matches!(
            answered("ERR unknown command"),
            Setback::Fatal(StoreError::Refused(_))
        ));
    }

    #[test]
    fn a_connection_that_broke_leaves_the_outcome_open() {
        let broken = RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        let expected = Setback::Again {
            reason: Retry::Connection,
            sent: true,
        };
        assert_eq!(
            classify(Fault::Reply(broken), &at("10.0.0.9", 1), true),
            expected
        );
    }
}
