//! A server that reads a large data set from disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::{Cell, RefCell};
use std::time::Duration;

use cachecluster_redis_admin::fixture::{Server, password, until};
use cachecluster_redis_admin::probe;
use cachecluster_topology::Probe;

#[tokio::test]
async fn a_loading_server_is_told_from_a_ready_one() {
    let mut server = Server::start_with(&["--appendonly", "yes", "--key-load-delay", "500"]).await;
    server
        .text(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"])
        .await;
    until("the server serves", async || {
        let mut connection = server.connect().await.unwrap();
        connection.text(&["SET", "{a}0", "v"]).await.is_ok()
    })
    .await;
    let fill = "for i = 1, 5000 do redis.call('SET', '{a}' .. i, 'v') end return 1";
    server.text(&["EVAL", fill, "1", "{a}"]).await;
    server.kill();
    server.spawn();

    let (loads, otherwise) = (Cell::new(0), RefCell::new(Vec::new()));
    until("the data set is loaded", async || {
        match probe(server.addr(), &password(), Duration::from_secs(1)).await {
            Probe::Answered(view) if !view.loading => {
                assert_eq!(view.keys, 5001);
                return true;
            }
            Probe::Silent(reason) => otherwise.borrow_mut().push(reason),
            // Redis 7.0 does not speak of the cluster meanwhile, newer ones may.
            probe => loads.set(loads.get() + u32::from(probe.is_loading())),
        }
        false
    })
    .await;
    // It may not have its port yet, or be silent between two events.
    assert!(loads.get() > 0, "{:?}", otherwise.into_inner());
}

#[tokio::test]
async fn a_server_that_a_script_keeps_busy_refuses_and_is_not_silent() {
    let server = Server::start_with(&["--busy-reply-threshold", "10"]).await;
    let mut connection = server.connect().await.unwrap();
    let script = tokio::spawn(async move {
        let endless = ["EVAL", "while true do end", "0"];
        connection.text(&endless).await
    });
    let patience = Duration::from_secs(1);
    until("the server refuses", async || {
        let probe = probe(server.addr(), &password(), patience).await;
        matches!(probe, Probe::Refused(words) if words.contains("BUSY"))
    })
    .await;
    server.text(&["SCRIPT", "KILL"]).await;
    assert!(script.await.unwrap().is_err());
    until("it answers again", async || {
        let probe = probe(server.addr(), &password(), patience).await;
        probe.view().is_some()
    })
    .await;
}
