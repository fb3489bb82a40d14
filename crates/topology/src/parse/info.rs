//! `INFO` and `CLUSTER INFO`: one `field:value` a line, `# Section` lines between.

use std::net::IpAddr;

use super::ParseError;
use crate::model::{FailedSaves, Standing};

/// The fields of `INFO` that planning and status need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Server version as the engine reports it: Valkey's own where there is one, since its `redis_version` only says
    /// which Redis it is compatible with.
    pub version: String,
    /// Used memory, in bytes.
    pub used_memory: u64,
    /// For how long the process has run, in seconds.
    pub uptime_seconds: u64,
    /// Whether the data set is still being loaded.
    pub loading: bool,
    /// What could not be written to disk. Nothing is planned upon that: an engine that does not say is believed to fail at
    /// nothing.
    pub failed_saves: FailedSaves,
    /// Bytes of replication stream that this node has written or passed on.
    pub master_repl_offset: u64,
    /// Bytes of replication stream that this replica has applied; `None` for a primary.
    pub slave_repl_offset: Option<u64>,
    /// Whether a replica's link to its primary is up; `false` for a primary.
    pub master_link_up: bool,
    /// For how many seconds a replica has not heard its primary; `None` if it has not since its start, or is a primary.
    pub unheard_seconds: Option<u64>,
    /// Where a replica looks for its primary (`master_host`, `master_port`); `None` for a primary, and where the host is
    /// a name.
    pub dials: Option<(IpAddr, u16)>,
    /// Where the replicas are that are online and acknowledged something in the last [`Standing::LAG_SECONDS`].
    pub attached: Vec<(IpAddr, u16)>,
    /// Replicas that are connected to this node.
    pub connected_replicas: u64,
    /// Keys in all databases (Valkey 9 has several in cluster mode, too): a node is only empty when all of them are.
    pub keys: u64,
}

/// Reads `INFO` with at least the sections server, memory, persistence and replication; keyspace lists only databases
/// that hold a key, so its absence means none.
///
/// # Errors
/// When a needed field is missing or is not what it should be.
pub fn parse_info(text: &str) -> Result<Info, ParseError> {
    let fields = Fields::of("INFO", text);
    let keys = fields
        .all()
        .filter(|(_, name, _)| is_database(name))
        .map(|(line, name, value)| {
            let keys = value
                .split(',')
                .find_map(|part| part.strip_prefix("keys="))
                .unwrap_or(value);
            fields.number_at(line, name, keys)
        })
        .sum::<Result<u64, _>>()?;
    Ok(Info {
        version: match fields.find("valkey_version") {
            Some((_, version)) => version,
            None => fields.require("redis_version")?.1,
        }
        .to_owned(),
        used_memory: fields.number("used_memory")?,
        uptime_seconds: fields
            .find("uptime_in_seconds")
            .map(|(line, value)| fields.number_at(line, "uptime_in_seconds", value))
            .transpose()?
            .unwrap_or(0),
        loading: fields.number("loading")? != 0,
        failed_saves: FailedSaves {
            snapshot: fields.is_error("rdb_last_bgsave_status"),
            append: fields.is_error("aof_last_write_status"),
            rewrite: fields.is_error("aof_last_bgrewrite_status"),
        },
        master_repl_offset: fields.number("master_repl_offset")?,
        slave_repl_offset: fields
            .find("slave_repl_offset")
            .map(|(line, value)| fields.number_at(line, "slave_repl_offset", value))
            .transpose()?,
        master_link_up: fields
            .find("master_link_status")
            .is_some_and(|(_, status)| status == "up"),
        // One of the two: the second while the link is down, and -1 if it was never up.
        unheard_seconds: [
            "master_link_down_since_seconds",
            "master_last_io_seconds_ago",
        ]
        .iter()
        .find_map(|field| fields.find(field))
        .and_then(|(_, seconds)| seconds.parse().ok()),
        dials: dials(&fields),
        attached: attached(&fields),
        connected_replicas: fields.number("connected_slaves")?,
        keys,
    })
}

fn dials(fields: &Fields<'_>) -> Option<(IpAddr, u16)> {
    let (_, host) = fields.find("master_host")?;
    let (_, port) = fields.find("master_port")?;
    Some((host.parse().ok()?, port.parse().ok()?))
}

/// From lines like `slave0:ip=10.0.0.2,port=6379,state=online,offset=70,lag=1`.
fn attached(fields: &Fields<'_>) -> Vec<(IpAddr, u16)> {
    let lines = fields.all().filter(|(_, name, _)| {
        let number = name.strip_prefix("slave");
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    });
    lines
        .filter_map(|(_, _, value)| {
            let part = |name: &str| {
                let mut parts = value.split(',').filter_map(|part| part.split_once('='));
                parts.find(|(key, _)| *key == name).map(|(_, value)| value)
            };
            let lag: u64 = part("lag")?.parse().ok()?;
            let good = part("state") == Some("online") && lag <= Standing::LAG_SECONDS;
            let addr = (part("ip")?.parse().ok()?, part("port")?.parse().ok()?);
            good.then_some(addr)
        })
        .collect()
}

/// The fields of `CLUSTER INFO` that planning needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterInfo {
    /// `cluster_state:ok`: the node serves.
    pub state_ok: bool,
    /// The highest epoch that the node has heard of.
    pub current_epoch: u64,
}

/// Reads `CLUSTER INFO`.
///
/// # Errors
/// When a needed field is missing or is not what it should be.
pub fn parse_cluster_info(text: &str) -> Result<ClusterInfo, ParseError> {
    let fields = Fields::of("CLUSTER INFO", text);
    Ok(ClusterInfo {
        state_ok: fields.require("cluster_state")?.1 == "ok",
        current_epoch: fields.number("cluster_current_epoch")?,
    })
}

fn is_database(name: &str) -> bool {
    name.strip_prefix("db")
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// The lines of one answer. Scanned once for each wanted field: they are few, and an index would cost more.
struct Fields<'t> {
    command: &'static str,
    text: &'t str,
}

impl<'t> Fields<'t> {
    fn of(command: &'static str, text: &'t str) -> Self {
        Self { command, text }
    }

    /// Line number from 1, name and value of every field.
    fn all(&self) -> impl Iterator<Item = (usize, &'t str, &'t str)> {
        self.text.lines().enumerate().filter_map(|(index, line)| {
            let (name, value) = line.split_once(':')?;
            Some((index + 1, name.trim(), value.trim()))
        })
    }

    fn find(&self, field: &str) -> Option<(usize, &'t str)> {
        self.all()
            .find(|(_, name, _)| *name == field)
            .map(|(line, _, value)| (line, value))
    }

    fn require(&self, field: &'static str) -> Result<(usize, &'t str), ParseError> {
        self.find(field).ok_or(ParseError::Missing {
            command: self.command,
            field,
        })
    }

    fn is_error(&self, field: &str) -> bool {
        self.find(field).is_some_and(|(_, status)| status == "err")
    }

    fn number(&self, field: &'static str) -> Result<u64, ParseError> {
        let (line, value) = self.require(field)?;
        self.number_at(line, field, value)
    }

    fn number_at(&self, line: usize, field: &str, value: &str) -> Result<u64, ParseError> {
        // An offset of -1 means that there is none.
        if value == "-1" {
            return Ok(0);
        }
        value.parse().map_err(|_| ParseError::Field {
            command: self.command,
            line,
            field: field.to_owned(),
            wanted: "a number",
            value: value.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLICA: &str = "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.0.1\r\nuptime_in_seconds:77\r\n\
        # Memory\r\nused_memory:1943216\r\nused_memory_human:1.85M\r\n# Persistence\r\nloading:0\r\nasync_loading:0\r\n\
        # Replication\r\nrole:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\nmaster_link_status:up\r\nmaster_last_io_seconds_ago:1\r\nslave_read_repl_offset:990\r\n\
        slave_repl_offset:990\r\nconnected_slaves:0\r\nmaster_repl_offset:991\r\n\
        # Keyspace\r\ndb0:keys=12,expires=1,avg_ttl=0\r\ndb3:keys=2,expires=0,avg_ttl=0\r\n";

    #[test]
    fn a_valkey_replica() {
        let info = parse_info(REPLICA).unwrap();
        assert_eq!(
            info,
            Info {
                version: "9.0.1".to_owned(),
                used_memory: 1_943_216,
                uptime_seconds: 77,
                loading: false,
                failed_saves: FailedSaves::default(),
                master_repl_offset: 991,
                slave_repl_offset: Some(990),
                master_link_up: true,
                unheard_seconds: Some(1),
                dials: Some(([10, 0, 0, 1].into(), 6379)),
                attached: Vec::new(),
                connected_replicas: 0,
                keys: 14,
            }
        );
    }

    #[test]
    fn each_failing_save_is_told_from_the_others() {
        let failing = |status: &str| {
            let text = REPLICA.replace("loading:0", &format!("loading:0\r\n{status}"));
            parse_info(&text).unwrap().failed_saves
        };
        let none = FailedSaves::default();
        assert_eq!(failing("rdb_last_bgsave_status:ok"), none);
        assert!(!none.any());
        let snapshot = FailedSaves {
            snapshot: true,
            ..none
        };
        assert_eq!(failing("rdb_last_bgsave_status:err"), snapshot);
        let append = FailedSaves {
            append: true,
            ..none
        };
        assert_eq!(failing("aof_last_write_status:err"), append);
        let rewrite = FailedSaves {
            rewrite: true,
            ..none
        };
        assert_eq!(failing("aof_last_bgrewrite_status:err"), rewrite);
        assert!(snapshot.any() && append.any() && rewrite.any());
    }

    #[test]
    fn who_hears_whom_is_told_by_both_sides() {
        let unheard = |text: &str| {
            let text = REPLICA.replace("master_last_io_seconds_ago:1", text);
            parse_info(&text).unwrap().unheard_seconds
        };
        assert_eq!(
            unheard("master_last_io_seconds_ago:-1\r\nmaster_link_down_since_seconds:7"),
            Some(7)
        );
        assert_eq!(unheard("master_link_down_since_seconds:-1"), None);
        assert_eq!(unheard("nothing:0"), None);

        let primary = REPLICA.replace(
            "connected_slaves:0",
            "connected_slaves:3\r\nslave0:ip=10.0.0.2,port=6379,state=online,offset=70,lag=1\r\n\
             slave1:ip=10.0.0.3,port=6379,state=online,offset=70,lag=9\r\n\
             slave2:ip=10.0.0.4,port=6379,state=wait_bgsave,offset=0,lag=0\r\nslave_priority:100",
        );
        let attached = parse_info(&primary).unwrap().attached;
        assert_eq!(attached, [([10, 0, 0, 2].into(), 6379)]);
    }

    #[test]
    fn what_is_missing_or_malformed_is_named() {
        let error = parse_info(&REPLICA.replace("loading:0", "")).unwrap_err();
        assert_eq!(error.to_string(), "INFO has no field loading");
        let error = parse_info(&REPLICA.replace(":1943216", ":much")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "INFO line 7: used_memory is not a number: \"much\""
        );
        let error = parse_cluster_info("cluster_state:ok\r\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "CLUSTER INFO has no field cluster_current_epoch"
        );
    }

    #[test]
    fn cluster_state_and_epoch() {
        let text = "cluster_state:fail\r\ncluster_slots_assigned:0\r\ncluster_current_epoch:6\r\n";
        assert_eq!(
            parse_cluster_info(text).unwrap(),
            ClusterInfo {
                state_ok: false,
                current_epoch: 6
            }
        );
    }
}
