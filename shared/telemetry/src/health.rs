//! `/metrics`, `/healthz` and `/readyz`: the same in every service.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Json, Router, http::StatusCode, http::header, response::IntoResponse, routing::get};
use serde::Serialize;

use crate::metrics;

/// What has to be in order before this process may be sent work. Clones share it.
#[derive(Clone, Default)]
pub struct Health {
    items: Arc<Mutex<BTreeMap<String, Option<String>>>>,
}

/// One thing that has to be in order.
#[derive(Clone)]
pub struct HealthItem {
    health: Health,
    name: String,
}

impl Health {
    /// Adds an item that is not in order yet, for the reason `why`.
    pub fn item(&self, name: &str, why: &str) -> HealthItem {
        let item = HealthItem { health: self.clone(), name: name.to_owned() };
        item.not_ready(why);
        item
    }

    /// The items that are not in order, with the reason of each; empty when ready.
    pub fn missing(&self) -> BTreeMap<String, String> {
        self.lock().iter().filter_map(|(name, why)| Some((name.clone(), why.clone()?))).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Option<String>>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the item changed between in order and not.
    fn set(&self, name: &str, why: Option<&str>) -> bool {
        let mut items = self.lock();
        let before = items.insert(name.to_owned(), why.map(str::to_owned));
        let ready = items.values().all(Option::is_none);
        metrics().ready.set(f64::from(u8::from(ready)));
        before.is_none_or(|before| before.is_none() != why.is_none())
    }
}

impl HealthItem {
    /// Another item, called after this one and what it is about. It is in order until it says otherwise.
    pub fn beside(&self, what: &str) -> Self {
        Self { health: self.health.clone(), name: format!("{} {what}", self.name) }
    }

    /// In order.
    pub fn ready(&self) {
        let _changed = self.set_ready();
    }

    /// In order; `true` where it was not before.
    pub fn set_ready(&self) -> bool {
        self.health.set(&self.name, None)
    }

    /// Not in order, for the reason `why`.
    pub fn not_ready(&self, why: &str) {
        let _changed = self.set_not_ready(why);
    }

    /// Not in order, for the reason `why`; `true` where it was before.
    pub fn set_not_ready(&self, why: &str) -> bool {
        self.health.set(&self.name, Some(why))
    }
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    missing: BTreeMap<String, String>,
}

/// Routes for Prometheus and for Kubernetes' probes.
pub fn ops_router(health: Health) -> Router {
    Router::new()
        .route("/metrics", get(serve_metrics))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(move || serve_readiness(health.clone())))
}

async fn serve_metrics() -> axum::response::Response {
    match metrics().encode() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn serve_readiness(health: Health) -> impl IntoResponse {
    let missing = health.missing();
    let ready = missing.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, missing }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_everything_is_and_says_what_is_missing() {
        let health = Health::default();
        let model = health.item("model", "still loading");
        let kafka = health.item("kafka", "no partitions yet");
        model.ready();
        assert_eq!(health.missing()["kafka"], "no partitions yet");
        kafka.ready();
        assert!(health.missing().is_empty());
        kafka.not_ready("the broker is away");
        assert_eq!(health.missing().len(), 1);
    }
}
