//! Each action against real servers, and what it does when repeated or refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cachecluster_redis_admin::fixture::{Server, password, until};
use cachecluster_redis_admin::{ExecuteError, Password, execute, observe, probe};
use cachecluster_topology::{
    Action, Member, NodeId, NodeRef, NodeView, Presence, Probe, Role, SlotRange, SlotRanges,
    Standing, World, is_ready_to_lead,
};

const DEADLINE: Duration = Duration::from_secs(2);

async fn view(server: &Server) -> NodeView {
    match probe(server.addr(), &password(), DEADLINE).await {
        Probe::Answered(view) => *view,
        other => panic!("{other:?}"),
    }
}

async fn node(server: &Server) -> NodeRef {
    NodeRef {
        id: view(server).await.id,
        name: format!("redis-{}", server.port),
        addr: server.addr(),
    }
}

async fn run(action: &Action) -> Result<(), ExecuteError> {
    execute(action, &password(), DEADLINE).await
}

fn every_slot() -> SlotRanges {
    SlotRanges::from_ranges([SlotRange {
        start: 0,
        end: 16383,
    }])
}

/// One primary with every slot and one replica whose link is up.
async fn pair() -> (Server, Server) {
    let (primary, replica) = tokio::join!(Server::start(), Server::start());
    let (p, r) = (node(&primary).await, node(&replica).await);
    let assign = Action::AssignSlots {
        assignments: vec![(p.clone(), every_slot(), 7)],
    };
    run(&assign).await.unwrap();
    run(&Action::Meet {
        via: p.clone(),
        peers: vec![r.clone()],
    })
    .await
    .unwrap();
    until("the replica knows its primary", async || {
        view(&replica).await.known.contains_key(&p.id)
    })
    .await;
    let follow = Action::Replicate {
        pairs: vec![(r, p.id.clone())],
    };
    run(&follow).await.unwrap();
    run(&follow).await.expect("repeating is harmless");
    until("the link is up and the primary serves", async || {
        view(&replica).await.link_up && view(&primary).await.cluster_ok
    })
    .await;
    (primary, replica)
}

#[tokio::test]
async fn a_blank_node_is_seen_as_blank_and_takes_slots_once() {
    let server = Server::start().await;
    let blank = view(&server).await;
    assert!(blank.is_blank());
    assert_eq!(blank.role, Role::Primary);

    let part = SlotRanges::from_ranges([SlotRange { start: 5, end: 10 }]);
    for slots in [part, every_slot(), every_slot()] {
        let action = Action::AssignSlots {
            assignments: vec![(node(&server).await, slots, 3)],
        };
        run(&action).await.unwrap();
    }
    let primary = view(&server).await;
    assert_eq!(primary.slots, every_slot());
    assert_eq!(primary.epoch, 3);
}

#[tokio::test]
async fn a_replica_is_ready_to_lead_while_nothing_is_written_and_not_without_a_link() {
    let (primary, replica) = pair().await;
    let ready = async || {
        let member = |ordinal: u32, server: &Server, view: NodeView| Member {
            name: format!("shard-0-{ordinal}"),
            shard: 0,
            ordinal,
            addr: Some(server.addr()),
            machine: None,
            zone: None,
            presence: Presence::Running,
            vouched: true,
            unborn: false,
            fenced: false,
            probe: Probe::Answered(Box::new(view)),
        };
        let (p, r) = (view(&primary).await, view(&replica).await);
        let unheard = r.standing.unheard_seconds;
        let id = r.id.clone();
        let world = World {
            shards: 1,
            replicas: 1,
            members: vec![member(0, &primary, p), member(1, &replica, r)],
            durable: None,
        };
        (is_ready_to_lead(&world, &id), unheard)
    };
    // A primary pings its replicas every ten seconds only.
    until(
        "the replica is ready though it has not heard its primary for a while",
        async || {
            let (ready, unheard) = ready().await;
            ready && unheard.is_some_and(|seconds| seconds > Standing::LAG_SECONDS)
        },
    )
    .await;
    // The primary turns its replica away, and both answer on.
    replica
        .text(&["CONFIG", "SET", "masterauth", "wrong"])
        .await;
    primary.text(&["CLIENT", "KILL", "TYPE", "replica"]).await;
    until("the link is gone", async || !view(&replica).await.link_up).await;
    assert!(!ready().await.0);
}

#[tokio::test]
async fn failover_takeover_and_forget() {
    let (mut primary, mut replica) = pair().await;
    primary.text(&["SET", "k", "v"]).await;
    for _ in 0..2 {
        // The second time round it is the primary already.
        run(&Action::Failover {
            replica: node(&replica).await,
        })
        .await
        .unwrap();
    }
    assert_eq!(replica.text(&["GET", "k"]).await, "v");
    std::mem::swap(&mut primary, &mut replica);
    until("the old primary follows", async || {
        view(&replica).await.link_up
    })
    .await;

    let gone = view(&primary).await.id;
    primary.kill();
    run(&Action::Takeover {
        replica: node(&replica).await,
    })
    .await
    .unwrap();
    assert_eq!(replica.text(&["GET", "k"]).await, "v");

    let forget = Action::Forget {
        gone: vec![gone.clone()],
        everyone: vec![node(&replica).await],
    };
    run(&forget).await.unwrap();
    run(&forget)
        .await
        .expect("whom nobody knows is forgotten already");
    assert!(!view(&replica).await.known.contains_key(&gone));
}

#[tokio::test]
async fn another_node_at_the_address_is_not_touched_and_does_not_stop_the_rest() {
    let (first, second) = tokio::join!(Server::start(), Server::start());
    let mut stranger = node(&first).await;
    stranger.id = NodeId::parse(&"ab".repeat(20)).unwrap();
    let action = Action::AssignSlots {
        assignments: vec![
            (stranger.clone(), every_slot(), 1),
            (node(&second).await, every_slot(), 2),
        ],
    };
    let error = run(&action).await.unwrap_err();
    assert!(matches!(error, ExecuteError::OtherNode { .. }), "{error}");
    assert!(view(&first).await.slots.is_empty());
    assert_eq!(view(&second).await.slots, every_slot());

    let error = run(&Action::Meet {
        via: node(&second).await,
        peers: vec![stranger],
    })
    .await
    .unwrap_err();
    assert!(matches!(error, ExecuteError::OtherNode { .. }), "{error}");
    assert!(view(&second).await.known.is_empty());
}

#[tokio::test]
async fn silence_and_a_wrong_password_are_data() {
    let mut server = Server::start().await;
    let wrong = probe(server.addr(), &Password::new("nope"), DEADLINE).await;
    assert!(
        matches!(&wrong, Probe::Silent(reason) if !reason.contains("nope")),
        "{wrong:?}"
    );
    // A listener that never answers: its backlog takes the connection, nobody reads from it.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = mute.local_addr().unwrap();
    let addr = server.addr();
    let started = std::time::Instant::now();
    let addrs = [None, Some((mute.ip(), mute.port())), Some(addr)];
    let probes = observe(&addrs, &password(), Duration::from_millis(300)).await;
    assert!(started.elapsed() < Duration::from_secs(1));
    assert!(matches!(probes[0], Probe::Silent(_)));
    assert!(matches!(probes[1], Probe::Silent(_)));
    assert!(matches!(probes[2], Probe::Answered(_)));
    server.kill();
    assert!(matches!(
        probe(addr, &password(), DEADLINE).await,
        Probe::Silent(_)
    ));
}

#[tokio::test]
async fn a_primary_is_told_live_whether_to_take_writes_without_replicas() {
    let (primary, mut replica) = pair().await;
    let require = async |least| {
        let nodes = vec![node(&primary).await];
        run(&Action::RequireReplicas { nodes, least }).await
    };
    assert_eq!(view(&primary).await.standing.required, Some(0));
    require(1).await.unwrap();
    require(1).await.expect("repeating is harmless");
    until("the primary counts its replica", async || {
        let standing = view(&primary).await.standing;
        standing.required == Some(1) && standing.attached == [replica.addr()]
    })
    .await;
    assert!(view(&replica).await.is_in_step());
    assert_eq!(primary.text(&["SET", "key", "1"]).await, "OK");

    replica.kill();
    until("the primary has lost its replica", async || {
        view(&primary).await.standing.attached.is_empty()
    })
    .await;
    let mut client = primary.connect().await.unwrap();
    let refused = client.text(&["SET", "key", "2"]).await.unwrap_err();
    assert_eq!(refused.code(), Some("NOREPLICAS"));
    require(0).await.unwrap();
    assert_eq!(view(&primary).await.standing.required, Some(0));
    assert_eq!(client.text(&["SET", "key", "2"]).await.unwrap(), "OK");

    replica.resume().await;
    until("the replica is back", async || {
        view(&replica).await.is_in_step()
    })
    .await;
    let of_another = Action::RequireReplicas {
        nodes: vec![NodeRef {
            id: view(&replica).await.id,
            ..node(&primary).await
        }],
        least: 1,
    };
    let refused = run(&of_another).await.unwrap_err();
    assert!(
        matches!(refused, ExecuteError::OtherNode { .. }),
        "{refused}"
    );
    assert_eq!(view(&primary).await.standing.required, Some(0));
}
