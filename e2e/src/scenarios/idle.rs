//! A cluster that nobody uses.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cachecluster_contract::{labels, ports};
use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt;
use kube::api::ListParams;

use super::{Scenario, Turn};
use crate::cluster::{Ctx, small};
use crate::figure::Figure;
use crate::metrics::{fetch, of_pod, samples};
use crate::objects::{Mark, Snapshot, changes};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "idle",
        Turn::First,
        "an idle cluster costs no write to the API server, and little memory and time",
        |ctx| Box::pin(idle(ctx)),
    )]
}

async fn idle(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready("quiet", small(3, 1)).await?;
    let before = settled(ctx).await?;
    let start = Meter::read(ctx).await?;
    tokio::time::sleep(ctx.settings.idle).await;
    let end = Meter::read(ctx).await?;
    let after = snapshot(ctx).await?;

    let written = changes(&before, &after);
    ensure!(
        written.is_empty(),
        "objects changed while idle: {written:?}"
    );
    let writes = grown(&start.server_writes, &end.server_writes);
    ensure!(
        writes.is_empty(),
        "the API server counted writes: {writes:?}"
    );
    // Another process would begin to count anew, and hide what the former one wrote.
    ensure!(
        start.operators.keys().eq(end.operators.keys()),
        "operator pods came or went while idle"
    );
    let own = end.sum(|operator| operator.writes) - start.sum(|operator| operator.writes);
    ensure!(own == 0.0, "the operator counted {own} writes of its own");

    let minutes = ctx.settings.idle.as_secs_f64() / 60.0;
    let cpu = end.sum(|operator| operator.cpu_seconds) - start.sum(|o| o.cpu_seconds);
    let requests = end.sum(|operator| operator.requests) - start.sum(|o| o.requests);
    let seen = end.requests - start.requests;
    let mut figures = vec![
        Figure::seconds("watched for", ctx.settings.idle),
        Figure::number("API-server writes", own, "").never_above(0.0),
        Figure::number("API-server requests a minute", requests / minutes, "").never_above(10.0),
        Figure::number("with watches and leases", seen / minutes, ""),
        Figure::number("operator CPU a minute", cpu / minutes, "s").at_most(0.2),
    ];
    figures.extend(memory(ctx).await?);
    Ok(figures)
}

/// Every object of the namespace, pods and events among them.
async fn snapshot(ctx: &Ctx) -> Result<Snapshot> {
    let mut snapshot = ctx.kinds.snapshot(&ctx.client, &ctx.namespace, "").await?;
    let events = ctx
        .api::<Event>()
        .list_metadata(&ListParams::default())
        .await
        .context("listing events")?;
    for event in events {
        snapshot.insert(format!("Event/{}", event.name_any()), Mark::of(&event));
    }
    Ok(snapshot)
}

/// Waits until nothing was written for some seconds: kubelets and controllers finish after Ready.
async fn settled(ctx: &Ctx) -> Result<Snapshot> {
    let until = Instant::now() + Duration::from_secs(60);
    let mut last = snapshot(ctx).await?;
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_secs(6) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = snapshot(ctx).await?;
        let changed = changes(&last, &now);
        if !changed.is_empty() {
            ensure!(
                Instant::now() < until,
                "the cluster does not come to rest: {changed:?}"
            );
            since = Instant::now();
            last = now;
        }
    }
    Ok(last)
}

/// Counters at one moment.
struct Meter {
    /// Writes that only the operator makes, as the API server counted them.
    server_writes: BTreeMap<String, f64>,
    /// Requests of service accounts outside of kube-system, as the API server counted them. Where nothing else is
    /// installed these are the operator's, its watches and its lease's among them.
    requests: f64,
    /// What each of the operator's processes counted, by its pod's uid.
    operators: BTreeMap<String, Operator>,
}

/// What a process of the operator counted.
struct Operator {
    /// Writes to the API server: of the resource, its children, pods and Secrets.
    writes: f64,
    /// Requests to the API server besides watches and the lease.
    requests: f64,
    /// CPU time.
    cpu_seconds: f64,
}

impl Meter {
    async fn read(ctx: &Ctx) -> Result<Self> {
        let text = fetch(&ctx.client, "/metrics").await?;
        let mut operators = BTreeMap::new();
        let namespace = &ctx.settings.operator_namespace;
        for pod in ctx.operator_pods().await? {
            let port = ports::OPERATOR_ADMIN;
            let text = of_pod(&ctx.client, namespace, &pod.name_any(), port).await?;
            // The writes of each kind of object appear with the first.
            let writes = samples(&text, "cachecluster_operator_api_writes_total");
            let operator = Operator {
                writes: writes.iter().map(|sample| sample.value).sum(),
                requests: requests(&text),
                cpu_seconds: total(&text, "process_cpu_seconds_total")
                    .with_context(|| pod.name_any())?,
            };
            operators.insert(pod.uid().unwrap_or_default(), operator);
        }
        ensure!(
            operators
                .values()
                .any(|operator: &Operator| operator.requests > 0.0),
            "no operator pod tells of a request, though a cluster was made"
        );
        Ok(Self {
            server_writes: server_writes(&text),
            requests: service_account_requests(&text)?,
            operators,
        })
    }

    fn sum(&self, of: impl Fn(&Operator) -> f64) -> f64 {
        self.operators.values().map(of).sum()
    }
}

fn server_writes(text: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for sample in samples(text, "apiserver_request_total") {
        let (verb, resource) = (sample.label("verb"), sample.label("resource"));
        let write = match verb {
            // Of all that runs in a plain cluster, only the operator applies on the server's side. Its lease is renewed
            // all the time, as every controller's is.
            "APPLY" => resource != "leases",
            // Kubelets and controllers patch only parts of pods, such as the status.
            "PATCH" if resource == "pods" => sample.label("subresource").is_empty(),
            "POST" | "PUT" | "PATCH" | "DELETE" => {
                resource == "secrets" || sample.label("group") == "cachecluster.io"
            }
            _ => false,
        };
        if write {
            *found.entry(format!("{verb} {resource}")).or_default() += sample.value;
        }
    }
    found
}

/// How many requests the operator counted, besides watches; its lease's are not among them. A replica that has never
/// led has made none.
fn requests(text: &str) -> f64 {
    samples(text, "cachecluster_operator_api_requests_total")
        .iter()
        .filter(|sample| sample.label("verb") != "watch")
        .map(|sample| sample.value)
        .sum()
}

/// How many requests of ordinary service accounts the API server let in.
fn service_account_requests(text: &str) -> Result<f64> {
    let metric = "apiserver_flowcontrol_dispatched_requests_total";
    let ours: Vec<f64> = samples(text, metric)
        .iter()
        .filter(|sample| sample.label("flow_schema") == "service-accounts")
        .map(|sample| sample.value)
        .collect();
    ensure!(
        !ours.is_empty(),
        "the API server does not tell {metric} of service accounts"
    );
    Ok(ours.iter().sum())
}

/// The sum of a metric that must be there.
fn total(text: &str, metric: &str) -> Result<f64> {
    let found = samples(text, metric);
    ensure!(!found.is_empty(), "{metric} is not told");
    Ok(found.iter().map(|sample| sample.value).sum())
}

fn grown(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> Vec<String> {
    after
        .iter()
        .map(|(name, value)| (name, value - before.get(name).copied().unwrap_or_default()))
        .filter(|(_, more)| *more > 0.0)
        .map(|(name, more)| format!("{name}: {more}"))
        .collect()
}

/// Resident memory of each part, the largest of its pods, as their processes tell it. A process that does not is an error.
async fn memory(ctx: &Ctx) -> Result<Vec<Figure>> {
    let api = ctx.pods("quiet", labels::COMPONENT_API).await?;
    let redis = ctx.pods("quiet", labels::COMPONENT_REDIS).await?;
    let operator = ctx.operator_pods().await?;
    let system = ctx.settings.operator_namespace.as_str();
    let own = ctx.namespace.as_str();
    let mut figures = Vec::new();
    for (name, namespace, pods, port, bound) in [
        (
            "operator RSS",
            system,
            &operator,
            ports::OPERATOR_ADMIN,
            40.0,
        ),
        ("API RSS", own, &api, ports::API_ADMIN, 20.0),
        ("agent RSS", own, &redis, ports::AGENT, 8.0),
    ] {
        ensure!(!pods.is_empty(), "there are no pods for {name}");
        let mut largest: u64 = 0;
        for pod in pods {
            let text = of_pod(&ctx.client, namespace, &pod.name_any(), port).await?;
            let bytes = total(&text, "process_resident_memory_bytes")
                .with_context(|| format!("{name} of {}", pod.name_any()))?;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let bytes = bytes as u64;
            ensure!(bytes > 0, "{name} of {} is nothing", pod.name_any());
            largest = largest.max(bytes);
        }
        figures.push(Figure::mebibytes(name, largest).never_above(bound));
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"apiserver_request_total{group="",resource="pods",subresource="",verb="PATCH"} 1
apiserver_request_total{group="",resource="pods",subresource="status",verb="PATCH"} 2
apiserver_request_total{group="",resource="secrets",subresource="",verb="POST"} 3
apiserver_request_total{group="apps",resource="statefulsets",subresource="",verb="APPLY"} 4
apiserver_request_total{group="coordination.k8s.io",resource="leases",subresource="",verb="APPLY"} 5
apiserver_request_total{group="cachecluster.io",resource="cacheclusters",subresource="status",verb="PATCH"} 6
apiserver_request_total{group="cachecluster.io",resource="cacheclusters",subresource="",verb="GET"} 7
apiserver_flowcontrol_dispatched_requests_total{flow_schema="service-accounts",priority_level="workload-low"} 8
apiserver_flowcontrol_dispatched_requests_total{flow_schema="exempt",priority_level="exempt"} 9
"#;

    #[test]
    fn what_the_operator_writes_counts_and_nothing_else() {
        let found: Vec<_> = server_writes(TEXT).into_iter().collect();
        let wanted = [
            ("APPLY statefulsets", 4.0),
            ("PATCH cacheclusters", 6.0),
            ("PATCH pods", 1.0),
            ("POST secrets", 3.0),
        ];
        assert_eq!(found, wanted.map(|(name, count)| (name.to_owned(), count)));
    }

    #[test]
    fn watches_are_no_requests() {
        let text = r#"cachecluster_operator_api_requests_total{verb="watch",resource="pods"} 9
cachecluster_operator_api_requests_total{verb="get",resource="secrets"} 2
cachecluster_operator_api_requests_total{verb="patch",resource="cacheclusters"} 3
"#;
        assert_eq!(requests(text), 5.0);
    }

    #[test]
    fn a_figure_that_is_missing_is_an_error() {
        assert_eq!(service_account_requests(TEXT).unwrap(), 8.0);
        assert!(service_account_requests("").is_err());
        assert!(total("process_cpu_seconds_total 1.5", "process_cpu_seconds_total").is_ok());
        assert!(total("", "process_cpu_seconds_total").is_err());
    }
}
