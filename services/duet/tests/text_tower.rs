//! The text tower that `duet models pull` fetches from PyPI, and `duet triage try` with it.

// Clippy takes the helpers of an integration test for product code; here too a panic is a failed test.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::LazyLock,
};

use duet_case::Digest;
use duet_inference::{Kind, Manifest, text_encoder};
use duet_testkit::phantoms::{self, DicomOptions};
use serde_json::Value;
use tempfile::TempDir;

const TOWER: &str = "all-minilm-l6-v2";

fn duet(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_duet"));
    command.args(arguments);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DUET_")) {
        command.env_remove(name);
    }
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// What a machine that has run these tests keeps: the next run asks no registry.
fn kept(sha256: &Digest) -> Option<PathBuf> {
    let cache = std::env::var_os("DUET_CACHE").map(PathBuf::from);
    let cache =
        cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/duet")));
    Some(cache?.join(format!("models/{sha256}")))
}

/// A folder with the generalist and its text tower, pulled.
static MODELS: LazyLock<TempDir> = LazyLock::new(|| {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let here = tempfile::tempdir().unwrap();
    for (model, files) in [
        ("generalist", &["model.toml", "model.onnx", "prompts.json"][..]),
        (TOWER, &["model.toml", "vocab.txt"][..]),
    ] {
        fs::create_dir(here.path().join(model)).unwrap();
        for file in files {
            fs::copy(own.join(model).join(file), here.path().join(model).join(file)).unwrap();
        }
    }
    let manifest = Manifest::read(&here.path().join(TOWER).join("model.toml")).unwrap();
    let (target, kept) = (here.path().join(TOWER).join("model.onnx"), kept(&manifest.sha256));
    let have = kept
        .as_ref()
        .filter(|kept| fs::read(kept).is_ok_and(|bytes| Digest::of(&bytes) == manifest.sha256));
    match have {
        Some(kept) => {
            fs::copy(kept, &target).unwrap();
        }
        None => {
            let models = here.path().to_str().unwrap();
            let (exit, stdout, stderr) = duet(&["models", "pull", TOWER, "--models", models]);
            assert_eq!(
                exit,
                Some(0),
                "PyPI, or the index that pip uses here, is needed once: {stdout}{stderr}"
            );
            if let Some(kept) = kept {
                fs::create_dir_all(kept.parent().unwrap()).unwrap();
                fs::copy(&target, kept.with_extension("new")).unwrap();
                fs::rename(kept.with_extension("new"), kept).unwrap();
            }
        }
    }
    here
});

fn models() -> &'static str {
    MODELS.path().to_str().unwrap()
}

/// What prompts.json holds was computed by PyTorch from the original weights; the tower's have eight bits.
#[test]
fn the_default_prompts_have_the_vectors_that_training_gave_them() {
    let folder = MODELS.path().join("generalist");
    let manifest = Manifest::read(&folder.join("model.toml")).unwrap();
    let Kind::VisionLanguage(spec) = manifest.kind else { panic!("a generalist") };
    assert_eq!(spec.text.model.as_deref(), Some(TOWER), "`duet triage try` finds it by this");
    let stored: HashMap<String, Vec<f32>> =
        serde_json::from_slice(&fs::read(folder.join("prompts.json")).unwrap()).unwrap();
    let encoder = text_encoder(MODELS.path(), TOWER).unwrap();
    let mut worst = (1.0, String::new());
    for question in &spec.questions {
        for answer in &question.answers {
            let mut mean = vec![0.0_f64; encoder.dim()];
            for prompt in &answer.prompts {
                for (sum, value) in mean.iter_mut().zip(encoder.embed(prompt).unwrap()) {
                    *sum += f64::from(value);
                }
            }
            let name = format!("{}/{}", question.question.name(), answer.id);
            let dot: f64 = mean.iter().zip(&stored[&name]).map(|(a, b)| a * f64::from(*b)).sum();
            let cosine = dot / mean.iter().map(|v| v * v).sum::<f64>().sqrt();
            if cosine < worst.0 {
                worst = (cosine, name);
            }
        }
    }
    assert!(worst.0 > 0.999, "the furthest is {worst:?}");
}

/// A folder with films in every format, and with what is none.
fn films() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let chest = phantoms::chest(1, 400, 400);
    for (name, bytes) in [
        ("a.dcm", phantoms::dicom(&chest, &DicomOptions::default())),
        ("b.png", phantoms::png8(&chest)),
        ("c.jpg", phantoms::jpeg(&chest)),
        ("d.txt", b"Dear colleague, thank you.\n".to_vec()),
        ("e.dcm", phantoms::dicom(&chest, &DicomOptions::default())[..2000].to_vec()),
    ] {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

#[test]
fn images_are_scored_by_prompts_and_bad_files_have_rows_of_their_own() {
    let films = films();
    let folder = films.path().to_str().unwrap();
    let (effusion, heart) = ("a chest X-ray with a pleural effusion", "an enlarged heart");
    let try_it = ["triage", "try", "--models", models(), "--prompt", effusion, "--prompt", heart];
    let (exit, stdout, stderr) = duet(&[&try_it[..], &["--json", folder, "/absent.png"]].concat());
    assert_eq!(exit, Some(1), "{stderr}");
    assert!(stderr.contains("3 of 6 files could not be read"), "{stderr}");
    let lines: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 6, "{stdout}");
    for line in &lines[..3] {
        let scores = line["scores"].as_array().unwrap();
        assert_eq!((&scores[0]["prompt"], &scores[1]["prompt"]), (&effusion.into(), &heart.into()));
        for own in scores {
            let (score, cosine) = (own["score"].as_f64().unwrap(), own["cosine"].as_f64().unwrap());
            assert!(score.abs() <= 2.0 && cosine.abs() <= 1.0 && score != 0.0, "{own}");
        }
        assert!(
            line["triage"]["kind"].is_string() && line["triage"]["abnormal"].is_number(),
            "{line}"
        );
        assert_eq!(line["models"]["text"]["name"], TOWER);
    }
    // The same film as DICOM and as PNG.
    let first = |line: &Value| line["scores"][0]["score"].as_f64().unwrap();
    assert!((first(&lines[0]) - first(&lines[1])).abs() < 0.02, "{stdout}");
    for (line, class) in lines[3..].iter().zip(["unrecognised", "truncated", "unreadable"]) {
        assert_eq!(line["error"]["class"], class, "{line}");
        assert!(line["error"]["message"].as_str().unwrap().len() > 15, "{line}");
    }

    let (exit, stdout, stderr) = duet(&[&try_it[..], &[folder]].concat());
    assert_eq!(exit, Some(1), "{stderr}");
    for words in ["a.dcm", "NOT READ (unrecognised)", "an enlarged heart", "a normal chest X-ray"] {
        assert!(stdout.contains(words), "{words:?} is not in\n{stdout}");
    }
}

#[test]
fn a_prompt_against_itself_scores_nothing_and_one_without_words_is_refused() {
    let films = films();
    let film = films.path().join("b.png");
    let film = film.to_str().unwrap();
    let same = "a chest X-ray with a nodule";
    let try_it = ["triage", "try", "--models", models(), "--json", film, "--against", same];
    let (exit, stdout, stderr) = duet(&[&try_it[..], &["--prompt", same]].concat());
    assert_eq!(exit, Some(0), "{stderr}");
    let line: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(line["scores"][0]["score"].as_f64(), Some(0.0), "{line}");
    let long = "effusion ".repeat(90);
    for (prompt, says) in [(" ", "has no words"), (long.as_str(), "272 word pieces")] {
        let (exit, _, stderr) = duet(&[&try_it[..], &["--prompt", prompt]].concat());
        assert_eq!(exit, Some(1));
        assert!(stderr.contains(says), "{stderr}");
    }
}

#[test]
fn without_the_text_tower_the_command_that_fetches_it_is_named() {
    let here = tempfile::tempdir().unwrap();
    for (model, files) in [
        ("generalist", &["model.toml", "model.onnx", "prompts.json"][..]),
        (TOWER, &["model.toml", "vocab.txt"][..]),
    ] {
        fs::create_dir(here.path().join(model)).unwrap();
        for file in files {
            let own = MODELS.path().join(model).join(file);
            fs::copy(own, here.path().join(model).join(file)).unwrap();
        }
    }
    let models = here.path().to_str().unwrap();
    let (exit, _, stderr) =
        duet(&["triage", "try", "--models", models, "--prompt", "an effusion", "/absent.png"]);
    assert_eq!(exit, Some(1));
    assert!(stderr.contains("duet models pull all-minilm-l6-v2"), "{stderr}");
    let (exit, stdout, stderr) = duet(&["models", "verify", "--models", models]);
    assert_eq!(exit, Some(0), "{stderr}");
    assert!(stdout.contains("not pulled: duet models pull all-minilm-l6-v2"), "{stdout}");
}
