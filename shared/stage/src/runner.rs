//! The runner: everything around a stage.
//!
//! Poll a batch → decode → `Stage::process`, with retries → dead letters for what cannot be → one commit of outputs
//! and input offsets. The next batch is worked on while the last one commits. A record is committed only when every
//! earlier record of its partition is finished.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use duet_case::{CaseId, Hop, ModelRef, StudyKey, Topic};
use duet_telemetry::{HealthItem, metrics};
use duet_transport::{Completed, Exchange, Outgoing, Record, Source, TransportError};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, info_span, warn};

use crate::{
    FromRecord, IntoPayloads, Outcome, Reason, RunnerConfig, Stage,
    attempts::{Attempted, attempt_all},
    compute::{self, Meter},
    dead_letter::dead_letter,
    envelope::{outgoing, trace_of},
    in_work::InWork,
    limit::{Limit, Step, Tally},
};

/// Why a stage stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The transport failed in a way that does not heal by itself.
    #[error("stage {stage} stopped")]
    Transport {
        /// The stage.
        stage: &'static str,
        /// Why.
        source: TransportError,
    },
    /// The task that commits came to an end by itself.
    #[error("stage {stage} stopped: its committing task crashed; please report it")]
    CommitterCrashed {
        /// The stage.
        stage: &'static str,
    },
}

/// Runs `stage` until `shutdown` or a failure that does not heal. On `shutdown`, what was taken up is finished and
/// committed first.
///
/// # Errors
///
/// [`RunError`], after which the process should end and be started anew.
pub async fn run<S: Stage>(
    stage: S,
    exchange: Exchange,
    config: &RunnerConfig,
    health: HealthItem,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let Exchange { mut source, committer } = exchange;
    source.keep_within(config.max_batch_bytes);
    let in_work = InWork::watch(S::NAME, source.patience(), health.beside("work"));
    let (commits, committing) = spawn_committer(S::NAME, committer);
    let worker = Worker { stage, config, shutdown: &shutdown };
    let fill = Duration::from_millis(config.max_wait_ms);
    let mut shown = HashSet::new();
    let mut limit = Limit::new(config);
    metrics().paused.with_label_values(&[S::NAME]).set(0);
    // A series that begins with its first event hides that event from Prometheus: it sees no increase.
    for outcome in ["emitted", "rejected", "retried", "returned"] {
        count(S::NAME, outcome, 0);
    }
    info!(stage = S::NAME, "started");

    let ended = loop {
        let polled = tokio::select! {
            biased;
            () = shutdown.cancelled() => break Ok(()),
            polled = source.poll(limit.batch(), fill) => polled,
        };
        observe(S::NAME, &*source, limit.words(), &health, &mut shown);
        let records = match polled {
            Ok(records) if records.is_empty() => {
                if commits.is_closed() {
                    break Ok(());
                }
                continue;
            }
            Ok(records) => records,
            Err(source) => break Err(RunError::Transport { stage: S::NAME, source }),
        };
        let work = async {
            let (done, tally) = worker.work(records).await;
            commits.send(done).await.map(|()| tally)
        };
        let look = || observe(S::NAME, &*source, limit.words(), &health, &mut shown);
        let Ok(tally) = in_work.during(work, look).await else {
            break Ok(()); // the committer ended; its own error follows
        };
        match limit.note(tokio::time::Instant::now(), tally) {
            Step::GoOn => {}
            Step::Resume => {
                metrics().paused.with_label_values(&[S::NAME]).set(0);
                info!(stage = S::NAME, "a record went through: not paused any more");
            }
            Step::Pause(pause) => {
                tell_pause(S::NAME, &limit, pause);
                let is_over = || commits.is_closed() || shutdown.is_cancelled();
                let until = tokio::time::Instant::now() + pause;
                // The consumer goes on polling by itself and stays in its group.
                while !is_over() && tokio::time::Instant::now() < until {
                    observe(S::NAME, &*source, limit.words(), &health, &mut shown);
                    let look = until.min(tokio::time::Instant::now() + PAUSED_LOOK);
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        () = tokio::time::sleep_until(look) => {}
                    }
                }
            }
        }
    };

    health.not_ready("stopping");
    drop(commits);
    let committed = committing.await.map_err(|_| RunError::CommitterCrashed { stage: S::NAME })?;
    info!(stage = S::NAME, "stopped");
    committed.map_err(|source| RunError::Transport { stage: S::NAME, source }).and(ended)
}

/// How often a paused stage brings readiness and lag up to date.
const PAUSED_LOOK: Duration = Duration::from_secs(1);

/// One line for the first pause, with what to do; the next ones are the same trouble.
fn tell_pause(stage: &'static str, limit: &Limit<'_>, pause: Duration) {
    metrics().paused.with_label_values(&[stage]).set(1);
    let (seconds, words) = (pause.as_secs_f64(), limit.words().unwrap_or_default());
    if limit.is_first() {
        warn!(stage, seconds, "{words}");
    } else {
        info!(stage, seconds, "still paused: the record that was tried is a dead letter too");
    }
}

type Commits = mpsc::Sender<Vec<Completed>>;

/// Commits batch after batch in its own task, so that the next batch is worked on meanwhile. One batch may wait.
fn spawn_committer(
    stage: &'static str,
    mut committer: Box<dyn duet_transport::Committer>,
) -> (Commits, JoinHandle<Result<(), TransportError>>) {
    let (sender, mut batches) = mpsc::channel::<Vec<Completed>>(1);
    let task = tokio::spawn(async move {
        while let Some(done) = batches.recv().await {
            let start = Instant::now();
            let committed = committer.commit(done).await?;
            metrics()
                .commit_seconds
                .with_label_values(&[stage])
                .observe(start.elapsed().as_secs_f64());
            if committed.returned > 0 {
                count(stage, "returned", committed.returned);
                info!(stage, records = committed.returned, "not committed: handed out again");
            }
        }
        Ok(())
    });
    (sender, task)
}

/// Brings readiness and lag up to date. `paused` says why the stage takes up nothing, where it does not. `shown` are the partitions whose lag is shown: one that was taken away is
/// another replica's to show.
fn observe(
    stage: &'static str,
    source: &dyn Source,
    paused: Option<&str>,
    health: &HealthItem,
    shown: &mut HashSet<(Topic, i32)>,
) {
    let status = source.status();
    match (&status.problem, paused, status.assigned) {
        (Some(problem), _, _) => health.not_ready(problem),
        (None, Some(paused), _) => health.not_ready(paused),
        (None, None, false) => health.not_ready("waiting for partitions to be assigned"),
        (None, None, true) => health.ready(),
    }
    let gauge = &metrics().lag;
    let mut gone = std::mem::take(shown);
    for lag in status.lag {
        let place = (lag.topic, lag.partition);
        gauge
            .with_label_values(&[stage, lag.topic.name(), &lag.partition.to_string()])
            .set(lag.records);
        gone.remove(&place);
        shown.insert(place);
    }
    for (topic, partition) in gone {
        // It was set under these labels, so it is there to be removed.
        let _removed = gauge.remove_label_values(&[stage, topic.name(), &partition.to_string()]);
    }
}

fn count(stage: &str, outcome: &str, records: usize) {
    metrics().records.with_label_values(&[stage, outcome]).inc_by(records as u64);
}

struct Worker<'a, S> {
    stage: S,
    config: &'a RunnerConfig,
    shutdown: &'a CancellationToken,
}

/// A record and what the stage made of it.
struct Job<In> {
    record: Record,
    input: Result<(In, CaseId), Reason>,
}

/// What a batch's records share.
struct Shared {
    started_at: DateTime<Utc>,
    duration: Duration,
    cpu_each: Duration,
    batch: usize,
}

impl<S: Stage> Worker<'_, S> {
    async fn work(&self, records: Vec<Record>) -> (Vec<Completed>, Tally) {
        let started_at = Utc::now();
        let start = Instant::now();
        let meter = Meter::default();
        let (jobs, attempted) = meter
            .measure(async {
                let jobs = decode::<S::In>(records).await;
                let inputs: Vec<Option<S::In>> = jobs
                    .iter()
                    .map(|job| job.input.as_ref().ok().map(|(input, _)| input.clone()))
                    .collect();
                let attempted = attempt_all(&self.stage, inputs, self.config, self.shutdown).await;
                (jobs, attempted)
            })
            .await;
        let batch = jobs.len().max(1);
        let shared = Shared {
            started_at,
            duration: start.elapsed(),
            cpu_each: meter.total() / u32::try_from(batch).unwrap_or(u32::MAX),
            batch,
        };
        self.measure(&shared, meter.total());
        self.complete(jobs, attempted, &shared)
    }

    fn measure(&self, shared: &Shared, cpu: Duration) {
        let metrics = metrics();
        metrics.batch.with_label_values(&[S::NAME]).observe(shared.batch as f64);
        metrics.stage_seconds.with_label_values(&[S::NAME]).observe(shared.duration.as_secs_f64());
        metrics.cpu_seconds.with_label_values(&[S::NAME]).inc_by(cpu.as_secs_f64());
        let joules = cpu.as_secs_f64() * self.config.watts_per_core;
        metrics.joules.with_label_values(&[S::NAME]).inc_by(joules);
    }

    /// The outputs of every finished record. Where a record is unfinished (the process is stopping), it and every
    /// later one of its partition are left for the next replica.
    fn complete(
        &self,
        jobs: Vec<Job<S::In>>,
        attempted: Vec<Option<Attempted<S::Out>>>,
        shared: &Shared,
    ) -> (Vec<Completed>, Tally) {
        let mut tally = Tally::default();
        let mut cut_off = HashSet::new();
        let mut done = Vec::with_capacity(jobs.len());
        for (job, attempted) in jobs.into_iter().zip(attempted) {
            let place = (job.record.origin.topic, job.record.origin.partition);
            if cut_off.contains(&place) {
                continue;
            }
            let output = match (&job.input, attempted) {
                (Err(reason), _) => vec![self.reject(&job.record, None, 1, reason, &mut tally)],
                (Ok((_, id)), Some(attempted)) => {
                    self.finish(&job.record, id, attempted, shared, &mut tally)
                }
                (Ok(_), None) => {
                    cut_off.insert(place);
                    continue;
                }
            };
            done.push(Completed { origin: job.record.origin, outputs: output });
        }
        (done, tally)
    }

    fn finish(
        &self,
        record: &Record,
        id: &CaseId,
        attempted: Attempted<S::Out>,
        shared: &Shared,
        tally: &mut Tally,
    ) -> Vec<Outgoing> {
        let Attempted { outcome, attempts } = attempted;
        let emitted = match outcome {
            Outcome::Emit(output, topic) => self.emit(record, id, output, topic, shared),
            Outcome::Reject(reason) | Outcome::Retry(reason) => Err(reason),
        };
        match emitted {
            Ok(outputs) => {
                tally.emitted += 1;
                outputs
            }
            Err(reason) => vec![self.reject(record, Some(id), attempts, &reason, tally)],
        }
    }

    fn emit(
        &self,
        record: &Record,
        id: &CaseId,
        mut output: S::Out,
        topic: Topic,
        shared: &Shared,
    ) -> Result<Vec<Outgoing>, Reason> {
        let case = output.case_mut();
        let models = self.stage.models(case);
        let hop = self.hop(record, &models, shared);
        let key = key_of(&case.study);
        case.hops.push(hop);
        let payloads = output.into_payloads(topic)?;
        let trace = trace_of(&record.headers, id).child(S::NAME);
        let span = info_span!("case", stage = S::NAME, %id, trace_id = trace.trace_id(), span_id = trace.span_id());
        span.in_scope(|| debug!(%topic, ms = shared.duration.as_millis() as u64, "done"));
        count(S::NAME, "emitted", 1);
        Ok(payloads
            .into_iter()
            .map(|payload| outgoing(payload, id, key.clone(), S::NAME, &models, trace))
            .collect())
    }

    fn hop(&self, record: &Record, models: &[ModelRef], shared: &Shared) -> Hop {
        let waited = record.timestamp.map_or(0.0, |sent| {
            (shared.started_at - sent).num_microseconds().unwrap_or(0).max(0) as f64 / 1e6
        });
        metrics().queue_seconds.with_label_values(&[S::NAME]).observe(waited);
        let cpu_seconds = shared.cpu_each.as_secs_f64();
        Hop {
            stage: S::NAME.to_owned(),
            models: models.to_vec(),
            started_at: shared.started_at,
            queue_ms: waited * 1e3,
            duration_ms: shared.duration.as_secs_f64() * 1e3,
            batch: u32::try_from(shared.batch).unwrap_or(u32::MAX),
            cpu_seconds,
            joules_estimated: cpu_seconds * self.config.watts_per_core,
        }
    }

    fn reject(
        &self,
        record: &Record,
        id: Option<&CaseId>,
        attempts: u32,
        reason: &Reason,
        tally: &mut Tally,
    ) -> Outgoing {
        tally.give_up(reason);
        count(S::NAME, "rejected", 1);
        metrics().failures.with_label_values(&[S::NAME, reason.class]).inc();
        let origin = record.origin;
        warn!(
            stage = S::NAME,
            case = id.map(CaseId::as_str),
            topic = origin.topic.name(),
            partition = origin.partition,
            offset = origin.offset,
            class = reason.class,
            attempts,
            "dead letter: {}",
            reason.message
        );
        dead_letter(record, id, S::NAME, attempts, reason)
    }
}

fn key_of(study: &StudyKey) -> Bytes {
    Bytes::copy_from_slice(study.as_str().as_bytes())
}

/// Reads every record on the compute pool: a large JSON document or the digest of a large file takes its time.
async fn decode<In: FromRecord>(records: Vec<Record>) -> Vec<Job<In>> {
    let read = |record: Record| {
        In::from_record(&record).map(|input| {
            let id = input.case_id();
            (input, id)
        })
    };
    let inputs = compute::map(records.clone(), read).await;
    records
        .into_iter()
        .zip(inputs)
        .map(|(record, input)| {
            let input = input.unwrap_or_else(|crashed| Err(Reason::of("crashed", &crashed)));
            Job { record, input }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use duet_telemetry::Health;
    use duet_transport::{Lag, SourceStatus};

    use super::*;

    struct Lagging(Vec<i32>);

    #[async_trait]
    impl Source for Lagging {
        async fn poll(&mut self, _: usize, _: Duration) -> Result<Vec<Record>, TransportError> {
            Ok(Vec::new())
        }

        fn status(&self) -> SourceStatus {
            let lag = |&partition| Lag { topic: Topic::Images, partition, records: 7 };
            let lag = self.0.iter().map(lag).collect();
            SourceStatus { assigned: true, lag, problem: None }
        }
    }

    #[test]
    fn a_partition_that_was_taken_away_shows_no_lag() {
        let item = Health::default().item("lagging", "starting");
        let mut shown = HashSet::new();
        let lines = |shown: &mut HashSet<_>, partitions: &[i32]| {
            observe("lagging", &Lagging(partitions.to_vec()), None, &item, shown);
            let text = String::from_utf8(metrics().encode().unwrap()).unwrap();
            text.lines()
                .filter(|line| line.contains("lag_records{") && line.contains("stage=\"lagging\""))
                .count()
        };
        assert_eq!(lines(&mut shown, &[0, 1]), 2);
        assert_eq!(lines(&mut shown, &[1]), 1);
    }
}
