//! The page's own files, in this binary.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use duet_case::Digest;
use duet_stage::web::{Problem, ProblemKind};

const PAGE: &str = include_str!("../page/index.html");
/// Everything from this origin, nothing inline: a finding's label that holds markup stays text even if the page
/// should forget to treat it as such.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

struct Asset {
    name: &'static str,
    media_type: &'static str,
    text: &'static str,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

macro_rules! assets {
    ($($name:literal: $media_type:expr),* $(,)?) => {
        &[$(Asset {
            name: $name,
            media_type: $media_type,
            text: include_str!(concat!("../page/", $name)),
        }),*]
    };
}

const ASSETS: &[Asset] = assets! {
    "app.js": SCRIPT,
    "case.js": SCRIPT,
    "dom.js": SCRIPT,
    "findings.js": SCRIPT,
    "help.js": SCRIPT,
    "ledger.js": SCRIPT,
    "list.js": SCRIPT,
    "live.js": SCRIPT,
    "sign-in.js": SCRIPT,
    "viewer.js": SCRIPT,
    "words.js": SCRIPT,
    "page.css": STYLE,
    "case.css": STYLE,
    "icon.svg": "image/svg+xml",
};

/// One tag for all of them: they change together, with the binary.
static TAG: LazyLock<String> = LazyLock::new(|| {
    let parts: Vec<&[u8]> = ASSETS.iter().map(|asset| asset.text.as_bytes()).collect();
    format!("\"{}\"", Digest::of_parts(&parts))
});

pub(crate) fn page() -> Response {
    let headers: [(HeaderName, &str); 3] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, PAGE).into_response()
}

pub(crate) async fn serve(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        return Problem::new(ProblemKind::NoSuchPath).into_response();
    };
    let own: [(HeaderName, &str); 3] = [
        (header::CONTENT_TYPE, asset.media_type),
        (header::CACHE_CONTROL, "no-cache"),
        (header::ETAG, &TAG),
    ];
    if headers.get(header::IF_NONE_MATCH).map(HeaderValue::as_bytes) == Some(TAG.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, own).into_response();
    }
    (own, asset.text).into_response()
}
