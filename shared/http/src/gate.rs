//! What every request passes before a route sees it, and before any of its body is read.
//!
//! In this order: is the name known, is it this site's own page or no page at all, has the client shown a certificate
//! where one is asked for, whose token is it, does it come too often, may it do this. Whatever path is not named in
//! [`need_of`] needs `read`: a route that is added is guarded without anybody thinking of it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use axum_server::tls::TlsInfo;
use chrono::{DateTime, Utc};
use duet_stage::web::{Problem, ProblemKind, harden};
use duet_telemetry::metrics;
use futures::StreamExt as _;
use tracing::{Instrument as _, debug, info_span, warn};

use crate::{
    Config, Permission,
    limits::{Client, Limits},
    session,
    sites::{self, Hosts},
    tokens::{NotAdmitted, Token, Tokens},
};

/// What a path asks of whoever asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing: Prometheus and the cluster's probes.
    Nothing,
    /// No token: the page's own files, which hold nothing of anybody, and the way in and out.
    NoToken,
    /// Some token.
    AnyToken,
    /// A token that may do this.
    Token(Permission),
}

fn need_of(method: &Method, path: &str) -> Need {
    let is_page = |path: &str| {
        path == "/" || path.starts_with("/cases/") || path.starts_with("/review/assets/")
    };
    match path {
        "/metrics" | "/healthz" | "/readyz" if method.is_safe() => Need::Nothing,
        path if method.is_safe() && is_page(path) => Need::NoToken,
        session::PATH if method == Method::DELETE => Need::NoToken,
        "/v1/openapi.json" => Need::AnyToken,
        "/v1/images" => Need::Token(Permission::Send),
        _ => Need::Token(Permission::Read),
    }
}

/// The gate of one process.
pub(crate) struct Gate {
    tokens: Tokens,
    limits: Limits,
    hosts: Hosts,
    needs_certificate: bool,
    behind_proxy: bool,
    is_secure: bool,
}

/// A request that is not let through: the answer, and the reason under which it is counted.
struct Refusal {
    reason: &'static str,
    problem: Problem,
    challenge: Option<String>,
}

/// Whose request it is, where it showed a token.
struct Admitted {
    token: String,
    expires: Option<DateTime<Utc>>,
}

impl Gate {
    /// The gate of a configuration that has been validated, for a listener at `address`.
    pub(crate) fn new(config: &Config, address: SocketAddr) -> Self {
        let tokens = Tokens::new(&config.tokens);
        let needs_certificate = config.tls_client_ca_file.is_some();
        let is_protected = !tokens.is_empty() || needs_certificate || config.behind_proxy;
        let is_open = is_local(address) && !is_protected;
        Self {
            hosts: Hosts::new(&config.hosts, is_open),
            limits: Limits::new(config),
            needs_certificate,
            behind_proxy: config.behind_proxy,
            is_secure: config.tls_cert_file.is_some() || config.behind_proxy,
            tokens,
        }
    }

    /// Says which tokens no longer let anybody in.
    pub(crate) fn tell_expired(&self) {
        let now = Utc::now();
        let expired =
            self.tokens.iter().filter(|token| token.expires.is_some_and(|end| end <= now));
        for token in expired {
            warn!(token = token.name, "this token has expired: remove it from http.tokens");
        }
    }

    /// Whether a cookie may be kept from unencrypted connections.
    pub(crate) fn is_secure(&self) -> bool {
        self.is_secure
    }

    fn admit(&self, request: &mut Request) -> Result<Option<Admitted>, Refusal> {
        let need = need_of(request.method(), request.uri().path());
        if need == Need::Nothing {
            return Ok(None);
        }
        if !self.hosts.know(request.uri(), request.headers()) {
            return Err(Refusal::new("host", ProblemKind::UnknownHost));
        }
        if !sites::is_own(request.method(), request.headers()) {
            return Err(Refusal::new("site", ProblemKind::ForeignSite));
        }
        let shown = request.extensions().get::<Arc<TlsInfo>>();
        if self.needs_certificate && shown.is_none_or(|tls| tls.peer_certificates.is_empty()) {
            return Err(Refusal::new("certificate", ProblemKind::NoCertificate));
        }
        let client = Client::at(self.address_of(request));
        // Nothing behind the gate has a use for it.
        let presented = session::take_presented(request, self.is_secure);
        if need == Need::NoToken || self.tokens.is_empty() {
            self.limits.request(client).map_err(|wait| Refusal::too_many("rate", wait))?;
            return Ok(None);
        }
        let Some(presented) = presented else {
            self.limits.request(client).map_err(|wait| Refusal::too_many("rate", wait))?;
            debug!("refused: no token");
            return Err(Refusal::no_token("missing_token", None));
        };
        let (number, token) = self
            .tokens
            .find(presented.bytes(), Utc::now())
            .map_err(|why| self.refuse_token(&why, client))?;
        self.limits
            .request(Client::Token(number))
            .map_err(|wait| Refusal::too_many("rate", wait))?;
        if let Need::Token(permission) = need
            && !token.may(permission)
        {
            debug!(token = token.name, permission = permission.name(), "refused: not permitted");
            return Err(Refusal::not_permitted(token, permission));
        }
        metrics().http_tokens.with_label_values(&[&token.name]).inc();
        let admitted = Admitted { token: token.name.clone(), expires: token.expires };
        if request.uri().path() == session::PATH {
            request.extensions_mut().insert(presented);
        }
        Ok(Some(admitted))
    }

    /// One line in the log for each wrong token, as long as they do not come too often.
    fn refuse_token(&self, why: &NotAdmitted, client: Client) -> Refusal {
        if let Err(wait) = self.limits.failure(client) {
            return Refusal::too_many("failures", wait);
        }
        match why {
            NotAdmitted::Wrong => {
                warn!(?client, "refused: a token that is none of http.tokens");
                Refusal::no_token("wrong_token", Some("The token is none that is known here."))
            }
            NotAdmitted::Expired(token) => {
                warn!(?client, token, "refused: the token has expired");
                Refusal::no_token("expired_token", Some("The token has expired."))
            }
        }
    }

    /// The client's address: the connection's, or the one that the proxy in front saw.
    fn address_of(&self, request: &Request) -> IpAddr {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(IpAddr::from([0, 0, 0, 0]), |ConnectInfo(peer)| peer.ip());
        let forwarded = || last_forwarded(request.headers());
        self.behind_proxy.then(forwarded).flatten().unwrap_or(peer)
    }
}

/// Whether only this machine can reach `address`.
pub(crate) fn is_local(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// The last of `X-Forwarded-For`, which the nearest proxy added; those before it anybody may have written.
fn last_forwarded(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all("x-forwarded-for").into_iter().next_back()?;
    last.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
}

impl Refusal {
    fn new(reason: &'static str, kind: ProblemKind) -> Self {
        Self { reason, problem: Problem::new(kind), challenge: None }
    }

    fn too_many(reason: &'static str, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let problem = Problem::new(ProblemKind::TooManyRequests).retry_after(seconds.max(1));
        Self { reason, problem, challenge: None }
    }

    /// RFC 6750, section 3: without a token no error code, with one `invalid_token`.
    fn no_token(reason: &'static str, detail: Option<&str>) -> Self {
        let kind = ProblemKind::NoToken;
        let Some(detail) = detail else {
            let challenge = Some("Bearer realm=\"duet\"".to_owned());
            return Self { reason, problem: Problem::new(kind), challenge };
        };
        let problem = Problem::with_detail(
            kind,
            format!("{detail} `duet tokens new` makes one, whose entry goes into http.tokens."),
        );
        let challenge = Some("Bearer realm=\"duet\", error=\"invalid_token\"".to_owned());
        Self { reason, problem, challenge }
    }

    fn not_permitted(token: &Token, permission: Permission) -> Self {
        let (name, permission) = (&token.name, permission.name());
        let detail = format!(
            "The token {name:?} may not {permission}: add {permission:?} to its permissions in http.tokens, or use another."
        );
        let challenge =
            format!("Bearer realm=\"duet\", error=\"insufficient_scope\", scope=\"{permission}\"");
        Self {
            reason: "permission",
            problem: Problem::with_detail(ProblemKind::NotPermitted, detail),
            challenge: Some(challenge),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        metrics().http_refused.with_label_values(&[self.reason]).inc();
        let mut response = self.problem.into_response();
        let challenge = self.challenge.and_then(|text| HeaderValue::from_str(&text).ok());
        if let Some(challenge) = challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        harden(response.headers_mut());
        response
    }
}

/// The gate as a layer around the whole application.
pub(crate) async fn guard(
    State(gate): State<Arc<Gate>>,
    mut request: Request,
    next: Next,
) -> Response {
    match gate.admit(&mut request) {
        Err(refusal) => refusal.into_response(),
        Ok(None) => next.run(request).await,
        Ok(Some(Admitted { token, expires })) => {
            let span = info_span!("request", token);
            let response = next.run(request).instrument(span).await;
            match expires {
                Some(end) => end_stream_at(end, response),
                None => response,
            }
        }
    }
}

/// A stream of events goes on for as long as the page is open: no longer than its token lets in.
fn end_stream_at(end: DateTime<Utc>, response: Response) -> Response {
    let media_type = response.headers().get(header::CONTENT_TYPE);
    if media_type.is_none_or(|media_type| media_type != "text/event-stream") {
        return response;
    }
    let left = (end - Utc::now()).to_std().unwrap_or_default();
    let end = Box::pin(tokio::time::sleep(left));
    response.map(|body| Body::from_stream(body.into_data_stream().take_until(end)))
}

#[cfg(test)]
mod tests;
