//! Counts what is asked of the API server.

use std::sync::Arc;

use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::util::MapRequestLayer;

use crate::metrics::Metrics;

/// A client whose requests are counted in `metrics`, watches apart.
///
/// # Errors
/// When the configuration is of no use.
pub fn counted(config: Config, metrics: Arc<Metrics>) -> kube::Result<Client> {
    let layer = MapRequestLayer::new(move |request: http::Request<Body>| {
        let verb = verb(request.method(), request.uri().query());
        metrics.requested(verb, resource(request.uri().path()));
        request
    });
    Ok(ClientBuilder::try_from(config)?.with_layer(&layer).build())
}

fn verb(method: &http::Method, query: Option<&str>) -> &'static str {
    let watches = |query: &str| query.split('&').any(|part| part == "watch=true");
    match method.as_str() {
        "GET" if query.is_some_and(watches) => "watch",
        "GET" => "get",
        "POST" => "create",
        "PATCH" => "patch",
        "PUT" => "update",
        "DELETE" => "delete",
        _ => "other",
    }
}

/// The plural of the kind that a path like `/apis/apps/v1/namespaces/a/deployments/b` is about.
fn resource(path: &str) -> &str {
    let mut parts = path.split('/').skip(1);
    // The core group has no name: `/api/v1/…`, but `/apis/apps/v1/…`.
    let before = match parts.next() {
        Some("api") => 1,
        Some("apis") => 2,
        _ => return "",
    };
    let mut rest = parts.skip(before);
    match (rest.next(), rest.next(), rest.next()) {
        (Some("namespaces"), Some(_), Some(resource)) | (Some(resource), ..) => resource,
        (None, ..) => "",
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn paths_tell_the_resource_and_never_a_name() {
        for (path, told) in [
            ("/api/v1/namespaces/a/pods/b", "pods"),
            ("/api/v1/pods", "pods"),
            (
                "/apis/cachecluster.io/v1alpha1/namespaces/a/cacheclusters/b/status",
                "cacheclusters",
            ),
            ("/apis/apps/v1/statefulsets", "statefulsets"),
            ("/version", ""),
            ("/apis", ""),
        ] {
            assert_eq!(resource(path), told, "{path}");
        }
    }

    #[test]
    fn a_watch_is_no_read() {
        let get = |query| verb(&Method::GET, query);
        assert_eq!(
            get(Some("limit=500&watch=true&timeoutSeconds=290")),
            "watch"
        );
        assert_eq!(get(Some("limit=500")), "get");
        assert_eq!(get(None), "get");
        assert_eq!(verb(&Method::PATCH, None), "patch");
    }
}
