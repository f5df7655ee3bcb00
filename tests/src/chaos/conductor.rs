//! Carries out the schedule on a running deployment, starts again what died, and takes the times.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    feed::Progress,
    schedule::{Fault, Kind},
};
use crate::{Fleet, Kafka, STAGES};

/// Replicas of a stage at most.
const REPLICAS: usize = 3;
/// A service that was told to stop has this long.
const GRACE: Duration = Duration::from_secs(45);
/// A service that was started has this long to be ready.
const START: Duration = Duration::from_secs(120);

/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(30);
/// What ended by itself is started again after this time.
const AGAIN: Duration = Duration::from_secs(1);
/// What a service says that was started while the broker was away.
const NOBODY_THERE: &str = "no Kafka broker answers";

/// A fault that struck.
#[derive(Debug, Clone)]
pub struct Strike {
    /// What was done.
    pub kind: Kind,
    /// To which service, for instance `triage-7`.
    pub target: String,
    /// The longest time within which no image came to an end, from the strike until [`Strike::recovery`].
    pub standstill: Duration,
    /// How long it took until as many images had come to their ends as had been fed when it struck.
    pub recovery: Duration,
}

struct Open {
    strike: Strike,
    at: Instant,
    /// Images fed when it struck.
    fed: usize,
}

/// A replica of a stage and what is being done to it.
struct Replica {
    stage: &'static str,
    number: usize,
    state: State,
}

enum State {
    /// Running, as far as we know.
    Runs,
    /// Stopped by SIGSTOP until then.
    Paused(Instant),
    /// Told to stop; has until then. Whether another is to take its place.
    Draining(Instant, bool),
    /// Dead; another takes its place then.
    Dead(Instant),
}

/// Runs a schedule.
pub(super) struct Conductor {
    pub(super) fleet: Fleet,
    pub(super) kafka: Kafka,
    faults: VecDeque<Fault>,
    replicas: Vec<Replica>,
    /// Images that had ended when the schedule was taken on, and images that it is spread over.
    before: usize,
    images: usize,
    progress: Arc<Progress>,
    open: Vec<Open>,
    pub(super) strikes: Vec<Strike>,
    /// Services that ended by themselves, with their last words.
    pub(super) ended_by_themselves: Vec<String>,
    /// Starts that met no broker.
    pub(super) starts_in_vain: usize,
    last: (usize, Instant),
}

impl Conductor {
    /// For the replicas of stages that `fleet` runs.
    pub(super) fn new(fleet: Fleet, kafka: Kafka, progress: Arc<Progress>) -> Self {
        let replicas = fleet.processes().filter_map(|(number, name, _)| {
            let stage = STAGES.into_iter().find(|stage| name.starts_with(stage))?;
            Some(Replica { stage, number, state: State::Runs })
        });
        Self {
            replicas: replicas.collect(),
            fleet,
            kafka,
            faults: VecDeque::new(),
            before: 0,
            images: 0,
            progress,
            open: Vec::new(),
            strikes: Vec::new(),
            ended_by_themselves: Vec::new(),
            starts_in_vain: 0,
            last: (0, Instant::now()),
        }
    }

    /// Takes on `faults`, to be spread over the `images` that are fed from now on.
    pub(super) fn plan(&mut self, faults: Vec<Fault>, images: usize) {
        self.faults = faults.into();
        self.before = self.progress.ended();
        self.images = images;
    }

    /// Strikes and heals until the schedule is through, and all that were under way have come to their ends. Gives
    /// itself back, however it went.
    pub(super) fn conduct(mut self) -> (Result<()>, Self) {
        let conducted = loop {
            if let Err(error) = self.tick() {
                self.progress.is_over.store(true, Ordering::Release);
                break Err(error);
            }
            let is_through = self.faults.is_empty() && self.open.is_empty();
            let all_ended = self.progress.ended() - self.before >= self.images;
            if self.progress.is_over() || (is_through && all_ended) {
                break Ok(());
            }
            sleep(TICK);
        };
        (conducted, self)
    }

    /// Strikes what is due, heals what is over.
    fn tick(&mut self) -> Result<()> {
        self.take_times();
        self.heal()?;
        let share = (self.progress.ended() - self.before) as f64 / self.images.max(1) as f64;
        while self.faults.front().is_some_and(|fault| fault.at <= share) {
            if let Some(fault) = self.faults.pop_front() {
                self.strike(&fault)?;
                self.progress.faults.fetch_add(1, Ordering::Release);
            }
        }
        self.look_for_the_dead()
    }

    /// Whether nothing is struck and everything runs.
    fn is_calm(&self) -> bool {
        self.replicas.iter().all(|replica| matches!(replica.state, State::Runs))
    }

    /// Waits until everything that was struck is well again and ready.
    pub(super) fn settle(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            self.tick()?;
            let numbers: Vec<usize> = self.fleet.processes().map(|(number, _, _)| number).collect();
            if self.is_calm() && numbers.into_iter().all(|number| self.fleet.is_ready(number)) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the services are not ready again: {}",
                self.unready()
            );
            sleep(Duration::from_millis(100));
        }
    }

    /// Which services are not ready, and what they say of it.
    fn unready(&self) -> String {
        let mut words = Vec::new();
        for (number, name, process) in self.fleet.processes() {
            if !process.is_running() {
                words.push(format!("{name} has ended"));
            } else if let Err(error) = self.fleet.get(number, "/readyz") {
                words.push(format!("{error:#}"));
            }
        }
        words.join("; ")
    }

    fn take_times(&mut self) {
        let (ended, now) = (self.progress.ended(), Instant::now());
        let since = self.last.1;
        if ended != self.last.0 {
            self.last = (ended, now);
        }
        for open in &mut self.open {
            let stood = now - since.max(open.at);
            open.strike.standstill = open.strike.standstill.max(stood);
            open.strike.recovery = now - open.at;
        }
        let over = self.open.extract_if(.., |open| ended >= open.fed);
        self.strikes.extend(over.map(|open| open.strike));
    }

    fn strike(&mut self, fault: &Fault) -> Result<()> {
        let open = |kind, target: String| Open {
            strike: Strike { kind, target, standstill: Duration::ZERO, recovery: Duration::ZERO },
            at: Instant::now(),
            fed: self.progress.fed(),
        };
        if fault.kind.is_brokers() {
            self.open.push(open(fault.kind, "the broker".to_owned()));
            return self.strike_the_broker(fault);
        }
        let of_stage = |replica: &Replica| replica.stage == fault.stage;
        let kind = match (fault.kind, self.replicas.iter().filter(|r| of_stage(r)).count()) {
            (Kind::ScaleUp, REPLICAS..) => Kind::ScaleDown,
            (Kind::ScaleDown, ..=1) => Kind::ScaleUp,
            (kind, _) => kind,
        };
        if kind == Kind::ScaleUp {
            let number = self.fleet.start(fault.stage)?;
            self.replicas.push(Replica { stage: fault.stage, number, state: State::Runs });
            self.open.push(open(kind, format!("{}-{number}", fault.stage)));
            return Ok(());
        }
        let running = |r: &Replica| matches!(r.state, State::Runs);
        let mut runs: Vec<&mut Replica> =
            self.replicas.iter_mut().filter(|r| of_stage(r) && running(r)).collect();
        if runs.is_empty() {
            // Every replica of it is down already: another stage's is taken.
            runs = self.replicas.iter_mut().filter(|r| running(r)).collect();
        }
        let count = runs.len();
        ensure!(count > 0, "no service runs that could be struck");
        let replica = &mut runs[fault.replica % count];
        let process =
            self.fleet.process(replica.number).context("a replica is not in the fleet")?;
        let (now, signal) = (Instant::now(), signal_of(kind));
        if process.signal(signal).is_err() {
            // It ended by itself a moment ago, which is looked into elsewhere.
            return Ok(());
        }
        replica.state = match kind {
            Kind::Pause | Kind::LongPause => State::Paused(now + fault.lasts),
            Kind::Drain => State::Draining(now + GRACE, true),
            Kind::ScaleDown => State::Draining(now + GRACE, false),
            _ => State::Dead(now + fault.lasts),
        };
        let target = format!("{}-{}", replica.stage, replica.number);
        self.open.push(open(kind, target));
        Ok(())
    }

    fn strike_the_broker(&mut self, fault: &Fault) -> Result<()> {
        match fault.kind {
            Kind::BrokerKill => self.kafka.kill()?,
            _ => self.kafka.stop()?,
        }
        sleep(fault.lasts);
        self.kafka.resume().context("the broker does not come back")
    }

    fn heal(&mut self) -> Result<()> {
        let now = Instant::now();
        let mut left = Vec::with_capacity(self.replicas.len());
        for mut replica in std::mem::take(&mut self.replicas) {
            let process =
                self.fleet.process(replica.number).context("a replica is not in the fleet")?;
            match replica.state {
                State::Paused(until) if now >= until => {
                    process.signal("-CONT")?;
                    replica.state = State::Runs;
                }
                State::Draining(_, restart) if !process.is_running() => {
                    let code = self.fleet.take_out(replica.number)?;
                    if code != Some(0) {
                        self.ended_by_themselves.push(format!(
                            "{}-{} was told to stop and ended with {code:?}",
                            replica.stage, replica.number
                        ));
                    }
                    if !restart {
                        continue;
                    }
                    replica.number = self.fleet.start(replica.stage)?;
                    replica.state = State::Runs;
                }
                State::Draining(until, _) if now >= until => bail!(
                    "{}-{} was told to stop and did not within {} s",
                    replica.stage,
                    replica.number,
                    GRACE.as_secs()
                ),
                State::Dead(until) if now >= until => {
                    self.fleet.take_out(replica.number)?;
                    replica.number = self.fleet.start(replica.stage)?;
                    replica.state = State::Runs;
                }
                _ => {}
            }
            left.push(replica);
        }
        self.replicas = left;
        Ok(())
    }

    /// What ended by itself is noted and started again, as an orchestrator does.
    fn look_for_the_dead(&mut self) -> Result<()> {
        for replica in &mut self.replicas {
            if !matches!(replica.state, State::Runs) {
                continue;
            }
            let process =
                self.fleet.process(replica.number).context("a replica is not in the fleet")?;
            if process.is_running() {
                continue;
            }
            let output = process.output();
            if output.contains(NOBODY_THERE) {
                self.starts_in_vain += 1;
            } else {
                let last = output.lines().last().unwrap_or("it said nothing");
                let name = format!("{}-{}", replica.stage, replica.number);
                self.ended_by_themselves.push(format!("{name} ended by itself: {last}"));
            }
            replica.state = State::Dead(Instant::now() + AGAIN);
        }
        Ok(())
    }
}

fn signal_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Pause | Kind::LongPause => "-STOP",
        Kind::Drain | Kind::ScaleDown => "-TERM",
        _ => "-KILL",
    }
}
