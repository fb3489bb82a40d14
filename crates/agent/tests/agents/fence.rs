//! A pod whose server the user has stopped, and kept stopped.

use cachecluster_contract::{Persistence, fence};
use cachecluster_redis_admin::fixture::{PASSWORD, until};
use cachecluster_topology::Role;
use reqwest::Method;

use crate::agent::Agent;
use crate::cluster::{cluster, cluster_with, until_agreed, until_writable};

/// What the agent answers to whoever says that the password is this.
async fn ask(agent: &Agent, method: Method, password: Option<&str>) -> (u16, String) {
    let url = format!("http://127.0.0.1:{}{}", agent.admin, fence::PATH);
    let mut request = reqwest::Client::new().request(method, url);
    if let Some(password) = password {
        request = request.header(fence::HEADER, fence::credentials(password));
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn told(agent: &Agent, method: Method) -> fence::State {
    let (status, body) = ask(agent, method, Some(PASSWORD)).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

async fn raise(agent: &Agent) {
    until("the server is stopped", async || {
        let state = told(agent, Method::PUT).await;
        assert!(state.fenced);
        state.stopped
    })
    .await;
}

/// That the server is down and everybody who asks is told why.
async fn is_down(agent: &Agent) {
    assert!(agent.connect().await.is_none());
    assert_eq!(agent.get("/livez").await.0, 200);
    let (status, reason) = agent.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(reason.starts_with("fenced: "), "{reason}");
    let metrics = agent.get("/metrics").await.1;
    for line in ["cachecluster_redis_fenced 1", "cachecluster_redis_up 0"] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

async fn a_primary_is_fenced_under_writes(persistence: Persistence, shards: u16) {
    const KEY: &str = "{bar}key";
    let mut agents = cluster(persistence, shards, 1).await;
    let replica = usize::from(shards);
    let mut writing = agents[0].connect().await.unwrap();
    let writer = tokio::spawn(async move {
        let mut acknowledged = 0_u64;
        while let Ok(count) = writing.text(&["INCR", KEY]).await {
            acknowledged = count.parse().unwrap();
        }
        acknowledged
    });
    until("the writer is at it", async || {
        let count = agents[0].try_text(&["GET", KEY]).await;
        count.is_ok_and(|count| count.parse::<u64>().unwrap_or(0) > 500)
    })
    .await;
    raise(&agents[0]).await;
    let took = until_writable(&agents[replica], "{bar}other").await;
    println!("{shards} shards, fenced: writable {took:?} after the server stopped");
    let acknowledged = writer.await.unwrap();
    assert!(agents[replica].is(Role::Primary).await);
    assert_eq!(
        agents[replica].text(&["GET", KEY]).await,
        acknowledged.to_string()
    );
    is_down(&agents[0]).await;

    // The container starts anew, in order and out of it, and the server stays down.
    agents[0].terminate();
    assert!(agents[0].wait().success());
    for _ in 0..2 {
        agents[0].spawn();
        until("the agent says that it is fenced", async || {
            agents[0].get("/readyz").await.1.starts_with("fenced: ")
        })
        .await;
        is_down(&agents[0]).await;
        let mut process = agents[0].process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }
    agents[0].spawn();
    until("the agent says that it is fenced", async || {
        agents[0].get("/readyz").await.1.starts_with("fenced: ")
    })
    .await;

    agents[replica].text(&["SET", "{bar}late", "v"]).await;
    assert!(!told(&agents[0], Method::DELETE).await.fenced);
    agents[0].until_ready().await;
    assert!(agents[0].is(Role::Replica).await);
    let keys = agents[replica].view().await.unwrap().keys;
    assert_eq!(agents[0].view().await.unwrap().keys, keys);
    assert!(
        agents[0]
            .get("/metrics")
            .await
            .1
            .contains("cachecluster_redis_fenced 0")
    );
    // It is one of them again, with all rights.
    until_agreed(&agents).await;
    agents[replica].terminate();
    until_writable(&agents[0], "{bar}again").await;
    assert_eq!(agents[0].text(&["GET", "{bar}late"]).await, "v");
}

#[tokio::test]
async fn a_fenced_primary_hands_over_without_loss_and_follows_when_the_fence_is_lifted() {
    a_primary_is_fenced_under_writes(Persistence::Ephemeral, 1).await;
}

#[tokio::test]
async fn the_same_with_a_volume_and_votes() {
    a_primary_is_fenced_under_writes(Persistence::Volume, 3).await;
}

#[tokio::test]
async fn without_the_password_nothing_happens() {
    let agent = Agent::start(Persistence::Ephemeral, 2000);
    agent.until_answers().await;
    let pid = agent.server_pid().await;
    let short = &PASSWORD[..PASSWORD.len() - 1];
    let long = format!("{PASSWORD}x");
    for method in [Method::PUT, Method::DELETE] {
        for password in [None, Some(""), Some("wrong"), Some(short), Some(&*long)] {
            assert_eq!(ask(&agent, method.clone(), password).await.0, 401);
        }
    }
    assert_eq!(ask(&agent, Method::POST, Some(PASSWORD)).await.0, 405);
    assert!(!told(&agent, Method::DELETE).await.fenced);
    assert_eq!(agent.server_pid().await, pid);
    assert!(!agent.dir.path().join("data").join(fence::FILE).exists());
    assert!(!agent.log().contains("fenced"), "{}", agent.log());
    let line = "somebody without the password asked for the fence";
    let (lines, began) = (agent.log().matches(line).count(), std::time::Instant::now());
    let guesses = (0..20).map(|_| ask(&agent, Method::DELETE, Some("guess")));
    let guessing = futures::future::join_all(guesses);
    // Whoever knows it is not kept waiting by those who do not.
    let knowing = ask(&agent, Method::DELETE, Some(PASSWORD));
    let (mut answers, known) = futures::join!(guessing, knowing);
    assert_eq!(known.0, 200);
    assert!(began.elapsed().as_millis() >= 200);
    answers.retain(|(status, _)| *status != 429);
    // Of those that come at once one is answered; some may come late.
    assert!((1..10).contains(&answers.len()), "{answers:?}");
    assert!(answers.iter().all(|(status, _)| *status == 401));
    let lines = agent.log().matches(line).count() - lines;
    assert!(lines <= 2, "{}", agent.log());

    raise(&agent).await;
    for password in [None, Some("wrong")] {
        assert_eq!(ask(&agent, Method::DELETE, password).await.0, 401);
    }
    assert!(told(&agent, Method::PUT).await.stopped);
    is_down(&agent).await;
    let credentials = fence::credentials(PASSWORD);
    assert!(!agent.log().contains(&credentials["Bearer ".len()..]));
}

#[tokio::test]
async fn a_fenced_primary_without_a_replica_stops_and_comes_back_with_its_volume() {
    let agents = cluster(Persistence::Volume, 1, 0).await;
    agents[0].text(&["SET", "k", "v"]).await;
    raise(&agents[0]).await;
    is_down(&agents[0]).await;
    told(&agents[0], Method::DELETE).await;
    agents[0].until_ready().await;
    assert_eq!(agents[0].text(&["GET", "k"]).await, "v");
}

#[tokio::test]
async fn a_fenced_replica_stays_out_of_it_and_is_no_witness() {
    let agents = cluster_with(Persistence::Ephemeral, 1, 2, 15_000, &[]).await;
    raise(&agents[2]).await;
    is_down(&agents[2]).await;
    assert!(agents[0].is(Role::Primary).await && agents[1].is(Role::Replica).await);
    let id = agents[0].view().await.unwrap().id;
    assert_eq!(agents[2].get(&format!("/heard?node={id}")).await.0, 423);
    // The primary goes in order, to the replica that is there.
    agents[0].terminate();
    until_writable(&agents[1], "k").await;
    is_down(&agents[2]).await;
    told(&agents[2], Method::DELETE).await;
    agents[2].until_ready().await;
    let primary = agents[1].view().await.unwrap().id;
    assert_eq!(agents[2].view().await.unwrap().primary, Some(primary));
}
