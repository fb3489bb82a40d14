//! Sees to it that the agents keep those servers stopped that the annotation names, and no others. That is the user's own
//! hand, so it works while the cluster is paused, too.
//!
//! Agents are asked after the pass's step: one that does not answer holds up no failover.
//!
//! Nobody is asked unless the annotation names a pod, or one was fenced before. What was asked for is asked for again at
//! each pass: a pod without a volume that is replaced knows nothing of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use cachecluster_contract::fence::{self, State};
use cachecluster_contract::{names, ports};
use cachecluster_crd::{CacheCluster, CacheClusterStatus, conditions};
use futures::StreamExt;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::ResourceExt;
use tokio::time::Instant;

use super::decide;
use super::observe::Observed;
use super::status;
use super::validate::ValidatedCluster;
use super::{Context, Error};
use crate::memory::ClusterMemory;

/// How long one agent may take: more than it gives its disk for keeping or losing the fence.
const DEADLINE: Duration = Duration::from_secs(3);
/// Time until an agent that let us wait so long is asked the same again: a pass waits for it, and the next step for the
/// pass.
const AGAIN: Duration = Duration::from_secs(5);
/// How many agents are asked at the same time.
const SIDE_BY_SIDE: usize = 16;
/// More than any answer of an agent.
const LONGEST_ANSWER: usize = 4096;
/// How many unknown names a message has: a status is no log.
const MOST: usize = 3;
/// Reason of the event about names that are no pods.
const UNKNOWN: &str = "UnknownPod";

/// What the annotation asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Places of the cluster whose servers shall be stopped.
    pub pods: BTreeSet<String>,
    /// What is named besides, in a sentence.
    pub unknown: Option<String>,
}

/// How far the agents are with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fences {
    /// Pods that are fenced, or may be: they were asked to be, and have not said yet that they are not.
    pub standing: BTreeSet<String>,
    /// What is fenced and by what, and what could not be done, in sentences.
    pub told: Vec<String>,
}

/// Reads the annotation. Pods that exist are known also when their places are not wanted any more.
#[must_use]
pub fn wanted(cluster: &CacheCluster, observed: &Observed) -> Wanted {
    let Some(value) = cluster.annotations().get(fence::ANNOTATION) else {
        return Wanted::default();
    };
    let (name, spec) = (cluster.name_any(), &cluster.spec);
    let exists = |pod: &str| observed.members.iter().any(|member| member.name == pod);
    let is_place = |pod: &str| {
        let numbers = pod
            .strip_prefix(&format!("{name}-shard-"))
            .and_then(|numbers| numbers.split_once('-'))
            .and_then(|(shard, ordinal)| Some((shard.parse().ok()?, ordinal.parse().ok()?)));
        numbers.is_some_and(|(shard, ordinal)| {
            // As it is spelled, and not with leading zeros.
            shard < spec.shards
                && ordinal <= spec.replicas
                && names::shard_pod(&name, shard, ordinal) == pod
        })
    };
    let (pods, unknown): (BTreeSet<_>, BTreeSet<_>) = fence::names(value)
        .map(str::to_owned)
        .partition(|pod| is_place(pod) || exists(pod));
    let unknown = (!unknown.is_empty()).then(|| {
        let first: Vec<&str> = unknown.iter().take(MOST).map(String::as_str).collect();
        let more = match unknown.len().saturating_sub(MOST) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(
            "the annotation {} names what is no pod of this cluster: {}{more}",
            fence::ANNOTATION,
            first.join(", ")
        )
    });
    Wanted { pods, unknown }
}

/// Notes in `observed` who is fenced as far as is known before anybody is asked: steps are chosen with that, and no step
/// waits for an agent. Who is named is taken to be stopping, and who was fenced to be so until its agent says otherwise.
pub fn believe(
    resource: &CacheCluster,
    cluster: &ValidatedCluster,
    observed: &mut Observed,
    memory: &ClusterMemory,
) {
    let before = status::previous(resource, memory).fenced;
    for member in &mut observed.members {
        let order = Order {
            pod: member.name.clone(),
            raise: cluster.fenced.pods.contains(&member.name),
            agent: agent(member.addr),
        };
        let named = order.raise && !memory.fences.refused(&order);
        member.fenced = named || before.contains(&member.name);
    }
}

/// Makes the agents match the annotation, and notes in `observed` how far that is. Returns when to look
/// again at the latest, if anything is other than [`believe`] had it, or not done yet.
///
/// The status names who is asked to raise a fence before anybody is asked: a pass may be cut short, and an answer be
/// lost, and what may stand has to be lifted one day.
///
/// # Errors
/// When that cannot be written: then nobody is asked.
pub async fn fence(
    resource: &CacheCluster,
    cluster: &ValidatedCluster,
    observed: &mut Observed,
    context: &Context,
    memory: &mut ClusterMemory,
) -> Result<Option<Duration>, Error> {
    warn_of_unknown(resource, cluster, context, memory).await;
    let names = |memory: &ClusterMemory| -> BTreeSet<String> {
        let previous = status::previous(resource, memory);
        previous.fenced.into_iter().collect()
    };
    let before = names(memory);
    let orders: Vec<Order> = cluster
        .fenced
        .pods
        .union(&before)
        .map(|pod| Order {
            pod: pod.clone(),
            raise: cluster.fenced.pods.contains(pod),
            agent: observed
                .members
                .iter()
                .find(|member| &member.name == pod)
                .and_then(|member| agent(member.addr)),
        })
        .collect();
    let pending = &mut memory.fences.0;
    pending.retain(|_, (last, ..)| orders.contains(last));
    // One that refused is likely to do so again: the status says it when it does not.
    let asked: BTreeSet<String> = orders
        .iter()
        .filter(|it| it.raise && it.agent.is_some() && !memory.fences.refused(it))
        .map(|it| it.pod.clone())
        .collect();
    if !asked.is_subset(&before) {
        let told = |previous: &CacheClusterStatus, _| CacheClusterStatus {
            fenced: before.union(&asked).cloned().collect(),
            ..previous.clone()
        };
        status::write(resource, context, memory, told).await?;
    }
    let credentials = fence::credentials(cluster.auth.password.expose());
    let (namespace, name) = (&cluster.namespace, &cluster.name);
    let spared = &memory.fences;
    let answers: Vec<(Order, Result<State, Trouble>)> = futures::stream::iter(orders)
        .map(|order| async {
            let answer = match spared.recent(&order) {
                Some(trouble) => Err(trouble),
                None => order.give(&credentials).await,
            };
            (order, answer)
        })
        .buffered(SIDE_BY_SIDE)
        .collect()
        .await;
    let mut troubles = Vec::new();
    let mut confirmed = Vec::new();
    let mut again = None;
    for (order, answer) in answers {
        memory.fences.note(&order, answer.as_ref().err());
        if order.agent.is_some() && answer.is_err() {
            again = again.or(Some(AGAIN));
        }
        let Order { pod, raise, agent } = order;
        let exists = observed.members.iter().any(|it| it.name == pod);
        let stands = match (answer, raise) {
            (Ok(state), _) => {
                if state.fenced && raise {
                    confirmed.push(pod.clone());
                }
                state.fenced
            }
            (Err(why), true) => {
                tracing::info!(namespace, name, pod, %why, "not fenced yet");
                troubles.push(format!("{pod} is to be fenced: {why}"));
                let may_be_raised = agent.is_some() && !matches!(why, Trouble::Refused(_));
                (before.contains(&pod) || may_be_raised) && may_keep_a_fence(cluster, &pod, exists)
            }
            (Err(why), false) if may_keep_a_fence(cluster, &pod, exists) => {
                tracing::info!(namespace, name, pod, %why, "a fence is not lifted yet");
                troubles.push(format!("the fence of {pod} is to be lifted: {why}"));
                true
            }
            (Err(_), false) => false,
        };
        if let Some(member) = observed.members.iter_mut().find(|it| it.name == pod) {
            if member.fenced != stands {
                again = Some(decide::UNHEALTHY);
            }
            member.fenced = stands;
        }
        if stands {
            observed.fences.standing.insert(pod);
        }
    }
    if !confirmed.is_empty() {
        observed.fences.told.push(format!(
            "fenced by the annotation {}: {}",
            fence::ANNOTATION,
            confirmed.join(", ")
        ));
    }
    observed.fences.told.append(&mut troubles);
    Ok(again)
}

/// Where the agent of a member is.
fn agent(addr: Option<(IpAddr, u16)>) -> Option<SocketAddr> {
    Some((addr?.0, ports::AGENT).into())
}

/// Whether a pod that was fenced may be so still: it exists, or its volume does.
fn may_keep_a_fence(cluster: &ValidatedCluster, pod: &str, exists: bool) -> bool {
    let place_is_wanted = || {
        let mut places = (0..cluster.shards)
            .flat_map(|shard| (0..=cluster.replicas).map(move |ordinal| (shard, ordinal)));
        places.any(|(shard, ordinal)| names::shard_pod(&cluster.name, shard, ordinal) == pod)
    };
    exists
        || cluster
            .storage
            .as_ref()
            .is_some_and(|volume| !volume.delete || place_is_wanted())
}

/// Tells once of names that are no pods; the status says it for as long as it is so.
async fn warn_of_unknown(
    resource: &CacheCluster,
    cluster: &ValidatedCluster,
    context: &Context,
    memory: &mut ClusterMemory,
) {
    let unknown = &cluster.fenced.unknown;
    if memory.unknown == *unknown {
        return;
    }
    memory.unknown.clone_from(unknown);
    let Some(unknown) = unknown else {
        return;
    };
    let conditions = status::previous(resource, memory).conditions;
    let said = conditions
        .iter()
        .any(|it| it.type_ == conditions::ACCEPTED && it.message.contains(unknown));
    if !said {
        context.events.warn(resource, UNKNOWN, unknown).await;
    }
}

/// What one agent is told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Order {
    pod: String,
    raise: bool,
    agent: Option<SocketAddr>,
}

/// Why an order is not known to be carried out, in words that stay the same while it is so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Trouble {
    #[error("its pod has no address")]
    Nowhere,
    #[error("its agent does not answer")]
    Silent {
        /// Whether that cost the whole [`DEADLINE`].
        waited: bool,
    },
    /// The agent did nothing.
    #[error("its agent {0}")]
    Refused(&'static str),
    /// Whether the agent did something is not known.
    #[error("its agent answers {0}")]
    Unclear(String),
}

impl Order {
    async fn give(&self, credentials: &str) -> Result<State, Trouble> {
        let agent = self.agent.ok_or(Trouble::Nowhere)?;
        let method = if self.raise {
            Method::PUT
        } else {
            Method::DELETE
        };
        let answer = tokio::time::timeout(DEADLINE, call(agent, method, credentials)).await;
        let waited = answer.is_err();
        let (status, body) = answer.ok().flatten().ok_or(Trouble::Silent { waited })?;
        Err(match status {
            StatusCode::OK => {
                return serde_json::from_slice(&body)
                    .map_err(|_| Trouble::Unclear("in another language".to_owned()));
            }
            // The second when others show a wrong one just now.
            StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS => {
                Trouble::Refused("refuses the password")
            }
            StatusCode::NOT_FOUND => {
                Trouble::Refused("is too old for that: delete the pod, and a newer one comes")
            }
            _ => Trouble::Unclear(status.as_u16().to_string()),
        })
    }
}

/// Orders that were not carried out when they were given last, by pod.
#[derive(Debug, Default)]
pub struct Pending(BTreeMap<String, (Order, Trouble, Instant)>);

impl Pending {
    fn of(&self, order: &Order) -> Option<&(Order, Trouble, Instant)> {
        self.0.get(&order.pod).filter(|(last, ..)| last == order)
    }

    fn refused(&self, order: &Order) -> bool {
        self.of(order)
            .is_some_and(|(_, why, _)| matches!(why, Trouble::Refused(_)))
    }

    /// The answer that need not be waited for again so soon.
    fn recent(&self, order: &Order) -> Option<Trouble> {
        let (_, why, at) = self.of(order)?;
        let is_dear = *why == Trouble::Silent { waited: true };
        (is_dear && at.elapsed() < AGAIN).then(|| why.clone())
    }

    fn note(&mut self, order: &Order, trouble: Option<&Trouble>) {
        match trouble {
            // It was not asked again.
            Some(_) if self.recent(order).is_some() => {}
            Some(why) => {
                let entry = (order.clone(), why.clone(), Instant::now());
                self.0.insert(order.pod.clone(), entry);
            }
            None => {
                self.0.remove(&order.pod);
            }
        }
    }
}

async fn call(agent: SocketAddr, method: Method, credentials: &str) -> Option<(StatusCode, Bytes)> {
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{agent}{}", fence::PATH))
        .header(fence::HEADER, credentials)
        .body(Empty::<Bytes>::new())
        .ok()?;
    let client = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build(HttpConnector::new());
    let response = client.request(request).await.ok()?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LONGEST_ANSWER);
    Some((status, body.collect().await.ok()?.to_bytes()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reconcile::fixture::{formed, nothing, resource, valid, world};

    fn wanted_of(value: &str, observed: &Observed) -> Wanted {
        let mut cluster = resource(json!({"shards": 2}));
        let annotation = (fence::ANNOTATION.to_owned(), value.to_owned());
        cluster.metadata.annotations = Some([annotation].into());
        wanted(&cluster, observed)
    }

    #[test]
    fn names_are_places_or_pods_and_the_others_are_told() {
        let places = "quickstart-shard-1-0 , quickstart-shard-0-1";
        let sorted = ["quickstart-shard-0-1", "quickstart-shard-1-0"];
        let found = wanted_of(places, &nothing());
        assert!(found.pods.iter().eq(sorted.iter()));
        assert_eq!(found.unknown, None);

        for stranger in [
            "quickstart-shard-2-0",
            "quickstart-shard-0-2",
            "quickstart-shard-00-1",
            "quickstart-shard-0",
            "other-shard-0-0",
            "quick\u{e4}tart-shard-0-0",
            "*",
        ] {
            let found = wanted_of(stranger, &nothing());
            assert!(found.pods.is_empty(), "{stranger}");
            assert!(found.unknown.unwrap().ends_with(stranger));
        }
        // One whose place is on its way out is still there.
        let third = wanted_of("quickstart-shard-2-0", &world(formed(3, 1).world()));
        assert_eq!(third.pods.len(), 1);
        let many = wanted_of("a,b,c,d,e", &nothing()).unknown.unwrap();
        assert!(many.ends_with("a, b, c and 2 more"), "{many}");
        assert_eq!(wanted_of(" ,", &nothing()), Wanted::default());
    }

    #[test]
    fn a_fence_may_outlive_its_pod_on_a_volume_only() {
        let pod = "quickstart-shard-0-1";
        let outlives = |spec, pod: &str| may_keep_a_fence(&valid(spec), pod, false);
        assert!(!outlives(json!({}), pod));
        assert!(may_keep_a_fence(&valid(json!({})), pod, true));
        let kept = json!({"size": "1Gi"});
        assert!(outlives(json!({"storage": kept, "replicas": 0}), pod));
        let gone = json!({"size": "1Gi", "onDelete": "Delete"});
        assert!(outlives(json!({"storage": gone}), pod));
        assert!(!outlives(json!({"storage": gone, "replicas": 0}), pod));
    }
}
