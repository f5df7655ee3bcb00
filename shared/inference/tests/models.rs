//! Folders of models as users have them: tiny ones that are right, each way of being wrong, and the ones that ship.

// A test's helpers may panic: that is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path};

use duet_case::Digest;
use duet_inference::{Kind, LoadError, Question, Registry, TextError, text_encoder, verify};
use image::GrayImage;
use serde_json::Value;
use tempfile::TempDir;

const TESTDATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata");

fn testdata(name: &str) -> Vec<u8> {
    fs::read(Path::new(TESTDATA).join(name)).unwrap()
}

fn golden(key: &str) -> Vec<f64> {
    let golden: Value = serde_json::from_slice(&testdata("golden.json")).unwrap();
    golden[key].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn picture() -> GrayImage {
    image::load_from_memory(&testdata("picture.png")).unwrap().into_luma8()
}

/// One vector for each answer of `testdata/generalist.toml`.
const PROMPTS: &str = r#"{
    "kind/chest-radiograph-frontal": [1, 0, 0, 0], "kind/photograph": [0, 1, 0, 0],
    "fitness/fit": [0, 0, 1, 0], "fitness/blurred": [0, 0, 0, 1],
    "abnormal/normal": [0.6, 0.8, 0, 0], "abnormal/abnormal": [0, 0.6, 0.8, 0]
}"#;

/// A folder of models in the making.
struct Models(TempDir);

impl Models {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Adds the model `folder` from a manifest and graph in `testdata`, with the digests that belong there.
    fn with(
        self,
        folder: &str,
        manifest: &str,
        graph: &str,
        edit: impl Fn(String) -> String,
    ) -> Self {
        let dir = self.0.path().join(folder);
        fs::create_dir(&dir).unwrap();
        let onnx = testdata(graph);
        fs::write(dir.join("model.onnx"), &onnx).unwrap();
        fs::write(dir.join("prompts.json"), PROMPTS).unwrap();
        fs::write(dir.join("vocab.txt"), testdata("text-vocabulary.txt")).unwrap();
        let text = String::from_utf8(testdata(manifest)).unwrap();
        let text =
            text.replace("VOCABULARY", &Digest::of(&testdata("text-vocabulary.txt")).to_string());
        let text = text
            .replace("PROMPTS_SHA256", &Digest::of(PROMPTS.as_bytes()).to_string())
            .replace("SHA256", &Digest::of(&onnx).to_string());
        fs::write(dir.join("model.toml"), edit(text)).unwrap();
        self
    }

    fn three() -> Self {
        Self::new()
            .with("generalist", "generalist.toml", "generalist.onnx", |text| text)
            .with("cxr-findings", "classifier.toml", "classifier.onnx", |text| text)
            .with("cxr-anatomy", "segmentation.toml", "segmentation.onnx", |text| text)
    }

    /// Why it does not load; asserts that it names the model's folder.
    fn refused(&self, folder: &str) -> String {
        let error = Registry::load(self.0.path()).err().expect("it must not load").to_string();
        assert!(error.contains(folder), "names {folder}: {error}");
        error
    }
}

fn close(ours: f64, theirs: f64, tolerance: f64) -> bool {
    (ours - theirs).abs() <= tolerance
}

#[test]
fn the_input_is_the_one_that_training_saw() {
    let input = golden("input");
    let ours = duet_imaging::squash(&picture(), 16, 16, 0.5, 0.25);
    assert_eq!(ours.len(), input.len());
    // Two grey levels: Pillow rounds between its two passes.
    for (ours, theirs) in ours.iter().zip(&input) {
        assert!(close(f64::from(*ours), *theirs, 2.0 / 255.0 / 0.25), "{ours} against {theirs}");
    }
}

#[test]
fn the_answers_are_onnx_runtimes() {
    let models = Models::three();
    let registry = Registry::load(models.0.path()).unwrap();
    // The inputs differ by rounding, so the outputs may by a little.
    let tolerance = 0.02;

    let classifier = &registry.classifiers()[0];
    let seen = classifier.classify(&picture()).unwrap();
    let (logits, maps) = (golden("logits"), golden("cam"));
    for (i, result) in seen.labels.iter().enumerate() {
        assert!(close(result.logit, logits[i], tolerance), "{} {}", result.logit, logits[i]);
        assert_eq!((result.map.width, result.map.height), (4, 4));
        for (ours, theirs) in result.map.values.iter().zip(&maps[i * 16..]) {
            assert!(close(f64::from(*ours), *theirs, tolerance * 4.0), "{ours} against {theirs}");
        }
    }
    // testdata/classifier.toml: sigmoid(2 * logit + 0.5)
    let expect = 1.0 / (1.0 + (-(2.0 * seen.labels[0].logit + 0.5)).exp());
    assert!(close(seen.labels[0].probability.value(), expect, 1e-9));

    let embedding = golden("embedding");
    let norm = embedding.iter().map(|v| v * v).sum::<f64>().sqrt();
    let (chest, photograph) = (5.0 * embedding[0] / norm, 5.0 * embedding[1] / norm + 0.5);
    let expect = chest.exp() / (chest.exp() + photograph.exp());
    let look = registry.vision_language("generalist").unwrap().look(&picture()).unwrap();
    let ours = look.probability(Question::Kind, "chest-radiograph-frontal").value();
    assert!(close(ours, expect, tolerance), "{ours} against {expect}");

    let areas = registry.segmenters()[0].segment(&picture()).unwrap();
    assert_eq!(areas.len(), 2);
    assert_eq!(areas[0].dimensions(), (16, 16));
    let inside = areas[0].pixels().filter(|p| p.0[0] > 0.0).count();
    assert!((1..256).contains(&inside), "log-odds of both signs: {inside} of 256 inside");
}

#[test]
fn a_text_has_the_vector_that_onnx_runtime_gives_it() {
    let models = Models::three().with("words", "text.toml", "text.onnx", |text| text);
    let encoder = text_encoder(models.0.path(), "words").unwrap();
    let golden: Value = serde_json::from_slice(&testdata("text.json")).unwrap();
    let ours = encoder.embed(golden["text"].as_str().unwrap()).unwrap();
    let theirs = golden["vector"].as_array().unwrap();
    assert_eq!((ours.len(), theirs.len()), (4, 4));
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert!(close(f64::from(*ours), theirs.as_f64().unwrap(), 1e-5), "{ours} against {theirs}");
    }
    // Six words and the two ends are as many pieces as it takes.
    assert!(encoder.embed("lung heart lung heart lung heart").is_ok());
    let error = encoder.embed("lung heart lung heart lung heart lung").unwrap_err();
    assert!(error.to_string().contains("has 9 word pieces, and model words takes 8"), "{error}");
    assert!(matches!(encoder.embed(" \n "), Err(TextError::NoWords { .. })));
}

#[test]
fn what_is_not_pulled_is_named_with_the_command_and_no_service_needs_a_text_model() {
    let models = Models::three().with("words", "text.toml", "text.onnx", |text| text);
    fs::remove_file(models.0.path().join("words/model.onnx")).unwrap();
    let says = "model words is not pulled yet";
    let error = text_encoder(models.0.path(), "words").err().unwrap().to_string();
    assert!(error.contains(says) && error.contains("duet models pull words"), "{error}");
    let verified = verify(models.0.path(), |folder| folder == "words").unwrap();
    let [own] = verified.as_slice() else { panic!("{verified:?}") };
    assert!(matches!(own.result, Err(LoadError::NotPulled { needed: false, .. })), "{own:?}");
    assert_eq!(Registry::load(models.0.path()).unwrap().list().count(), 3);

    // A model of pictures is needed.
    let pull = "\n[[pull]]\nfile = \"model.onnx\"\nbytes = 5\nurl = \"https://models.example.org/m.onnx\"\n";
    let models = Models::new()
        .with("cxr-findings", "classifier.toml", "classifier.onnx", |text| text + pull);
    assert!(Registry::load(models.0.path()).is_ok(), "it is there");
    fs::remove_file(models.0.path().join("cxr-findings/model.onnx")).unwrap();
    let error = models.refused("cxr-findings");
    assert!(error.contains("duet models pull cxr-findings"), "{error}");
}

#[test]
fn a_text_model_that_is_none_is_refused_by_name() {
    type Edit = fn(String) -> String;
    let table: [(&str, Edit, &str); 4] = [
        ("generalist.onnx", |t| t, "must have input_ids and attention_mask"),
        ("text.onnx", |t| t.replace("dim = 4", "dim = 5"), "[1,8,5]"),
        (
            "text.onnx",
            |t| t.replace("tokens = \"tokens\"", "tokens = \"own\""),
            "no output \"own\"",
        ),
        ("text.onnx", |t| t.replace("vocab.txt", "prompts.json"), "prompts.json has SHA-256"),
    ];
    for (graph, edit, says) in table {
        let models = Models::new().with("words", "text.toml", graph, edit);
        let error = text_encoder(models.0.path(), "words").err().expect("it loads").to_string();
        assert!(error.contains(says) && error.contains("words"), "{says:?} is not in {error}");
    }
    let models = Models::three().with("words", "text.toml", "text.onnx", |text| text);
    let error = text_encoder(models.0.path(), "word").err().unwrap().to_string();
    assert!(error.contains("no text model called \"word\"") && error.contains("words"), "{error}");
}

#[test]
fn an_empty_picture_is_an_error_and_no_answer() {
    let models = Models::three();
    let registry = Registry::load(models.0.path()).unwrap();
    let error = registry.classifiers()[0].classify(&GrayImage::new(0, 7)).unwrap_err();
    assert!(error.to_string().contains("0x7"), "{error}");
}

#[test]
fn what_does_not_match_its_file_fails_by_name() {
    type Edit = fn(String) -> String;
    let table: [(&str, &str, &str, Edit, &str); 12] = [
        ("cxr-findings", "classifier.toml", "generalist.onnx", |t| t, "has no output \"logits\""),
        (
            "cxr-findings",
            "classifier.toml",
            "swapped-maps.onnx",
            |t| t,
            "does not explain its logit",
        ),
        ("cxr-findings", "classifier.toml", "not-a-number.onnx", |t| t, "not a finite number"),
        ("cxr-findings", "classifier.toml", "golden.json", |t| t, "is not an ONNX graph"),
        (
            "cxr-findings",
            "classifier.toml",
            "classifier.onnx",
            |t| t.replace("width = 16", "width = 32"),
            "\"image\" as F32 [1,1,16,16], but model.toml says f32 [1,1,16,32]",
        ),
        (
            "cxr-findings",
            "classifier.toml",
            "classifier.onnx",
            |t| t.split("\n[[labels]]\nname = \"Effusion\"").next().unwrap().to_owned(),
            "\"logits\" as F32 [1,2], but model.toml says f32 [1,1]",
        ),
        (
            "cxr-findings",
            "classifier.toml",
            "classifier.onnx",
            |t| {
                t.replace("logits = \"logits\"", "logits = \"cam\"")
                    .replace("cam = \"cam\"", "cam = \"logits\"")
            },
            "\"cam\"",
        ),
        (
            "cxr-findings",
            "classifier.toml",
            "classifier.onnx",
            |t| t.replace("\"model.onnx\"", "\"weights.onnx\""),
            "weights.onnx cannot be read",
        ),
        ("findings", "classifier.toml", "classifier.onnx", |t| t, "make them the same"),
        (
            "generalist",
            "generalist.toml",
            "generalist.onnx",
            |t| t.replace("dim = 4", "dim = 5"),
            "has 4 numbers for",
        ),
        (
            "generalist",
            "generalist.toml",
            "generalist.onnx",
            |t| t.replace("id = \"photograph\"", "id = \"ct\""),
            "has an embedding for \"kind/photograph\"",
        ),
        (
            "cxr-anatomy",
            "segmentation.toml",
            "segmentation.onnx",
            |t| t.replace("masks = \"masks\"", "masks = \"areas\""),
            "has no output \"areas\"",
        ),
    ];
    for (folder, manifest, graph, edit, says) in table {
        let error = Models::new().with(folder, manifest, graph, edit).refused(folder);
        assert!(error.contains(says), "{graph}: expected {says:?} in {error}");
    }
}

#[test]
fn another_file_than_the_manifest_means_is_refused_with_both_digests() {
    let models = Models::three();
    let file = models.0.path().join("cxr-findings/model.onnx");
    let before = Digest::of(&fs::read(&file).unwrap()).to_string();
    fs::write(&file, b"other weights").unwrap();
    let error = models.refused("cxr-findings");
    assert!(error.contains(&before) && error.contains(&Digest::of(b"other weights").to_string()));

    let models = Models::three();
    fs::write(models.0.path().join("generalist/prompts.json"), "{}").unwrap();
    assert!(models.refused("generalist").contains("prompts.json has SHA-256"));
}

#[test]
fn one_broken_model_fails_the_whole_load_and_verify_says_which() {
    let models =
        Models::three().with("cxr-broken", "classifier.toml", "not-a-number.onnx", |text| {
            text.replace("\"cxr-findings\"", "\"cxr-broken\"")
        });
    models.refused("cxr-broken");
    let verified = verify(models.0.path(), |_| true).unwrap();
    let good: Vec<_> =
        verified.iter().filter(|own| own.result.is_ok()).map(|own| own.folder.as_str()).collect();
    assert_eq!(good, ["cxr-anatomy", "cxr-findings", "generalist"]);
    assert_eq!(verified.len(), 4);
}

#[test]
fn a_model_that_is_named_is_that_one_or_none() {
    let models = Models::three();
    let registry = Registry::load(models.0.path()).unwrap();
    let error = registry.vision_language("generalits").err().unwrap().to_string();
    assert!(
        error.contains("generalits") && error.contains("generalist (vision-language)"),
        "{error}"
    );
    assert!(registry.vision_language("cxr-findings").is_err(), "a classifier is no generalist");
}

#[test]
fn a_folder_without_models_says_what_to_set() {
    let empty = tempfile::tempdir().unwrap();
    for dir in [empty.path().to_owned(), empty.path().join("absent")] {
        let error = Registry::load(&dir).err().unwrap().to_string();
        assert!(error.contains("models.dir"), "{error}");
    }
}

#[test]
fn the_models_that_ship_load_and_answer() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let registry = Registry::load(&dir).unwrap_or_else(|error| panic!("{error}"));
    let look = registry.vision_language("generalist").unwrap().look(&picture()).unwrap();
    for question in Question::ALL {
        let sum: f64 = look.answers(question).iter().map(|own| own.probability.value()).sum();
        assert!(close(sum, 1.0, 1e-6), "{question:?} {sum}");
    }
    for model in registry.classifiers() {
        let seen = model.classify(&picture()).unwrap();
        assert_eq!(seen.labels.len(), model.labels().len());
    }
    let bytes: u64 = registry.list().map(|own| own.bytes).sum();
    assert!(bytes < 60_000_000, "all models together have {bytes} bytes");
    assert!(registry.list().any(|own| matches!(own.manifest.kind, Kind::Classifier(_))));
}
