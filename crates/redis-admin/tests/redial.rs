//! A replica that dials where its primary was, as Redis leaves it, and what brings it back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cachecluster_redis_admin::fixture::{Server, free_port, password, until};
use cachecluster_redis_admin::{execute, probe};
use cachecluster_topology::{Action, LinkState, NodeRef, NodeView, Probe, SlotRange, SlotRanges};

const DEADLINE: Duration = Duration::from_secs(2);
/// Who waits so long for a frozen node goes on telling others where it is.
const PATIENT: [&str; 2] = ["--cluster-node-timeout", "60000"];

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

async fn run(action: Action) {
    execute(&action, &password(), DEADLINE).await.unwrap();
}

#[tokio::test]
async fn a_replica_told_by_a_third_dials_the_old_address_until_it_is_made_a_replica_again() {
    let (mut primary, witness, mut replica) = tokio::join!(
        Server::start_with(&PATIENT),
        Server::start_with(&PATIENT),
        Server::start()
    );
    let (p, w, r) = (
        node(&primary).await,
        node(&witness).await,
        node(&replica).await,
    );
    let all = SlotRanges::from_ranges([SlotRange {
        start: 0,
        end: 16383,
    }]);
    run(Action::AssignSlots {
        assignments: vec![(p.clone(), all, 1)],
    })
    .await;
    run(Action::Meet {
        via: p.clone(),
        peers: vec![w.clone(), r.clone()],
    })
    .await;
    until("everybody knows everybody", async || {
        let (one, other) = (view(&witness).await, view(&replica).await);
        let knows = |view: &NodeView, id| view.known.get(id).is_some_and(|k| !k.is_handshake());
        knows(&one, &r.id) && knows(&other, &w.id) && knows(&other, &p.id)
    })
    .await;
    let follow = Action::Replicate {
        pairs: vec![(r, p.id.clone())],
    };
    run(follow.clone()).await;
    until("the link is up", async || view(&replica).await.link_up).await;

    // Both stop; the primary comes back elsewhere, and only the witness hears of it.
    let old = primary.addr();
    replica.kill();
    primary.kill();
    primary.port = free_port();
    primary.resume().await;
    until("the witness knows where the primary is", async || {
        view(&witness).await.known[&p.id].addr == Some(primary.addr())
    })
    .await;
    primary.freeze();
    replica.resume().await;
    until("the witness has told the replica", async || {
        view(&replica).await.known[&p.id].addr == Some(primary.addr())
    })
    .await;
    primary.thaw();
    until("the primary calls", async || {
        view(&replica).await.known[&p.id].link == LinkState::Ok
    })
    .await;

    let lost = view(&replica).await;
    assert_eq!(lost.primary.as_ref(), Some(&p.id));
    assert_eq!(lost.standing.dials, Some(old));
    assert!(lost.dials_in_vain(primary.addr()), "{lost:?}");

    run(follow).await;
    until("the link is up again", async || {
        view(&replica).await.link_up
    })
    .await;
    let found = view(&replica).await;
    assert_eq!(found.standing.dials, Some(primary.addr()));
}
