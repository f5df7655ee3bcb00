//! What the web applications share: problem details, the read-only case routes, and what every answer carries.
//!
//! The gateway and the review page are ordinary axum applications; each may run alone or beside the other in one
//! process. What both serve stands here, so that no service imports another.
//!
//! Deliberately absent: listening and who may ask (`duet-http`), and any route that changes something.

mod cases;
mod problem;

use std::convert::Infallible;

use axum::{
    Router,
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::{Next, from_fn},
    response::Response,
    routing::MethodRouter,
};
use duet_telemetry::metrics;

pub use cases::{CaseReader, case_routes, picture_headers};
pub use problem::{Problem, ProblemKind};

/// One path and what it does. A table of these makes a router, and a description of the service is held against it.
pub struct Route {
    /// The path, with `{parameters}`.
    pub path: String,
    /// The methods it answers.
    pub methods: MethodRouter<(), Infallible>,
}

impl Route {
    /// A row of the table.
    pub fn new(path: impl Into<String>, methods: MethodRouter<(), Infallible>) -> Self {
        Self { path: path.into(), methods }
    }
}

/// A router of `routes` whose answers are counted as `service`'s, carry the security headers, and refuse a wrong
/// method with a problem. It has no fallback, so that several can be merged; see [`not_found`].
pub fn router_of(service: &'static str, routes: Vec<Route>) -> Router {
    let add = |router: Router, route: Route| router.route(&route.path, route.methods);
    routes
        .into_iter()
        .fold(Router::new(), add)
        .method_not_allowed_fallback(|| async { Problem::new(ProblemKind::MethodNotAllowed) })
        .route_layer(from_fn(move |request, next| finish(service, request, next)))
}

/// The answer for a path that nothing serves: `app.fallback(duet_stage::web::not_found)`, once a process.
pub async fn not_found() -> Problem {
    Problem::new(ProblemKind::NoSuchPath)
}

/// Counts the answer under its route's template (never the path itself, which has no bound), and adds the headers.
async fn finish(service: &'static str, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    let route = route.as_ref().map_or("unknown", MatchedPath::as_str);
    let status = response.status();
    metrics().http_requests.with_label_values(&[service, route, status.as_str()]).inc();
    harden(response.headers_mut());
    response
}

/// Adds the headers that every answer carries, where it has none of its own.
pub fn harden(headers: &mut HeaderMap) {
    let nothing = "default-src 'none'; frame-ancestors 'none'";
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, nothing),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // No other site may show a film as its own picture.
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}
