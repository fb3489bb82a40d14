//! `CLUSTER NODES`: one line a node, `id addr flags primary ping pong epoch link slot…`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::ParseError;
use crate::model::{KnownNode, LinkState, NodeId, Role, SLOT_COUNT, SlotRange, SlotRanges};

/// The line that the answering node flags `myself`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Myself {
    /// Its id.
    pub id: NodeId,
    /// Where it believes to be. `None` until a peer has told it its IP address.
    pub addr: Option<(IpAddr, u16)>,
    /// Its role.
    pub role: Role,
    /// The primary that it follows, for a replica.
    pub primary: Option<NodeId>,
    /// Its configuration epoch.
    pub epoch: u64,
    /// The slots that it owns.
    pub slots: SlotRanges,
}

/// Reads the whole answer: the node itself, and everybody else that it knows.
///
/// Slots on their way (`[42->-id]`, `[42-<-id]`) stay with their owner until it gives them up, so these entries say
/// nothing about ownership and are passed over.
///
/// # Errors
/// When a line does not read as one, or not exactly one line is flagged `myself`.
pub fn parse_nodes(text: &str) -> Result<(Myself, BTreeMap<NodeId, KnownNode>), ParseError> {
    let mut myself = Vec::new();
    let mut known = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let (node, is_myself) = parse_line(line).map_err(|(what, text)| ParseError::Node {
            line: index + 1,
            what,
            text: text.to_owned(),
        })?;
        if is_myself {
            myself.push(Myself {
                id: node.id,
                addr: node.addr,
                role: node.role,
                primary: node.primary,
                epoch: node.epoch,
                slots: node.slots,
            });
        } else {
            known.insert(node.id.clone(), node);
        }
    }
    match (myself.pop(), myself.len()) {
        (Some(myself), 0) => Ok((myself, known)),
        (last, more) => Err(ParseError::Myself(more + usize::from(last.is_some()))),
    }
}

/// What is wrong, and the part of the line that it is wrong with.
type Complaint<'t> = (&'static str, &'t str);

fn parse_line(line: &str) -> Result<(KnownNode, bool), Complaint<'_>> {
    let mut fields = line.split_ascii_whitespace();
    let mut next = |what| fields.next().ok_or((what, line));
    let id = next("no id")?;
    let id = NodeId::parse(id).ok_or(("id is not 40 hexadecimal characters", id))?;
    let addr = parse_addr(next("no address")?)?;
    let flags = next("no flags")?;
    let primary = next("no primary")?;
    let primary = match primary {
        "-" => None,
        id => Some(NodeId::parse(id).ok_or(("primary is neither an id nor -", id))?),
    };
    next("no ping time")?;
    next("no pong time")?;
    let epoch = next("no configuration epoch")?;
    let epoch = epoch
        .parse()
        .map_err(|_| ("configuration epoch is not a number", epoch))?;
    next("no link state")?;
    let ranges: Vec<SlotRange> = fields
        .filter(|slots| !slots.starts_with('['))
        .map(parse_slots)
        .collect::<Result<_, _>>()?;

    let has = |flag| flags.split(',').any(|f| f == flag);
    // A handshake goes by an invented id until the peer answers, so nothing else that is flagged with it means much.
    // `fail` outweighs `noaddr`: a majority's word says more than that nobody is left at the address.
    let link = if has("handshake") {
        LinkState::Unknown
    } else if has("fail") {
        LinkState::Failed
    } else if has("noaddr") {
        LinkState::Unknown
    } else if has("fail?") {
        LinkState::Suspected
    } else {
        LinkState::Ok
    };
    let role = if has("slave") || has("replica") {
        Role::Replica
    } else {
        Role::Primary
    };
    let node = KnownNode {
        id,
        addr: addr.filter(|_| !has("noaddr")),
        role,
        primary,
        link,
        epoch,
        slots: SlotRanges::from_ranges(ranges),
    };
    Ok((node, has("myself")))
}

/// `ip:port@busport[,hostname[,name=value]…]`. The IP address is empty while it is unknown; IPv6 comes without brackets,
/// so the port is what follows the *last* colon.
fn parse_addr(text: &str) -> Result<Option<(IpAddr, u16)>, Complaint<'_>> {
    let endpoint = text.split(',').next().unwrap_or(text);
    let endpoint = endpoint.split('@').next().unwrap_or(endpoint);
    let (ip, port) = endpoint
        .rsplit_once(':')
        .ok_or(("address has no port", text))?;
    let port: u16 = port
        .parse()
        .map_err(|_| ("port is not a number up to 65535", text))?;
    if ip.is_empty() || port == 0 {
        return Ok(None);
    }
    let ip = ip.trim_start_matches('[').trim_end_matches(']');
    let ip = ip.parse().map_err(|_| ("not an IP address", text))?;
    Ok(Some((ip, port)))
}

/// `42` or `0-5460`.
fn parse_slots(text: &str) -> Result<SlotRange, Complaint<'_>> {
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    let slot = |number: &str| number.parse::<u16>().ok().filter(|slot| *slot < SLOT_COUNT);
    match (slot(start), slot(end)) {
        (Some(start), Some(end)) if start <= end => Ok(SlotRange { start, end }),
        _ => Err(("not a slot range", text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "07c37dfeb235213a872192d90877d0cd55635b91";
    const B: &str = "67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1";
    const C: &str = "292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f";

    fn id(text: &str) -> NodeId {
        NodeId::parse(text).unwrap()
    }

    #[test]
    fn a_redis_7_answer() {
        let text = format!(
            "{A} 10.0.0.1:6379@16379,pod-0.nodes myself,master - 0 1426238317741 1 connected 0-5460 5462 [5461->-{B}]\n\
             {B} 10.0.0.2:6379@16379,,shard-id=1 slave,fail? {A} 1426238316232 1426238315000 4 connected\n\
             {C} :0@0 master,fail,noaddr - 1426238316232 1426238317741 3 disconnected 10923-16383\n"
        );
        let (myself, known) = parse_nodes(&text).unwrap();
        assert_eq!(myself.id, id(A));
        assert_eq!(myself.addr, Some(("10.0.0.1".parse().unwrap(), 6379)));
        assert_eq!(myself.slots.to_string(), "0-5460 5462");
        assert_eq!(known[&id(B)].primary, Some(id(A)));
        assert_eq!(known[&id(B)].link, LinkState::Suspected);
        assert_eq!(known[&id(B)].epoch, 4);
        assert_eq!(known[&id(C)].addr, None);
        assert_eq!(known[&id(C)].link, LinkState::Failed);
        assert_eq!(known[&id(C)].slots.to_string(), "10923-16383");
    }

    #[test]
    fn ipv6_handshakes_and_an_own_address_not_yet_known() {
        let text = format!(
            "{A} :6379@16379 myself,master - 0 0 0 connected\n\
             {B} 2001:db8::7:6379@16379 master,noaddr - 0 0 0 disconnected\n\
             {C} fd00::1:6380@16380 handshake - 0 0 0 disconnected\n"
        );
        let (myself, known) = parse_nodes(&text).unwrap();
        assert_eq!(myself.addr, None);
        assert_eq!(known[&id(B)].addr, None);
        assert_eq!(known[&id(B)].link, LinkState::Unknown);
        assert_eq!(myself.slots, SlotRanges::default());
        assert_eq!(known[&id(C)].addr, Some(("fd00::1".parse().unwrap(), 6380)));
        assert_eq!(known[&id(C)].link, LinkState::Unknown);
    }

    #[test]
    fn complaints_name_the_line_and_what_is_wrong() {
        let fine = format!("{A} 10.0.0.1:6379@16379 myself,master - 0 0 1 connected 0-5460");
        let cases = [
            (
                "xyz 10.0.0.1:6379@1 master - 0 0 1 connected",
                "id is not 40",
            ),
            (
                &format!("{B} 10.0.0.1 master - 0 0 1 connected"),
                "address has no port",
            ),
            (
                &format!("{B} host:6379@1 master - 0 0 1 connected"),
                "not an IP address",
            ),
            (
                &format!("{B} 10.0.0.1:6379@1 master - 0 0 one connected"),
                "epoch is not a number",
            ),
            (
                &format!("{B} 10.0.0.1:6379@1 master - 0 0 1 connected 5-16384"),
                "not a slot range",
            ),
            (&format!("{B} 10.0.0.1:6379@1 master"), "no primary"),
        ];
        for (line, complaint) in cases {
            let error = parse_nodes(&format!("{fine}\n{line}\n"))
                .unwrap_err()
                .to_string();
            assert!(error.contains("line 2"), "{error}");
            assert!(error.contains(complaint), "{error} lacks {complaint:?}");
        }
        assert_eq!(parse_nodes(""), Err(ParseError::Myself(0)));
        let two = format!("{fine}\n{fine}");
        assert_eq!(parse_nodes(&two), Err(ParseError::Myself(2)));
    }
}
