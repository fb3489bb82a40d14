//! Asks everybody else about a primary that is not heard.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::StatusCode;
use cachecluster_contract::durable::promotable_ms;
use cachecluster_contract::ports::HEARD_PATH;
use cachecluster_redis_admin::{observe, probe};
use cachecluster_topology::{KnownNode, NodeId, NodeView, Probe};
use futures::StreamExt;

use super::DEADLINE;
use super::decision::{Findings, Word};
use super::line::AgentLine;
use super::testimony::{Heard, NO_WITNESS};
use crate::monitor::own_address;
use crate::settings::Settings;

/// How long another agent may take: its own question to the silent primary, and the way there and back.
const PATIENCE: Duration = Duration::from_millis(super::DEADLINE.as_millis() as u64 + 150);
/// How many agents are asked at the same time.
const SIDE_BY_SIDE: usize = 64;

/// What the others say of the `accused`. `None` when the own server does not answer. Ends as soon as those that have not
/// answered yet cannot change the outcome.
pub(super) async fn inquire(settings: &Settings, accused: &NodeId) -> Option<Findings> {
    let own = probe(own_address(settings), &settings.password, DEADLINE).await;
    let Probe::Answered(own) = own else {
        return None;
    };
    let siblings: Vec<_> = others(&own, accused)
        .filter(|node| node.primary.as_ref() == Some(accused))
        .map(|node| node.addr)
        .collect();
    let asked = others(&own, accused).count();
    let mut findings = Findings {
        own: *own,
        accused: accused.clone(),
        asked,
        words: BTreeMap::new(),
        siblings: Vec::new(),
        in_step_seconds: settings
            .cluster
            .durable
            .map(|_| promotable_ms(settings.cluster.node_timeout) / 1000),
    };
    let (siblings, ()) = tokio::join!(
        observe(&siblings, &settings.password, DEADLINE),
        ask(settings, &mut findings)
    );
    findings.siblings = siblings.into_iter().filter_map(answered).collect();
    Some(findings)
}

/// All members that can be asked.
fn others<'a>(own: &'a NodeView, accused: &'a NodeId) -> impl Iterator<Item = &'a KnownNode> {
    own.known
        .values()
        .filter(move |node| node.id != *accused && node.addr.is_some() && !node.is_handshake())
}

async fn ask(settings: &Settings, findings: &mut Findings) {
    let path = format!("{HEARD_PATH}?node={}", findings.accused);
    let nodes: Vec<_> = others(&findings.own, &findings.accused)
        .filter_map(|node| Some((node.id.clone(), node.addr?)))
        .collect();
    let mut answers = futures::stream::iter(nodes)
        .map(|(id, (ip, port))| {
            let path = &path;
            async move {
                let mut agent = AgentLine::new((ip, settings.peer_admin_port(port)));
                let answer = agent.get(path, PATIENCE).await?;
                if answer.status == NO_WITNESS {
                    return None;
                }
                Some((id, word(answer.status, &answer.body)))
            }
        })
        .buffer_unordered(SIDE_BY_SIDE);
    while let Some(answer) = answers.next().await {
        if let Some((id, word)) = answer {
            findings.words.insert(id, word);
            if findings.is_settled() {
                return;
            }
        }
    }
}

fn word(status: StatusCode, body: &[u8]) -> Word {
    match serde_json::from_slice(body) {
        Ok(Heard { heard: true }) if status == StatusCode::OK => Word::Heard,
        Ok(Heard { heard: false }) if status == StatusCode::OK => Word::Unheard,
        _ => Word::Unsure,
    }
}

fn answered(probe: Probe) -> Option<NodeView> {
    match probe {
        Probe::Answered(view) => Some(*view),
        Probe::Loading | Probe::Refused(_) | Probe::Silent(_) => None,
    }
}
