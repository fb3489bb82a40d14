//! Whether a replica shall ask for votes, and which. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use cachecluster_topology::{NodeId, NodeView, Role};

/// How long an agent waits for that of each fresher replica: votes take a third of that.
const TURN: Duration = Duration::from_millis(300);

/// What another agent says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It hears the accused.
    Heard,
    /// It does not.
    Unheard,
    /// It answered, and cannot tell.
    Unsure,
}

/// What an inquiry found.
#[derive(Clone, Debug)]
pub(super) struct Findings {
    /// The own server's account, taken now.
    pub(super) own: NodeView,
    /// The primary that this agent does not hear.
    pub(super) accused: NodeId,
    /// How many agents were asked.
    pub(super) asked: usize,
    /// What those said that answered.
    pub(super) words: BTreeMap<NodeId, Word>,
    /// The accounts of the shard's other replicas that answered.
    pub(super) siblings: Vec<NodeView>,
    /// For a durable cluster: for how many seconds a replica may not have heard its primary and still be promoted by one
    /// who does not know the in-sync set. A primary that was allowed to go on without it has waited for longer.
    pub(super) in_step_seconds: Option<u64>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Have this replica take over: the freshest that answers.
    Promote(NodeId, Way),
    /// Look again after that long: the agent of a fresher replica goes first.
    Wait(Duration),
    /// Do nothing.
    Leave(Why),
}

/// How a replica takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By the votes of the other primaries.
    Votes,
    /// Because most of all members agree, where there are too few votes.
    Decree,
}

/// Why nothing is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Settled,
    NoSlots,
    NoData,
    OutOfStep,
    Late,
    Alone,
    Contradicted,
    NoVotes,
}

impl Why {
    /// For the log.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Settled => "the shard has another primary",
            Self::NoSlots => "it serves no slots",
            Self::NoData => "the own server loads its data or has never had any",
            Self::OutOfStep => "the own server lost touch with it too long ago to be promoted",
            Self::Late => {
                "the own server came from its disk a moment ago, and the primary may come back from its own with more"
            }
            Self::Alone => "no other agent says anything",
            Self::Contradicted => "half of the agents that answer, or more, hear it",
            Self::NoVotes => {
                "no majority of the primaries answers, so nobody can vote, and too few agents do without"
            }
        }
    }
}

impl Findings {
    fn count(&self, word: Word) -> usize {
        self.words.values().filter(|said| **said == word).count()
    }

    /// Whether so many primaries answer that they can promote a replica.
    fn has_voters(&self) -> bool {
        let (alive, all) = self.voters();
        alive * 2 > all
    }

    /// How many primaries answer, and how many there are. Who merely has not been missed yet does not count: a server that
    /// asked for votes in vain does not ask again for several node timeouts.
    fn voters(&self) -> (usize, usize) {
        let voters = || {
            let known = self.own.known.values();
            known.filter(|node| node.role == Role::Primary && !node.slots.is_empty())
        };
        let alive = voters()
            .filter(|node| node.id != self.accused && self.words.contains_key(&node.id))
            .count();
        (alive, voters().count())
    }

    /// Whether the agents may do without votes, as in a cluster of two primaries that has lost one: exactly half of the
    /// primaries answer, so that the silent ones, if they live, are no majority either and stop to serve by themselves;
    /// and most of all members, those that do not answer and the accused included, do not hear it, so that no others
    /// can come to the same conclusion about somebody else.
    fn may_decree(&self) -> bool {
        let (alive, all) = self.voters();
        let members = self.asked + 2;
        alive * 2 == all && (self.count(Word::Unheard) + 1) * 2 > members
    }

    /// Whether the agents that have not answered yet cannot change the outcome.
    pub(super) fn is_settled(&self) -> bool {
        let all = self.asked + 1;
        let against = self.count(Word::Unheard) + 1;
        (against * 2 > all && self.has_voters()) || self.count(Word::Heard) * 2 >= all
    }

    /// Whether a replica heard its primary recently enough, where that matters.
    fn was_in_step(&self, view: &NodeView) -> bool {
        self.in_step_seconds.is_none_or(|limit| {
            let unheard = view.standing.unheard_seconds;
            unheard.is_some_and(|seconds| seconds <= limit)
        })
    }

    /// The shard's replicas that are fresher than the own one, the freshest last.
    fn fresher_siblings(&self) -> Vec<&NodeId> {
        let rank = |view: &NodeView| (view.offset, view.id.clone());
        let own = rank(&self.own);
        let mut fresher: Vec<_> = self
            .siblings
            .iter()
            .filter(|sibling| {
                sibling.primary.as_ref() == Some(&self.accused)
                    && !sibling.loading
                    && !sibling.is_late()
                    && self.was_in_step(sibling)
                    && rank(sibling) > own
            })
            .collect();
        fresher.sort_by_key(|sibling| rank(sibling));
        fresher.into_iter().map(|sibling| &sibling.id).collect()
    }
}

/// What to do after a silence beyond the limit. `waited`: for how long fresher replicas have been given way to already.
pub(super) fn decide(findings: &Findings, waited: Duration) -> Verdict {
    let own = &findings.own;
    let follows = own.role == Role::Replica && own.primary.as_ref() == Some(&findings.accused);
    let Some(accused) = own.known.get(&findings.accused).filter(|_| follows) else {
        return Verdict::Leave(Why::Settled);
    };
    let succeeded = |view: &NodeView| view.role == Role::Primary && !view.slots.is_empty();
    if findings.siblings.iter().any(succeeded) {
        return Verdict::Leave(Why::Settled);
    }
    if accused.slots.is_empty() {
        return Verdict::Leave(Why::NoSlots);
    }
    if own.loading || (own.offset <= 1 && own.keys == 0) {
        return Verdict::Leave(Why::NoData);
    }
    if !findings.was_in_step(own) {
        return Verdict::Leave(Why::OutOfStep);
    }
    if own.is_late() {
        return Verdict::Leave(Why::Late);
    }
    let (heard, unheard) = (findings.count(Word::Heard), findings.count(Word::Unheard));
    if heard + unheard == 0 {
        return Verdict::Leave(Why::Alone);
    }
    // This agent is one of those that do not hear it.
    if heard > unheard {
        return Verdict::Leave(Why::Contradicted);
    }
    let way = if findings.has_voters() {
        Way::Votes
    } else if findings.may_decree() {
        Way::Decree
    } else {
        return Verdict::Leave(Why::NoVotes);
    };
    let fresher = findings.fresher_siblings();
    let turn = TURN.saturating_mul(u32::try_from(fresher.len()).unwrap_or(u32::MAX));
    if waited < turn {
        return Verdict::Wait(turn - waited);
    }
    // Its agent did not act: on its behalf, since what it has would be lost.
    Verdict::Promote(fresher.last().copied().unwrap_or(&own.id).clone(), way)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> NodeId {
        NodeId::parse(&format!("{n:02x}").repeat(20)).unwrap()
    }

    /// What replica `n` of primary 1 says, in a cluster of so many primaries with the replicas 11 and 12 of the first.
    fn replica(n: u8, primaries: u8, offset: u64) -> NodeView {
        let mut nodes = String::new();
        for primary in 1..=primaries {
            let line = format!(
                "{} 127.0.0.1:{primary}@1 master - 0 0 {primary} connected {primary}00-{primary}99\n",
                id(primary)
            );
            nodes += &line;
        }
        for replica in [11, 12] {
            let myself = if replica == n { "myself," } else { "" };
            let line = format!(
                "{} 127.0.0.1:{replica}@1 {myself}slave {} 0 0 1 connected\n",
                id(replica),
                id(1)
            );
            nodes += &line;
        }
        let info = format!(
            "redis_version:7.0.15\nused_memory:1\nuptime_in_seconds:60\nloading:0\nmaster_repl_offset:{offset}\nconnected_slaves:0\n\
             slave_repl_offset:{offset}\ndb0:keys=1,expires=0,avg_ttl=0\n"
        );
        let cluster = "cluster_state:ok\ncluster_current_epoch:9\n";
        NodeView::assemble(&nodes, cluster, &info).unwrap()
    }

    /// Replica 11 looks into the silence of primary 1, of three.
    fn findings(words: &[(u8, Word)]) -> Findings {
        Findings {
            own: replica(11, 3, 50),
            accused: id(1),
            asked: 3,
            words: words.iter().map(|(n, word)| (id(*n), *word)).collect(),
            siblings: vec![replica(12, 3, 40)],
            in_step_seconds: None,
        }
    }

    const ALL_DEAF: [(u8, Word); 3] = [(2, Word::Unheard), (3, Word::Unheard), (12, Word::Unheard)];

    fn decided(findings: &Findings) -> Verdict {
        decide(findings, Duration::ZERO)
    }

    #[test]
    fn it_takes_most_of_those_who_answer_and_most_of_the_voters() {
        use Word::{Heard, Unheard, Unsure};
        let cases: [(&[(u8, Word)], Verdict); 8] = [
            (&ALL_DEAF, Verdict::Promote(id(11), Way::Votes)),
            (
                &[(2, Unheard), (3, Unheard)],
                Verdict::Promote(id(11), Way::Votes),
            ),
            (
                &[(2, Unheard), (3, Heard)],
                Verdict::Promote(id(11), Way::Votes),
            ),
            (
                &[(2, Heard), (3, Unheard), (12, Heard)],
                Verdict::Leave(Why::Contradicted),
            ),
            (
                &[(2, Heard), (3, Unsure)],
                Verdict::Leave(Why::Contradicted),
            ),
            (&[(2, Unheard), (12, Unheard)], Verdict::Leave(Why::NoVotes)),
            (&[(2, Unsure), (3, Unsure)], Verdict::Leave(Why::Alone)),
            (&[], Verdict::Leave(Why::Alone)),
        ];
        for (words, verdict) in cases {
            assert_eq!(decided(&findings(words)), verdict, "{words:?}");
        }
    }

    #[test]
    fn where_half_of_the_primaries_is_left_most_of_all_members_do_without_votes() {
        use Word::{Heard, Unheard};
        let decided = |primaries, asked, words: &[(u8, Word)]| {
            decided(&Findings {
                own: replica(11, primaries, 50),
                asked,
                ..findings(words)
            })
        };
        let no_votes = Verdict::Leave(Why::NoVotes);
        let deaf = [(2, Unheard), (12, Unheard)];
        assert_eq!(decided(2, 2, &deaf), Verdict::Promote(id(11), Way::Decree));
        // A tie: whoever is silent may be as many.
        assert_eq!(decided(2, 2, &deaf[..1]), no_votes);
        // The silent ones may be a majority of the primaries, and go on without this one.
        assert_eq!(decided(1, 2, &deaf), no_votes);
        assert_eq!(decided(3, 2, &deaf), no_votes);
        assert_eq!(decided(2, 2, &deaf[1..]), no_votes);
        assert_eq!(
            decided(2, 3, &[(2, Unheard), (12, Heard), (13, Heard)]),
            Verdict::Leave(Why::Contradicted)
        );
        // Four primaries: two of them, and six of nine members.
        let six = [(2, Unheard), (3, Unheard), (12, Unheard), (13, Unheard)];
        assert_eq!(decided(4, 7, &six), Verdict::Promote(id(11), Way::Decree));
        assert_eq!(decided(4, 8, &six), no_votes);
    }

    #[test]
    fn one_that_has_nothing_or_follows_another_is_not_promoted() {
        let mut blank = findings(&ALL_DEAF);
        (blank.own.offset, blank.own.keys) = (1, 0);
        assert_eq!(decided(&blank), Verdict::Leave(Why::NoData));
        let mut loading = findings(&ALL_DEAF);
        loading.own.loading = true;
        assert_eq!(decided(&loading), Verdict::Leave(Why::NoData));
        let mut elsewhere = findings(&ALL_DEAF);
        elsewhere.own.primary = Some(id(2));
        assert_eq!(decided(&elsewhere), Verdict::Leave(Why::Settled));
        let mut late = findings(&ALL_DEAF);
        late.siblings[0].role = Role::Primary;
        late.siblings[0].slots = late.own.known[&id(1)].slots.clone();
        assert_eq!(decided(&late), Verdict::Leave(Why::Settled));
        let mut idle = findings(&ALL_DEAF);
        let accused = idle.own.known.get_mut(&id(1)).unwrap();
        accused.slots = Default::default();
        assert_eq!(decided(&idle), Verdict::Leave(Why::NoSlots));
    }

    #[test]
    fn in_a_durable_cluster_who_lost_touch_before_is_not_promoted() {
        let unheard = |own: Option<u64>, sibling: Option<u64>| {
            let mut findings = findings(&ALL_DEAF);
            findings.in_step_seconds = Some(4);
            findings.siblings = vec![replica(12, 3, 60)];
            findings.own.standing.unheard_seconds = own;
            findings.siblings[0].standing.unheard_seconds = sibling;
            decide(&findings, TURN)
        };
        assert_eq!(
            unheard(Some(1), Some(1)),
            Verdict::Promote(id(12), Way::Votes)
        );
        // A sibling that is out of step is no reason to wait, whatever its offset.
        assert_eq!(
            unheard(Some(4), Some(5)),
            Verdict::Promote(id(11), Way::Votes)
        );
        assert_eq!(unheard(Some(4), None), Verdict::Promote(id(11), Way::Votes));
        for long_ago in [Some(5), None] {
            let verdict = unheard(long_ago, Some(1));
            assert_eq!(verdict, Verdict::Leave(Why::OutOfStep));
        }
    }

    #[test]
    fn one_that_was_started_from_its_disk_leaves_the_primary_time_to_return() {
        let mut late = findings(&ALL_DEAF);
        late.own.uptime_seconds = NodeView::LATE_SECONDS - 1;
        assert_eq!(decided(&late), Verdict::Leave(Why::Late));
        late.own.uptime_seconds += 1;
        let promoted = Verdict::Promote(id(11), Way::Votes);
        assert_eq!(decided(&late), promoted);
        late.siblings = vec![replica(12, 3, 60)];
        assert_eq!(decided(&late), Verdict::Wait(TURN));
        // Nobody waits for a sibling that waits itself.
        late.siblings[0].uptime_seconds = 0;
        assert_eq!(decided(&late), promoted);
        // It has heard its primary until a moment ago.
        let mut restarted = findings(&ALL_DEAF);
        restarted.own.uptime_seconds = 1;
        restarted.own.standing.unheard_seconds = Some(0);
        assert_eq!(decided(&restarted), promoted);
    }

    #[test]
    fn the_freshest_goes_first_and_the_others_in_turn() {
        let mut behind = findings(&ALL_DEAF);
        behind.siblings = vec![replica(12, 3, 60)];
        assert_eq!(decided(&behind), Verdict::Wait(TURN));
        assert_eq!(decide(&behind, TURN), Verdict::Promote(id(12), Way::Votes));
        // As fresh: the higher id.
        behind.siblings = vec![replica(12, 3, 50)];
        assert_eq!(decided(&behind), Verdict::Wait(TURN));
        behind.siblings[0].loading = true;
        assert_eq!(decided(&behind), Verdict::Promote(id(11), Way::Votes));
    }

    #[test]
    fn an_inquiry_ends_when_the_rest_cannot_change_its_outcome() {
        let settled = |words: &[(u8, Word)]| findings(words).is_settled();
        assert!(settled(&[(2, Word::Unheard), (3, Word::Unheard)]));
        assert!(settled(&[(2, Word::Heard), (3, Word::Heard)]));
        assert!(!settled(&[(2, Word::Unheard), (3, Word::Heard)]));
        assert!(
            !settled(&[(2, Word::Unheard), (12, Word::Unheard)]),
            "no votes yet"
        );
    }
}
