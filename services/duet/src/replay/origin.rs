//! Where the images of a replay come from: the renditions that reports refer to, or the original files.

use std::{collections::HashMap, sync::Arc};

use anyhow::{Result, bail};
use chrono::{DateTime, TimeDelta, Utc};
use duet_blob::BlobStore;
use duet_case::{Case, CaseId, Topic};
use duet_prepare::{DecoderPool, Launch, Prepare, PseudonymKey, RawImage};
use duet_stage::{FromRecord as _, Outcome, Stage as _};
use duet_telemetry::Health;
use duet_transport::{Archive, History, Record};
use indicatif::ProgressBar;
use tokio_util::sync::CancellationToken;

use super::{summary::Summary, view::View};
use crate::{cli::DECODE_WORKER, config::Config};

/// Images worked on together.
pub(super) const CHUNK: usize = 32;
/// By how much the clocks of processes and brokers may differ.
const CLOCKS: TimeDelta = TimeDelta::minutes(1);
/// Reports that are held to be compared with originals.
const HELD: usize = 200_000;

/// When an image has to have come in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) from: DateTime<Utc>,
    pub(super) until: DateTime<Utc>,
}

impl Span {
    fn has(&self, time: DateTime<Utc>) -> bool {
        (self.from..self.until).contains(&time)
    }
}

/// An image to be replayed.
pub(super) struct Input {
    /// The Case with a rendition and nothing after it.
    pub(super) bare: Case,
    /// What was said of it.
    pub(super) before: View,
    /// The whole report, where it was read.
    pub(super) report: Option<Case>,
}

/// What of `case` every model finds: the image and nothing that was said of it.
fn bare(case: &Case) -> Case {
    let mut bare =
        Case::new(case.id.clone(), case.study.clone(), case.received_at, case.source.clone());
    bare.rendition.clone_from(&case.rendition);
    bare
}

/// A view of a report as production has it: under the models' own names.
fn view(report: &Case) -> View {
    let outcome = report.conclusion.as_ref().map(|own| own.outcome);
    View::of(report, outcome, &std::collections::BTreeMap::new())
}

/// Reads images chunk by chunk.
pub(super) enum Origin {
    Reports {
        history: Box<dyn History>,
        span: Span,
    },
    Images {
        history: Box<dyn History>,
        span: Span,
        known: HashMap<CaseId, View>,
        prepare: Box<Prepare>,
        _stop: Stop,
    },
}

/// Ends the processes that decode.
pub(super) struct Stop(CancellationToken);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Origin {
    pub(super) async fn reports(broker: &dyn Archive, span: Span) -> Result<Self> {
        // A report is written after its image came in.
        let history = broker.history(Topic::Reports, Some(span.from - CLOCKS)).await?;
        Ok(Self::Reports { history, span })
    }

    pub(super) async fn images(
        broker: &dyn Archive,
        span: Span,
        config: &Config,
        blobs: &BlobStore,
        bar: &ProgressBar,
    ) -> Result<Self> {
        bar.set_message("reading the reports");
        let mut reports = broker.history(Topic::Reports, Some(span.from - CLOCKS)).await?;
        let mut known = HashMap::new();
        while let Some(records) = reports.next(CHUNK).await? {
            for case in records.iter().filter_map(|record| Case::from_json(&record.value).ok()) {
                if span.has(case.received_at) {
                    let view = view(&case);
                    known.insert(case.id, view);
                }
            }
            if known.len() > HELD {
                bail!(
                    "there are more than {HELD} reports of this time: bring --from and --until closer together, or replay the renditions (without --images)"
                );
            }
        }
        let stop = CancellationToken::new();
        let prepare = &config.settings.prepare;
        // As the service decodes: in processes of their own, under limits.
        let decoder = DecoderPool::start(
            Launch::this_program(&[DECODE_WORKER]),
            prepare.decoder.clone(),
            prepare.limits.clone(),
            Health::default().item("decoder", "starting"),
            stop.clone(),
        );
        // The pseudonym is the report's, so any key will do.
        let prepare = Prepare::new(prepare.clone(), blobs.clone(), PseudonymKey::random()?);
        let prepare = Box::new(prepare.with_decoder(decoder));
        let history = broker.history(Topic::Images, Some(span.from - CLOCKS)).await?;
        Ok(Self::Images { history, span, known, prepare, _stop: Stop(stop) })
    }

    pub(super) fn progress(&self) -> (u64, u64) {
        match self {
            Self::Reports { history, .. } | Self::Images { history, .. } => history.progress(),
        }
    }

    /// The next images; `None` at the end. What cannot be replayed is counted in `summary`.
    pub(super) async fn next(&mut self, summary: &mut Summary) -> Result<Option<Vec<Input>>> {
        match self {
            Self::Reports { history, span } => {
                let Some(records) = history.next(CHUNK).await? else { return Ok(None) };
                Ok(Some(of_reports(&records, *span, summary)))
            }
            Self::Images { history, span, known, prepare, .. } => {
                let Some(records) = history.next(CHUNK).await? else { return Ok(None) };
                Ok(Some(of_images(&records, *span, known, prepare, summary).await))
            }
        }
    }
}

fn of_reports(records: &[Record], span: Span, summary: &mut Summary) -> Vec<Input> {
    let mut inputs = Vec::new();
    for record in records {
        let Ok(report) = Case::from_json(&record.value) else {
            let place = format!("{}-{}", record.origin.partition, record.origin.offset);
            summary.leave_out(&place, "the report is of another version of Duet");
            continue;
        };
        if !span.has(report.received_at) {
            continue;
        }
        summary.seen += 1;
        if report.rendition.is_none() {
            summary.leave_out(report.id.as_str(), "the file held no picture");
            continue;
        }
        let (bare, before) = (bare(&report), view(&report));
        inputs.push(Input { bare, before, report: Some(report) });
    }
    inputs
}

async fn of_images(
    records: &[Record],
    span: Span,
    known: &HashMap<CaseId, View>,
    prepare: &Prepare,
    summary: &mut Summary,
) -> Vec<Input> {
    let wanted = records.iter().filter(|record| record.timestamp.is_none_or(|time| span.has(time)));
    let raw: Vec<_> = wanted.filter_map(|record| RawImage::from_record(record).ok()).collect();
    let ids = Arc::new(raw.clone());
    let ids = duet_stage::compute::map(ids.to_vec(), |image| image.case_id()).await;
    let mut inputs = Vec::new();
    for (id, outcome) in ids.into_iter().zip(prepare.process(raw).await) {
        summary.seen += 1;
        let id = id.map_or_else(|crashed| crashed.to_string(), |id| id.to_string());
        match outcome {
            Outcome::Emit(case, _) if case.rendition.is_none() => {
                summary.leave_out(&id, "the file holds no picture");
            }
            Outcome::Emit(mut bare, _) => match known.get(&bare.id) {
                Some(before) => {
                    bare.study = before.study.clone();
                    inputs.push(Input { bare, before: before.clone(), report: None });
                }
                None => summary.leave_out(&id, "there is no report of it to compare with"),
            },
            Outcome::Reject(reason) | Outcome::Retry(reason) => {
                summary.leave_out(&id, &format!("prepare: {}", reason.class));
            }
        }
    }
    inputs
}
