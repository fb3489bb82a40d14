//! What is there of the wanted objects, for passes that apply nothing.

use std::marker::PhantomData;

use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt};

use super::{Belonging, belonging};
use crate::reconcile::Context;
use crate::reconcile::build::{Applied, Prepared, Resources};
use crate::reconcile::validate::ValidatedCluster;
use crate::stores::Kept;

/// The objects as the API server has them, as far as they exist and are the cluster's, whatever form they have.
#[must_use]
pub fn found(
    prepared: Resources<Prepared>,
    cluster: &ValidatedCluster,
    context: &Context,
) -> Resources<Applied> {
    let Resources {
        service_accounts,
        secret: _,
        config_maps,
        services,
        policies,
        budgets,
        stateful_sets,
        deployments,
        state: PhantomData,
    } = prepared;
    Resources {
        service_accounts: live(service_accounts, cluster, context),
        // Its content is not watched, and nobody asks for it here.
        secret: None,
        config_maps: live(config_maps, cluster, context),
        services: live(services, cluster, context),
        policies: live(policies, cluster, context),
        budgets: live(budgets, cluster, context),
        stateful_sets: live(stateful_sets, cluster, context),
        deployments: live(deployments, cluster, context),
        state: PhantomData,
    }
}

fn live<K>(wanted: Vec<K>, cluster: &ValidatedCluster, context: &Context) -> Vec<K>
where
    K: Kept + Resource<Scope = NamespaceResourceScope>,
{
    let found = wanted.iter().filter_map(|object| {
        context
            .stores
            .get::<K>(&cluster.namespace, &object.name_any())
    });
    found
        .filter(|object| belonging(object.as_ref(), &cluster.owner) == Belonging::Ours)
        .map(|object| K::clone(&object))
        .collect()
}
