//! The operator, installed by its chart.

use anyhow::Result;

use crate::cluster::Cluster;
use crate::{command, images};

/// The release, and the namespace that it is in.
pub(crate) const RELEASE: &str = "cachecluster";
/// See [`RELEASE`].
pub(crate) const NAMESPACE: &str = "cachecluster-system";
/// The chart.
pub(crate) const CHART: &str = "charts/cachecluster";

/// Installs or upgrades the operator with these values of the chart, and waits until it is there.
///
/// # Errors
/// When Helm fails.
pub(crate) fn install(cluster: &Cluster, values: &[String]) -> Result<()> {
    let mut helm = cluster.helm()?;
    helm.args(["upgrade", "--install", RELEASE, CHART])
        .args(["--namespace", NAMESPACE, "--create-namespace"])
        .args(["--wait", "--timeout", "3m"]);
    if cluster.takes_images() {
        helm.args(["--set", &format!("image.tag={}", images::TAG)]);
        // The tag stays the same when the image changes; the annotation does not, and so the pods are replaced.
        let id = images::operator_id()?;
        helm.args(["--set-string", &format!("podAnnotations.image={id}")]);
    }
    for value in values {
        helm.args(["--set", value]);
    }
    command::run("helm", &mut helm)
}

/// Removes the operator and its CRD with every cache there is. For clusters that stay.
///
/// # Errors
/// When Helm or kubectl fails.
pub(crate) fn uninstall(cluster: &Cluster) -> Result<()> {
    // The caches first, while somebody is there who removes what belongs to them.
    let caches = "cacheclusters.cachecluster.io";
    let mut delete = cluster.kubectl()?;
    delete.args(["delete", caches, "--all", "--all-namespaces"]);
    delete.args(["--ignore-not-found", "--timeout=2m"]);
    let _ = command::output(&mut delete);
    let mut helm = cluster.helm()?;
    helm.args(["uninstall", RELEASE, "--namespace", NAMESPACE]);
    command::run("helm", helm.args(["--ignore-not-found", "--wait"]))?;
    for object in [format!("crd/{caches}"), format!("namespace/{NAMESPACE}")] {
        let mut delete = cluster.kubectl()?;
        command::output(delete.args(["delete", &object, "--ignore-not-found"]))?;
    }
    Ok(())
}
