//! The read-only routes of cases: the gateway serves them under `/v1/cases`, the page under `/review/cases`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRequestParts, Path, Query, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use duet_blob::{BlobError, BlobStore};
use duet_case::{BlobRef, Case, CaseId};
use serde::{Deserialize, Serialize, Serializer};
use tracing::warn;

use super::{Problem, ProblemKind, Route};
use crate::{CaseEntry, CaseIndex, CaseState, Counts, DeadLetter, Show, Summary};

/// A picture larger than this is none of ours.
const LARGEST_PICTURE: u64 = 64 << 20;
const LISTED_BY_DEFAULT: usize = 100;
const LISTED_AT_MOST: usize = 2000;
/// For URLs that name the content (`?v=`): the answer can never change.
const FOREVER: &str = "private, max-age=31536000, immutable";
/// For the others: keep it, and ask whether it is still the one.
const ASK: &str = "private, no-cache";

/// What the routes read from.
#[derive(Clone)]
pub struct CaseReader {
    /// What is known of cases.
    pub index: CaseIndex,
    /// Their pictures.
    pub blobs: BlobStore,
}

/// The read-only routes, under `prefix`: the list, a case, its pictures and its findings' heat maps.
pub fn case_routes(prefix: &str, reader: &CaseReader) -> Vec<Route> {
    let shared = || reader.clone();
    let (list, one, annotated, rendition, heat) =
        (shared(), shared(), shared(), shared(), shared());
    vec![
        Route::new(prefix, get(move |query| async move { list_cases(&list, query) })),
        Route::new(
            format!("{prefix}/{{id}}"),
            get(move |KnownId(id)| async move { show_case(&one, &id).await }),
        ),
        Route::new(
            format!("{prefix}/{{id}}/annotated.png"),
            get(move |KnownId(id), wanted: Wanted| async move {
                annotated.picture(&id, &wanted, annotated_of).await
            }),
        ),
        Route::new(
            format!("{prefix}/{{id}}/rendition.png"),
            get(move |KnownId(id), wanted: Wanted| async move {
                rendition.picture(&id, &wanted, rendition_of).await
            }),
        ),
        Route::new(
            format!("{prefix}/{{id}}/heat/{{n}}"),
            get(move |KnownHeat(id, n), wanted: Wanted| async move {
                heat.picture(&id, &wanted, |case| heat_of(case, n)).await
            }),
        ),
    ]
}

fn annotated_of(case: &Case) -> Option<&BlobRef> {
    case.publication.as_ref()?.annotated.as_ref()
}

fn rendition_of(case: &Case) -> Option<&BlobRef> {
    Some(&case.rendition.as_ref()?.blob)
}

fn heat_of(case: &Case, n: usize) -> Option<&BlobRef> {
    Some(&case.findings.get(n)?.region.as_ref()?.heat_map)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<usize>,
    state: Option<CaseState>,
    show: Option<Show>,
}

#[derive(Serialize)]
struct List {
    #[serde(serialize_with = "each")]
    cases: Vec<Arc<Summary>>,
    counts: Counts,
}

fn each<S: Serializer>(cases: &[Arc<Summary>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(cases.iter().map(Arc::as_ref))
}

fn list_cases(
    reader: &CaseReader,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<List>, Problem> {
    let Query(query) =
        query.map_err(|_| Problem::with_detail(ProblemKind::BadRequest, bad_query()))?;
    let limit = query.limit.unwrap_or(LISTED_BY_DEFAULT);
    if limit > LISTED_AT_MOST {
        return Err(Problem::with_detail(ProblemKind::BadRequest, bad_query()));
    }
    let show = query.show.unwrap_or(Show::All);
    let cases = reader.index.latest(limit, |summary| {
        show.includes(summary) && query.state.is_none_or(|state| state == summary.state)
    });
    Ok(Json(List { cases, counts: reader.index.counts() }))
}

fn bad_query() -> String {
    let states = CaseState::ALL.map(CaseState::name).join(", ");
    format!(
        "The query takes limit (0 to {LISTED_AT_MOST}), state (one of {states}) and show (one of all, findings, flagged, cleared, not_looked_for, dead_letters)."
    )
}

/// A case that is not finished.
#[derive(Serialize)]
struct Unfinished<'a> {
    id: &'a CaseId,
    state: CaseState,
    received_at: chrono::DateTime<chrono::Utc>,
    updated_at: chrono::DateTime<chrono::Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter: Option<&'a DeadLetter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    case: Option<&'a Case>,
}

async fn show_case(reader: &CaseReader, id: &CaseId) -> Result<Response, Problem> {
    let entry = reader.find(id)?;
    if let Some((CaseState::Reported, held)) = &entry.case {
        let json = HeaderValue::from_static("application/json");
        return Ok(([(header::CONTENT_TYPE, json)], held.json.clone()).into_response());
    }
    let summary = &entry.summary;
    let is_dead = summary.state == CaseState::DeadLetter;
    Ok(Json(Unfinished {
        id,
        state: summary.state,
        received_at: summary.received_at,
        updated_at: summary.updated_at,
        dead_letter: entry.dead_letter.as_deref().filter(|_| is_dead),
        case: entry.case.as_ref().map(|(_, held)| &held.case),
    })
    .into_response())
}

/// What a request for a picture says beside the case.
struct Wanted {
    names_content: bool,
    have: Option<HeaderValue>,
}

impl<S: Sync> FromRequestParts<S> for Wanted {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let names_content = parts.uri.query().is_some_and(|query| query.starts_with("v="));
        Ok(Self { names_content, have: parts.headers.get(header::IF_NONE_MATCH).cloned() })
    }
}

impl CaseReader {
    fn find(&self, id: &CaseId) -> Result<CaseEntry, Problem> {
        self.index.get(id).ok_or_else(|| Problem::new(ProblemKind::UnknownCase))
    }

    async fn picture(
        &self,
        id: &CaseId,
        wanted: &Wanted,
        pick: impl FnOnce(&Case) -> Option<&BlobRef>,
    ) -> Result<Response, Problem> {
        let entry = self.find(id)?;
        let blob = entry.case.as_ref().and_then(|(_, held)| pick(&held.case));
        let blob = blob.ok_or_else(|| Problem::new(ProblemKind::NoSuchPicture))?;
        let tag = format!("\"{}\"", blob.sha256);
        let headers = picture_headers(&tag, wanted.names_content);
        if wanted.have.as_ref().is_some_and(|have| have == tag.as_str()) {
            return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
        }
        Ok((headers, self.read_blob(blob).await?).into_response())
    }

    /// Reads a picture.
    ///
    /// # Errors
    ///
    /// The problem to answer with, where the store does not have it or does not answer.
    pub async fn read_blob(&self, blob: &BlobRef) -> Result<Bytes, Problem> {
        self.blobs.get(blob.sha256, LARGEST_PICTURE).await.map_err(|error| {
            warn!(%error, "a picture cannot be served");
            match &error {
                BlobError::Missing { .. } => Problem::with_detail(
                    ProblemKind::NoSuchPicture,
                    "The picture is no longer in the blob store; send the image again to have it made anew.",
                ),
                error if error.is_transient() => {
                    Problem::new(ProblemKind::Unavailable).retry_after(5)
                }
                _ => Problem::new(ProblemKind::Internal),
            }
        })
    }
}

/// The headers of a picture whose entity tag is `tag`; `is_named` where its URL names its content.
pub fn picture_headers(tag: &str, is_named: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("image/png"));
    let keep = if is_named { FOREVER } else { ASK };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    headers
}

/// A case's id in the path. What is none is a case that nobody knows.
struct KnownId(CaseId);

impl<S: Send + Sync> FromRequestParts<S> for KnownId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = path::<String, S>(parts, state).await?;
        let id = CaseId::parse(&text);
        Ok(Self(id.ok_or_else(|| Problem::new(ProblemKind::UnknownCase))?))
    }
}

/// A case's id and `N.png`, the number of a finding from 0.
struct KnownHeat(CaseId, usize);

impl<S: Send + Sync> FromRequestParts<S> for KnownHeat {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path((id, name)) = path::<(String, String), S>(parts, state).await?;
        let id = CaseId::parse(&id).ok_or_else(|| Problem::new(ProblemKind::UnknownCase))?;
        let n = name.strip_suffix(".png").and_then(|digits| digits.parse().ok());
        Ok(Self(id, n.ok_or_else(|| Problem::new(ProblemKind::NoSuchPicture))?))
    }
}

async fn path<T, S>(parts: &mut Parts, state: &S) -> Result<Path<T>, Problem>
where
    T: serde::de::DeserializeOwned + Send,
    S: Send + Sync,
{
    Path::from_request_parts(parts, state).await.map_err(|_| Problem::new(ProblemKind::UnknownCase))
}
