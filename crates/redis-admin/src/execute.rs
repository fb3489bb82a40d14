//! Carries out one action.

use std::time::Duration;

use cachecluster_topology::{Action, NodeId, NodeRef, SlotRange, SlotRanges};
use redis::RedisError;

use crate::Password;
use crate::connect::{Connection, connect, is_refusal};
use crate::observe::{LEAST_REPLICAS, view};

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

/// How often a promoted replica is asked whether it is the primary yet.
const PROMOTION_POLL: Duration = Duration::from_millis(5);

/// Carries out `action`, every command within `deadline`. Safe to repeat, and to cut short anywhere.
///
/// A promotion returns when the replica says that it is the primary, or fails after `deadline`.
///
/// # Errors
/// See [`ExecuteError`]; a step that fails on one node does not keep it from the others.
pub async fn execute(
    action: &Action,
    password: &Password,
    deadline: Duration,
) -> Result<(), ExecuteError> {
    let hands = Hands { password, deadline };
    match action {
        Action::Meet { via, peers } => hands.meet(via, peers).await,
        Action::AssignSlots { assignments } => {
            side_by_side(assignments, |(node, slots, epoch)| {
                hands.assign(node, slots, *epoch)
            })
            .await
        }
        Action::Replicate { pairs } => {
            side_by_side(pairs, |(node, primary)| hands.replicate(node, primary)).await
        }
        Action::Failover { replica } => hands.promote(replica, &["CLUSTER", "FAILOVER"]).await,
        Action::ForceFailover { replica } => {
            hands
                .promote(replica, &["CLUSTER", "FAILOVER", "FORCE"])
                .await
        }
        Action::Takeover { replica } => {
            hands
                .promote(replica, &["CLUSTER", "FAILOVER", "TAKEOVER"])
                .await
        }
        Action::RequireReplicas { nodes, least } => {
            side_by_side(nodes, |node| hands.require(node, *least)).await
        }
        Action::Forget { gone, everyone } => {
            side_by_side(everyone, |node| hands.forget(node, gone)).await
        }
    }
}

/// Runs `step` for every item at the same time; the first error in the items' order is returned after all have ended.
async fn side_by_side<'a, T, F>(
    items: &'a [T],
    step: impl Fn(&'a T) -> F,
) -> Result<(), ExecuteError>
where
    F: Future<Output = Result<(), ExecuteError>>,
{
    futures::future::join_all(items.iter().map(step))
        .await
        .into_iter()
        .collect()
}

struct Hands<'a> {
    password: &'a Password,
    deadline: Duration,
}

impl Hands<'_> {
    /// Connects to a node and makes sure that it is the one that was planned for.
    async fn reach(&self, node: &NodeRef) -> Result<Connection, ExecuteError> {
        let command = "CLUSTER MYID";
        let mut connection = connect(node.addr, self.password, self.deadline)
            .await
            .map_err(|source| failed(node, "AUTH", source))?;
        let answer = connection
            .text(&["CLUSTER", "MYID"])
            .await
            .map_err(|source| failed(node, command, source))?;
        match NodeId::parse(&answer) {
            Some(found) if found == node.id => Ok(connection),
            Some(found) => Err(ExecuteError::OtherNode {
                name: node.name.clone(),
                expected: node.id.clone(),
                found,
            }),
            None => Err(unexpected(node, command, &answer)),
        }
    }

    async fn meet(&self, via: &NodeRef, peers: &[NodeRef]) -> Result<(), ExecuteError> {
        let connection = self.reach(via).await?;
        side_by_side(peers, |peer| {
            let mut connection = connection.clone();
            async move {
                // A pod's IP address may have gone to a pod of another cluster, and two clusters that met never part.
                self.reach(peer).await?;
                let (ip, port) = (peer.addr.0.to_string(), peer.addr.1.to_string());
                let met = connection.text(&["CLUSTER", "MEET", &ip, &port]).await;
                met.map(drop)
                    .map_err(|source| failed(via, "CLUSTER MEET", source))
            }
        })
        .await
    }

    async fn assign(
        &self,
        node: &NodeRef,
        slots: &SlotRanges,
        epoch: u64,
    ) -> Result<(), ExecuteError> {
        let mut connection = self.reach(node).await?;
        let epoch = epoch.to_string();
        let newborn = match connection
            .text(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch])
            .await
        {
            Ok(_) => true,
            // Only a node that knows nobody and has no epoch yet may be given one; any other has one already.
            Err(error) if is_refusal(&error) => false,
            Err(source) => return Err(failed(node, "CLUSTER SET-CONFIG-EPOCH", source)),
        };
        match add_slots(&mut connection, slots).await {
            Err(error) if mentions(&error, "already busy") => {
                let command = "CLUSTER NODES";
                let view = view(&mut connection)
                    .await
                    .map_err(|unseen| unexpected(node, command, &unseen.to_string()))?;
                let missing = without(slots, &view.slots);
                add_slots(&mut connection, &missing).await
            }
            other => other,
        }
        .map_err(|source| failed(node, "CLUSTER ADDSLOTSRANGE", source))?;
        if newborn {
            return Ok(());
        }
        // A node that was away may believe in the slots' former owner; the higher epoch convinces it.
        connection
            .text(&["CLUSTER", "BUMPEPOCH"])
            .await
            .map(drop)
            .map_err(|source| failed(node, "CLUSTER BUMPEPOCH", source))
    }

    /// Said also to a replica that follows that primary already: it may look for it where it was.
    async fn replicate(&self, node: &NodeRef, primary: &NodeId) -> Result<(), ExecuteError> {
        let command = "CLUSTER REPLICATE";
        let mut connection = self.reach(node).await?;
        connection
            .text(&["CLUSTER", "REPLICATE", primary.as_str()])
            .await
            .map_err(|source| failed(node, command, source))?;
        // Valkey answers OK and does nothing when it follows that primary already. A server that begins to load upon this
        // need not tell.
        let Ok(view) = view(&mut connection).await else {
            return Ok(());
        };
        let known = view.known.get(primary).and_then(|known| known.addr);
        match (known, view.standing.dials) {
            (Some(addr), Some((ip, port))) if view.dials_in_vain(addr) => {
                let answer = format!("OK, but it still looks for its primary at {ip}:{port}");
                Err(unexpected(node, command, &answer))
            }
            _ => Ok(()),
        }
    }

    async fn promote(&self, replica: &NodeRef, words: &[&str]) -> Result<(), ExecuteError> {
        let command = "CLUSTER FAILOVER";
        let mut connection = self.reach(replica).await?;
        match connection.text(words).await {
            Ok(_) => {}
            // What a primary answers: somebody else was quicker.
            Err(error) if mentions(&error, "to a replica") => {}
            Err(source) => return Err(failed(replica, command, source)),
        }
        let promoted = async {
            while !is_primary(&mut connection).await? {
                tokio::time::sleep(PROMOTION_POLL).await;
            }
            Ok(())
        };
        match tokio::time::timeout(self.deadline, promoted).await {
            Ok(ended) => ended.map_err(|source| failed(replica, command, source)),
            Err(_) => {
                let waited = self.deadline.as_millis();
                let answer = format!("OK, but still a replica after {waited} ms");
                Err(unexpected(replica, command, &answer))
            }
        }
    }

    async fn require(&self, node: &NodeRef, least: u32) -> Result<(), ExecuteError> {
        let mut connection = self.reach(node).await?;
        let wanted = least.to_string();
        let command = "CONFIG SET";
        connection
            .text(&["CONFIG", "SET", LEAST_REPLICAS, &wanted])
            .await
            .map_err(|source| failed(node, command, source))?;
        let command = "CONFIG GET";
        let found = connection.config(LEAST_REPLICAS).await;
        match found.map_err(|source| failed(node, command, source))? {
            Some(found) if found == wanted => Ok(()),
            found => Err(unexpected(node, command, &found.unwrap_or_default())),
        }
    }

    async fn forget(&self, node: &NodeRef, gone: &[NodeId]) -> Result<(), ExecuteError> {
        let mut connection = self.reach(node).await?;
        let mut outcome = Ok(());
        for id in gone {
            match connection.text(&["CLUSTER", "FORGET", id.as_str()]).await {
                Ok(_) => {}
                Err(error) if mentions(&error, "Unknown node") => {}
                Err(source) => {
                    outcome = outcome.and(Err(failed(node, "CLUSTER FORGET", source)));
                }
            }
        }
        outcome
    }
}

async fn add_slots(connection: &mut Connection, slots: &SlotRanges) -> Result<(), RedisError> {
    if slots.is_empty() {
        return Ok(());
    }
    let bounds: Vec<String> = slots
        .ranges()
        .iter()
        .flat_map(|range| [range.start.to_string(), range.end.to_string()])
        .collect();
    let words: Vec<&str> = ["CLUSTER", "ADDSLOTSRANGE"]
        .into_iter()
        .chain(bounds.iter().map(String::as_str))
        .collect();
    connection.text(&words).await.map(drop)
}

/// The slots of `wanted` that are not in `owned`.
fn without(wanted: &SlotRanges, owned: &SlotRanges) -> SlotRanges {
    SlotRanges::from_ranges(
        wanted
            .ranges()
            .iter()
            .flat_map(|range| range.start..=range.end)
            .filter(|slot| !owned.contains(*slot))
            .map(|slot| SlotRange {
                start: slot,
                end: slot,
            }),
    )
}

async fn is_primary(connection: &mut Connection) -> Result<bool, RedisError> {
    let info = connection.text(&["INFO", "replication"]).await?;
    Ok(info.lines().any(|line| line.trim_end() == "role:master"))
}

fn mentions(error: &RedisError, words: &str) -> bool {
    is_refusal(error) && error.to_string().contains(words)
}

fn failed(node: &NodeRef, command: &'static str, source: RedisError) -> ExecuteError {
    ExecuteError::Command {
        name: node.name.clone(),
        command,
        source,
    }
}

fn unexpected(node: &NodeRef, command: &'static str, answer: &str) -> ExecuteError {
    ExecuteError::Answer {
        name: node.name.clone(),
        command,
        answer: answer.chars().take(200).collect(),
    }
}
