//! Who is who: matches the ids that nodes speak of with the places that Kubernetes lists, and settles who owns what.
//!
//! Every planner starts from here, so that all of them mean the same by "the shard's primary" or "a ghost".

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::action::NodeRef;
use crate::model::{KnownNode, LinkState, Member, NodeId, NodeView, Presence, Role, World};
use crate::slots::SlotRanges;

/// A member that answered.
pub(crate) struct Node<'w> {
    pub(crate) member: &'w Member,
    pub(crate) view: &'w NodeView,
    pub(crate) addr: (IpAddr, u16),
    /// The slots that it owns by the weight of epochs, which may be fewer than it believes.
    pub(crate) slots: SlotRanges,
}

impl Node<'_> {
    pub(crate) fn to_ref(&self) -> NodeRef {
        NodeRef {
            id: self.view.id.clone(),
            name: self.member.name.clone(),
            addr: self.addr,
        }
    }

    /// Whether this node hears `other` where it is now.
    pub(crate) fn hears(&self, other: &Node<'_>) -> bool {
        self.account_of(other)
            .is_some_and(|known| known.link == LinkState::Ok && !known.is_elsewhere(other.addr))
    }

    /// What this node believes of `other`, if it knows it.
    pub(crate) fn account_of(&self, other: &Node<'_>) -> Option<&KnownNode> {
        let known = self.view.known.get(&other.view.id)?;
        (!known.is_handshake()).then_some(known)
    }

    /// Whether an introduction of this node to `other` is under way.
    pub(crate) fn is_meeting(&self, other: &Node<'_>) -> bool {
        let mut known = self.view.known.values();
        known.any(|k| k.is_handshake() && k.addr == Some(other.addr))
    }
}

/// An id that some answering node knows and no answering member has: a silent member's, or a ghost's.
pub(crate) struct Stranger<'w> {
    pub(crate) id: &'w NodeId,
    /// What each answering node that knows it says of it.
    pub(crate) accounts: Vec<&'w KnownNode>,
    /// The slots that it owns by the weight of epochs.
    pub(crate) slots: SlotRanges,
    /// The silent member at its last known address, which may be this node.
    pub(crate) member: Option<&'w Member>,
    /// The shard that it is, or was, part of, as far as that can be told.
    pub(crate) shard: Option<u32>,
}

impl Stranger<'_> {
    /// Whether nobody who knows it hears it any more.
    pub(crate) fn is_doubted_by_all(&self) -> bool {
        self.accounts
            .iter()
            .all(|known| known.link != LinkState::Ok)
    }

    /// Whether a majority has declared it dead, or somebody else sits at its address, by every account.
    fn is_failed_by_all(&self) -> bool {
        let dead = [LinkState::Failed, LinkState::Unknown];
        self.accounts.iter().all(|known| dead.contains(&known.link))
    }

    /// Whether it is dead by a majority's word; if `silence_counts`, also by everybody's silence. It counts when every
    /// place answers as somebody else: a node that is alone in remembering a ghost finds no majority to declare it dead
    /// with, and would remember it for ever.
    pub(crate) fn is_dead(&self, silence_counts: bool) -> bool {
        self.is_failed_by_all() || (silence_counts && self.is_doubted_by_all())
    }

    /// Whether it follows `id`, by any account.
    pub(crate) fn follows(&self, id: &NodeId) -> bool {
        self.accounts.iter().any(|k| k.primary.as_ref() == Some(id))
    }
}

/// Who owns the slots of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// An answering member: index into [`Roster::nodes`].
    Node(usize),
    /// A silent member or a ghost: index into [`Roster::strangers`].
    Gone(usize),
    /// No slot belongs to anybody of this shard.
    Nobody,
}

/// One pass's world, sorted out. The order of the world's members makes no difference to it.
pub(crate) struct Roster<'w> {
    pub(crate) world: &'w World,
    /// All places, by shard and ordinal.
    pub(crate) members: Vec<&'w Member>,
    /// Those that answered, in the same order.
    pub(crate) nodes: Vec<Node<'w>>,
    /// Everybody else who is known, by id.
    pub(crate) strangers: Vec<Stranger<'w>>,
}

impl<'w> Roster<'w> {
    pub(crate) fn of(world: &'w World) -> Self {
        let mut members: Vec<&Member> = world.members.iter().collect();
        members.sort_by_key(|m| (m.shard, m.ordinal, &m.name));
        let nodes = members
            .iter()
            .filter_map(|&member| {
                Some(Node {
                    member,
                    view: member.view()?,
                    addr: member.addr?,
                    slots: SlotRanges::default(),
                })
            })
            .collect();
        let mut roster = Self {
            world,
            members,
            nodes,
            strangers: Vec::new(),
        };
        roster.strangers = roster.find_strangers();
        roster.settle_slots();
        roster.place_strangers();
        roster
    }

    fn find_strangers(&self) -> Vec<Stranger<'w>> {
        let answering: BTreeSet<&NodeId> = self.nodes.iter().map(|n| &n.view.id).collect();
        let mut accounts: BTreeMap<&'w NodeId, Vec<&'w KnownNode>> = BTreeMap::new();
        for node in &self.nodes {
            for (id, known) in &node.view.known {
                if !known.is_handshake() && !answering.contains(id) {
                    accounts.entry(id).or_default().push(known);
                }
            }
        }
        accounts
            .into_iter()
            .map(|(id, accounts)| Stranger {
                id,
                member: self.members.iter().copied().find(|m| {
                    let somewhere = m.addr.is_some() && !self.answered(m);
                    somewhere && accounts.iter().any(|known| known.addr == m.addr)
                }),
                accounts,
                slots: SlotRanges::default(),
                shard: None,
            })
            .collect()
    }

    /// Settles contradicting claims as the cluster itself does: the highest configuration epoch wins. What an answering
    /// node says of itself counts for it; what others say of it may be old.
    fn settle_slots(&mut self) {
        enum Claimant {
            Node(usize),
            Stranger(usize),
        }
        let own = self.nodes.iter().enumerate();
        let mut claims: Vec<(u64, Claimant, SlotRanges)> = own
            .filter(|(_, node)| node.view.role == Role::Primary)
            .map(|(i, node)| (node.view.epoch, Claimant::Node(i), node.view.slots.clone()))
            .collect();
        for (i, stranger) in self.strangers.iter().enumerate() {
            let told = stranger.accounts.iter();
            claims.extend(told.map(|k| (k.epoch, Claimant::Stranger(i), k.slots.clone())));
        }
        // The sort is stable: at equal epochs those that answer come first.
        claims.sort_by_key(|(epoch, ..)| std::cmp::Reverse(*epoch));
        let mut taken = SlotRanges::default();
        for (_, claimant, slots) in claims {
            let won = slots.minus(&taken);
            taken = taken.union(&won);
            let owned = match claimant {
                Claimant::Node(i) => &mut self.nodes[i].slots,
                Claimant::Stranger(i) => &mut self.strangers[i].slots,
            };
            *owned = owned.union(&won);
        }
    }

    /// Finds the shard of each stranger: by its address, else by whom it follows or who follows it, else, for an owner
    /// of slots, by which shard without an owner those slots would fall to.
    fn place_strangers(&mut self) {
        for i in 0..self.strangers.len() {
            self.strangers[i].shard = self.strangers[i].member.map(|m| m.shard);
        }
        for i in 0..self.strangers.len() {
            let stranger = &self.strangers[i];
            if stranger.shard.is_some() {
                continue;
            }
            let followed = |n: &&Node<'_>| stranger.follows(&n.view.id);
            let follows = |n: &&Node<'_>| n.view.primary.as_ref() == Some(stranger.id);
            let kin = self.nodes.iter().find(|n| follows(n) || followed(n));
            let silent_kin = || {
                let mut others = self.strangers.iter();
                others.find_map(|other| {
                    let kin = other.follows(stranger.id) || stranger.follows(other.id);
                    other.shard.filter(|_| kin)
                })
            };
            self.strangers[i].shard = kin.map(|n| n.member.shard).or_else(silent_kin);
        }
        for i in 0..self.strangers.len() {
            let stranger = &self.strangers[i];
            if stranger.shard.is_none() && !stranger.slots.is_empty() {
                let ownerless = (0..self.world.shards).filter(|s| self.owner(*s) == Owner::Nobody);
                self.strangers[i].shard = ownerless.max_by_key(|&shard| {
                    let share = SlotRanges::share(shard, self.world.shards);
                    let overlap = stranger.slots.intersection(&share).len();
                    (overlap, std::cmp::Reverse(shard))
                });
            }
        }
    }

    /// The owner of most of the shard's slots. Answering members come before the others.
    pub(crate) fn owner(&self, shard: u32) -> Owner {
        let nodes = self.nodes.iter().enumerate();
        let owning = nodes.filter(|(_, n)| n.member.shard == shard && !n.slots.is_empty());
        if let Some((i, _)) = owning.max_by_key(|(i, n)| (n.slots.len(), std::cmp::Reverse(*i))) {
            return Owner::Node(i);
        }
        let strangers = self.strangers.iter().enumerate();
        let owning = strangers.filter(|(_, s)| s.shard == Some(shard) && !s.slots.is_empty());
        owning
            .max_by_key(|(i, s)| (s.slots.len(), std::cmp::Reverse(*i)))
            .map_or(Owner::Nobody, |(i, _)| Owner::Gone(i))
    }

    /// Whether `member` answered and can be addressed.
    pub(crate) fn answered(&self, member: &Member) -> bool {
        member.addr.is_some() && member.view().is_some()
    }

    /// Members that might be running unheard, or will run: silent ones, except places that are not wanted any more and
    /// hold no process.
    pub(crate) fn silent(&self) -> impl Iterator<Item = &'w Member> + '_ {
        self.members.iter().copied().filter(|m| {
            !self.answered(m) && (m.presence != Presence::Absent || m.is_wanted(self.world))
        })
    }

    /// Whether every place is accounted for.
    pub(crate) fn everybody_answered(&self) -> bool {
        self.silent().next().is_none()
    }

    /// Whether every place of the shard is accounted for.
    pub(crate) fn all_answered(&self, shard: u32) -> bool {
        let places = self.members.iter().filter(|m| m.shard == shard).count();
        places > 0 && self.silent().all(|m| m.shard != shard)
    }

    /// The slots that no answering node says belong to anybody, itself included.
    pub(crate) fn unclaimed(&self) -> SlotRanges {
        let mut left = SlotRanges::all();
        for node in &self.nodes {
            left = left.minus(&node.view.slots);
            for known in node.view.known.values() {
                left = left.minus(&known.slots);
            }
        }
        left
    }

    /// Whether `voter` hears a majority of all owners of slots, itself counted: then an election can succeed.
    pub(crate) fn hears_majority(&self, voter: &Node<'_>) -> bool {
        let owners = self.nodes.iter().filter(|n| !n.slots.is_empty());
        let heard = owners
            .clone()
            .filter(|n| n.view.id == voter.view.id || voter.hears(n))
            .count();
        let gone = self.strangers.iter().filter(|s| !s.slots.is_empty());
        heard * 2 > owners.count() + gone.count()
    }

    /// Whether a majority of all owners of slots answers us.
    pub(crate) fn majority_answers(&self) -> bool {
        let answering = self.nodes.iter().filter(|n| !n.slots.is_empty()).count();
        let gone = self.strangers.iter().filter(|s| !s.slots.is_empty());
        answering > gone.count()
    }

    /// Whether, as far as Kubernetes can tell, those who are silent may go on without us and replace whom they miss: a
    /// majority of the primaries, who vote, or most of the members, whose agents do without votes where exactly half of the
    /// primaries are left.
    pub(crate) fn majority_may_be_elsewhere(&self) -> bool {
        let gone = self.strangers.iter().filter(|s| !s.slots.is_empty());
        let vouched = gone.clone().filter(|s| self.may_serve(s)).count();
        let owners = self.nodes.iter().filter(|n| !n.slots.is_empty()).count() + gone.count();
        let silent = self.silent().filter(|member| member.vouched).count();
        // One primary's own vote is no majority over anybody: there, our own eyes and the replica's have to do.
        (owners >= 3 && vouched * 2 > owners) || silent * 2 > self.members.len()
    }

    /// Whether Kubernetes vouches for the server of this stranger.
    fn may_serve(&self, stranger: &Stranger<'_>) -> bool {
        self.may_be(stranger, |member| member.vouched)
    }

    /// Whether the server of this stranger may be the one that loads its data set.
    pub(crate) fn may_load(&self, stranger: &Stranger<'_>) -> bool {
        self.may_be(stranger, Member::is_loading)
    }

    /// Whether that holds for the stranger's member. Where nobody knows its address any more, as when all pods have new ones,
    /// it may be any silent member of its shard.
    fn may_be(&self, stranger: &Stranger<'_>, holds: impl Fn(&Member) -> bool) -> bool {
        let is_kin = |member: &Member| stranger.shard.is_none_or(|shard| shard == member.shard);
        match stranger.member {
            Some(member) => holds(member),
            None => self.silent().any(|m| {
                let other =
                    |stranger: &Stranger<'_>| stranger.member.is_some_and(|it| it.name == m.name);
                holds(m) && is_kin(m) && !self.strangers.iter().any(other)
            }),
        }
    }

    /// Two members that say the same id: a copied volume. Nothing can be planned on such a world.
    pub(crate) fn twins(&self) -> Option<(&Node<'w>, &Node<'w>)> {
        let mut seen: BTreeMap<&NodeId, &Node<'w>> = BTreeMap::new();
        self.nodes
            .iter()
            .find_map(|node| Some((seen.insert(&node.view.id, node)?, node)))
    }
}
