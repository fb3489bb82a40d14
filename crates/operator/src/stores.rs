//! What the watches keep in memory: a pass reads its objects from here and asks the API server for nothing.
//!
//! Only objects that carry the operator's label are watched (and the clusters themselves), managed fields are dropped,
//! and of Secrets only the metadata is kept.

use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use cachecluster_contract::labels;
use cachecluster_crd::CacheCluster;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryFutureExt};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

/// A cluster as it is watched: an object that cannot be read does not stall the others.
pub type Guarded = DeserializeGuard<CacheCluster>;

/// How the annotations begin with which users tell the operator something.
const ANNOTATIONS: &str = "cachecluster.io/";

/// One store for each watched kind.
#[derive(Clone)]
pub struct Stores {
    /// The clusters.
    pub clusters: Store<Guarded>,
    /// One for each shard.
    pub stateful_sets: Store<StatefulSet>,
    /// The HTTP APIs.
    pub deployments: Store<Deployment>,
    /// Pods of both.
    pub pods: Store<Pod>,
    /// All Services.
    pub services: Store<Service>,
    /// Settings of the agents.
    pub config_maps: Store<ConfigMap>,
    /// Generated passwords: that they exist, not what they are.
    pub secrets: Store<PartialObjectMeta<Secret>>,
    /// Identities of pods.
    pub service_accounts: Store<ServiceAccount>,
    /// Who may be evicted when.
    pub budgets: Store<PodDisruptionBudget>,
    /// Who may reach Redis.
    pub policies: Store<NetworkPolicy>,
}

/// Names the clusters that have to be looked at.
pub type Triggers = BoxStream<'static, Result<ObjectRef<Guarded>, watcher::Error>>;

/// A kind that is kept in [`Stores`] with all its fields.
pub trait Kept:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
    /// Its store.
    fn store(stores: &Stores) -> &Store<Self>;
}

macro_rules! kept {
    ($($kind:ty: $field:ident),* $(,)?) => {$(
        impl Kept for $kind {
            fn store(stores: &Stores) -> &Store<Self> {
                &stores.$field
            }
        }
    )*};
}

kept! {
    StatefulSet: stateful_sets,
    Deployment: deployments,
    Pod: pods,
    Service: services,
    ConfigMap: config_maps,
    ServiceAccount: service_accounts,
    PodDisruptionBudget: budgets,
    NetworkPolicy: policies,
}

impl Stores {
    /// Watches one namespace, or all. The stores fill while the triggers are polled.
    #[must_use]
    pub fn watch(client: &Client, namespace: Option<&str>) -> (Self, Triggers) {
        let (clusters, writer) = store();
        // A cluster's own status is written by nobody but us: its changes are no reason for a pass.
        let changed = watcher(
            api::<Guarded>(client, namespace),
            watcher::Config::default(),
        )
        .default_backoff()
        .modify(slim)
        .reflect(writer)
        .touched_objects()
        .predicate_filter(wish, kube::runtime::PredicateConfig::default())
        .map(|cluster| cluster.map(|cluster| ObjectRef::from_obj(&cluster)))
        .boxed();
        let (stateful_sets, a) = children(client, namespace);
        let (deployments, b) = children(client, namespace);
        let (pods, c) = children(client, namespace);
        let (services, d) = children(client, namespace);
        let (config_maps, e) = children(client, namespace);
        let (secrets, f) = children(client, namespace);
        let (service_accounts, g) = children(client, namespace);
        let (budgets, h) = children(client, namespace);
        let (policies, i) = children(client, namespace);
        let triggers = futures::stream::select_all([changed, a, b, c, d, e, f, g, h, i]).boxed();
        let stores = Self {
            clusters,
            stateful_sets,
            deployments,
            pods,
            services,
            config_maps,
            secrets,
            service_accounts,
            budgets,
            policies,
        };
        (stores, triggers)
    }

    /// Waits until every store holds what there is. `false` if a watch has ended.
    pub async fn ready(&self) -> bool {
        let waits: [BoxFuture<'_, _>; 10] = [
            self.clusters.wait_until_ready().map_err(drop).boxed(),
            self.stateful_sets.wait_until_ready().map_err(drop).boxed(),
            self.deployments.wait_until_ready().map_err(drop).boxed(),
            self.pods.wait_until_ready().map_err(drop).boxed(),
            self.services.wait_until_ready().map_err(drop).boxed(),
            self.config_maps.wait_until_ready().map_err(drop).boxed(),
            self.secrets.wait_until_ready().map_err(drop).boxed(),
            self.service_accounts
                .wait_until_ready()
                .map_err(drop)
                .boxed(),
            self.budgets.wait_until_ready().map_err(drop).boxed(),
            self.policies.wait_until_ready().map_err(drop).boxed(),
        ];
        futures::future::try_join_all(waits).await.is_ok()
    }

    /// The object of that kind and name, if it carries the operator's label.
    #[must_use]
    pub fn get<K: Kept>(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        K::store(self).get(&ObjectRef::new(name).within(namespace))
    }

    /// The pods of one part ([`labels::COMPONENT_REDIS`], [`labels::COMPONENT_API`]) of a cluster, sorted by name.
    #[must_use]
    pub fn pods_of(&self, namespace: &str, cluster: &str, component: &str) -> Vec<Arc<Pod>> {
        let mut pods = self.pods.state_filter(|pod| {
            pod.metadata.namespace.as_deref() == Some(namespace)
                && label(pod, labels::INSTANCE) == Some(cluster)
                && label(pod, labels::COMPONENT) == Some(component)
        });
        pods.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
        pods
    }
}

/// The value of one of an object's labels.
#[must_use]
pub fn label<'a, K: Resource>(object: &'a K, key: &str) -> Option<&'a str> {
    object.meta().labels.as_ref()?.get(key).map(String::as_str)
}

/// Watches one kind of the operator's own objects. Each change names the cluster that it belongs to.
fn children<K>(client: &Client, namespace: Option<&str>) -> (Store<K>, Triggers)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K: Resource<Scope = kube::core::NamespaceResourceScope>,
{
    let (reader, writer) = store();
    let ours = watcher::Config::default().labels(&format!(
        "{}={}",
        labels::MANAGED_BY,
        labels::MANAGED_BY_VALUE
    ));
    let triggers = watcher(api::<K>(client, namespace), ours)
        .default_backoff()
        .modify(slim)
        .reflect(writer)
        .touched_objects()
        .filter_map(|object| async move {
            match object {
                Ok(object) => owner(&object).map(Ok),
                Err(error) => Some(Err(error)),
            }
        })
        .boxed();
    (reader, triggers)
}

/// Changes with what a cluster's owner asks for: in the spec, by a deletion, or by an annotation that is ours to read, of
/// which the generation says nothing.
fn wish(cluster: &Guarded) -> Option<u64> {
    let mut digest = DefaultHasher::new();
    let meta = cluster.meta();
    (meta.generation, meta.deletion_timestamp.is_some()).hash(&mut digest);
    for annotation in meta.annotations.iter().flatten() {
        if annotation.0.starts_with(ANNOTATIONS) {
            annotation.hash(&mut digest);
        }
    }
    Some(digest.finish())
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Drops what nobody reads and what is most of an object's size.
fn slim<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// The cluster that an object's labels name.
fn owner<K: Resource>(object: &K) -> Option<ObjectRef<Guarded>> {
    let cluster = label(object, labels::INSTANCE)?;
    Some(ObjectRef::new(cluster).within(object.meta().namespace.as_deref()?))
}

/// The cluster's name and namespace, for logs and maps.
#[must_use]
pub fn key(cluster: &Guarded) -> (String, String) {
    (cluster.namespace().unwrap_or_default(), cluster.name_any())
}

#[cfg(test)]
mod tests {
    use cachecluster_contract::fence;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_user_asks_for_makes_a_pass_and_a_status_does_not() {
        let wish = |metadata: serde_json::Value, keys: u64| {
            let mut cluster = json!({
                "apiVersion": "cachecluster.io/v1alpha1", "kind": "CacheCluster",
                "metadata": metadata, "spec": {},
            });
            cluster["status"] = json!({"shards": [{"name": "demo-shard-0", "keys": keys}]});
            wish(&serde_json::from_value(cluster).unwrap())
        };
        let bare = || json!({"name": "demo", "generation": 1});
        let with = |key: &str, value: &str| {
            let mut metadata = bare();
            metadata["annotations"] = json!({key: value});
            wish(metadata, 0)
        };
        let before = wish(bare(), 0);
        assert_eq!(wish(bare(), 7), before);
        assert_eq!(with("kubectl.kubernetes.io/restartedAt", "now"), before);
        let fenced = with(fence::ANNOTATION, "demo-shard-0-0");
        assert_ne!(fenced, before);
        assert_ne!(with(fence::ANNOTATION, "demo-shard-0-1"), fenced);
        assert_ne!(wish(json!({"name": "demo", "generation": 2}), 0), before);
    }
}
