//! Taking images in: one raw body, or the files of a multipart form.

use std::time::Duration;

use axum::{
    Json,
    body::Body,
    extract::{FromRequest, Multipart, Request, multipart::Field},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use duet_blob::InboxError;
use duet_case::CaseId;
use duet_stage::{
    Held, SendError, Sent, TakeError,
    web::{Problem, ProblemKind},
};
use duet_telemetry::metrics;
use futures::Stream;
use serde::Serialize;
use tracing::{info, warn};

use crate::{Gateway, NAME};

/// Media types of a raw body. What the bytes are is found out from themselves; the type only says that they are
/// meant to be an image.
const RAW: [&str; 4] = ["application/octet-stream", "application/dicom", "image/png", "image/jpeg"];

/// One accepted image.
#[derive(Debug, Serialize)]
struct Accepted {
    id: CaseId,
    case: String,
}

impl Accepted {
    fn new(id: CaseId) -> Self {
        Self { case: format!("/v1/cases/{id}"), id }
    }
}

/// `POST /v1/images`.
pub(crate) async fn take_images(gateway: &Gateway, request: Request) -> Result<Response, Problem> {
    let media_type = media_type_of(request.headers())?;
    // Waiting here leaves the body unread: the client's own connection holds it back.
    let _place = gateway.uploads.acquire().await.map_err(|_| unavailable(gateway))?;
    let deadline = Duration::from_millis(gateway.config.body_timeout_ms);
    let taken = tokio::time::timeout(deadline, async {
        if media_type == "multipart/form-data" {
            take_form(gateway, request).await
        } else {
            take_body(gateway, request).await
        }
    });
    let taken = taken.await.unwrap_or_else(|_| Err(Problem::new(ProblemKind::SlowBody)));
    if taken.is_err() {
        metrics().records.with_label_values(&[NAME, "rejected"]).inc();
    }
    taken
}

/// The media type without parameters, lower case, if it is one that is taken.
fn media_type_of(headers: &HeaderMap) -> Result<String, Problem> {
    let unsupported =
        |detail: &str| Err(Problem::with_detail(ProblemKind::UnsupportedMediaType, detail));
    let coding = headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes());
    if coding.is_some_and(|coding| coding != b"identity") {
        return unsupported("A Content-Encoding is not taken: send the file as it is.");
    }
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        // RFC 9110, 8.3: without a type the recipient may look at the bytes themselves.
        return Ok("application/octet-stream".to_owned());
    };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "multipart/form-data" || RAW.contains(&essence.as_str()) {
        return Ok(essence);
    }
    if essence == "application/x-www-form-urlencoded" {
        return unsupported(
            "curl sends a form unless told otherwise: add -H 'Content-Type: application/octet-stream'.",
        );
    }
    Err(Problem::new(ProblemKind::UnsupportedMediaType))
}

async fn take_body(gateway: &Gateway, request: Request) -> Result<Response, Problem> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let announced = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let body = Body::into_data_stream(request.into_body());
    let held = take(gateway, body, announced).await?;
    if held.bytes() == 0 {
        return Err(Problem::new(ProblemKind::EmptyBody));
    }
    let accepted = Accepted::new(send(gateway, held).await?);
    Ok(answer_one(accepted))
}

fn answer_one(accepted: Accepted) -> Response {
    let location = [(header::LOCATION, accepted.case.clone())];
    (StatusCode::ACCEPTED, location, Json(accepted)).into_response()
}

/// One file after the other, so that never more than one is in memory. Where one cannot be taken, those before it
/// are under way already: the problem names them.
async fn take_form(gateway: &Gateway, request: Request) -> Result<Response, Problem> {
    let form = Multipart::from_request(request, &()).await;
    let mut form = form.map_err(|_| bad_form("it has no boundary parameter"))?;
    let mut accepted = Vec::new();
    loop {
        let taken = async {
            let Some(field) = next_file(&mut form, accepted.len(), gateway).await? else {
                return Ok(None);
            };
            let held = take(gateway, field, None).await?;
            if held.bytes() == 0 {
                let detail = format!("File {} of the form is empty.", accepted.len() + 1);
                return Err(Problem::with_detail(ProblemKind::EmptyBody, detail));
            }
            send(gateway, held).await.map(Some)
        };
        match taken.await {
            Ok(Some(id)) => accepted.push(Accepted::new(id)),
            Ok(None) => break,
            Err(problem) => {
                let ids = accepted.into_iter().map(|one| one.id.to_string()).collect();
                return Err(problem.accepted(ids));
            }
        }
    }
    match accepted.len() {
        0 => Err(Problem::with_detail(
            ProblemKind::EmptyBody,
            "The form holds no file: send each image as a part with a file name, as curl -F file=@scan.dcm does.",
        )),
        1 => Ok(accepted
            .pop()
            .map_or_else(|| Problem::new(ProblemKind::Internal).into_response(), answer_one)),
        _ => Ok((StatusCode::ACCEPTED, Json(accepted)).into_response()),
    }
}

async fn next_file<'a>(
    form: &'a mut Multipart,
    before: usize,
    gateway: &Gateway,
) -> Result<Option<Field<'a>>, Problem> {
    let next = form.next_field().await;
    let Some(field) = next.map_err(|_| bad_form("it breaks off or is not well formed"))? else {
        return Ok(None);
    };
    // A part without a file name is a form's ordinary field.
    if field.file_name().is_none() {
        let detail = format!("Part {} of the form is not a file: give it a file name.", before + 1);
        return Err(Problem::with_detail(ProblemKind::BadRequest, detail));
    }
    if before >= gateway.config.max_files {
        let detail = format!(
            "More than {} files in one request: send the others in further requests.",
            gateway.config.max_files
        );
        return Err(Problem::with_detail(ProblemKind::BodyTooLarge, detail));
    }
    Ok(Some(field))
}

fn bad_form(what: &str) -> Problem {
    let detail = format!("The multipart form cannot be read: {what}.");
    Problem::with_detail(ProblemKind::BadRequest, detail)
}

fn too_large(cap: u64) -> Problem {
    let detail = format!(
        "A file may have {cap} bytes here. Send a smaller one, or raise gateway.max_body_bytes and prepare.limits.max_bytes."
    );
    Problem::with_detail(ProblemKind::BodyTooLarge, detail)
}

/// Takes one file in, of `announced` bytes where that is known, and holds no more of it than a record may have.
async fn take<E: std::error::Error + 'static>(
    gateway: &Gateway,
    stream: impl Stream<Item = Result<Bytes, E>>,
    announced: Option<u64>,
) -> Result<Held, Problem> {
    let cap = gateway.config.max_body_bytes;
    gateway.intake.take(stream, announced, cap).await.map_err(|error| match error {
        TakeError::TooLarge { limit } => too_large(limit),
        TakeError::Broken(_) => {
            let detail = "The body broke off before its end. Send it again; sending the same file twice is harmless.";
            Problem::with_detail(ProblemKind::BadRequest, detail)
        }
        TakeError::Inbox(error) => store_failed(gateway, &error),
    })
}

/// Sends one file into `images` and returns once the broker has it for good.
async fn send(gateway: &Gateway, held: Held) -> Result<CaseId, Problem> {
    let bytes = held.bytes();
    let deadline = Duration::from_millis(gateway.config.send_timeout_ms);
    let error = match tokio::time::timeout(deadline, gateway.intake.send(held)).await {
        Ok(Ok(Sent { id, bytes, by_reference })) => {
            gateway.reader.index.received(&id);
            metrics().records.with_label_values(&[NAME, "emitted"]).inc();
            info!(case = %id, bytes, by_reference, "accepted");
            return Ok(id);
        }
        Ok(Err(error)) => error,
        Err(_) => {
            warn!(bytes, "not accepted: the broker did not answer in time");
            metrics().failures.with_label_values(&[NAME, "timeout"]).inc();
            return Err(unavailable(gateway));
        }
    };
    match error {
        SendError::Inbox(error) => Err(store_failed(gateway, &error)),
        SendError::Crashed(_) => Err(Problem::new(ProblemKind::Internal)),
        SendError::Transport(error) => {
            warn!(bytes, %error, "not accepted");
            metrics().failures.with_label_values(&[NAME, "transport"]).inc();
            Err(unavailable(gateway))
        }
    }
}

fn store_failed(gateway: &Gateway, error: &InboxError) -> Problem {
    warn!(%error, "not accepted: too large for a record, and the blob store does not take it");
    metrics().failures.with_label_values(&[NAME, "blob_store"]).inc();
    let seconds = gateway.config.retry_after_seconds;
    let detail = format!(
        "The file is too large for a record, and the blob store did not take it. Send it again in {seconds} s; sending the same file twice is harmless. The service's log says why."
    );
    Problem::with_detail(ProblemKind::Unavailable, detail).retry_after(seconds)
}

fn unavailable(gateway: &Gateway) -> Problem {
    let seconds = gateway.config.retry_after_seconds;
    let detail = format!(
        "The broker did not take the image. Send it again in {seconds} s; sending the same file twice is harmless. The service's log and /readyz say why."
    );
    Problem::with_detail(ProblemKind::Unavailable, detail).retry_after(seconds)
}
