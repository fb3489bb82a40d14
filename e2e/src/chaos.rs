//! Chaos: a seeded, bounded random schedule of faults, alone and in pairs, on clusters of many shapes that write all the
//! time, and a judge that knows what each fault excuses.
//!
//! `schedule`, `excuse` and `judge` are pure: what happens, what that may cost, and whether what was seen is within it.
//! `inject`, `processes` and `round` do it.

mod dice;
pub(crate) mod excuse;
pub(crate) mod fault;
pub(crate) mod inject;
mod judge;
mod processes;
mod round;
mod schedule;
mod summary;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::{Api, ListParams};

use crate::cluster::{Ctx, Settings};
use crate::command::Target;
use crate::drive::{await_operator, connect, interruption, interruptions};
use crate::objects::Kinds;
use round::{Ground, Life, Outcome};
use schedule::{Profile, Round, schedule};

/// `chaos`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A number, or `random`; the same seed gives the same rounds
    #[arg(long, default_value_t = Seed::Given(DEFAULT_SEED), value_parser = parse_seed)]
    seed: Seed,
    /// Begin no round after so many minutes
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: Option<u64>,
    /// Play so many rounds
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000), conflicts_with = "minutes")]
    rounds: Option<u32>,
    /// Play this round only, or these, e.g. 7 or 5-7, beginning with a new cluster
    #[arg(long, value_parser = parse_range, conflicts_with_all = ["minutes", "rounds"])]
    round: Option<(u32, u32)>,
    /// Print what would be done
    #[arg(long)]
    list: bool,
    /// Stop at the first round that fails, and leave its cluster for a look at it
    #[arg(long)]
    stop_at_first: bool,
    /// Where what was seen of failed rounds is written
    #[arg(long, default_value = "target/chaos")]
    evidence: PathBuf,
    /// The cluster's kubeconfig; absent: as kubectl finds it
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig; absent: the current one
    #[arg(long)]
    context: Option<String>,
    /// Image of the prober, present on every node or to be pulled by them
    #[arg(long, default_value = "cachecluster/e2e:dev")]
    prober_image: String,
    /// Engines to try, the default one first
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "redis:8.2,valkey/valkey:9.1"
    )]
    engine_images: Vec<String>,
    /// Namespace of the operator's Helm release
    #[arg(long, default_value = "cachecluster-system")]
    operator_namespace: String,
    /// The testbed's command (`testbed/cluster`), if the cluster is the testbed: nodes, their network and the API server
    /// are struck then, too
    #[arg(long)]
    testbed: Option<PathBuf>,
}

/// Where a run's chance comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seed {
    Given(u64),
    Random,
}

/// The seed if nobody gives one: the same for everybody, so that it fails for everybody or nobody. Its first few rounds show
/// more than those of most.
const DEFAULT_SEED: u64 = 985;
/// Rounds that are played if nobody says how many: three to four minutes.
const FEW: u32 = 4;
/// More rounds than any number of minutes has.
const MANY: u32 = 10_000;

fn parse_seed(text: &str) -> Result<Seed, String> {
    if text == "random" {
        return Ok(Seed::Random);
    }
    let number = text.parse().map(Seed::Given);
    number.map_err(|_| "a number or `random` is wanted".to_owned())
}

fn parse_range(text: &str) -> Result<(u32, u32), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last && last < MANY => Ok((first, last)),
        _ => Err(format!("{text:?} is no round, nor a range of rounds")),
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(number) => number.fmt(f),
            Self::Random => f.write_str("random"),
        }
    }
}

impl Seed {
    fn number(self) -> u64 {
        match self {
            Self::Given(number) => number,
            // Small, so that people can type it.
            Self::Random => jiff::Timestamp::now().as_microsecond().unsigned_abs() % 1_000_000,
        }
    }
}

/// Plays rounds; true if nothing was wrong in any.
///
/// # Errors
/// When the cluster cannot be reached, or cannot be made good again.
pub(crate) async fn run(args: Args) -> Result<bool> {
    let target = Target {
        kubeconfig: args.kubeconfig.clone(),
        context: args.context.clone(),
    };
    let client = connect(&target).await?;
    let profile = Profile {
        nodes: match &args.testbed {
            Some(testbed) => Some(inject::nodes(testbed).await?),
            None => None,
        },
        engines: args.engine_images.clone(),
        storage: has_default_class(&client).await?,
    };
    let seed = args.seed.number();
    let (first, count) = match (args.round, args.rounds, args.minutes) {
        (Some((first, last)), _, _) => (first, last + 1),
        (_, Some(rounds), _) => (0, rounds),
        (_, _, Some(_)) => (0, MANY),
        _ => (0, FEW),
    };
    let mut rounds = schedule(seed, &profile, count).split_off(first as usize);
    if args.list {
        rounds.truncate(args.minutes.map_or(rounds.len(), |_| 100));
        for round in rounds {
            println!("{:>4} (cluster {:>3}) {round}", round.number, round.life);
        }
        return Ok(true);
    }
    await_operator(&client, &args.operator_namespace).await?;
    let ground = Ground {
        kinds: Arc::new(Kinds::discover(&client).await?),
        settings: Arc::new(settings(&args, target)),
        client,
    };
    println!("seed {seed}");
    let until = args
        .minutes
        .map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    ground.mend().await?;
    let outcomes = play(&ground, &args, seed, rounds, until).await;
    // Also after an interruption, which may have come between a fault and its end.
    ground.mend().await?;
    let (outcomes, whole) = outcomes?;
    print!("{}", summary::table(&outcomes));
    Ok(whole && outcomes.iter().all(Outcome::is_good))
}

fn settings(args: &Args, target: Target) -> Settings {
    Settings {
        target,
        prober_image: args.prober_image.clone(),
        engine_images: args.engine_images.clone(),
        operator_namespace: args.operator_namespace.clone(),
        release: String::new(),
        chart: PathBuf::new(),
        manifests: PathBuf::new(),
        idle: Duration::ZERO,
        testbed: args.testbed.clone(),
    }
}

async fn has_default_class(client: &Client) -> Result<bool> {
    let classes = Api::<StorageClass>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    Ok(classes.items.iter().any(|class| {
        let annotations = class.metadata.annotations.as_ref();
        annotations
            .and_then(|all| all.get("storageclass.kubernetes.io/is-default-class"))
            .is_some_and(|value| value == "true")
    }))
}

/// Plays rounds one after the other: what came of each, and whether nobody interrupted.
async fn play(
    ground: &Ground,
    args: &Args,
    seed: u64,
    rounds: Vec<Round>,
    until: Option<Instant>,
) -> Result<(Vec<Outcome>, bool)> {
    let mut whole = true;
    let mut interrupted = interruptions()?;
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut life: Option<Life> = None;
    for round in rounds {
        if until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
        let number = round.number;
        let outcome = tokio::select! {
            outcome = ground.play(seed, round, &mut life) => outcome,
            () = interruption(&mut interrupted) => {
                whole = false;
                break;
            }
        };
        println!("{}", summary::line(&outcome));
        let good = outcome.is_good();
        if !good {
            let folder = write_evidence(args, seed, &outcome)?;
            println!("     everything that was seen: {}", folder.display());
            println!("     again: cargo xtask chaos --seed {seed} --round {number}");
        }
        outcomes.push(outcome);
        if !good && args.stop_at_first {
            if let Some(life) = &life {
                println!("     the namespace {} stays", life.namespace());
            }
            return Ok((outcomes, whole));
        }
        // What a failed round has left would be blamed on the next one.
        if !good {
            end(life.take()).await;
        }
    }
    end(life).await;
    Ok((outcomes, whole))
}

/// Removes a cluster. One that does not go is told of and left: the next has a namespace of its own.
async fn end(life: Option<Life>) {
    if let Some(life) = life
        && let Err(error) = life.end().await
    {
        println!("     cleaning up: {error:#}");
    }
}

fn write_evidence(args: &Args, seed: u64, outcome: &Outcome) -> Result<PathBuf> {
    let folder = args
        .evidence
        .join(format!("{seed}-{}", outcome.round.number));
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let text = format!(
        "{}\n{:#?}\n\n{}",
        summary::line(outcome),
        outcome.verdict,
        outcome.record
    );
    std::fs::write(folder.join("round.txt"), text)?;
    Ok(folder)
}

impl Ground {
    /// Undoes what a run that was itself killed may have left.
    async fn mend(&self) -> Result<()> {
        let ctx: Ctx = self.ctx(0, 0);
        inject::mend(&ctx)
            .await
            .context("making the nodes good again")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_number_or_left_to_chance() {
        assert_eq!(parse_seed("42"), Ok(Seed::Given(42)));
        assert_eq!(parse_seed("random"), Ok(Seed::Random));
        assert!(parse_seed("x").is_err());
    }

    #[test]
    fn rounds_are_replayed_alone_or_in_a_row() {
        assert_eq!(parse_range("7"), Ok((7, 7)));
        assert_eq!(parse_range("5-7"), Ok((5, 7)));
        for wrong in ["", "7-5", "x", "5-", "10000"] {
            assert!(parse_range(wrong).is_err(), "{wrong}");
        }
    }
}
