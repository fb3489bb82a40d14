//! Identities of the pods. They have no rights at all: neither the agent nor the API talks to the API server.

use cachecluster_contract::{labels, names};
use k8s_openapi::api::core::v1::ServiceAccount;

use super::metadata;
use crate::reconcile::validate::ValidatedCluster;

/// One ServiceAccount for the Redis pods and one for the API's.
#[must_use]
pub fn service_accounts(cluster: &ValidatedCluster) -> Vec<ServiceAccount> {
    [
        (names::agent(&cluster.name), labels::COMPONENT_REDIS),
        (names::api(&cluster.name), labels::COMPONENT_API),
    ]
    .into_iter()
    .map(|(name, component)| ServiceAccount {
        metadata: metadata(cluster, name, component, None),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    })
    .collect()
}
