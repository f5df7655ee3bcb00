//! One process: some services, one broker, one blob store, one listener, until a signal or a failure.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use axum::Router;
use duet_blob::BlobStore;
use duet_http::{Exposure, Front};
use duet_inference::Registry;
use duet_stage::{CaseIndex, Stage};
use duet_telemetry::{Health, ops_router};
use duet_transport::{Broker, KafkaBroker, MemoryBroker};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::OnceCell,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    Usage,
    config::{Config, Settings},
    places,
    services::{self, Needs, Part, Service},
};

/// After a signal, what was taken up has this long to be finished.
const DRAIN: Duration = Duration::from_secs(30);

/// What says how a served generalist is. Images are flagged where it does not answer, so nothing waits for it.
pub(crate) const BACKEND: &str = "served generalist";

/// What the services of one process share. Clones share it.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) config: Arc<Config>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) blobs: BlobStore,
    pub(crate) health: Health,
    pub(crate) shutdown: CancellationToken,
    needs: Arc<[Needs]>,
    models: Arc<OnceCell<Registry>>,
    index: Arc<OnceCell<CaseIndex>>,
}

impl Host {
    pub(crate) fn settings(&self) -> &Settings {
        &self.config.settings
    }

    /// The models that this process's services need, loaded once.
    pub(crate) async fn models(&self) -> Result<Registry> {
        let load = || async {
            let health = self.health.item("models", "loading");
            let dir = places::models(&self.config)?;
            let needs = Arc::clone(&self.needs);
            let loaded = tokio::task::spawn_blocking(move || {
                Registry::load_where(&dir, |manifest| needs.iter().any(|needs| needs(manifest)))
            });
            let models = loaded.await.context("loading the models crashed; please report it")??;
            health.ready();
            for model in models.list() {
                info!(
                    model = model.manifest.name,
                    version = model.manifest.version,
                    ms = model.inference.as_millis() as u64,
                    "model loaded"
                );
            }
            anyhow::Ok(models)
        };
        self.models.get_or_try_init(load).await.cloned()
    }

    /// What is known of recent cases, followed once a process.
    pub(crate) async fn index(&self) -> CaseIndex {
        let follow = || async {
            let index = CaseIndex::new(self.settings().index.clone());
            let health = self.health.item("index", "starting");
            tokio::spawn(index.clone().run(
                Arc::clone(&self.broker),
                health,
                self.shutdown.clone(),
            ));
            index
        };
        self.index.get_or_init(follow).await.clone()
    }

    /// Runs `stage` in its consumer group until shutdown.
    pub(crate) async fn run<S: Stage>(&self, stage: S) -> Result<()> {
        let health = self.health.item(S::NAME, "joining its group");
        let group = group_of(&self.settings().kafka.topic_prefix, S::NAME);
        let exchange = self.broker.exchange(&group, S::INPUTS).await?;
        let runner = &self.settings().runner;
        Ok(duet_stage::run(stage, exchange, runner, health, self.shutdown.clone()).await?)
    }
}

/// `duet-prepare` for the topics `duet.…`.
pub(crate) fn group_of(prefix: &str, stage: &str) -> String {
    match prefix.trim_end_matches('.') {
        "" => format!("duet-{stage}"),
        prefix => format!("{prefix}-{stage}"),
    }
}

/// A running process.
pub(crate) struct Process {
    pub(crate) host: Host,
    /// Where it listens: `http://127.0.0.1:8080`.
    pub(crate) address: String,
    tasks: JoinSet<Result<()>>,
}

/// A bound address, and what stands between it and the routes.
pub(crate) struct Listener {
    tcp: TcpListener,
    front: Front,
}

impl Process {
    /// Binds the listener and starts `services` on `broker`.
    pub(crate) async fn start(
        config: Config,
        services: &[&'static Service],
        listener: Listener,
        broker: Arc<dyn Broker>,
        blobs: BlobStore,
    ) -> Result<Self> {
        let host = Host {
            config: Arc::new(config),
            broker,
            blobs,
            health: Health::default(),
            shutdown: CancellationToken::new(),
            needs: services.iter().map(|service| service.needs).collect(),
            models: Arc::default(),
            index: Arc::default(),
        };
        let mut tasks = JoinSet::new();
        let mut app = Router::new();
        // Not ready before every stage has taken its place.
        for service in services {
            match service.part {
                Part::Stage(run) => {
                    host.health.item(service.name, "starting").not_ready("starting");
                    tasks.spawn(run(host.clone()));
                }
                Part::Web(router) => app = app.merge(router(host.clone()).await?),
            }
        }
        let app = app.merge(ops_router(host.health.clone())).fallback(duet_stage::web::not_found);
        let Listener { tcp, front } = listener;
        let address = tcp.local_addr().context("the listener has no address")?;
        let address = format!("{}://{address}", front.scheme());
        let stop = host.shutdown.clone();
        tasks.spawn(
            async move { front.serve(tcp, app, stop).await.context("the HTTP server stopped") },
        );
        Ok(Self { host, address, tasks })
    }

    /// Until a signal, or until a part ends by itself, which is a failure.
    pub(crate) async fn wait(mut self, mut stop: Signals) -> Result<()> {
        let ended = tokio::select! {
            () = stop.next() => None,
            ended = self.tasks.join_next() => ended,
        };
        info!("stopping: finishing what was taken up");
        self.host.shutdown.cancel();
        let first = match ended {
            None => Ok(()),
            Some(ended) => flat(ended)
                .and_then(|()| Err(anyhow!("a service ended by itself; please report it"))),
        };
        let drained = async {
            let mut failed = Ok(());
            while let Some(ended) = self.tasks.join_next().await {
                failed = failed.and(flat(ended));
            }
            failed
        };
        tokio::select! {
            drained = drained => first.and(drained),
            () = stop.next() => first.and(Err(anyhow!("stopped at once by a second signal; what was not committed is handed out again"))),
            () = tokio::time::sleep(DRAIN) => first.and(Err(anyhow!("not everything was finished within {} s; what was not committed is handed out again", DRAIN.as_secs()))),
        }
    }

    /// Stops in an orderly way.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.host.shutdown.cancel();
        let mut failed = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            failed = failed.and(flat(ended));
        }
        failed
    }

    /// Waits until every part of this process is in order; fails as soon as one has failed.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        while self.host.health.missing().keys().any(|item| item != BACKEND) {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
                ended = self.tasks.join_next() => self.failure(ended)?,
            }
        }
        Ok(())
    }

    /// Runs `work`; fails as soon as a part of the process has failed.
    pub(crate) async fn during<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let ended = tokio::select! {
            done = work => return done,
            ended = self.tasks.join_next() => ended,
        };
        self.failure(ended)?;
        bail!("a service ended by itself; please report it")
    }

    fn failure(&self, ended: Option<Result<Result<()>, tokio::task::JoinError>>) -> Result<()> {
        ended.map_or(Ok(()), flat)
    }
}

fn flat(ended: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    ended.map_err(|_| anyhow!("a service crashed; please report it"))?
}

/// SIGTERM and SIGINT.
pub(crate) struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be listened to");
        Ok(Self { term: listen(SignalKind::terminate())?, int: listen(SignalKind::interrupt())? })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// Binds the configured address, or `port` on 127.0.0.1, for `services`.
pub(crate) async fn listen(
    config: &Config,
    port: u16,
    services: &[&'static Service],
) -> Result<Listener> {
    let address = config.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], port)));
    let is_web = services.iter().any(|service| matches!(service.part, Part::Web(_)));
    let exposure = if is_web { Exposure::Cases } else { Exposure::Probes };
    let front = Front::open(&config.settings.http, address, exposure)
        .map_err(|error| Usage(error.to_string()))?;
    let tcp = TcpListener::bind(address).await.map_err(|error| {
        let hint = if error.kind() == std::io::ErrorKind::AddrInUse {
            "another program has it: end that, or choose another port, for instance --listen 127.0.0.1:0"
        } else {
            "choose another address by --listen, http.listen or DUET_HTTP_LISTEN"
        };
        anyhow!("cannot listen on {address} ({error}): {hint}")
    })?;
    Ok(Listener { tcp, front })
}

/// `duet run`.
pub(crate) async fn run(name: &str, config: Config) -> Result<()> {
    let (chosen, port) = services::named(name);
    if name != services::ALL && !config.names_kafka() {
        bail!(Usage(format!(
            "a single service needs a broker that the others reach too: duet run {name} --kafka HOST:PORT (kafka.bootstrap, DUET_KAFKA); `duet run all` needs none"
        )));
    }
    // From the first moment on: whoever is told to stop before it has started is in order too.
    let mut stop = Signals::new()?;
    let process = tokio::select! {
        process = open(&chosen, port, config) => process?,
        () = stop.next() => {
            info!("told to stop before everything was started");
            return Ok(());
        }
    };
    info!(service = name, address = %process.address, "listening");
    process.wait(stop).await
}

async fn open(chosen: &[&'static Service], port: u16, config: Config) -> Result<Process> {
    let listener = listen(&config, port, chosen).await?;
    let broker: Arc<dyn Broker> = if config.names_kafka() {
        Arc::new(KafkaBroker::connect(&config.settings.kafka).await?)
    } else {
        info!(
            "no broker is configured: the embedded one holds the topics in memory, until this process ends"
        );
        let broker = MemoryBroker::default();
        broker.create_topics().await?;
        Arc::new(broker)
    };
    let blobs = places::blobs(&config)?;
    Process::start(config, chosen, listener, broker, blobs).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named_after_the_prefix() {
        assert_eq!(group_of("duet.", "triage"), "duet-triage");
        assert_eq!(group_of("test-ab.", "triage"), "test-ab-triage");
        assert_eq!(group_of("", "triage"), "duet-triage");
    }
}
