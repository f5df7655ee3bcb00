//! One request and one body, with caps: what came over the wire, and not yet what it says.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use reqwest::{
    Client, RequestBuilder, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER},
};

use super::{ApiKey, FailureKind, ServedFailure, config::Endpoint};

/// Larger than any answer, logprobs included.
const MAX_BODY: usize = 1 << 20;
/// To open a connection, where the deadline is longer.
const CONNECT: Duration = Duration::from_secs(5);

/// Why there is no HTTP client.
#[derive(Debug, thiserror::Error)]
#[error(
    "no HTTP client for triage.backend.url: {0}; https needs this machine's list of certificate authorities (Debian's package ca-certificates)"
)]
pub struct ClientError(#[source] reqwest::Error);

pub(super) struct Exchange {
    pub(super) endpoint: Endpoint,
    client: Client,
    key: Option<ApiKey>,
}

/// A body with its status, for the probe.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
}

impl Exchange {
    pub(super) fn new(
        endpoint: Endpoint,
        key: Option<ApiKey>,
        deadline: Duration,
    ) -> Result<Self, ClientError> {
        // Every TLS client of the process shares this provider; a second installation is the same one.
        let _already = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT.min(deadline))
            .user_agent(concat!("duet/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(ClientError)?;
        Ok(Self { endpoint, client, key })
    }

    /// The body of the answer to `question`, where its status is 200.
    pub(super) async fn chat(&self, question: Bytes) -> Result<Vec<u8>, ServedFailure> {
        let mut response = self.send(self.post(question)).await?;
        let status = response.status();
        if status == StatusCode::OK {
            return body(&mut response).await;
        }
        Err(refused(status, retry_after(&response)))
    }

    /// The same with whatever status and body, for a drawn picture: such a body may be shown.
    pub(super) async fn try_chat(&self, question: Bytes) -> Result<Reply, ServedFailure> {
        self.reply(self.post(question)).await
    }

    pub(super) async fn get(&self, address: String) -> Result<Reply, ServedFailure> {
        self.reply(self.client.get(address)).await
    }

    /// `text` as it may be shown: one line, without the key, and not long.
    pub(super) fn excerpt(&self, text: &str) -> String {
        let text = match &self.key {
            Some(key) => key.withheld_from(text),
            None => text.to_owned(),
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        words.join(" ").chars().filter(|letter| !letter.is_control()).take(240).collect()
    }

    pub(super) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    fn post(&self, question: Bytes) -> RequestBuilder {
        let address = self.endpoint.below("chat/completions");
        self.client.post(address).header(CONTENT_TYPE, "application/json").body(question)
    }

    async fn reply(&self, request: RequestBuilder) -> Result<Reply, ServedFailure> {
        let mut response = self.send(request).await?;
        Ok(Reply { status: response.status(), body: body(&mut response).await? })
    }

    async fn send(&self, mut request: RequestBuilder) -> Result<Response, ServedFailure> {
        if let Some(bearer) = self.key.as_ref().and_then(ApiKey::bearer) {
            request = request.header(AUTHORIZATION, bearer);
        }
        request.send().await.map_err(|error| {
            if error.is_connect() {
                let why = format!("no connection to the server: {}", cause(&error));
                return ServedFailure::new(FailureKind::Unreachable, why);
            }
            broken(&error)
        })
    }
}

async fn body(response: &mut Response) -> Result<Vec<u8>, ServedFailure> {
    let oversized = || {
        let kib = MAX_BODY >> 10;
        ServedFailure::new(FailureKind::Oversized, format!("an answer of more than {kib} KiB"))
    };
    if response.content_length().is_some_and(|length| length > MAX_BODY as u64) {
        return Err(oversized());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error))? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(oversized());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn broken(error: &reqwest::Error) -> ServedFailure {
    let why = format!("the connection broke off: {}", cause(error));
    ServedFailure::new(FailureKind::Broken, why)
}

/// What was at the bottom of it, without the address.
fn cause(error: &reqwest::Error) -> String {
    let mut inner: &dyn Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

fn refused(status: StatusCode, retry_after: Option<Duration>) -> ServedFailure {
    let kind = kind_of(status);
    let what = match kind {
        FailureKind::Unauthorised => "the server refuses the key",
        FailureKind::RateLimited => "the server takes no more requests for now",
        FailureKind::ServerError => "the server failed",
        _ => "the server refuses the request",
    };
    let mut failure = ServedFailure::new(kind, format!("{what}: status {}", status.as_u16()));
    failure.retry_after = retry_after;
    failure
}

pub(super) fn kind_of(status: StatusCode) -> FailureKind {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FailureKind::Unauthorised,
        StatusCode::TOO_MANY_REQUESTS => FailureKind::RateLimited,
        status if status.is_server_error() => FailureKind::ServerError,
        _ => FailureKind::Status,
    }
}

/// In seconds; a date is left alone.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
