//! Processes of pods, found and signalled from outside: on the testbed this machine runs the nodes, so that also what no
//! shell reaches can be killed, agent and server in one blow, and with the API server away.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The containers of a pod that run, by their ids in the container runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Containers {
    /// The pod.
    pub(super) pod: String,
    ids: Vec<String>,
}

impl Containers {
    /// Those of a pod as the API server tells it.
    pub(super) fn of(pod: &Pod) -> Self {
        let statuses = pod
            .status
            .iter()
            .flat_map(|status| status.container_statuses.iter().flatten());
        let running = statuses.filter(|status| {
            let state = status.state.as_ref();
            state.is_some_and(|state| state.running.is_some())
        });
        let ids = running.filter_map(|status| {
            let (_, id) = status.container_id.as_deref()?.split_once("://")?;
            // It becomes a path.
            id.bytes()
                .all(|byte| byte.is_ascii_hexdigit())
                .then(|| id.to_owned())
        });
        Self {
            pod: pod.name_any(),
            ids: ids.collect(),
        }
    }

    /// Whether any runs.
    pub(super) fn run(&self) -> bool {
        !self.ids.is_empty()
    }

    /// Sends a signal to all of their processes, or to the Redis servers among them: to whom, which may be nobody.
    ///
    /// # Errors
    /// When the kernel does not let us.
    pub(super) fn signal(&self, signal: Signal, servers_only: bool) -> Result<Vec<Pid>> {
        let mut struck = Vec::new();
        for process in self.processes()? {
            if servers_only && !is_server(process) {
                continue;
            }
            match kill(process, signal) {
                Ok(()) => struck.push(process),
                Err(Errno::ESRCH) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("{signal} to {process}"));
                }
            }
        }
        Ok(struck)
    }

    /// Kills the process that holds the pod's network; false if there is none.
    ///
    /// # Errors
    /// When the kernel does not let us.
    pub(super) fn kill_sandbox(&self) -> Result<bool> {
        let Some(network) = self.processes()?.into_iter().find_map(network_of) else {
            return Ok(false);
        };
        let all = fs::read_dir("/proc").context("the processes")?;
        let numbers = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let holder = numbers.map(Pid::from_raw).find(|process| {
            is_named(*process, "pause") && network_of(*process).as_ref() == Some(&network)
        });
        match holder.map(|process| kill(process, Signal::SIGKILL)) {
            Some(Ok(())) => Ok(true),
            None | Some(Err(Errno::ESRCH)) => Ok(false),
            Some(Err(error)) => Err(error).context("killing a pod's sandbox"),
        }
    }

    fn processes(&self) -> Result<Vec<Pid>> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").context("the cgroups")?;
        let version_1 = hierarchies.filter_map(|entry| Some(entry.ok()?.path()));
        let roots: Vec<_> = version_1.chain(["/sys/fs/cgroup".into()]).collect();
        let mut processes = Vec::new();
        for id in &self.ids {
            let lists = roots
                .iter()
                .map(|root| root.join("k8s.io").join(id).join("cgroup.procs"));
            // Every hierarchy names the same ones.
            if let Some(list) = lists.into_iter().find_map(|path| read(&path)) {
                processes.extend(parse(&list));
            }
        }
        Ok(processes)
    }
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .filter(|list| !list.is_empty())
}

fn parse(list: &str) -> Vec<Pid> {
    list.lines()
        .filter_map(|line| line.trim().parse().ok())
        .filter(|process| *process > 1)
        .map(Pid::from_raw)
        .collect()
}

fn is_server(process: Pid) -> bool {
    ["redis-server", "valkey-server"]
        .iter()
        .any(|server| is_named(process, server))
}

fn is_named(process: Pid, name: &str) -> bool {
    let said = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    said.starts_with(name)
}

/// The network namespace in which a process is.
fn network_of(process: Pid) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/net")).ok()
}

/// Lets stopped processes go on; those that are gone by now need it no more.
pub(super) fn go_on(processes: &[Pid]) {
    for process in processes {
        if is_server(*process) {
            let _ = kill(*process, Signal::SIGCONT);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_containers_that_run_and_whose_id_is_one_are_taken() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "a"},
            "status": {"containerStatuses": [
                {"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                 "containerID": "containerd://0a1b", "state": {"running": {}}},
                {"name": "b", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                 "containerID": "containerd://ff", "state": {"terminated": {"exitCode": 1}}},
                {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                 "containerID": "containerd://../../x", "state": {"running": {}}},
            ]},
        }))
        .unwrap();
        assert_eq!(Containers::of(&pod).ids, ["0a1b"]);
        assert!(!Containers::of(&Pod::default()).run());
    }

    #[test]
    fn nothing_is_sent_to_everybody_nor_to_the_first_process() {
        assert_eq!(
            parse("12\n0\n-1\n1\nx\n34\n"),
            [Pid::from_raw(12), Pid::from_raw(34)]
        );
    }
}
