//! The planner and its hands together, on real servers: a cluster is born, loses a primary, and heals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use cachecluster_redis_admin::fixture::{Server, password};
use cachecluster_redis_admin::{execute, observe};
use cachecluster_topology::{Member, Presence, Role, World, plan};

const DEADLINE: Duration = Duration::from_secs(1);

/// One place for a server; empty while its pod does not exist.
struct Place {
    shard: u32,
    ordinal: u32,
    server: Option<Server>,
}

struct Cluster {
    shards: u32,
    replicas: u32,
    places: Vec<Place>,
}

impl Cluster {
    async fn start(shards: u32, replicas: u32) -> Self {
        let spots = (0..shards).flat_map(|s| (0..=replicas).map(move |o| (s, o)));
        let places = spots.map(async |(shard, ordinal)| Place {
            shard,
            ordinal,
            server: Some(Server::start().await),
        });
        Self {
            shards,
            replicas,
            places: futures::future::join_all(places).await,
        }
    }

    async fn look(&self) -> World {
        let addrs: Vec<_> = self
            .places
            .iter()
            .map(|place| place.server.as_ref().map(Server::addr))
            .collect();
        let probes = observe(&addrs, &password(), DEADLINE).await;
        let members = self.places.iter().zip(probes).map(|(place, probe)| Member {
            name: format!("c-shard-{}-{}", place.shard, place.ordinal),
            shard: place.shard,
            ordinal: place.ordinal,
            addr: place.server.as_ref().map(Server::addr),
            machine: None,
            zone: None,
            presence: match place.server {
                Some(_) => Presence::Running,
                None => Presence::Absent,
            },
            // Kubernetes would take a while to notice what happens here.
            vouched: place.server.is_some(),
            unborn: false,
            fenced: false,
            probe,
        });
        World {
            shards: self.shards,
            replicas: self.replicas,
            members: members.collect(),
            durable: None,
        }
    }

    /// Looks, plans and acts until nothing is left to do and everybody does their part.
    async fn settle(&self, what: &str) {
        let started = Instant::now();
        let mut steps = Vec::new();
        loop {
            let world = self.look().await;
            let next = plan(&world);
            if next.action.is_none() && next.waiting.is_empty() && self.whole(&world) {
                println!("{what}: {:?}, {} steps", started.elapsed(), steps.len());
                return;
            }
            assert!(
                started.elapsed() < Duration::from_secs(40),
                "{what} does not settle: {:?}\nsteps: {steps:#?}\n{world:#?}",
                next.waiting
            );
            match next.action {
                Some(action) => {
                    let outcome = execute(&action, &password(), DEADLINE).await;
                    steps.push(format!("{:?} {action:?} {outcome:?}", started.elapsed()));
                }
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Every slot is served, every primary has its replicas in step, and gossip has told everybody of everybody.
    fn whole(&self, world: &World) -> bool {
        let views: Vec<_> = world.members.iter().filter_map(Member::view).collect();
        let primaries: Vec<_> = views
            .iter()
            .filter(|view| view.role == Role::Primary && view.cluster_ok)
            .collect();
        let replicas_of = |primary: &&&&cachecluster_topology::NodeView| {
            let follows = |view: &&&cachecluster_topology::NodeView| {
                view.link_up && view.primary.as_ref() == Some(&primary.id)
            };
            views.iter().filter(follows).count() == self.replicas as usize
        };
        let acquainted =
            |view: &&cachecluster_topology::NodeView| view.known.len() + 1 == views.len();
        views.len() == self.places.len()
            && views.iter().all(acquainted)
            && primaries.len() == self.shards as usize
            && primaries.iter().map(|p| p.slots.len()).sum::<usize>() == 16384
            && primaries.iter().filter(replicas_of).count() == primaries.len()
    }

    /// Index of the place whose server is the primary with the key's slot.
    async fn primary_of(&self, key: &str) -> usize {
        let server = self.places.iter().find_map(|p| p.server.as_ref()).unwrap();
        let slot = server.text(&["CLUSTER", "KEYSLOT", key]).await;
        let slot = slot.parse().unwrap();
        let world = self.look().await;
        let owns = |member: &Member| {
            member
                .view()
                .is_some_and(|v| v.role == Role::Primary && v.slots.contains(slot))
        };
        world.members.iter().position(owns).unwrap()
    }

    fn server(&self, place: usize) -> &Server {
        self.places[place].server.as_ref().unwrap()
    }
}

/// A primary's pod is deleted: its replica takes over with the data, and a blank node in its place joins.
async fn lives_and_heals(shards: u32) {
    let mut cluster = Cluster::start(shards, 1).await;
    cluster.settle(&format!("{shards} × 1 is born")).await;
    let place = cluster.primary_of("key").await;
    cluster.server(place).text(&["SET", "key", "value"]).await;
    let wait = cluster.server(place).text(&["WAIT", "1", "1000"]).await;
    assert_eq!(wait, "1");

    cluster.places[place].server = None;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let world = cluster.look().await;
        if let Some(action) = plan(&world).action {
            let _ = execute(&action, &password(), DEADLINE).await;
        }
        let views = world.members.iter().filter_map(Member::view);
        let served: usize = views
            .filter(|view| view.role == Role::Primary && view.cluster_ok)
            .map(|view| view.slots.len())
            .sum();
        if served == 16384 {
            break;
        }
        assert!(Instant::now() < deadline, "nobody took over: {world:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let heir = cluster.primary_of("key").await;
    assert_ne!(heir, place);
    assert_eq!(cluster.server(heir).text(&["GET", "key"]).await, "value");

    cluster.places[place].server = Some(Server::start().await);
    cluster
        .settle(&format!("{shards} × 1 with a blank pod"))
        .await;
    assert_eq!(cluster.server(heir).text(&["GET", "key"]).await, "value");
    let nodes = cluster.server(heir).text(&["CLUSTER", "NODES"]).await;
    assert_eq!(nodes.lines().count(), cluster.places.len(), "{nodes}");
}

#[tokio::test]
async fn one_primary_alone() {
    Cluster::start(1, 0).await.settle("1 × 0 is born").await;
}

#[tokio::test]
async fn one_shard_loses_its_primary_and_heals() {
    lives_and_heals(1).await;
}

#[tokio::test]
async fn three_shards_lose_a_primary_and_heal() {
    lives_and_heals(3).await;
}
