//! The books, when all is over: every topic is read anew from its beginning, and every record has to be accounted for.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use duet_blob::BlobStore;
use duet_case::{BlobRef, Case, CaseId, DeadLetterHeader, Digest, Topic};
use duet_transport::{Broker, Delivery, Record, Source, Start};

use super::{corpus::FilmNumber, likeness};

/// No picture of the pipeline's is larger.
const LARGEST_BLOB: u64 = 64 << 20;
/// How many differences are told in words.
const TOLD: usize = 20;

/// How an image ended.
#[derive(Debug, Clone)]
pub enum End {
    /// By a report, reduced to what does not differ from file to file and from run to run.
    Report(serde_json::Value),
    /// By a dead letter of this stage and class.
    DeadLetter(String, String),
}

impl End {
    /// How the image of `record`, a report or a dead letter, ended.
    ///
    /// # Errors
    ///
    /// Where a report is no Case.
    pub fn of(record: &Record) -> Result<Self> {
        if record.origin.topic == Topic::Reports {
            let case = Case::from_json(&record.value).context("a report is not a Case")?;
            return Ok(Self::Report(likeness::of_case(&case)?));
        }
        let header = |name| record.headers.text(name).unwrap_or_default().to_owned();
        Ok(Self::DeadLetter(header(DeadLetterHeader::STAGE), header(DeadLetterHeader::CLASS)))
    }

    /// Where they differ, in words.
    pub fn difference(&self, other: &Self) -> Option<String> {
        match (self, other) {
            (Self::Report(one), Self::Report(two)) => likeness::difference(one, two),
            (Self::DeadLetter(stage, class), Self::DeadLetter(other, calm))
                if (stage, class) == (other, calm) =>
            {
                None
            }
            _ => Some(format!("{} is not {}", self.brief(), other.brief())),
        }
    }

    fn brief(&self) -> String {
        match self {
            Self::Report(_) => "a report".to_owned(),
            Self::DeadLetter(stage, class) => format!("a dead letter of {stage}, {class}"),
        }
    }
}

/// What became of everything.
#[derive(Debug, Default)]
pub struct Books {
    /// Images in `images`.
    pub images: usize,
    /// Records by topic.
    pub records: BTreeMap<Topic, usize>,
    /// Images that came to no end.
    pub lost: usize,
    /// Ends more than images.
    pub doubled: usize,
    /// Records more than there should be, by topic, the topics between included.
    pub more: BTreeMap<Topic, usize>,
    /// Distinct pictures that reports name and that were read and found whole.
    pub pictures: usize,
    /// Whatever else is not as it should be, in words; the first of it.
    pub wrong: Vec<String>,
}

impl Books {
    fn wrong(&mut self, what: impl FnOnce() -> String) {
        if self.wrong.len() < TOLD {
            self.wrong.push(what());
        }
    }
}

/// What the topics hold of one case.
#[derive(Default)]
struct Account {
    /// Records by topic and by the stage that wrote them.
    records: BTreeMap<(Topic, String), usize>,
    ends: Vec<End>,
    /// Digests of the pictures that reports name, and of the ones in `annotated`.
    named: Vec<Digest>,
    shown: Vec<Digest>,
    /// The `ce_id` of the records in each topic.
    events: BTreeMap<Topic, Vec<String>>,
}

impl Account {
    fn count(&self, topic: Topic) -> usize {
        self.records.iter().filter(|((of, _), _)| *of == topic).map(|(_, count)| count).sum()
    }

    fn by(&self, topic: Topic, stage: &str) -> usize {
        self.records.get(&(topic, stage.to_owned())).copied().unwrap_or(0)
    }
}

/// Reads every topic and settles the accounts. `films` tells which film each case is of, `reference` what each film
/// came to while nothing failed.
///
/// # Errors
///
/// Where the topics cannot be read.
pub(super) async fn audit(
    broker: &dyn Broker,
    blobs: &BlobStore,
    films: &HashMap<CaseId, FilmNumber>,
    reference: &HashMap<FilmNumber, End>,
    delivery: Delivery,
) -> Result<Books> {
    let mut books = Books::default();
    let mut accounts: BTreeMap<CaseId, Account> = BTreeMap::new();
    let mut pictures: BTreeMap<Digest, BlobRef> = BTreeMap::new();
    let mut source = broker.tail(&Topic::ALL, Start::Beginning).await?;
    read_to_the_end(&mut *source, |record| {
        *books.records.entry(record.origin.topic).or_default() += 1;
        enter(&record, &mut accounts, &mut pictures)
    })
    .await?;
    for (id, account) in &accounts {
        settle(&mut books, id, account, delivery);
        let Some(calm) = films.get(id).and_then(|film| reference.get(film)) else {
            books.wrong(|| format!("{id} was never fed"));
            continue;
        };
        for difference in account.ends.iter().filter_map(|end| end.difference(calm)) {
            books.wrong(|| format!("{id} did not end as while nothing failed: {difference}"));
        }
    }
    for blob in pictures.values() {
        match blobs.get(blob.sha256, LARGEST_BLOB).await {
            Ok(bytes) if bytes.len() as u64 == blob.bytes => books.pictures += 1,
            Ok(bytes) => books.wrong(|| format!("blob {} has {} bytes", blob.sha256, bytes.len())),
            Err(error) => books.wrong(|| error.to_string()),
        }
    }
    Ok(books)
}

async fn read_to_the_end(
    source: &mut dyn Source,
    mut each: impl FnMut(Record) -> Result<()>,
) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let records = source.poll(200, Duration::ZERO).await?;
        let is_quiet = records.is_empty();
        for record in records {
            each(record)?;
        }
        let status = source.status();
        // Lag is told of every partition once the client has asked for each of them.
        let is_known = status.assigned && !status.lag.is_empty();
        if is_quiet && is_known && status.lag.iter().all(|lag| lag.records == 0) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the topics have no end: {status:?}");
    }
}

fn enter(
    record: &Record,
    accounts: &mut BTreeMap<CaseId, Account>,
    pictures: &mut BTreeMap<Digest, BlobRef>,
) -> Result<()> {
    let topic = record.origin.topic;
    let header = |name: &str| record.headers.text(name).unwrap_or_default();
    let (id, stage) = match topic {
        Topic::Images => (CaseId::of_input(&record.value), String::new()),
        Topic::DeadLetters => {
            let named = CaseId::parse(header(DeadLetterHeader::CASE));
            let id = named.unwrap_or_else(|| CaseId::of_input(&record.value));
            (id, header(DeadLetterHeader::STAGE).to_owned())
        }
        _ => {
            let id = CaseId::parse(header("ce_subject")).context("a record names no case")?;
            (id, header("ce_source").trim_start_matches("/duet/").to_owned())
        }
    };
    let account = accounts.entry(id).or_default();
    *account.records.entry((topic, stage)).or_default() += 1;
    account.events.entry(topic).or_default().push(event_of(record));
    match topic {
        Topic::Annotated => account.shown.push(Digest::of(&record.value)),
        Topic::Reports => {
            let case = Case::from_json(&record.value).context("a report is not a Case")?;
            let annotated = case.publication.as_ref().and_then(|own| own.annotated.as_ref());
            account.named.extend(annotated.map(|blob| blob.sha256));
            let heats = case.findings.iter().filter_map(|own| own.region.as_ref());
            let heats = heats.map(|region| &region.heat_map);
            let rendition = case.rendition.as_ref().map(|rendition| &rendition.blob);
            let named = heats.chain(rendition).chain(annotated);
            pictures.extend(named.map(|blob| (blob.sha256, blob.clone())));
            account.ends.push(End::of(record)?);
        }
        Topic::DeadLetters => account.ends.push(End::of(record)?),
        _ => {}
    }
    Ok(())
}

/// What makes doubles of a record known as such: its `ce_id`, or where a dead letter came from.
fn event_of(record: &Record) -> String {
    let header = |name: &str| record.headers.text(name).unwrap_or_default();
    if record.origin.topic == Topic::DeadLetters {
        use DeadLetterHeader as Header;
        return [Header::TOPIC, Header::PARTITION, Header::OFFSET].map(header).join("/");
    }
    header("ce_id").to_owned()
}

/// Every stage writes one record for each one that it reads: what goes in comes out, at every stage and for every case.
fn settle(books: &mut Books, id: &CaseId, account: &Account, delivery: Delivery) {
    use Topic as T;
    let dead = |stage: &str| account.by(T::DeadLetters, stage);
    let stages = [
        (
            "prepare",
            account.count(T::Images),
            account.count(T::Prepared) + account.by(T::OutOfScope, "prepare"),
        ),
        (
            "triage",
            account.count(T::Prepared),
            account.count(T::Flagged)
                + account.count(T::Cleared)
                + account.by(T::OutOfScope, "triage"),
        ),
        ("specialist", account.count(T::Flagged), account.count(T::Assessed)),
        (
            "publish",
            account.count(T::Assessed) + account.count(T::Cleared) + account.count(T::OutOfScope),
            account.count(T::Reports),
        ),
    ];
    for (stage, taken, given) in stages {
        let given = given + dead(stage);
        let is_right = match delivery {
            Delivery::ExactlyOnce => given == taken,
            Delivery::AtLeastOnce => given >= taken,
        };
        if !is_right {
            books.wrong(|| format!("{id}: {stage} took {taken} records and gave {given}"));
        }
    }
    let images = account.count(T::Images);
    let ends = account.count(T::Reports) + account.count(T::DeadLetters);
    books.images += images;
    books.lost += images.saturating_sub(ends);
    books.doubled += ends.saturating_sub(images);
    for topic in T::ALL.into_iter().filter(|topic| *topic != T::Images) {
        let more = account.count(topic).saturating_sub(images);
        if more > 0 {
            *books.more.entry(topic).or_default() += more;
        }
    }
    let (mut named, mut shown) = (account.named.clone(), account.shown.clone());
    named.sort_unstable();
    shown.sort_unstable();
    if delivery == Delivery::AtLeastOnce {
        // One of a pair may come without the other's double.
        named.dedup();
        shown.dedup();
    }
    if named != shown {
        books.wrong(|| {
            format!("{id}: {} reports name a picture, `annotated` has {}", named.len(), shown.len())
        });
    }
    settle_events(books, id, account, images);
}

/// All that a stage wrote of one case bears one `ce_id` in each topic, so that doubles are known as such.
fn settle_events(books: &mut Books, id: &CaseId, account: &Account, images: usize) {
    for (topic, events) in &account.events {
        let mut events = events.clone();
        events.sort_unstable();
        let count = events.len();
        events.dedup();
        let expected = match topic {
            // Of foreign origin.
            Topic::Images => continue,
            // Each letter names the record that it is of, and there are no more of those than images.
            Topic::DeadLetters => count.min(images),
            _ => 1,
        };
        if events.len() > expected || events.iter().any(|event| event.is_empty()) {
            books.wrong(|| format!("{id}: the {count} records in {topic} bear {events:?}"));
        }
    }
}

/// The id of the case that `record`, a report or a dead letter, is about.
pub(super) fn case_of(record: &Record) -> CaseId {
    let name = match record.origin.topic {
        Topic::DeadLetters => DeadLetterHeader::CASE,
        _ => "ce_subject",
    };
    let named = record.headers.text(name).and_then(CaseId::parse);
    named.unwrap_or_else(|| CaseId::of_input(&record.value))
}
