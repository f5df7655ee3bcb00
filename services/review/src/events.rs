//! Changes as they happen, as server-sent events.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use duet_case::CaseId;
use duet_stage::{
    CaseIndex, Counts, Summary, Update, Updates,
    web::{Problem, ProblemKind},
};
use futures::{Stream, StreamExt, stream};
use serde::{Serialize, Serializer};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::Review;

/// Changes within this time go out together: under load the page draws a few times a second, not for every record.
const TOGETHER: Duration = Duration::from_millis(150);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Changes that go out together.
#[derive(Serialize)]
struct Batch {
    #[serde(serialize_with = "each")]
    cases: BTreeMap<CaseId, Arc<Summary>>,
    counts: Counts,
}

fn each<S: Serializer>(
    cases: &BTreeMap<CaseId, Arc<Summary>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(cases.values().map(Arc::as_ref))
}

struct Listener {
    index: CaseIndex,
    updates: Updates,
    shutdown: CancellationToken,
    _place: OwnedSemaphorePermit,
}

pub(crate) fn serve(review: &Review) -> Result<Response, Problem> {
    let place = Arc::clone(&review.streams).try_acquire_owned().map_err(|_| {
        let detail = "Too many pages are open: close some, or raise review.max_streams.";
        Problem::with_detail(ProblemKind::Unavailable, detail).retry_after(10)
    })?;
    let index = review.reader.index.clone();
    let updates = index.subscribe();
    let listener = Listener { index, updates, shutdown: review.shutdown.clone(), _place: place };
    Ok(Sse::new(events(listener)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// `reload` first, since the list may have changed while nobody listened; then `cases`, and `reload` again whenever
/// more happened than could be kept for this listener.
fn events(listener: Listener) -> impl Stream<Item = Result<Event, Infallible>> {
    let first = stream::once(async { Ok(reload()) });
    first.chain(stream::unfold(listener, |mut listener| async move {
        let stopped = listener.shutdown.clone();
        let event = tokio::select! {
            biased;
            () = stopped.cancelled() => None,
            event = listener.next() => event,
        };
        event.map(|event| (Ok(event), listener))
    }))
}

impl Listener {
    async fn next(&mut self) -> Option<Event> {
        let mut cases = BTreeMap::new();
        let mut update = self.updates.next().await?;
        let deadline = Instant::now() + TOGETHER;
        loop {
            match update {
                Update::Case(summary) => cases.insert(summary.id.clone(), summary),
                Update::Reload => return Some(reload()),
            };
            match tokio::time::timeout_at(deadline, self.updates.next()).await {
                Ok(Some(next)) => update = next,
                Ok(None) | Err(_) => break,
            }
        }
        let batch = Batch { cases, counts: self.index.counts() };
        // A batch is plain data; were it ever not writable, the page reads the list instead.
        Some(Event::default().event("cases").json_data(batch).unwrap_or_else(|_| reload()))
    }
}

fn reload() -> Event {
    Event::default().event("reload").data("{}")
}
