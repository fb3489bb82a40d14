//! The quickstart: a cache of 3 shards x 1 replica, until a key went in and came out again.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::http::request;
use crate::progress::Step;
use crate::{cluster, command};

/// What is applied.
pub(crate) const MANIFEST: &str = "manifests/examples/quickstart.yaml";
/// The cache that it makes.
const NAME: &str = "quickstart";
/// The port that its Service has on every node.
const NODE_PORT: u16 = 30500;

/// Applies the quickstart and waits until it is Ready.
///
/// # Errors
/// When it is refused, or not Ready within four minutes; the error tells what it waits for.
pub(crate) fn apply(cluster: &Cluster) -> Result<()> {
    let text = std::fs::read_to_string(MANIFEST).with_context(|| format!("read {MANIFEST}"))?;
    let step = Step::start(format!("waiting for the cache {NAME} to be Ready"));
    cluster::feed(cluster.kubectl()?.args(["apply", "-f", "-"]), &text)?;
    let deadline = Instant::now() + Duration::from_secs(240);
    loop {
        let mut get = cluster.kubectl()?;
        let seen = command::output(get.args(["get", "cachecluster", NAME, "-o", "json"]))
            .and_then(|json| Ok(serde_json::from_str::<Value>(&json)?));
        match seen {
            Ok(cache) => {
                let (ready, detail) = state(&cache);
                step.say(&detail);
                if ready {
                    step.done();
                    return Ok(());
                }
                if Instant::now() > deadline {
                    bail!("the cache {NAME} is not Ready: {detail}");
                }
            }
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(error) => step.say(&format!("{error:#}")),
        }
        thread::sleep(Duration::from_millis(300));
    }
}

/// Whether a cache is Ready as of its present spec, and what it waits for.
fn state(cache: &Value) -> (bool, String) {
    let status = &cache["status"];
    let is_current = status["observedGeneration"] == cache["metadata"]["generation"];
    let condition = status["conditions"]
        .as_array()
        .and_then(|all| all.iter().find(|condition| condition["type"] == "Ready"));
    let Some(condition) = condition else {
        return (false, "the operator has not looked at it yet".into());
    };
    let served = status["shards"].as_array().map_or(0, |shards| {
        shards
            .iter()
            .filter(|shard| shard["primary"].is_string())
            .count()
    });
    let wanted = cache["spec"]["shards"].as_u64().unwrap_or(0);
    // The first of the reasons: the others go away with it more often than not.
    let message = condition["message"].as_str().unwrap_or_default();
    let message = message.split("; ").next().unwrap_or_default();
    let detail = format!("{served}/{wanted} shards served; {message}");
    (is_current && condition["status"] == "True", detail)
}

/// A way from this machine to the API of the quickstart, open while it lives.
pub(crate) struct Reach {
    /// Where to connect.
    pub(crate) address: SocketAddr,
    forward: Option<Child>,
}

impl Drop for Reach {
    fn drop(&mut self) {
        if let Some(forward) = &mut self.forward {
            let _ = forward.kill();
            let _ = forward.wait();
        }
    }
}

/// Opens the way: 127.0.0.1's NodePort, or a port-forward where nodes' ports are not on this machine.
///
/// # Errors
/// When kubectl cannot be started.
pub(crate) fn reach(cluster: &Cluster) -> Result<Reach> {
    if cluster.takes_images() {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, NODE_PORT));
        return Ok(Reach {
            address,
            forward: None,
        });
    }
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let service = format!("service/{NAME}-api");
    let forward = cluster
        .kubectl()?
        .args(["port-forward", &service, &format!("{}:5000", free.port())])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Reach {
        address: free,
        forward: Some(forward),
    })
}

/// Sets a key and gets it.
///
/// # Errors
/// When that has not worked for thirty seconds.
pub(crate) fn set_and_get(cluster: &Cluster) -> Result<()> {
    let reach = reach(cluster)?;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match once(reach.address) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn once(api: SocketAddr) -> Result<()> {
    let set = request(
        api,
        "POST",
        "/cache",
        Some(r#"{"key":"hello","value":"world"}"#),
    )?;
    let got = request(api, "GET", "/cache/hello", None)?;
    if set.status != 200 || got.body != r#"{"key":"hello","value":"world"}"# {
        bail!(
            "set a key: {} {}; got it: {} {}",
            set.status,
            set.body,
            got.status,
            got.body
        );
    }
    Ok(())
}

/// Tells how to go on by hand.
pub(crate) fn print_lines(cluster: &Cluster) -> Result<()> {
    let port = if let Cluster::Context(context) = cluster {
        println!("\nkubectl --context {context} port-forward service/{NAME}-api 5000 &");
        5000
    } else {
        let kubeconfig = cluster.kubeconfig()?.context("no kubeconfig")?;
        println!();
        for line in cluster::environment(&kubeconfig)? {
            println!("{line}");
        }
        NODE_PORT
    };
    println!("curl -X POST localhost:{port}/cache -d '{{\"key\":\"test\",\"value\":\"123\"}}'");
    println!("curl localhost:{port}/cache/test");
    println!("curl -X DELETE localhost:{port}/cache/test");
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::state;

    fn cache(generation: u64, ready: &str) -> serde_json::Value {
        json!({
            "metadata": {"generation": 2},
            "spec": {"shards": 3},
            "status": {
                "observedGeneration": generation,
                "conditions": [{"type": "Ready", "status": ready, "message": "forming; and 2 more"}],
                "shards": [{"name": "a", "primary": "a-0"}, {"name": "b"}],
            },
        })
    }

    #[test]
    fn ready_counts_only_for_the_present_spec() {
        assert!(state(&cache(2, "True")).0);
        assert!(!state(&cache(1, "True")).0);
        assert!(!state(&cache(2, "False")).0);
    }

    #[test]
    fn it_tells_what_is_waited_for() {
        assert_eq!(state(&cache(2, "False")).1, "1/3 shards served; forming");
    }

    #[test]
    fn a_resource_without_status_is_not_ready() {
        assert!(!state(&json!({"metadata": {"generation": 1}})).0);
    }
}
