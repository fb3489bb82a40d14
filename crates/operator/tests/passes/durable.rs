//! Who is in sync, and two operators that both believe to lead.

use std::sync::Arc;

use cachecluster_crd::CacheCluster;
use cachecluster_operator::reconcile::{Error, reconcile};
use kube::core::DeserializeGuard;
use serde_json::json;

use crate::server::Server;
use crate::{CLUSTERS, Operator, server_with, status};

fn set_in_sync(server: &Server, pods: &[&str]) {
    server.change(&format!("{CLUSTERS}/demo"), |cluster| {
        cluster["status"]["shards"][0]["inSync"] = json!(pods);
    });
}

#[tokio::test]
async fn an_operator_that_stood_still_does_not_write_an_old_set_and_tells_nobody() {
    let server =
        server_with(json!({"profile": "Durable", "shards": 1, "storage": {"size": "1Gi"}}));
    let mut operator = Operator::start(&server);
    operator.settle(&server).await;
    set_in_sync(&server, &["demo-shard-0-0"]);
    operator.settle(&server).await;
    let (alone, both) = (["demo-shard-0-0"], ["demo-shard-0-0", "demo-shard-0-1"]);
    assert_eq!(status(&server).shards[0].in_sync, alone);

    // It has something to say, and another has let a replica join meanwhile.
    let mut seen: CacheCluster =
        serde_json::from_value(server.get(&format!("{CLUSTERS}/demo")).unwrap()).unwrap();
    seen.status.as_mut().unwrap().conditions.clear();
    set_in_sync(&server, &both);
    let told = server.events();
    let seen = Arc::new(DeserializeGuard(Ok(seen)));
    for _ in 0..7 {
        let result = reconcile(seen.clone(), operator.context.clone()).await;
        assert!(matches!(result, Err(Error::Status(_))), "{result:?}");
        let uid = format!("uid-of-{CLUSTERS}/demo");
        let memory = operator.context.memory.of(&uid);
        assert_eq!(memory.lock().await.failures, 1);
        assert_eq!(status(&server).shards[0].in_sync, both);
    }
    assert_eq!(server.events(), told);
    operator.settle(&server).await;
    assert_eq!(status(&server).shards[0].in_sync, both);
}
