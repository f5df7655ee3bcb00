//! Feeds images with a bounded number under way, and counts what comes to its end.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use duet_case::{CaseId, Topic};
use duet_transport::{
    Broker, Headers, KafkaBroker, KafkaConfig, Outgoing, Record, Sink, Source, Start,
};

use tokio_util::task::AbortOnDropHandle;

use super::{Corpus, End, FilmNumber, Tell, audit::case_of};

/// Images under way at most: what is fed waits for what comes out.
const UNDER_WAY: usize = 64;
/// A run in which nothing comes to an end for this long has failed: no fault of the schedule lasts nearly as long.
const STALL: Duration = Duration::from_secs(240);

/// How far the images are. The feeder, the reader and the conductor share it.
#[derive(Default)]
pub(crate) struct Progress {
    fed: AtomicUsize,
    ended: AtomicUsize,
    /// Faults that struck.
    pub(crate) faults: AtomicUsize,
    /// Set where one of the three failed: the others stop.
    pub(crate) is_over: AtomicBool,
    /// Every case that was fed: its film, and how often.
    cases: Mutex<HashMap<CaseId, (FilmNumber, usize)>>,
}

impl Progress {
    /// Images fed so far.
    pub(crate) fn fed(&self) -> usize {
        self.fed.load(Ordering::Acquire)
    }

    /// Images that have come to their ends; doubles do not count.
    pub(crate) fn ended(&self) -> usize {
        self.ended.load(Ordering::Acquire)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    fn cases(&self) -> MutexGuard<'_, HashMap<CaseId, (FilmNumber, usize)>> {
        self.cases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The feeding and the reading of one run.
pub(crate) struct Run<'a> {
    corpus: Arc<Corpus>,
    progress: Arc<Progress>,
    sink: Arc<dyn Sink>,
    source: Box<dyn Source>,
    ends: HashMap<CaseId, usize>,
    doubles: usize,
    deadline: Instant,
    tell: Tell<'a>,
}

impl<'a> Run<'a> {
    pub(crate) async fn new(
        config: &KafkaConfig,
        broker: &dyn Broker,
        corpus: Corpus,
        progress: Arc<Progress>,
        deadline: Instant,
        tell: Tell<'a>,
    ) -> Result<Self> {
        // What the broker took without our hearing of it must not be fed again: the producer waits as long as it takes.
        let mut patient = KafkaConfig { transaction_timeout_ms: 900_000, ..config.clone() };
        // It reads nothing, but the arithmetic of timeouts holds for whoever might.
        patient.properties.insert("max.poll.interval.ms".to_owned(), "3600000".to_owned());
        let ends = [Topic::Reports, Topic::DeadLetters];
        Ok(Self {
            corpus: Arc::new(corpus),
            progress,
            sink: KafkaBroker::connect(&patient).await?.sink().await?,
            source: broker.tail(&ends, Start::Beginning).await?,
            ends: HashMap::new(),
            doubles: 0,
            deadline,
            tell,
        })
    }

    /// Feeds every film once and returns what each came to.
    pub(crate) async fn calm(&mut self) -> Result<HashMap<FilmNumber, End>> {
        let corpus = Arc::clone(&self.corpus);
        let films = corpus.films();
        let image = move |film| (film, corpus.calm(film));
        let mut reference = HashMap::new();
        let progress = Arc::clone(&self.progress);
        let note = |record: &Record| {
            let id = case_of(record);
            let film = progress.cases().get(&id).map(|(film, _)| *film);
            let film = film.with_context(|| format!("{id} was never fed"))?;
            reference.insert(film, End::of(record)?);
            Ok(())
        };
        self.feed_and_read("while nothing fails", 0..films, image, note).await?;
        ensure!(reference.len() == films, "{} of {films} films came to an end", reference.len());
        Ok(reference)
    }

    /// Feeds `images` images from number `first` on and returns when all have come to their ends.
    pub(crate) async fn put_through(&mut self, first: usize, images: usize) -> Result<()> {
        let corpus = Arc::clone(&self.corpus);
        let image = move |number| corpus.image(number);
        self.feed_and_read("while faults strike", first..first + images, image, |_| Ok(())).await
    }

    /// Ends that came more often than their images were fed.
    pub(crate) fn doubles(&self) -> usize {
        self.doubles
    }

    /// Cases fed.
    pub(crate) fn cases(&self) -> usize {
        self.progress.cases().len()
    }

    /// The film that each case is of.
    pub(crate) fn films(&self) -> HashMap<CaseId, FilmNumber> {
        self.progress.cases().iter().map(|(id, (film, _))| (id.clone(), *film)).collect()
    }

    /// Feeds the images of these numbers and returns when all have come to their ends, of each of which `note` is told.
    async fn feed_and_read(
        &mut self,
        when: &str,
        numbers: Range<usize>,
        image: impl Fn(usize) -> (FilmNumber, Bytes) + Send + 'static,
        mut note: impl FnMut(&Record) -> Result<()>,
    ) -> Result<()> {
        let (before, images) = (self.progress.ended(), numbers.len());
        let feeding = feed(Arc::clone(&self.sink), Arc::clone(&self.progress), numbers, image);
        let mut feeder = Some(AbortOnDropHandle::new(tokio::spawn(feeding)));
        let mut last = (before, Instant::now());
        loop {
            for record in self.source.poll(100, Duration::from_millis(5)).await? {
                self.count(&record);
                note(&record)?;
            }
            if let Some(done) = feeder.take_if(|feeder| feeder.is_finished()) {
                done.await.context("the feeder crashed")??;
            }
            let ended = self.progress.ended();
            let faults = self.progress.faults.load(Ordering::Acquire);
            (self.tell)(&format!("{when}, {faults} faults so far"), ended - before, images);
            if ended - before == images {
                return Ok(());
            }
            if ended != last.0 {
                last = (ended, Instant::now());
            }
            let so_far = || {
                format!("{ended} of the {} images fed have come to their ends", self.progress.fed())
            };
            ensure!(
                !self.progress.is_over(),
                "the schedule could not be carried out; {}",
                so_far()
            );
            ensure!(
                last.1.elapsed() < STALL,
                "nothing came to an end for {} s; {}",
                STALL.as_secs(),
                so_far()
            );
            ensure!(Instant::now() < self.deadline, "the time is up; {}", so_far());
        }
    }

    /// Feeds images without end, a bounded number under way, until `until`; then waits for the rest of them. `look` is
    /// called over and over with the number of images that have come to their ends.
    pub(crate) async fn feed_until(
        &mut self,
        until: Instant,
        mut look: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let corpus = Arc::clone(&self.corpus);
        let image = move |number| corpus.image(number);
        let feeding =
            feed(Arc::clone(&self.sink), Arc::clone(&self.progress), 0..usize::MAX, image);
        let mut feeder = Some(AbortOnDropHandle::new(tokio::spawn(feeding)));
        let mut last = (0, Instant::now());
        loop {
            for record in self.source.poll(100, Duration::from_millis(50)).await? {
                self.count(&record);
            }
            let ended = self.progress.ended();
            look(ended)?;
            if Instant::now() >= until {
                // No more is fed; what was begun goes on to its end.
                self.progress.is_over.store(true, Ordering::Release);
            }
            if let Some(done) = feeder.take_if(|feeder| feeder.is_finished()) {
                done.await.context("the feeder crashed")??;
            }
            if feeder.is_none() && ended == self.progress.fed() {
                return Ok(());
            }
            if ended != last.0 {
                last = (ended, Instant::now());
            }
            ensure!(last.1.elapsed() < STALL, "nothing came to an end for {} s", STALL.as_secs());
        }
    }

    fn count(&mut self, record: &Record) {
        let id = case_of(record);
        let fed = self.progress.cases().get(&id).map_or(0, |(_, times)| *times);
        let ends = self.ends.entry(id).or_default();
        *ends += 1;
        if *ends > fed {
            self.doubles += 1;
        } else {
            self.progress.ended.fetch_add(1, Ordering::Release);
        }
    }
}

async fn feed(
    sink: Arc<dyn Sink>,
    progress: Arc<Progress>,
    numbers: Range<usize>,
    image: impl Fn(usize) -> (FilmNumber, Bytes) + Send,
) -> Result<()> {
    for number in numbers {
        if progress.is_over() {
            return Ok(());
        }
        while progress.fed() - progress.ended() >= UNDER_WAY {
            if progress.is_over() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (film, value) = image(number);
        progress.cases().entry(CaseId::of_input(&value)).or_insert((film, 0)).1 += 1;
        progress.fed.fetch_add(1, Ordering::Release);
        let headers = Headers::default();
        sink.send(Outgoing { topic: Topic::Images, key: None, headers, value }).await?;
    }
    Ok(())
}
