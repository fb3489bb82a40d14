//! Does a fault, and undoes it: always, also when the round fails or somebody interrupts it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cachecluster_contract::labels;
use cachecluster_crd::CacheCluster;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::task::JoinHandle;

use super::excuse::{Member, Placement};
use super::fault::{Cut, Fault, Kind, Role, Target};
use super::processes::{self, Containers};
use crate::cluster::{Ctx, SOON};

/// Sends a signal to every Redis server in a container, by the shell's own means only; it fails if there is none.
const SIGNAL_SERVERS: &str = r#"
for process in /proc/[0-9]*; do
  read -r name 2>/dev/null <"$process/comm" || continue
  case $name in redis-server*|valkey-server*) kill -"$0" "${process#/proc/}" && struck=1 ;; esac
done
[ -n "$struck" ]
"#;

/// Has the append-only file rewritten where no file can be made: for [`Ctx::in_server`], as those that follow.
pub(crate) const SPOIL: &str = "chmod 555 /data/appendonlydir && $cli BGREWRITEAOF";
/// The same where one can.
pub(crate) const REPAIR: &str = "chmod 755 /data/appendonlydir && $cli BGREWRITEAOF";
/// Asks the server beside it for one value that is larger than its container may be. Of a few keys one is in its shard; the
/// others it does not serve. It was killed if it hangs up. Images of servers have few programs besides the shell.
const DEVOUR: &str = r#"i=0
while [ $i -lt 64 ]; do
    i=$((i + 1))
    case $($cli SETRANGE "oversized-$i" 500000000 x 2>&1) in
    *"closed the connection"* | *"reset by peer"*) echo struck; exit 0 ;;
    esac
done"#;

/// From one kill of the operator to the next, in a loop.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a node may take to be drained.
const DRAINED: Duration = Duration::from_secs(90);
/// How long the testbed may take for a command.
const TESTBED: Duration = Duration::from_secs(60);

/// Everything that faults need to know of a cluster, as it was at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    /// Where everything was.
    pub(crate) placement: Placement,
    redis: Vec<Containers>,
    api: Vec<Containers>,
    operator: Vec<Containers>,
}

impl Sight {
    /// Looks at a cluster.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub(crate) async fn of(ctx: &Ctx, name: &str) -> Result<Self> {
        let cluster = ctx.api::<CacheCluster>().get(name).await?;
        let shards = cluster.status.unwrap_or_default().shards;
        let primaries: Vec<String> = shards.into_iter().filter_map(|s| s.primary).collect();
        let redis = ctx.pods(name, labels::COMPONENT_REDIS).await?;
        let api = ctx.pods(name, labels::COMPONENT_API).await?;
        let operator = ctx.operator_pods().await?;
        let members = redis.iter().filter_map(|pod| {
            let pod_name = pod.name_any();
            Some(Member {
                shard: shard_of(name, &pod_name)?,
                primary: primaries.contains(&pod_name),
                node: number_of(pod),
                pod: pod_name,
            })
        });
        let containers = |pods: &[Pod]| pods.iter().map(Containers::of).collect();
        Ok(Self {
            placement: Placement {
                members: members.collect(),
                api: api
                    .iter()
                    .map(|pod| (pod.name_any(), number_of(pod)))
                    .collect(),
                operator: operator.iter().map(number_of).collect(),
            },
            redis: containers(&redis),
            api: containers(&api),
            operator: containers(&operator),
        })
    }

    /// Whether there is whom a fault is meant for.
    ///
    /// # Errors
    /// When there is not; who is missing.
    pub(crate) fn has(&self, fault: &Fault) -> Result<()> {
        let runs = |all: &[Containers]| all.iter().any(Containers::run);
        match (fault.kind, fault.target) {
            (_, Target::Member(shard, role)) => {
                let member = self.placement.member(shard, role);
                let member = member.with_context(|| format!("shard {shard} has no pods"))?;
                ensure!(
                    self.containers(&member.pod)?.run(),
                    "{} does not run",
                    member.pod
                );
                ensure!(
                    fault.kind != Kind::OutOfMemory || member.primary,
                    "{} is no primary",
                    member.pod
                );
            }
            (_, Target::Shard(shard)) => {
                let mut members = self.placement.members.iter();
                ensure!(
                    members.any(|m| m.shard == shard),
                    "shard {shard} has no pods"
                );
            }
            (Kind::DeleteAll, _) => ensure!(!self.redis.is_empty(), "there are no Redis pods"),
            (Kind::KillApi, _) => ensure!(runs(&self.api), "no API pod runs"),
            // One that was killed too often is held back by Kubernetes: it is away, as it should be.
            _ => {}
        }
        Ok(())
    }

    fn containers(&self, pod: &str) -> Result<&Containers> {
        let mut all = self.redis.iter();
        all.find(|containers| containers.pod == pod)
            .with_context(|| format!("{pod} is gone"))
    }

    fn member(&self, shard: u32, role: Role) -> Result<&Member> {
        let member = self.placement.member(shard, role);
        member.with_context(|| format!("shard {shard} has no pods"))
    }
}

/// The index in the name that the operator gives to a shard's pods.
fn shard_of(cluster: &str, pod: &str) -> Option<u32> {
    let rest = pod.strip_prefix(cluster)?.strip_prefix("-shard-")?;
    rest.split_once('-')?.0.parse().ok()
}

fn number_of(pod: &Pod) -> Option<u32> {
    let node = pod.spec.as_ref()?.node_name.as_deref()?;
    node.strip_prefix("node")?.parse().ok()
}

/// What ends a fault. Dropped, it does so, too.
#[derive(Default)]
pub(crate) struct Undo {
    steps: Vec<Step>,
}

enum Step {
    /// A command of the testbed.
    Testbed(PathBuf, Vec<String>),
    /// `kubectl` with arguments.
    Kubectl(Vec<OsString>),
    /// Processes go on.
    GoOn(Vec<Pid>),
    /// A task ends.
    End(JoinHandle<()>),
}

impl Undo {
    fn one(step: Step) -> Self {
        Self { steps: vec![step] }
    }

    /// Ends the fault.
    ///
    /// # Errors
    /// When that cannot be done.
    pub(crate) async fn now(mut self) -> Result<()> {
        let steps = std::mem::take(&mut self.steps);
        // On a thread of its own, which goes on when whoever waits is interrupted.
        tokio::task::spawn_blocking(move || steps.iter().try_for_each(Step::go_at_last))
            .await
            .context("undoing a fault")?
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for step in std::mem::take(&mut self.steps) {
            if let Err(error) = step.go_at_last() {
                eprintln!("a fault could not be undone: {error:#}");
            }
        }
    }
}

impl Step {
    /// Tries again for some time: the API server may be away by another fault.
    fn go_at_last(&self) -> Result<()> {
        let until = Instant::now() + TESTBED;
        loop {
            match self.go() {
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_secs(1)),
                done => return done,
            }
        }
    }

    fn go(&self) -> Result<()> {
        let mut command = match self {
            Self::GoOn(processes) => {
                processes::go_on(processes);
                return Ok(());
            }
            Self::End(task) => {
                task.abort();
                return Ok(());
            }
            Self::Testbed(testbed, words) => {
                let mut command = Command::new(testbed);
                command.args(words);
                command
            }
            Self::Kubectl(words) => {
                let mut command = Command::new("kubectl");
                command.args(words);
                command
            }
        };
        let output = command.output()?;
        ensure!(
            output.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

/// Does a fault to what was seen, and tells how it is undone; nothing if there was nobody to strike by then.
///
/// # Errors
/// When it cannot be done.
pub(crate) async fn inject(ctx: &Ctx, sight: &Sight, fault: &Fault) -> Result<Option<Undo>> {
    let testbed = ctx.settings.testbed.as_deref();
    let everywhere = || testbed.context("this takes the testbed");
    match (fault.kind, fault.target) {
        (Kind::DeletePod, Target::Member(shard, role)) => {
            delete(ctx, &sight.member(shard, role)?.pod, None).await?;
        }
        (Kind::ForceDeletePod, Target::Member(shard, role)) => {
            delete(ctx, &sight.member(shard, role)?.pod, Some(0)).await?;
        }
        (Kind::KillServer | Kind::HangServer, Target::Member(shard, role)) => {
            let pod = &sight.member(shard, role)?.pod;
            let hang = fault.kind == Kind::HangServer;
            return strike_server(ctx, testbed, sight.containers(pod)?, hang).await;
        }
        (Kind::OutOfMemory, Target::Member(shard, role)) => {
            // No container to enter: another fault was faster.
            let struck = exhaust(ctx, &sight.member(shard, role)?.pod).await;
            return Ok(struck.unwrap_or_default().then(Undo::default));
        }
        (Kind::FailSaves, Target::Member(shard, role)) => {
            return fail_saves(ctx, &sight.member(shard, role)?.pod).await;
        }
        (Kind::KillContainer, Target::Member(shard, role)) => {
            everywhere()?;
            let containers = sight.containers(&sight.member(shard, role)?.pod)?;
            return Ok(kill(containers)?.then(Undo::default));
        }
        (Kind::KillSandbox, Target::Member(shard, role)) => {
            everywhere()?;
            let containers = sight.containers(&sight.member(shard, role)?.pod)?;
            return Ok(containers.kill_sandbox()?.then(Undo::default));
        }
        (Kind::DeleteShard | Kind::DeleteAll, _) => {
            let struck = sight.placement.struck(fault);
            let mut pods: Vec<&str> = struck.iter().map(|member| member.pod.as_str()).collect();
            if fault.kind == Kind::DeleteAll {
                pods.extend(sight.placement.api.iter().map(|(name, _)| name.as_str()));
            }
            let deletions = pods.iter().map(|pod| delete(ctx, pod, None));
            join_all(deletions)
                .await
                .into_iter()
                .collect::<Result<()>>()?;
        }
        (Kind::KillApi, _) => {
            everywhere()?;
            let one = sight.api.iter().find(|containers| containers.run());
            let one = one.context("no API pod runs")?;
            return Ok(kill(one)?.then(Undo::default));
        }
        (Kind::KillOperator, _) => {
            let killed = kill_operator(ctx, &sight.operator).await?;
            return Ok(killed.then(Undo::default));
        }
        (Kind::KillOperatorLoop, _) => {
            let (ctx, mut containers) = (ctx.clone(), sight.operator.clone());
            let killing = tokio::spawn(async move {
                loop {
                    // Between two lives there is nobody to kill.
                    let _ = kill_operator(&ctx, &containers).await;
                    tokio::time::sleep(AGAIN).await;
                    if let Ok(pods) = ctx.operator_pods().await {
                        containers = pods.iter().map(Containers::of).collect();
                    }
                }
            });
            return Ok(Some(Undo::one(Step::End(killing))));
        }
        (Kind::PowerOff, Target::Node(node)) => {
            let number = node.to_string();
            let (off, on) = (["kill-node", &number], ["start-node", &number]);
            return reversible(everywhere()?, &off, &on).await.map(Some);
        }
        (Kind::PowerOffAll, _) => {
            return power_off_all(everywhere()?, nodes_of(ctx).await?)
                .await
                .map(Some);
        }
        (Kind::Partition, Target::Link(node, cut)) => {
            return partition(everywhere()?, node, cut, nodes_of(ctx).await?)
                .await
                .map(Some);
        }
        (Kind::StopApiServer, _) => {
            let (stop, start) = (["apiserver", "stop"], ["apiserver", "start"]);
            return reversible(everywhere()?, &stop, &start).await.map(Some);
        }
        (Kind::Drain, Target::Node(node)) => {
            let node = format!("node{node}");
            let target = &ctx.settings.target;
            let undo = Undo::one(Step::Kubectl(target.words(&["uncordon", &node])));
            let words = [
                "drain",
                &node,
                "--ignore-daemonsets",
                "--delete-emptydir-data",
                "--force",
                "--pod-selector",
                &format!("{}={}", labels::NAME, labels::NAME_VALUE),
            ];
            target.kubectl(&words, DRAINED).await?;
            return Ok(Some(undo));
        }
        (kind, target) => bail!("{} does not happen to {target:?}", kind.name()),
    }
    Ok(Some(Undo::default()))
}

/// Kills everything in a pod; false if there was nothing.
fn kill(containers: &Containers) -> Result<bool> {
    let struck = containers.signal(Signal::SIGKILL, false)?;
    Ok(!struck.is_empty())
}

async fn delete(ctx: &Ctx, pod: &str, grace: Option<u32>) -> Result<()> {
    let params = DeleteParams {
        grace_period_seconds: grace,
        ..DeleteParams::default()
    };
    match ctx.api::<Pod>().delete(pod, &params).await {
        Ok(_) => Ok(()),
        // The other fault of the round was faster.
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error).with_context(|| format!("deleting {pod}")),
    }
}

/// Has the kernel kill a primary's server for its memory; false if that goes on.
///
/// # Errors
/// When its container cannot be entered.
pub(crate) async fn exhaust(ctx: &Ctx, pod: &str) -> Result<bool> {
    Ok(ctx.in_server(pod, DEVOUR).await?.contains("struck"))
}

/// Has a server fail to rewrite its append-only file. None if another fault was faster.
async fn fail_saves(ctx: &Ctx, pod: &str) -> Result<Option<Undo>> {
    let words = Ctx::shell(pod, REPAIR);
    let words = [
        &["--namespace", &ctx.namespace],
        &words.each_ref().map(String::as_str)[..],
    ];
    let undo = Step::Kubectl(ctx.settings.target.words(&words.concat()));
    let undo = Undo::one(undo);
    // A server that begins to run has no files yet.
    let spoilt = ctx.eventually("a server's files cannot be written", SOON, async || {
        ctx.in_server(pod, SPOIL).await.map(drop)
    });
    if spoilt.await.is_ok() {
        return Ok(Some(undo));
    }
    undo.now().await.map(|()| None)
}

async fn power_off_all(testbed: &Path, nodes: u32) -> Result<Undo> {
    let numbers: Vec<String> = (1..=nodes).map(|node| node.to_string()).collect();
    let on = |number: &String| {
        let words = vec!["start-node".to_owned(), number.clone()];
        Step::Testbed(testbed.to_owned(), words)
    };
    let undo = Undo {
        steps: numbers.iter().map(on).collect(),
    };
    let off = numbers.iter().map(async |number| {
        crate::command::program(testbed, &["kill-node", number], TESTBED).await
    });
    for killed in join_all(off).await {
        killed?;
    }
    Ok(undo)
}

async fn strike_server(
    ctx: &Ctx,
    testbed: Option<&Path>,
    containers: &Containers,
    hang: bool,
) -> Result<Option<Undo>> {
    let pod = containers.pod.as_str();
    if testbed.is_some() {
        let signal = if hang {
            Signal::SIGSTOP
        } else {
            Signal::SIGKILL
        };
        let struck = containers.signal(signal, true)?;
        let found = !struck.is_empty();
        let undo = match hang {
            true => Undo::one(Step::GoOn(struck)),
            false => Undo::default(),
        };
        return Ok(found.then_some(undo));
    }
    let send = |signal| ["exec", pod, "--", "sh", "-c", SIGNAL_SERVERS, signal];
    ctx.kubectl(&send(if hang { "STOP" } else { "KILL" }), SOON)
        .await?;
    // The agent ends a stopped server by itself; there is nobody left to go on.
    Ok(Some(Undo::default()))
}

/// Kills every process of the operator; where nobody reaches them, its pods. False if there was nobody.
async fn kill_operator(ctx: &Ctx, operator: &[Containers]) -> Result<bool> {
    if ctx.settings.testbed.is_some() {
        let killed = operator.iter().map(kill).collect::<Result<Vec<bool>>>()?;
        return Ok(killed.contains(&true));
    }
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &ctx.settings.operator_namespace);
    let now = DeleteParams::default().grace_period(0);
    for containers in operator {
        match api.delete(&containers.pod, &now).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(error).context("killing the operator"),
        }
    }
    Ok(!operator.is_empty())
}

/// Two commands of the testbed, of which the second undoes the first; also if the first fails half-way.
async fn reversible(testbed: &Path, first: &[&str], second: &[&str]) -> Result<Undo> {
    let words = second.iter().map(|word| (*word).to_owned()).collect();
    let undo = Undo::one(Step::Testbed(testbed.to_owned(), words));
    crate::command::program(testbed, first, TESTBED).await?;
    Ok(undo)
}

async fn partition(testbed: &Path, node: u32, cut: Cut, nodes: u32) -> Result<Undo> {
    let undo = Undo::one(Step::Testbed(testbed.to_owned(), vec!["heal".to_owned()]));
    let others = (1..=nodes).filter(|other| *other != node);
    let ends: Vec<String> = match cut {
        Cut::Nodes => others.map(|other| other.to_string()).collect(),
        Cut::ControlPlane => vec!["cp".to_owned()],
        Cut::All => others
            .map(|other| other.to_string())
            .chain(["cp".to_owned()])
            .collect(),
        Cut::Node(other) => vec![other.to_string()],
    };
    let node = node.to_string();
    for end in ends {
        crate::command::program(testbed, &["partition", &node, &end], TESTBED).await?;
    }
    Ok(undo)
}

async fn nodes_of(ctx: &Ctx) -> Result<u32> {
    let testbed = ctx.settings.testbed.as_deref().context("no testbed")?;
    nodes(testbed).await
}

/// How many nodes the testbed has.
///
/// # Errors
/// When it is down.
pub(crate) async fn nodes(testbed: &Path) -> Result<u32> {
    let said = crate::command::program(testbed, &["status"], TESTBED).await?;
    let number = said.chars().filter(char::is_ascii_digit);
    let number: String = number.collect();
    number.parse().with_context(|| format!("{said:?}"))
}

/// Undoes whatever a run that was itself killed may have left.
///
/// # Errors
/// When the testbed refuses.
pub(crate) async fn mend(ctx: &Ctx) -> Result<()> {
    let Some(testbed) = ctx.settings.testbed.as_deref() else {
        return Ok(());
    };
    let count = nodes(testbed).await?;
    let run = async |words: &[&str]| crate::command::program(testbed, words, TESTBED).await;
    run(&["heal"]).await?;
    run(&["apiserver", "start"]).await?;
    for node in 1..=count {
        run(&["start-node", &node.to_string()]).await?;
        let name = format!("node{node}");
        let words = ["uncordon", name.as_str()];
        ctx.settings.target.kubectl(&words, SOON).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_undone_also_when_its_round_is_cut_short() {
        let mark = std::env::temp_dir().join(format!("undone-{}", std::process::id()));
        let words = vec![mark.display().to_string()];
        let undo = Undo::one(Step::Testbed("touch".into(), words));
        assert!(!mark.exists());
        drop(undo);
        assert!(mark.exists());
        std::fs::remove_file(mark).unwrap();
    }

    #[test]
    fn a_pods_shard_is_read_from_its_name() {
        assert_eq!(shard_of("chaos", "chaos-shard-12-1"), Some(12));
        assert_eq!(shard_of("chaos", "chaos-api-5d6-x"), None);
        assert_eq!(shard_of("chaos", "other-shard-1-0"), None);
    }
}
