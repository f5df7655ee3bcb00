//! How long a batch has been in work, and what shows where that is too long.
//!
//! The partitions of a stage that hangs are kept, since polling goes on; without this nobody would see why nothing comes out.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

use duet_telemetry::{HealthItem, metrics};
use tracing::{info, warn};

/// How often the age of what is in work is looked at.
const TICK: Duration = Duration::from_secs(1);

/// Watches what one stage has in work, from a thread of its own: a stage may block the runtime's.
pub(crate) struct InWork {
    since: Arc<Since>,
    tick: Duration,
}

#[derive(Default)]
struct Since(Mutex<Option<Instant>>);

impl Since {
    fn get(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InWork {
    /// Begins to watch `stage`. Where a batch takes longer than `patience`, `health` says so, and one line in the log.
    pub(crate) fn watch(stage: &'static str, patience: Duration, health: HealthItem) -> Self {
        let since = Arc::new(Since::default());
        let tick = TICK.min(patience / 4).max(Duration::from_millis(1));
        let watched = Arc::downgrade(&since);
        let named = thread::Builder::new().name("in-work".to_owned());
        let watching = named.spawn(move || watch(stage, patience, tick, &health, &watched));
        if let Err(error) = watching {
            warn!(stage, %error, "no thread to watch with: a stage that hangs will not show");
        }
        Self { since, tick }
    }

    /// Does `work` on a batch, and `meanwhile` again and again until it is done.
    pub(crate) async fn during<T>(
        &self,
        work: impl Future<Output = T>,
        mut meanwhile: impl FnMut(),
    ) -> T {
        *self.since.get() = Some(Instant::now());
        let mut work = std::pin::pin!(work);
        let done = loop {
            match tokio::time::timeout(self.tick, &mut work).await {
                Ok(done) => break done,
                Err(_) => meanwhile(),
            }
        };
        *self.since.get() = None;
        done
    }
}

/// Until nobody has `since` any more.
fn watch(
    stage: &'static str,
    patience: Duration,
    tick: Duration,
    health: &HealthItem,
    since: &Weak<Since>,
) {
    let gauge = metrics().in_work_seconds.with_label_values(&[stage]);
    let mut is_late = false;
    while let Some(held) = since.upgrade() {
        let age = held.get().map_or(Duration::ZERO, |since| since.elapsed());
        drop(held);
        gauge.set(age.as_secs_f64());
        if age > patience && !is_late {
            is_late = true;
            let what = format!(
                "a batch has been in work for more than {} s (max.poll.interval.ms): a model, the decoders, the blob store or the broker does not answer. Its partitions are kept and nothing is lost. See the lines before this one; a restart hands its records out again",
                patience.as_secs_f64()
            );
            warn!(stage, "{what}");
            health.not_ready(&what);
        } else if age <= patience && is_late {
            is_late = false;
            info!(stage, "the batch that took too long is done");
            health.ready();
        }
        thread::sleep(tick);
    }
    gauge.set(0.0);
}
