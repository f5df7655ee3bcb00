//! The compute pool: work of more than half a millisecond runs here and never on the async runtime.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cpu_time::ThreadTime;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::oneshot;

static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();

tokio::task_local! {
    static METER: Meter;
}

/// Counts the CPU time of the compute work that a task starts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter(Arc<AtomicU64>);

impl Meter {
    /// CPU time so far.
    pub(crate) fn total(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    fn add(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Runs `future` with its compute work counted here.
    pub(crate) async fn measure<F: Future>(&self, future: F) -> F::Output {
        METER.scope(self.clone(), future).await
    }
}

/// The work panicked. What it said is in the log; it may hold anything and so goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the computation crashed; this is a defect in Duet or in a decoder: please report it")]
pub struct Crashed;

/// Sets the pool's size before its first use; 0 is one thread for each core. Without effect afterwards.
pub fn configure(threads: usize) {
    POOL.get_or_init(|| build(threads));
}

fn build(threads: usize) -> Option<ThreadPool> {
    // Deep enough for decoders; nesting is capped before they see a file.
    let builder = ThreadPoolBuilder::new().num_threads(threads).stack_size(8 << 20);
    builder.thread_name(|i| format!("compute-{i}")).build().ok()
}

/// Runs `work` on the compute pool and waits for it without blocking the runtime.
///
/// # Errors
///
/// [`Crashed`] where the work panicked; the pool lives on.
pub async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Crashed> {
    let meter = METER.try_with(Meter::clone).unwrap_or_default();
    let (sender, receiver) = oneshot::channel();
    let job = move || {
        let start = ThreadTime::now();
        let result = catch_unwind(AssertUnwindSafe(work)).map_err(|_| Crashed);
        meter.add(start.elapsed());
        // The asker may have gone away; then nobody wants the result.
        let _unwanted = sender.send(result);
    };
    match POOL.get_or_init(|| build(0)) {
        Some(pool) => pool.spawn(job),
        // No threads could be started: the blocking pool of the runtime does the work.
        None => drop(tokio::task::spawn_blocking(job)),
    }
    receiver.await.unwrap_or(Err(Crashed))
}

/// Counts CPU time that another process spent for the task that calls, as this process's pool is counted.
pub fn spent_elsewhere(time: Duration) {
    // Outside of a stage nobody counts.
    let _uncounted = METER.try_with(|meter| meter.add(time));
}

/// Runs `work` on every item, as many at once as the pool has threads; results in order.
pub async fn map<I, T>(
    items: Vec<I>,
    work: impl Fn(I) -> T + Send + Sync + 'static,
) -> Vec<Result<T, Crashed>>
where
    I: Send + 'static,
    T: Send + 'static,
{
    let work = Arc::new(work);
    let jobs = items.into_iter().map(|item| {
        let work = Arc::clone(&work);
        run(move || work(item))
    });
    futures::future::join_all(jobs).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_order_and_survives_a_panic() {
        let results = map(vec![1, 2, 3], |n| if n == 2 { panic!("two") } else { n * 10 }).await;
        assert_eq!(results, [Ok(10), Err(Crashed), Ok(30)]);
    }

    #[tokio::test]
    async fn cpu_time_of_the_work_is_counted() {
        let meter = Meter::default();
        let sum = meter.measure(run(|| (0..5_000_000_u64).map(std::hint::black_box).sum::<u64>()));
        assert!(sum.await.is_ok());
        assert!(meter.total() > Duration::ZERO);

        let (before, child) = (meter.total(), Duration::from_millis(40));
        meter.measure(async { spent_elsewhere(child) }).await;
        assert_eq!(meter.total(), before + child);
        spent_elsewhere(child);
        assert_eq!(meter.total(), before + child);
    }
}
