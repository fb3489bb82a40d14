//! Carries an action out, command by command, with the refusals that Redis has for each.

use super::{Place, Server, Sim, table};
use crate::action::{Action, NodeRef};
use crate::model::{NodeId, Role};
use crate::slots::SlotRanges;

impl Sim {
    /// Carries out `action` and returns what was refused, in words. A refusal on one node does not keep the action from
    /// the others.
    pub fn apply(&mut self, action: &Action) -> Vec<String> {
        self.apply_part(action, usize::MAX)
    }

    /// Carries out only the first `commands` commands of `action`, as if whoever does it died then.
    pub fn apply_part(&mut self, action: &Action, commands: usize) -> Vec<String> {
        let mut refused = Vec::new();
        let mut note = |outcome: Result<(), String>| refused.extend(outcome.err());
        match action {
            Action::Meet { via, peers } => {
                for peer in peers.iter().take(commands) {
                    note(self.on(via, |server| {
                        server.meeting.push(peer.addr);
                        Ok(())
                    }));
                }
            }
            Action::AssignSlots { assignments } => {
                for (node, slots, epoch) in assignments.iter().take(commands) {
                    note(self.on(node, |server| add_slots(server, slots, *epoch)));
                }
            }
            Action::Replicate { pairs } => {
                for (node, primary) in pairs.iter().take(commands) {
                    note(self.on(node, |server| replicate(server, primary)));
                }
            }
            Action::Failover { replica } if commands > 0 => note(self.hand_over(replica)),
            Action::ForceFailover { replica } if commands > 0 => note(self.force(replica)),
            Action::Takeover { replica } if commands > 0 => note(self.on(replica, |server| {
                if server.view.role != Role::Replica {
                    return Err("You should send CLUSTER FAILOVER to a replica".to_owned());
                }
                let epoch = server.view.current_epoch + 1;
                table::promote(&mut server.view, epoch);
                Ok(())
            })),
            Action::Failover { .. } | Action::ForceFailover { .. } | Action::Takeover { .. } => {}
            Action::RequireReplicas { nodes, least } => {
                for node in nodes.iter().take(commands) {
                    note(self.on(node, |server| {
                        server.view.standing.required = Some(*least);
                        Ok(())
                    }));
                }
            }
            Action::Forget { gone, everyone } => {
                for node in everyone.iter().take(commands) {
                    for id in gone {
                        note(self.on(node, |server| forget(server, id)));
                    }
                }
            }
        }
        refused
    }

    /// Runs a command on the server at the node's address, if it is still the one that is meant.
    fn on(
        &mut self,
        node: &NodeRef,
        command: impl FnOnce(&mut Server) -> Result<(), String>,
    ) -> Result<(), String> {
        let reachable = self.places.iter_mut().filter(|p| p.visible);
        let mut running = reachable.filter_map(Place::running_mut);
        match running.find(|server| server.addr == node.addr) {
            Some(server) if server.view.id == node.id => command(server),
            Some(server) => Err(format!("{} is {} now", node.name, server.view.id)),
            None => Err(format!("{} does not answer", node.name)),
        }
    }

    fn place_of(&self, node: &NodeRef) -> Option<usize> {
        let is = |server: &Server| server.view.id == node.id;
        self.places.iter().position(|p| p.running().is_some_and(is))
    }

    /// `CLUSTER FAILOVER`: the primary lives and waits until its replica has everything.
    fn hand_over(&mut self, replica: &NodeRef) -> Result<(), String> {
        self.on(replica, |_| Ok(()))?;
        let Some(i) = self.place_of(replica) else {
            return Ok(());
        };
        let primary = self.places[i]
            .running()
            .and_then(|s| s.view.primary.clone());
        let data = primary
            .and_then(|id| self.alive(&id))
            .map(|v| (v.offset, v.keys));
        let Some((offset, keys)) = data else {
            return Err("Master is down or failed, please use CLUSTER FAILOVER FORCE".to_owned());
        };
        if self.elect_replica(i)
            && let Some(server) = self.places[i].running_mut()
        {
            (server.view.offset, server.view.keys) = (offset, keys);
        }
        Ok(())
    }

    /// `CLUSTER FAILOVER FORCE`: accepted by any replica; whether the votes come is another matter.
    fn force(&mut self, replica: &NodeRef) -> Result<(), String> {
        self.on(replica, |server| match server.view.role {
            Role::Replica => Ok(()),
            Role::Primary => Err("You should send CLUSTER FAILOVER to a replica".to_owned()),
        })?;
        if let Some(i) = self.place_of(replica) {
            self.elect_replica(i);
        }
        Ok(())
    }
}

/// `CLUSTER SET-CONFIG-EPOCH` (on a node that knows nobody), `ADDSLOTSRANGE`, and on a node that has a past, a new
/// epoch (`BUMPEPOCH`), so that its claim outranks memories of the former owner.
fn add_slots(server: &mut Server, slots: &SlotRanges, epoch: u64) -> Result<(), String> {
    let view = &mut server.view;
    if view.role == Role::Replica {
        return Err("a replica owns no slots".to_owned());
    }
    let busy = view.known.values().map(|k| &k.slots).chain([&view.slots]);
    let busy = busy.fold(SlotRanges::default(), |all, s| all.union(s));
    let busy = busy.intersection(slots);
    if !busy.is_empty() {
        return Err(format!("Slots {busy} are already busy"));
    }
    if !view.known.is_empty() {
        table::bump_epoch(view);
    } else if view.epoch == 0 {
        view.epoch = epoch;
        view.current_epoch = view.current_epoch.max(epoch);
    }
    view.slots = view.slots.union(slots);
    Ok(())
}

/// `CLUSTER REPLICATE`.
fn replicate(server: &mut Server, primary: &NodeId) -> Result<(), String> {
    let view = &mut server.view;
    let Some(known) = view.known.get(primary) else {
        return Err(format!("Unknown node {primary}"));
    };
    if known.role == Role::Replica {
        return Err("I can only replicate a master, not a replica.".to_owned());
    }
    let burdened = !view.slots.is_empty() || view.keys > 0;
    if view.role == Role::Primary && burdened {
        return Err(
            "To set a master the node must be empty and without assigned slots.".to_owned(),
        );
    }
    table::follow(view, primary.clone());
    Ok(())
}

/// `CLUSTER FORGET`. That it does not know whom it shall forget is as good as done, and no refusal.
fn forget(server: &mut Server, id: &NodeId) -> Result<(), String> {
    let view = &mut server.view;
    if view.id == *id {
        return Err("I tried hard but I can't forget myself...".to_owned());
    }
    if view.primary.as_ref() == Some(id) {
        return Err("Can't forget my master!".to_owned());
    }
    view.known.remove(id);
    Ok(())
}
