//! Reads what nodes say.

use std::net::IpAddr;
use std::time::Duration;

use cachecluster_topology::{NodeView, Probe};
use futures::StreamExt;
use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::Password;
use crate::connect::{Connection, connect, is_refusal};

/// How many nodes are asked at the same time: bounds sockets and memory of one pass, and is more than most clusters have.
const SIDE_BY_SIDE: usize = 64;

/// The directive that says how many replicas must be attached for a primary to take writes.
pub(crate) const LEAST_REPLICAS: &str = "min-replicas-to-write";

/// Asks one server for its view (`CLUSTER NODES`, `CLUSTER INFO`, `INFO`), within `deadline` in all.
///
/// A server that loads its data set is [`Probe::Answered`] where the engine lets it speak of the cluster meanwhile, and
/// [`Probe::Loading`] where it does not: without its id there is no view.
pub async fn probe(addr: (IpAddr, u16), password: &Password, deadline: Duration) -> Probe {
    let asked = async {
        let mut connection = connect(addr, password, deadline)
            .await
            .map_err(Unseen::of)?;
        view(&mut connection).await
    };
    match tokio::time::timeout(deadline, asked).await {
        Ok(Ok(view)) => Probe::Answered(Box::new(view)),
        Ok(Err(Unseen::Loads)) => Probe::Loading,
        Ok(Err(Unseen::Refuses(words))) => Probe::Refused(words),
        Ok(Err(Unseen::Because(reason))) => Probe::Silent(reason),
        Err(_) => Probe::Silent(format!("no answer within {} ms", deadline.as_millis())),
    }
}

/// Why there is no view.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unseen {
    /// The server says nothing else meanwhile.
    #[error("it is loading its data set")]
    Loads,
    /// The server lives.
    #[error("it refuses: {0}")]
    Refuses(String),
    #[error("{0}")]
    Because(String),
}

impl Unseen {
    fn of(error: RedisError) -> Self {
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::BusyLoading) => Self::Loads,
            ErrorKind::AuthenticationFailed => Self::Because(error.to_string()),
            _ if is_refusal(&error) => Self::Refuses(error.to_string()),
            _ => Self::Because(error.to_string()),
        }
    }
}

/// Reads the view over an open connection, in one round trip; the error says which part failed and how.
pub(crate) async fn view(connection: &mut Connection) -> Result<NodeView, Unseen> {
    const QUESTIONS: [&[&str]; 3] = [&["CLUSTER", "NODES"], &["CLUSTER", "INFO"], &["INFO"]];
    let mut config = connection.clone();
    // Side by side on one connection: the server reads both at once.
    let (answers, required) =
        tokio::join!(connection.texts(&QUESTIONS), config.config(LEAST_REPLICAS));
    let answers = answers.map_err(Unseen::of)?;
    // A server that does not tell can be observed all the same.
    let required = required.ok().flatten().and_then(|value| value.parse().ok());
    let mut texts = Vec::with_capacity(QUESTIONS.len());
    for (question, answer) in QUESTIONS.iter().zip(answers) {
        let answer = answer.map_err(|error| match Unseen::of(error) {
            Unseen::Loads => Unseen::Loads,
            Unseen::Refuses(why) => Unseen::Refuses(format!("{}: {why}", question.join(" "))),
            Unseen::Because(why) => Unseen::Because(format!("{}: {why}", question.join(" "))),
        });
        texts.push(answer?);
    }
    match texts.as_slice() {
        [nodes, cluster_info, info] => {
            let mut view = NodeView::assemble(nodes, cluster_info, info)
                .map_err(|error| Unseen::Because(error.to_string()))?;
            view.standing.required = required;
            Ok(view)
        }
        _ => Err(Unseen::Because("fewer answers than questions".to_owned())),
    }
}

/// Asks all of them side by side (a bounded number at a time); the answers are in the order of `addrs`. A `None`
/// address is [`Probe::Silent`].
pub async fn observe(
    addrs: &[Option<(IpAddr, u16)>],
    password: &Password,
    deadline: Duration,
) -> Vec<Probe> {
    futures::stream::iter(addrs.iter().copied())
        .map(|addr| async move {
            match addr {
                Some(addr) => probe(addr, password, deadline).await,
                None => Probe::Silent("no address yet".to_owned()),
            }
        })
        .buffered(SIDE_BY_SIDE)
        .collect()
        .await
}
