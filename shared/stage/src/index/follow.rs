//! The task that fills the index from the topics, and goes on whatever the broker does.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use duet_case::Topic;
use duet_telemetry::{HealthItem, metrics};
use duet_transport::{Broker, Record, Source, Start, TransportError};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::CaseIndex;
use crate::{Reason, compute};

/// Cases read at once.
const CASES_AT_ONCE: usize = 64;
/// Dead letters read at once: each carries the whole original file.
const LETTERS_AT_ONCE: usize = 4;
/// A value up to this size is read in well under half a millisecond and needs no compute pool, behind whose
/// inference work a live list would lag.
const READ_AT_ONCE: usize = 32 << 10;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The two followers' trouble, told as one item of the process's health.
struct Status {
    health: HealthItem,
    problems: Mutex<[Option<String>; 2]>,
}

impl Status {
    fn set(&self, follower: usize, problem: Option<String>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = problems.get_mut(follower) {
            *own = problem;
        }
        match problems.iter().flatten().next() {
            Some(problem) => self.health.not_ready(problem),
            None => self.health.ready(),
        }
    }
}

impl CaseIndex {
    /// Follows the topics from their beginning until `shutdown`. Trouble with the broker shows in `health`, and the
    /// topics are read anew once it is over: what was seen before changes nothing.
    pub async fn run(
        self,
        broker: Arc<dyn Broker>,
        health: HealthItem,
        shutdown: CancellationToken,
    ) {
        let waiting = || Some("waiting for the topics".to_owned());
        let status = Status { health, problems: Mutex::new([waiting(), waiting()]) };
        let letters = &[Topic::DeadLetters, Topic::Redriven];
        tokio::join!(
            self.follow(0, &*broker, Self::CASE_TOPICS, CASES_AT_ONCE, &status, &shutdown),
            self.follow(1, &*broker, letters, LETTERS_AT_ONCE, &status, &shutdown),
        );
        status.health.not_ready("stopping");
    }

    async fn follow(
        &self,
        follower: usize,
        broker: &dyn Broker,
        topics: &'static [Topic],
        at_once: usize,
        status: &Status,
        shutdown: &CancellationToken,
    ) {
        let mut pause = FIRST_PAUSE;
        loop {
            let reading = async {
                let mut source = broker.tail(topics, Start::Beginning).await?;
                loop {
                    let records = source.poll(at_once, Duration::ZERO).await?;
                    status.set(follower, trouble(&*source));
                    pause = FIRST_PAUSE;
                    self.take_in(records).await;
                }
            };
            let ended: Result<(), TransportError> = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                ended = reading => ended,
            };
            if let Err(error) = ended {
                warn!(%error, "the list of cases stands still; reading again in {} s", pause.as_secs());
                status.set(follower, Some(error.to_string()));
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            info!("reading the topics anew");
        }
    }

    async fn take_in(&self, records: Vec<Record>) {
        let is_small = |record: &Record| {
            record.value.len() <= READ_AT_ONCE
                || (record.origin.topic == Topic::DeadLetters
                    && record.headers.get(duet_case::DeadLetterHeader::CASE).is_some())
        };
        let (small, large): (Vec<_>, Vec<_>) = records.into_iter().partition(is_small);
        for record in &small {
            note(record.origin.topic, self.record(record));
            tokio::task::consume_budget().await;
        }
        if large.is_empty() {
            return;
        }
        let index = self.clone();
        let read = compute::map(large, move |record| (record.origin.topic, index.record(&record)));
        for result in read.await {
            match result {
                Ok((topic, read)) => note(topic, read),
                Err(crashed) => warn!("a record could not be read for the list: {crashed}"),
            }
        }
    }
}

fn trouble(source: &dyn Source) -> Option<String> {
    let status = source.status();
    let waiting = || (!status.assigned).then(|| "waiting for the topics' partitions".to_owned());
    status.problem.clone().or_else(waiting)
}

/// A record that is no Case: the stage that reads the topic sends it to the dead letters; here it is counted.
fn note(topic: Topic, read: Result<(), Reason>) {
    if let Err(reason) = read {
        metrics().failures.with_label_values(&["index", reason.class]).inc();
        warn!(topic = topic.name(), class = reason.class, "not in the list: {}", reason.message);
    }
}
