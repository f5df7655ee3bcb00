//! The review page: what came in, how far it is, what was found and why; live, in a browser.
//!
//! Stands at the end of the flow and reads all of it through [`duet_stage::CaseIndex`]. The page is a few hand-written
//! files in this binary: no framework, no build step, and nothing that is fetched from elsewhere, so that it works
//! in a network without the internet.
//!
//! Deliberately absent: any route that changes something, and names: the page has none to show.

mod assets;
mod events;
mod thumbnails;

use std::sync::Arc;

use axum::{
    Router,
    extract::Path,
    response::{IntoResponse, Response},
    routing::get,
};
use duet_blob::BlobStore;
use duet_case::CaseId;
use duet_stage::{
    CaseIndex,
    web::{CaseReader, Problem, ProblemKind, Route, case_routes, router_of},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::thumbnails::Thumbnails;

/// Its name in metrics and logs.
pub const NAME: &str = "review";

/// `[review]` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Long side of a thumbnail in pixels.
    pub thumbnail_px: u32,
    /// Bytes of thumbnails kept.
    pub thumbnail_cache_bytes: usize,
    /// Pages that may be open at the same time, each with its stream of events.
    pub max_streams: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { thumbnail_px: 176, thumbnail_cache_bytes: 32 << 20, max_streams: 128 }
    }
}

/// A configuration of the page that cannot work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("review.{key} is {value}, but {rule}")]
pub struct ConfigError {
    key: &'static str,
    value: usize,
    rule: &'static str,
}

impl Config {
    /// # Errors
    ///
    /// Names the first key whose value cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(16..=1024).contains(&self.thumbnail_px) {
            let rule = "it must be from 16 to 1024";
            return Err(ConfigError {
                key: "thumbnail_px",
                value: self.thumbnail_px as usize,
                rule,
            });
        }
        if !(1..=10_000).contains(&self.max_streams) {
            let rule = "it must be from 1 to 10000";
            return Err(ConfigError { key: "max_streams", value: self.max_streams, rule });
        }
        Ok(())
    }
}

/// What the page works with.
#[derive(Clone)]
pub struct Review {
    reader: CaseReader,
    thumbnails: Arc<Thumbnails>,
    streams: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Review {
    /// A page on what `index` and `blobs` hold. Its streams of events end on `shutdown`: a server that waits for open
    /// connections would wait for them otherwise.
    ///
    /// # Errors
    ///
    /// Names the first key of `config` whose value cannot work.
    pub fn new(
        config: &Config,
        index: CaseIndex,
        blobs: BlobStore,
        shutdown: CancellationToken,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            reader: CaseReader { index, blobs },
            thumbnails: Arc::new(Thumbnails::new(config)),
            streams: Arc::new(Semaphore::new(config.max_streams)),
            shutdown,
        })
    }
}

/// The page's routes: `/`, `/cases/{id}` and, under `/review`, all that they need. No fallback, so that it can be
/// merged with others.
pub fn router(review: Review) -> Router {
    let mut routes = case_routes("/review/cases", &review.reader);
    let small = review.clone();
    routes.extend([
        Route::new("/", get(|| async { assets::page() })),
        // Which case it is the page finds out itself.
        Route::new("/cases/{id}", get(|| async { assets::page() })),
        Route::new("/review/assets/{name}", get(assets::serve)),
        Route::new("/review/events", get(move || async move { events::serve(&review) })),
        Route::new(
            "/review/thumbnails/{name}",
            get(
                move |Path(name): Path<String>| async move { serve_thumbnail(&small, &name).await },
            ),
        ),
    ]);
    router_of(NAME, routes)
}

async fn serve_thumbnail(review: &Review, name: &str) -> Result<Response, Problem> {
    let id = name.strip_suffix(".png").and_then(CaseId::parse);
    let entry = id.and_then(|id| review.reader.index.get(&id));
    let entry = entry.ok_or_else(|| Problem::new(ProblemKind::UnknownCase))?;
    let rendition = entry.summary.rendition.as_ref();
    let rendition = rendition.ok_or_else(|| Problem::new(ProblemKind::NoSuchPicture))?;
    Ok(review.thumbnails.of(&review.reader, rendition).await?.into_response())
}
