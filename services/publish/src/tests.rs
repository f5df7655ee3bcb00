//! Every end of a Case, and what goes out with it.

use std::io::Cursor;

use duet_case::{
    Assessment, CaseId, Code, Decision, Digest, Finding, Format, MeasuredLine, Measurement,
    ModelRef, Outcome as End, Priority, Probability, Rendition, Source, StudyKey, Triage,
    WindowMethod,
};
use duet_imaging::Identifiers;
use duet_seal::{Purpose, Sealer};
use duet_telemetry::Health;
use image::GrayImage;

use super::*;

fn model(name: &str) -> ModelRef {
    let sha256 = Digest::of(name.as_bytes());
    ModelRef { name: name.to_owned(), version: "1".to_owned(), sha256 }
}

fn case(rendition: Option<BlobRef>) -> Case {
    let source = Source {
        width: 1024,
        height: 900,
        bits: 8,
        frames: 1,
        ..Source::new(Format::Png, b"film")
    };
    Case {
        rendition: rendition.map(|blob| Rendition {
            blob,
            width: 1024,
            height: 900,
            scale: [1.0, 1.0],
            window: WindowMethod::Identity,
            inverted: false,
        }),
        ..Case::new(CaseId::of_input(b"film"), StudyKey::from_mac(&[7; 32]), Utc::now(), source)
    }
}

fn triaged(decision: Decision, rendition: Option<BlobRef>) -> Case {
    let triage = Triage {
        decision,
        priority: Priority::Routine,
        reasons: vec!["abnormal 1.0 %, below 3.0 %".to_owned()],
        kind: "chest-radiograph-frontal".to_owned(),
        kind_meaning: "chest radiograph, frontal".to_owned(),
        fitness: "fit".to_owned(),
        abnormal: Probability::ZERO,
        clear_below: None,
        rules: None,
        audit: false,
        scores: Vec::new(),
        model: model("generalist"),
    };
    Case { triage: Some(triage), ..case(rendition) }
}

fn assessed(findings: &[(&str, f64)], rendition: Option<BlobRef>) -> Case {
    let finding = |(label, probability): &(&str, f64)| Finding {
        label: (*label).to_owned(),
        code: Code { scheme: "SCT".into(), value: "1".into(), meaning: (*label).into() },
        probability: Probability::new(*probability).unwrap(),
        threshold: Probability::ZERO,
        sensitivity: None,
        specificity: None,
        region: None,
        model: model("cxr-findings"),
    };
    let models = vec![model("cxr-findings")];
    Case {
        assessment: Some(Assessment { models, ..Assessment::default() }),
        findings: findings.iter().map(finding).collect(),
        ..triaged(Decision::Flagged, rendition)
    }
}

/// The same with a cardiothoracic ratio, and the view that the file says.
fn measured(case: Case, value: Option<f64>, view: &str) -> Case {
    let code = Code { scheme: "99DUET".into(), value: "ctr".into(), meaning: "ratio".into() };
    let line = |name: &str, y: f64, width: f64| {
        let ends = [[300.0, y], [300.0 + width, y]];
        MeasuredLine { name: name.into(), rendition: ends, original: ends }
    };
    let lines = vec![line("Heart", 500.0, 280.0), line("Chest", 620.0, 500.0)];
    let mut case = case;
    case.source.view_position = Some(view.to_owned());
    case.measurements = vec![Measurement {
        name: "Cardiothoracic ratio".to_owned(),
        code: code.clone(),
        value,
        unit: code,
        usual_up_to: Some(0.5),
        lines: if value.is_some() { lines } else { Vec::new() },
        areas: Vec::new(),
        reason: value.is_none().then(|| "no heart was outlined".to_owned()),
        cautions: Vec::new(),
        model: model("cxr-anatomy"),
    }];
    case
}

async fn rendition(blobs: &BlobStore) -> BlobRef {
    let mut png = Cursor::new(Vec::new());
    let picture = GrayImage::from_fn(1024, 900, |x, y| image::Luma([((x + y) / 8) as u8]));
    picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
    blobs.put(png.into_inner().into(), PNG).await.unwrap()
}

#[test]
fn every_end_is_told_apart_and_says_why() {
    let mut unfit = assessed(&[], None);
    unfit.triage.as_mut().unwrap().fitness = "blurred".to_owned();
    let unlooked =
        |reason: &str| Assessment { reason: Some(reason.to_owned()), ..Assessment::default() };
    let nobody = Case {
        assessment: Some(unlooked("no specialist reads a lateral film")),
        ..triaged(Decision::Flagged, None)
    };
    let mut raw = assessed(&[("Mass", 0.4)], None);
    raw.assessment.as_mut().unwrap().uncalibrated = vec!["chexnet".to_owned()];
    let report = Case { assessment: Some(unlooked("a structured report")), ..case(None) };
    let audited = Case { triage: triaged(Decision::Cleared, None).triage, ..assessed(&[], None) };
    for (case, end, says) in [
        (
            assessed(&[("Effusion", 0.81), ("Mass", 0.4)], None),
            End::Findings,
            "Effusion (81 %), Mass (40 %).",
        ),
        (assessed(&[], None), End::NoFinding, "No finding: none of the 0 labels of cxr-findings"),
        (
            raw,
            End::Findings,
            "Mass (40 %); the percentages of chexnet are scores, nobody has calibrated them.",
        ),
        (unfit, End::NoFinding, "may not be fit to read (blurred)."),
        (audited, End::NoFinding, "No finding"),
        (
            triaged(Decision::Cleared, None),
            End::Cleared,
            "no specialist looked: abnormal 1.0 %, below 3.0 %.",
        ),
        (
            triaged(Decision::OutOfScope, None),
            End::NotLookedFor,
            "Nothing was looked for: abnormal",
        ),
        (nobody, End::NotLookedFor, "no specialist reads a lateral film."),
        (report, End::NotLookedFor, "Nothing was looked for: a structured report."),
        (case(None), End::NotLookedFor, "Nothing was looked for: the file holds no picture."),
    ] {
        let conclusion = conclude(&case).unwrap();
        assert_eq!(conclusion.outcome, end, "{conclusion:?}");
        assert!(conclusion.summary.contains(says), "{conclusion:?}");
    }
    assert_eq!(conclude(&triaged(Decision::Flagged, None)), None, "a specialist is still to look");
}

#[test]
fn what_was_measured_is_told_as_measured_and_changes_no_end() {
    let none = || assessed(&[], None);
    for (case, end, says) in [
        (
            measured(none(), Some(0.564), "PA"),
            End::NoFinding,
            "; measured: cardiothoracic ratio 0.56, over the 0.50 that is usual on adults' PA films.",
        ),
        (
            measured(none(), Some(0.5), "PA"),
            End::NoFinding,
            "; measured: cardiothoracic ratio 0.50.",
        ),
        (
            measured(none(), Some(0.61), "AP"),
            End::NoFinding,
            "adults' PA films (AP film: too large).",
        ),
        (
            measured(assessed(&[("Mass", 0.4)], None), Some(0.4), "PA"),
            End::Findings,
            "Mass (40 %); measured: cardiothoracic ratio 0.40.",
        ),
        (measured(none(), None, "PA"), End::NoFinding, "reached its operating point."),
    ] {
        let conclusion = conclude(&case).unwrap();
        assert_eq!(conclusion.outcome, end, "{conclusion:?}");
        assert!(conclusion.summary.ends_with(says), "{conclusion:?}");
    }
}

#[tokio::test]
async fn the_lines_of_a_measurement_are_drawn() {
    let blobs = BlobStore::memory();
    let blob = rendition(&blobs).await;
    let stage = Publish::new(blobs.clone());
    let plain = assessed(&[], Some(blob));
    let cases =
        vec![measured(plain.clone(), None, "PA"), measured(plain.clone(), Some(0.56), "PA"), plain];
    let mut drawn = Vec::new();
    for outcome in stage.process(cases).await {
        let Outcome::Emit(published, _) = outcome else { panic!("{outcome:?}") };
        let picture = image::load_from_memory(&published.annotated.unwrap()).unwrap().into_rgb8();
        drawn.push(picture);
    }
    let [without, with, plain] = drawn.try_into().unwrap();
    let film =
        |picture: &image::RgbImage| image::imageops::crop_imm(picture, 0, 0, 1024, 900).to_image();
    assert_eq!(film(&without), film(&plain), "no value, no lines");
    assert_ne!(without, plain, "and the reason in the panel");
    for (x, y) in [(320, 500), (560, 500), (320, 620), (780, 620)] {
        assert_ne!(with.get_pixel(x, y), plain.get_pixel(x, y), "a line at {x}, {y}");
    }
}

#[tokio::test]
async fn a_report_goes_out_with_its_picture_and_the_notice() {
    let blobs = BlobStore::memory();
    let blob = rendition(&blobs).await;
    let stage = Publish::new(blobs.clone());
    for case in [
        assessed(&[("Effusion", 0.81)], Some(blob.clone())),
        triaged(Decision::Cleared, Some(blob.clone())),
        triaged(Decision::OutOfScope, Some(blob.clone())),
    ] {
        let outcome = stage.process(vec![case]).await.remove(0);
        let Outcome::Emit(published, Topic::Reports) = outcome else { panic!("{outcome:?}") };
        let [report, picture] =
            published.into_payloads(Topic::Reports).unwrap().try_into().unwrap();

        assert_eq!((report.topic, picture.topic), (Topic::Reports, Topic::Annotated));
        assert_eq!(picture.content_type, "image/png");
        let case = Case::from_json(&report.value).unwrap();
        let publication = case.publication.unwrap();
        assert_eq!(publication.notice, "Research use only. Not for diagnosis.");
        let kept = publication.annotated.unwrap();
        assert_eq!(blobs.get(kept.sha256, 1 << 24).await.unwrap(), picture.value);
        let drawn = image::load_from_memory(&picture.value).unwrap();
        assert!(drawn.width() >= 1024, "legible: {} pixels wide", drawn.width());
        assert_ne!(kept.sha256, blob.sha256, "the notice is burnt in");
    }
}

#[tokio::test]
async fn a_file_without_pixels_is_a_report_alone() {
    let stage = Publish::new(BlobStore::memory());
    let outcome = stage.process(vec![case(None)]).await.remove(0);
    let Outcome::Emit(published, Topic::Reports) = outcome else { panic!("{outcome:?}") };
    assert_eq!(published.into_payloads(Topic::Reports).unwrap().len(), 1);
}

#[tokio::test]
async fn what_has_come_to_no_end_or_lost_its_picture_is_rejected_alone() {
    let blobs = BlobStore::memory();
    let blob = rendition(&blobs).await;
    let gone = BlobRef { sha256: Digest::of(b"gone"), ..blob.clone() };
    let stage = Publish::new(blobs);
    let cases = vec![
        triaged(Decision::Flagged, Some(blob.clone())),
        triaged(Decision::Cleared, Some(gone)),
        triaged(Decision::Cleared, Some(blob)),
    ];
    let ends: Vec<_> = stage
        .process(cases)
        .await
        .into_iter()
        .map(|outcome| match outcome {
            Outcome::Emit(..) => "emitted",
            Outcome::Reject(reason) | Outcome::Retry(reason) => reason.class,
        })
        .collect();
    assert_eq!(ends, ["not_concluded", "blob_unusable", "emitted"]);
}

/// A case with something sealed for the case `of`, by a key of `folder`.
fn sealed(folder: &Path, of: &CaseId) -> Case {
    let sealer = Sealer::load_or_create(&folder.join("sealing.keys")).unwrap();
    let identifiers =
        Identifiers { patient_id: Some("ZZMARKID".to_owned()), ..Identifiers::default() };
    let mut case = triaged(Decision::Cleared, None);
    case.source.sealed = Some(sealer.seal(of, Purpose::Filing, &identifiers).unwrap());
    case
}

#[tokio::test]
async fn a_report_whose_seal_is_broken_does_not_go_out() {
    let folder = tempfile::tempdir().unwrap();
    let health = Health::default();
    let keys = folder.path().join("sealing.keys");
    let own = sealed(folder.path(), &CaseId::of_input(b"film"));
    let stage = Publish::new(BlobStore::memory())
        .with_sealing_keys(&keys, true, health.item("sealing keys", ""))
        .unwrap();
    let published = stage.publish(own.clone()).await.unwrap();
    assert_eq!(published.case.source.sealed, own.source.sealed, "it goes on as it came");
    assert!(health.missing().is_empty());

    let moved = sealed(folder.path(), &CaseId::of_input(b"another film"));
    let Err(Setback::Reject(reason)) = stage.publish(moved).await else { panic!("it went out") };
    assert_eq!(reason.class, "seal_broken");
    assert!(reason.message.contains("sealed for another case"), "{}", reason.message);
    assert!(!reason.message.contains("ZZMARK"));
    assert!(health.missing().is_empty(), "a record's fault is not the deployment's");
}

#[tokio::test]
async fn a_missing_key_is_told_and_holds_no_report_back() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let id = CaseId::of_input(b"film");
    let case = sealed(folder.path(), &id);
    sealed(other.path(), &id);
    let keys = other.path().join("sealing.keys");
    let health = Health::default();
    let item = health.item("sealing keys", "");
    let stage =
        Publish::new(BlobStore::memory()).with_sealing_keys(&keys, true, item.clone()).unwrap();
    stage.publish(case.clone()).await.unwrap();
    let said = health.missing()["sealing keys"].clone();
    let key = case.source.sealed.as_ref().unwrap().key.clone();
    assert!(said.contains(&key) && said.contains("prepare.sealing_key_file"), "{said}");
    // The right file in its place, and no new start.
    std::fs::copy(folder.path().join("sealing.keys"), &keys).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    stage.publish(case.clone()).await.unwrap();
    assert!(health.missing().is_empty());

    // Where no file is configured, none has to be there.
    let nowhere = other.path().join("nowhere.keys");
    let stage = Publish::new(BlobStore::memory());
    assert!(stage.with_sealing_keys(&nowhere, true, item.clone()).is_err());
    let stage = Publish::new(BlobStore::memory()).with_sealing_keys(&nowhere, false, item).unwrap();
    stage.publish(case).await.unwrap();
    assert!(health.missing().is_empty());
}
