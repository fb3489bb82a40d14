//! Asks agents what nobody else can see of their pods: room on the volume, and servers that were killed for want of memory.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cachecluster_contract::ports;
use cachecluster_contract::report::Report;
use cachecluster_topology::{Member, NodeView, Presence};
use futures::StreamExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::build::statefulset::CONTAINER;
use super::observe::Observed;
use super::pods::OOM_MEMORY;
use crate::agents::{self, Asking};

/// Time between two questions to one agent, however often passes are made.
const PERIOD: Duration = Duration::from_secs(10);
/// How long an agent may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// How many are asked at the same time.
const SIDE_BY_SIDE: usize = 64;
/// A server that runs for so much shorter than its container was not the first one there.
const LATER: SignedDuration = SignedDuration::from_secs(5);

/// What each agent said last, by the UID of its pod.
#[derive(Default)]
pub struct Reports(BTreeMap<String, Heard>);

struct Heard {
    asked: Instant,
    report: Report,
}

impl Reports {
    /// Asks the agents from which there may be something to hear. What each said last, by the name of its pod: one that does
    /// not answer is believed to be as it was.
    pub async fn ask(
        &mut self,
        observed: &Observed,
        storage: bool,
        now: Timestamp,
    ) -> BTreeMap<String, Report> {
        let uids: BTreeMap<&str, &str> = observed
            .redis_pods
            .iter()
            .filter_map(|pod| Some((pod.metadata.name.as_deref()?, pod.metadata.uid.as_deref()?)))
            .collect();
        self.0.retain(|uid, _| uids.values().any(|it| it == uid));
        let asked: Vec<(&str, SocketAddr)> = observed
            .members
            .iter()
            .filter_map(|member| {
                let uid = *uids.get(member.name.as_str())?;
                let recent = self
                    .0
                    .get(uid)
                    .is_some_and(|it| it.asked.elapsed() < PERIOD);
                let pod = observed
                    .redis_pods
                    .iter()
                    .find(|pod| name(pod) == member.name)?;
                let wanted = !recent && is_wanted(member, pod, storage, now);
                Some((uid, agent(member).filter(|_| wanted)?))
            })
            .collect();
        let client: Asking = Client::builder(TokioExecutor::new())
            // The next question comes after a while, and perhaps to others.
            .pool_max_idle_per_host(0)
            .build_http();
        let answers: Vec<_> = futures::stream::iter(asked)
            .map(|(uid, addr)| {
                let client = &client;
                async move { (uid, get(client, addr).await) }
            })
            .buffer_unordered(SIDE_BY_SIDE)
            .collect()
            .await;
        for (uid, answer) in answers {
            let heard = self.0.entry(uid.to_owned()).or_insert_with(|| Heard {
                asked: Instant::now(),
                report: Report::default(),
            });
            heard.asked = Instant::now();
            if let Some(report) = answer {
                heard.report = report;
            }
        }
        uids.into_iter()
            .filter_map(|(name, uid)| Some((name.to_owned(), self.0.get(uid)?.report.clone())))
            .collect()
    }
}

/// The agents that run, by the UIDs of their pods.
pub fn agents(observed: &Observed) -> BTreeMap<String, SocketAddr> {
    let of = |pod: &Arc<Pod>| {
        let uid = pod.metadata.uid.clone()?;
        let mut members = observed.members.iter();
        let member = members.find(|member| member.name == name(pod))?;
        Some((uid, agent(member)?))
    };
    observed.redis_pods.iter().filter_map(of).collect()
}

fn name(pod: &Arc<Pod>) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// Where the agent of a member is, if its container runs.
fn agent(member: &Member) -> Option<SocketAddr> {
    let (ip, _): (IpAddr, u16) = member.addr?;
    (member.presence == Presence::Running).then(|| SocketAddr::new(ip, ports::AGENT))
}

/// Whether there may be something to hear: of a volume always; else of a server that failed at a save or was started
/// again, which the operator sees for itself.
fn is_wanted(member: &Member, pod: &Pod, storage: bool, now: Timestamp) -> bool {
    storage
        || member
            .view()
            .is_some_and(|view| view.failed_saves.any() || was_restarted(view, pod, now))
}

/// Whether the server was started lately, and later than its container.
fn was_restarted(view: &NodeView, pod: &Pod, now: Timestamp) -> bool {
    let lived = i64::try_from(view.uptime_seconds).unwrap_or(i64::MAX);
    let lived = SignedDuration::from_secs(lived);
    let status = pod.status.as_ref();
    let mut containers = status
        .and_then(|status| status.container_statuses.as_ref())
        .into_iter()
        .flatten();
    let started = containers
        .find(|container| container.name == CONTAINER)
        .and_then(|container| {
            container
                .state
                .as_ref()?
                .running
                .as_ref()?
                .started_at
                .as_ref()
        });
    started.is_some_and(|started| {
        let age = now.duration_since(started.0);
        lived < OOM_MEMORY && age.saturating_sub(lived) > LATER
    })
}

async fn get(client: &Asking, addr: SocketAddr) -> Option<Report> {
    agents::get(client, addr, ports::REPORT_PATH, PATIENCE).await
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing;
    use cachecluster_topology::{Probe, sim::Sim};
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;

    fn pod(started: &str) -> Pod {
        let running = json!({"running": {"startedAt": started}});
        serde_json::from_value(json!({
            "metadata": {"name": "quickstart-shard-0-0", "uid": "1"},
            "status": {"containerStatuses": [{
                "name": "redis", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": running,
            }]},
        }))
        .unwrap()
    }

    #[test]
    fn without_storage_only_a_server_in_trouble_is_asked_about() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let mut member = Sim::new(1, 0).world().members.remove(0);
        let mut with = |uptime: u64, failing: bool| {
            let Probe::Answered(view) = &mut member.probe else {
                panic!("it answers");
            };
            view.uptime_seconds = uptime;
            view.failed_saves.snapshot = failing;
            member.clone()
        };
        let (early, late) = (pod("2026-01-01T00:00:00Z"), pod("2026-01-01T00:59:00Z"));
        assert!(!is_wanted(&with(3598, false), &early, false, now));
        assert!(!is_wanted(&with(58, false), &late, false, now));
        assert!(
            is_wanted(&with(58, false), &early, false, now),
            "it is not the first"
        );
        assert!(
            !is_wanted(&with(1000, false), &early, false, now),
            "that was long ago"
        );
        assert!(is_wanted(&with(3598, true), &early, false, now));
        assert!(is_wanted(&with(3598, false), &early, true, now));
    }

    #[tokio::test]
    async fn a_report_is_what_the_agent_says() {
        let answer = || async { r#"{"volume":{"size":100,"free":1},"oomKills":2}"# };
        let router = Router::new().route(ports::REPORT_PATH, routing::get(answer));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move { axum::serve(listener, router).await });
        let client: Asking = Client::builder(TokioExecutor::new()).build_http();
        let report = get(&client, addr).await.unwrap();
        assert_eq!(report.volume.unwrap().percent(), 99);
        assert_eq!(report.oom_kills, 2);
        serving.abort();
        let _ = serving.await;
        assert_eq!(get(&client, addr).await, None);
    }
}
