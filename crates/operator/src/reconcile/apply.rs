//! Brings objects into their wanted form by server-side apply, and leaves alone those that have it.
//!
//! Each object carries the digest of the form in which it was applied. Nothing is written while that digest is the
//! wanted one and the live object still says what was applied; so a field that somebody else changed is put right, a
//! field that is not wanted any more goes, and steady state writes nothing, also after a restart of the operator.

mod drift;
mod error;
mod found;

use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

use cachecluster_contract::{labels, names};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};

use drift::{annotate, covers, digest, is_newer, project, text};
pub use error::{ApplyError, said};
pub use found::found;

use super::Context;
use super::build::{Applied, Prepared, Resources};
use super::decide::Plan;
use super::observe::Observed;
use super::validate::ValidatedCluster;
use crate::memory::{ClusterMemory, Mark, Marks, Remembered};
use crate::stores::{Kept, label};

/// The one name in which the operator owns fields.
pub const FIELD_MANAGER: &str = "cachecluster-operator";
/// Annotation with the digest of the form in which an object was applied.
pub const APPLIED: &str = "cachecluster.io/applied";
/// Requests to the API server at a time, for one cluster.
const SIDE_BY_SIDE: usize = 8;

/// Applies everything: first what pods need, and, if all of that is in place, what makes pods. Within either part, what
/// cannot be applied keeps nothing else from being applied; the first error is returned.
///
/// # Errors
/// See [`ApplyError`].
pub async fn apply(
    prepared: Resources<Prepared>,
    cluster: &ValidatedCluster,
    context: &Context,
    memory: &mut ClusterMemory,
) -> Result<Resources<Applied>, ApplyError> {
    // A kind that is added to the bundle and not applied here does not compile.
    let Resources {
        service_accounts,
        secret,
        config_maps,
        services,
        policies,
        budgets,
        stateful_sets,
        deployments,
        state: PhantomData,
    } = prepared;
    let applier = Applier {
        cluster,
        context,
        marks: Mutex::new(std::mem::take(&mut memory.applied)),
    };
    let prerequisites = async {
        let secret = applier.create_secret(secret, &mut memory.password).await;
        let (service_accounts, config_maps, services, policies, budgets) = futures::join!(
            applier.all(service_accounts),
            applier.all(config_maps),
            applier.all(services),
            applier.all(policies),
            applier.all(budgets),
        );
        Ok((
            secret?,
            service_accounts?,
            config_maps?,
            services?,
            policies?,
            budgets?,
        ))
    };
    let everything = async {
        // What pods need comes before them: a StatefulSet waits long before it tries again, and no pod may start on
        // settings that are somebody else's.
        let (secret, service_accounts, config_maps, services, policies, budgets) =
            prerequisites.await?;
        let (stateful_sets, deployments) =
            futures::join!(applier.all(stateful_sets), applier.all(deployments));
        Ok(Resources {
            service_accounts,
            secret,
            config_maps,
            services,
            policies,
            budgets,
            stateful_sets: stateful_sets?,
            deployments: deployments?,
            state: PhantomData,
        })
    };
    let applied = everything.await;
    memory.applied = applier
        .marks
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    applied
}

/// Marks the primary's pod for the Service that plain clients use, and no other, while the cluster has one shard.
/// Writes only what changes; while nobody is primary, the mark stays where it was.
///
/// # Errors
/// See [`ApplyError`].
pub async fn mark_primary(
    observed: &Observed,
    plan: &Plan,
    cluster: &ValidatedCluster,
    context: &Context,
) -> Result<(), ApplyError> {
    let Some(primary) = &plan.marked else {
        return Ok(());
    };
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &cluster.namespace);
    for pod in &observed.redis_pods {
        let name = pod.name_any();
        let wanted = (&name == primary).then_some(labels::ROLE_PRIMARY);
        if label(pod.as_ref(), labels::ROLE) == wanted {
            continue;
        }
        let patch = json!({"metadata": {"labels": {labels::ROLE: wanted}}});
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match api
            .patch_metadata(&name, &params, &Patch::Merge(&patch))
            .await
        {
            Ok(_) => context.metrics.wrote("Pod"),
            // It went away meanwhile, and its label with it.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(source) => {
                return Err(ApplyError::Request {
                    kind: "Pod".to_owned(),
                    name,
                    source,
                });
            }
        }
    }
    Ok(())
}

struct Applier<'a> {
    cluster: &'a ValidatedCluster,
    context: &'a Context,
    marks: Mutex<Marks>,
}

impl Applier<'_> {
    async fn all<K>(&self, wanted: Vec<K>) -> Result<Vec<K>, ApplyError>
    where
        K: Kept + Resource<Scope = NamespaceResourceScope> + Serialize + 'static,
    {
        let results: Vec<_> = futures::stream::iter(wanted)
            .map(|object| self.one(object))
            .buffered(SIDE_BY_SIDE)
            .collect()
            .await;
        results.into_iter().collect()
    }

    /// Brings one object into its wanted form and returns it as the API server has it.
    async fn one<K>(&self, wanted: K) -> Result<K, ApplyError>
    where
        K: Kept + Resource<Scope = NamespaceResourceScope> + Serialize,
    {
        let kind = K::kind(&()).into_owned();
        let name = wanted.name_any();
        let encode = |source| ApplyError::Encode {
            kind: kind.clone(),
            name: name.clone(),
            source,
        };
        let request = |source| ApplyError::Request {
            kind: kind.clone(),
            name: name.clone(),
            source,
        };
        let key = format!("{kind}/{name}");
        let namespace = &self.cluster.namespace;
        let mut body = serde_json::to_value(&wanted).map_err(encode)?;
        let digest = digest(&body);
        annotate(&mut body, digest);
        let api: Api<K> = Api::namespaced(self.context.client.clone(), namespace);

        let mark = self.mark(&key);
        let live = match self.context.stores.get::<K>(namespace, &name) {
            Some(live) => Some(K::clone(&live)),
            // No watch knows it: it does not exist, or is not ours, or was made a moment ago.
            None => api.get_opt(&name).await.map_err(request)?,
        };
        if let Some(live) = live {
            self.check_owner(&live)?;
            let known = mark.as_ref().filter(|mark| mark.wanted == digest);
            if known.is_some_and(|mark| !is_newer(live.meta().resource_version.as_deref(), mark)) {
                return Ok(live);
            }
            let seen = project(&serde_json::to_value(&live).map_err(encode)?, &body);
            let unchanged = match known {
                Some(mark) => mark.seen == drift::digest(&seen),
                None => covers(&seen, &body),
            };
            if unchanged && live.annotations().get(APPLIED) == Some(&text(digest)) {
                self.remember(&key, digest, &seen, &live);
                return Ok(live);
            }
        }
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let live = api
            .patch(&name, &params, &Patch::Apply(&body))
            .await
            .map_err(|source| {
                let port = self.cluster.api.node_port;
                port.and_then(|port| ApplyError::of_node_port(port, &source))
                    .unwrap_or_else(|| ApplyError::of_answer(&kind, &name, source))
            })?;
        self.context.metrics.wrote(metric_kind(&kind));
        tracing::debug!(kind, namespace, name, "applied");
        let seen = project(&serde_json::to_value(&live).map_err(encode)?, &body);
        self.remember(&key, digest, &seen, &live);
        Ok(live)
    }

    /// Creates the Secret unless there is one already, in which case the next pass reads that. One that somebody edited
    /// gets the password back that the nodes are known to have.
    async fn create_secret(
        &self,
        wanted: Option<Secret>,
        remembered: &mut Option<Remembered>,
    ) -> Result<Option<Secret>, ApplyError> {
        let Some(wanted) = wanted else {
            return Ok(None);
        };
        let api: Api<Secret> =
            Api::namespaced(self.context.client.clone(), &self.cluster.namespace);
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let password = self.cluster.auth.password.clone();
        let proven = remembered
            .as_ref()
            .is_some_and(|known| known.proven && known.password == password);
        let mut written = api.create(&params, &wanted).await;
        if proven
            && let Err(kube::Error::Api(status)) = &written
            && status.is_already_exists()
        {
            let params = PatchParams {
                field_manager: Some(FIELD_MANAGER.to_owned()),
                ..PatchParams::default()
            };
            let data = serde_json::json!({"data": wanted.data});
            let name = wanted.name_any();
            tracing::warn!(
                secret = name,
                "the nodes' password is put back into a Secret that somebody edited"
            );
            written = api.patch(&name, &params, &Patch::Merge(&data)).await;
        }
        match written {
            Ok(created) => {
                self.context.metrics.wrote("Secret");
                *remembered = Some(Remembered {
                    secret: created.name_any(),
                    version: created.resource_version(),
                    read: tokio::time::Instant::now(),
                    password,
                    proven,
                    objection: None,
                    other: None,
                });
                Ok(Some(created))
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(None),
            Err(source) => Err(ApplyError::Request {
                kind: "Secret".to_owned(),
                name: names::auth(&self.cluster.name),
                source,
            }),
        }
    }

    fn check_owner<K: Resource<DynamicType = ()>>(&self, live: &K) -> Result<(), ApplyError> {
        let (kind, name) = (K::kind(&()).into_owned(), live.name_any());
        match belonging(live, &self.cluster.owner) {
            Belonging::Ours => Ok(()),
            Belonging::Leaving => Err(ApplyError::BeingDeleted { kind, name }),
            Belonging::Foreign => Err(ApplyError::NameTaken { kind, name }),
        }
    }

    fn mark(&self, key: &str) -> Option<Mark> {
        self.marks().get(key).cloned()
    }

    fn remember<K: Resource>(&self, key: &str, wanted: u64, seen: &Value, live: &K) {
        let mark = Mark {
            wanted,
            seen: digest(seen),
            version: live.meta().resource_version.clone(),
        };
        self.marks().insert(key.to_owned(), mark);
    }

    fn marks(&self) -> std::sync::MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belonging {
    /// This cluster's.
    Ours,
    /// On its way out: it is being deleted, or its owner was, a resource of the same name.
    Leaving,
    /// Somebody else's, or nobody's.
    Foreign,
}

/// Whether the controller that an object names is `ours`.
#[must_use]
pub fn belonging<K: Resource>(object: &K, ours: &OwnerReference) -> Belonging {
    let owner = object
        .owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true));
    match owner {
        Some(owner) if owner.uid == ours.uid => match object.meta().deletion_timestamp {
            Some(_) => Belonging::Leaving,
            None => Belonging::Ours,
        },
        Some(owner) if owner.kind == ours.kind && owner.name == ours.name => Belonging::Leaving,
        _ => Belonging::Foreign,
    }
}

/// A kind as a metric's label: from a fixed set, whatever a kind is called.
fn metric_kind(kind: &str) -> &'static str {
    const KINDS: [&str; 7] = [
        "ConfigMap",
        "Deployment",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
        "StatefulSet",
    ];
    KINDS
        .into_iter()
        .find(|known| *known == kind)
        .unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_api_server_said_is_told_in_its_words() {
        let status = kube::core::Status::failure("nodePort: port is already allocated", "Invalid");
        let error = ApplyError::Request {
            kind: "Service".to_owned(),
            name: "demo-api".to_owned(),
            source: kube::Error::Api(Box::new(status)),
        };
        assert_eq!(
            error.to_string(),
            "Service demo-api: nodePort: port is already allocated"
        );
    }
}
