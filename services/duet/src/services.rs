//! The services, one row each. Adding one is adding a row.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use axum::Router;
use duet_inference::{Kind, Manifest, Served};
use duet_triage::{Generalist, Triage};
use futures::future::{BoxFuture, FutureExt as _};

use crate::{
    cli, places,
    process::{self, Host},
};

/// Whether a service loads a model.
pub(crate) type Needs = fn(&Manifest) -> bool;

/// Everything that `duet run` can run.
pub(crate) struct Service {
    pub(crate) name: &'static str,
    /// Its port on 127.0.0.1 where nothing else is configured.
    pub(crate) port: u16,
    /// The models that it loads.
    pub(crate) needs: Needs,
    pub(crate) part: Part,
}

/// What a service is made of.
pub(crate) enum Part {
    /// Runs between topics until shutdown.
    Stage(fn(Host) -> BoxFuture<'static, Result<()>>),
    /// Answers over HTTP.
    Web(fn(Host) -> BoxFuture<'static, Result<Router>>),
}

fn no_model(_: &Manifest) -> bool {
    false
}

/// In the order of flow.
pub(crate) const SERVICES: [Service; 6] = [
    Service {
        name: duet_gateway::NAME,
        port: 8080,
        needs: no_model,
        part: Part::Web(|host| gateway(host).boxed()),
    },
    Service {
        name: "prepare",
        port: 9101,
        needs: no_model,
        part: Part::Stage(|host| prepare(host).boxed()),
    },
    Service {
        name: "triage",
        port: 9102,
        needs: |manifest| matches!(manifest.kind, Kind::VisionLanguage(_)),
        part: Part::Stage(|host| triage(host).boxed()),
    },
    Service {
        name: "specialist",
        port: 9103,
        needs: |manifest| !matches!(manifest.kind, Kind::VisionLanguage(_)),
        part: Part::Stage(|host| specialist(host).boxed()),
    },
    Service {
        name: "publish",
        port: 9104,
        needs: no_model,
        part: Part::Stage(|host| publish(host).boxed()),
    },
    Service {
        name: duet_review::NAME,
        port: 8081,
        needs: no_model,
        part: Part::Web(|host| review(host).boxed()),
    },
];

/// The word for every service at once.
pub(crate) const ALL: &str = "all";
/// The port of a process that runs all of them.
const ALL_PORT: u16 = 8080;

/// What `duet run` takes.
pub(crate) fn parser() -> clap::builder::PossibleValuesParser {
    std::iter::once(ALL)
        .chain(SERVICES.iter().map(|service| service.name))
        .collect::<Vec<_>>()
        .into()
}

/// The services of that name, and the port that they share.
pub(crate) fn named(name: &str) -> (Vec<&'static Service>, u16) {
    let chosen: Vec<_> =
        SERVICES.iter().filter(|service| name == ALL || service.name == name).collect();
    let port = match chosen.as_slice() {
        [one] => one.port,
        _ => ALL_PORT,
    };
    (chosen, port)
}

async fn gateway(host: Host) -> Result<Router> {
    let config = host.settings().gateway.clone();
    let sink = host.broker.sink().await?;
    let gateway = duet_gateway::Gateway::new(config, sink, host.index().await, host.blobs.clone())?;
    Ok(duet_gateway::router(gateway))
}

async fn review(host: Host) -> Result<Router> {
    let config = &host.settings().review;
    let review = duet_review::Review::new(
        config,
        host.index().await,
        host.blobs.clone(),
        host.shutdown.clone(),
    )?;
    Ok(duet_review::router(review))
}

async fn prepare(host: Host) -> Result<()> {
    let path = places::pseudonym_key(&host.config)?;
    let key = duet_prepare::PseudonymKey::load_or_create(&path).context("prepare cannot start")?;
    let config = host.settings().prepare.clone();
    let decoder = duet_prepare::DecoderPool::start(
        duet_prepare::Launch::this_program(&[cli::DECODE_WORKER]),
        config.decoder.clone(),
        config.limits.clone(),
        host.health.item("decoder", "starting"),
        host.shutdown.clone(),
    );
    let sealer = duet_seal::Sealer::load_or_create(&places::sealing_keys(&host.config)?)
        .context("prepare cannot start (prepare.sealing_key_file)")?;
    let stage = duet_prepare::Prepare::new(config, host.blobs.clone(), key)
        .with_sealer(sealer)
        .with_decoder(decoder);
    let retention = Duration::from_secs(host.settings().kafka.guarded_retention_hours * 3600);
    let inbox = host.blobs.inbox();
    tokio::spawn(duet_prepare::keep_inbox(inbox, retention, host.shutdown.clone()));
    host.run(stage).await
}

async fn triage(host: Host) -> Result<()> {
    const FAILS: &str = "triage cannot start";
    let config = host.settings().triage.clone();
    let key = places::backend_key(&host.config)?;
    let stage = match Served::open(&config.backend, key).context(FAILS)? {
        Some(served) => {
            let served = Arc::new(served);
            let health = host.health.item(process::BACKEND, "starting");
            let generalist = Generalist::Served(Arc::clone(&served));
            let stage = Triage::new(config, generalist, host.blobs.clone()).context(FAILS)?;
            duet_triage::stand_by(&served, health, &host.shutdown).await;
            stage.tell();
            stage
        }
        None => {
            let models = host.models().await?;
            Triage::open(config, &models, host.blobs.clone()).context(FAILS)?
        }
    };
    host.run(stage).await
}

async fn specialist(host: Host) -> Result<()> {
    let models = host.models().await?;
    let config = &host.settings().specialist;
    let stage = duet_specialist::Specialist::open(config, &models, host.blobs.clone())
        .context("specialist cannot start")?;
    host.run(stage).await
}

async fn publish(host: Host) -> Result<()> {
    let (keys, is_named) = places::opening_keys(&host.config)?;
    let stage = duet_publish::Publish::new(host.blobs.clone())
        .with_sealing_keys(&keys, is_named, host.health.item("sealing keys", "starting"))
        .context("publish cannot start (publish.sealing_key_file)")?;
    host.run(stage).await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_service_has_a_name_and_a_port_of_its_own() {
        let names: BTreeSet<_> = SERVICES.iter().map(|service| service.name).collect();
        let ports: BTreeSet<_> = SERVICES.iter().map(|service| service.port).collect();
        assert_eq!((names.len(), ports.len()), (SERVICES.len(), SERVICES.len()));
        assert!(!names.contains(ALL));
        assert_eq!(named(ALL).0.len(), SERVICES.len());
    }
}
