//! Proof by breaking: a whole deployment under load, with services killed, paused and scaled and the broker taken
//! away, and then the books.
//!
//! ```text
//! a calm phase: every film once, which tells what each comes to
//! the images, fed with a bounded number under way ─► services, each its own process ─► ends
//!                        a seeded schedule strikes meanwhile
//! all healed and stopped in good order ─► every topic read anew ─► the books
//! ```
//!
//! `schedule.rs` decides, `conductor.rs` carries out, `feed.rs` feeds and counts, `audit.rs` keeps the books, `tale.rs`
//! tells of it. Deliberately absent: faults of the network between machines and of disks; all runs on one machine.

mod audit;
mod conductor;
mod corpus;
pub(crate) mod feed;
mod follow;
mod likeness;
mod schedule;
mod tale;

use std::{
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use duet_blob::BlobStore;
use duet_transport::{Broker as _, Delivery, KafkaBroker, KafkaConfig};
use tokio::task::spawn_blocking;

pub use self::{
    audit::{Books, End},
    conductor::Strike,
    corpus::{Corpus, FilmNumber},
    schedule::{Fault, Kind, Timeouts, schedule},
};
use self::{
    conductor::Conductor,
    feed::{Progress, Run},
    follow::Followers,
};
use crate::{Fleet, Kafka, STAGES, fleet::orphans};

/// The gateway and the page are asked for all of them in the end.
const INDEX: &str = "[index]\nmax_cases = 20000\n";
/// How often more is tried where at-least-once delivery has shown no double yet, and with how much.
const FURTHER_ROUNDS: usize = 5;
const FURTHER_IMAGES: usize = 100;
const FURTHER_FAULTS: usize = 8;
/// Partitions of each topic: three replicas have two each.
const PARTITIONS: i32 = 6;

/// What is to be done.
pub struct Plan {
    /// Decides the schedule.
    pub seed: u64,
    /// Images that are fed while faults strike.
    pub images: usize,
    /// Faults.
    pub faults: usize,
    /// What is fed.
    pub corpus: Corpus,
    /// How the services deliver.
    pub delivery: Delivery,
    /// When silent ones are held for gone.
    pub timeouts: Timeouts,
    /// Replicas at the beginning, beside one of each stage.
    pub further: Vec<&'static str>,
    /// When to give up.
    pub limit: Duration,
}

/// How it went.
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// How the services delivered.
    pub delivery: Delivery,
    /// What struck, and how long it took to get over it.
    pub strikes: Vec<Strike>,
    /// Services that ended by themselves or in disorder, with their last words. They were started again.
    pub ended: Vec<String>,
    /// Starts that met no broker.
    pub starts_in_vain: usize,
    /// Commits that were refused or given up and whose records were read again.
    pub taken_back: usize,
    /// Images fed in the calm phase, and how long it took.
    pub calm: (usize, Duration),
    /// Images fed while faults struck, and how long it took until all had come to their ends.
    pub struck: (usize, Duration),
    /// The books.
    pub books: Books,
    /// Whatever else is not as it should be.
    pub wrong: Vec<String>,
}

/// Is told how far the run is: in words, images that have ended, images in all.
pub type Tell<'a> = &'a (dyn Fn(&str, usize, usize) + Sync);

/// Carries out `plan`, telling `tell` of it.
///
/// # Errors
///
/// Where the run cannot be brought to its end: the message names the folder of the services' logs, which is kept.
/// What is lost or doubled is no error here, it stands in the [`Outcome`]; then the logs are kept too.
pub async fn run(plan: Plan, tell: Tell<'_>) -> Result<Outcome> {
    let seed = plan.seed;
    let folder = tempfile::Builder::new().prefix("duet-chaos-").tempdir()?;
    let outcome = run_in(plan, folder.path(), tell).await;
    if outcome.as_ref().is_ok_and(Outcome::is_good) {
        return outcome;
    }
    let kept = folder.keep();
    // Pictures take room and say nothing.
    let _left_behind = fs::remove_dir_all(kept.join("blobs"));
    let words =
        format!("seed {seed}: the logs of services and broker are kept in {}", kept.display());
    match outcome {
        Ok(mut outcome) => {
            outcome.wrong.push(words);
            Ok(outcome)
        }
        Err(error) => Err(error.context(words)),
    }
}

async fn run_in(plan: Plan, folder: &Path, tell: Tell<'_>) -> Result<Outcome> {
    let (images, limit) = (plan.images, Instant::now() + plan.limit);
    tell("starting the broker", 0, images);
    let kafka = Kafka::start_apart(BROKER)?;
    let config = configuration(&plan, &kafka);
    let broker = KafkaBroker::connect(&config).await?;
    broker.create_topics().await?;

    tell("starting the services", 0, images);
    let mut fleet = Fleet::with(&config, folder, &format!("{INDEX}{}", plan.corpus.sections()))?;
    for service in STAGES.into_iter().chain(plan.further.iter().copied()) {
        fleet.start(service)?;
    }
    let followers = Followers::start(&mut fleet)?;

    let progress = Arc::new(Progress::default());
    let mut run =
        Run::new(&config, &broker, plan.corpus, Arc::clone(&progress), limit, tell).await?;
    let begun = Instant::now();
    let reference = run.calm().await?;
    let calm = (reference.len(), begun.elapsed());

    let begun = Instant::now();
    let mut conductor = Conductor::new(fleet, kafka, Arc::clone(&progress));
    let mut fed = 0;
    for round in 0..=FURTHER_ROUNDS {
        let (images, faults) = match round {
            0 => (images, plan.faults),
            _ => (FURTHER_IMAGES, FURTHER_FAULTS),
        };
        let faults = schedule(plan.seed + round as u64, faults, plan.timeouts);
        conductor.plan(faults, images);
        let conducting = spawn_blocking(move || conductor.conduct());
        let through = run.put_through(fed, images).await;
        progress.is_over.store(through.is_err(), Ordering::Release);
        let (conducted, back) = conducting.await.context("the conductor crashed")?;
        conductor = back;
        save_log(&conductor.kafka, folder);
        through?;
        conducted?;
        fed += images;
        if plan.delivery == Delivery::ExactlyOnce || run.doubles() > 0 {
            break;
        }
    }
    let struck = (fed, begun.elapsed());

    tell("stopping the services", images, images);
    conductor.settle()?;
    let mut wrong = followers.finish(&conductor.fleet, run.cases())?;
    let (fleet, kafka) = (conductor.fleet, conductor.kafka);
    wrong.extend(fleet.stop()?.into_iter().filter(|(_, code)| *code != Some(0)).map(
        |(name, code)| format!("{name} was told to stop when all was over and ended with {code:?}"),
    ));
    wrong.extend(orphans(folder)?.into_iter().map(|process| format!("left behind: {process}")));

    tell("reading the books", images, images);
    let blobs = BlobStore::open(&format!("file://{}", folder.join("blobs").display()))?;
    let books = audit::audit(&broker, &blobs, &run.films(), &reference, plan.delivery).await?;
    save_log(&kafka, folder);
    Ok(Outcome {
        seed: plan.seed,
        delivery: plan.delivery,
        strikes: conductor.strikes,
        ended: conductor.ended_by_themselves,
        starts_in_vain: conductor.starts_in_vain,
        taken_back: taken_back(folder)?,
        calm,
        struck,
        books,
        wrong,
    })
}

impl Outcome {
    /// Whether everything is as it has to be: nothing lost, nothing doubled (at least once: doubles there, and known
    /// as such), every report what it was while nothing failed, every picture whole.
    pub fn is_good(&self) -> bool {
        let doubles_are_right = match self.delivery {
            Delivery::ExactlyOnce => self.books.doubled == 0 && self.books.more.is_empty(),
            Delivery::AtLeastOnce => self.books.doubled > 0,
        };
        doubles_are_right
            && self.books.lost == 0
            && self.books.images == self.calm.0 + self.struck.0
            && self.books.wrong.is_empty()
            && self.wrong.is_empty()
    }
}

/// What a broker of the chaos's own is set to, beside what all are: sessions may be short, and what timed out is
/// aborted at once.
const BROKER: &str = "group.min.session.timeout.ms=1000
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
";

fn configuration(plan: &Plan, kafka: &Kafka) -> KafkaConfig {
    let mut config = kafka.own_config();
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let session = millis(plan.timeouts.session);
    config.delivery = plan.delivery;
    config.partitions = PARTITIONS;
    config.transaction_timeout_ms = millis(plan.timeouts.transaction);
    config.request_timeout_ms = (config.transaction_timeout_ms / 2).max(1000);
    let properties = [("session.timeout.ms", session), ("heartbeat.interval.ms", session / 6)];
    for (name, value) in properties {
        config.properties.insert(name.to_owned(), value.to_string());
    }
    config
}

fn save_log(kafka: &Kafka, folder: &Path) {
    // For those who look for a fault; nothing hangs on it.
    let _copied = fs::copy(kafka.log(), folder.join("broker.log"));
}

/// How often the services' logs tell that a batch was not committed.
fn taken_back(folder: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "log") {
            count += String::from_utf8_lossy(&fs::read(path)?)
                .matches("not committed: handed out again")
                .count();
        }
    }
    Ok(count)
}
