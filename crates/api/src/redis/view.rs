//! What one node says of the cluster: `CLUSTER NODES`, parsed.
//!
//! This and not `CLUSTER SLOTS` or `SHARDS`, because it alone tells the configuration epochs, by which the claims of nodes
//! that disagree can be told apart.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::slots::SLOTS;

/// Where a node listens: a name or IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Name or address, an IPv6 address without brackets.
    pub host: Arc<str>,
    /// Port.
    pub port: u16,
}

impl Address {
    /// Parses `host:port`, where a host that is empty or `?` means the one that said so.
    #[must_use]
    pub fn parse(text: &str, said_by: &Self) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Some(Self {
            host: match host {
                "" | "?" => said_by.host.clone(),
                host => host.into(),
            },
            port: port.parse().ok().filter(|port| *port != 0)?,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

/// A cluster as one of its nodes sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// No cluster: a server that serves every slot by itself.
    Standalone(Address),
    /// The members that it knows.
    Cluster(Vec<Member>),
}

/// A node in a [`View`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Node id.
    pub id: String,
    /// Where it listens.
    pub address: Address,
    /// The host name that it announces, if it does.
    pub hostname: Option<String>,
    /// Whether it is the node that gave the view.
    pub myself: bool,
    /// Whether it is a primary.
    pub primary: bool,
    /// Its configuration epoch: of two claims on a slot, the one with the higher epoch is right.
    pub epoch: u64,
    /// The slots that it serves.
    pub slots: Vec<RangeInclusive<u16>>,
}

/// Parses a reply to `CLUSTER NODES` given by the node at `said_by`.
///
/// Lines of nodes that have no address, or whose handshake is not over, are left out. `None` if anything else
/// does not parse: half a map is worse than none.
#[must_use]
pub fn parse(reply: &str, said_by: &Address) -> Option<Vec<Member>> {
    let mut members = Vec::new();
    for line in reply.lines().filter(|line| !line.is_empty()) {
        let mut fields = line.split(' ');
        let id = fields.next()?;
        let place = fields.next()?;
        let flags = fields.next()?;
        let epoch = fields.nth(3)?;
        let _link = fields.next()?;
        let has = |flag| flags.split(',').any(|word| word == flag);
        if has("noaddr") || has("handshake") {
            continue;
        }
        let mut place = place.split(',');
        let address = place.next()?.split('@').next()?;
        let hostname = place
            .next()
            .filter(|name| !name.is_empty() && !name.contains('='));
        members.push(Member {
            id: id.to_owned(),
            address: Address::parse(address, said_by)?,
            hostname: hostname.map(str::to_owned),
            myself: has("myself"),
            primary: has("master"),
            epoch: epoch.parse().ok()?,
            // In brackets stand slots on the move; they are still served where they are listed plainly.
            slots: fields
                .filter(|field| !field.starts_with('['))
                .map(parse_range)
                .collect::<Option<_>>()?,
        });
    }
    members
        .iter()
        .any(|member| member.myself)
        .then_some(members)
}

fn parse_range(field: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = field.split_once('-').unwrap_or((field, field));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && usize::from(last) < SLOTS).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn here() -> Address {
        Address {
            host: "10.0.0.9".into(),
            port: 7000,
        }
    }

    #[test]
    fn a_reply_of_redis_7_is_understood() {
        let reply = "\
07c3 127.0.0.1:30004@31004,pod-1.nodes slave e7d1 0 1426238317239 4 connected
67ed 10.0.0.2:30002@31002,,shard-id=69bc master - 0 1426238316232 2 connected 5461-10922 7 [93->-e7d1]
292f :0@0 master,fail,noaddr - 0 1426238318243 3 disconnected 1
aaaa 10.0.0.4:1@2 handshake - 0 0 0 connected
e7d1 :30001@31001 myself,master - 0 0 1 connected 0-5460
";
        let members = parse(reply, &here()).unwrap();
        let seen: Vec<_> = members
            .iter()
            .map(|member| {
                (
                    &*member.id,
                    member.address.to_string(),
                    member.primary,
                    member.slots.len(),
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("07c3", "127.0.0.1:30004".to_owned(), false, 0),
                ("67ed", "10.0.0.2:30002".to_owned(), true, 2),
                ("e7d1", "10.0.0.9:30001".to_owned(), true, 1),
            ]
        );
        assert_eq!(members[0].hostname.as_deref(), Some("pod-1.nodes"));
        assert_eq!(members[1].hostname, None);
        assert_eq!(members[1].slots, [5461..=10922, 7..=7]);
        assert!(members[2].myself && members[2].epoch == 1);
    }

    #[test]
    fn what_does_not_parse_is_no_view() {
        for reply in [
            "",
            "garbage",
            "id 10.0.0.1:1@2 master - 0 0 1 connected 0-1",
            "id 10.0.0.1:1@2 myself,master - 0 0 1 connected 5-1",
            "id 10.0.0.1:1@2 myself,master - 0 0 1 connected 16384",
            "id 10.0.0.1:x@2 myself,master - 0 0 1 connected 1",
            "id 10.0.0.1:1@2 myself,master - 0 0 x connected 1",
        ] {
            assert_eq!(parse(reply, &here()), None, "{reply}");
        }
    }

    #[test]
    fn an_address_may_leave_its_host_to_who_said_it() {
        assert_eq!(
            Address::parse(":6381", &here()).unwrap().to_string(),
            "10.0.0.9:6381"
        );
        assert_eq!(
            Address::parse("?:6381", &here()).unwrap().to_string(),
            "10.0.0.9:6381"
        );
        assert_eq!(
            &*Address::parse("fd00::1:6379", &here()).unwrap().host,
            "fd00::1"
        );
        assert_eq!(Address::parse("10.0.0.1:0", &here()), None);
    }

    proptest! {
        #[test]
        fn nothing_that_a_node_says_can_hurt(reply in "(?s).{0,200}") {
            let _ = parse(&reply, &here());
        }
    }
}
