//! What CacheCluster promises, one scenario each.

mod chart;
mod deletion;
mod durable;
mod faults;
mod fencing;
mod idle;
mod kustomize;
mod operator;
mod outage;
mod partition;
mod power;
mod quickstart;
mod refusal;
mod repair;
mod replicas;
mod rolling;
mod shapes;
mod status;
mod storage;
mod survival;
mod tenancy;

use anyhow::Result;
use futures::future::LocalBoxFuture;

use crate::cluster::Ctx;
use crate::figure::Figure;

/// When a scenario may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Before the others and alone, because it measures.
    First,
    /// Beside others: it touches nothing outside its namespace.
    Together,
    /// After the others and alone, because it disturbs the operator.
    Last,
}

/// Where a scenario may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On any cluster.
    Anywhere,
    /// Only where nodes can be powered off: on the testbed.
    Testbed,
}

/// A scenario: what is promised, and the proof.
#[derive(Clone)]
pub(crate) struct Scenario {
    /// Its name, for filters, and part of its namespace's name.
    pub(crate) name: &'static str,
    /// The promise, in one sentence.
    pub(crate) promise: &'static str,
    /// When it may run.
    pub(crate) turn: Turn,
    /// Where it may run.
    pub(crate) place: Place,
    /// It takes so long that it runs only when somebody names it.
    pub(crate) on_request: bool,
    /// Proves it: the figures it measured, or how the promise was broken.
    pub(crate) run: Proof,
}

/// The body of a scenario. It stays on the task that started it.
pub(crate) type Proof = for<'a> fn(&'a Ctx) -> LocalBoxFuture<'a, Result<Vec<Figure>>>;

impl Scenario {
    fn new(name: &'static str, turn: Turn, promise: &'static str, run: Proof) -> Self {
        Self {
            name,
            promise,
            turn,
            place: Place::Anywhere,
            on_request: false,
            run,
        }
    }

    /// The same, for one place only.
    fn only(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// The same, for those who name it.
    fn on_request(mut self) -> Self {
        self.on_request = true;
        self
    }
}

/// Every scenario, in the order in which they start; those that take longest come first among those that run together.
pub(crate) fn all() -> Vec<Scenario> {
    [
        quickstart::scenarios(),
        idle::scenarios(),
        survival::scenarios(),
        faults::scenarios(),
        outage::scenarios(),
        rolling::scenarios(),
        storage::scenarios(),
        replicas::scenarios(),
        shapes::scenarios(),
        durable::scenarios(),
        fencing::scenarios(),
        repair::scenarios(),
        tenancy::scenarios(),
        deletion::scenarios(),
        status::scenarios(),
        refusal::scenarios(),
        operator::scenarios(),
        chart::scenarios(),
        kustomize::scenarios(),
        partition::scenarios(),
        // The last, so that pods of a node that was away disturb nobody.
        power::scenarios(),
    ]
    .concat()
}
