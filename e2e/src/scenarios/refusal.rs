//! What the API server refuses, and with which words.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use cachecluster_crd::conditions;
use serde_json::{Value, json};

use super::{Scenario, Turn};
use crate::cluster::{Ctx, SOON};
use crate::figure::Figure;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "refused",
        Turn::Together,
        "what cannot work is refused at once, with words that say what to do",
        |ctx| Box::pin(refused(ctx)),
    )]
}

async fn refused(ctx: &Ctx) -> Result<Vec<Figure>> {
    let mut count = 0;
    for (spec, words) in bad_specs() {
        expect(
            "demo",
            &spec,
            words,
            ctx.create_or_ask("demo", spec.clone(), true).await,
        )?;
        count += 1;
    }
    let long = "a".repeat(43);
    for (name, words) in [
        (long.as_str(), "shorter name"),
        ("with.dots", "lower-case letters"),
        ("7up", "starting with a letter"),
    ] {
        let spec = json!({});
        expect(
            name,
            &spec,
            words,
            ctx.create_or_ask(name, spec.clone(), true).await,
        )?;
        count += 1;
    }
    for spec in good_specs() {
        ctx.create_or_ask("demo", spec, true).await?;
    }

    // kubectl asks for strict validation: a field that does nothing is not accepted in silence.
    let typo = json!({
        "apiVersion": "cachecluster.io/v1alpha1", "kind": "CacheCluster",
        "metadata": {"name": "demo", "namespace": ctx.namespace}, "spec": {"shard": 3},
    });
    let args = ["create", "--dry-run=server", "-f", "-"];
    let said = ctx
        .settings
        .target
        .kubectl_with(&args, Some(&typo.to_string()), SOON)
        .await;
    expect("demo", &typo, "unknown field", said)?;

    // Which ports there are, only the API server of the moment knows.
    let service = json!({"type": "NodePort", "nodePort": 1000});
    ctx.create("port", json!({"shards": 1, "api": {"service": service}}))
        .await?;
    ctx.cluster_when(
        "port",
        "says what is wrong with its port",
        SOON,
        |cluster| {
            let status = cluster.status.iter();
            let mut conditions = status.flat_map(|status| &status.conditions);
            conditions.any(|it| {
                it.type_ == conditions::ACCEPTED
                    && it.reason == conditions::reason::NODE_PORT_UNAVAILABLE
                    && it.message.contains("nodePort 1000: ")
            })
        },
    )
    .await?;
    ctx.delete("port").await?;
    count += 1;

    ctx.create_ready(
        "fixed",
        json!({"shards": 1, "replicas": 0, "memory": "64Mi", "api": {"replicas": 1}}),
    )
    .await?;
    for (change, words) in [
        (json!({"shards": 2}), "spec.shards cannot be changed"),
        (json!({"memory": "128Mi"}), "spec.memory cannot be changed"),
        (
            json!({"engine": {"image": "other:1"}}),
            "spec.engine cannot be changed",
        ),
        (
            json!({"storage": {"size": "1Gi"}}),
            "spec.storage cannot be added",
        ),
        (
            json!({"auth": {"secretName": "other"}}),
            "spec.auth cannot be changed",
        ),
    ] {
        expect(
            "fixed",
            &change,
            words,
            ctx.change("fixed", change.clone()).await,
        )?;
        count += 1;
    }
    let scaled = ctx
        .kubectl(&["scale", "cc/fixed", "--replicas=2"], SOON)
        .await;
    let what = json!("kubectl scale --replicas=2");
    expect("fixed", &what, "spec.shards cannot be changed", scaled)?;
    ctx.ready("fixed", Duration::from_secs(30)).await?;
    Ok(vec![Figure::count("refusals", count + 2)])
}

fn bad_specs() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"shards": 0}), "spec.shards"),
        (json!({"shards": 161}), "spec.shards"),
        (json!({"shards": "three"}), "spec.shards"),
        (json!({"replicas": 6}), "spec.replicas"),
        (json!({"replicas": -1}), "spec.replicas"),
        (json!({"memory": "lots"}), "write it like 512Mi"),
        (json!({"memory": "16Mi"}), "at least 32Mi"),
        (json!({"memory": "99999999999Ti"}), "at most 1Ti"),
        (json!({"storage": {"size": "1"}}), "at least 64Mi"),
        (
            json!({"storage": {"size": "1Gi", "storageClassName": "Fast Disks"}}),
            "kubectl get storageclass",
        ),
        (
            json!({"auth": {"secretName": "UPPER_case"}}),
            "kubectl get secrets",
        ),
        (
            json!({"api": {"resources": {"limits": {"memory": "lots"}}}}),
            "spec.api.resources.limits.memory",
        ),
        (json!({"engine": {"image": "redis 8"}}), "without spaces"),
        (
            json!({"engine": {"eviction": "sometimes"}}),
            "spec.engine.eviction",
        ),
        (
            json!({"engine": {"config": {"Maxclients": "1"}}}),
            "lower case",
        ),
        (
            json!({"engine": {"config": {"maxclients": "1\nport 1"}}}),
            "one line",
        ),
        (
            json!({"engine": {"config": {"requirepass": "x"}}}),
            "spec.auth for passwords",
        ),
        (
            json!({"engine": {"config": {"cluster-enabled": "no"}}}),
            "set by the operator",
        ),
        (json!({"storage": {}}), "spec.storage.size"),
        (json!({"storage": {"size": "big"}}), "write it like 10Gi"),
        (
            json!({"storage": {"size": "1Gi", "onDelete": "Maybe"}}),
            "spec.storage.onDelete",
        ),
        (
            json!({"api": {"service": {"nodePort": 30500}}}),
            "set spec.api.service.type",
        ),
        (json!({"api": {"replicas": 1000}}), "spec.api.replicas"),
    ]
}

fn good_specs() -> Vec<Value> {
    vec![
        json!({}),
        json!({"shards": 9, "replicas": 5, "memory": "4Gi"}),
        json!({"engine": {"image": "valkey/valkey:9.1", "eviction": "noeviction", "config": {"slowlog-log-slower-than": "5000"}}}),
        json!({"storage": {"size": "10Gi", "storageClassName": "fast", "onDelete": "Delete"}}),
        json!({"api": {"resources": {"requests": {"cpu": 1, "memory": "0.5Gi"}, "limits": {"cpu": "1500m"}}}}),
        json!({"api": {"replicas": 0, "service": {"type": "LoadBalancer"}}}),
    ]
}

/// That something was refused with these words.
fn expect<T>(name: &str, what: &Value, words: &str, answer: Result<T>) -> Result<()> {
    let Err(error) = answer else {
        bail!("{name} {what} was accepted; a refusal with {words:?} is wanted");
    };
    let said = format!("{error:#}");
    ensure!(
        said.contains(words),
        "{name} {what} was refused without saying {words:?}: {said}"
    );
    Ok(())
}
