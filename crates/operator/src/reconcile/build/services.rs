//! How nodes find each other, and clients them.

use std::collections::BTreeMap;

use cachecluster_contract::{labels, names, ports};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{metadata, selector_labels};
use crate::reconcile::validate::ValidatedCluster;

/// All Services of the cluster.
#[must_use]
pub fn services(cluster: &ValidatedCluster) -> Vec<Service> {
    let mut services = vec![headless(cluster), redis(cluster), api(cluster)];
    if cluster.shards == 1 {
        services.push(primary(cluster));
    }
    services
}

/// Resolves to every Redis pod, ready or not: nodes have to find each other before they are.
fn headless(cluster: &ValidatedCluster) -> Service {
    service(
        cluster,
        names::headless(&cluster.name),
        labels::COMPONENT_REDIS,
        ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            ports: Some(vec![
                port(ports::REDIS_NAME, ports::REDIS),
                port(ports::REDIS_BUS_NAME, ports::REDIS_BUS),
            ]),
            ..selecting(cluster, labels::COMPONENT_REDIS)
        },
    )
}

/// For clients that speak Redis Cluster.
fn redis(cluster: &ValidatedCluster) -> Service {
    service(
        cluster,
        names::redis(&cluster.name),
        labels::COMPONENT_REDIS,
        ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            ports: Some(vec![port(ports::REDIS_NAME, ports::REDIS)]),
            ..selecting(cluster, labels::COMPONENT_REDIS)
        },
    )
}

/// For clients that do not, while one primary has all slots. The operator marks its pod.
fn primary(cluster: &ValidatedCluster) -> Service {
    let mut spec = ServiceSpec {
        type_: Some("ClusterIP".to_owned()),
        ports: Some(vec![port(ports::REDIS_NAME, ports::REDIS)]),
        ..selecting(cluster, labels::COMPONENT_REDIS)
    };
    spec.selector
        .get_or_insert_with(BTreeMap::new)
        .insert(labels::ROLE.to_owned(), labels::ROLE_PRIMARY.to_owned());
    service(
        cluster,
        names::primary(&cluster.name),
        labels::COMPONENT_REDIS,
        spec,
    )
}

/// The HTTP API.
fn api(cluster: &ValidatedCluster) -> Service {
    let mut service = service(
        cluster,
        names::api(&cluster.name),
        labels::COMPONENT_API,
        ServiceSpec {
            type_: Some(cluster.api.service.to_owned()),
            ports: Some(vec![ServicePort {
                node_port: cluster.api.node_port.map(i32::from),
                app_protocol: Some("http".to_owned()),
                ..port(ports::API_NAME, ports::API)
            }]),
            ..selecting(cluster, labels::COMPONENT_API)
        },
    );
    if !cluster.api.annotations.is_empty() {
        service.metadata.annotations = Some(cluster.api.annotations.clone());
    }
    service
}

fn service(
    cluster: &ValidatedCluster,
    name: String,
    component: &str,
    spec: ServiceSpec,
) -> Service {
    Service {
        metadata: metadata(cluster, name, component, None),
        spec: Some(spec),
        status: None,
    }
}

fn selecting(cluster: &ValidatedCluster, component: &str) -> ServiceSpec {
    ServiceSpec {
        selector: Some(selector_labels(cluster, component, None)),
        ..ServiceSpec::default()
    }
}

fn port(name: &str, number: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(number),
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}
