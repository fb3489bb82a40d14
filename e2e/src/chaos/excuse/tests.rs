//! What single faults and pairs of them excuse.

use super::*;
use crate::chaos::fault::{Fault, Role};

fn shape(shards: u32, storage: bool) -> Shape {
    Shape {
        shards,
        replicas: 1,
        storage,
        durable: false,
        always: false,
        engine: "redis:8.2".to_owned(),
    }
}

fn durable(strikes: &[Strike]) -> Excuse {
    let durable = Shape {
        durable: true,
        ..shape(3, true)
    };
    excuse(&durable, strikes)
}

#[test]
fn a_durable_shard_may_wait_and_lose_the_lag_of_a_crash_and_nothing_else() {
    let server = durable(&[strike(Kind::KillServer, PRIMARY, 10_000)]);
    assert_eq!(server.loss[&0], Loss::Within(9_000, 11_100));
    assert_eq!(server.failures, Failures::UpTo(0));
    assert_eq!(server.gap[&0], Some(GAP + GAP_OF_DURABLE));
    assert_eq!(server.gap[&1], Some(GAP_OF_OTHERS));
    for (kind, target) in [
        (Kind::HangServer, REPLICA),
        (Kind::KillContainer, PRIMARY),
        (Kind::PowerOff, Target::Node(3)),
    ] {
        let silent = durable(&[strike(kind, target, 10_000)]);
        assert_eq!(silent.failures, Failures::Any, "{kind:?}");
    }
    // All were struck: only the crash costs, and not what the one had acknowledged that was told to stop.
    let both = durable(&[
        strike(Kind::DeletePod, REPLICA, 10_000),
        strike(Kind::KillServer, PRIMARY, 12_000),
    ]);
    assert_eq!(both.loss[&0], Loss::Within(11_000, 13_100));
    assert_eq!(both.gap[&0], None);
    let mut both = [
        strike(Kind::PowerOff, Target::Node(2), 10_000),
        strike(Kind::KillServer, PRIMARY, 11_000),
    ];
    for strike in &mut both {
        strike.placement.members.push(Member {
            pod: "s0-2".to_owned(),
            shard: 0,
            primary: false,
            node: Some(3),
        });
    }
    let of_three = Shape {
        durable: true,
        replicas: 2,
        ..shape(3, true)
    };
    let awaited = excuse(&of_three, &both).gap[&0];
    assert_eq!(awaited, Some(GAP_WITHOUT_OPERATOR + GAP_OF_DURABLE));
    let all = durable(&[strike(Kind::DeleteAll, Target::TheOne, 10_000)]);
    assert!(all.loss.values().all(|loss| *loss == Loss::None));
    // Nobody lets the new primary go on alone.
    let alone = durable(&[
        strike(Kind::KillServer, PRIMARY, 10_000),
        strike(Kind::KillOperatorLoop, Target::TheOne, 10_500),
    ]);
    assert_eq!(alone.gap[&0], Some(GAP_WITHOUT_OPERATOR + GAP_OF_DURABLE));
    assert_eq!(alone.failures, Failures::Any);
}

/// Primaries of shard i on node i + 1, replicas on the next node; API and operator on nodes 1 and 2.
fn placement(shards: u32) -> Placement {
    let member = |shard: u32, primary: bool| Member {
        pod: format!("s{shard}-{}", u8::from(!primary)),
        shard,
        primary,
        node: Some((shard + u32::from(!primary)) % 3 + 1),
    };
    Placement {
        members: (0..shards)
            .flat_map(|shard| [member(shard, true), member(shard, false)])
            .collect(),
        api: vec![("a".to_owned(), Some(1)), ("b".to_owned(), Some(2))],
        operator: vec![Some(1), Some(2)],
    }
}

fn strike(kind: Kind, target: Target, began_ms: i64) -> Strike {
    of_shards(3, kind, target, began_ms)
}

fn of_shards(shards: u32, kind: Kind, target: Target, began_ms: i64) -> Strike {
    Strike {
        fault: Fault {
            kind,
            target,
            after: Duration::ZERO,
            lasts: Duration::from_secs(10),
        },
        placement: placement(shards),
        began_ms,
        ended_ms: began_ms + 100,
    }
}

const PRIMARY: Target = Target::Member(0, Role::Primary);
const REPLICA: Target = Target::Member(0, Role::Replica);

fn of(storage: bool, strikes: &[Strike]) -> Excuse {
    excuse(&shape(3, storage), strikes)
}

#[test]
fn orderly_faults_excuse_no_loss_and_no_failure() {
    for (kind, target) in [
        (Kind::DeletePod, PRIMARY),
        (Kind::ForceDeletePod, PRIMARY),
        (Kind::DeletePod, REPLICA),
        (Kind::Drain, Target::Node(2)),
        (Kind::KillOperator, Target::TheOne),
        (Kind::KillOperatorLoop, Target::TheOne),
        (Kind::StopApiServer, Target::TheOne),
    ] {
        let excuse = of(false, &[strike(kind, target, 10_000)]);
        assert!(
            excuse.loss.values().all(|loss| *loss == Loss::None),
            "{kind:?}"
        );
        assert_eq!(excuse.failures, Failures::UpTo(0), "{kind:?}");
        assert!(excuse.gap.values().all(|gap| *gap <= Some(GAP)), "{kind:?}");
    }
}

#[test]
fn a_shard_that_nobody_struck_serves_on_while_a_majority_votes() {
    let gaps = |kind, target| {
        let gap = of(false, &[strike(kind, target, 10_000)]).gap;
        [0, 1, 2].map(|shard| gap[&shard].unwrap())
    };
    let (far, near) = (GAP_OF_OTHERS, GAP);
    assert_eq!(gaps(Kind::KillServer, PRIMARY), [near, far, far]);
    assert_eq!(gaps(Kind::StopApiServer, Target::TheOne), [far; 3]);
    assert_eq!(gaps(Kind::PowerOff, Target::Node(1)), [near, far, near]);
    let link = |cut| gaps(Kind::Partition, Target::Link(1, cut));
    assert_eq!(link(Cut::ControlPlane), [far; 3]);
    assert_eq!(link(Cut::Node(2)), [near; 3]);
    // Of two primaries, one is no majority.
    let two = of_shards(2, Kind::KillServer, PRIMARY, 10_000);
    assert_eq!(excuse(&shape(2, false), &[two]).gap[&1], Some(near));
}

#[test]
fn reads_may_be_stale_only_of_a_primary_that_is_cut_off_and_until_it_stops_or_is_back() {
    let stale = |strikes: &[Strike]| {
        let excuse = of(false, strikes);
        [0, 1, 2].map(|shard| excuse.stale[&shard])
    };
    let none = [Loss::None; 3];
    for crash in [
        strike(Kind::KillServer, PRIMARY, 10_000),
        strike(Kind::HangServer, PRIMARY, 10_000),
        strike(Kind::PowerOff, Target::Node(1), 10_000),
        strike(Kind::DeleteShard, Target::Shard(0), 10_000),
        strike(Kind::Partition, Target::Link(1, Cut::ControlPlane), 10_000),
    ] {
        assert_eq!(stale(&[crash]), none);
    }
    // Shard 2 has its replica there.
    let mut cut = strike(Kind::Partition, Target::Link(1, Cut::All), 10_000);
    let window = Loss::Within(9_000, 14_300);
    let of_one = [window, Loss::None, Loss::None];
    assert_eq!(stale(std::slice::from_ref(&cut)), of_one);
    let crash = strike(Kind::KillServer, Target::Member(2, Role::Primary), 9_500);
    assert_eq!(stale(&[crash, cut.clone()]), [window, Loss::None, window]);
    cut.fault.lasts = Duration::from_secs(2);
    assert_eq!(stale(&[cut])[0], Loss::Within(9_000, 13_000));
}

#[test]
fn a_crashed_primary_excuses_the_lag_of_its_shard_and_nothing_else() {
    for kind in [Kind::KillServer, Kind::HangServer, Kind::KillContainer] {
        let excuse = of(false, &[strike(kind, PRIMARY, 10_000)]);
        assert_eq!(excuse.loss[&0], Loss::Within(9_000, 11_100));
        assert_eq!(excuse.loss[&1], Loss::None);
        assert_eq!(excuse.failures, Failures::UpTo(0));
    }
    let excuse = of(false, &[strike(Kind::KillServer, REPLICA, 10_000)]);
    assert_eq!(excuse.loss[&0], Loss::None);
}

#[test]
fn a_lost_node_excuses_its_primaries_lag_and_what_was_under_way_on_its_api_pod() {
    let off = of(false, &[strike(Kind::PowerOff, Target::Node(1), 10_000)]);
    assert_eq!(off.loss[&0], Loss::Within(9_000, 11_100));
    assert_eq!((off.loss[&1], off.loss[&2]), (Loss::None, Loss::None));
    assert_eq!(off.failures, Failures::UpTo(24 + 150));
    let bare = of(false, &[strike(Kind::PowerOff, Target::Node(3), 10_000)]);
    assert_eq!(bare.failures, Failures::UpTo(0));
    let cut = of(
        false,
        &[strike(Kind::Partition, Target::Link(1, Cut::All), 10_000)],
    );
    assert_eq!(cut.loss[&0], Loss::Within(9_000, 14_300));
    let mild = of(
        false,
        &[strike(
            Kind::Partition,
            Target::Link(1, Cut::ControlPlane),
            10_000,
        )],
    );
    assert_eq!(mild.loss[&0], Loss::None);
    assert_eq!(mild.failures, Failures::UpTo(0));
}

#[test]
fn a_primary_is_lonely_also_where_the_majority_was_cut_off() {
    // Node 3 holds the primaries of shards 1 and 2, and the replica of shard 0.
    let mut cut = strike(Kind::Partition, Target::Link(3, Cut::All), 10_000);
    for member in &mut cut.placement.members {
        member.node = Some(if member.primary == (member.shard > 0) {
            3
        } else {
            2
        });
    }
    assert_eq!(cut.placement.majority(3), Some((3, 2)));
    let excuse = of(false, std::slice::from_ref(&cut));
    assert_eq!(excuse.loss[&0], Loss::Within(9_000, 14_300));
    assert_eq!(excuse.failures, Failures::Any);
    // A minority that is cut off promotes nobody.
    for member in &mut cut.placement.members {
        member.node = Some(if member.primary { 2 } else { 3 });
    }
    assert_eq!(of(false, &[cut]).loss[&0], Loss::None);
    assert_eq!(placement(3).majority(3), None);
}

#[test]
fn a_shard_without_memory_is_gone_unless_it_has_volumes() {
    let all = [strike(Kind::DeleteShard, Target::Shard(0), 10_000)];
    assert_eq!(of(false, &all).loss[&0], Loss::Until(20_100));
    assert_eq!(of(false, &all).loss[&1], Loss::None);
    assert_eq!(of(false, &all).gap[&0], None);
    assert_eq!(of(true, &all).loss[&0], Loss::None);
    let both = [
        strike(Kind::DeletePod, REPLICA, 10_000),
        strike(Kind::KillServer, PRIMARY, 11_000),
    ];
    assert_eq!(of(false, &both).loss[&0], Loss::Until(20_100));
    assert_eq!(of(true, &both).loss[&0], Loss::Within(9_000, 12_100));
    assert_eq!(of(true, &both).failures, Failures::Any);
}

#[test]
fn without_power_anywhere_memory_is_gone_and_volumes_have_what_was_written_before() {
    let off = [strike(Kind::PowerOffAll, Target::TheOne, 10_000)];
    for shard in 0..3 {
        assert_eq!(of(false, &off).loss[&shard], Loss::Until(11_100));
        assert_eq!(of(true, &off).loss[&shard], Loss::Within(9_000, 11_100));
        assert_eq!(durable(&off).loss[&shard], Loss::Within(9_000, 11_100));
    }
    assert_eq!(of(true, &off).failures, Failures::Any);
}

#[test]
fn a_file_that_cannot_be_rewritten_costs_nothing_and_lack_of_memory_what_a_kill_does() {
    let spoilt = of(true, &[strike(Kind::FailSaves, PRIMARY, 10_000)]);
    assert_eq!(spoilt, of(true, &[]));
    let exhausted = of(false, &[strike(Kind::OutOfMemory, PRIMARY, 10_000)]);
    let killed = of(false, &[strike(Kind::KillServer, PRIMARY, 10_000)]);
    assert_eq!(exhausted, killed);
}

#[test]
fn what_a_cut_off_replica_holds_is_not_gone() {
    let both = [
        strike(Kind::Partition, Target::Link(2, Cut::All), 10_000),
        strike(Kind::KillServer, PRIMARY, 11_000),
    ];
    assert_eq!(of(false, &both).loss[&0], Loss::Within(9_000, 14_300));
}

#[test]
fn another_member_that_lives_excuses_only_the_crash() {
    let mut three = shape(3, false);
    three.replicas = 2;
    let mut strikes = [
        strike(Kind::DeletePod, REPLICA, 10_000),
        strike(Kind::KillServer, PRIMARY, 11_000),
    ];
    for strike in &mut strikes {
        let third = Member {
            pod: "s0-2".to_owned(),
            shard: 0,
            primary: false,
            node: Some(3),
        };
        strike.placement.members.push(third);
    }
    assert_eq!(
        excuse(&three, &strikes).loss[&0],
        Loss::Within(10_000, 12_100)
    );
}

#[test]
fn where_nobody_can_vote_the_operator_is_waited_for() {
    let one = of_shards(1, Kind::PowerOff, Target::Node(1), 10_000);
    let mut afar = one.clone();
    afar.placement.operator = vec![Some(2), Some(3)];
    let alone = excuse(&shape(1, false), &[afar]);
    assert_eq!(alone.gap[&0], Some(GAP_BY_OPERATOR));
    let loop_ = of_shards(1, Kind::KillOperatorLoop, Target::TheOne, 10_500);
    let without = excuse(&shape(1, false), &[one, loop_]);
    assert_eq!(without.gap[&0], Some(GAP_WITHOUT_OPERATOR));
    // Its agent knows, so that nobody has to vote.
    let server = of_shards(1, Kind::KillServer, PRIMARY, 10_000);
    assert_eq!(excuse(&shape(1, false), &[server]).gap[&0], Some(GAP));
}

#[test]
fn an_api_pod_that_dies_excuses_what_reaches_it_until_it_is_left_out() {
    let excuse = of(false, &[strike(Kind::KillApi, Target::TheOne, 10_000)]);
    assert_eq!(excuse.failures, Failures::UpTo(450));
    let all = of(false, &[strike(Kind::DeleteAll, Target::TheOne, 10_000)]);
    assert_eq!(all.failures, Failures::Any);
}

#[test]
fn a_cut_does_not_bring_back_what_a_deletion_took() {
    let both = [
        strike(Kind::DeleteShard, Target::Shard(0), 10_000),
        strike(Kind::Partition, Target::Link(2, Cut::All), 11_000),
    ];
    assert_eq!(of(false, &both).loss[&0], Loss::Until(20_100));
    assert_eq!(of(true, &both).loss[&0], Loss::Within(9_000, 15_300));
}

#[test]
fn one_of_two_primaries_waits_for_another_that_nobody_reaches_and_nobody_succeeds() {
    let deleted = of_shards(2, Kind::DeleteShard, Target::Shard(0), 10_000);
    let cut = of_shards(2, Kind::Partition, Target::Link(2, Cut::Nodes), 11_000);
    let shape = shape(2, false);
    let both = excuse(&shape, &[deleted.clone(), cut]);
    assert_eq!((both.gap[&1], both.failures), (None, Failures::Any));
    let one = excuse(&shape, &[deleted]);
    assert_eq!(one.gap[&1], Some(GAP));
}
