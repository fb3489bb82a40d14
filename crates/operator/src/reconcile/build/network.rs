//! Who may reach Redis.

use std::collections::BTreeMap;

use cachecluster_contract::{labels, names, ports};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{metadata, selector};
use crate::reconcile::validate::ValidatedCluster;
use crate::settings::Workload;

/// The label by which Kubernetes itself names every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Redis is reached from the cluster's own pods, the API's among them, and from the operator; the agents'
/// port, with probes, metrics and what agents ask each other, from anywhere.
#[must_use]
pub fn redis_policy(cluster: &ValidatedCluster, workload: &Workload) -> NetworkPolicy {
    let own = NetworkPolicyPeer {
        pod_selector: Some(select([
            (labels::NAME, labels::NAME_VALUE),
            (labels::INSTANCE, &cluster.name),
        ])),
        ..NetworkPolicyPeer::default()
    };
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(select([(NAMESPACE_NAME, &workload.operator_namespace)])),
        pod_selector: Some(select([(labels::NAME, labels::MANAGED_BY_VALUE)])),
        ..NetworkPolicyPeer::default()
    };
    NetworkPolicy {
        metadata: metadata(
            cluster,
            names::redis(&cluster.name),
            labels::COMPONENT_REDIS,
            None,
        ),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(cluster, labels::COMPONENT_REDIS, None)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                allow(Some(vec![own]), &[ports::REDIS, ports::REDIS_BUS]),
                allow(Some(vec![operator]), &[ports::REDIS]),
                allow(None, &[ports::AGENT]),
            ]),
            egress: None,
        }),
    }
}

fn select<const N: usize>(pairs: [(&str, &str); N]) -> LabelSelector {
    LabelSelector {
        match_labels: Some(
            pairs
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect::<BTreeMap<_, _>>(),
        ),
        match_expressions: None,
    }
}

fn allow(from: Option<Vec<NetworkPolicyPeer>>, ports: &[u16]) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule {
        from,
        ports: Some(
            ports
                .iter()
                .map(|port| NetworkPolicyPort {
                    port: Some(IntOrString::Int(i32::from(*port))),
                    protocol: Some("TCP".to_owned()),
                    end_port: None,
                })
                .collect(),
        ),
    }
}
