//! The stage on a store in memory and specialists that find what they are told.

use std::io::Cursor;

use bytes::Bytes;
use duet_case::{
    BlobRef, CaseId, Code, Decision, Digest, Format, PatientContext, Priority, Probability, Source,
    StudyKey, WindowMethod,
};
use duet_inference::{
    Accepts, ActivationMap, Classification, InferenceError, Label, LabelResult, OperatingPoint,
    PictureArea, Platt,
};
use image::GrayImage;

use super::*;

const FRONTAL: &str = "chest-radiograph-frontal";
const CHILD: &str = "chest-radiograph-child";

fn p(value: f64) -> Probability {
    Probability::new(value).unwrap()
}

/// Finds each of its labels with the probability that it was told; the map's peak is in the lower right quarter.
struct Told {
    model: ModelRef,
    accepts: Accepts,
    labels: Vec<Label>,
    probabilities: Vec<f64>,
    calibrated: bool,
    /// What it sees of a picture of 80 x 40.
    area: PictureArea,
}

/// A picture of 80 x 40 pixels.
const WHOLE: PictureArea = PictureArea { x: 0, y: 0, width: 80, height: 40 };

impl Told {
    fn new(name: &str, kind: &str, ages: [Option<u8>; 2], labels: &[(&str, f64)]) -> Arc<Self> {
        let label = |name: &str| Label {
            name: name.to_owned(),
            synonyms: Vec::new(),
            code: Code { scheme: "SCT".into(), value: "1".into(), meaning: name.into() },
            platt: Platt::IDENTITY,
            operating_point: Some(OperatingPoint {
                threshold: p(0.5),
                source: None,
                sensitivity: Some(p(0.8)),
                specificity: None,
                positives: None,
                negatives: None,
            }),
            auroc: None,
        };
        let sha256 = Digest::of(name.as_bytes());
        Arc::new(Self {
            model: ModelRef { name: name.to_owned(), version: "1".to_owned(), sha256 },
            accepts: Accepts {
                kinds: vec![kind.to_owned()],
                min_age_years: ages[0],
                max_age_years: ages[1],
            },
            labels: labels.iter().map(|(name, _)| label(name)).collect(),
            probabilities: labels.iter().map(|(_, probability)| *probability).collect(),
            calibrated: true,
            area: WHOLE,
        })
    }
}

impl Classifier for Told {
    fn model(&self) -> &ModelRef {
        &self.model
    }

    fn accepts(&self) -> &Accepts {
        &self.accepts
    }

    fn labels(&self) -> &[Label] {
        &self.labels
    }

    fn calibrated(&self) -> bool {
        self.calibrated
    }

    fn classify(&self, _: &GrayImage) -> Result<Classification, InferenceError> {
        // A rare label's map: below zero even where the evidence is.
        let mut values = vec![-9.0; 16];
        values[15] = -1.0;
        let result = |probability: &f64| LabelResult {
            logit: (probability / (1.0 - probability)).ln(),
            probability: p(*probability),
            map: ActivationMap { width: 4, height: 4, values: values.clone(), area: self.area },
        };
        Ok(Classification { labels: self.probabilities.iter().map(result).collect() })
    }
}

async fn case(blobs: &BlobStore, kind: &str, age_years: Option<u8>) -> Case {
    let mut png = Cursor::new(Vec::new());
    let picture = GrayImage::from_pixel(80, 40, image::Luma([90]));
    picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let blob = blobs.put(Bytes::from(png.into_inner()), "image/png").await.unwrap();
    let model =
        ModelRef { name: "g".to_owned(), version: "1".to_owned(), sha256: Digest::of(b"g") };
    let source = Source {
        width: 160,
        height: 120,
        bits: 8,
        frames: 1,
        patient: PatientContext { age_years, sex: None },
        ..Source::new(Format::Dicom, b"film")
    };
    Case {
        rendition: Some(Rendition {
            blob,
            width: 80,
            height: 40,
            scale: [2.0, 3.0],
            window: WindowMethod::Identity,
            inverted: false,
        }),
        triage: Some(Triage {
            decision: Decision::Flagged,
            priority: Priority::Routine,
            reasons: vec!["because".to_owned()],
            kind: kind.to_owned(),
            kind_meaning: kind.replace('-', " "),
            fitness: "fit".to_owned(),
            abnormal: p(0.7),
            clear_below: None,
            audit: false,
            scores: Vec::new(),
            model,
        }),
        ..Case::new(
            CaseId::of_input(b"film"),
            StudyKey::from_mac(&[7; 32]),
            chrono::Utc::now(),
            source,
        )
    }
}

fn adult() -> Arc<dyn Classifier> {
    let labels = [("Effusion", 0.6), ("Mass", 0.49), ("Edema", 0.5), ("Hernia", 0.93)];
    Told::new("adult", FRONTAL, [Some(16), None], &labels)
}

fn paediatric() -> Arc<dyn Classifier> {
    Told::new("paediatric", CHILD, [None, Some(15)], &[("Pneumonia", 0.8)])
}

fn stage(blobs: &BlobStore) -> Specialist {
    Specialist::new(&Config::default(), vec![adult(), paediatric()], blobs.clone()).unwrap()
}

async fn run(stage: &Specialist, case: Case) -> Result<Case, Reason> {
    match stage.process(vec![case]).await.remove(0) {
        Outcome::Emit(case, Topic::Assessed) => Ok(case),
        Outcome::Emit(_, topic) => panic!("emitted to {topic}"),
        Outcome::Reject(reason) | Outcome::Retry(reason) => Err(reason),
    }
}

#[tokio::test]
async fn findings_reach_their_operating_points_and_say_where() {
    let blobs = BlobStore::memory();
    let case = run(&stage(&blobs), case(&blobs, FRONTAL, Some(60)).await).await.unwrap();

    let found: Vec<_> = case.findings.iter().map(|own| own.label.as_str()).collect();
    assert_eq!(found, ["Hernia", "Effusion", "Edema"], "the most probable first, 0.5 included");
    assert_eq!(case.assessment.as_ref().unwrap().scores.len(), 4, "every label looked for");
    assert_eq!(case.findings[0].sensitivity, Some(p(0.8)));

    for finding in &case.findings {
        let region = finding.region.as_ref().unwrap();
        let seen = region.rendition_box;
        assert!(
            seen.x >= 40.0 && seen.y >= 20.0,
            "the peak is in the lower right quarter: {seen:?}"
        );
        assert_eq!(region.original_box, seen.scaled([2.0, 3.0]));
        let ([x, y], [ox, oy]) = (region.rendition_contours[0][0], region.original_contours[0][0]);
        assert_eq!([ox, oy], [x * 2.0, y * 3.0]);
        let png = blobs.get(region.heat_map.sha256, 1 << 20).await.unwrap();
        let map = image::load_from_memory(&png).unwrap().into_luma8();
        assert_eq!(map.dimensions(), (80, 40), "the heat map has the rendition's size");
        assert_eq!(map.pixels().map(|pixel| pixel.0[0]).max(), Some(255));
    }
}

#[tokio::test]
async fn the_manifest_says_who_looks_at_whom() {
    let blobs = BlobStore::memory();
    let stage = stage(&blobs);
    // kind, age, the model that looks
    for (kind, age, looks) in [
        (FRONTAL, Some(16), Some("adult")),
        (FRONTAL, None, Some("adult")),
        (FRONTAL, Some(15), None),
        (CHILD, Some(15), Some("paediatric")),
        (CHILD, None, None),
        ("chest-radiograph-lateral", Some(60), None),
    ] {
        let case = run(&stage, case(&blobs, kind, age).await).await.unwrap();
        let in_the_ledger = stage.models(&case);
        let assessment = case.assessment.unwrap();
        assert_eq!(in_the_ledger, assessment.models, "the ledger names who looked and nobody else");
        let names: Vec<_> = assessment.models.iter().map(|own| own.name.as_str()).collect();
        assert_eq!(names, looks.into_iter().collect::<Vec<_>>(), "{kind} {age:?}");
        assert_eq!(assessment.reason.is_none(), looks.is_some(), "{kind} {age:?}");
        if let Some(reason) = assessment.reason {
            assert!(
                reason.contains(&kind.replace('-', " ")) && case.findings.is_empty(),
                "{reason}"
            );
        }
    }
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_rejected() {
    let blobs = BlobStore::memory();
    let stage = stage(&blobs);
    let good = case(&blobs, FRONTAL, None).await;
    let untriaged = Case { triage: None, ..good.clone() };
    assert_eq!(run(&stage, untriaged).await.unwrap_err().class, "not_triaged");
    let mut lost = good.clone();
    let blob = BlobRef { sha256: Digest::of(b"gone"), bytes: 1, media_type: "image/png".into() };
    lost.rendition.as_mut().unwrap().blob = blob;
    assert_eq!(run(&stage, lost).await.unwrap_err().class, "blob_unusable");
}

#[tokio::test]
async fn a_specialist_that_sees_the_middle_finds_nothing_beyond_it() {
    let blobs = BlobStore::memory();
    let area = PictureArea { x: 20, y: 0, width: 40, height: 40 };
    let told = Told::new("adult", FRONTAL, [None, None], &[("Effusion", 0.6)]);
    let told = Told { area, ..Arc::into_inner(told).unwrap() };
    let stage = Specialist::new(&Config::default(), vec![Arc::new(told)], blobs.clone()).unwrap();
    let case = run(&stage, case(&blobs, FRONTAL, None).await).await.unwrap();
    let region = case.findings[0].region.as_ref().unwrap();
    let seen = region.rendition_box;
    assert!(seen.x >= 40.0 && seen.x + seen.width <= 60.0 && seen.y >= 20.0, "{seen:?}");
    let png = blobs.get(region.heat_map.sha256, 1 << 20).await.unwrap();
    let map = image::load_from_memory(&png).unwrap().into_luma8();
    assert_eq!(map.dimensions(), (80, 40));
    assert_eq!(map.get_pixel(61, 39).0, [0]);
}

#[tokio::test]
async fn what_nobody_has_calibrated_says_so_and_without_an_operating_point_nothing_is_looked_for() {
    let blobs = BlobStore::memory();
    let told =
        || Arc::into_inner(Told::new("raw", FRONTAL, [None, None], &[("Mass", 0.9)])).unwrap();
    let raw = Told { calibrated: false, ..told() };
    let stage = Specialist::new(&Config::default(), vec![Arc::new(raw)], blobs.clone()).unwrap();
    let film = case(&blobs, FRONTAL, None).await;
    let seen = run(&stage, film.clone()).await.unwrap();
    assert_eq!(seen.assessment.unwrap().uncalibrated, ["raw"]);

    let unset = || {
        let mut own = Told { calibrated: false, ..told() };
        own.labels[0].operating_point = None;
        Arc::new(own) as Arc<dyn Classifier>
    };
    let models = vec![unset(), paediatric()];
    let stage = Specialist::new(&Config::default(), models, blobs.clone()).unwrap();
    let assessment = run(&stage, film).await.unwrap().assessment.unwrap();
    assert!(assessment.models.is_empty());
    let reason = assessment.reason.unwrap();
    assert!(reason.ends_with("but raw, which has no operating point"), "{reason}");

    let named = Config { models: vec!["raw".to_owned()] };
    let error = Specialist::new(&named, vec![unset()], blobs.clone()).err().unwrap().to_string();
    assert!(error.contains("\"raw\", whose model.toml has no operating point"), "{error}");
    let error = Specialist::new(&Config::default(), vec![unset()], blobs).err().unwrap();
    assert!(error.to_string().contains("no classifier with operating points"), "{error}");
}

#[test]
fn a_specialist_that_is_named_must_be_there() {
    let open = |models: &[&str], there| {
        let models = models.iter().map(|name| (*name).to_owned()).collect();
        Specialist::new(&Config { models }, there, BlobStore::memory())
    };
    assert_eq!(open(&["paediatric"], vec![adult(), paediatric()]).unwrap().classifiers.len(), 1);
    let error = open(&["adlut"], vec![adult()]).err().unwrap().to_string();
    assert!(error.contains("\"adlut\"") && error.contains("\"adult\""), "{error}");
    assert!(open(&[], Vec::new()).is_err());
}
