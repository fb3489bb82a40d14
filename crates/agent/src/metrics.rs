//! What `/metrics` says of the server, from the last look at it. Scrapes ask nobody.

use std::fmt;

use cachecluster_topology::Role;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::board::{Board, Phase};
use crate::sample::{Info, Sample};

/// Metrics of the server and of the agent's care for it.
#[derive(Debug)]
pub struct ServerMetrics {
    board: Board,
}

/// Gauges that are fields of `INFO` as they are: our name, the field, what it says.
const GAUGES: &[(&str, &str, &str)] = &[
    (
        "uptime_seconds",
        "uptime_in_seconds",
        "Time since the server was started",
    ),
    (
        "memory_used_bytes",
        "used_memory",
        "Memory that the server has allocated",
    ),
    (
        "memory_rss_bytes",
        "used_memory_rss",
        "Memory of the server as the system sees it",
    ),
    (
        "memory_max_bytes",
        "maxmemory",
        "Bound of the data set, beyond which keys are evicted",
    ),
    (
        "memory_fragmentation_ratio",
        "mem_fragmentation_ratio",
        "Resident memory per allocated byte",
    ),
    (
        "connected_clients",
        "connected_clients",
        "Client connections",
    ),
    (
        "blocked_clients",
        "blocked_clients",
        "Clients that wait in a blocking command",
    ),
    (
        "connected_replicas",
        "connected_slaves",
        "Replicas that follow this server",
    ),
    (
        "rdb_changes_since_last_save",
        "rdb_changes_since_last_save",
        "Writes since the last snapshot",
    ),
    (
        "loading",
        "loading",
        "Whether the data set is being read from disk",
    ),
];

/// Counters that are fields of `INFO` as they are.
const COUNTERS: &[(&str, &str, &str)] = &[
    ("commands", "total_commands_processed", "Commands processed"),
    (
        "connections",
        "total_connections_received",
        "Client connections accepted",
    ),
    (
        "rejected_connections",
        "rejected_connections",
        "Connections refused because of maxclients",
    ),
    (
        "keyspace_hits",
        "keyspace_hits",
        "Reads that found their key",
    ),
    ("keyspace_misses", "keyspace_misses", "Reads that did not"),
    (
        "evicted_keys",
        "evicted_keys",
        "Keys evicted because of maxmemory",
    ),
    (
        "expired_keys",
        "expired_keys",
        "Keys whose time to live ended",
    ),
    (
        "net_input_bytes",
        "total_net_input_bytes",
        "Bytes read from the network",
    ),
    (
        "net_output_bytes",
        "total_net_output_bytes",
        "Bytes written to the network",
    ),
    ("full_syncs", "sync_full", "Full copies sent to replicas"),
    (
        "partial_syncs_accepted",
        "sync_partial_ok",
        "Resumed replications",
    ),
    (
        "partial_syncs_refused",
        "sync_partial_err",
        "Replications that could not be resumed",
    ),
];

/// Persistence states that `INFO` gives as `ok` or `err`.
const STATES: &[(&str, &str, &str)] = &[
    (
        "rdb_last_save_ok",
        "rdb_last_bgsave_status",
        "Whether the last snapshot succeeded",
    ),
    (
        "aof_last_write_ok",
        "aof_last_write_status",
        "Whether the last write to the append-only file succeeded",
    ),
    (
        "aof_last_rewrite_ok",
        "aof_last_bgrewrite_status",
        "Whether the last rewrite of the append-only file succeeded",
    ),
];

impl ServerMetrics {
    /// Metrics of what is on the board.
    #[must_use]
    pub fn new(board: Board) -> Self {
        Self { board }
    }
}

impl Collector for ServerMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let phase = self.board.phase().borrow().clone();
        page.counter(
            "restarts",
            "Starts of the server by its agent, after the first",
            self.board.restarts(),
        )?;
        page.counter(
            "server_kills",
            "Servers killed by their agent because they lived and did not answer",
            self.board.kills(),
        )?;
        page.gauge(
            "primary_silence_seconds",
            "For how long neither the primary that this server follows nor its agent has been heard",
            self.board.silence().as_secs_f64(),
        )?;
        page.promotions(&self.board)?;
        page.counter(
            "oom_kills",
            "Processes of the container that the system has killed for want of memory",
            self.board.oom().kills(),
        )?;
        if let Some(room) = self.board.room() {
            page.gauge(
                "volume_size_bytes",
                "Size of the volume with the data",
                room.size as f64,
            )?;
            page.gauge(
                "volume_free_bytes",
                "What the server may still fill of the volume with the data",
                room.free as f64,
            )?;
        }
        page.gauge(
            "held_back",
            "Whether the server is held back until a replica has taken over",
            f64::from(u8::from(phase == Phase::Holding)),
        )?;
        page.gauge(
            "fenced",
            "Whether the server is kept stopped because its pod is fenced",
            f64::from(u8::from(matches!(phase, Phase::Fencing | Phase::Fenced))),
        )?;
        let running = matches!(phase, Phase::Running(_) | Phase::Stopping | Phase::Fencing);
        let sample = self.board.sample().filter(|_| running);
        page.gauge(
            "up",
            "Whether the server runs and has answered",
            f64::from(u8::from(sample.is_some())),
        )?;
        match sample {
            Some(sample) => page.sample(&sample),
            None => Ok(()),
        }
    }
}

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn sample(&mut self, sample: &Sample) -> fmt::Result {
        let info = &sample.info;
        for (name, field, help) in GAUGES {
            if let Some(value) = info.number(field) {
                self.gauge(name, help, value)?;
            }
        }
        for (name, field, help) in COUNTERS {
            if let Some(value) = info.number(field) {
                self.counter(name, help, value)?;
            }
        }
        for (name, field, help) in STATES {
            if let Some(state) = info.text(field) {
                self.gauge(name, help, f64::from(u8::from(state == "ok")))?;
            }
        }
        self.gauge("keys", "Keys in all databases", info.keys() as f64)?;
        self.replication(info)?;
        if let Some(view) = &sample.view {
            let role = match view.role {
                Role::Primary => "primary",
                Role::Replica => "replica",
            };
            let help = "What the server does in its shard, as a label; always 1";
            let gauge = ConstGauge::new(1_i64);
            let mut encoder = self
                .0
                .encode_descriptor("role", help, None, gauge.metric_type())?;
            gauge.encode(encoder.encode_family(&[("role", role)])?)?;
            self.gauge(
                "slots",
                "Slots that the server owns",
                view.slots.len() as f64,
            )?;
            self.gauge(
                "cluster_ok",
                "Whether the server considers the cluster able to serve",
                f64::from(u8::from(view.cluster_ok)),
            )?;
            self.gauge(
                "cluster_known_nodes",
                "Nodes that the server knows, itself included",
                view.known.len() as f64 + 1.0,
            )?;
        }
        Ok(())
    }

    fn promotions(&mut self, board: &Board) -> fmt::Result {
        let help = "Attempts of this agent to have a replica of its shard promoted because the primary died in silence";
        let kind = ConstCounter::new(0_u64).metric_type();
        let mut encoder = self
            .0
            .encode_descriptor("vigil_promotions", help, None, kind)?;
        for (outcome, won) in [("failed", false), ("promoted", true)] {
            let counter = ConstCounter::new(board.promotions(won));
            counter.encode(encoder.encode_family(&[("outcome", outcome)])?)?;
        }
        Ok(())
    }

    fn replication(&mut self, info: &Info) -> fmt::Result {
        match info.text("master_link_status") {
            Some(link) => {
                self.gauge(
                    "replication_link_up",
                    "Whether this replica hears its primary",
                    f64::from(u8::from(link == "up")),
                )?;
                // -1 while the link is down.
                let silent: Option<i64> = info.number("master_last_io_seconds_ago");
                match silent.filter(|seconds| *seconds >= 0) {
                    Some(seconds) => self.gauge(
                        "replication_last_io_seconds",
                        "Time since this replica heard its primary",
                        seconds as f64,
                    ),
                    None => Ok(()),
                }
            }
            None => {
                let written = info.number::<u64>("master_repl_offset").unwrap_or(0);
                match info.acknowledged().min() {
                    Some(least) => self.gauge(
                        "replication_lag_bytes",
                        "Bytes of this primary's replication stream that its slowest replica has not acknowledged",
                        written.saturating_sub(least) as f64,
                    ),
                    None => Ok(()),
                }
            }
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        let encoder = self
            .0
            .encode_descriptor(name, help, None, gauge.metric_type())?;
        gauge.encode(encoder)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        let encoder = self
            .0
            .encode_descriptor(name, help, None, counter.metric_type())?;
        counter.encode(encoder)
    }
}
