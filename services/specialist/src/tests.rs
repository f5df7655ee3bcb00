//! The stage on a store in memory and specialists that find what they are told.

use std::io::Cursor;

use bytes::Bytes;
use duet_case::{
    BlobRef, CaseId, Code, Decision, Digest, Format, PatientContext, Priority, Probability, Source,
    StudyKey, WindowMethod,
};
use duet_inference::{
    Accepts, ActivationMap, Classification, InferenceError, Label, LabelResult, Mask,
    OperatingPoint, PictureArea, Platt, Segmentation,
};
use image::GrayImage;

use super::{thorax::tests::Outlines, *};

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
            rules: None,
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
    let thorax = Thorax::of(Arc::new(Outlines::chest())).unwrap();
    measuring(blobs, thorax)
}

fn measuring(blobs: &BlobStore, thorax: Thorax) -> Specialist {
    let classifiers = vec![adult(), paediatric()];
    Specialist::new(&Config::default(), classifiers, vec![thorax], blobs.clone()).unwrap()
}

/// Outlines as a model does that fails: with an error, or by crashing.
struct Failing {
    outlines: Outlines,
    crashes: bool,
}

impl Segmentation for Failing {
    fn model(&self) -> &ModelRef {
        self.outlines.model()
    }

    fn accepts(&self) -> &Accepts {
        self.outlines.accepts()
    }

    fn labels(&self) -> &[Label] {
        self.outlines.labels()
    }

    fn segment(&self, _: &GrayImage) -> Result<Vec<Mask>, InferenceError> {
        assert!(!self.crashes, "a model that crashes");
        let subject = "Heart".to_owned();
        Err(InferenceError::NotAProbability { model: self.model().name.clone(), subject })
    }
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
        let names: Vec<_> = assessment.models.iter().map(|own| own.name.as_str()).collect();
        assert_eq!(names, looks.into_iter().collect::<Vec<_>>(), "{kind} {age:?}");
        let measured: Vec<_> = case.measurements.iter().map(|own| own.model.clone()).collect();
        let took_part = [assessment.models.clone(), measured.clone()].concat();
        assert_eq!(in_the_ledger, took_part, "the ledger names who looked and nobody else");
        // The anatomy model takes frontal films alone.
        assert_eq!(measured.len(), usize::from(looks == Some("adult")), "{kind} {age:?}");
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
async fn the_ratio_is_measured_beside_the_findings_and_is_none_of_them() {
    let blobs = BlobStore::memory();
    let mut case = case(&blobs, FRONTAL, Some(60)).await;
    case.source.view_position = Some("AP".to_owned());
    let case = run(&stage(&blobs), case).await.unwrap();
    let [measured] = case.measurements.as_slice() else { panic!("{:?}", case.measurements) };
    assert_eq!(measured.name, CARDIOTHORACIC_RATIO);
    assert!((measured.value.unwrap() - 0.5).abs() < 0.01, "{measured:?}");
    // 80 x 40 pixels of 2 x 3 of the original's: the chest is 0.625 of 160 wide.
    let [[from, at], [to, _]] = measured.lines[1].original;
    assert!((to - from - 100.0).abs() < 1.0 && (at - 60.0).abs() < 1.0, "{:?}", measured.lines);
    assert!(measured.cautions[0].contains("AP"), "{:?}", measured.cautions);
    assert_eq!(case.findings.len(), 3);
    assert!(case.findings.iter().all(|own| own.model.name == "adult"));
}

#[tokio::test]
async fn a_measurement_that_fails_costs_no_finding() {
    let blobs = BlobStore::memory();
    let whole = run(&stage(&blobs), case(&blobs, FRONTAL, Some(60)).await).await.unwrap();
    for (crashes, says) in [(false, "no probability"), (true, "crashed")] {
        let failing = Arc::new(Failing { outlines: Outlines::chest(), crashes });
        let stage = measuring(&blobs, Thorax::of(failing).unwrap());
        let case = run(&stage, case(&blobs, FRONTAL, Some(60)).await).await.unwrap();
        assert_eq!(case.findings, whole.findings);
        assert_eq!(case.assessment, whole.assessment);
        let [nothing] = case.measurements.as_slice() else { panic!("{:?}", case.measurements) };
        assert_eq!(nothing.value, None);
        assert!(nothing.lines.is_empty() && nothing.areas.is_empty());
        assert!(nothing.reason.as_ref().unwrap().contains(says), "{nothing:?}");
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
    let stage =
        Specialist::new(&Config::default(), vec![Arc::new(told)], Vec::new(), blobs.clone())
            .unwrap();
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
    let stage = Specialist::new(&Config::default(), vec![Arc::new(raw)], Vec::new(), blobs.clone())
        .unwrap();
    let film = case(&blobs, FRONTAL, None).await;
    let seen = run(&stage, film.clone()).await.unwrap();
    assert_eq!(seen.assessment.unwrap().uncalibrated, ["raw"]);

    let unset = || {
        let mut own = Told { calibrated: false, ..told() };
        own.labels[0].operating_point = None;
        Arc::new(own) as Arc<dyn Classifier>
    };
    let models = vec![unset(), paediatric()];
    let stage = Specialist::new(&Config::default(), models, Vec::new(), blobs.clone()).unwrap();
    let assessment = run(&stage, film).await.unwrap().assessment.unwrap();
    assert!(assessment.models.is_empty());
    let reason = assessment.reason.unwrap();
    assert!(reason.ends_with("but raw, which has no operating point"), "{reason}");

    let named = Config { models: vec!["raw".to_owned()] };
    let error = Specialist::new(&named, vec![unset()], Vec::new(), blobs.clone())
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("\"raw\", whose model.toml has no operating point"), "{error}");
    let error =
        Specialist::new(&Config::default(), vec![unset()], Vec::new(), blobs).err().unwrap();
    assert!(error.to_string().contains("no classifier with operating points"), "{error}");
}

#[test]
fn a_specialist_that_is_named_must_be_there() {
    let open = |models: &[&str], there| {
        let models = models.iter().map(|name| (*name).to_owned()).collect();
        let thorax = Thorax::of(Arc::new(Outlines::chest())).unwrap();
        Specialist::new(&Config { models }, there, vec![thorax], BlobStore::memory())
    };
    // names, classifiers, models that measure
    for (names, classifiers, measuring) in
        [(&["paediatric"][..], 1, 0), (&["adult", "anatomy"], 1, 1), (&[], 2, 1)]
    {
        let stage = open(names, vec![adult(), paediatric()]).unwrap();
        let counts = (stage.classifiers.len(), stage.thoraxes.len());
        assert_eq!(counts, (classifiers, measuring), "{names:?}");
    }
    let error = open(&["adlut"], vec![adult()]).err().unwrap().to_string();
    for name in ["\"adlut\"", "\"adult\"", "\"anatomy\""] {
        assert!(error.contains(name), "{error}");
    }
    assert!(open(&[], Vec::new()).is_err());
    assert!(open(&["anatomy"], vec![adult()]).is_err(), "nothing would be looked for");
}
