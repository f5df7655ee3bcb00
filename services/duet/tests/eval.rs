//! `duet eval` as its users meet it: right tables, and what is said of wrong ones.

// Clippy takes the helpers of an integration test for product code; here too a panic is a failed test.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, process::Command};

use serde_json::Value;

/// Films that are none: what is measured does not matter here, how it is told does.
fn films(folder: &Path) {
    let films = folder.join("films/deep");
    fs::create_dir_all(&films).unwrap();
    for n in 0..4_u32 {
        let film = image::GrayImage::from_fn(96, 80, |x, y| image::Luma([(x * (n + 1) + y) as u8]));
        film.save(films.join(format!("{n}.png"))).unwrap();
    }
    image::RgbImage::new(40, 40).save(films.join("4.jpg")).unwrap();
    fs::write(films.join("broken.png"), b"\x89PNG\r\n\x1a\nand no more").unwrap();
    let tar = Command::new("tar").args(["cf", "films.tar", "films"]).current_dir(folder).status();
    assert!(tar.unwrap().success());
}

/// Exit code, standard output and standard error.
fn eval(folder: &Path, table: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    fs::write(folder.join("table.csv"), table).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_duet"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DUET_")) {
        command.env_remove(name);
    }
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models");
    command.args(["eval", "--labels", "table.csv", "--out", "out", "--models", models]);
    let output = command.args(arguments).current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn wrong_tables_images_and_names_are_told_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    films(folder.path());
    let findings = "file,findings\ndeep/0.png,Effusion\n";
    // table, arguments, exit code, what is said
    #[rustfmt::skip]
    let cases: &[(&str, &[&str], i32, &[&str])] = &[
        (findings, &["--images", "films"], 2, &["--model", "--triage"]),
        (findings, &["--model", "cxr-findigs", "--images", "films"], 2, &["\"cxr-findigs\"", "cxr-findings (classifier)", "cxr-anatomy (segmentation)"]),
        (findings, &["--model", "generalist", "--images", "films"], 2, &["generalist", "--triage"]),
        (findings, &["--model", "cxr-findings", "--images", "absent"], 1, &["absent", ".tar"]),
        (findings, &["--model", "cxr-findings", "--images", "films/deep/0.png"], 1, &["films/deep/0.png", ".tar"]),
        ("file,findings\ndeep/7.png,Effusion\n", &["--model", "cxr-findings", "--images", "films"], 1, &["\"deep/7.png\" is not in films"]),
        ("file,findings\ndeep/7.png,Effusion\n", &["--model", "cxr-findings", "--images", "films.tar"], 1, &["\"deep/7.png\" is not in films.tar"]),
        ("file,findings\n", &["--model", "cxr-findings", "--images", "films"], 1, &["table.csv", "no rows"]),
        ("", &["--model", "cxr-findings", "--images", "films"], 1, &["table.csv", "no column `file`"]),
        ("file;findings\na;b\n", &["--model", "cxr-findings", "--images", "films"], 1, &["file;findings"]),
        ("file,findings\ndeep/0.png,Effusion,Mass\n", &["--model", "cxr-findings", "--images", "films"], 1, &["table.csv", "CSV"]),
        ("file,findings\ndeep/0.png,Fracture\n", &["--model", "cxr-findings", "--images", "films"], 1, &["Fracture", "Cardiomegaly", "none of them"]),
        ("file,findings\ndeep/0.png,normal\n", &["--model", "cxr-findings", "--images", "films"], 1, &["no finding in any row"]),
        ("file,scope\ndeep/0.png,chest\n", &["--model", "cxr-findings", "--images", "films"], 1, &["findings", "label"]),
        ("file,scope\ndeep/0.png,hand\n", &["--triage", "--images", "films"], 1, &["row 1", "hand", "chest or other"]),
        (findings, &["--model", "cxr-anatomy", "--images", "films"], 1, &["no column `ctr`"]),
        ("file,ctr\ndeep/0.png,51\n", &["--model", "cxr-anatomy", "--images", "films"], 1, &["row 1", "ctr is \"51\""]),
    ];
    for (table, arguments, code, says) in cases {
        let (exit, _, stderr) = eval(folder.path(), table, arguments);
        assert_eq!(exit, Some(*code), "{table:?} {arguments:?}: {stderr}");
        for words in *says {
            assert!(
                stderr.contains(words),
                "{table:?} {arguments:?}: {words:?} is not in {stderr}"
            );
        }
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

/// A figure with its interval, as `metrics.json` has it.
fn is_figure(value: &Value) -> bool {
    ["value", "low", "high", "n"].iter().all(|name| value[name].is_number())
        && value.as_object().unwrap().len() == 4
}

#[test]
fn metrics_have_the_shapes_that_readers_expect() {
    let folder = tempfile::tempdir().unwrap();
    films(folder.path());
    let metrics = || -> Value {
        let text = fs::read_to_string(folder.path().join("out/metrics.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let page = || fs::read_to_string(folder.path().join("out/report.html")).unwrap();
    let files = ["deep/0.png", "deep/1.png", "deep/2.png", "deep/3.png", "deep/4.jpg"];
    let table = |header: &str, cells: [&str; 5]| {
        let rows = files.iter().zip(cells).map(|(file, cell)| format!("{file},{cell}\n"));
        format!("file,{header}\n{}", rows.collect::<String>())
    };

    let findings = table(
        "findings,sex",
        ["Pleural Effusion|Fracture,F", "No Finding,F", "u:effusion,M", "NORMAL,M", "effusion,M"],
    ) + "deep/broken.png,Effusion,F\n";
    let arguments = ["--model", "cxr-findings", "--images", "films.tar"];
    let (exit, stdout, stderr) = eval(folder.path(), &findings, &arguments);
    assert_eq!(exit, Some(0), "{stderr}");
    assert!(stderr.contains("not read: deep/broken.png"), "{stderr}");
    assert!(stdout.contains("6 images, 1 not read"), "{stdout}");
    let told = metrics();
    assert_eq!(told["failed"][0]["file"], "deep/broken.png");
    assert_eq!(told["unknown_names"][0], "Fracture");
    assert!(told["mean_auroc"].is_null(), "two positives are too few for the mean");
    let label = &told["labels"]["Effusion"];
    assert_eq!((&label["positives"], &label["negatives"]), (&2.into(), &2.into()));
    for name in ["auroc", "auprc", "sensitivity", "specificity", "ece"] {
        assert!(is_figure(&label[name]), "{name}: {label}");
    }
    assert_eq!(told["labels"].as_object().unwrap().len(), 1, "no other label is judged");
    assert!(page().contains("ROC curve") && page().contains("Reliability diagram"));

    let scope = table("scope", ["chest", "other", "chest", "other", "other"]);
    let triage = ["--triage", "--images", "films"];
    assert_eq!(eval(folder.path(), &scope, &triage).0, Some(0));
    let told = metrics();
    for name in ["other_refused", "chest_refused"] {
        assert!(is_figure(&told["scope"][name]), "{name}: {told}");
    }
    let label = table("label", ["normal", "whatever", "No finding", "Mass", "Normal"]);
    assert_eq!(eval(folder.path(), &label, &triage).0, Some(0));
    let told = metrics();
    for name in ["auroc", "cleared", "miss_rate"] {
        assert!(is_figure(&told["abnormal"][name]), "{name}: {told}");
    }
    assert_eq!(told["abnormal"]["miss_rate"]["n"], 2, "a name that no model knows is abnormal");

    let ctr = table("ctr", ["0.5", "", "0.4", "0.6", ""]);
    let arguments = ["--model", "cxr-anatomy", "--images", "films.tar"];
    assert_eq!(eval(folder.path(), &ctr, &arguments).0, Some(0));
    let told = metrics();
    // Drawn pictures show no chest: none of them gets a ratio, and the page says why.
    assert!(is_figure(&told["ctr"]["measured"]));
    assert_eq!(told["ctr"]["measured"]["value"], 0.0);
    assert!(told["ctr"]["mae"].is_null() && told["ctr"]["auroc_over_0_5"].is_null());
    assert!(page().contains("Without a ratio") && page().contains("data:image/png;base64,"));
}
