//! Who holds every acknowledged write of a durable cluster: what the status says, as the API server confirmed it.

use std::collections::BTreeMap;
use std::time::Duration;

use cachecluster_contract::durable::expired_ms;
use cachecluster_contract::names;
use cachecluster_crd::{CacheCluster, CacheClusterStatus};
use cachecluster_topology::{ALLOW_UNSAFE_PROMOTION, Durable, Member, Role};
use kube::ResourceExt;
use tokio::time::Instant;

/// Longest time between the beginnings of two looks that count as one: a pass with silent servers takes half of it.
/// Within a longer one a replica may have been in step again, unseen.
const BREAK: Duration = Duration::from_secs(4);

/// Pods that have been seen out of step at each look, by name. An operator that was just started begins anew, and so
/// waits longer than it must.
pub type OutOfStep = BTreeMap<String, Sightings>;

/// When a pod was seen out of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sightings {
    since: Instant,
    last: Instant,
}

/// What is known of the sets. `status` is the confirmed one; nothing is taken from what was merely planned.
pub(super) fn durable(
    cluster: &CacheCluster,
    status: &CacheClusterStatus,
    members: &[Member],
    out: &mut OutOfStep,
    node_timeout: u64,
    now: Instant,
) -> Durable {
    let name = cluster.name_any();
    let leads = |member: &Member| {
        let of_shard = names::shard(&name, member.shard);
        let mut shards = status.shards.iter();
        let told = shards.find(|told| told.name == of_shard);
        told.is_some_and(|told| told.in_sync.first() == Some(&member.name))
    };
    note(out, members, leads, now);
    let sets = (0..cluster.spec.shards).filter_map(|shard| {
        let of_shard = names::shard(&name, shard);
        let mut shards = status.shards.iter();
        let told = shards.find(|told| told.name == of_shard)?;
        (!told.in_sync.is_empty()).then(|| (shard, told.in_sync.clone()))
    });
    let limit = Duration::from_millis(expired_ms(node_timeout));
    let expired = out
        .iter()
        .filter(|(_, seen)| now.saturating_duration_since(seen.since) >= limit)
        .map(|(name, _)| name.clone());
    Durable {
        in_sync: sets.collect(),
        expired: expired.collect(),
        allowed: cluster.annotations().get(ALLOW_UNSAFE_PROMOTION).cloned(),
    }
}

/// `leads` tells who was its shard's primary by the status.
fn note(out: &mut OutOfStep, members: &[Member], leads: impl Fn(&Member) -> bool, now: Instant) {
    let before = std::mem::take(out);
    for member in members.iter().filter(|it| is_out(members, it, &leads)) {
        let seen = before.get(&member.name);
        let seen = seen.filter(|seen| now.saturating_duration_since(seen.last) <= BREAK);
        let mut since = seen.map_or(now, |seen| seen.since);
        // Between two looks it may have heard its primary: it says when.
        if let Some(seconds) = member.view().and_then(|it| it.standing.unheard_seconds)
            && let Some(heard) = now.checked_sub(Duration::from_secs(seconds))
        {
            since = since.max(heard);
        }
        out.insert(member.name.clone(), Sightings { since, last: now });
    }
}

/// Whether it is certain that the member does not hear its primary now.
fn is_out(members: &[Member], member: &Member, leads: impl Fn(&Member) -> bool) -> bool {
    if let Some(view) = member.view() {
        // A primary is nobody's replica; one that is demoted begins anew.
        return view.role == Role::Replica && !view.is_in_step();
    }
    // It may be silent to us alone: its primary can tell. Where the primary is silent as well, we may be the ones that
    // are cut off; but the primary itself is attached to nobody.
    let of_shard = members.iter().filter(|other| other.shard == member.shard);
    let views = of_shard.filter_map(Member::view);
    let mut primaries = views
        .filter(|view| view.role == Role::Primary && !view.slots.is_empty())
        .peekable();
    match primaries.peek() {
        Some(_) => primaries.all(|primary| {
            let attached = &primary.standing.attached;
            member.addr.is_none_or(|addr| !attached.contains(&addr))
        }),
        None => leads(member),
    }
}

#[cfg(test)]
mod tests {
    use cachecluster_crd::ShardStatus;
    use cachecluster_topology::Probe;
    use serde_json::json;

    use super::*;
    use crate::reconcile::fixture::{formed, resource};

    const REPLICA: &str = "quickstart-shard-0-1";

    /// Primary and replica, as far as they answer. The replica has not heard its primary for `unheard` seconds.
    fn pair(primary_answers: bool, replica_answers: bool, unheard: Option<u64>) -> Vec<Member> {
        let mut members = formed(1, 1).world().members;
        let replica = members[1].addr.unwrap();
        for member in &mut members {
            let Probe::Answered(view) = &mut member.probe else {
                panic!("{} is silent", member.name);
            };
            match view.role {
                Role::Primary => view
                    .standing
                    .attached
                    .retain(|at| *at != replica || unheard.is_none()),
                Role::Replica => {
                    view.standing.unheard_seconds = unheard.or(Some(0));
                    view.link_up = unheard.is_none();
                }
            }
        }
        for (member, answers) in members.iter_mut().zip([primary_answers, replica_answers]) {
            if !answers {
                member.probe = Probe::Silent("cut off".to_owned());
            }
        }
        members
    }

    /// Who has expired at the last of these looks: seconds, and what was seen.
    fn expired(looks: &[(u64, Vec<Member>)], in_sync: &[&str]) -> Vec<String> {
        let cluster = resource(json!({"shards": 1}));
        let shard = ShardStatus {
            name: "quickstart-shard-0".to_owned(),
            in_sync: in_sync.iter().map(|&name| name.to_owned()).collect(),
            ..ShardStatus::default()
        };
        let status = CacheClusterStatus {
            shards: vec![shard],
            ..CacheClusterStatus::default()
        };
        let start = Instant::now() + Duration::from_secs(1000);
        let mut out = OutOfStep::new();
        let mut expired = Vec::new();
        for (seconds, members) in looks {
            let now = start + Duration::from_secs(*seconds);
            let known = durable(&cluster, &status, members, &mut out, 2000, now);
            expired = known.expired.into_iter().collect();
        }
        expired
    }

    #[test]
    fn a_replica_expires_only_after_it_was_out_of_step_without_a_break() {
        let out = |seconds| (seconds, pair(true, false, Some(0)));
        let well = |seconds| (seconds, pair(true, true, None));
        // Two node timeouts and two seconds.
        let looks = [out(1), well(4), out(8), out(11), out(13), out(14)];
        assert!(expired(&looks[..5], &[]).is_empty());
        assert_eq!(expired(&looks, &[]), [REPLICA]);
        // Nobody looked for so long that it may have been back.
        assert!(expired(&[out(0), out(5), out(9)], &[]).is_empty());
        assert_eq!(expired(&[out(0), out(4), out(6)], &[]), [REPLICA]);
    }

    #[test]
    fn a_replica_that_says_when_it_heard_its_primary_is_believed() {
        let at = |seconds, unheard| (seconds, pair(true, true, Some(unheard)));
        let looks = [at(0, 3), at(3, 6), at(6, 9)];
        assert_eq!(expired(&looks, &[]), [REPLICA]);
        // It was back between two looks.
        assert!(expired(&[at(0, 3), at(3, 6), at(6, 2)], &[]).is_empty());
    }

    #[test]
    fn nobody_expires_because_this_operator_is_cut_off() {
        let expire = |members: &[Member], in_sync: &[&str]| {
            let looks = [0, 3, 6].map(|seconds| (seconds, members.to_vec()));
            expired(&looks, in_sync)
        };
        assert_eq!(expire(&pair(true, false, Some(0)), &[]), [REPLICA]);
        // Its primary hears it.
        assert!(expire(&pair(true, false, None), &[]).is_empty());
        // Nor can its primary be asked, which is nobody's replica itself.
        let primary = "quickstart-shard-0-0";
        assert_eq!(
            expire(&pair(false, false, None), &[primary, REPLICA]),
            [primary]
        );
    }

    #[test]
    fn sets_are_those_of_the_status_and_the_user_names_one_pod() {
        let mut cluster = resource(json!({"shards": 2}));
        let annotation = (ALLOW_UNSAFE_PROMOTION.to_owned(), "one".to_owned());
        cluster.metadata.annotations = Some([annotation].into());
        let shard = |name: &str, in_sync: &[&str]| ShardStatus {
            name: name.to_owned(),
            in_sync: in_sync.iter().map(|&name| name.to_owned()).collect(),
            ..ShardStatus::default()
        };
        let status = CacheClusterStatus {
            shards: vec![
                shard("quickstart-shard-1", &["b", "a"]),
                shard("quickstart-shard-0", &[]),
            ],
            ..CacheClusterStatus::default()
        };
        let now = Instant::now();
        let known = durable(&cluster, &status, &[], &mut OutOfStep::new(), 2000, now);
        let expected = BTreeMap::from([(1, vec!["b".to_owned(), "a".to_owned()])]);
        assert_eq!(
            (known.in_sync, known.allowed.as_deref()),
            (expected, Some("one"))
        );
    }
}
