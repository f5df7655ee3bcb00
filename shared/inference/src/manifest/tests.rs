//! One good manifest of each kind, and what each wrong line is told.

use super::*;

const CLASSIFIER: &str = include_str!("../../testdata/classifier.toml");
const GENERALIST: &str = include_str!("../../testdata/generalist.toml");
const SEGMENTATION: &str = include_str!("../../testdata/segmentation.toml");
const TEXT: &str = include_str!("../../testdata/text.toml");
const WRONG_KEY: &str = include_str!("../../testdata/wrong-key.toml");

/// A section of `testdata/classifier.toml`.
const CALIBRATION: &str = r#"[calibration]
set = "none"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
n = 10
date = "2026-01-31"
"#;

fn parse(text: &str) -> Result<Manifest, ManifestError> {
    let digest = Digest::of(b"").to_string();
    let text = text.replace("PROMPTS_SHA256", &digest).replace("SHA256", &digest);
    let text = text.replace("VOCABULARY", &digest);
    Manifest::parse(Path::new("models/m/model.toml"), &text)
}

#[test]
fn every_kind_is_read() {
    let Kind::Classifier(spec) = parse(CLASSIFIER).unwrap().kind else { panic!("a classifier") };
    assert_eq!(spec.labels[0].code.value, "8186001");
    assert_eq!(spec.labels[1].operating_point.as_ref().unwrap().sensitivity, None);

    let Kind::VisionLanguage(spec) = parse(GENERALIST).unwrap().kind else {
        panic!("a generalist")
    };
    assert_eq!(spec.questions.len(), 3, "urgency may be left out");
    assert_eq!(spec.decision.clear_kinds, ["chest-radiograph-frontal"]);

    let Kind::Segmentation(spec) = parse(SEGMENTATION).unwrap().kind else { panic!("areas") };
    assert_eq!(spec.labels.len(), 2);

    let manifest = parse(TEXT).unwrap();
    assert_eq!(manifest.kind.input(), None);
    let files: Vec<_> = manifest.pull.iter().map(|pull| pull.file.as_str()).collect();
    assert_eq!(files, ["model.onnx", "vocab.txt"]);
    assert!(matches!(&manifest.pull[1].origin, Origin::Package(own) if own.version == "1.0"));
}

#[test]
fn a_wrong_line_is_named_with_what_would_be_right() {
    // the manifest, what is replaced, by what, and what the message says
    let table = [
        (WRONG_KEY, "", "", "unknown field `widht`"),
        (WRONG_KEY, "", "", "`width`"),
        (CLASSIFIER, "schema = 1", "schema = 2", "schema is 2, this version of Duet reads 1"),
        (CLASSIFIER, "schema = 1\n", "", "missing field `schema`"),
        (CLASSIFIER, "\"classifier\"", "\"detector\"", "unknown variant `detector`"),
        (CLASSIFIER, "\"cxr-findings\"", "\"CXR findings\"", "name is \"CXR findings\": write"),
        (
            CLASSIFIER,
            "\"model.onnx\"",
            "\"../model.onnx\"",
            "name a file in the manifest's own folder",
        ),
        (CLASSIFIER, "sha256 = \"SHA256\"", "sha256 = \"abc\"", "sha256 is wrong: \"abc\" is not"),
        (
            CLASSIFIER,
            "width = 16",
            "width = 8",
            "input.width is 8 pixels: it must be from 16 to 2048",
        ),
        (CLASSIFIER, "std = 0.25", "std = 0.0", "input.std is 0"),
        (
            CLASSIFIER,
            "2026-01-31",
            "2026-02-31",
            "calibration.date is \"2026-02-31\": write a date",
        ),
        (CLASSIFIER, "cam = \"cam\"\n", "", "outputs.cam is missing: a classifier model needs it"),
        (
            CLASSIFIER,
            "cam = \"cam\"",
            "cam = \"cam\"\nmasks = \"m\"",
            "outputs.masks is not for a classifier",
        ),
        (
            CLASSIFIER,
            "threshold = 0.31",
            "threshold = 1.31",
            "labels[0] (Cardiomegaly).operating_point.threshold",
        ),
        (CLASSIFIER, "\"Effusion\"", "\"cardiomegaly\"", "labels[1] (cardiomegaly) stands twice"),
        (
            CLASSIFIER,
            "platt = { scale = 1.0, bias = 0.0 }\n",
            "",
            "labels[1] (Effusion).platt is missing",
        ),
        (CLASSIFIER, "scale = 2.0", "scale = -2.0", "platt.scale is -2"),
        (CLASSIFIER, CALIBRATION, "", "platt stands there without [calibration]"),
        (CLASSIFIER, "[input]", "[input]\nfit = \"stretch\"", "unknown variant `stretch`"),
        (
            SEGMENTATION,
            "[input]",
            "[input]\nfit = \"crop\"",
            "input.fit is \"crop\", and areas have to cover the whole picture",
        ),
        (
            CLASSIFIER,
            "min_age_years = 16",
            "min_age_years = 16\nmax_age_years = 3",
            "nobody is of that age",
        ),
        (CLASSIFIER, "[\"chest-radiograph-frontal\"]", "[]", "accepts.kind is empty"),
        (GENERALIST, "id = \"fitness\"", "id = \"fit\"", "questions (fit) is no question of Duet"),
        (GENERALIST, "id = \"fitness\"", "id = \"kind\"", "questions (kind) stands twice"),
        (GENERALIST, "in_scope = true\n", "", "every image would be out of scope"),
        (GENERALIST, "id = \"normal\"", "id = \"healthy\"", "lacks the answer \"normal\""),
        (GENERALIST, "bias = 0.5", "bias = nan", "answers (photograph).bias"),
        (GENERALIST, "miss_rate", "# ", "decision.clear_below has no decision.miss_rate"),
        (
            GENERALIST,
            "[calibration]\nset = \"drawn\"\nsha256 = \"SHA256\"\nn = 1600\ndate = \"2026-01-31\"\n",
            "",
            "decision.clear_below has no [calibration]",
        ),
        (
            GENERALIST,
            "n = 1600",
            "n = 799",
            "decision.miss_rate.positives is 800, but calibration.n is 799",
        ),
        (
            GENERALIST,
            "bound = 0.02",
            "bound = 0.0",
            "miss_rate.bound is 0: it must be between 0 and 1",
        ),
        (GENERALIST, "confidence = 0.95", "confidence = 1.0", "miss_rate.confidence is 1"),
        (
            GENERALIST,
            "scope_min = 0.05",
            "scope_min = 5",
            "decision.scope_min is wrong: 5 is not a probability",
        ),
        (
            GENERALIST,
            "[decision]",
            "[accepts]\nkind = [\"ct\"]\n[decision]",
            "accepts is not for a vision-language",
        ),
        (
            SEGMENTATION,
            "[accepts]\nkind = [\"chest-radiograph-frontal\"]\n",
            "",
            "accepts is missing",
        ),
        (
            TEXT,
            "[outputs]",
            "[input]\nwidth = 16\nheight = 16\nmean = 0.5\nstd = 0.25\n[outputs]",
            "input is not for a text model",
        ),
        (
            CLASSIFIER,
            "[input]\nwidth = 16\nheight = 16\nmean = 0.5\nstd = 0.25\n",
            "",
            "input is missing: a classifier",
        ),
        (TEXT, "tokens = \"tokens\"", "", "outputs.tokens is missing"),
        (TEXT, "max_tokens = 8", "max_tokens = 4096", "encoder.max_tokens is 4096: it must be"),
        (TEXT, "dim = 4", "dim = 0", "encoder.dim is 0"),
        (
            TEXT,
            "\"vocab.txt\"\nsha256",
            "\"../vocab.txt\"\nsha256",
            "encoder.vocabulary is \"../vocab.txt\"",
        ),
        (
            TEXT,
            "file = \"vocab.txt\"",
            "file = \"passwd\"",
            "pull (passwd).file is none of the files that this manifest names: model.onnx, vocab.txt",
        ),
        (TEXT, "file = \"vocab.txt\"", "file = \"model.onnx\"", "pull (model.onnx) stands twice"),
        (
            TEXT,
            "url = \"https://models.example.org/words/model.onnx\"",
            "",
            "needs a url or a package",
        ),
        (
            TEXT,
            "\"https://models",
            "\"file:///models",
            "pull (model.onnx).url is \"file:///models.example.org",
        ),
        (TEXT, "bytes = 321", "bytes = 0", "pull (model.onnx).bytes is 0"),
        (
            TEXT,
            "bytes = 4000",
            "bytes = 3000000000",
            "package.bytes is 3000000000: it must be from 1 to",
        ),
        (TEXT, "wheel = \"words_of", "wheel = \"birds_of", "name the wheel of words-of-lungs 1.0"),
        (TEXT, "\"words-of-lungs\"", "\"words/../lungs\"", "package.name is \"words/../lungs\""),
        (TEXT, "[pull.package]\n", "[pull.package]\nindex = \"x\"\n", "unknown field `index`"),
        (
            GENERALIST,
            "[text]\n",
            "[text]\nmodel = \"All MiniLM\"\n",
            "text.model is \"All MiniLM\"",
        ),
        (
            GENERALIST,
            "[decision]",
            "[encoder]\ndim = 4\nmax_tokens = 8\nlower_case = true\nvocabulary = \"v\"\nsha256 = \"SHA256\"\n[decision]",
            "encoder is not for a vision-language",
        ),
    ];
    for (manifest, from, to, says) in table {
        assert!(manifest.contains(from), "{from}");
        let replaced =
            if from.is_empty() { manifest.to_owned() } else { manifest.replacen(from, to, 1) };
        let message = parse(&replaced).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains(says), "{from} -> {to}: {message}");
        assert!(message.contains("models/m/model.toml"), "names the file: {message}");
    }
}

/// The manifest of a classifier that nobody has calibrated.
fn uncalibrated() -> String {
    let text = CLASSIFIER.replace(CALIBRATION, "");
    let mut lines: Vec<_> = text.lines().filter(|line| !line.starts_with("platt")).collect();
    lines.retain(|line| *line != "operating_point = { threshold = 0.5 }");
    lines.join("\n").replace("threshold = 0.31,", "threshold = 0.31, source = \"its authors\",")
}

#[test]
fn a_model_that_nobody_has_calibrated_says_so() {
    let manifest = parse(&uncalibrated()).unwrap();
    let caveat = manifest.caveat().unwrap();
    assert!(caveat.contains("scores; 1 of 2 labels have an operating point"), "{caveat}");
    let Kind::Classifier(spec) = manifest.kind else { panic!("a classifier") };
    assert_eq!(spec.labels[0].platt, Platt::IDENTITY);
    let point = spec.labels[0].operating_point.as_ref().unwrap();
    assert_eq!(point.source.as_deref(), Some("its authors"));
    assert!(spec.labels[1].operating_point.is_none());

    let nobodys = uncalibrated().replace("source = \"its authors\", ", "");
    let message = parse(&nobodys).unwrap_err().to_string();
    assert!(
        message.contains("operating_point.source is missing: without [calibration]"),
        "{message}"
    );

    // One label that the calibration set was too small for.
    let effusion = "platt = { scale = 1.0, bias = 0.0 }\noperating_point = { threshold = 0.5 }\n";
    assert!(CLASSIFIER.contains(effusion));
    let Kind::Classifier(spec) = parse(&CLASSIFIER.replace(effusion, "")).unwrap().kind else {
        panic!("a classifier")
    };
    assert!(spec.labels[0].operating_point.is_some() && spec.labels[1].operating_point.is_none());

    for calibrated in [CLASSIFIER, SEGMENTATION] {
        assert_eq!(parse(calibrated).unwrap().caveat(), None);
    }
    let (head, tail) = GENERALIST.split_once("clear_below").unwrap();
    let nothing = format!("{head}{}", tail.split_once("\n\n").unwrap().1);
    let (head, tail) = nothing.split_once("[calibration]").unwrap();
    let nothing = format!("{head}{}", tail.split_once("\n\n").unwrap().1);
    let caveat = parse(&nothing).unwrap().caveat().unwrap();
    assert!(caveat.ends_with("; it clears nothing"), "{caveat}");
}

#[test]
fn a_picture_is_squashed_where_the_manifest_says_nothing() {
    assert_eq!(parse(CLASSIFIER).unwrap().kind.input().unwrap().fit, Fit::Squash);
    let cropped = CLASSIFIER.replace("[input]", "[input]\nfit = \"crop\"");
    assert_eq!(parse(&cropped).unwrap().kind.input().unwrap().fit, Fit::Crop);
}

#[test]
fn a_model_with_too_little_calibration_clears_nothing_and_says_so() {
    let rules = |from: &str, to: &str| {
        assert!(GENERALIST.contains(from), "{from}");
        match parse(&GENERALIST.replacen(from, to, 1)).unwrap().kind {
            Kind::VisionLanguage(spec) => spec.decision,
            _ => panic!("a generalist"),
        }
    };
    let enough = rules("measured = 0.01", "measured = 0.01");
    assert_eq!(enough.clear_below.map(duet_case::Probability::value), Some(0.03));
    assert!(enough.clearing().starts_with("clears below 3 % abnormal"), "{}", enough.clearing());

    let measured = "positives = 800, measured = 0.01 }";
    for (to, says) in [
        ("positives = 148, measured = 0.0 }", "takes at least 149"),
        ("positives = 800, measured = 0.02 }", "has 800 abnormal images of which 16 were cleared"),
    ] {
        let rules = rules(measured, to);
        assert_eq!(rules.clear_below, None, "{to}");
        assert!(rules.clearing().starts_with("clears nothing: its calibration"));
        assert!(rules.clearing().contains(says), "{}", rules.clearing());
    }
    assert_eq!(rules(measured, "positives = 149, measured = 0.0 }").shortfall, None);

    let none = rules("clear_below = 0.03\n", "");
    assert_eq!((none.clear_below, none.shortfall), (None, None));
    assert_eq!(none.clearing(), "clears nothing: it has no calibration");
}

#[test]
fn a_missing_question_is_named() {
    let (without, _) = GENERALIST.split_once("[[questions]]\nid = \"abnormal\"").unwrap();
    let message = parse(without).unwrap_err().to_string();
    assert!(message.contains("lacks the question \"abnormal\""), "{message}");
}

#[test]
fn an_unknown_age_is_an_adults() {
    let accepts =
        |min, max| Accepts { kinds: vec!["ct".to_owned()], min_age_years: min, max_age_years: max };
    for (accepts, age, takes) in [
        (accepts(None, None), None, true),
        (accepts(Some(16), None), None, true),
        (accepts(Some(16), None), Some(15), false),
        (accepts(Some(16), None), Some(16), true),
        (accepts(None, Some(15)), None, false),
        (accepts(None, Some(15)), Some(15), true),
    ] {
        assert_eq!(accepts.takes("ct", age), takes, "{accepts:?} {age:?}");
        assert!(!accepts.takes("mr", age));
    }
}
