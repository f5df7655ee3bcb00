//! Trying: batches, retries with back-off, and records that crash the stage.

use std::{panic::AssertUnwindSafe, time::Duration};

use duet_telemetry::metrics;
use futures::FutureExt;
use rand::Rng;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{Outcome, Reason, RunnerConfig, Stage};

/// What came of an input, and at which attempt.
pub(crate) struct Attempted<T> {
    pub(crate) outcome: Outcome<T>,
    pub(crate) attempts: u32,
}

/// Puts every `Some` input through `stage` until it is emitted, rejected, or has been tried as often as configured.
/// `None` comes back for `None`, and for what is still to be tried again when `shutdown` comes.
pub(crate) async fn attempt_all<S: Stage>(
    stage: &S,
    inputs: Vec<Option<S::In>>,
    config: &RunnerConfig,
    shutdown: &CancellationToken,
) -> Vec<Option<Attempted<S::Out>>> {
    let mut finished: Vec<Option<Attempted<S::Out>>> = inputs.iter().map(|_| None).collect();
    let mut waiting: Vec<(usize, S::In)> =
        inputs.into_iter().enumerate().filter_map(|(i, input)| Some((i, input?))).collect();

    for attempts in 1..=config.max_attempts {
        let batch: Vec<S::In> = waiting.iter().map(|(_, input)| input.clone()).collect();
        let outcomes = process_guarded(stage, batch).await;
        let mut again = Vec::new();
        for ((i, input), outcome) in waiting.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Retry(reason) if attempts < config.max_attempts => {
                    metrics().records.with_label_values(&[S::NAME, "retried"]).inc();
                    metrics().failures.with_label_values(&[S::NAME, reason.class]).inc();
                    warn!(
                        stage = S::NAME,
                        class = reason.class,
                        attempts,
                        "tried again: {}",
                        reason.message
                    );
                    again.push((i, input));
                }
                outcome => {
                    if let Some(slot) = finished.get_mut(i) {
                        *slot = Some(Attempted { outcome, attempts });
                    }
                }
            }
        }
        waiting = again;
        if waiting.is_empty() {
            break;
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(back_off(config, attempts)) => {}
        }
    }
    finished
}

/// Doubles with every attempt, up to the limit; between half and all of it, so that replicas do not march in step.
fn back_off(config: &RunnerConfig, attempts: u32) -> Duration {
    let doubled =
        config.backoff_ms.saturating_mul(1_u64.checked_shl(attempts - 1).unwrap_or(u64::MAX));
    let limit = doubled.min(config.backoff_max_ms);
    Duration::from_millis(rand::rng().random_range(limit / 2..=limit))
}

/// One outcome for each input, whatever the stage does. Where a batch crashes, its inputs are tried one by one, so
/// that the one that crashes it costs itself alone.
async fn process_guarded<S: Stage>(stage: &S, batch: Vec<S::In>) -> Vec<Outcome<S::Out>> {
    let count = batch.len();
    match AssertUnwindSafe(stage.process(batch.clone())).catch_unwind().await {
        Ok(outcomes) if outcomes.len() == count => outcomes,
        Ok(outcomes) => {
            let message = format!(
                "the stage {} gave {} outcomes for {count} inputs; please report it",
                S::NAME,
                outcomes.len()
            );
            (0..count)
                .map(|_| Outcome::Reject(Reason::new("stage_defect", message.clone())))
                .collect()
        }
        Err(_) if count == 1 => vec![crashed(S::NAME)],
        Err(_) => {
            let mut outcomes = Vec::with_capacity(count);
            for input in batch {
                let alone = AssertUnwindSafe(stage.process(vec![input])).catch_unwind().await;
                let outcome = alone.ok().and_then(|mut outcomes| outcomes.pop());
                outcomes.push(outcome.unwrap_or_else(|| crashed(S::NAME)));
            }
            outcomes
        }
    }
}

fn crashed<T>(stage: &str) -> Outcome<T> {
    let message =
        format!("the stage {stage} crashed on this record; please report it with the record");
    Outcome::Reject(Reason::new("crashed", message))
}
