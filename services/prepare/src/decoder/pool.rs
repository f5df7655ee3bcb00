//! The pool of child processes.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use duet_imaging::{Limits, Prepared, prepare};
use duet_stage::{Reason, Setback, compute};
use duet_telemetry::{HealthItem, metrics};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    Decoder, DecoderConfig,
    answer::hear,
    death::Cause,
    process::Process,
    wire::{Answer, Order, Told},
};

pub use super::process::Launch;

/// A child process that has not taken its order by then will not.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Between two attempts to start a child process, at first and at most.
const START_PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];

/// Before a child process is replaced whose two predecessors ended on their files, at first and at most: files that end
/// every process must not keep the machine busy with starting more.
const DEATH_PAUSE: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(500)];

/// The deadline is counted in steps of this, so that the time in which this process itself was stopped is no file's.
const STEP: Duration = Duration::from_millis(250);

/// Decodes in child processes, one file at a time in each. Those that end are replaced.
pub struct DecoderPool {
    launch: Launch,
    config: DecoderConfig,
    order: Order,
    health: HealthItem,
    /// Processes that cannot be started at the moment.
    failing: AtomicU32,
    shutdown: CancellationToken,
    free: Semaphore,
    slots: Mutex<Vec<Slot>>,
}

/// The place of one child process.
#[derive(Default)]
struct Slot {
    process: Option<Process>,
    /// Processes in a row that ended on their file.
    deaths: u32,
}

/// A slot in use. It goes back when this is dropped, without its process unless that was put back.
struct Lease<'a> {
    pool: &'a DecoderPool,
    slot: Slot,
    _free: SemaphorePermit<'a>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let slot = std::mem::take(&mut self.slot);
        self.pool.slots.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
    }
}

impl DecoderPool {
    /// A pool whose processes are started by `launch`. Until they are, and whenever one cannot be, `health` says so and files
    /// wait. After `shutdown`, files that wait for a process are given back.
    pub fn start(
        launch: Launch,
        config: DecoderConfig,
        limits: Limits,
        health: HealthItem,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let count = config.count();
        let order = Order {
            limits,
            memory_bytes: config.memory_mib.saturating_mul(1 << 20),
            cpu_seconds: config.time_limit_ms.div_ceil(1000),
        };
        health.not_ready("starting the processes that decode");
        let slots = (0..count).map(|_| Slot::default()).collect();
        let pool = Arc::new(Self {
            launch,
            config,
            order,
            health,
            failing: AtomicU32::new(0),
            shutdown,
            free: Semaphore::new(count),
            slots: Mutex::new(slots),
        });
        // From nought, so that the first is an increase.
        for reason in ["memory", "timeout", "crashed", "killed", "idle", "start"] {
            metrics().decoder_restarts.with_label_values(&[reason]).inc_by(0);
        }
        for _ in 0..count {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move {
                // Where it is given back, shutdown came first.
                let _started = async {
                    let mut lease = pool.lease().await?;
                    let process = pool.process(&mut lease.slot).await?;
                    lease.slot.process = Some(process);
                    Ok::<_, Setback>(())
                }
                .await;
            });
        }
        pool
    }

    async fn lease(&self) -> Result<Lease<'_>, Setback> {
        // The semaphore is never closed, and has as many permits as there are slots.
        let free = self.free.acquire().await.map_err(|_| stopping())?;
        let slot = self.slots.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Ok(Lease { pool: self, slot: slot.unwrap_or_default(), _free: free })
    }

    /// The slot's process, or a new one in its place.
    async fn process(&self, slot: &mut Slot) -> Result<Process, Setback> {
        if let Some(mut process) = slot.process.take() {
            if process.is_running() {
                return Ok(process);
            }
            restarted("idle");
        }
        if slot.deaths > 1 {
            self.pause(DEATH_PAUSE, slot.deaths - 1).await?;
        }
        for attempt in 1.. {
            match self.try_start().await {
                Ok(process) => {
                    if attempt > 1 {
                        self.failing.fetch_sub(1, Ordering::Relaxed);
                    }
                    if self.failing.load(Ordering::Relaxed) == 0 {
                        self.health.ready();
                    }
                    return Ok(process);
                }
                Err(error) => {
                    if attempt == 1 {
                        self.failing.fetch_add(1, Ordering::Relaxed);
                    }
                    self.complain(&error, attempt);
                    restarted("start");
                }
            }
            if let Err(stopping) = self.pause(START_PAUSE, attempt).await {
                self.failing.fetch_sub(1, Ordering::Relaxed);
                return Err(stopping);
            }
        }
        Err(stopping())
    }

    async fn try_start(&self) -> io::Result<Process> {
        let launch = self.launch.clone();
        let mut process = spawn_blocking(move || Process::spawn(&launch)).await??;
        match timeout(START_LIMIT, process.begin(&self.order)).await {
            Ok(Ok(())) => Ok(process),
            Ok(Err(error)) => {
                let end = spawn_blocking(move || process.end()).await?;
                let status =
                    end.status.map_or_else(|error| error.to_string(), |own| own.to_string());
                Err(io::Error::other(format!("it ended at once, {status}: {error}")))
            }
            Err(_) => Err(io::Error::other("it did not answer in time")),
        }
    }

    fn complain(&self, error: &io::Error, attempt: u32) {
        let what = format!(
            "the processes that decode cannot be started from {}: {error}. It has to be a program that may be run, and the limits on processes (ulimit -u, a container's pids) and memory have to allow {} of {} MiB (prepare.decoder.workers, prepare.decoder.memory_mib). Files wait meanwhile",
            self.launch.program.display(),
            self.config.count(),
            self.config.memory_mib,
        );
        self.health.not_ready(&what);
        // One line, not one for every attempt.
        if attempt == 1 {
            warn!("{what}");
        }
    }

    /// Doubles with every round, and ends early at shutdown.
    async fn pause(&self, [first, most]: [Duration; 2], round: u32) -> Result<(), Setback> {
        let doubled = first.saturating_mul(1_u32.checked_shl(round - 1).unwrap_or(u32::MAX));
        tokio::select! {
            () = self.shutdown.cancelled() => Err(stopping()),
            () = sleep(doubled.min(most)) => Ok(()),
        }
    }

    /// Ends a process that gave no answer, and says what that means for its file.
    async fn died(&self, process: Process, known: Option<Cause>) -> Setback {
        let Ok(end) = spawn_blocking(move || process.end()).await else { return stopping() };
        compute::spent_elsewhere(end.cpu);
        let cause = Cause::of(&end, known);
        restarted(cause.label());
        cause.setback(&self.config)
    }
}

#[async_trait]
impl Decoder for DecoderPool {
    async fn decode(&self, file: Bytes) -> Result<Prepared, Setback> {
        if file.len() as u64 > self.order.limits.max_bytes {
            // Refused for its length, before anything else is looked at.
            let refused = prepare(&file, &self.order.limits);
            return refused.map_err(|error| Setback::Reject(Reason::of(error.class(), &error)));
        }
        let mut lease = self.lease().await?;
        let mut process = self.process(&mut lease.slot).await?;
        let limit = Duration::from_millis(self.config.time_limit_ms);
        let answered = within(limit, process.decode(&file)).await;
        let known = match answered {
            Some(Ok((Answer { cpu_nanos, told }, picture))) => {
                compute::spent_elsewhere(Duration::from_nanos(cpu_nanos));
                let heard = match told {
                    Told::OutOfMemory => Some(Err(Cause::Memory.setback(&self.config))),
                    told => hear(told, picture),
                };
                if let Some(heard) = heard {
                    lease.slot = Slot { process: Some(process), deaths: 0 };
                    return heard;
                }
                Some(Cause::Crash(None))
            }
            Some(Err(nonsense)) if nonsense.kind() == io::ErrorKind::InvalidData => {
                Some(Cause::Crash(None))
            }
            Some(Err(_)) => None,
            None => Some(Cause::Time),
        };
        lease.slot.deaths = lease.slot.deaths.saturating_add(1);
        Err(self.died(process, known).await)
    }
}

fn restarted(reason: &str) {
    metrics().decoder_restarts.with_label_values(&[reason]).inc();
}

fn stopping() -> Setback {
    let message =
        "this process is stopping and has none that decodes: the file is handed out again";
    Setback::Retry(Reason::new("decoder_unavailable", message))
}

/// Waits for `work`, but not longer than `limit` of the time in which this process runs.
async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let mut left = limit;
    while !left.is_zero() {
        let step = left.min(STEP);
        if let Ok(done) = timeout(step, &mut work).await {
            return Some(done);
        }
        left -= step;
    }
    None
}
