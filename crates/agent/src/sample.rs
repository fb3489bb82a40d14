//! What the server says of itself at one moment.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use cachecluster_redis_admin::Connection;
use cachecluster_topology::NodeView;

/// One look at the server.
#[derive(Clone, Debug)]
pub struct Sample {
    /// All of `INFO`.
    pub info: Info,
    /// Its place in the cluster. `None` while it loads its data set and an older engine does not tell.
    pub view: Option<NodeView>,
}

/// The fields of `INFO`, by name.
#[derive(Clone, Debug, Default)]
pub struct Info(BTreeMap<String, String>);

impl Info {
    /// Reads the text of `INFO`. Lines that are no fields are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(
            text.lines()
                .filter_map(|line| line.trim_end().split_once(':'))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        )
    }

    /// A field's value.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A field's value as a number, if it is there and is one.
    #[must_use]
    pub fn number<N: FromStr>(&self, name: &str) -> Option<N> {
        self.text(name)?.parse().ok()
    }

    /// Whether the server still reads its data set from disk.
    #[must_use]
    pub fn loading(&self) -> bool {
        self.number::<u8>("loading").unwrap_or(0) != 0
    }

    /// Keys in all databases.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.0
            .iter()
            .filter(|(name, _)| {
                name.strip_prefix("db")
                    .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
            })
            .filter_map(|(_, value)| part(value, "keys")?.parse::<u64>().ok())
            .sum()
    }

    /// How many bytes each connected replica has acknowledged.
    pub fn acknowledged(&self) -> impl Iterator<Item = u64> {
        self.connected()
            .filter_map(|replica| part(replica, "offset")?.parse().ok())
    }

    /// Where the connected replicas are. A primary knows its replication links at once, while gossip takes a moment.
    pub fn replicas(&self) -> impl Iterator<Item = (IpAddr, u16)> {
        self.connected().filter_map(address)
    }

    /// Where the connected replicas are that are still being sent a copy of the data set, or wait for it to begin.
    pub fn copying(&self) -> impl Iterator<Item = (IpAddr, u16)> {
        self.connected()
            .filter(|replica| part(replica, "state").is_some_and(|state| state != "online"))
            .filter_map(address)
    }

    /// Connected replicas as their primary lists them: `slave0:ip=…,port=…,state=online,offset=…`.
    fn connected(&self) -> impl Iterator<Item = &str> {
        (0..self.number::<u32>("connected_slaves").unwrap_or(0))
            .filter_map(|i| self.text(&format!("slave{i}")))
    }
}

/// Of a replica, as its primary lists it.
fn address(replica: &str) -> Option<(IpAddr, u16)> {
    let ip = part(replica, "ip")?.parse().ok()?;
    Some((ip, part(replica, "port")?.parse().ok()?))
}

/// The value of `name` in `a=1,b=2`.
fn part<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    list.split(',')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// Why there is no sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unheard {
    /// For people.
    pub reason: String,
    /// Whether nothing came at all. A refusal is a sign of life: of a server that is busy with a script, that has no place
    /// for another client, or whose password is another.
    pub silent: bool,
}

/// Asks the server, in one round trip.
///
/// # Errors
/// When it does not answer, or refuses.
pub async fn take(connection: &mut Connection) -> Result<Sample, Unheard> {
    let questions: [&[&str]; 3] = [&["INFO"], &["CLUSTER", "NODES"], &["CLUSTER", "INFO"]];
    let answers = connection.texts(&questions).await;
    let answers = answers.map_err(|error| Unheard {
        reason: error.to_string(),
        silent: error.is_timeout() || error.is_connection_refusal(),
    });
    let mut answers = answers?.into_iter();
    let (Some(info), Some(nodes), Some(cluster)) = (answers.next(), answers.next(), answers.next())
    else {
        return Err(Unheard {
            reason: "fewer answers than questions".to_owned(),
            silent: false,
        });
    };
    let info = info.map_err(|error| Unheard {
        reason: error.to_string(),
        silent: false,
    })?;
    let view = match (nodes, cluster) {
        (Ok(nodes), Ok(cluster)) => NodeView::assemble(&nodes, &cluster, &info).ok(),
        _ => None,
    };
    Ok(Sample {
        info: Info::parse(&info),
        view,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keys_and_replicas() {
        let info = Info::parse(
            "# Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
             slave0:ip=10.0.0.1,port=6379,state=online,offset=90,lag=0\r\n\
             slave1:ip=10.0.0.2,port=6379,state=online,offset=70,lag=1\r\nmaster_repl_offset:100\r\n\
             # Keyspace\r\ndb0:keys=12,expires=1,avg_ttl=0\r\ndb3:keys=2,expires=0,avg_ttl=0\r\n",
        );
        assert_eq!(info.text("role"), Some("master"));
        assert_eq!(info.number::<u64>("master_repl_offset"), Some(100));
        assert_eq!(info.keys(), 14);
        assert_eq!(info.acknowledged().collect::<Vec<_>>(), [90, 70]);
        assert_eq!(info.replicas().count(), 2);
        assert_eq!(info.copying().count(), 0);
        let copied =
            "connected_slaves:1\r\nslave0:ip=10.0.0.1,port=6379,state=send_bulk,offset=0,lag=0\r\n";
        let copying = Some(([10, 0, 0, 1].into(), 6379));
        assert_eq!(Info::parse(copied).copying().next(), copying);
        assert_eq!(info.replicas().last(), Some(([10, 0, 0, 2].into(), 6379)));
        assert!(!info.loading());
    }
}
