//! An API server in memory: as much of one as passes need.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use cachecluster_operator::stores::{Guarded, Stores};
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Client;
use kube::client::Body;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Lookup, store};
use kube::runtime::watcher::Event;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The server. Clones are one.
#[derive(Clone, Default)]
pub(crate) struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    requests: Vec<String>,
    events: Vec<String>,
    refused: BTreeMap<String, Value>,
    hanging: BTreeSet<String>,
}

impl Server {
    /// A client of it. Must be called within a runtime.
    pub(crate) fn client(&self) -> Client {
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let server = self.clone();
        tokio::spawn(async move {
            while let Some((request, answer)) = handle.next_request().await {
                let server = server.clone();
                tokio::spawn(async move {
                    match server.serve(request).await {
                        Some(response) => answer.send_response(response),
                        // Keeps the request open until the runtime ends.
                        None => {
                            std::future::pending::<()>().await;
                            drop(answer);
                        }
                    }
                });
            }
        });
        Client::new(service, "default")
    }

    /// Puts an object there as if a user had.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.state().store(path, object);
    }

    /// The object at a path.
    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }

    /// Changes an object as if somebody else had.
    pub(crate) fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        let mut object = state.objects[path].clone();
        change(&mut object);
        state.store(path, object);
    }

    /// Deletes an object.
    pub(crate) fn delete(&self, path: &str) {
        self.state().objects.remove(path);
    }

    /// Answers this request (method and path) with an error from now on.
    pub(crate) fn refuse(&self, request: &str) {
        let code = StatusCode::INTERNAL_SERVER_ERROR;
        self.refuse_with(request, refusal(code, "InternalError"));
    }

    /// Answers this request with this `Status` from now on.
    pub(crate) fn refuse_with(&self, request: &str, status: Value) {
        self.state().refused.insert(request.to_owned(), status);
    }

    /// Never answers this request.
    pub(crate) fn hang(&self, request: &str) {
        self.state().hanging.insert(request.to_owned());
    }

    /// What was asked since the last call, in order; events left out.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state().requests)
    }

    /// Reasons of the events that were published, in order.
    pub(crate) fn events(&self) -> Vec<String> {
        self.state().events.clone()
    }

    /// Paths of all objects, sorted.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// `None` for a request that is never answered.
    async fn serve(&self, request: Request<Body>) -> Option<Response<Body>> {
        let (head, body) = request.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let path = head.uri.path().to_owned();
        let asked = format!("{} {path}", head.method);
        let mut state = self.state();
        if path.contains("/events") {
            state
                .events
                .extend(body["reason"].as_str().map(str::to_owned));
            return Some(respond(StatusCode::CREATED, &body));
        }
        state.requests.push(asked.clone());
        if state.hanging.contains(&asked) {
            return None;
        }
        if let Some(status) = state.refused.get(&asked) {
            let code = status["code"].as_u64().unwrap().try_into().unwrap();
            return Some(respond(StatusCode::from_u16(code).unwrap(), status));
        }
        Some(match head.method {
            Method::GET => match state.objects.get(&path) {
                Some(object) => respond(StatusCode::OK, object),
                None => failure(StatusCode::NOT_FOUND, "NotFound"),
            },
            Method::POST => {
                let name = body["metadata"]["name"].as_str().unwrap();
                let path = format!("{path}/{name}");
                if state.objects.contains_key(&path) {
                    failure(StatusCode::CONFLICT, "AlreadyExists")
                } else {
                    respond(StatusCode::CREATED, &state.store(&path, body))
                }
            }
            Method::PATCH => match path.strip_suffix("/status") {
                Some(path) => {
                    let mut object = state.objects[path].clone();
                    let over = &body["metadata"]["resourceVersion"];
                    if !over.is_null() && *over != object["metadata"]["resourceVersion"] {
                        return Some(failure(StatusCode::CONFLICT, "Conflict"));
                    }
                    for (field, value) in body["status"].as_object().unwrap() {
                        if value.is_null() {
                            object["status"].as_object_mut().unwrap().remove(field);
                        } else {
                            object["status"][field] = value.clone();
                        }
                    }
                    respond(StatusCode::OK, &state.store(path, object))
                }
                // Otherwise an apply, which says all there is.
                None if head.headers[CONTENT_TYPE] == "application/merge-patch+json" => {
                    let mut object = state.objects[&path].clone();
                    for (field, value) in body["data"].as_object().into_iter().flatten() {
                        object["data"][field] = value.clone();
                    }
                    let labels = body["metadata"]["labels"].as_object();
                    for (label, value) in labels.into_iter().flatten() {
                        object["metadata"]["labels"][label] = value.clone();
                    }
                    if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
                        labels.retain(|_, value| !value.is_null());
                    }
                    respond(StatusCode::OK, &state.store(&path, object))
                }
                None => respond(StatusCode::OK, &state.store(&path, body)),
            },
            _ => failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        })
    }
}

impl State {
    /// Stores an object with what a server adds to it, and returns that.
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let former = self.objects.get(path);
        let uid = former.map_or_else(
            || json!(format!("uid-of-{path}")),
            |former| former["metadata"]["uid"].clone(),
        );
        object["metadata"]["uid"] = uid;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        object["metadata"]["generation"] = json!(1);
        if object["kind"] == "StatefulSet" {
            object["status"] = json!({"replicas": 0, "observedGeneration": 1});
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }
}

fn respond(status: StatusCode, body: &Value) -> Response<Body> {
    Response::builder()
        .status(status)
        .body(Body::from(serde_json::to_vec(body).unwrap()))
        .unwrap()
}

fn failure(code: StatusCode, reason: &str) -> Response<Body> {
    respond(code, &refusal(code, reason))
}

fn refusal(code: StatusCode, reason: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "reason": reason, "message": reason, "code": code.as_u16(),
    })
}

/// The writing ends of an operator's stores.
pub(crate) struct Watches {
    clusters: Writer<Guarded>,
    stateful_sets: Writer<StatefulSet>,
    deployments: Writer<Deployment>,
    pods: Writer<Pod>,
    services: Writer<Service>,
    config_maps: Writer<ConfigMap>,
    secrets: Writer<PartialObjectMeta<Secret>>,
    service_accounts: Writer<ServiceAccount>,
    budgets: Writer<PodDisruptionBudget>,
    policies: Writer<NetworkPolicy>,
    frozen: bool,
}

/// Stores as an operator has them, empty, and their writing ends.
pub(crate) fn watches() -> (Stores, Watches) {
    let (a, clusters) = store();
    let (b, stateful_sets) = store();
    let (c, deployments) = store();
    let (d, pods) = store();
    let (e, services) = store();
    let (f, config_maps) = store();
    let (g, secrets) = store();
    let (h, service_accounts) = store();
    let (i, budgets) = store();
    let (j, policies) = store();
    let stores = Stores {
        clusters: a,
        stateful_sets: b,
        deployments: c,
        pods: d,
        services: e,
        config_maps: f,
        secrets: g,
        service_accounts: h,
        budgets: i,
        policies: j,
    };
    let watches = Watches {
        clusters,
        stateful_sets,
        deployments,
        pods,
        services,
        config_maps,
        secrets,
        service_accounts,
        budgets,
        policies,
        frozen: false,
    };
    (stores, watches)
}

impl Watches {
    /// From now on the watches tell nothing new.
    pub(crate) fn freeze(&mut self) {
        self.frozen = true;
    }

    /// Tells the stores what the server has, as far as the operator's label selects it.
    pub(crate) fn catch_up(&mut self, server: &Server) {
        if self.frozen {
            return;
        }
        let objects = server.state().objects.clone();
        fill(&mut self.clusters, &objects, "CacheCluster");
        let ours = objects
            .into_iter()
            .filter(|(_, object)| {
                object["metadata"]["labels"]["app.kubernetes.io/managed-by"]
                    == "cachecluster-operator"
            })
            .collect();
        fill(&mut self.stateful_sets, &ours, "StatefulSet");
        fill(&mut self.deployments, &ours, "Deployment");
        fill(&mut self.pods, &ours, "Pod");
        fill(&mut self.services, &ours, "Service");
        fill(&mut self.config_maps, &ours, "ConfigMap");
        fill(&mut self.secrets, &ours, "Secret");
        fill(&mut self.service_accounts, &ours, "ServiceAccount");
        fill(&mut self.budgets, &ours, "PodDisruptionBudget");
        fill(&mut self.policies, &ours, "NetworkPolicy");
    }
}

fn fill<K>(writer: &mut Writer<K>, objects: &BTreeMap<String, Value>, kind: &str)
where
    K: Lookup<DynamicType = ()> + Clone + DeserializeOwned + 'static,
{
    writer.apply_watcher_event(&Event::Init);
    for object in objects.values().filter(|object| object["kind"] == kind) {
        let object = serde_json::from_value(object.clone()).unwrap();
        writer.apply_watcher_event(&Event::InitApply(object));
    }
    writer.apply_watcher_event(&Event::InitDone);
}
