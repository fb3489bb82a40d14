//! What goes wrong: processes, pods, machines and networks. Each method does nothing when the place does not exist.

use super::{Place, Sim, table};
use crate::model::Presence;

impl Sim {
    fn place_mut(&mut self, shard: u32, ordinal: u32) -> Option<&mut Place> {
        let mut places = self.places.iter_mut();
        places.find(|p| (p.shard, p.ordinal) == (shard, ordinal))
    }

    /// The server dies; its pod stays, and so do its address and its volume.
    pub fn kill(&mut self, shard: u32, ordinal: u32) {
        if let Some(server) = self
            .place_mut(shard, ordinal)
            .and_then(|p| p.server.as_mut())
        {
            server.up = false;
            server.meeting.clear();
        }
    }

    /// The pod goes away; its volume stays for [`Sim::start`] to find or not.
    pub fn delete(&mut self, shard: u32, ordinal: u32) {
        self.kill(shard, ordinal);
        if let Some(place) = self.place_mut(shard, ordinal) {
            place.presence = Presence::Absent;
            place.unborn = false;
        }
    }

    /// The pod is deleted, and the new one has no volume and gets no machine until [`Sim::start`].
    pub fn unplace(&mut self, shard: u32, ordinal: u32) {
        self.delete(shard, ordinal);
        if let Some(place) = self.place_mut(shard, ordinal) {
            place.server = None;
            place.presence = Presence::Starting;
            place.unborn = true;
        }
    }

    /// Starts what does not run. With `volume` it is the server that was there before, with its id, its data and what
    /// it believed last; else a blank one. A pod that was deleted gets a new address, and is seen and connected again.
    pub fn start(&mut self, shard: u32, ordinal: u32, volume: bool) {
        let blank = self.blank();
        let Some(place) = self.place_mut(shard, ordinal) else {
            return;
        };
        match &mut place.server {
            Some(server) if server.up => return,
            Some(server) if place.fenced => {
                if place.presence == Presence::Absent {
                    server.addr = blank.addr;
                }
            }
            Some(server) if volume => {
                if place.presence == Presence::Absent {
                    server.addr = blank.addr;
                }
                server.up = true;
                server.view.link_up = false;
                server.view.uptime_seconds = 0;
                server.view.standing = blank.view.standing;
                table::dial(&mut server.view);
            }
            _ => place.server = Some(blank),
        }
        place.presence = Presence::Running;
        place.unborn = false;
    }

    /// A user fences the pod: its server, if it runs, stops when it is killed, and none is started here any more.
    pub fn fence(&mut self, shard: u32, ordinal: u32) {
        if let Some(place) = self.place_mut(shard, ordinal) {
            place.fenced = true;
        }
    }

    /// The user lifts the fence; [`Sim::start`] starts the server.
    pub fn lift(&mut self, shard: u32, ordinal: u32) {
        if let Some(place) = self.place_mut(shard, ordinal) {
            place.fenced = false;
        }
    }

    /// The pod is deleted and comes back at a new address, with or without its volume.
    pub fn replace(&mut self, shard: u32, ordinal: u32, volume: bool) {
        self.delete(shard, ordinal);
        self.start(shard, ordinal, volume);
    }

    /// All pods go away at once and come back at new addresses, so that nobody is left who knows where anybody is.
    pub fn restart_all(&mut self, volume: bool) {
        let all: Vec<(u32, u32)> = self.places.iter().map(|p| (p.shard, p.ordinal)).collect();
        for &(shard, ordinal) in &all {
            self.delete(shard, ordinal);
        }
        for (shard, ordinal) in all {
            if ordinal <= self.replicas {
                self.start(shard, ordinal, volume);
            }
        }
    }

    /// The pod is on that machine, which is in that zone, from now on.
    pub fn put(&mut self, shard: u32, ordinal: u32, machine: &str, zone: Option<&str>) {
        if let Some(place) = self.place_mut(shard, ordinal) {
            place.machine = machine.to_owned();
            place.zone = zone.map(str::to_owned);
        }
    }

    /// Servers demand that one replica reads each write, now and after each start, until they are told otherwise.
    pub fn demand_replicas(&mut self) {
        self.demand = 1;
        for server in self.places.iter_mut().filter_map(|p| p.server.as_mut()) {
            server.view.standing.required = Some(1);
        }
    }

    /// What Kubernetes says of the pod from now on.
    pub fn mark(&mut self, shard: u32, ordinal: u32, presence: Presence) {
        if let Some(place) = self.place_mut(shard, ordinal) {
            place.presence = presence;
        }
    }

    /// Whether the observer reaches the place from now on; nodes among themselves are not concerned.
    pub fn set_visible(&mut self, shard: u32, ordinal: u32, visible: bool) {
        if let Some(place) = self.place_mut(shard, ordinal) {
            place.visible = visible;
        }
    }

    /// Whether other nodes reach the place from now on; the observer is not concerned.
    pub fn set_connected(&mut self, shard: u32, ordinal: u32, connected: bool) {
        if let Some(place) = self.place_mut(shard, ordinal) {
            place.connected = connected;
        }
    }

    /// Changes the wanted number of replicas. New pods start blank; pods beyond the number stay until they are deleted.
    pub fn scale_replicas(&mut self, replicas: u32) {
        self.replicas = replicas;
        for shard in 0..self.shards {
            for ordinal in 0..=replicas {
                if self.place_mut(shard, ordinal).is_some() {
                    continue;
                }
                let server = Some(self.blank());
                self.places.push(Place {
                    name: format!("quickstart-shard-{shard}-{ordinal}"),
                    shard,
                    ordinal,
                    machine: format!("machine-{}", (shard + ordinal) % 3),
                    zone: None,
                    presence: Presence::Running,
                    server,
                    unborn: false,
                    fenced: false,
                    visible: true,
                    connected: true,
                });
            }
        }
    }

    /// Whether the shard would still have a copy of its data without this place: another server, running or to be
    /// started from its volume, that is as far as the furthest.
    #[must_use]
    pub fn has_copy_beside(&self, shard: u32, ordinal: u32) -> bool {
        let places = self.places.iter().filter(|p| p.shard == shard);
        let copies = places.filter_map(|p| {
            let server = p.server.as_ref()?;
            let current = !server.view.slots.is_empty() || server.view.primary.is_some();
            current.then_some((p.ordinal, server.view.offset))
        });
        let furthest = copies.clone().map(|(_, offset)| offset).max();
        copies
            .filter(|(at, _)| *at != ordinal)
            .any(|(_, offset)| Some(offset) == furthest)
    }
}
