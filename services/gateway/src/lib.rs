//! The gateway: images in over HTTP, and what became of them.
//!
//! Stands before `images`: it sends every accepted file there and answers once the broker has it for good. What it
//! tells of cases it reads from the topics, through [`duet_stage::CaseIndex`].
//!
//! Deliberately absent: looking into files (that is `prepare`'s, in a guarded process), storage, and names: a file's
//! name goes no further than this process's memory and into no log, since it may name a patient.

mod config;
mod intake;
mod openapi;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::DefaultBodyLimit,
    routing::{get, post},
};
use duet_blob::BlobStore;
use duet_stage::{
    CaseIndex, Intake,
    web::{CaseReader, Route, case_routes, router_of},
};
use duet_transport::Sink;
use tokio::sync::Semaphore;

pub use config::{Config, ConfigError};

/// Its name in metrics, logs and `ce_source`.
pub const NAME: &str = "gateway";

/// What the gateway works with.
#[derive(Clone)]
pub struct Gateway {
    config: Arc<Config>,
    intake: Intake,
    reader: CaseReader,
    uploads: Arc<Semaphore>,
}

impl Gateway {
    /// A gateway that sends through `sink`, and what is too large for a record through the inbox of `blobs`, and tells what
    /// `index` and `blobs` hold.
    ///
    /// # Errors
    ///
    /// Names the first key of `config` whose value cannot work.
    pub fn new(
        config: Config,
        sink: Arc<dyn Sink>,
        index: CaseIndex,
        blobs: BlobStore,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let uploads = Arc::new(Semaphore::new(config.max_uploads));
        let intake = Intake::new(sink, blobs.inbox(), NAME);
        Ok(Self { config: Arc::new(config), intake, reader: CaseReader { index, blobs }, uploads })
    }
}

/// The gateway's routes, all under `/v1`. No fallback, so that it can be merged with others.
pub fn router(gateway: Gateway) -> Router {
    router_of(NAME, routes(gateway))
}

/// Every route: [`openapi::document`] describes these and no others, by test.
fn routes(gateway: Gateway) -> Vec<Route> {
    let document = Arc::new(openapi::document(&gateway.config));
    let mut routes = case_routes("/v1/cases", &gateway.reader);
    let take = move |request| async move { intake::take_images(&gateway, request).await };
    // The cap is the gateway's own, file by file.
    routes.push(Route::new("/v1/images", post(take).layer(DefaultBodyLimit::disable())));
    routes.push(Route::new(
        "/v1/openapi.json",
        get(move || async move { Json((*document).clone()) }),
    ));
    routes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use duet_stage::IndexConfig;
    use duet_transport::MemoryBroker;

    use super::*;

    #[test]
    fn every_route_that_is_served_is_described_and_no_other() {
        let index = CaseIndex::new(IndexConfig::default());
        let sink = Arc::new(MemoryBroker::default());
        let gateway = Gateway::new(Config::default(), sink, index, BlobStore::memory()).unwrap();
        let document = openapi::document(&gateway.config);
        let described = document["paths"].as_object().unwrap().keys().cloned();
        let served = routes(gateway).into_iter().map(|route| route.path);
        assert_eq!(described.collect::<BTreeSet<_>>(), served.collect());
    }

    #[test]
    fn a_configuration_that_cannot_work_is_refused_by_name() {
        let config = Config { max_files: 0, ..Config::default() };
        let message = config.validate().unwrap_err().to_string();
        assert!(message.contains("gateway.max_files is 0"), "{message}");
    }
}
