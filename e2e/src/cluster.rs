//! What a scenario works with: a namespace of its own on the cluster, and the things users do in it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cachecluster_contract::{labels, paths};
use cachecluster_crd::{CacheCluster, conditions};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
};
use kube::runtime::wait::{Condition, await_condition};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::command::Target;
use crate::objects::Kinds;

/// What holds for the whole run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Which cluster.
    pub(crate) target: Target,
    /// Image of the prober.
    pub(crate) prober_image: String,
    /// Engines to try, the default one first.
    pub(crate) engine_images: Vec<String>,
    /// Namespace of the operator's Helm release.
    pub(crate) operator_namespace: String,
    /// Name of that release.
    pub(crate) release: String,
    /// The chart's directory.
    pub(crate) chart: PathBuf,
    /// The kustomizations' directory.
    pub(crate) manifests: PathBuf,
    /// How long the idle cluster is watched.
    pub(crate) idle: Duration,
    /// The testbed's command, if the cluster is one.
    pub(crate) testbed: Option<PathBuf>,
}

/// How long a small cluster may take to become ready on a busy machine.
pub(crate) const READY: Duration = Duration::from_secs(120);
/// How long a `kubectl` command may take that waits for nothing.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// What one scenario works with.
#[derive(Clone)]
pub(crate) struct Ctx {
    /// A client of the API server.
    pub(crate) client: Client,
    /// The scenario's own namespace.
    pub(crate) namespace: String,
    /// What holds for the whole run.
    pub(crate) settings: Arc<Settings>,
    /// The kinds of objects that there are.
    pub(crate) kinds: Arc<Kinds>,
    /// Numbers the probes.
    pub(crate) probes: Arc<AtomicU32>,
}

impl Ctx {
    /// Objects of a kind in the scenario's namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// CacheClusters as users write them, without the defaults that our types would fill in.
    fn raw(&self) -> Api<DynamicObject> {
        let kind = ApiResource::erase::<CacheCluster>(&());
        Api::namespaced_with(self.client.clone(), &self.namespace, &kind)
    }

    /// Creates a CacheCluster with exactly this spec. `dry_run` asks the API server only what it would say.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub(crate) async fn create_or_ask(&self, name: &str, spec: Value, dry_run: bool) -> Result<()> {
        let kind = ApiResource::erase::<CacheCluster>(&());
        let mut object = DynamicObject::new(name, &kind);
        object.data = json!({"spec": spec});
        let params = PostParams {
            dry_run,
            ..PostParams::default()
        };
        self.raw()
            .create(&params, &object)
            .await
            .with_context(|| format!("creating the CacheCluster {name}"))?;
        Ok(())
    }

    /// Creates a CacheCluster with exactly this spec.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub(crate) async fn create(&self, name: &str, spec: Value) -> Result<()> {
        self.create_or_ask(name, spec, false).await
    }

    /// Creates a CacheCluster and waits until it is ready: how long that took.
    ///
    /// # Errors
    /// When it is refused or not ready in time.
    pub(crate) async fn create_ready(&self, name: &str, spec: Value) -> Result<Duration> {
        let start = Instant::now();
        self.create(name, spec).await?;
        self.ready(name, READY).await?;
        Ok(start.elapsed())
    }

    /// Changes fields of a CacheCluster's spec.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub(crate) async fn change(&self, name: &str, spec: Value) -> Result<()> {
        self.raw()
            .patch(
                name,
                &PatchParams::default(),
                &Patch::Merge(json!({"spec": spec})),
            )
            .await
            .with_context(|| format!("changing the CacheCluster {name}"))?;
        Ok(())
    }

    /// Waits until the CacheCluster's condition Ready is true for its present generation.
    ///
    /// # Errors
    /// When that does not happen within `limit`; the message has the conditions then.
    pub(crate) async fn ready(&self, name: &str, limit: Duration) -> Result<CacheCluster> {
        self.cluster_when(name, "is ready", limit, is_ready).await
    }

    /// Waits until something holds for a CacheCluster.
    ///
    /// # Errors
    /// When that does not happen within `limit`; the message has the status then.
    pub(crate) async fn cluster_when(
        &self,
        name: &str,
        what: &str,
        limit: Duration,
        holds: impl Fn(&CacheCluster) -> bool + Send + Sync,
    ) -> Result<CacheCluster> {
        let api = self.api::<CacheCluster>();
        let waited = self
            .when(name, limit, |cluster: Option<&CacheCluster>| {
                cluster.is_some_and(&holds)
            })
            .await;
        match waited {
            Ok(Some(cluster)) => Ok(cluster),
            Ok(None) => bail!("the CacheCluster {name} is gone"),
            Err(error) => {
                let status = api
                    .get_opt(name)
                    .await
                    .ok()
                    .flatten()
                    .and_then(|c| c.status);
                let status = serde_json::to_string(&status).unwrap_or_default();
                Err(error.context(format!(
                    "{name} {what}: not within {limit:?}; status {status}"
                )))
            }
        }
    }

    /// Waits, by a watch, until a condition holds for an object of the namespace.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub(crate) async fn when<K>(
        &self,
        name: &str,
        limit: Duration,
        condition: impl Condition<K>,
    ) -> Result<Option<K>>
    where
        K: Resource<Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + Send
            + DeserializeOwned
            + 'static,
        K::DynamicType: Default,
    {
        let kind = K::kind(&K::DynamicType::default()).into_owned();
        let waiting = await_condition(self.api::<K>(), name, condition);
        let object = tokio::time::timeout(limit, waiting)
            .await
            .with_context(|| format!("{kind} {name}: waited in vain for {limit:?}"))?
            .with_context(|| format!("watching {kind} {name}"))?;
        Ok(object)
    }

    /// Asks again and again until there is an answer: for what no single watch can see.
    ///
    /// # Errors
    /// When there is none within `limit`; the last error or `what` is in the message.
    pub(crate) async fn eventually<T>(
        &self,
        what: &str,
        limit: Duration,
        mut ask: impl AsyncFnMut() -> Result<T>,
    ) -> Result<T> {
        let until = Instant::now() + limit;
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) if Instant::now() >= until => {
                    return Err(error.context(format!("{what}: not within {limit:?}")));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
    }

    /// Deletes a CacheCluster and waits until the object itself is gone.
    ///
    /// # Errors
    /// When it is still there after a minute.
    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        self.api::<CacheCluster>()
            .delete(name, &DeleteParams::default())
            .await
            .with_context(|| format!("deleting the CacheCluster {name}"))?;
        self.when(
            name,
            Duration::from_secs(60),
            |cluster: Option<&CacheCluster>| cluster.is_none(),
        )
        .await?;
        Ok(())
    }

    /// Deletes a pod as `kubectl delete pod` does, and waits until another of its name is ready.
    ///
    /// # Errors
    /// When there is none within two minutes.
    pub(crate) async fn replace_pod(&self, name: &str) -> Result<()> {
        let api = self.api::<Pod>();
        let old = api.get(name).await?.uid().unwrap_or_default();
        api.delete(name, &DeleteParams::default()).await?;
        self.successor(name, &old).await
    }

    /// Waits until a pod of this name but with another uid is ready.
    ///
    /// # Errors
    /// When there is none within two minutes.
    pub(crate) async fn successor(&self, name: &str, old: &str) -> Result<()> {
        self.when(name, READY, |pod: Option<&Pod>| {
            pod.is_some_and(|pod| pod.uid().as_deref() != Some(old) && is_pod_ready(pod))
        })
        .await?;
        Ok(())
    }

    /// Pods of one part of a CacheCluster.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub(crate) async fn pods(&self, cluster: &str, component: &str) -> Result<Vec<Pod>> {
        let selector = format!(
            "{}={cluster},{}={component}",
            labels::INSTANCE,
            labels::COMPONENT
        );
        let list = self
            .api::<Pod>()
            .list(&ListParams::default().labels(&selector))
            .await
            .with_context(|| format!("listing pods of {cluster}"))?;
        Ok(list.items)
    }

    /// The uid of each Redis pod, by name.
    ///
    /// # Errors
    /// As [`Ctx::pods`].
    pub(crate) async fn redis_pods(&self, cluster: &str) -> Result<BTreeMap<String, String>> {
        let pods = self.pods(cluster, labels::COMPONENT_REDIS).await?;
        Ok(pods
            .iter()
            .map(|pod| (pod.name_any(), pod.uid().unwrap_or_default()))
            .collect())
    }

    /// Base URL of a CacheCluster's HTTP API inside the cluster.
    pub(crate) fn url(&self, cluster: &str) -> String {
        let (service, port) = (
            cachecluster_contract::names::api(cluster),
            cachecluster_contract::ports::API,
        );
        format!("http://{service}.{}.svc:{port}", self.namespace)
    }

    /// `kubectl` in the scenario's namespace.
    ///
    /// # Errors
    /// When it fails or takes longer than `limit`.
    pub(crate) async fn kubectl(&self, args: &[&str], limit: Duration) -> Result<String> {
        let args = [&["--namespace", self.namespace.as_str()], args].concat();
        self.settings.target.kubectl(&args, limit).await
    }

    /// Runs lines of shell in the container of a server, as its user, who can speak to it by `$cli`: what they print.
    ///
    /// # Errors
    /// When they fail, or the container does not run.
    pub(crate) async fn in_server(&self, pod: &str, lines: &str) -> Result<String> {
        self.kubectl(
            &Self::shell(pod, lines).each_ref().map(String::as_str),
            SOON,
        )
        .await
    }

    /// The words for `kubectl` that do so.
    pub(crate) fn shell(pod: &str, lines: &str) -> [String; 6] {
        let password = paths::PASSWORD_FILE;
        let lines = format!(
            "export REDISCLI_AUTH=\"$(cat {password})\"\n\
             cli=$(command -v valkey-cli || command -v redis-cli)\n{lines}"
        );
        ["exec", pod, "--", "sh", "-c", &lines].map(str::to_owned)
    }

    /// Waits until a condition of a CacheCluster has that status, and, where it is true, names `pod`.
    ///
    /// # Errors
    /// When it does not in time.
    pub(crate) async fn told(
        &self,
        cluster: &str,
        type_: &str,
        status: bool,
        pod: &str,
    ) -> Result<()> {
        let what = format!("says that {type_} is {status}");
        self.cluster_when(cluster, &what, READY, |cluster| {
            let mut conditions = cluster.status.iter().flat_map(|it| &it.conditions);
            conditions.any(|it| match status {
                _ if it.type_ != type_ => false,
                true => it.status == "True" && it.message.contains(pod),
                false => it.status == "False",
            })
        })
        .await?;
        Ok(())
    }

    /// Pods of the operator.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub(crate) async fn operator_pods(&self) -> Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.settings.operator_namespace);
        let list = api.list(&ListParams::default().labels(OPERATOR)).await;
        Ok(list.context("listing the operator's pods")?.items)
    }
}

/// Selects the operator's pods, however they were installed.
pub(crate) const OPERATOR: &str = "app.kubernetes.io/name=cachecluster-operator";

/// A small cluster: enough to prove a promise with.
pub(crate) fn small(shards: u32, replicas: u32) -> Value {
    json!({"shards": shards, "replicas": replicas, "memory": "64Mi"})
}

/// Whether Ready is true, for the spec as it is now.
pub(crate) fn is_ready(cluster: &CacheCluster) -> bool {
    let Some(status) = &cluster.status else {
        return false;
    };
    status.observed_generation == cluster.metadata.generation
        && status
            .conditions
            .iter()
            .any(|condition| condition.type_ == conditions::READY && condition.status == "True")
}

/// Whether Ready is true and each shard has so many replicas in sync.
pub(crate) fn is_whole(cluster: &CacheCluster, replicas: usize) -> bool {
    is_ready(cluster)
        && cluster.status.as_ref().is_some_and(|status| {
            status
                .shards
                .iter()
                .all(|shard| shard.primary.is_some() && shard.replicas.len() == replicas)
        })
}

/// Whether a pod is ready and not on its way out.
pub(crate) fn is_pod_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
