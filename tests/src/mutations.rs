//! Damaged files through running services: each comes to one end, and every process lives on.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use duet_case::{CaseId, DeadLetterHeader, Topic};
use duet_testkit::{
    mutate::mutant,
    phantoms::{self, DicomOptions, Syntax},
};
use duet_transport::{Broker, Headers, Outgoing, Record, Source, Start};

use crate::Fleet;

/// Fed and not ended yet, at most.
const WINDOW: usize = 300;

/// How long nothing may come to an end before the run is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is damaged, and how often.
pub struct Plan {
    /// Whole files.
    pub files: Vec<Vec<u8>>,
    /// Another seed damages them otherwise.
    pub seed: u64,
    /// How many damaged files, each another.
    pub count: usize,
    /// Where they end: each of these topics' records is an image's end.
    pub ends: Vec<Topic>,
}

/// What became of them.
#[derive(Debug, Default)]
pub struct Tally {
    /// By topic, dead letters by `stage/class`.
    pub ends: BTreeMap<String, usize>,
    /// Files without an end.
    pub lost: usize,
    /// Ends of files that had one already, and of files that were not fed.
    pub doubled: usize,
    /// Peak resident memory in KiB, by process.
    pub peak_kib: BTreeMap<String, u64>,
    /// Replaced decoders, by reason.
    pub restarts: BTreeMap<String, u64>,
    /// Services that ended by themselves.
    pub dead: Vec<String>,
    /// Open descriptors of each decoder at the end.
    pub descriptors: Vec<usize>,
    /// Damaged files' bytes in all.
    pub bytes: u64,
}

/// Drawn radiographs in every form that the testkit writes, and the files in `paths` of at most `most` bytes: of folders all, of
/// anything else the file itself.
///
/// # Errors
///
/// Where a path cannot be read.
pub fn sources(paths: &[PathBuf], most: u64) -> Result<Vec<Vec<u8>>> {
    let film = phantoms::chest(11, 120, 128);
    let mut files = vec![
        phantoms::png8(&film),
        phantoms::png16(&film),
        phantoms::jpeg(&film),
        phantoms::cmyk_jpeg(&film),
        phantoms::structured_report(),
    ];
    files.extend(
        Syntax::ALL.map(|syntax| {
            phantoms::dicom(&film, &DicomOptions { syntax, ..DicomOptions::default() })
        }),
    );
    for path in paths {
        gather(path, most, &mut files)
            .with_context(|| format!("{} cannot be read", path.display()))?;
    }
    Ok(files)
}

fn gather(path: &Path, most: u64, files: &mut Vec<Vec<u8>>) -> Result<()> {
    if path.is_dir() {
        let mut inner: Vec<PathBuf> =
            fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        inner.sort();
        return inner.iter().try_for_each(|path| gather(path, most, files));
    }
    if path.metadata()?.len() <= most {
        files.push(fs::read(path)?);
    }
    Ok(())
}

/// Feeds what `plan` says and follows every file to its end. `progress` is told how many ended.
///
/// # Errors
///
/// Where the broker or the fleet does not answer.
pub async fn run(
    plan: &Plan,
    broker: &dyn Broker,
    fleet: &Fleet,
    mut progress: impl FnMut(usize),
) -> Result<Tally> {
    ensure!(!plan.files.is_empty(), "there is no file to damage");
    let mut source = broker.tail(&plan.ends, Start::End).await?;
    let sink = broker.sink().await?;
    let mut tally = Tally::default();
    // Of each file that was fed, how often it ended.
    let mut fed: BTreeMap<CaseId, usize> = BTreeMap::new();
    let (mut number, mut ended, mut last) = (0, 0, Instant::now());
    while ended < plan.count && last.elapsed() < PATIENCE {
        while fed.len() < plan.count && fed.len() - ended < WINDOW {
            let (bytes, _) = mutant(&plan.files, plan.seed, number);
            number += 1;
            ensure!(number < 3 * plan.count as u64 + 1000, "the mutants are too much alike");
            let id = CaseId::of_input(&bytes);
            if fed.contains_key(&id) {
                continue;
            }
            fed.insert(id, 0);
            tally.bytes += bytes.len() as u64;
            let (headers, value) = (Headers::default(), Bytes::from(bytes));
            sink.send(Outgoing { topic: Topic::Images, key: None, headers, value }).await?;
        }
        let more = read(&mut *source, &mut fed, &mut tally).await?;
        if more > 0 {
            (ended, last) = (ended + more, Instant::now());
            progress(ended);
        }
        sample(fleet, &mut tally);
    }
    // What came twice would be here.
    let mut quiet = 0;
    while quiet < 4 {
        quiet = if read(&mut *source, &mut fed, &mut tally).await? == 0 { quiet + 1 } else { 0 };
    }
    tally.lost = fed.values().filter(|ends| **ends == 0).count();
    sample(fleet, &mut tally);
    tally.dead = fleet.dead().into_iter().map(str::to_owned).collect();
    tally.descriptors = decoders(fleet).into_iter().map(descriptors).collect();
    for (service, text) in fleet.get_all("/metrics")? {
        for line in text.lines().filter(|_| service.starts_with("prepare")) {
            let Some(rest) = line.strip_prefix("duet_decoder_restarts_total{reason=\"") else {
                continue;
            };
            let (reason, count) = rest.split_once("\"} ").context("no exposition")?;
            *tally.restarts.entry(reason.to_owned()).or_default() += count.parse::<u64>()?;
        }
    }
    Ok(tally)
}

/// Notes what ended meanwhile; how many ended for the first time.
async fn read(
    source: &mut dyn Source,
    fed: &mut BTreeMap<CaseId, usize>,
    tally: &mut Tally,
) -> Result<usize> {
    let mut first = 0;
    for record in source.poll(500, Duration::from_millis(50)).await? {
        *tally.ends.entry(end_of(&record)).or_default() += 1;
        match fed.get_mut(&id_of(&record)?) {
            Some(ends) => {
                *ends += 1;
                if *ends == 1 {
                    first += 1;
                } else {
                    tally.doubled += 1;
                }
            }
            None => tally.doubled += 1,
        }
    }
    Ok(first)
}

fn end_of(record: &Record) -> String {
    let topic = record.origin.topic;
    if topic != Topic::DeadLetters {
        return topic.name().to_owned();
    }
    let header = |name| record.headers.text(name).unwrap_or("none");
    format!("{topic} {}/{}", header(DeadLetterHeader::STAGE), header(DeadLetterHeader::CLASS))
}

fn id_of(record: &Record) -> Result<CaseId> {
    let stage = record.headers.text(DeadLetterHeader::STAGE);
    if record.origin.topic == Topic::DeadLetters && stage == Some("prepare") {
        return Ok(CaseId::of_input(&record.value));
    }
    let Some(id) = record.headers.text("ce_subject") else { bail!("a record without ce_subject") };
    Ok(serde_json::from_value(id.into())?)
}

/// Brings peaks up to date. A decoder that was replaced counts as far as it was seen.
fn sample(fleet: &Fleet, tally: &mut Tally) {
    let mut note = |name: String, pid| {
        let peak = tally.peak_kib.entry(name).or_default();
        *peak = (*peak).max(peak_kib(pid).unwrap_or_default());
    };
    for (_, name, process) in fleet.processes() {
        note(name.to_owned(), process.pid());
    }
    for pid in decoders(fleet) {
        note("its decoders, each".to_owned(), pid);
    }
}

/// The most memory that a process had so far.
pub fn peak_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// The decoding children of the fleet's services.
pub fn decoders(fleet: &Fleet) -> Vec<u32> {
    let children = fleet.processes().flat_map(|(_, _, process)| {
        let threads = fs::read_dir(format!("/proc/{}/task", process.pid()));
        threads
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
    });
    let children: String = children.collect();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}
