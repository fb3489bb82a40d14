//! What the operator tells Prometheus. Labels come from enums, never from names of objects.

use std::time::Duration;

use cachecluster_crd::Phase;
use cachecluster_telemetry::process;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// All metrics. Clones are one.
#[derive(Clone)]
pub struct Metrics {
    passes: Histogram,
    errors: Family<Kind, Counter>,
    actions: Family<ActionLabels, Counter>,
    writes: Family<Kind, Counter>,
    requests: Family<RequestLabels, Counter>,
    clusters: Family<PhaseLabel, Gauge>,
    leader: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            // From a pass that finds nothing to do to one that runs into its deadline, in seconds.
            passes: Histogram::new([
                0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
            ]),
            errors: Family::default(),
            actions: Family::default(),
            writes: Family::default(),
            requests: Family::default(),
            clusters: Family::default(),
            leader: Gauge::default(),
        }
    }
}

impl Metrics {
    /// A registry that prints them.
    #[must_use]
    pub fn registry(&self) -> Registry {
        let mut registry = process::registry();
        let ours = registry.sub_registry_with_prefix("cachecluster_operator");
        ours.register(
            "reconcile_duration_seconds",
            "Time of one pass over one cluster",
            self.passes.clone(),
        );
        ours.register(
            "reconcile_errors",
            "Passes that failed, by the step that failed",
            self.errors.clone(),
        );
        ours.register(
            "topology_actions",
            "Actions on live Redis nodes, by kind and outcome",
            self.actions.clone(),
        );
        ours.register(
            "api_writes",
            "Writes to the API server, by kind of object",
            self.writes.clone(),
        );
        ours.register(
            "api_requests",
            "Requests to the API server but those of the lease, by verb and kind of object",
            self.requests.clone(),
        );
        ours.register("clusters", "Clusters, by phase", self.clusters.clone());
        ours.register(
            "leader",
            "1 while this replica is the leader",
            self.leader.clone(),
        );
        registry
    }

    /// A pass ended.
    pub fn passed(&self, took: Duration) {
        self.passes.observe(took.as_secs_f64());
    }

    /// A pass failed at `step`.
    pub fn failed(&self, step: &'static str) {
        self.errors.get_or_create(&Kind { kind: step }).inc();
    }

    /// An action on the topology was carried out, or not.
    pub fn acted(&self, kind: &'static str, done: bool) {
        let outcome = if done { "done" } else { "failed" };
        self.actions
            .get_or_create(&ActionLabels { kind, outcome })
            .inc();
    }

    /// An object was written.
    pub fn wrote(&self, kind: &'static str) {
        self.writes.get_or_create(&Kind { kind }).inc();
    }

    /// Something was asked of the API server.
    pub fn requested(&self, verb: &'static str, resource: &str) {
        let resource = resource.to_owned();
        self.requests
            .get_or_create(&RequestLabels { verb, resource })
            .inc();
    }

    /// How many clusters are in each phase.
    pub fn count_phases(&self, phases: impl IntoIterator<Item = Option<Phase>>) {
        let mut counts = [0_i64; PHASES.len()];
        for phase in phases {
            // A cluster without a status is about to be created.
            let phase = phase.unwrap_or(Phase::Creating);
            for (count, (known, _)) in counts.iter_mut().zip(PHASES) {
                *count += i64::from(known == phase);
            }
        }
        for (count, (_, name)) in counts.into_iter().zip(PHASES) {
            self.clusters
                .get_or_create(&PhaseLabel { phase: name })
                .set(count);
        }
    }

    /// Whether this replica leads.
    pub fn lead(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }
}

const PHASES: [(Phase, &str); 6] = [
    (Phase::Invalid, "Invalid"),
    (Phase::Creating, "Creating"),
    (Phase::Ready, "Ready"),
    (Phase::Degraded, "Degraded"),
    (Phase::Paused, "Paused"),
    (Phase::Deleting, "Deleting"),
];
