//! One agent with its server.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cachecluster_contract::{AgentSettings, Persistence};
use cachecluster_redis_admin::fixture::{PASSWORD, free_port, password, until};
use cachecluster_redis_admin::{Connection, connect, probe};
use cachecluster_topology::{NodeRef, NodeView, Probe, Role};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long one question to a server may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(2);
/// Milliseconds.
pub(crate) const NODE_TIMEOUT: u64 = 2000;

/// A free port and the next one: agents find each other's from that of the server.
fn neighbours() -> (u16, u16) {
    loop {
        let (port, next) = (free_port(), free_port());
        if next == port + 1 {
            return (port, next);
        }
    }
}

/// An agent as a pod runs it; it and its server are ended when dropped.
pub(crate) struct Agent {
    pub(crate) port: u16,
    pub(crate) admin: u16,
    pub(crate) dir: TempDir,
    pub(crate) process: Option<Child>,
    flags: &'static [&'static str],
}

impl Agent {
    pub(crate) fn start(persistence: Persistence, node_timeout: u64) -> Self {
        Self::start_with(persistence, node_timeout, &[])
    }

    pub(crate) fn start_with(
        persistence: Persistence,
        node_timeout: u64,
        flags: &'static [&'static str],
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = AgentSettings {
            cluster: "test".to_owned(),
            peers: "localhost".to_owned(),
            maxmemory: 64 << 20,
            eviction: "allkeys-lru".to_owned(),
            node_timeout,
            persistence,
            durable: None,
            directives: [("maxclients".to_owned(), "200".to_owned())].into(),
        };
        let text = serde_json::to_string(&settings).unwrap();
        fs::write(dir.path().join("settings.json"), text).unwrap();
        fs::write(dir.path().join("password"), format!("{PASSWORD}\n")).unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        // What was killed for want of memory before the agent's time.
        fs::create_dir(dir.path().join("cgroup")).unwrap();
        fs::write(dir.path().join("cgroup/memory.events"), "oom_kill 3\n").unwrap();
        let (port, admin) = neighbours();
        let mut agent = Self {
            port,
            admin,
            dir,
            process: None,
            flags,
        };
        agent.spawn();
        agent
    }

    pub(crate) fn spawn(&mut self) {
        let path = |name: &str| self.dir.path().join(name);
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path("log"))
            .unwrap();
        // As the kubelet does for each container.
        fs::write(path("termination-log"), "").unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_cachecluster-agent"))
            .arg("run")
            .args(["--redis-port", &self.port.to_string()])
            .args(["--admin-port", &self.admin.to_string()])
            .args(["--peer-admin-offset", "1"])
            .arg("--settings")
            .arg(path("settings.json"))
            .arg("--password-file")
            .arg(path("password"))
            .arg("--data-dir")
            .arg(path("data"))
            .arg("--run-dir")
            .arg(path("run"))
            .arg("--cgroup-dir")
            .arg(path("cgroup"))
            .arg("--termination-log")
            .arg(path("termination-log"))
            .args(self.flags)
            .env("POD_IP", "127.0.0.1")
            .env("POD_NAME", format!("test-{}", self.port))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    /// Gives the server another directive, from its next start on.
    pub(crate) fn direct(&self, name: &str, value: &str) {
        let path = self.dir.path().join("settings.json");
        let text = fs::read_to_string(&path).unwrap();
        let mut settings: AgentSettings = serde_json::from_str(&text).unwrap();
        settings
            .directives
            .insert(name.to_owned(), value.to_owned());
        fs::write(path, serde_json::to_string(&settings).unwrap()).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// What Kubernetes would show of the end of this agent.
    pub(crate) fn termination_message(&self) -> String {
        fs::read_to_string(self.dir.path().join("termination-log")).unwrap()
    }

    pub(crate) async fn connect(&self) -> Option<Connection> {
        let addr = ([127, 0, 0, 1].into(), self.port);
        connect(addr, &password(), DEADLINE).await.ok()
    }

    pub(crate) async fn try_text(&self, words: &[&str]) -> Result<String, String> {
        let mut connection = self.connect().await.ok_or("not reachable")?;
        connection.text(words).await.map_err(|e| e.to_string())
    }

    pub(crate) async fn text(&self, words: &[&str]) -> String {
        self.try_text(words).await.unwrap()
    }

    pub(crate) async fn probe(&self) -> Probe {
        let addr = ([127, 0, 0, 1].into(), self.port);
        probe(addr, &password(), DEADLINE).await
    }

    pub(crate) async fn view(&self) -> Option<NodeView> {
        self.probe().await.view().cloned()
    }

    pub(crate) async fn node(&self) -> NodeRef {
        NodeRef {
            id: self.view().await.unwrap().id,
            name: self.port.to_string(),
            addr: ([127, 0, 0, 1].into(), self.port),
        }
    }

    pub(crate) async fn is(&self, role: Role) -> bool {
        self.view().await.is_some_and(|view| view.role == role)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let url = format!("http://127.0.0.1:{}{path}", self.admin);
        match reqwest::get(url).await {
            Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap()),
            Err(error) => (0, error.to_string()),
        }
    }

    /// Has the server compute for so many milliseconds, in which it answers nobody.
    pub(crate) async fn compute(&self, millis: u64) {
        let addr = ([127, 0, 0, 1].into(), self.port);
        let patience = Duration::from_secs(20);
        let mut connection = connect(addr, &password(), patience).await.unwrap();
        let threshold = ["CONFIG", "SET", "busy-reply-threshold", "60000"];
        connection.text(&threshold).await.unwrap();
        let script = format!(
            "local function now() local t = redis.call('TIME') return t[1] * 1000 + t[2] / 1000 end \
             local stop = now() + {millis} while now() < stop do end return 'done'"
        );
        let done = connection.text(&["EVAL", &script, "0"]).await.unwrap();
        assert_eq!(done, "done");
    }

    pub(crate) async fn until_answers(&self) {
        until("the server answers", async || self.view().await.is_some()).await;
    }

    pub(crate) async fn until_ready(&self) {
        until("/readyz is 200", async || {
            self.get("/readyz").await.0 == 200
        })
        .await;
    }

    pub(crate) async fn server_pid(&self) -> Pid {
        let info = self.text(&["INFO", "server"]).await;
        let pid = info.lines().find_map(|l| l.strip_prefix("process_id:"));
        Pid::from_raw(pid.unwrap().trim().parse().unwrap())
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.process.as_ref().unwrap().id() as i32)
    }

    pub(crate) fn terminate(&self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
    }

    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.process.take().unwrap().wait().unwrap()
    }

    /// Stops agent and server: connections are taken, and nobody answers.
    pub(crate) fn freeze(&self, server: Pid) {
        for pid in [self.pid(), server] {
            kill(pid, Signal::SIGSTOP).unwrap();
        }
    }

    /// Lets both go on; the server first, or its agent would find it stopped.
    pub(crate) fn thaw(&self, server: Pid) {
        for pid in [server, self.pid()] {
            kill(pid, Signal::SIGCONT).unwrap();
        }
    }

    /// Ends agent and server at once.
    pub(crate) fn end(&mut self, server: Pid) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        kill(server, Signal::SIGKILL).unwrap();
        process.wait().unwrap();
    }

    /// Ends agent and server at once, as a power-off does.
    pub(crate) async fn crash(&mut self) {
        let server = self.server_pid().await;
        self.end(server);
        until("the port is free", async || self.connect().await.is_none()).await;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- agent {}\n{}", self.port, self.log());
        }
        let Some(mut process) = self.process.take() else {
            return;
        };
        // A server whose agent is killed stays; told to stop, the agent takes it along.
        let _ = kill(Pid::from_raw(process.id() as i32), Signal::SIGTERM);
        let patience = Instant::now() + Duration::from_secs(20);
        while Instant::now() < patience {
            if let Ok(Some(_)) = process.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = process.kill();
    }
}
