//! RFC 9457 problem details: what went wrong, and what to do.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// The kinds of problem, a closed list: clients may rely on their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// The request cannot be understood.
    BadRequest,
    /// There is nothing in it.
    EmptyBody,
    /// No token, or none that lets in.
    NoToken,
    /// The token may not do this.
    NotPermitted,
    /// No client certificate, where one is asked for.
    NoCertificate,
    /// A page of another site sent this.
    ForeignSite,
    /// No such case, or no longer.
    UnknownCase,
    /// The case has no such picture, or not yet.
    NoSuchPicture,
    /// No such path.
    NoSuchPath,
    /// The path knows other methods.
    MethodNotAllowed,
    /// The body did not arrive in time.
    SlowBody,
    /// The body is larger than allowed.
    BodyTooLarge,
    /// The media type is none that is taken.
    UnsupportedMediaType,
    /// The name by which the client calls this server is none of its names.
    UnknownHost,
    /// The client asks too often.
    TooManyRequests,
    /// Something that the service needs is away for the moment.
    Unavailable,
    /// A defect of the service.
    Internal,
}

impl ProblemKind {
    /// Every kind.
    pub const ALL: [Self; 17] = [
        Self::BadRequest,
        Self::EmptyBody,
        Self::NoToken,
        Self::NotPermitted,
        Self::NoCertificate,
        Self::ForeignSite,
        Self::UnknownCase,
        Self::NoSuchPicture,
        Self::NoSuchPath,
        Self::MethodNotAllowed,
        Self::SlowBody,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::UnknownHost,
        Self::TooManyRequests,
        Self::Unavailable,
        Self::Internal,
    ];

    /// Its HTTP status, its name in the `type` URN, its title, and what to do where nothing closer is said.
    const fn parts(self) -> (StatusCode, &'static str, &'static str, &'static str) {
        match self {
            Self::BadRequest => (
                StatusCode::BAD_REQUEST,
                "bad-request",
                "The request cannot be understood",
                "See /v1/openapi.json for what this path takes.",
            ),
            Self::EmptyBody => (
                StatusCode::BAD_REQUEST,
                "empty-body",
                "The body is empty",
                "Send the bytes of a DICOM, PNG or JPEG file as the request's body.",
            ),
            Self::NoToken => (
                StatusCode::UNAUTHORIZED,
                "no-token",
                "A token is needed",
                "Send the header \"Authorization: Bearer TOKEN\". `duet tokens new` makes a token, whose entry goes into http.tokens.",
            ),
            Self::NotPermitted => (
                StatusCode::FORBIDDEN,
                "not-permitted",
                "The token may not do this",
                "Use a token that may, or add the permission to this one in http.tokens.",
            ),
            Self::NoCertificate => (
                StatusCode::FORBIDDEN,
                "no-certificate",
                "A client certificate is needed",
                "Show a certificate that one of the authorities in http.tls_client_ca_file has signed.",
            ),
            Self::ForeignSite => (
                StatusCode::FORBIDDEN,
                "foreign-site",
                "A page of another site sent this",
                "Only Duet's own page and programs that are no browser may change something here.",
            ),
            Self::UnknownCase => (
                StatusCode::NOT_FOUND,
                "unknown-case",
                "No such case",
                "Nothing is known of this case: check its id, send the image again, or look in the topic duet.reports for cases that are older than what is held here.",
            ),
            Self::NoSuchPicture => (
                StatusCode::NOT_FOUND,
                "no-such-picture",
                "No such picture",
                "The case has no such picture, or not yet: ask for the case to see how far it has come.",
            ),
            Self::NoSuchPath => (
                StatusCode::NOT_FOUND,
                "no-such-path",
                "No such path",
                "See /v1/openapi.json for the paths of the API; the page is at /.",
            ),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "This path knows other methods",
                "The Allow header names the methods; see /v1/openapi.json.",
            ),
            Self::SlowBody => (
                StatusCode::REQUEST_TIMEOUT,
                "slow-body",
                "The body did not arrive in time",
                "Send it again; sending the same file twice is harmless.",
            ),
            Self::BodyTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                "The file is too large",
                "Send a smaller file, or raise gateway.max_body_bytes.",
            ),
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "This media type is not taken",
                "Send application/octet-stream, application/dicom, image/png, image/jpeg or multipart/form-data.",
            ),
            Self::UnknownHost => (
                StatusCode::MISDIRECTED_REQUEST,
                "unknown-host",
                "This server has no such name",
                "Call it by an address of this machine or by localhost, or add the name to http.hosts.",
            ),
            Self::TooManyRequests => (
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-requests",
                "Too many requests",
                "Try again after the seconds that Retry-After names, and then less often: http.requests_per_second and http.burst say how often.",
            ),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "Not available at the moment",
                "Try again after the seconds that Retry-After names.",
            ),
            Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "A defect of this service",
                "Please report it; the service's log says more.",
            ),
        }
    }

    /// Its HTTP status.
    pub const fn status(self) -> StatusCode {
        self.parts().0
    }

    /// Its title.
    pub const fn title(self) -> &'static str {
        self.parts().2
    }
}

/// One problem, as `application/problem+json`.
#[derive(Debug, Clone)]
pub struct Problem {
    kind: ProblemKind,
    detail: String,
    retry_after: Option<u64>,
    accepted: Vec<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    accepted: &'a [String],
}

impl Problem {
    /// A problem of that kind, with what to do.
    pub fn new(kind: ProblemKind) -> Self {
        Self::with_detail(kind, kind.parts().3)
    }

    /// A problem of that kind, with `detail` on this occurrence: what was wrong and what to do.
    pub fn with_detail(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), retry_after: None, accepted: Vec::new() }
    }

    /// Adds Retry-After.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Adds the ids of what was accepted before the problem came up, as the extension member `accepted`.
    #[must_use]
    pub fn accepted(mut self, ids: Vec<String>) -> Self {
        self.accepted = ids;
        self
    }

    /// Its HTTP status.
    pub fn status(&self) -> StatusCode {
        self.kind.status()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, name, title, _) = self.kind.parts();
        let body = Body {
            r#type: format!("urn:duet:problem:{name}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            accepted: &self.accepted,
        };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, json);
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
