//! Serves the page with made-up cases, to look at it while working on it:
//! `cargo run -p duet-review --example preview -- FILM.png [PORT]`. The film is any 8-bit grey PNG.

use std::{f64::consts::TAU, io::Cursor, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use duet_blob::BlobStore;
use duet_case::{
    Assessment, BlobRef, Case, CaseId, Code, Conclusion, Decision, Digest, Finding, Format, Hop,
    LabelScore, MeasuredLine, Measurement, ModelRef, Outcome, PatientContext, PixelBox, Priority,
    Probability, Publication, Region, Rendition, SCHEMA_VERSION, Score, Sex, Source, StudyKey,
    Topic, Triage, WindowMethod,
};
use duet_review::{Config, Review, router};
use duet_stage::{CaseIndex, IndexConfig};
use duet_telemetry::Health;
use duet_transport::{Broker, Headers, MemoryBroker, Outgoing};
use tokio_util::sync::CancellationToken;

const NOTICE: &str = "Research use only. Not for diagnosis.";

fn p(value: f64) -> Probability {
    Probability::new(value).unwrap_or(Probability::ZERO)
}

fn model(name: &str) -> ModelRef {
    ModelRef { name: name.into(), version: "1.0.0".into(), sha256: Digest::of(name.as_bytes()) }
}

/// The pictures that every made-up case shows.
struct Film {
    bytes: Bytes,
    rendition: BlobRef,
    annotated: BlobRef,
    heat: BlobRef,
    width: u32,
    height: u32,
}

impl Film {
    async fn open(path: &str, blobs: &BlobStore) -> anyhow::Result<Self> {
        let bytes = Bytes::from(tokio::fs::read(path).await?);
        let picture = image::load_from_memory(&bytes)?.into_luma8();
        let (width, height) = picture.dimensions();
        let png = |picture: image::DynamicImage| -> anyhow::Result<Bytes> {
            let mut bytes = Vec::new();
            picture.write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png)?;
            Ok(bytes.into())
        };
        let heat = image::GrayImage::from_fn(width, height, |x, y| {
            let (dx, dy) =
                (f64::from(x) / f64::from(width) - 0.42, f64::from(y) / f64::from(height) - 0.62);
            image::Luma([(255.0 * (-(dx * dx + dy * dy) * 40.0).exp()) as u8])
        });
        let rendition = png(picture.clone().into())?;
        let mut drawn = image::DynamicImage::from(picture).into_rgb8();
        for x in 0..width {
            drawn.put_pixel(x, height / 2, image::Rgb([255, 180, 84]));
        }
        let annotated = png(drawn.into())?;
        Ok(Self {
            rendition: blobs.put(rendition, "image/png").await?,
            annotated: blobs.put(annotated, "image/png").await?,
            heat: blobs.put(png(heat.into())?, "image/png").await?,
            bytes,
            width,
            height,
        })
    }

    fn finding(&self, label: &str, probability: f64, at: [f64; 2]) -> Finding {
        let (w, h) = (f64::from(self.width), f64::from(self.height));
        let ring: Vec<[f64; 2]> = (0..48)
            .map(|n| {
                let angle = TAU * f64::from(n) / 48.0;
                let wobble = 1.0 + 0.12 * (3.0 * angle).sin();
                [
                    w * (at[0] + 0.12 * wobble * angle.cos()),
                    h * (at[1] + 0.09 * wobble * angle.sin()),
                ]
            })
            .collect();
        let around = PixelBox {
            x: w * (at[0] - 0.12),
            y: h * (at[1] - 0.1),
            width: w * 0.24,
            height: h * 0.2,
        };
        Finding {
            label: label.into(),
            code: Code { scheme: "SCT".into(), value: "8186001".into(), meaning: label.into() },
            probability: p(probability),
            threshold: p(0.31),
            sensitivity: Some(p(0.81)),
            specificity: Some(p(0.74)),
            region: Some(Region {
                rendition_box: around,
                original_box: around,
                rendition_contours: vec![ring.clone()],
                original_contours: vec![ring],
                heat_map: self.heat.clone(),
            }),
            model: model("cxr-findings"),
        }
    }

    fn measurement(&self) -> Measurement {
        let (w, h) = (f64::from(self.width), f64::from(self.height));
        let line = |name: &str, from: f64, to: f64, y: f64| {
            let ends = [[w * from, h * y], [w * to, h * y]];
            MeasuredLine { name: name.into(), rendition: ends, original: ends }
        };
        Measurement {
            name: "Cardiothoracic ratio".into(),
            code: Code {
                scheme: "99DUET".into(),
                value: "cardiothoracic-ratio".into(),
                meaning: "Cardiothoracic ratio".into(),
            },
            value: Some(0.56),
            unit: Code { scheme: "UCUM".into(), value: "1".into(), meaning: "no units".into() },
            usual_up_to: Some(0.5),
            lines: vec![line("Heart", 0.32, 0.74, 0.62), line("Chest", 0.12, 0.87, 0.7)],
            areas: vec![],
            reason: None,
            cautions: vec!["taken from the front (AP): the ratio is too large".into()],
            model: model("cxr-anatomy"),
        }
    }

    /// The `n`-th made-up case, at its start.
    fn case(&self, n: usize, received_at: DateTime<Utc>) -> Case {
        let mut bytes = self.bytes.to_vec();
        bytes.extend_from_slice(&n.to_be_bytes());
        Case {
            schema_version: SCHEMA_VERSION,
            id: CaseId::of_input(&bytes),
            study: StudyKey::from_mac(Digest::of(&bytes).as_bytes()),
            received_at,
            source: Source {
                format: [Format::Dicom, Format::Png, Format::Jpeg][n % 3],
                sha256: Digest::of(&bytes),
                bytes: 7_340_244,
                transfer_syntax: Some("1.2.840.10008.1.2.1".into()),
                sop_class: None,
                modality: Some("DX".into()),
                body_part: Some("CHEST".into()),
                view_position: Some("PA".into()),
                laterality: None,
                photometric: Some("MONOCHROME2".into()),
                width: 2 * self.width,
                height: 2 * self.height,
                bits: 12,
                frames: 1,
                pixel_spacing_mm: Some([0.16, 0.16]),
                patient: PatientContext { age_years: Some(61), sex: Some(Sex::F) },
                notes: vec![],
                sealed: None,
            },
            rendition: Some(Rendition {
                blob: self.rendition.clone(),
                width: self.width,
                height: self.height,
                scale: [2.0, 2.0],
                window: WindowMethod::Window { center: 2048.0, width: 4096.0 },
                inverted: false,
            }),
            triage: None,
            assessment: None,
            findings: vec![],
            measurements: vec![],
            conclusion: None,
            publication: None,
            hops: vec![hop("prepare", received_at, 4.0, 62.0, &[])],
        }
    }
}

fn hop(stage: &str, from: DateTime<Utc>, queue: f64, took: f64, models: &[&str]) -> Hop {
    Hop {
        stage: stage.into(),
        models: models.iter().map(|name| model(name)).collect(),
        started_at: from + TimeDelta::microseconds((queue * 1e3) as i64),
        queue_ms: queue,
        duration_ms: took,
        batch: 4,
        cpu_seconds: took / 1.1e3,
        joules_estimated: took / 1.1e2,
    }
}

fn triage(decision: Decision, priority: Priority, abnormal: f64, reasons: &[&str]) -> Triage {
    let score = |question: &str, answer: &str, probability| Score {
        question: question.into(),
        answer: answer.into(),
        probability: p(probability),
        stated: false,
    };
    Triage {
        decision,
        priority,
        reasons: reasons.iter().map(|&reason| reason.to_owned()).collect(),
        kind: "chest-radiograph-frontal".into(),
        kind_meaning: if decision == Decision::OutOfScope {
            "photograph"
        } else {
            "chest radiograph, frontal"
        }
        .into(),
        fitness: "fit".into(),
        abnormal: p(abnormal),
        clear_below: Some(p(0.05)),
        rules: None,
        audit: false,
        scores: vec![
            score("kind", "chest-radiograph-frontal", 0.97),
            score("kind", "chest-radiograph-lateral", 0.02),
            score("kind", "photograph", 0.01),
            score("fitness", "fit", 0.93),
            score("fitness", "cropped", 0.05),
            score("abnormal", "abnormal", abnormal),
            score("abnormal", "normal", 1.0 - abnormal),
        ],
        model: model("generalist"),
    }
}

fn finish(mut case: Case, film: &Film, outcome: Outcome, summary: &str) -> Case {
    let end = case.hops.last().map_or(case.received_at, |hop| {
        hop.started_at + TimeDelta::microseconds((hop.duration_ms * 1e3) as i64)
    });
    case.hops.push(hop("publish", end, 7.0, 38.0, &[]));
    case.conclusion = Some(Conclusion { outcome, summary: summary.into() });
    case.publication = Some(Publication {
        published_at: end + TimeDelta::milliseconds(45),
        annotated: Some(film.annotated.clone()),
        notice: NOTICE.into(),
    });
    case
}

/// A case of one of six kinds, and the topic it has come to.
fn story(film: &Film, n: usize) -> (Topic, Case) {
    let mut case = film.case(n, Utc::now() - TimeDelta::seconds(40));
    let after = case.received_at + TimeDelta::milliseconds(66);
    if n % 6 == 5 {
        return (Topic::Prepared, case);
    }
    case.hops.push(hop("triage", after, 21.0, 84.0, &["generalist"]));
    let after = after + TimeDelta::milliseconds(105);
    match n % 6 {
        0 | 3 => {
            let (priority, abnormal) = if n.is_multiple_of(6) {
                (Priority::Urgent, 0.83)
            } else {
                (Priority::Emergency, 0.96)
            };
            case.triage = Some(triage(
                Decision::Flagged,
                priority,
                abnormal,
                &[
                    "looks abnormal: 83 %, at or above the 5 % below which a film may be cleared",
                    "<b>markup</b> in a reason stays <script>text</script>",
                ],
            ));
            case.hops.push(hop("specialist", after, 33.0, 141.0, &["cxr-findings", "cxr-anatomy"]));
            case.findings = vec![
                film.finding("Cardiomegaly", 0.87, [0.55, 0.62]),
                film.finding("Effusion", 0.64, [0.26, 0.74]),
                film.finding("Atelectasis", 0.41, [0.72, 0.4]),
            ];
            case.findings.truncate(1 + n % 3 + usize::from(n.is_multiple_of(6)) * 2);
            case.assessment = Some(Assessment {
                models: vec![model("cxr-findings")],
                scores: [
                    "Cardiomegaly",
                    "Effusion",
                    "Nodule",
                    "Mass",
                    "Pneumothorax",
                    "Oedema",
                    "Hernia",
                ]
                .iter()
                .enumerate()
                .map(|(i, label)| LabelScore {
                    label: (*label).into(),
                    probability: p(0.87 / (1.0 + i as f64)),
                    threshold: p(0.35),
                    model: "cxr-findings".into(),
                })
                .collect(),
                ..Assessment::default()
            });
            case.measurements = vec![film.measurement()];
            let summary =
                "Findings for a radiologist to check: Cardiomegaly (87 %), Effusion (64 %).";
            (Topic::Reports, finish(case, film, Outcome::Findings, summary))
        }
        1 => {
            case.triage = Some(triage(
                Decision::Cleared,
                Priority::Routine,
                0.02,
                &["nothing abnormal seen: 2 %, below 5 %"],
            ));
            let summary = "Triage saw nothing abnormal; no specialist looked.";
            (Topic::Reports, finish(case, film, Outcome::Cleared, summary))
        }
        2 => {
            case.triage = Some(triage(
                Decision::OutOfScope,
                Priority::Routine,
                0.4,
                &["not a chest radiograph: photograph, 99 %"],
            ));
            let summary =
                "Nothing was looked for: this is a photograph, and Duet reads chest radiographs.";
            (Topic::Reports, finish(case, film, Outcome::NotLookedFor, summary))
        }
        _ => {
            case.triage = Some(triage(
                Decision::Flagged,
                Priority::Routine,
                0.12,
                &["uncertain: abnormal 12 %"],
            ));
            (Topic::Flagged, case)
        }
    }
}

fn dead_letter(n: usize) -> Outgoing {
    use duet_case::DeadLetterHeader as Header;
    let id = CaseId::of_input(format!("dead {n}").as_bytes());
    let headers = Headers::default()
        .with(Header::CASE, id.to_string())
        .with(Header::STAGE, "prepare")
        .with(Header::CLASS, "truncated")
        .with(Header::MESSAGE, "the DICOM file ends after 1,024 of the 7,340,032 bytes of its pixels; export it again from its source")
        .with(Header::TOPIC, "images")
        .with(Header::ATTEMPTS, "1")
        .with(Header::TIME, Utc::now().to_rfc3339());
    Outgoing { topic: Topic::DeadLetters, key: None, headers, value: Bytes::new() }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let film = arguments.next().ok_or_else(|| anyhow::anyhow!("give the path of a PNG file"))?;
    let port: u16 = arguments.next().map_or(Ok(8080), |port| port.parse())?;
    let (broker, blobs) = (MemoryBroker::default(), BlobStore::memory());
    let film = Film::open(&film, &blobs).await?;
    let index = CaseIndex::new(IndexConfig::default());
    let shutdown = CancellationToken::new();
    let health = Health::default().item("cases", "starting");
    tokio::spawn(index.clone().run(Arc::new(broker.clone()), health, shutdown.clone()));
    let sink = broker.sink().await?;
    let feed = async move {
        for n in 0.. {
            let (topic, case) = story(&film, n);
            let value = case.to_json()?.into();
            sink.send(Outgoing { topic, key: None, headers: Headers::default(), value }).await?;
            if n % 8 == 6 {
                sink.send(dead_letter(n)).await?;
            }
            let pause = if n < 14 { 5 } else { 4000 };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        anyhow::Ok(())
    };
    tokio::spawn(feed);
    let app = router(Review::new(&Config::default(), index, blobs, shutdown)?);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    axum::serve(listener, app).await?;
    Ok(())
}
