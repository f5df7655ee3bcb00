//! The stage on a store in memory and a model that answers what it is told.

use std::io::Cursor;

use bytes::Bytes;
use duet_case::{
    BlobRef, CaseId, Digest, Format, Probability, Rendition, Source, StudyKey, WindowMethod,
};
use duet_inference::{AnswerScore, Answered, InferenceError, Question};
use image::GrayImage;

use super::*;

/// Sees a normal frontal chest film in a dark picture, and a photograph in a bright one.
struct Told {
    model: ModelRef,
    rules: DecisionRules,
}

impl Told {
    fn new() -> Arc<Self> {
        let model = ModelRef {
            name: "told".to_owned(),
            version: "1".to_owned(),
            sha256: Digest::of(b"told"),
        };
        let p = |value| Probability::new(value).unwrap();
        let rules = DecisionRules {
            scope_min: p(0.1),
            fitness_min: p(0.5),
            clear_below: Some(p(0.1)),
            shortfall: None,
            clear_kinds: vec!["chest-radiograph-frontal".to_owned()],
            miss_rate: None,
        };
        Arc::new(Self { model, rules })
    }
}

impl VisionLanguage for Told {
    fn model(&self) -> &ModelRef {
        &self.model
    }

    fn rules(&self) -> &DecisionRules {
        &self.rules
    }

    fn look(&self, picture: &GrayImage) -> Result<Look, InferenceError> {
        let bright = picture.get_pixel(0, 0).0[0] > 127;
        if picture.width() == 13 {
            return Err(InferenceError::EmptyPicture { model: "told".into(), width: 0, height: 0 });
        }
        let answered = |question, answers: [(&str, f64); 2]| Answered {
            question,
            answers: answers
                .into_iter()
                .map(|(id, value)| AnswerScore {
                    id: id.to_owned(),
                    meaning: id.to_owned(),
                    in_scope: id.starts_with("chest"),
                    probability: Probability::new(value).unwrap(),
                })
                .collect(),
        };
        let chest = if bright { 0.0 } else { 1.0 };
        Ok(Look {
            questions: vec![
                answered(
                    Question::Kind,
                    [("chest-radiograph-frontal", chest), ("photograph", 1.0 - chest)],
                ),
                answered(Question::Fitness, [("fit", 1.0), ("blurred", 0.0)]),
                answered(Question::Abnormal, [("normal", 0.95), ("abnormal", 0.05)]),
            ],
        })
    }
}

fn case(rendition: Option<BlobRef>) -> Case {
    let rendition = rendition.map(|blob| Rendition {
        blob,
        width: 8,
        height: 8,
        scale: [1.0, 1.0],
        window: WindowMethod::Identity,
        inverted: false,
    });
    let source =
        Source { width: 8, height: 8, bits: 8, frames: 1, ..Source::new(Format::Png, b"film") };
    Case {
        rendition,
        ..Case::new(
            CaseId::of_input(b"film"),
            StudyKey::from_mac(&[7; 32]),
            chrono::Utc::now(),
            source,
        )
    }
}

async fn put(blobs: &BlobStore, width: u32, grey: u8) -> BlobRef {
    let mut png = Cursor::new(Vec::new());
    let picture = GrayImage::from_pixel(width, 8, image::Luma([grey]));
    picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
    blobs.put(Bytes::from(png.into_inner()), "image/png").await.unwrap()
}

/// What becomes of each blob, as `topic` or `class`.
async fn check(config: Config, blobs: &BlobStore, renditions: Vec<Option<BlobRef>>) -> Vec<String> {
    let stage = Triage::new(config, Generalist::Embedded(Told::new()), blobs.clone()).unwrap();
    let outcomes = stage.process(renditions.into_iter().map(case).collect()).await;
    outcomes
        .into_iter()
        .map(|outcome| match outcome {
            Outcome::Emit(case, topic) => {
                let triage = case.triage.unwrap();
                assert!(!triage.reasons.is_empty());
                format!("{topic}: {} audit {}", triage.decision.name(), triage.audit)
            }
            Outcome::Reject(reason) => format!("rejected {}", reason.class),
            Outcome::Retry(reason) => format!("retried {}", reason.class),
        })
        .collect()
}

#[tokio::test]
async fn each_image_goes_where_its_decision_says_and_a_bad_one_costs_itself_alone() {
    let blobs = BlobStore::memory();
    let dark = put(&blobs, 8, 10).await;
    let bright = put(&blobs, 8, 250).await;
    let failing = put(&blobs, 13, 10).await;
    let text = blobs.put(Bytes::from_static(b"no picture"), "image/png").await.unwrap();
    let missing = BlobRef { sha256: Digest::of(b"never written"), ..dark.clone() };
    let config = Config { audit_rate: 0.0, ..Config::default() };
    let all = [Some(dark), Some(bright), Some(text), Some(missing), None, Some(failing)];
    assert_eq!(
        check(config, &blobs, all.to_vec()).await,
        [
            "cleared: cleared audit false",
            "out-of-scope: out_of_scope audit false",
            "rejected rendition_unreadable",
            "rejected blob_unusable",
            "rejected no_rendition",
            "rejected inference",
        ]
    );
}

#[tokio::test]
async fn an_audited_image_is_cleared_and_goes_to_the_specialist_all_the_same() {
    let blobs = BlobStore::memory();
    let dark = put(&blobs, 8, 10).await;
    let config = Config { audit_rate: 1.0, ..Config::default() };
    assert_eq!(check(config, &blobs, vec![Some(dark)]).await, ["flagged: cleared audit true"]);
}

#[tokio::test]
async fn the_configuration_may_be_stricter_than_the_model() {
    let blobs = BlobStore::memory();
    let dark = put(&blobs, 8, 10).await;
    let config = Config { clear_below: Some(0.0), ..Config::default() };
    assert_eq!(check(config, &blobs, vec![Some(dark)]).await, ["flagged: flagged audit false"]);
}

#[test]
fn a_threshold_that_is_no_probability_is_refused_by_name() {
    for config in [
        Config { audit_rate: 1.5, ..Config::default() },
        Config { audit_rate: f64::NAN, ..Config::default() },
        Config { clear_below: Some(-0.1), ..Config::default() },
    ] {
        let told = Generalist::Embedded(Told::new());
        let error = Triage::new(config, told, BlobStore::memory()).err().unwrap();
        assert!(error.to_string().starts_with("triage."), "{error}");
    }
}
