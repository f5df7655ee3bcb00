//! The publish stage: the finished Case as a report, and the annotated picture.
//!
//! Reads `assessed`, `cleared` and `out-of-scope`; emits one record to `reports` for each Case, and one to
//! `annotated` where it has a picture: `image/png` bytes, for consumers that have Kafka and nothing else. The picture
//! goes into the blob store before the report that names it.
//!
//! It alone opens what `prepare` sealed for filing results back (`filing.rs`).
//!
//! Deliberately absent: any judgement. The end of a Case follows from what the stages before wrote into it.

mod conclude;
mod filing;
mod picture;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use chrono::Utc;
use duet_blob::BlobStore;
use duet_case::{BlobRef, Case, Outcome as End, Publication, Topic};
use duet_seal::KeyFileError;
use duet_stage::{
    IntoPayloads, Outcome, Payload, Reason, Setback, Stage, compute, fetch_rendition,
};
use duet_telemetry::{HealthItem, metrics};
use futures::future::join_all;
use serde::{Deserialize, Serialize};

pub use conclude::conclude;
use filing::Filing;
use picture::{HEATS, Layers, draw};

/// The notice that goes with every report and stands on every picture.
pub const NOTICE: &str = "Research use only. Not for diagnosis.";

const PNG: &str = "image/png";

/// Larger than any heat map: it has the rendition's size in eight bits.
const MAX_HEAT_BYTES: u64 = 4 << 20;

/// `[publish]` in the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// File with the keys of sealed identifiers, all of which open. `prepare` seals with the first of its own file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealing_key_file: Option<PathBuf>,
}

/// What goes out: the report, and the annotated picture where there is one.
#[derive(Debug)]
pub struct Published {
    /// The finished Case.
    pub case: Case,
    /// The picture as PNG.
    pub annotated: Option<Bytes>,
}

impl IntoPayloads for Published {
    fn case_mut(&mut self) -> &mut Case {
        &mut self.case
    }

    fn into_payloads(self, topic: Topic) -> Result<Vec<Payload>, Reason> {
        let mut payloads = self.case.into_payloads(topic)?;
        if let Some(value) = self.annotated {
            payloads.push(Payload { topic: Topic::Annotated, content_type: PNG, value });
        }
        Ok(payloads)
    }
}

/// The stage.
pub struct Publish {
    blobs: BlobStore,
    filing: Option<Filing>,
}

impl Publish {
    /// The stage; [`Config::sealing_key_file`] is the caller's to read. It opens nothing yet.
    pub fn new(blobs: BlobStore) -> Self {
        // From nought, so that the first is an increase.
        for outcome in [End::Findings, End::NoFinding, End::Cleared, End::NotLookedFor] {
            metrics().reports.with_label_values(&[outcome.name()]).inc_by(0);
        }
        Self { blobs, filing: None }
    }

    /// Opens what `prepare` sealed, with the keys in the file `path`: a report whose seal is broken does not go out, and where
    /// a key is missing `health` says so. The file may come later unless it `is_required`.
    ///
    /// # Errors
    ///
    /// Where the file is required and cannot be used.
    pub fn with_sealing_keys(
        self,
        path: &Path,
        is_required: bool,
        health: HealthItem,
    ) -> Result<Self, KeyFileError> {
        Ok(Self { filing: Some(Filing::open(path, is_required, health)?), ..self })
    }

    async fn publish(&self, mut case: Case) -> Result<Published, Setback> {
        let Some(conclusion) = conclude(&case) else {
            let message = "the Case has come to no end: it is flagged and no specialist looked; only Duet's own stages write into what publish reads";
            return Err(Setback::Reject(Reason::new("not_concluded", message)));
        };
        if let Some(filing) = &self.filing {
            filing.check(&case).map_err(Setback::Reject)?;
        }
        let outcome = conclusion.outcome;
        let mut picture = None;
        if case.rendition.is_some() {
            let layers = self.layers(&case).await?;
            let end = conclusion.clone();
            let (drawn, back) = compute::run(move || (draw(&case, &end, &layers), case)).await?;
            case = back;
            picture = Some(self.keep(drawn.map_err(Setback::Reject)?).await?);
        }
        case.conclusion = Some(conclusion);
        let (annotated, blob) = picture.unzip();
        let published_at = Utc::now();
        case.publication =
            Some(Publication { published_at, annotated: blob, notice: NOTICE.to_owned() });
        let age = case.age_ms(published_at).max(0.0) / 1e3;
        metrics().reports.with_label_values(&[outcome.name()]).inc();
        metrics().report_seconds.with_label_values(&[outcome.name()]).observe(age);
        Ok(Published { case, annotated })
    }

    async fn layers(&self, case: &Case) -> Result<Layers, Setback> {
        let (_, rendition) = fetch_rendition(&self.blobs, case).await?;
        let mut heats = HashMap::new();
        let regions = case.findings.iter().enumerate();
        let regions = regions.filter_map(|(i, own)| Some((i, own.region.as_ref()?))).take(HEATS);
        for (i, region) in regions {
            let png = self.blobs.get(region.heat_map.sha256, MAX_HEAT_BYTES).await?;
            heats.insert(i, png);
        }
        Ok(Layers { rendition, heats })
    }

    async fn keep(&self, png: Vec<u8>) -> Result<(Bytes, BlobRef), Setback> {
        let png = Bytes::from(png);
        let blob = self.blobs.put(png.clone(), PNG).await?;
        Ok((png, blob))
    }
}

impl Stage for Publish {
    const NAME: &'static str = "publish";
    const INPUTS: &'static [Topic] = &[Topic::Assessed, Topic::Cleared, Topic::OutOfScope];
    type In = Case;
    type Out = Published;

    async fn process(&self, batch: Vec<Case>) -> Vec<Outcome<Published>> {
        let published = batch.into_iter().map(|case| async {
            match self.publish(case).await {
                Ok(published) => Outcome::Emit(published, Topic::Reports),
                Err(setback) => setback.into(),
            }
        });
        join_all(published).await
    }
}

#[cfg(test)]
mod tests;
