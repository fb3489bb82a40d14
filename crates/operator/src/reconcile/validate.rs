//! From a raw resource to one that can be acted upon. After this, nothing reads the raw spec. Pure.

use std::collections::BTreeMap;

use cachecluster_contract::durable::{Durable, Fsync as Policy};
use cachecluster_contract::names;
use cachecluster_crd::conditions::reason;
use cachecluster_crd::{CacheCluster, Fsync, OnDelete, Profile};
use cachecluster_redis_admin::Password;
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use super::fence::{self, Wanted};
use super::observe::{Observed, Secrecy};

/// A cluster whose parts all make sense together.
#[derive(Clone, Debug)]
pub struct ValidatedCluster {
    /// Name of the resource.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// What its children name as their owner.
    pub owner: OwnerReference,
    /// Number of shards, at least 1.
    pub shards: u32,
    /// Replicas of each primary.
    pub replicas: u32,
    /// The engine's image.
    pub image: String,
    /// `maxmemory-policy`.
    pub eviction: &'static str,
    /// Further directives.
    pub directives: BTreeMap<String, String>,
    /// `maxmemory`, in bytes.
    pub maxmemory: u64,
    /// What can be acted upon and is hardly meant, for people.
    pub remark: Option<String>,
    /// A volume for each pod.
    pub storage: Option<Volume>,
    /// What the servers of a durable cluster are told.
    pub durable: Option<Durable>,
    /// The password.
    pub auth: Auth,
    /// The HTTP API.
    pub api: Api,
    /// Whether nothing shall be done but to look on.
    pub paused: bool,
    /// Whose servers shall be stopped.
    pub fenced: Wanted,
}

/// A volume for each pod.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its size.
    pub size: Quantity,
    /// Its class; the default one if absent.
    pub class: Option<String>,
    /// Whether it goes when the cluster goes.
    pub delete: bool,
}

/// Where the pods find the password, and what it is.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Name of the Secret.
    pub secret: String,
    /// The password, for the operator's own connections.
    pub password: Password,
    /// Whether the Secret has to be made.
    pub create: bool,
    /// What is wrong with the Secret, while the nodes go on with the password that they have.
    pub objection: Option<Rejection>,
}

/// The HTTP API.
#[derive(Clone, Debug)]
pub struct Api {
    /// Number of pods.
    pub replicas: u32,
    /// What the user says of resources; absent members have defaults.
    pub resources: ResourceRequirements,
    /// Kind of the Service.
    pub service: &'static str,
    /// Its port on every node.
    pub node_port: Option<u16>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Why a spec cannot be acted upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// One of [`reason`]'s constants.
    pub reason: &'static str,
    /// What to change.
    pub message: String,
}

/// Takes a resource and what is known besides. `fresh` becomes the password if there has never been one.
///
/// # Errors
/// When the spec cannot be acted upon: see [`Rejection`].
pub fn validate(
    cluster: &CacheCluster,
    observed: &Observed,
    fresh: &Password,
) -> Result<ValidatedCluster, Rejection> {
    let invalid = |message: String| Rejection {
        reason: reason::INVALID_SPEC,
        message,
    };
    let spec = &cluster.spec;
    let name = cluster.name_any();
    let owner = cluster
        .controller_owner_ref(&())
        // A deletion in the foreground ends when the children are gone.
        .map(|owner| OwnerReference {
            block_owner_deletion: Some(true),
            ..owner
        })
        .ok_or_else(|| invalid("the resource has no UID yet".to_owned()))?;
    if name.len() > cachecluster_crd::MAX_NAME {
        let longest = cachecluster_crd::MAX_NAME;
        return Err(invalid(format!(
            "metadata.name may have at most {longest} characters: choose a shorter name"
        )));
    }
    if spec.shards == 0 || spec.shards > cachecluster_crd::MAX_SHARDS {
        let most = cachecluster_crd::MAX_SHARDS;
        return Err(invalid(format!("spec.shards must be from 1 to {most}")));
    }
    let maxmemory = spec
        .memory
        .bytes()
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| {
            invalid(format!(
                "spec.memory is no amount of bytes: {}",
                spec.memory.as_str()
            ))
        })?;
    if let Some(directive) = spec.engine.config.keys().find(|directive| {
        cachecluster_contract::agent::RESERVED_DIRECTIVES.contains(&directive.as_str())
    }) {
        return Err(invalid(format!(
            "spec.engine.config: {directive} is set by the operator"
        )));
    }
    let remark = spec
        .storage
        .as_ref()
        .filter(|storage| storage.size.bytes().is_some_and(|size| size < maxmemory))
        .map(|storage| {
            format!(
                "spec.storage.size {} is less than spec.memory {}: writes fail once the volume is full",
                storage.size.as_str(),
                spec.memory.as_str()
            )
        });
    let durable = (spec.profile == Profile::Durable).then(|| Durable {
        fsync: match spec.durability.clone().unwrap_or_default().fsync {
            Fsync::EverySecond => Policy::Everysec,
            Fsync::Always => Policy::Always,
        },
        least_replicas: spec.replicas.min(1),
    });
    if durable.is_some() && spec.storage.is_none() {
        return Err(invalid(
            "spec.profile Durable needs spec.storage".to_owned(),
        ));
    }
    let secret = spec
        .auth
        .secret_name
        .clone()
        .unwrap_or_else(|| names::auth(&name));
    let (password, create, objection) = match &observed.secrecy {
        Secrecy::Known(password) => (password.clone(), false, None),
        Secrecy::Absent {
            remembered: Some(password),
        } => (password.clone(), true, None),
        Secrecy::Absent { remembered: None } if observed.any_server_runs() => {
            return Err(Rejection {
                reason: reason::SECRET_MISSING,
                message: format!(
                    "Secret {secret} is gone, and running servers use its password, which nobody knows any more: \
                     restore the Secret; or delete the Redis pods, which start anew with a new password and only \
                     what is on their volumes"
                ),
            });
        }
        Secrecy::Absent { remembered: None } => (fresh.clone(), true, None),
        Secrecy::Kept {
            password,
            objection,
        } => (password.clone(), false, Some(objection.clone())),
        Secrecy::Unusable(rejection) => return Err(rejection.clone()),
    };
    Ok(ValidatedCluster {
        namespace: cluster.namespace().unwrap_or_default(),
        owner,
        shards: spec.shards,
        replicas: spec.replicas,
        image: spec.engine.image.clone(),
        eviction: spec.engine.eviction.as_str(),
        directives: spec.engine.config.clone(),
        maxmemory,
        remark,
        durable,
        storage: spec.storage.as_ref().map(|storage| Volume {
            size: storage.size.quantity(),
            class: storage.storage_class_name.clone(),
            delete: storage.on_delete == OnDelete::Delete,
        }),
        auth: Auth {
            secret,
            password,
            create,
            objection,
        },
        api: Api {
            replicas: spec.api.replicas,
            resources: spec
                .api
                .resources
                .clone()
                .map(|given| ResourceRequirements {
                    requests: Some(given.requests),
                    limits: Some(given.limits),
                    claims: None,
                })
                .unwrap_or_default(),
            service: spec.api.service.kind.as_str(),
            node_port: spec.api.service.node_port,
            annotations: spec.api.service.annotations.clone(),
        },
        paused: spec.maintenance.paused,
        fenced: fence::wanted(cluster, observed),
        name,
    })
}

#[cfg(test)]
mod tests {
    use cachecluster_topology::Presence;
    use serde_json::json;

    use super::*;
    use crate::reconcile::fixture::{formed, nothing, resource, world};

    fn without_secret(mut observed: Observed, remembered: Option<&str>) -> Observed {
        let remembered = remembered.map(Password::new);
        observed.secrecy = Secrecy::Absent { remembered };
        observed
    }

    fn password(observed: &Observed) -> Result<String, Rejection> {
        let fresh = Password::new("fresh");
        let valid = validate(&resource(json!({})), observed, &fresh)?;
        assert!(valid.auth.create);
        Ok(valid.auth.password.expose().to_owned())
    }

    #[test]
    fn a_password_is_generated_only_while_no_server_can_have_another() {
        assert_eq!(
            password(&without_secret(nothing(), None)).as_deref(),
            Ok("fresh")
        );
        let mut running = without_secret(world(formed(1, 1).world()), None);
        let refused = password(&running).unwrap_err();
        assert_eq!(refused.reason, reason::SECRET_MISSING);
        assert!(refused.message.contains("restore the Secret"));

        // Pods that wait for the Secret have not started.
        for member in &mut running.members {
            member.presence = Presence::Starting;
        }
        assert_eq!(password(&running).as_deref(), Ok("fresh"));
    }

    #[test]
    fn a_password_that_is_remembered_is_given_back() {
        let running = without_secret(world(formed(1, 1).world()), Some("old"));
        assert_eq!(password(&running).as_deref(), Ok("old"));
    }
}
