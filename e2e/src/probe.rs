//! Probers as pods.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use cachecluster_contract::{labels, names, paths};
use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, LogParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::cluster::Ctx;
use crate::prober::report::{ContractReport, KeysReport, RedisReport, STARTED};

/// How long a pod may take from its creation to its first line.
const START: Duration = Duration::from_secs(60);

/// On which nodes a prober may run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Place<'a> {
    /// On any.
    #[default]
    Anywhere,
    /// On any but those named.
    AwayFrom(&'a [String]),
    /// On the one named.
    On(&'a str),
}

/// A prober that runs as a pod.
pub(crate) struct Probe<'a> {
    ctx: &'a Ctx,
    name: String,
}

impl Ctx {
    /// Starts a prober with these arguments.
    ///
    /// # Errors
    /// When the pod is refused.
    pub(crate) async fn probe(&self, args: &[&str]) -> Result<Probe<'_>> {
        self.probe_as(args, None, Place::Anywhere).await
    }

    /// Starts a checker of acknowledged writes that is a Redis Cluster client of this cluster; `more` are further
    /// arguments of `prober redis-writer`.
    ///
    /// # Errors
    /// When the pod is refused.
    pub(crate) async fn redis_writer(
        &self,
        cluster: &str,
        more: &[&str],
        place: Place<'_>,
    ) -> Result<Probe<'_>> {
        let url = self.redis_url(names::redis(cluster));
        let mut args = vec![
            "redis-writer",
            "--url",
            &url,
            "--password-file",
            paths::PASSWORD_FILE,
        ];
        args.extend(more);
        self.probe_as(&args, Some(cluster), place).await
    }

    fn redis_url(&self, service: String) -> String {
        format!("redis://{service}.{}.svc:6379", self.namespace)
    }

    /// Starts a prober; with a cluster's name, one that is a Redis client of it: it has the password as a file and the
    /// labels that the cluster's network policy lets in.
    ///
    /// # Errors
    /// When the pod is refused.
    pub(crate) async fn probe_as(
        &self,
        args: &[&str],
        cluster: Option<&str>,
        place: Place<'_>,
    ) -> Result<Probe<'_>> {
        let number = self.probes.fetch_add(1, Ordering::Relaxed);
        let what = args.first().copied().unwrap_or("prober");
        let name = format!("probe-{number}-{what}");
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {labels::NAME: "cachecluster-prober"}},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "activeDeadlineSeconds": 600,
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                // Two questions from one port (for both kinds of addresses) race in the kernel's connection tracking,
                // and an answer that is lost so costs the resolver five seconds, which no cache has made.
                "dnsConfig": {"options": [{"name": "single-request-reopen"}, {"name": "timeout", "value": "1"}]},
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{
                    "name": "prober",
                    "image": self.settings.prober_image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["/cachecluster-e2e", "prober"],
                    "args": args,
                    "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "256Mi"}},
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }],
            },
        });
        if let Some(cluster) = cluster {
            pod["metadata"]["labels"] = json!({
                labels::NAME: labels::NAME_VALUE,
                labels::INSTANCE: cluster,
                labels::COMPONENT: "prober",
            });
            let secret = json!({"secretName": names::auth(cluster), "defaultMode": 0o440});
            pod["spec"]["volumes"] = json!([{"name": "auth", "secret": secret}]);
            pod["spec"]["containers"][0]["volumeMounts"] =
                json!([{"name": "auth", "mountPath": paths::AUTH_DIR, "readOnly": true}]);
        }
        let (operator, nodes): (_, Vec<&str>) = match place {
            Place::Anywhere => ("NotIn", Vec::new()),
            Place::AwayFrom(nodes) => ("NotIn", nodes.iter().map(String::as_str).collect()),
            Place::On(node) => ("In", vec![node]),
        };
        if !nodes.is_empty() {
            // A field's requirement takes one value.
            let fields: Vec<_> = nodes
                .iter()
                .map(|node| json!({"key": "metadata.name", "operator": operator, "values": [node]}))
                .collect();
            pod["spec"]["affinity"]["nodeAffinity"] = json!({
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchFields": fields}],
                },
            });
        }
        let pod: Pod = serde_json::from_value(pod).context("the prober's pod")?;
        self.api::<Pod>()
            .create(&PostParams::default(), &pod)
            .await
            .with_context(|| format!("creating the pod {name}"))?;
        Ok(Probe { ctx: self, name })
    }

    /// Runs a prober to its end.
    ///
    /// # Errors
    /// When it cannot do its work, or is not done within `limit`.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        args: &[&str],
        limit: Duration,
    ) -> Result<T> {
        self.probe(args).await?.report(limit).await
    }

    /// The whole HTTP contract at a cluster's Service: the number of statements that held.
    ///
    /// # Errors
    /// When one did not.
    pub(crate) async fn contract(&self, cluster: &str) -> Result<u64> {
        let url = self.url(cluster);
        let report: ContractReport = self
            .ask(&["contract", "--url", &url], Duration::from_secs(120))
            .await?;
        if !report.failures.is_empty() {
            bail!("the contract: {}", report.failures.join("\n"));
        }
        Ok(report.passed as u64)
    }

    /// Writes numbered keys, all of which must be taken.
    ///
    /// # Errors
    /// When one is not.
    pub(crate) async fn write_keys(&self, cluster: &str, count: u64) -> Result<()> {
        self.write_keys_from(Place::Anywhere, cluster, count).await
    }

    /// The same, from a client in a place.
    ///
    /// # Errors
    /// When one is not.
    pub(crate) async fn write_keys_from(
        &self,
        place: Place<'_>,
        cluster: &str,
        count: u64,
    ) -> Result<()> {
        let report = self.keys(cluster, "write", count, place).await?;
        if report.present != count {
            bail!("writing {count} keys to {cluster}: {report:?}");
        }
        Ok(())
    }

    /// Looks for numbered keys.
    ///
    /// # Errors
    /// When a key has another value or there is no answer.
    pub(crate) async fn read_keys(&self, cluster: &str, count: u64) -> Result<KeysReport> {
        let report = self.keys(cluster, "read", count, Place::Anywhere).await?;
        if report.other != 0 {
            bail!("reading {count} keys of {cluster}: {report:?}");
        }
        Ok(report)
    }

    async fn keys(
        &self,
        cluster: &str,
        action: &str,
        count: u64,
        place: Place<'_>,
    ) -> Result<KeysReport> {
        let (url, count) = (self.url(cluster), count.to_string());
        let args = ["keys", action, "--url", &url, "--count", &count];
        let probe = self.probe_as(&args, None, place).await?;
        probe.report(Duration::from_secs(90)).await
    }

    /// Plain Redis clients at a cluster's Services; `primary` asks the Service to the one primary too.
    ///
    /// # Errors
    /// When something is not as promised.
    pub(crate) async fn redis_check(&self, cluster: &str, primary: bool) -> Result<RedisReport> {
        let redis = self.redis_url(names::redis(cluster));
        let primary_url = self.redis_url(names::primary(cluster));
        let mut args = vec![
            "redis-check",
            "--url",
            &redis,
            "--password-file",
            paths::PASSWORD_FILE,
        ];
        if primary {
            args.extend(["--primary-url", &primary_url]);
        }
        let probe = self.probe_as(&args, Some(cluster), Place::Anywhere).await?;
        let report: RedisReport = probe.report(Duration::from_secs(60)).await?;
        if !report.failures.is_empty() {
            bail!("Redis clients of {cluster}: {}", report.failures.join("\n"));
        }
        Ok(report)
    }
}

impl Probe<'_> {
    /// Waits until its first requests are on their way.
    ///
    /// # Errors
    /// When it ends or hangs before that.
    pub(crate) async fn started(&self) -> Result<()> {
        self.ctx.when(&self.name, START, has_run).await?;
        let watching = async {
            let params = LogParams {
                follow: true,
                ..LogParams::default()
            };
            let mut lines = self
                .ctx
                .api::<Pod>()
                .log_stream(&self.name, &params)
                .await?
                .lines();
            let mut last = String::new();
            while let Some(line) = lines.try_next().await? {
                if line.contains(STARTED) {
                    return Ok(());
                }
                last = line;
            }
            Err(anyhow!("{} ended without a request: {last}", self.name))
        };
        tokio::time::timeout(START, watching)
            .await
            .with_context(|| format!("{} sent nothing within {START:?}", self.name))?
    }

    /// Waits for its end, reads its report, and removes the pod.
    ///
    /// # Errors
    /// When it is not done within `limit`, or ended without a report.
    pub(crate) async fn report<T: DeserializeOwned>(self, limit: Duration) -> Result<T> {
        self.ctx
            .when(&self.name, limit, has_ended)
            .await
            .with_context(|| format!("the prober {}", self.name))?;
        let api = self.ctx.api::<Pod>();
        let log = api.logs(&self.name, &LogParams::default()).await?;
        let report = log
            .lines()
            .rev()
            .find_map(|line| serde_json::from_str::<T>(line).ok())
            .ok_or_else(|| anyhow!("{} reported nothing: {}", self.name, log.trim_end()))?;
        let now = DeleteParams::default().grace_period(0);
        api.delete(&self.name, &now)
            .await
            .with_context(|| format!("removing the pod {}", self.name))?;
        Ok(report)
    }
}

fn phase(pod: Option<&Pod>) -> Option<&str> {
    pod?.status.as_ref()?.phase.as_deref()
}

fn has_run(pod: Option<&Pod>) -> bool {
    matches!(phase(pod), Some("Running" | "Succeeded" | "Failed"))
}

fn has_ended(pod: Option<&Pod>) -> bool {
    matches!(phase(pod), Some("Succeeded" | "Failed"))
}
