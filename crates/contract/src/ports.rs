//! TCP ports, the same in every pod.

/// Redis clients.
pub const REDIS: u16 = 6379;
/// Redis Cluster's bus: gossip and votes. Redis fixes it at the client port plus 10000 by default.
pub const REDIS_BUS: u16 = 16379;
/// The agent's probes and metrics in each Redis pod.
pub const AGENT: u16 = 8379;
/// The HTTP cache API.
pub const API: u16 = 5000;
/// The API's probes and metrics.
pub const API_ADMIN: u16 = 9090;
/// The operator's probes and metrics.
pub const OPERATOR_ADMIN: u16 = 8080;

/// Name of the port [`REDIS`] in pods and Services.
pub const REDIS_NAME: &str = "redis";
/// Name of the port [`REDIS_BUS`].
pub const REDIS_BUS_NAME: &str = "bus";
/// Name of the port [`AGENT`].
pub const AGENT_NAME: &str = "agent";
/// Name of the port [`API`].
pub const API_NAME: &str = "http";
/// Name of the ports [`API_ADMIN`] and [`OPERATOR_ADMIN`].
pub const ADMIN_NAME: &str = "admin";

/// Kubelet probes, on the agent's, the API's and the operator's admin port.
pub const LIVEZ_PATH: &str = "/livez";
/// See [`LIVEZ_PATH`].
pub const READYZ_PATH: &str = "/readyz";
/// On the agent's admin port: whether this agent hears the node whose id is in the query's `node`, or its agent, now. JSON
/// `{"heard": bool}`; 404 for a node that its server does not know.
pub const HEARD_PATH: &str = "/heard";
/// On the agent's admin port: its [`Report`](crate::report::Report) as JSON.
pub const REPORT_PATH: &str = "/report";
/// On the agent's admin port: the [`News`](crate::news::News) as JSON, once there are any.
pub const NEWS_PATH: &str = "/news";
/// Prometheus metrics, on the same port as the probes.
pub const METRICS_PATH: &str = "/metrics";
