//! The stage itself.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use duet_blob::{BlobStore, Inbox};
use duet_case::{
    Assessment, Case, CaseId, PatientContext, Reference, ReferenceError, Rendition, Source, Topic,
};
use duet_imaging::{Identifiers, Prepared};
use duet_seal::{Purpose, Sealer};
use duet_stage::{FromRecord, Outcome, Reason, Setback, Stage, compute};
use duet_telemetry::metrics;
use duet_transport::Record;
use futures::future::try_join;
use tokio::sync::Semaphore;

use crate::{Config, Decoder, InProcess, PseudonymKey};

/// One file as it came in.
#[derive(Debug, Clone)]
pub struct RawImage {
    /// The file, or where it is.
    pub file: File,
    /// When it entered `images`.
    pub received_at: DateTime<Utc>,
}

/// A file, or where it is.
#[derive(Debug, Clone)]
pub enum File {
    /// The file.
    Inline(Bytes),
    /// It was too large for a record.
    Referred(Reference),
}

impl FromRecord for RawImage {
    fn from_record(record: &Record) -> Result<Self, Reason> {
        let reject = |error: ReferenceError| Reason::of(error.class(), &error);
        let file = match record.headers.get(Reference::HEADER) {
            None => File::Inline(record.value.clone()),
            Some(_) if !record.value.is_empty() => return Err(reject(ReferenceError::Doubled)),
            Some(header) => File::Referred(Reference::from_header(header).map_err(reject)?),
        };
        Ok(Self { file, received_at: record.timestamp.unwrap_or_else(Utc::now) })
    }

    /// By its bytes, however it came.
    fn case_id(&self) -> CaseId {
        match &self.file {
            File::Inline(bytes) => CaseId::of_input(bytes),
            File::Referred(reference) => CaseId::of_digest(&reference.sha256),
        }
    }
}

/// The prepare stage.
pub struct Prepare {
    config: Config,
    blobs: BlobStore,
    inbox: Inbox,
    /// A permit for each KiB of referred files that may be in memory.
    room: Semaphore,
    key: PseudonymKey,
    sealer: Option<Sealer>,
    decoder: Arc<dyn Decoder>,
}

impl Prepare {
    /// The stage with its key; [`Config::pseudonym_key_file`] is the caller's to read. It seals nothing yet.
    pub fn new(config: Config, blobs: BlobStore, key: PseudonymKey) -> Self {
        let decoder = Arc::new(InProcess::new(config.limits.clone()));
        let (inbox, room) = (blobs.inbox(), Semaphore::new(permits(config.max_fetched_bytes)));
        Self { config, blobs, inbox, room, key, sealer: None, decoder }
    }

    /// With a key to seal what results are filed by; [`Config::sealing_key_file`] is the caller's to read.
    #[must_use]
    pub fn with_sealer(self, sealer: Sealer) -> Self {
        Self { sealer: Some(sealer), ..self }
    }

    /// With another decoder than one in this process, which is for tests and for trusted files.
    #[must_use]
    pub fn with_decoder(self, decoder: Arc<dyn Decoder>) -> Self {
        Self { decoder, ..self }
    }

    /// The file's case, and what is in it. Of the file itself nothing stays in memory.
    async fn read(&self, file: File) -> Result<(CaseId, Prepared), Setback> {
        let reference = match file {
            File::Inline(bytes) => {
                let own = bytes.clone();
                let id = async {
                    compute::run(move || CaseId::of_input(&own)).await.map_err(Setback::from)
                };
                return try_join(id, self.decoder.decode(bytes)).await;
            }
            File::Referred(reference) => reference,
        };
        let most = self.config.limits.max_bytes;
        // What is over the limit is refused unfetched; all else has room, by configuration.
        let size = if reference.bytes > most { 0 } else { permits(reference.bytes) };
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        // Waits until earlier ones are done with, so that a queue of large files is never in memory as a whole.
        let _room = self.room.acquire_many(size).await.map_err(|_| closed())?;
        let fetched = self.inbox.fetch(&reference, most).await;
        let bytes = fetched.map_err(|error| {
            let reason = Reason::of(error.class(), &error);
            if error.is_transient() { Setback::Retry(reason) } else { Setback::Reject(reason) }
        })?;
        let prepared = self.decoder.decode(bytes).await?;
        Ok((CaseId::of_digest(&reference.sha256), prepared))
    }

    async fn one(&self, image: RawImage) -> Outcome<Case> {
        let (id, prepared) = match self.read(image.file).await {
            Ok(both) => both,
            Err(setback) => return setback.into(),
        };
        match prepared {
            Prepared::NoPixels { source, identifiers, reason } => {
                let mut case = match self.case(id, identifiers, image.received_at, source) {
                    Ok(case) => case,
                    Err(reason) => return Outcome::Retry(reason),
                };
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
                let mut case = match self.case(id, identifiers, image.received_at, source) {
                    Ok(case) => case,
                    Err(reason) => return Outcome::Retry(reason),
                };
                case.rendition = Some(Rendition { blob, width, height, scale, window, inverted });
                Outcome::Emit(case, Topic::Prepared)
            }
        }
    }

    /// The Case with what it may say of the patient, and the rest sealed.
    fn case(
        &self,
        id: CaseId,
        identifiers: Identifiers,
        received_at: DateTime<Utc>,
        mut source: Source,
    ) -> Result<Case, Reason> {
        if !self.config.retain_patient_characteristics {
            source.patient = PatientContext::default();
        }
        if let Some(sealer) = self.sealer.as_ref().filter(|_| !identifiers.is_empty()) {
            let sealed = sealer.seal(&id, Purpose::Filing, &identifiers);
            source.sealed = Some(sealed.map_err(|error| Reason::of("seal", &error))?);
            metrics().sealed.with_label_values(&["sealed"]).inc();
        }
        let study = self.key.study(identifiers.study_instance_uid.as_deref(), &id);
        Ok(Case::new(id, study, received_at, source))
    }
}

/// Permits for so many bytes: one a KiB, since a semaphore counts in 32 bits.
fn permits(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(1024)).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)
}

/// The room is never closed while the stage lives.
fn closed() -> Setback {
    Setback::Retry(Reason::new("stage_defect", "no room for files is left; please report it"))
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
    use duet_case::Digest;
    use duet_imaging::Limits;
    use duet_testkit::{
        bad::{Expect, bad_inputs},
        phantoms::{self, DicomOptions, Syntax},
    };
    use duet_transport::{Headers, Origin};

    use super::*;

    fn stage(config: Config) -> Prepare {
        let folder = tempfile::tempdir().unwrap();
        let key = PseudonymKey::from_hex(&"07".repeat(32)).unwrap();
        Prepare::new(config, BlobStore::memory(), key)
            .with_sealer(Sealer::load_or_create(&folder.path().join("sealing.keys")).unwrap())
    }

    fn image(bytes: Vec<u8>) -> RawImage {
        RawImage { file: File::Inline(bytes.into()), received_at: DateTime::UNIX_EPOCH }
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
            assert!(case.source.sealed.is_some());
        }
        // The same file twice is the same but for the nonce.
        assert_ne!(cases[0].source.sealed, cases[2].source.sealed);
        assert_eq!(cases[0].source.patient.age_years, Some(61));
    }

    #[tokio::test]
    async fn a_picture_that_names_nobody_has_nothing_sealed() {
        let png = phantoms::png8(&phantoms::chest(1, 128, 128));
        let Some(Outcome::Emit(case, _)) =
            stage(Config::default()).process(vec![image(png)]).await.pop()
        else {
            panic!("no case")
        };
        assert_eq!(case.source.sealed, None);
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

    /// A record in `images` with the reference `header` and `value`, read.
    fn referred(header: &str, value: &'static [u8]) -> Result<RawImage, Reason> {
        RawImage::from_record(&Record {
            origin: Origin { topic: Topic::Images, partition: 0, offset: 0, epoch: 0 },
            timestamp: None,
            key: None,
            headers: Headers::default().with(Reference::HEADER, header.to_owned()),
            value: Bytes::from_static(value),
        })
    }

    #[tokio::test]
    async fn a_referred_file_is_the_same_film_and_costs_no_more_memory_than_allowed() {
        let file = Bytes::from(phantoms::png8(&phantoms::chest(1, 256, 256)));
        let limits = Limits { max_bytes: file.len() as u64, ..Limits::default() };
        // Room for one at a time: the others wait, and none is refused.
        let max_fetched_bytes = file.len() as u64 + 1;
        let stage = stage(Config { limits, max_fetched_bytes, ..Config::default() });
        let reference = stage.inbox.put(file.clone()).await.unwrap();
        let image = referred(&reference.header(), b"").unwrap();
        assert_eq!(image.case_id(), CaseId::of_input(&file));
        let mut batch = vec![image; 5];
        batch.push(super::tests::image(file.to_vec()));
        let mut cases = Vec::new();
        for outcome in stage.process(batch).await {
            match outcome {
                Outcome::Emit(case, Topic::Prepared) => cases.push((case.id, case.rendition)),
                other => panic!("{other:?}"),
            }
        }
        assert!(cases.iter().all(|case| *case == cases[0]), "{cases:?}");
        assert_eq!(stage.room.available_permits(), permits(max_fetched_bytes));
    }

    #[tokio::test]
    async fn a_reference_that_leads_nowhere_is_rejected_by_its_class() {
        let limits = Limits { max_bytes: 1000, ..Limits::default() };
        let stage = stage(Config { limits, ..Config::default() });
        let film = stage.inbox.put(Bytes::from_static(b"film")).await.unwrap();
        let with = |sha256, bytes| Reference::to(sha256, bytes).header();
        for (header, class) in [
            (with(film.sha256, 5), "reference_mismatch"),
            (with(Digest::of(b"other"), 5), "reference_missing"),
            (with(film.sha256, 1001), "over_limit"),
            (with(film.sha256, u64::MAX), "over_limit"),
            // It was fetched, and is no picture.
            (film.header(), "unrecognised"),
        ] {
            let outcome = stage.process(vec![referred(&header, b"").unwrap()]).await.pop();
            let Some(Outcome::Reject(reason)) = outcome else { panic!("{header}: {outcome:?}") };
            assert_eq!(reason.class, class, "{}", reason.message);
        }
        let foreign = film.header().replace("inbox/", "s3://other/inbox/");
        assert_eq!(referred(&foreign, b"").unwrap_err().class, "reference_foreign");
        assert_eq!(referred("film", b"").unwrap_err().class, "reference_invalid");
        assert_eq!(referred(&film.header(), b"film").unwrap_err().class, "reference_invalid");
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
