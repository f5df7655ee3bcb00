//! The stage itself.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use duet_blob::BlobStore;
use duet_case::{Assessment, Case, CaseId, PatientContext, Rendition, Source, StudyKey, Topic};
use duet_imaging::Prepared;
use duet_stage::{FromRecord, Outcome, Reason, Setback, Stage, compute};
use duet_transport::Record;
use futures::future::try_join;

use crate::{Config, Decoder, InProcess, PseudonymKey};

/// One file as it came in.
#[derive(Debug, Clone)]
pub struct RawImage {
    /// The file.
    pub bytes: Bytes,
    /// When it entered `images`.
    pub received_at: DateTime<Utc>,
}

impl FromRecord for RawImage {
    fn from_record(record: &Record) -> Result<Self, Reason> {
        Ok(Self {
            bytes: record.value.clone(),
            received_at: record.timestamp.unwrap_or_else(Utc::now),
        })
    }

    fn case_id(&self) -> CaseId {
        CaseId::of_input(&self.bytes)
    }
}

/// The prepare stage.
pub struct Prepare {
    config: Config,
    blobs: BlobStore,
    key: PseudonymKey,
    decoder: Arc<dyn Decoder>,
}

impl Prepare {
    /// The stage with its key; [`Config::pseudonym_key_file`] is the caller's to read.
    pub fn new(config: Config, blobs: BlobStore, key: PseudonymKey) -> Self {
        let decoder = Arc::new(InProcess::new(config.limits.clone()));
        Self { config, blobs, key, decoder }
    }

    /// With another decoder than one in this process, which is for tests and for trusted files.
    #[must_use]
    pub fn with_decoder(self, decoder: Arc<dyn Decoder>) -> Self {
        Self { decoder, ..self }
    }

    async fn one(&self, image: RawImage) -> Outcome<Case> {
        let bytes = image.bytes.clone();
        let id =
            async { compute::run(move || CaseId::of_input(&bytes)).await.map_err(Setback::from) };
        let (id, prepared) = match try_join(id, self.decoder.decode(image.bytes.clone())).await {
            Ok(both) => both,
            Err(setback) => return setback.into(),
        };
        match prepared {
            Prepared::NoPixels { source, identifiers, reason } => {
                let study = self.key.study(identifiers.study_instance_uid.as_deref(), &id);
                let mut case = self.case(id, study, image.received_at, source);
                case.assessment =
                    Some(Assessment { reason: Some(reason), ..Assessment::default() });
                Outcome::Emit(case, Topic::OutOfScope)
            }
            Prepared::Picture {
                source,
                identifiers,
                rendition_png,
                width,
                height,
                scale,
                window,
                inverted,
            } => {
                // The blob before the record that names it.
                let blob = match self.blobs.put(rendition_png.into(), "image/png").await {
                    Ok(blob) => blob,
                    Err(error) if error.is_transient() => {
                        return Outcome::Retry(Reason::of("blob_store", &error));
                    }
                    Err(error) => return Outcome::Reject(Reason::of("blob_store", &error)),
                };
                let study = self.key.study(identifiers.study_instance_uid.as_deref(), &id);
                let mut case = self.case(id, study, image.received_at, source);
                case.rendition = Some(Rendition { blob, width, height, scale, window, inverted });
                Outcome::Emit(case, Topic::Prepared)
            }
        }
    }

    fn case(
        &self,
        id: CaseId,
        study: StudyKey,
        received_at: DateTime<Utc>,
        mut source: Source,
    ) -> Case {
        if !self.config.retain_patient_characteristics {
            source.patient = PatientContext::default();
        }
        Case::new(id, study, received_at, source)
    }
}

impl Stage for Prepare {
    const NAME: &'static str = "prepare";
    const INPUTS: &'static [Topic] = &[Topic::Images];
    type In = RawImage;
    type Out = Case;

    async fn process(&self, batch: Vec<RawImage>) -> Vec<Outcome<Case>> {
        futures::future::join_all(batch.into_iter().map(|image| self.one(image))).await
    }
}

#[cfg(test)]
mod tests {
    use duet_testkit::{
        bad::{Expect, bad_inputs},
        phantoms::{self, DicomOptions, Syntax},
    };

    use super::*;

    fn stage(config: Config) -> Prepare {
        Prepare::new(config, BlobStore::memory(), PseudonymKey::from_hex(&"07".repeat(32)).unwrap())
    }

    fn image(bytes: Vec<u8>) -> RawImage {
        RawImage { bytes: bytes.into(), received_at: DateTime::UNIX_EPOCH }
    }

    #[tokio::test]
    async fn every_bad_input_gets_its_own_end_and_the_stage_lives_on() {
        let stage = stage(Config::default());
        let inputs = bad_inputs();
        let batch = inputs.iter().map(|input| image(input.bytes.clone())).collect();
        let outcomes = stage.process(batch).await;
        assert_eq!(outcomes.len(), inputs.len());
        for (input, outcome) in inputs.iter().zip(outcomes) {
            match (input.expect, outcome) {
                (Expect::Report, Outcome::Emit(case, Topic::Prepared)) => {
                    let rendition = case.rendition.expect("a rendition");
                    assert!(
                        stage.blobs.get(rendition.blob.sha256, 8 << 20).await.is_ok(),
                        "{}",
                        input.name
                    );
                }
                (Expect::OutOfScope, Outcome::Emit(case, Topic::OutOfScope)) => {
                    assert!(case.assessment.and_then(|a| a.reason).is_some(), "{}", input.name);
                }
                (Expect::DeadLetter(class), Outcome::Reject(reason)) => {
                    assert_eq!(reason.class, class, "{}: {}", input.name, reason.message);
                    assert!(reason.message.len() > 30, "{}: {}", input.name, reason.message);
                }
                (expect, outcome) => panic!("{}: expected {expect:?}, got {outcome:?}", input.name),
            }
        }
    }

    #[tokio::test]
    async fn one_study_has_one_key_and_no_identifier_comes_out() {
        let marked = |seed, instance: &str| {
            let options =
                DicomOptions { sop_instance_uid: instance.into(), ..DicomOptions::marked() };
            phantoms::dicom(&phantoms::chest(seed, 256, 256), &options)
        };
        let stage = stage(Config::default());
        let batch = vec![
            image(marked(1, "1.2.3.1")),
            image(marked(2, "1.2.3.2")),
            image(marked(1, "1.2.3.1")),
        ];
        let cases: Vec<Case> = stage
            .process(batch)
            .await
            .into_iter()
            .map(|outcome| match outcome {
                Outcome::Emit(case, Topic::Prepared) => case,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!((&cases[0].study, &cases[0].id), (&cases[1].study, &cases[2].id));
        assert_ne!(cases[0].id, cases[1].id);
        for case in &cases {
            let json = String::from_utf8(case.to_json().unwrap()).unwrap();
            for mark in phantoms::MARKS {
                assert!(!json.contains(mark), "{mark} in {json}");
            }
        }
        assert_eq!(cases[0].source.patient.age_years, Some(61));
    }

    #[tokio::test]
    async fn patient_characteristics_go_where_they_are_not_wanted() {
        let stage = stage(Config { retain_patient_characteristics: false, ..Config::default() });
        let bytes = phantoms::dicom(
            &phantoms::chest(1, 128, 128),
            &DicomOptions { syntax: Syntax::Implicit, ..DicomOptions::marked() },
        );
        let Some(Outcome::Emit(case, _)) = stage.process(vec![image(bytes)]).await.pop() else {
            panic!("no case")
        };
        assert_eq!(case.source.patient, PatientContext::default());
    }

    #[test]
    fn configuration_has_safe_defaults_and_refuses_unknown_keys() {
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
        assert_eq!(
            toml::from_str::<Config>("[limits]\nmax_frames = 3").unwrap().limits.max_frames,
            3
        );
        assert!(
            toml::from_str::<Config>("[limits]\nmax_frame = 3")
                .unwrap_err()
                .to_string()
                .contains("max_frame")
        );
    }
}
