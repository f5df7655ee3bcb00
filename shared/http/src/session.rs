//! How a request shows its token: in `Authorization`, or, from the page, in a cookie.
//!
//! A browser cannot be told to send a header with a picture or a stream of events. So the page sends its token once,
//! to [`PATH`], and is given it back in a cookie that no script can read and no other site can have sent. The cookie
//! counts for reading alone. Nothing is remembered here: every replica knows the cookie.

use std::fmt;

use axum::{
    Extension, Router,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::{AppendHeaders, IntoResponse, Response},
    routing::post,
};
use duet_stage::web::{Route, router_of};

/// POST signs in, DELETE signs out.
pub(crate) const PATH: &str = "/review/session";
/// Seconds that a browser keeps the cookie: a working day.
const KEPT: u32 = 12 * 3600;

/// A token as it was shown.
#[derive(Clone)]
pub(crate) struct Presented(Vec<u8>);

impl Presented {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Presented(withheld)")
    }
}

/// Takes the token out of the request, with every header that may hold one.
pub(crate) fn take_presented(request: &mut Request, is_secure: bool) -> Option<Presented> {
    let is_safe = request.method().is_safe();
    let headers = request.headers_mut();
    let authorization = headers.remove(header::AUTHORIZATION);
    let bearer = authorization.as_ref().and_then(of_bearer);
    let named = cookie_name(is_secure);
    let cookie =
        || headers.get_all(header::COOKIE).into_iter().find_map(|all| of_cookie(all, named));
    let shown = bearer.or_else(|| is_safe.then(cookie).flatten());
    headers.remove(header::COOKIE);
    shown
}

fn of_bearer(value: &HeaderValue) -> Option<Presented> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Presented(token.trim().as_bytes().to_vec()))
}

fn of_cookie(all: &HeaderValue, named: &str) -> Option<Presented> {
    let pairs = all.to_str().ok()?.split(';').filter_map(|pair| pair.trim().split_once('='));
    let token = pairs.filter(|(name, _)| *name == named).map(|(_, token)| token).next()?;
    Some(Presented(token.as_bytes().to_vec()))
}

/// With `__Host-` a browser takes it from this very host alone, and over TLS alone.
fn cookie_name(is_secure: bool) -> &'static str {
    if is_secure { "__Host-duet" } else { "duet" }
}

fn cookie(token: &str, seconds: u32, is_secure: bool) -> Option<HeaderValue> {
    let secure = if is_secure { "; Secure" } else { "" };
    let name = cookie_name(is_secure);
    let text =
        format!("{name}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The way in and out.
pub(crate) fn router(is_secure: bool) -> Router {
    let sign_in = post(move |presented: Option<Extension<Presented>>| async move {
        // Without any token configured there is nothing to sign in with, and nothing to keep.
        let token = presented.and_then(|Extension(one)| String::from_utf8(one.0).ok());
        answer(token.and_then(|token| cookie(&token, KEPT, is_secure)))
    });
    let both = sign_in.delete(move || async move { answer(cookie("", 0, is_secure)) });
    router_of("http", vec![Route::new(PATH, both)])
}

fn answer(cookie: Option<HeaderValue>) -> Response {
    let cookie = cookie.map(|cookie| (header::SET_COOKIE, cookie));
    (StatusCode::NO_CONTENT, AppendHeaders(cookie)).into_response()
}
