//! A deployment at full load for a while, and what its processes take of the machine meanwhile: memory that grows
//! without end shows here.
//!
//! Fed with a bounded number of images under way. The first fifth is warm-up and does not count: models are loaded,
//! pools are filled, and the list of cases, kept short here, has reached its bound. Deliberately absent: faults (see
//! `chaos.rs`).

use std::{
    collections::BTreeMap,
    fmt, fs,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use duet_transport::{Broker as _, KafkaBroker};

use crate::{
    Fleet, Kafka, STAGES,
    chaos::{
        Corpus,
        feed::{Progress, Run},
    },
};

/// How often the processes are looked at.
const EVERY: Duration = Duration::from_secs(2);
/// From the median of the first fifth after the warm-up to that of the last, memory may grow by this share or by
/// these bytes, whichever is more: an allocator's noise, and no leak of a kilobyte an image.
const GROWTH_SHARE: f64 = 0.1;
const GROWTH_BYTES: f64 = (24 << 20) as f64;
/// Open files and threads may be more by so many.
const GROWTH_COUNT: f64 = 16.0;
/// What the broker keeps of each partition, so that a long run does not fill the disk.
const BROKER: &str = "log.segment.bytes=33554432\nlog.retention.bytes=134217728\n";
const INDEX: &str = "[index]\nmax_cases = 200\n";

/// What is told of one process at one moment.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    bytes: f64,
    files: f64,
    threads: f64,
}

/// The samples of one process.
#[derive(Default)]
struct Course {
    samples: Vec<(Duration, Sample)>,
    /// The broker is not Duet's: it is shown and not judged.
    is_foreign: bool,
}

/// How it went.
pub struct Soaked {
    taken: Duration,
    ended: Vec<(Duration, usize)>,
    courses: BTreeMap<String, Course>,
    doubles: usize,
}

/// Runs every service for `time` at full load. `tell` is told the time that has passed and the images that have ended.
///
/// # Errors
///
/// Where the services cannot be run, or one ends by itself.
pub async fn soak(
    corpus: Corpus,
    further: &[&'static str],
    time: Duration,
    tell: impl Fn(Duration, usize),
) -> Result<Soaked> {
    let folder = tempfile::Builder::new().prefix("duet-soak-").tempdir()?;
    let kafka = Kafka::start_apart(BROKER)?;
    let config = kafka.own_config();
    let broker = KafkaBroker::connect(&config).await?;
    broker.create_topics().await?;
    let sections = format!("{INDEX}{}", corpus.sections());
    let mut fleet = Fleet::with(&config, folder.path(), &sections)?;
    let services = STAGES.into_iter().chain(["gateway", "review"]);
    for service in services.chain(further.iter().copied()) {
        fleet.start(service)?;
    }
    fleet.wait_until_ready()?;

    let begun = Instant::now();
    let progress = Arc::new(Progress::default());
    let mut run = Run::new(&config, &broker, corpus, progress, begun + time, &|_, _, _| {}).await?;
    let mut soaked =
        Soaked { taken: time, ended: Vec::new(), courses: BTreeMap::new(), doubles: 0 };
    let mut next = begun;
    run.feed_until(begun + time, |ended| {
        let now = Instant::now();
        if now < next {
            return Ok(());
        }
        next = now + EVERY;
        tell(begun.elapsed(), ended);
        if begun.elapsed() > time {
            return Ok(());
        }
        soaked.ended.push((begun.elapsed(), ended));
        for (_, name, process) in fleet.processes() {
            let sample = sample(process.pid()).with_context(|| {
                let output = process.output();
                let last: Vec<&str> = output.lines().rev().take(5).collect();
                format!("{name} has ended by itself; its last lines, the last one first: {last:?}")
            })?;
            let course = soaked.courses.entry(name.to_owned()).or_default();
            course.samples.push((begun.elapsed(), sample));
        }
        if let Some(process) = kafka.process() {
            let course = soaked.courses.entry("the broker".to_owned()).or_default();
            course.is_foreign = true;
            course.samples.push((begun.elapsed(), sample(process.pid())?));
        }
        Ok(())
    })
    .await?;
    soaked.doubles = run.doubles();
    fleet.stop()?;
    Ok(soaked)
}

/// The process and its children, as the kernel tells of them.
fn sample(pid: u32) -> Result<Sample> {
    let mut sum = one(pid)?;
    for process in fs::read_dir("/proc")?.flatten() {
        let Some(child) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if parent(child) == Some(pid) {
            // It may be over by now.
            let own = one(child).unwrap_or_default();
            sum.bytes += own.bytes;
            sum.files += own.files;
            sum.threads += own.threads;
        }
    }
    Ok(sum)
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn one(pid: u32) -> Result<Sample> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        number.with_context(|| format!("process {pid} tells no {name}"))
    };
    Ok(Sample {
        bytes: field("VmRSS:")? * 1024.0,
        threads: field("Threads:")?,
        files: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as f64,
    })
}

impl Course {
    /// Medians of the first, the middle and the last fifth after the warm-up.
    fn windows(&self, taken: Duration, of: fn(&Sample) -> f64) -> [f64; 3] {
        let (warm, fifth) = (taken.as_secs_f64() / 5.0, taken.as_secs_f64() * 4.0 / 25.0);
        [0.0, 2.0, 4.0].map(|window| {
            let from = warm + window * fifth;
            let inside = |at: &Duration| (from..from + fifth).contains(&at.as_secs_f64());
            let of_window = self.samples.iter().filter(|(at, _)| inside(at));
            median(of_window.map(|(_, sample)| of(sample)).collect())
        })
    }

    /// Bytes a minute after the warm-up: the median of the slopes between all pairs of samples (Theil and Sen).
    fn slope(&self, taken: Duration) -> f64 {
        let warm = taken / 5;
        let after: Vec<_> = self.samples.iter().filter(|(at, _)| *at >= warm).collect();
        let mut slopes = Vec::new();
        for (i, (at, sample)) in after.iter().enumerate() {
            for (later, other) in after.iter().skip(i + 1) {
                slopes.push((other.bytes - sample.bytes) / (*later - *at).as_secs_f64() * 60.0);
            }
        }
        median(slopes)
    }

    /// What grows, in words.
    fn growth(&self, name: &str, taken: Duration) -> Vec<String> {
        let mut words = Vec::new();
        let [start, _, end] = self.windows(taken, |sample| sample.bytes);
        if end - start > GROWTH_BYTES.max(start * GROWTH_SHARE) {
            words.push(format!("{name} grows: {:.0} MiB, then {:.0} MiB", mib(start), mib(end)));
        }
        for (what, of) in [
            ("open files", (|sample| sample.files) as fn(&Sample) -> f64),
            ("threads", |sample| sample.threads),
        ] {
            let [start, _, end] = self.windows(taken, of);
            if end - start > GROWTH_COUNT {
                words.push(format!("{name} has more {what} all the time: {start}, then {end}"));
            }
        }
        words
    }
}

impl Soaked {
    /// What is not as it has to be, in words; nothing where all is flat.
    pub fn wrong(&self) -> Vec<String> {
        let own = self.courses.iter().filter(|(_, course)| !course.is_foreign);
        let mut wrong: Vec<String> =
            own.flat_map(|(name, course)| course.growth(name, self.taken)).collect();
        if self.doubles > 0 {
            wrong.push(format!("{} images ended more often than they were fed", self.doubles));
        }
        wrong
    }

    /// Images a second from one moment to another.
    fn rate(&self, from: f64, to: f64) -> f64 {
        let seconds = self.taken.as_secs_f64();
        let at = |share: f64| {
            let found = self.ended.iter().find(|(at, _)| at.as_secs_f64() >= share * seconds);
            found.or(self.ended.last()).map_or((0.0, 0.0), |(at, n)| (at.as_secs_f64(), *n as f64))
        };
        let ((begin, before), (end, after)) = (at(from), at(to));
        (after - before) / (end - begin).max(0.001)
    }
}

impl fmt::Display for Soaked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.taken.as_secs_f64() / 60.0;
        let images = self.ended.last().map_or(0, |(_, images)| *images);
        writeln!(
            f,
            "{minutes:.1} minutes at full load, {images} images; the first fifth is warm-up"
        )?;
        write!(f, "images a second, by fifths of the time:")?;
        for fifth in 0..5 {
            let from = f64::from(fifth) / 5.0;
            write!(f, " {:.2}", self.rate(from, from + 0.2))?;
        }
        writeln!(f, "\n")?;
        writeln!(
            f,
            "{:16} {:>10} {:>8} {:>8} {:>12} {:>14} {:>14}",
            "resident, MiB", "start", "middle", "end", "MiB a minute", "open files", "threads"
        )?;
        for (name, course) in &self.courses {
            let [start, middle, end] = course.windows(self.taken, |sample| sample.bytes).map(mib);
            let files = course.windows(self.taken, |sample| sample.files);
            let threads = course.windows(self.taken, |sample| sample.threads);
            let pair = |[start, _, end]: [f64; 3]| format!("{start} → {end}");
            writeln!(
                f,
                "{name:16} {start:>10.1} {middle:>8.1} {end:>8.1} {:>12.2} {:>14} {:>14}",
                mib(course.slope(self.taken)),
                pair(files),
                pair(threads),
            )?;
        }
        for wrong in self.wrong() {
            writeln!(f, "{wrong}")?;
        }
        write!(
            f,
            "bound: {:.0} % or {:.0} MiB from start to end, whichever is more; {GROWTH_COUNT} files and threads",
            GROWTH_SHARE * 100.0,
            mib(GROWTH_BYTES)
        )
    }
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(bytes: impl Fn(u64) -> f64) -> Course {
        let at = |second| {
            let sample = Sample { bytes: bytes(second), files: 20.0, threads: 9.0 };
            (Duration::from_secs(second), sample)
        };
        Course { samples: (0..900).step_by(2).map(at).collect(), is_foreign: false }
    }

    #[test]
    fn a_leak_is_told_and_noise_and_warming_up_are_not() {
        let taken = Duration::from_secs(900);
        let mebi = f64::from(1 << 20);
        let leak = course(|second| mebi * (200.0 + second as f64 / 12.0));
        assert!(leak.growth("x", taken)[0].contains("grows"));
        assert!((leak.slope(taken) / mebi - 5.0).abs() < 0.01, "5 MiB a minute");
        let noise = course(|second| mebi * (200.0 + (second % 7) as f64));
        assert_eq!(noise.growth("x", taken), [""; 0]);
        let warming = course(|second| mebi * (200.0 + second.min(150) as f64));
        assert_eq!(warming.growth("x", taken), [""; 0]);
    }

    #[test]
    fn a_process_tells_what_it_takes() {
        let own = sample(std::process::id()).unwrap();
        assert!(own.bytes > 1e6 && own.files >= 3.0 && own.threads >= 1.0, "{own:?}");
    }
}
