//! What is counted. Labels are of small fixed sets: route templates, never paths.

use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::extract::MatchedPath;
use axum::http::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Bounds of both latency histograms, in seconds: from a memory hit to a request that waited for a failover.
const SECONDS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// A label value that is its own name.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$what])* $variant),* }

        impl $name {
            /// The word on the label.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                encoder.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// A route template.
    Route {
        /// `POST /cache`.
        Cache = "/cache",
        /// `GET` and `DELETE`.
        Key = "/cache/{key}",
        /// Health.
        Health = "/health",
        /// Statistics.
        Stats = "/stats",
        /// No route of ours.
        Unmatched = "unmatched",
    }
}

impl Route {
    /// The template that a request matched.
    #[must_use]
    pub fn of(path: Option<&MatchedPath>) -> Self {
        match path.map(MatchedPath::as_str) {
            Some("/cache") => Self::Cache,
            Some("/cache/" | "/cache/{*key}") => Self::Key,
            Some("/health") => Self::Health,
            Some("/stats") => Self::Stats,
            _ => Self::Unmatched,
        }
    }
}

words! {
    /// An HTTP method.
    Method {
        /// GET.
        Get = "GET",
        /// HEAD.
        Head = "HEAD",
        /// POST.
        Post = "POST",
        /// PUT.
        Put = "PUT",
        /// DELETE.
        Delete = "DELETE",
        /// Any other.
        Other = "other",
    }
}

impl Method {
    /// The label of a method.
    #[must_use]
    pub fn of(method: &axum::http::Method) -> Self {
        match method.as_str() {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            _ => Self::Other,
        }
    }
}

words! {
    /// Why a command to Redis was tried again.
    Retry {
        /// The connection broke, or could not be made.
        Connection = "connection",
        /// No answer in time.
        Timeout = "timeout",
        /// The slot map changed while the command waited on the old owner.
        Rerouted = "rerouted",
        /// No node is known to own the slot.
        Uncovered = "uncovered",
        /// `CLUSTERDOWN`: the node does not see a majority, or the slot has no owner.
        ClusterDown = "cluster_down",
        /// `LOADING`: the server is reading its data.
        Loading = "loading",
        /// `READONLY`, `MASTERDOWN` or `UNBLOCKED`: the node is no primary any more, or not yet.
        NotPrimary = "not_primary",
        /// `TRYAGAIN`, or redirections that led nowhere: the slot is on the move, or nodes disagree.
        Moving = "moving",
        /// `NOREPLICAS`: too few replicas are in sync to accept a write.
        NoReplicas = "no_replicas",
        /// `BUSY`: a script or a module is in the way.
        Busy = "busy",
        /// The node does not accept our credentials; they may be changing.
        Credentials = "credentials",
    }
}

words! {
    /// How a node sent us to another.
    Redirect {
        /// For good.
        Moved = "moved",
        /// For this command.
        Ask = "ask",
    }
}

words! {
    /// How a refresh of the slot map ended.
    Refresh {
        /// Some node gave a map that covers something.
        Ok = "ok",
        /// None did.
        Failed = "failed",
    }
}

words! {
    /// Why the slot map was refreshed.
    Cause {
        /// It was time.
        Time = "time",
        /// Slots have no owner, nodes do not answer, or what they tell cannot be believed.
        Unsettled = "unsettled",
        /// A redirection or an error told that the map is not up to date.
        Told = "told",
        /// Requests wait for an answer or for a better time.
        Waiting = "waiting",
    }
}

words! {
    /// Why a connection to a node was closed.
    Dropped {
        /// It owed answers for too long and gave none.
        Silent = "silent",
        /// It was silent, and its node does not own the slot any more.
        Deposed = "deposed",
        /// The other side closed it, or said what is no answer.
        Broken = "broken",
        /// The password was changed under it.
        Credentials = "credentials",
        /// Nobody needs its node any more.
        Unused = "unused",
    }
}

words! {
    /// A command to Redis.
    Command {
        /// GET.
        Get = "get",
        /// SET.
        Set = "set",
        /// DEL.
        Del = "del",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: Route,
    method: Method,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefreshLabels {
    cause: Cause,
    result: Refresh,
}

/// A label set of one label.
macro_rules! one_label {
    ($name:ident, $label:ident: $type:ty) => {
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct $name {
            $label: $type,
        }
    };
}

one_label!(RouteLabel, route: Route);
one_label!(RetryLabel, reason: Retry);
one_label!(RedirectLabel, kind: Redirect);
one_label!(DroppedLabel, cause: Dropped);
one_label!(CommandLabel, command: Command);

type Timings<L> = Family<L, Histogram, fn() -> Histogram>;

fn timings<L: Clone + Eq + std::hash::Hash>() -> Timings<L> {
    Family::new_with_constructor(|| Histogram::new(SECONDS))
}

/// Every metric of the API.
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    durations: Timings<RouteLabel>,
    in_flight: Gauge,
    upstream: Timings<CommandLabel>,
    retries: Family<RetryLabel, Counter>,
    redirects: Family<RedirectLabel, Counter>,
    refreshes: Family<RefreshLabels, Counter>,
    dropped: Family<DroppedLabel, Counter>,
    slots_covered: Gauge<u64, AtomicU64>,
}

/// A request that is being worked on.
#[must_use]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Metrics at zero, registered as `cachecluster_api_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            durations: timings(),
            in_flight: Gauge::default(),
            upstream: timings(),
            retries: Family::default(),
            redirects: Family::default(),
            refreshes: Family::default(),
            dropped: Family::default(),
            slots_covered: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("cachecluster_api");
        registry.register("requests", "Requests answered", metrics.requests.clone());
        registry.register_with_unit(
            "request_duration",
            "Time from a request's head to its response",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        registry.register(
            "requests_in_flight",
            "Requests being worked on",
            metrics.in_flight.clone(),
        );
        registry.register_with_unit(
            "upstream_duration",
            "Time for one command to Redis, retries included",
            Unit::Seconds,
            metrics.upstream.clone(),
        );
        registry.register(
            "upstream_retries",
            "Commands to Redis tried again",
            metrics.retries.clone(),
        );
        registry.register(
            "upstream_redirects",
            "Redirections followed",
            metrics.redirects.clone(),
        );
        registry.register(
            "upstream_map_refreshes",
            "Refreshes of the slot map",
            metrics.refreshes.clone(),
        );
        registry.register(
            "upstream_connections_dropped",
            "Connections to Redis nodes that were closed",
            metrics.dropped.clone(),
        );
        registry.register(
            "upstream_slots_covered",
            "Slots with a known owner, of 16384",
            metrics.slots_covered.clone(),
        );
        metrics
    }

    /// Counts a request as being worked on until the guard drops.
    pub fn enter(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Counts an answered request.
    pub fn answered(&self, route: Route, method: Method, status: StatusCode, took: Duration) {
        let labels = RequestLabels {
            route,
            method,
            status: status.as_u16(),
        };
        self.requests.get_or_create(&labels).inc();
        self.durations
            .get_or_create(&RouteLabel { route })
            .observe(took.as_secs_f64());
    }

    /// Counts a command to Redis that has ended, well or not.
    pub fn upstream(&self, command: Command, took: Duration) {
        self.upstream
            .get_or_create(&CommandLabel { command })
            .observe(took.as_secs_f64());
    }

    /// Counts a command that is tried again.
    pub fn retry(&self, reason: Retry) {
        self.retries.get_or_create(&RetryLabel { reason }).inc();
    }

    /// Counts a redirection.
    pub fn redirect(&self, kind: Redirect) {
        self.redirects.get_or_create(&RedirectLabel { kind }).inc();
    }

    /// Counts a refresh of the slot map and what is covered since.
    pub fn refreshed(&self, cause: Cause, result: Refresh, covered: usize) {
        let labels = RefreshLabels { cause, result };
        self.refreshes.get_or_create(&labels).inc();
        self.slots_covered.set(covered as u64);
    }

    /// Counts a connection to a node that was closed.
    pub fn dropped(&self, cause: Dropped) {
        self.dropped.get_or_create(&DroppedLabel { cause }).inc();
    }
}
