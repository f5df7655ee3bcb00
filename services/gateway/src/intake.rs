//! Taking images in: one raw body, or the files of a multipart form.

use std::time::Duration;

use axum::{
    Json,
    body::Body,
    extract::{FromRequest, Multipart, Request, multipart::Field},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use duet_case::CaseId;
use duet_stage::{
    compute, image_record,
    web::{Problem, ProblemKind},
};
use duet_telemetry::metrics;
use duet_transport::TransportError;
use futures::{Stream, StreamExt};
use serde::Serialize;
use tracing::{info, warn};

use crate::{Gateway, NAME};

/// Media types of a raw body. What the bytes are is found out from themselves; the type only says that they are
/// meant to be an image.
const RAW: [&str; 4] = ["application/octet-stream", "application/dicom", "image/png", "image/jpeg"];
/// Space made for a body before it is there.
const FIRST_PIECE: usize = 64 << 10;

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
    let cap = gateway.config.max_body_bytes;
    let length = request.headers().get(header::CONTENT_LENGTH);
    let announced = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > cap as u64) {
        return Err(too_large(cap));
    }
    let bytes = read(Body::into_data_stream(request.into_body()), cap).await?;
    if bytes.is_empty() {
        return Err(Problem::new(ProblemKind::EmptyBody));
    }
    let accepted = Accepted::new(send(gateway, bytes).await?);
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
            let bytes = read(field, gateway.config.max_body_bytes).await?;
            if bytes.is_empty() {
                let detail = format!("File {} of the form is empty.", accepted.len() + 1);
                return Err(Problem::with_detail(ProblemKind::EmptyBody, detail));
            }
            send(gateway, bytes).await.map(Some)
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

fn too_large(cap: usize) -> Problem {
    let detail = format!(
        "A file may have {cap} bytes here. Send a smaller one, or raise gateway.max_body_bytes and the topic's max.message.bytes."
    );
    Problem::with_detail(ProblemKind::BodyTooLarge, detail)
}

/// Reads a stream of at most `cap` bytes and holds no more than has arrived.
async fn read<E>(
    stream: impl Stream<Item = Result<Bytes, E>>,
    cap: usize,
) -> Result<Bytes, Problem> {
    let mut stream = std::pin::pin!(stream);
    let mut all = BytesMut::with_capacity(FIRST_PIECE.min(cap));
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|_| {
            let detail = "The body broke off before its end. Send it again; sending the same file twice is harmless.";
            Problem::with_detail(ProblemKind::BadRequest, detail)
        })?;
        if piece.len() > cap - all.len() {
            return Err(too_large(cap));
        }
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

/// Sends one file into `images` and returns once the broker has it for good.
async fn send(gateway: &Gateway, bytes: Bytes) -> Result<CaseId, Problem> {
    let size = bytes.len();
    let made = compute::run(move || image_record(bytes, NAME)).await;
    let (id, record) = made.map_err(|_| Problem::new(ProblemKind::Internal))?;
    let deadline = Duration::from_millis(gateway.config.send_timeout_ms);
    let sent = tokio::time::timeout(deadline, gateway.sink.send(record)).await;
    match sent {
        Ok(Ok(_)) => {
            gateway.reader.index.received(&id);
            metrics().records.with_label_values(&[NAME, "emitted"]).inc();
            info!(case = %id, bytes = size, "accepted");
            Ok(id)
        }
        Ok(Err(error)) => {
            warn!(case = %id, bytes = size, %error, "not accepted");
            let class = if matches!(error, TransportError::TooLarge { .. }) {
                "too_large"
            } else {
                "transport"
            };
            metrics().failures.with_label_values(&[NAME, class]).inc();
            Err(match error {
                TransportError::TooLarge { .. } => Problem::with_detail(
                    ProblemKind::BodyTooLarge,
                    format!(
                        "The broker takes no record of {size} bytes. Raise the topic's max.message.bytes, or send a smaller file."
                    ),
                ),
                _ => unavailable(gateway),
            })
        }
        Err(_) => {
            warn!(case = %id, bytes = size, "not accepted: the broker did not answer in time");
            metrics().failures.with_label_values(&[NAME, "timeout"]).inc();
            Err(unavailable(gateway))
        }
    }
}

fn unavailable(gateway: &Gateway) -> Problem {
    let seconds = gateway.config.retry_after_seconds;
    let detail = format!(
        "The broker did not take the image. Send it again in {seconds} s; sending the same file twice is harmless. The service's log and /readyz say why."
    );
    Problem::with_detail(ProblemKind::Unavailable, detail).retry_after(seconds)
}
