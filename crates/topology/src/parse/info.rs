//! `INFO` and `CLUSTER INFO`: one `field:value` a line, `# Section` lines between.

use super::ParseError;

/// The fields of `INFO` that planning and status need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Server version as the engine reports it: Valkey's own where there is one, since its `redis_version` only says
    /// which Redis it is compatible with.
    pub version: String,
    /// Used memory, in bytes.
    pub used_memory: u64,
    /// Whether the data set is still being loaded.
    pub loading: bool,
    /// Bytes of replication stream that this node has written or passed on.
    pub master_repl_offset: u64,
    /// Bytes of replication stream that this replica has applied; `None` for a primary.
    pub slave_repl_offset: Option<u64>,
    /// Whether a replica's link to its primary is up; `false` for a primary.
    pub master_link_up: bool,
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
        loading: fields.number("loading")? != 0,
        master_repl_offset: fields.number("master_repl_offset")?,
        slave_repl_offset: fields
            .find("slave_repl_offset")
            .map(|(line, value)| fields.number_at(line, "slave_repl_offset", value))
            .transpose()?,
        master_link_up: fields
            .find("master_link_status")
            .is_some_and(|(_, status)| status == "up"),
        connected_replicas: fields.number("connected_slaves")?,
        keys,
    })
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

    const REPLICA: &str = "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.0.1\r\n\
        # Memory\r\nused_memory:1943216\r\nused_memory_human:1.85M\r\n# Persistence\r\nloading:0\r\nasync_loading:0\r\n\
        # Replication\r\nrole:slave\r\nmaster_host:10.0.0.1\r\nmaster_link_status:up\r\nslave_read_repl_offset:990\r\n\
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
                loading: false,
                master_repl_offset: 991,
                slave_repl_offset: Some(990),
                master_link_up: true,
                connected_replicas: 0,
                keys: 14,
            }
        );
    }

    #[test]
    fn what_is_missing_or_malformed_is_named() {
        let error = parse_info(&REPLICA.replace("loading:0", "")).unwrap_err();
        assert_eq!(error.to_string(), "INFO has no field loading");
        let error = parse_info(&REPLICA.replace(":1943216", ":much")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "INFO line 6: used_memory is not a number: \"much\""
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
