//! What nodes do by themselves: find and hear each other, settle claims, detect failures, replicate, elect.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Place, Sim, table};
use crate::model::{KnownNode, LinkState, NodeId, NodeView, Role, Standing};

/// How many seconds a round takes: so many that who is not heard in one is out of step.
const ROUND_SECONDS: u64 = Standing::LAG_SECONDS + 1;

/// A node on the bus: its place, its address, and its view when the round began.
type Peer = (usize, (IpAddr, u16), NodeView);

impl Sim {
    /// One round: everything that can be heard is heard. Elections are apart, in [`Sim::elect`].
    pub fn gossip(&mut self) {
        self.introduce();
        self.find_each_other();
        self.settle_claims();
        self.judge();
        self.replicate();
    }

    /// Redis's own failover: replicas of primaries that a majority has declared dead are elected. Returns whether any
    /// was.
    pub fn elect(&mut self) -> bool {
        let mut elected = false;
        for (i, _, view) in self.bus() {
            let Some(primary) = view.primary.as_ref().and_then(|id| view.known.get(id)) else {
                continue;
            };
            // Redis counts a replica that never was in step as one whose data is too old.
            let synced = view.offset > 0;
            let dead = primary.link == LinkState::Failed && !primary.slots.is_empty() && synced;
            let fresher = self.bus().into_iter().any(|(j, _, other)| {
                let better = (other.offset, i) > (view.offset, j);
                j != i && other.primary == view.primary && better
            });
            if dead && !fresher {
                elected |= self.elect_replica(i);
            }
        }
        elected
    }

    /// Elects the replica at place `i` if it hears a majority of the owners of slots.
    pub(super) fn elect_replica(&mut self, i: usize) -> bool {
        let peers = self.bus();
        let Some((_, _, view)) = peers.iter().find(|(j, ..)| *j == i) else {
            return false;
        };
        let owners = view.known.values().filter(|k| owns(k));
        let voters: Vec<&NodeId> = owners
            .clone()
            .filter(|k| hears(view, &k.id, &peers))
            .map(|k| &k.id)
            .collect();
        if voters.len() * 2 <= owners.count() {
            return false;
        }
        let epochs = peers.iter().filter(|(_, _, v)| voters.contains(&&v.id));
        let newest = epochs.map(|(_, _, v)| v.current_epoch).max().unwrap_or(0);
        let epoch = newest.max(view.current_epoch) + 1;
        let voters: Vec<NodeId> = voters.into_iter().cloned().collect();
        for server in self.places.iter_mut().filter_map(Place::running_mut) {
            if voters.contains(&server.view.id) {
                server.view.current_epoch = epoch;
            }
        }
        if let Some(server) = self.places[i].running_mut() {
            table::promote(&mut server.view, epoch);
        }
        true
    }

    /// Who can be heard at all.
    fn bus(&self) -> Vec<Peer> {
        let places = self.places.iter().enumerate();
        places
            .filter(|(_, place)| place.connected)
            .filter_map(|(i, place)| {
                let server = place.running()?;
                Some((i, server.addr, server.view.clone()))
            })
            .collect()
    }

    fn view_mut(&mut self, i: usize) -> Option<&mut NodeView> {
        self.places[i].running_mut().map(|server| &mut server.view)
    }

    /// Completes what `CLUSTER MEET` began; introductions to addresses where nobody is come to nothing.
    fn introduce(&mut self) {
        let bus = self.bus();
        for i in 0..self.places.len() {
            let connected = self.places[i].connected;
            let Some(server) = self.places[i].running_mut() else {
                continue;
            };
            let meeting = std::mem::take(&mut server.meeting);
            let me = (i, server.addr, server.view.clone());
            for peer in bus.iter().filter(|p| p.0 != i && meeting.contains(&p.1)) {
                if connected {
                    self.acquaint(&me, peer);
                }
            }
        }
    }

    fn acquaint(&mut self, one: &Peer, other: &Peer) {
        for (knower, known) in [(one, other), (other, one)] {
            let Some(view) = self.view_mut(knower.0) else {
                continue;
            };
            let record = table::own_record(&known.2, known.1);
            view.known
                .entry(record.id.clone())
                .and_modify(|k| k.addr = record.addr)
                .or_insert(KnownNode {
                    slots: Default::default(),
                    ..record
                });
        }
    }

    /// Addresses get around: a node that calls from a new address is entered there by whom it calls; whoever is sought
    /// in vain is found through a third; and nodes that share a friend are introduced by it.
    fn find_each_other(&mut self) {
        for _ in 0..2 {
            let bus = self.bus();
            for a in &bus {
                for b in bus.iter().filter(|b| b.0 != a.0) {
                    let third = || {
                        bus.iter()
                            .any(|c| hears(&a.2, &c.2.id, &bus) && hears(&c.2, &b.2.id, &bus))
                    };
                    let sought = a.2.known.get(&b.2.id);
                    match sought {
                        Some(known) if known.addr == Some(b.1) => {}
                        Some(_) if hears(&b.2, &a.2.id, &bus) || third() => {
                            let Some(view) = self.view_mut(a.0) else {
                                continue;
                            };
                            if let Some(known) = view.known.get_mut(&b.2.id) {
                                known.addr = Some(b.1);
                            }
                            // Upon a third's word nobody dials anew, and it is taken to come before the call itself.
                            if view.primary.as_ref() == Some(&b.2.id) && !third() {
                                table::dial(view);
                            }
                        }
                        None if third() => self.acquaint(a, b),
                        Some(_) | None => {}
                    }
                }
            }
        }
    }

    fn settle_claims(&mut self) {
        // Once for what nodes say, once more for what the answers changed.
        for _ in 0..2 {
            let bus = self.bus();
            for a in &bus {
                for b in bus.iter().filter(|b| hears(&a.2, &b.2.id, &bus)) {
                    let record = table::own_record(&b.2, b.1);
                    let update = self
                        .view_mut(a.0)
                        .and_then(|view| table::hear(view, a.1, &record, b.2.current_epoch));
                    if let (Some(update), Some(view)) = (update, self.view_mut(b.0)) {
                        table::claim(view, b.1, &update);
                    }
                }
            }
        }
    }

    /// Flags: whom a node does not hear it suspects; whom a majority of the owners of slots suspects is dead.
    fn judge(&mut self) {
        let bus = self.bus();
        for i in 0..self.places.len() {
            let connected = self.places[i].connected;
            let Some(view) = self.view_mut(i) else {
                continue;
            };
            let before = view.clone();
            let heard = |by: &NodeView, id: &NodeId| connected && hears(by, id, &bus);
            let known = before.known.values();
            let mut owners = known.clone().filter(|k| owns(k)).count();
            let mut voters: Vec<&NodeView> = known
                .filter(|k| owns(k) && heard(&before, &k.id))
                .filter_map(|k| Some(&bus.iter().find(|p| p.2.id == k.id)?.2))
                .collect();
            if !before.slots.is_empty() {
                owners += 1;
                voters.push(&before);
            }
            view.cluster_ok = owners > 0 && voters.len() * 2 > owners;
            for (id, known) in &mut view.known {
                let against = voters
                    .iter()
                    .filter(|v| v.known.contains_key(id) && !heard(v, id))
                    .count();
                known.link = if heard(&before, id) {
                    LinkState::Ok
                } else if against * 2 > owners || known.link == LinkState::Failed {
                    LinkState::Failed
                } else {
                    LinkState::Suspected
                };
            }
        }
    }

    /// Replicas that hear their primary are in step with it. The stream is never empty: primaries ping in it.
    fn replicate(&mut self) {
        for server in self.places.iter_mut().filter_map(Place::running_mut) {
            server.view.uptime_seconds += ROUND_SECONDS;
            if !server.view.slots.is_empty() {
                server.view.offset += 14;
            }
        }
        let bus = self.bus();
        for place in &mut self.places {
            let connected = place.connected;
            let Some(server) = place.running_mut() else {
                continue;
            };
            let view = &mut server.view;
            let Some(id) = view.primary.clone() else {
                continue;
            };
            let primary = bus.iter().find(|p| p.2.id == id);
            let found = primary.is_some_and(|p| view.standing.dials == Some(p.1));
            let heard = connected && found && hears(view, &id, &bus);
            view.link_up = false;
            if let Some(seconds) = &mut view.standing.unheard_seconds {
                *seconds += ROUND_SECONDS;
            }
            if let Some((_, _, primary)) = primary.filter(|p| heard && p.2.role == Role::Primary) {
                view.link_up = true;
                view.offset = primary.offset;
                view.keys = primary.keys;
                view.standing.unheard_seconds = Some(0);
            }
        }
        let mut attached: BTreeMap<NodeId, Vec<(IpAddr, u16)>> = BTreeMap::new();
        for server in self.places.iter().filter_map(Place::running) {
            if let Some(primary) = server.view.primary.clone().filter(|_| server.view.link_up) {
                attached.entry(primary).or_default().push(server.addr);
            }
        }
        for server in self.places.iter_mut().filter_map(Place::running_mut) {
            server.view.standing.attached = attached.remove(&server.view.id).unwrap_or_default();
        }
    }
}

fn owns(known: &KnownNode) -> bool {
    known.role == Role::Primary && !known.slots.is_empty()
}

/// Whether `view` knows the node `id` and finds it where it looks for it.
fn hears(view: &NodeView, id: &NodeId, bus: &[Peer]) -> bool {
    let known = view.known.get(id);
    known.is_some_and(|k| bus.iter().any(|p| p.2.id == *id && k.addr == Some(p.1)))
}
