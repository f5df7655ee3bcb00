//! Cases through the very stages that the services run, with the replay's models.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use chrono::Utc;
use duet_blob::BlobStore;
use duet_case::{Case, Publication, Topic};
use duet_publish::Publish;
use duet_specialist::Specialist;
use duet_stage::{Outcome, Reason, Stage};
use duet_triage::Triage;

use super::models::Lineup;

/// How often what may heal by itself is tried.
const ATTEMPTS: u32 = 4;

/// The stages between the rendition and the report.
pub(super) struct Stages {
    triage: Triage,
    specialist: Specialist,
    publish: Publish,
}

/// What became of a Case.
pub(super) type Replayed = Result<Case, Reason>;

impl Stages {
    /// On `blobs`, into which the heat maps go.
    pub(super) fn new(lineup: &mut Lineup, blobs: &BlobStore) -> Result<Self> {
        let (classifiers, thoraxes) =
            (lineup.classifiers.clone(), std::mem::take(&mut lineup.thoraxes));
        let (triage, generalist) = (lineup.sections.triage.clone(), lineup.generalist.clone());
        let specialist = &lineup.sections.specialist;
        Ok(Self {
            triage: Triage::new(triage, generalist, blobs.clone())?,
            specialist: Specialist::new(specialist, classifiers, thoraxes, blobs.clone())?,
            publish: Publish::new(blobs.clone()),
        })
    }

    /// Runs Cases that have a rendition and nothing more; the results in their order, finished but for the picture.
    pub(super) async fn run(&self, cases: Vec<Case>) -> Result<Vec<Replayed>> {
        let triaged = insist(&self.triage, cases).await?;
        let mut replayed: Vec<Option<Replayed>> = triaged.iter().map(|_| None).collect();
        let (mut places, mut flagged) = (Vec::new(), Vec::new());
        for (place, (slot, outcome)) in replayed.iter_mut().zip(triaged).enumerate() {
            match outcome {
                Ok((case, Topic::Flagged)) => {
                    places.push(place);
                    flagged.push(case);
                }
                Ok((case, _)) => *slot = Some(Ok(case)),
                Err(reason) => *slot = Some(Err(reason)),
            }
        }
        for (place, outcome) in places.into_iter().zip(insist(&self.specialist, flagged).await?) {
            if let Some(slot) = replayed.get_mut(place) {
                *slot = Some(outcome.map(|(case, _)| case));
            }
        }
        let finish = |replayed: Replayed| {
            replayed.map(|mut case| {
                case.conclusion = duet_publish::conclude(&case);
                let (published_at, notice) = (Utc::now(), duet_publish::NOTICE.to_owned());
                case.publication = Some(Publication { published_at, annotated: None, notice });
                case
            })
        };
        Ok(replayed.into_iter().flatten().map(finish).collect())
    }

    /// The annotated picture of a Case that has its findings.
    pub(super) async fn picture(&self, mut case: Case) -> Result<Vec<u8>, Reason> {
        case.publication = None;
        match self.publish.process(vec![case]).await.pop() {
            Some(Outcome::Emit(published, _)) => published
                .annotated
                .map(Vec::from)
                .ok_or_else(|| Reason::new("no_rendition", "there is no picture")),
            Some(Outcome::Reject(reason) | Outcome::Retry(reason)) => Err(reason),
            None => Err(Reason::new("stage_defect", "publish gave nothing")),
        }
    }
}

/// A batch through a stage; what may heal by itself is tried again, and ends the replay where it does not.
async fn insist<S>(stage: &S, batch: Vec<Case>) -> Result<Vec<Result<(Case, Topic), Reason>>>
where
    S: Stage<In = Case, Out = Case>,
{
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let mut pause = Duration::from_millis(500);
    for attempt in 1..=ATTEMPTS {
        let outcomes = stage.process(batch.clone()).await;
        let setback = outcomes.iter().find_map(|outcome| match outcome {
            Outcome::Retry(reason) => Some(reason.message.clone()),
            _ => None,
        });
        match setback {
            None => {
                let read = |outcome| match outcome {
                    Outcome::Emit(case, topic) => Ok((case, topic)),
                    Outcome::Reject(reason) | Outcome::Retry(reason) => Err(reason),
                };
                return Ok(outcomes.into_iter().map(read).collect());
            }
            Some(message) if attempt == ATTEMPTS => {
                return Err(anyhow::anyhow!(message))
                    .with_context(|| format!("{} still fails after {ATTEMPTS} tries", S::NAME));
            }
            Some(_) => tokio::time::sleep(pause).await,
        }
        pause *= 2;
    }
    bail!("{} was not tried", S::NAME)
}
