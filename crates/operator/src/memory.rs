//! What the operator remembers between passes, so that it need not ask or write again. Losing it costs a few
//! requests, and the nodes' password while its Secret is gone or edited.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cachecluster_crd::CacheClusterStatus;
use cachecluster_redis_admin::Password;
use tokio::time::Instant;

use crate::news::Listeners;
use crate::reconcile::fence::Pending;
use crate::reconcile::handover::Handovers;
use crate::reconcile::observe::OutOfStep;
use crate::reconcile::relocate::Relocations;
use crate::reconcile::report::Reports;
use crate::reconcile::validate::Rejection;
use crate::reconcile::withdraw::Withdrawals;

/// Memory of all clusters, by UID.
#[derive(Default)]
pub struct Memory(Mutex<HashMap<String, Shared>>);

type Shared = Arc<tokio::sync::Mutex<ClusterMemory>>;

/// Memory of one cluster.
#[derive(Default)]
pub struct ClusterMemory {
    /// What was applied, by kind and name.
    pub applied: Marks,
    /// The status that was written last, with the resource version that it gave.
    pub status: Option<(CacheClusterStatus, Option<u64>)>,
    /// The password, as it was read last.
    pub password: Option<Remembered>,
    /// What the annotation for fences names that is no pod, as users were told of it.
    pub unknown: Option<String>,
    /// Orders to agents about fences that were not carried out yet.
    pub fences: Pending,
    /// What agents reported last.
    pub reports: Reports,
    /// The agents that are listened to.
    pub listeners: Listeners,
    /// Since when pods of a durable cluster have been out of step.
    pub out_of_step: OutOfStep,
    /// When primaries were found fit to be relieved, and tries in vain.
    pub handovers: Handovers,
    /// When pods were found to be placed badly, and tries to change that.
    pub relocations: Relocations,
    /// API pods that were taken out of service.
    pub withdrawals: Withdrawals,
    /// Passes that failed in a row.
    pub failures: u32,
}

/// What was applied, by kind and name.
pub type Marks = HashMap<String, Mark>;

/// What is known of an object that was compared or applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Digest of the wanted object.
    pub wanted: u64,
    /// Digest of the live object, as far as the wanted one speaks of it: the server may spell values in its own way.
    pub seen: u64,
    /// The live object's resource version.
    pub version: Option<String>,
}

/// A password and where it is from.
#[derive(Clone, Debug)]
pub struct Remembered {
    /// Name of the Secret.
    pub secret: String,
    /// Its resource version, where a watch tells of changes.
    pub version: Option<String>,
    /// When it was read.
    pub read: Instant,
    /// The password.
    pub password: Password,
    /// Whether a node took it: then it is the cluster's, whatever becomes of the Secret.
    pub proven: bool,
    /// What is wrong with the Secret since.
    pub objection: Option<Rejection>,
    /// The password that is in the Secret now, while that is another one.
    pub other: Option<Password>,
}

impl Memory {
    /// The memory of the cluster with that UID.
    #[must_use]
    pub fn of(&self, uid: &str) -> Arc<tokio::sync::Mutex<ClusterMemory>> {
        self.lock().entry(uid.to_owned()).or_default().clone()
    }

    /// Forgets every cluster that `lives` does not know.
    pub fn retain(&self, lives: impl Fn(&str) -> bool) {
        self.lock().retain(|uid, _| lives(uid));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Shared>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
