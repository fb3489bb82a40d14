//! Reads what nodes say.

use std::net::IpAddr;
use std::time::Duration;

use cachecluster_topology::Probe;

use crate::Password;

/// Asks one server for its view (`CLUSTER NODES`, `CLUSTER INFO`, `INFO`), within `deadline` in all.
pub async fn probe(_addr: (IpAddr, u16), _password: &Password, _deadline: Duration) -> Probe {
    Probe::Silent("signature only".to_owned())
}

/// Asks all of them side by side (a bounded number at a time); the answers are in the order of `addrs`. A `None` address is [`Probe::Silent`].
pub async fn observe(
    addrs: &[Option<(IpAddr, u16)>],
    password: &Password,
    deadline: Duration,
) -> Vec<Probe> {
    let mut out = Vec::new();
    for addr in addrs {
        out.push(match addr {
            Some(addr) => probe(*addr, password, deadline).await,
            None => Probe::Silent("no address yet".to_owned()),
        });
    }
    out
}
