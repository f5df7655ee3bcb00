//! The whole chain on the embedded broker, in this process: every image comes to one end, and the right one.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use duet_blob::BlobStore;
use duet_case::{Case, CaseId, DeadLetterHeader, Decision, Outcome, Topic};
use duet_inference::Registry;
use duet_prepare::{Prepare, PseudonymKey};
use duet_publish::Publish;
use duet_specialist::Specialist;
use duet_stage::{RunnerConfig, Stage};
use duet_telemetry::Health;
use duet_testkit::{
    bad::{BadInput, Expect, bad_inputs},
    phantoms::{self, DicomOptions, Syntax},
};
use duet_tests::Ends;
use duet_transport::{Broker, Headers, MemoryBroker, Outgoing, Sink};
use duet_triage::{Generalist, Triage};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

/// Only ever waited for by a test that fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Every stage, running in this process.
pub(crate) struct Chain {
    broker: Arc<dyn Broker>,
    health: Health,
    shutdown: CancellationToken,
}

impl Chain {
    async fn start() -> Self {
        let models = models().await;
        let embedded = Generalist::Embedded(models.vision_language("generalist").unwrap());
        Self::with(models, embedded, duet_triage::Config::default()).await
    }

    /// The same with the repository's specialists and another generalist.
    pub(crate) async fn on(generalist: Generalist) -> Self {
        Self::with(models().await, generalist, duet_triage::Config::default()).await
    }

    async fn with(models: &Registry, generalist: Generalist, triage: duet_triage::Config) -> Self {
        let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::default());
        let chain = Self { broker, health: Health::default(), shutdown: CancellationToken::new() };
        let blobs = BlobStore::memory();
        let key = PseudonymKey::random().unwrap();
        chain.run(Prepare::new(duet_prepare::Config::default(), blobs.clone(), key)).await;
        chain.run(Triage::new(triage, generalist, blobs.clone()).unwrap()).await;
        let specialist = duet_specialist::Config::default();
        chain.run(Specialist::open(&specialist, models, blobs.clone()).unwrap()).await;
        chain.run(Publish::new(blobs)).await;
        chain
    }

    async fn run<S: Stage>(&self, stage: S) {
        let exchange = self.broker.exchange(S::NAME, S::INPUTS).await.unwrap();
        let health = self.health.item(S::NAME, "starting");
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            duet_stage::run(stage, exchange, &RunnerConfig::default(), health, shutdown).await
        });
    }

    pub(crate) async fn ends(&self) -> Ends {
        Ends::follow(&*self.broker).await.unwrap()
    }

    /// Feeds `files` as a foreign client does: bytes, and nothing else.
    pub(crate) async fn feed(&self, files: impl IntoIterator<Item = Vec<u8>>) {
        let sink = self.broker.sink().await.unwrap();
        for file in files {
            feed(&*sink, file).await;
        }
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// The models of the repository, loaded once.
async fn models() -> &'static Registry {
    static MODELS: OnceCell<Registry> = OnceCell::const_new();
    let load = || async {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../models");
        tokio::task::spawn_blocking(|| Registry::load(folder.as_ref()).unwrap()).await.unwrap()
    };
    MODELS.get_or_init(load).await
}

pub(crate) async fn feed(sink: &dyn Sink, file: Vec<u8>) {
    let value = Bytes::from(file);
    let record = Outgoing { topic: Topic::Images, key: None, headers: Headers::default(), value };
    sink.send(record).await.unwrap();
}

/// A drawn radiograph in one of the forms that users have.
pub(crate) fn phantom(number: usize) -> Vec<u8> {
    let seed = number as u64;
    let film = if number % 5 == 4 {
        phantoms::hand(seed, 300, 320)
    } else {
        phantoms::chest(seed, 320, 300)
    };
    let dicom = |syntax| {
        let study_instance_uid = format!("1.2.3.{number}");
        phantoms::dicom(
            &film,
            &DicomOptions { syntax, study_instance_uid, ..DicomOptions::default() },
        )
    };
    match number % 8 {
        0 => phantoms::png8(&film),
        1 => phantoms::jpeg(&film),
        2 => phantoms::png16(&film),
        3 => dicom(Syntax::Implicit),
        4 => dicom(Syntax::Explicit),
        5 => dicom(Syntax::BigEndian),
        6 => dicom(Syntax::Deflated),
        _ => dicom(Syntax::Rle),
    }
}

/// What every report of an image that was looked at has.
pub(crate) fn assert_is_whole(case: &Case, ends: &Ends) {
    let conclusion = case.conclusion.as_ref().unwrap();
    assert!(!conclusion.summary.is_empty());
    let stages: Vec<_> = case.hops.iter().map(|hop| hop.stage.as_str()).collect();
    let way = match conclusion.outcome {
        Outcome::Findings | Outcome::NoFinding => {
            &["prepare", "triage", "specialist", "publish"][..]
        }
        Outcome::Cleared | Outcome::NotLookedFor => &["prepare", "triage", "publish"],
    };
    assert!(
        stages == way || conclusion.outcome == Outcome::NotLookedFor,
        "{:?} by {stages:?}",
        conclusion.outcome
    );
    assert_eq!(case.findings.is_empty(), conclusion.outcome != Outcome::Findings);
    let annotated = &ends.annotated[case.id.as_str()];
    assert!(annotated.iter().all(|picture| picture.starts_with(b"\x89PNG\r\n\x1a\n")));
}

/// That `input` came to the end that it has to come to, once.
pub(crate) fn assert_end(input: &BadInput, ends: &Ends) {
    let BadInput { name, bytes, expect } = input;
    let (letters, reports) = (ends.dead_letters_of(bytes), ends.reports_on(bytes));
    match expect {
        Expect::DeadLetter(class) => {
            assert_eq!((letters.as_slice(), reports.len()), (&[*class][..], 0), "{name}");
            let letter = ends.dead_letters.iter().find(|letter| letter.value == *bytes).unwrap();
            let header = |name| letter.headers.text(name).unwrap();
            assert_eq!(header(DeadLetterHeader::STAGE), "prepare", "{name}");
            assert_eq!(header(DeadLetterHeader::TOPIC), "images", "{name}");
            assert!(header(DeadLetterHeader::MESSAGE).len() > 20, "{name}");
        }
        Expect::OutOfScope => {
            assert_eq!((letters.len(), reports.len()), (0, 1), "{name}");
            let outcome = reports[0].conclusion.as_ref().unwrap().outcome;
            assert_eq!(outcome, Outcome::NotLookedFor, "{name}");
        }
        Expect::Report => {
            assert_eq!((letters.as_slice(), reports.len()), (&[][..], 1), "{name}");
            assert_is_whole(&reports[0], ends);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_inputs_end_as_they_should_and_the_services_live_on() {
    let chain = Chain::start().await;
    let mut ends = chain.ends().await;
    let inputs = bad_inputs();
    chain.feed(inputs.iter().map(|input| input.bytes.clone())).await;
    ends.wait_for(inputs.len(), PATIENCE).await.unwrap();
    let after = phantom(0);
    chain.feed([after.clone()]).await;
    ends.wait_for(inputs.len() + 1, PATIENCE).await.unwrap();
    ends.settle().await.unwrap();
    for input in &inputs {
        assert_end(input, &ends);
    }
    assert_eq!(ends.reports_on(&after).len(), 1);
    assert_eq!(ends.count(), inputs.len() + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_image_comes_to_one_report() {
    const IMAGES: usize = 16;
    let chain = Chain::start().await;
    let mut ends = chain.ends().await;
    chain.feed((0..IMAGES).map(phantom)).await;
    ends.wait_for(IMAGES, PATIENCE).await.unwrap();
    ends.settle().await.unwrap();
    for number in 0..IMAGES {
        let reports = ends.reports_on(&phantom(number));
        assert_eq!(reports.len(), 1, "phantom {number}");
        assert_is_whole(&reports[0], &ends);
    }
    assert_eq!((ends.count(), ends.dead_letters.len()), (IMAGES, 0));
    assert!(chain.health.missing().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_file_twice_is_two_reports_of_one_case() {
    let chain = Chain::start().await;
    let mut ends = chain.ends().await;
    let file = phantom(3);
    chain.feed([file.clone(), file.clone()]).await;
    ends.wait_for(2, PATIENCE).await.unwrap();
    ends.settle().await.unwrap();
    let [first, second] = ends.reports_on(&file) else { panic!("{} reports", ends.count()) };
    assert_eq!(first.id, CaseId::of_input(&file));
    let told = |case: &Case| (case.findings.clone(), case.triage.clone(), case.rendition.clone());
    assert_eq!(told(first), told(second));
    assert_eq!((ends.count(), ends.reports.len()), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adding_a_model_is_adding_its_folder_and_what_nobody_calibrated_says_so() {
    // Folders as models/export writes them, with random weights: a generalist and two specialists, of which one has an
    // operating point for one label.
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/inference/testdata/export");
    let models = Registry::load(folder.as_ref()).unwrap();
    let generalist = Generalist::Embedded(models.vision_language("open-clip-vit").unwrap());
    let chain = Chain::with(&models, generalist, duet_triage::Config::default()).await;
    let mut ends = chain.ends().await;
    chain.feed((0..5).map(phantom)).await;
    ends.wait_for(5, PATIENCE).await.unwrap();
    ends.settle().await.unwrap();
    for number in 0..5 {
        let [case] = ends.reports_on(&phantom(number)) else { panic!("phantom {number}") };
        let triage = case.triage.as_ref().unwrap();
        assert_eq!(triage.decision, Decision::Flagged, "it clears and refuses nothing");
        let assessment = case.assessment.as_ref().unwrap();
        let names: Vec<_> = assessment.models.iter().map(|own| own.name.as_str()).collect();
        assert_eq!(names, ["xray-densenet"]);
        assert_eq!(assessment.uncalibrated, ["xray-densenet"]);
        let looked_for: Vec<_> = assessment.scores.iter().map(|own| own.label.as_str()).collect();
        assert_eq!(looked_for, ["Lung Opacity"]);
        let summary = &case.conclusion.as_ref().unwrap().summary;
        let says = "the percentages of xray-densenet are scores, nobody has calibrated them";
        assert!(summary.contains(says), "{summary}");
    }
}
