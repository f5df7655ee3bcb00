//! Waits until every sample came to its end.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use duet_case::{Case, CaseId, Topic};
use duet_stage::DeadLetter;
use duet_transport::{Record, Source};

use super::samples::Sample;

/// Without a single end in this time something is wrong.
const PATIENCE: Duration = Duration::from_secs(180);

/// Samples that are named where nothing moves.
const NAMED: usize = 10;

/// What became of a sample.
pub(super) enum End {
    Report(Box<Case>),
    DeadLetter(Box<DeadLetter>),
}

/// Samples by the id that their bytes give them; the same file may be there twice.
#[derive(Default)]
pub(super) struct Waiting(Mutex<HashMap<CaseId, VecDeque<usize>>>);

impl Waiting {
    /// Sample number `place` is about to be fed.
    pub(super) fn add(&self, id: CaseId, place: usize) {
        self.lock().entry(id).or_default().push_back(place);
    }

    fn take(&self, id: &CaseId) -> Option<usize> {
        self.lock().get_mut(id).and_then(VecDeque::pop_front)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CaseId, VecDeque<usize>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ends in the order of the samples; `ended` is called for each as it comes.
pub(super) async fn until_all_ended(
    samples: &[Sample],
    waiting: &Waiting,
    mut source: Box<dyn Source>,
    ended: impl Fn(),
) -> Result<Vec<End>> {
    let mut ends: Vec<Option<End>> = samples.iter().map(|_| None).collect();
    let mut left = ends.len();
    let mut last = Instant::now();
    while left > 0 {
        for record in source.poll(64, Duration::ZERO).await? {
            let (id, end) = read(&record)?;
            let place = waiting.take(&id);
            if let Some(slot) = place.and_then(|place| ends.get_mut(place)) {
                *slot = Some(end);
                left -= 1;
                ended();
                last = Instant::now();
            }
        }
        if last.elapsed() > PATIENCE {
            let missing = samples.iter().zip(&ends).filter(|(_, end)| end.is_none());
            let names: Vec<_> =
                missing.map(|(sample, _)| sample.name.as_str()).take(NAMED).collect();
            bail!(
                "nothing came to an end for {} s; {left} are still under way, {} among them; `--log-filter error,duet=info` shows what each stage does",
                PATIENCE.as_secs(),
                names.join(", ")
            );
        }
    }
    Ok(ends.into_iter().flatten().collect())
}

fn read(record: &Record) -> Result<(CaseId, End)> {
    if record.origin.topic == Topic::DeadLetters {
        let letter = DeadLetter::read(&record.headers);
        return Ok((DeadLetter::case_of(record), End::DeadLetter(Box::new(letter))));
    }
    let case = Case::from_json(&record.value).context("a report is no Case; please report it")?;
    Ok((case.id.clone(), End::Report(Box::new(case))))
}
