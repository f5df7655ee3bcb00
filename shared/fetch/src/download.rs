//! One file over HTTP: from where an earlier attempt was cut off, and never more than it should have.

use std::time::Duration;

use reqwest::{
    Client, Response, StatusCode, Url,
    header::{ACCEPT_ENCODING, CONTENT_RANGE, RANGE},
};
use tokio::time::sleep;

use crate::{FetchError, Step, error::shown, part::Part};

/// Attempts in a row that bring nothing.
const FRUITLESS: u32 = 4;
/// Attempts in all: a server may cut every answer short.
const ATTEMPTS: u32 = 60;
/// Before an attempt at most.
const MAX_PAUSE: Duration = Duration::from_secs(8);

pub(crate) struct Download<'a> {
    pub(crate) client: &'a Client,
    pub(crate) url: Url,
    pub(crate) pause: Duration,
    pub(crate) told: &'a (dyn Fn(Step<'_>) + Sync),
}

impl Download<'_> {
    /// Completes `part`, whose digest is then right.
    pub(crate) async fn run(&self, part: &mut Part) -> Result<(), FetchError> {
        let resumed = part.len() > 0;
        self.bytes(part).await?;
        let (wanted, found) = (part.sha256(), part.digest().await?);
        if found == wanted {
            return Ok(());
        }
        part.empty()?;
        let wrong = FetchError::Digest { what: shown(&self.url), wanted, found };
        if !resumed {
            return Err(wrong);
        }
        // What was there may have been of another file, at another time.
        (self.told)(Step::Again(&wrong));
        self.bytes(part).await?;
        if part.is_complete().await? { Ok(()) } else { Err(wrong) }
    }

    /// Until there are as many bytes as there should be.
    async fn bytes(&self, part: &mut Part) -> Result<(), FetchError> {
        let (mut fruitless, mut attempts) = (0, 0);
        while part.len() < part.bytes() {
            let before = part.len();
            let Err(error) = self.once(part).await else { continue };
            attempts += 1;
            fruitless = if part.len() > before { 1 } else { fruitless + 1 };
            if !error.is_passing() || fruitless >= FRUITLESS || attempts >= ATTEMPTS {
                return Err(error);
            }
            (self.told)(Step::Again(&error));
            sleep((self.pause * (1 << (fruitless - 1))).min(MAX_PAUSE)).await;
        }
        Ok(())
    }

    async fn once(&self, part: &mut Part) -> Result<(), FetchError> {
        let url = || shown(&self.url);
        let mut request = self.client.get(self.url.clone()).header(ACCEPT_ENCODING, "identity");
        if part.len() > 0 {
            request = request.header(RANGE, format!("bytes={}-", part.len()));
        }
        let sent = request.send().await;
        let mut response = sent.map_err(|error| FetchError::connection(&self.url, &error))?;
        let bytes = part.bytes();
        let announced = match response.status() {
            StatusCode::OK => {
                // The whole file, whether or not a part was asked for.
                part.empty()?;
                response.content_length()
            }
            StatusCode::PARTIAL_CONTENT => {
                let (from, total) = range(&response).unwrap_or((u64::MAX, None));
                if from != part.len() {
                    part.empty()?;
                    let reason = "it sent another part than was asked for".to_owned();
                    return Err(FetchError::Connection { url: url(), reason });
                }
                total
            }
            status => {
                if status == StatusCode::RANGE_NOT_SATISFIABLE {
                    part.empty()?;
                }
                return Err(FetchError::Status { url: url(), status });
            }
        };
        if let Some(found) = announced.filter(|found| *found != bytes) {
            return Err(FetchError::Size { url: url(), found: found.to_string(), bytes });
        }
        loop {
            (self.told)(Step::At(part.len(), bytes));
            let next = response.chunk().await;
            match next.map_err(|error| self.cut(part, &error))? {
                Some(chunk) if part.len() + chunk.len() as u64 > bytes => {
                    part.empty()?;
                    let found = format!("more than {bytes}");
                    return Err(FetchError::Size { url: url(), found, bytes });
                }
                Some(chunk) => part.add(&chunk)?,
                None if part.len() < bytes => {
                    return Err(FetchError::Cut { url: url(), have: part.len(), bytes });
                }
                None => return Ok(()),
            }
        }
    }

    fn cut(&self, part: &Part, error: &reqwest::Error) -> FetchError {
        if error.is_timeout() {
            return FetchError::connection(&self.url, error);
        }
        FetchError::Cut { url: shown(&self.url), have: part.len(), bytes: part.bytes() }
    }
}

/// From which byte on an answer is, and of how many in all.
fn range(response: &Response) -> Option<(u64, Option<u64>)> {
    let value = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (span, total) = value.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let (from, _) = span.split_once('-')?;
    Some((from.trim().parse().ok()?, total.trim().parse().ok()))
}
