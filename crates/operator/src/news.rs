//! Listens to the agents: what changes at a server makes a pass at once, so that the status, and the Service of a single
//! primary, are as late as the news and not as the next look.
//!
//! Nothing is concluded from the news but that it is time to look. Missing some costs the time until that look.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use cachecluster_contract::news::{News, PATIENCE_MS};
use cachecluster_contract::ports::NEWS_PATH;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::agents::{self, Asking};
use crate::stores::Guarded;

/// Longest time for an answer: the agent's patience, and what the way may take.
const PATIENCE: Duration = Duration::from_millis(PATIENCE_MS + 5_000);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(1);
/// Time between an answer and the next question: a server that goes up and down makes no more passes than this.
const BREATH: Duration = Duration::from_millis(100);
/// First pause after a question in vain; it doubles with each further one.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause: agents of a former version have no news.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Clusters that are waiting for their turn; who has news of more waits with them.
const QUEUE: usize = 256;

/// By whom passes are asked for.
#[derive(Clone)]
pub struct Newsroom {
    client: Asking,
    calls: mpsc::Sender<ObjectRef<Guarded>>,
}

/// Who is listened to on behalf of one cluster: by the UID of the pod, at which address. Dropping it ends that.
#[derive(Default)]
pub struct Listeners(BTreeMap<String, (SocketAddr, AbortOnDropHandle<()>)>);

impl Newsroom {
    /// A room, and the clusters that it has news of.
    #[must_use]
    pub fn open() -> (Self, mpsc::Receiver<ObjectRef<Guarded>>) {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        let (calls, called) = mpsc::channel(QUEUE);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        (Self { client, calls }, called)
    }

    async fn ask(&self, agent: SocketAddr, after: Option<u64>) -> Option<u64> {
        let query = after.map(|after| format!("?after={after}"));
        let path = format!("{NEWS_PATH}{}", query.unwrap_or_default());
        let news: News = agents::get(&self.client, agent, &path, PATIENCE).await?;
        Some(news.number)
    }

    /// Listens to one agent, for ever.
    async fn listen(self, addr: SocketAddr, cluster: ObjectRef<Guarded>) {
        let mut heard = None;
        let mut lost = false;
        let mut pause = PAUSE;
        loop {
            let number = self.ask(addr, heard).await;
            // Whoever begins to listen has just looked. That an agent is silent now, or speaks again, is news as well.
            let news = number != heard && (heard.is_some() || lost);
            if news && self.calls.send(cluster.clone()).await.is_err() {
                return;
            }
            lost = number.is_none();
            heard = number;
            if number.is_some() {
                pause = PAUSE;
                tokio::time::sleep(BREATH).await;
            } else {
                tokio::time::sleep(pause).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        }
    }
}

impl Listeners {
    /// Listens to these agents of the cluster, and to no others any more.
    pub fn keep(
        &mut self,
        agents: BTreeMap<String, SocketAddr>,
        cluster: &ObjectRef<Guarded>,
        room: &Newsroom,
    ) {
        self.0
            .retain(|uid, (addr, task)| agents.get(uid) == Some(addr) && !task.is_finished());
        for (uid, addr) in agents {
            self.0.entry(uid).or_insert_with(|| {
                let listening = room.clone().listen(addr, cluster.clone());
                (addr, AbortOnDropHandle::new(tokio::spawn(listening)))
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::extract::{Query, State};
    use axum::routing::get;
    use axum::{Json, Router};
    use cachecluster_contract::news::Question;
    use tokio::net::TcpListener;
    use tokio::sync::watch;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// An agent with news.
    async fn agent() -> (SocketAddr, Arc<watch::Sender<u64>>, AbortOnDropHandle<()>) {
        agent_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    async fn agent_at(
        addr: SocketAddr,
    ) -> (SocketAddr, Arc<watch::Sender<u64>>, AbortOnDropHandle<()>) {
        let news = Arc::new(watch::Sender::new(7));
        let answer = async |State(news): State<Arc<watch::Sender<u64>>>,
                            Query(question): Query<Question>| {
            let mut news = news.subscribe();
            let number = *news
                .wait_for(|number| Some(*number) != question.after)
                .await
                .unwrap();
            Json(News { number })
        };
        let routes = Router::new()
            .route(NEWS_PATH, get(answer))
            .with_state(news.clone());
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        (addr, news, AbortOnDropHandle::new(serving))
    }

    async fn heard(news: &watch::Sender<u64>, listeners: usize) {
        let deadline = tokio::time::Instant::now() + SOON;
        while news.receiver_count() != listeners {
            assert!(tokio::time::Instant::now() < deadline, "nobody listens");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn each_change_calls_for_a_pass_and_so_do_the_end_and_the_return_of_an_agent() {
        let (addr, news, serving) = agent().await;
        let (room, mut called) = Newsroom::open();
        let cluster = ObjectRef::new("demo").within("default");
        let mut listeners = Listeners::default();
        let agents: BTreeMap<_, _> = [("uid".to_owned(), addr)].into();
        listeners.keep(agents.clone(), &cluster, &room);
        let mut next = async || tokio::time::timeout(SOON, called.recv()).await.unwrap();
        for number in [8, 9] {
            heard(&news, 1).await;
            news.send_replace(number);
            assert_eq!(next().await, Some(cluster.clone()));
        }
        heard(&news, 1).await;
        // The same again changes nothing.
        listeners.keep(agents, &cluster, &room);
        assert_eq!(listeners.0.len(), 1);
        // Who is asked already answers before it ends; then nobody is there.
        drop(serving);
        news.send_replace(10);
        for _ in ["an answer", "silence"] {
            assert_eq!(next().await, Some(cluster.clone()));
        }
        let _again = agent_at(addr).await;
        assert_eq!(next().await, Some(cluster.clone()));
    }

    #[tokio::test]
    async fn who_is_gone_is_not_listened_to() {
        let (addr, news, _serving) = agent().await;
        let (room, _called) = Newsroom::open();
        let cluster = ObjectRef::new("demo").within("default");
        let mut listeners = Listeners::default();
        listeners.keep([("uid".to_owned(), addr)].into(), &cluster, &room);
        heard(&news, 1).await;
        listeners.keep(BTreeMap::new(), &cluster, &room);
        heard(&news, 0).await;
    }
}
