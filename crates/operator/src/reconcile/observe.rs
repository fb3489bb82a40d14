//! What there is: the password, the pods, and what every Redis server says of itself.

mod durable;
mod member;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cachecluster_contract::report::Report;
use cachecluster_contract::{labels, names, paths};
use cachecluster_crd::conditions::reason;
use cachecluster_crd::{CacheCluster, Profile};
use cachecluster_redis_admin::Password;
use cachecluster_topology::{Durable, Member, Presence, Probe};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt};
use tokio::time::Instant;

pub use durable::OutOfStep;
use jiff::Timestamp;
use member::{controller, is_ours, member};

use super::apply::{ApplyError, Belonging, belonging};
use super::fence::Fences;
use super::validate::Rejection;
use super::{Context, Error};
use crate::memory::{ClusterMemory, Remembered};

/// How long a Redis server may take to answer.
pub const PROBE: Duration = Duration::from_secs(1);
/// How often a Secret of the user's is read again: no watch covers it.
const REREAD: Duration = Duration::from_secs(120);

/// Everything that one pass sees.
#[derive(Clone, Debug)]
pub struct Observed {
    /// When the servers were asked.
    pub at: Instant,
    /// What is known of the password.
    pub secrecy: Secrecy,
    /// The places of the Redis pods that exist, with what their servers say.
    pub members: Vec<Member>,
    /// The Redis pods, sorted by name.
    pub redis_pods: Vec<Arc<Pod>>,
    /// The API's pods, sorted by name.
    pub api_pods: Vec<Arc<Pod>>,
    /// How many shards have a StatefulSet.
    pub stateful_sets: usize,
    /// What agents say of their pods, by the pods' names. They are asked last, because no step depends on it.
    pub reports: BTreeMap<String, Report>,
    /// Who holds every acknowledged write, of a durable cluster.
    pub durable: Option<Durable>,
    /// Who is fenced, once the agents have been told.
    pub fences: Fences,
}

impl Observed {
    /// Whether the process of any Redis pod may be running, as far as Kubernetes knows.
    #[must_use]
    pub fn any_server_runs(&self) -> bool {
        let running = [Presence::Running, Presence::Terminating];
        self.members
            .iter()
            .any(|member| running.contains(&member.presence))
    }
}

/// What is known of the password.
#[derive(Clone, Debug)]
pub enum Secrecy {
    /// It was read.
    Known(Password),
    /// It is the operator's to generate, and its Secret does not exist. What it was before, if somebody deleted or
    /// edited it.
    Absent {
        /// The password as it was.
        remembered: Option<Password>,
    },
    /// The Secret is of no use, or somebody else's, but the nodes have a password that is known from before.
    Kept {
        /// The nodes' password.
        password: Password,
        /// What is wrong with the Secret.
        objection: Rejection,
    },
    /// The Secret is of no use, or somebody else's.
    Unusable(Rejection),
}

/// Looks at everything that belongs to `cluster`. A server that does not answer is data, not an error.
///
/// # Errors
/// When the API server does not answer where no watch helps: [`Error::Observe`].
pub async fn observe(
    cluster: &CacheCluster,
    context: &Context,
    memory: &mut ClusterMemory,
) -> Result<Observed, Error> {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let owner = cluster.controller_owner_ref(&()).unwrap_or_default();
    let mut secrecy = secrecy(cluster, context, memory).await?;
    let pods = |component| context.stores.pods_of(&namespace, &name, component);
    let mut redis_pods = pods(labels::COMPONENT_REDIS);
    redis_pods.retain(|pod| {
        let set = controller(pod.as_ref())
            .and_then(|set| context.stores.get::<StatefulSet>(&namespace, &set.name));
        is_ours(pod, set.as_deref(), cluster, &owner)
    });
    let now = Timestamp::now();
    let mut members: Vec<Member> = redis_pods
        .iter()
        .filter_map(|pod| member(pod, now))
        .collect();
    let at = Instant::now();
    // The servers go on with the password that they were given.
    let password = match &secrecy {
        Secrecy::Known(password) | Secrecy::Kept { password, .. } => Some(password),
        Secrecy::Absent { remembered } => remembered.as_ref(),
        Secrecy::Unusable(_) => None,
    };
    if let Some(password) = password {
        let addrs: Vec<_> = members.iter().map(|member| member.addr).collect();
        let answers = |probes: &[Probe]| {
            let mut probes = probes.iter();
            probes.any(|probe| matches!(probe, Probe::Answered(_) | Probe::Loading))
        };
        let mut probes = cachecluster_redis_admin::observe(&addrs, password, PROBE).await;
        let mut proven = answers(&probes);
        // All pods may have started anew with what is in the Secret now.
        let other = memory.password.as_ref().and_then(|it| it.other.clone());
        if !proven && let Some(other) = other {
            let others = cachecluster_redis_admin::observe(&addrs, &other, PROBE).await;
            if answers(&others) {
                (probes, proven) = (others, true);
                secrecy = Secrecy::Known(other.clone());
                if let Some(known) = &mut memory.password {
                    (known.password, known.objection, known.other) = (other, None, None);
                }
            }
        }
        if let Some(known) = &mut memory.password {
            known.proven |= proven;
        }
        if let Secrecy::Known(password) = &secrecy
            && !proven
            && let Some(pod) = refusing(&members, &probes)
        {
            let secret = cluster.spec.auth.secret_name.clone();
            let secret = secret.unwrap_or_else(|| names::auth(&name));
            secrecy = Secrecy::Kept {
                password: password.clone(),
                objection: Rejection {
                    reason: reason::SECRET_CHANGED,
                    message: format!(
                        "{pod} refuses the password in Secret {secret}, and no node takes it: put the former one \
                         back, or delete the Redis pods, which start anew with this one and only what is on their \
                         volumes"
                    ),
                },
            };
        }
        for (member, probe) in members.iter_mut().zip(probes) {
            // The kubelet tells a moment later what the server says itself.
            if member.presence == Presence::Starting && !matches!(probe, Probe::Silent(_)) {
                member.presence = Presence::Running;
            }
            member.probe = probe;
        }
    }
    let durable = (cluster.spec.profile == Profile::Durable).then(|| {
        let status = super::status::previous(cluster, memory);
        let node_timeout = context.workload.node_timeout;
        durable::durable(
            cluster,
            &status,
            &members,
            &mut memory.out_of_step,
            node_timeout,
            at,
        )
    });
    Ok(Observed {
        at,
        durable,
        secrecy,
        reports: BTreeMap::new(),
        members,
        redis_pods,
        api_pods: pods(labels::COMPONENT_API),
        stateful_sets: (0..cluster.spec.shards)
            .filter(|shard| {
                let shard = names::shard(&name, *shard);
                let set = context.stores.get::<StatefulSet>(&namespace, &shard);
                set.is_some_and(|set| belonging(set.as_ref(), &owner) == Belonging::Ours)
            })
            .count(),
        fences: Fences::default(),
    })
}

/// A node that lives and does not let us in.
fn refusing<'m>(members: &'m [Member], probes: &[Probe]) -> Option<&'m str> {
    let refuses =
        |probe: &Probe| matches!(probe, Probe::Silent(why) if why.contains("AuthenticationFailed"));
    let mut asked = members.iter().zip(probes);
    asked.find_map(|(member, probe)| refuses(probe).then_some(member.name.as_str()))
}

async fn secrecy(
    cluster: &CacheCluster,
    context: &Context,
    memory: &mut ClusterMemory,
) -> Result<Secrecy, Error> {
    let namespace = cluster.namespace().unwrap_or_default();
    let given = cluster.spec.auth.secret_name.as_deref();
    let name = given.map_or_else(|| names::auth(&cluster.name_any()), str::to_owned);
    let watched: Option<Arc<PartialObjectMeta<Secret>>> = context
        .stores
        .secrets
        .get(&ObjectRef::new(&name).within(&namespace));
    let version = watched
        .as_ref()
        .and_then(|secret| secret.resource_version());

    if let Some(known) = memory
        .password
        .as_ref()
        .filter(|known| known.secret == name)
    {
        let unchanged = known.version.is_some() && known.version == version;
        let recent = given.is_some() && known.objection.is_none() && known.read.elapsed() < REREAD;
        if unchanged || recent {
            return Ok(known.secrecy());
        }
    }
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let Some(secret) = secrets.get_opt(&name).await.map_err(Error::Observe)? else {
        return Ok(match given {
            Some(_) => memory.object(
                reason::SECRET_MISSING,
                format!(
                    "spec.auth.secretName: there is no Secret {name} in namespace {namespace}: create it with the key {}",
                    paths::PASSWORD_KEY
                ),
            ),
            None => Secrecy::Absent {
                remembered: memory.password.as_ref().map(|known| known.password.clone()),
            },
        });
    };
    if given.is_none() {
        let owner = cluster.controller_owner_ref(&()).unwrap_or_default();
        let kind = "Secret".to_owned();
        match belonging(&secret, &owner) {
            Belonging::Ours => {}
            Belonging::Leaving => return Err(ApplyError::BeingDeleted { kind, name }.into()),
            Belonging::Foreign => {
                let error = ApplyError::NameTaken { kind, name };
                return Ok(memory.object(reason::NAME_TAKEN, error.to_string()));
            }
        }
    }
    let proven = memory.password.as_ref().filter(|known| known.proven);
    let put_back = proven
        .filter(|_| given.is_none())
        .map(|known| Secrecy::Absent {
            remembered: Some(known.password.clone()),
        });
    let Some(password) = password(&secret) else {
        if let Some(put_back) = put_back {
            return Ok(put_back);
        }
        let message = format!(
            "Secret {name} has no usable key {}: it must be one line of text, not empty",
            paths::PASSWORD_KEY
        );
        return Ok(memory.object(reason::SECRET_MISSING, message));
    };
    let version = given.is_none().then(|| secret.resource_version()).flatten();
    let read = Instant::now();
    Ok(match &mut memory.password {
        Some(known) if known.proven && known.password != password => {
            if let Some(put_back) = put_back {
                return Ok(put_back);
            }
            (known.version, known.read, known.other) = (version, read, Some(password));
            let message = format!(
                "Secret {name} has another password than the nodes: that of a living cluster cannot be changed in this \
                 version, put the former one back"
            );
            memory.object(reason::SECRET_CHANGED, message)
        }
        known => {
            let proven = known.as_ref().is_some_and(|known| known.proven);
            *known = Some(Remembered {
                secret: name,
                version,
                read,
                password: password.clone(),
                proven,
                objection: None,
                other: None,
            });
            Secrecy::Known(password)
        }
    })
}

impl Remembered {
    fn secrecy(&self) -> Secrecy {
        let password = self.password.clone();
        match self.objection.clone() {
            Some(objection) => Secrecy::Kept {
                password,
                objection,
            },
            None => Secrecy::Known(password),
        }
    }
}

impl ClusterMemory {
    /// The Secret is of no use. A password that the nodes are known to have stays theirs.
    fn object(&mut self, reason: &'static str, message: String) -> Secrecy {
        let objection = Rejection { reason, message };
        match &mut self.password {
            Some(known) if known.proven => {
                known.objection = Some(objection);
                known.secrecy()
            }
            _ => Secrecy::Unusable(objection),
        }
    }
}

/// The password in a Secret; a line break at its end, which editors add, is not part of it.
fn password(secret: &Secret) -> Option<Password> {
    let bytes = secret.data.as_ref()?.get(paths::PASSWORD_KEY)?;
    let text = std::str::from_utf8(&bytes.0).ok()?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    (!text.is_empty() && !text.contains(char::is_control)).then(|| Password::new(text))
}

#[cfg(test)]
mod tests {
    use cachecluster_topology::sim::Sim;

    use super::*;

    #[test]
    fn a_node_that_refuses_the_password_is_told_from_one_that_is_silent() {
        let members = Sim::new(1, 1).world().members;
        let silent = |why: &str| Probe::Silent(why.to_owned());
        let refused = silent("Password authentication failed - AuthenticationFailed");
        let probes = [silent("Connection refused"), refused];
        assert_eq!(refusing(&members, &probes), Some(&*members[1].name));
        assert_eq!(refusing(&members, &probes[..1]), None);
    }

    #[test]
    fn a_password_is_one_line_of_text() {
        let secret = |text: &[u8]| Secret {
            data: Some(
                [(
                    "password".to_owned(),
                    k8s_openapi::ByteString(text.to_vec()),
                )]
                .into(),
            ),
            ..Secret::default()
        };
        assert_eq!(password(&secret(b"open\n")), Some(Password::new("open")));
        for text in [&b""[..], b"\n", b"two\nlines", b"\xff"] {
            assert_eq!(password(&secret(text)), None, "{text:?}");
        }
        assert_eq!(password(&Secret::default()), None);
    }
}
