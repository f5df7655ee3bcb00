//! Replays on a real broker: another threshold turns exactly those that it has to, production is left as it was, and
//! each end of an image can be explained.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use duet_case::{Case, CaseId, Decision};
use duet_testkit::phantoms;
use duet_tests::{Ends, Fleet, Kafka, STAGES};
use duet_transport::{Broker, KafkaBroker, KafkaConfig};
use serde_json::Value;

use crate::pipeline::feed;

const PATIENCE: Duration = Duration::from_secs(180);
const FILMS: u64 = 10;
/// Low enough that some of the drawn films are cleared, and high enough that some are.
const PRODUCTION: &str = "[triage]\naudit_rate = 0.0\nclear_below = 0.5\n";

fn film(seed: u64) -> Vec<u8> {
    phantoms::png8(&phantoms::chest(seed, 320, 300))
}

fn hand(seed: u64) -> Vec<u8> {
    phantoms::png8(&phantoms::hand(seed, 300, 320))
}

/// The repository's models, with a generalist that takes a drawn chest for a chest: a drawing is none to the real one.
fn models(folder: &Path) {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").canonicalize().unwrap();
    for entry in fs::read_dir(&own).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "generalist" {
            symlink(entry.path(), folder.join(entry.file_name())).unwrap();
        }
    }
    let (from, to) = (own.join("generalist"), folder.join("generalist"));
    fs::create_dir(&to).unwrap();
    for file in ["model.onnx", "prompts.json"] {
        symlink(from.join(file), to.join(file)).unwrap();
    }
    let manifest = fs::read_to_string(from.join("model.toml")).unwrap();
    let mut manifest: toml::Table = manifest.parse().unwrap();
    for question in manifest["questions"].as_array_mut().unwrap() {
        for answer in question["answers"].as_array_mut().unwrap() {
            let raised = match answer["id"].as_str().unwrap() {
                "chest-radiograph-frontal" => 9.0,
                "fit" => 30.0,
                _ => continue,
            };
            let bias = answer["bias"].as_float().unwrap() + raised;
            answer.as_table_mut().unwrap().insert("bias".to_owned(), bias.into());
        }
    }
    fs::write(to.join("model.toml"), manifest.to_string()).unwrap();
}

fn run(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success(), "{command:?}\n{out}{err}");
    out
}

fn kcat(config: &KafkaConfig, arguments: &[String]) -> String {
    let mut kcat = Command::new("kcat");
    kcat.args(["-b", &config.bootstrap]).args(arguments);
    run(kcat)
}

/// The end of every partition on the broker, groups' offsets among them.
fn ends_of_topics(config: &KafkaConfig) -> BTreeMap<String, i64> {
    let listed: Value =
        serde_json::from_str(&kcat(config, &["-L".to_owned(), "-J".to_owned()])).unwrap();
    let mut asked = vec!["-Q".to_owned()];
    for topic in listed["topics"].as_array().unwrap() {
        let name = topic["topic"].as_str().unwrap();
        // Other tests share the broker.
        if name.starts_with(&config.topic_prefix) || name == "__consumer_offsets" {
            for partition in topic["partitions"].as_array().unwrap() {
                asked.extend(["-t".to_owned(), format!("{name}:{}:-1", partition["partition"])]);
            }
        }
    }
    let answered = kcat(config, &asked);
    let line = |line: &str| {
        let (place, offset) = line.rsplit_once(" offset ").unwrap();
        (place.trim().to_owned(), offset.trim().parse().unwrap())
    };
    answered.lines().map(line).collect()
}

/// The ids in `changes.csv` whose `what` a row is about, where the finding turned.
fn turned(out: &Path, what: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(out.join("changes.csv")).unwrap();
    let mut ids = BTreeSet::new();
    for line in text.lines().skip(1) {
        let cells: Vec<_> = line.split(',').collect();
        assert_eq!(cells.len(), 14, "{line}");
        if cells[6].trim_matches('"') == what && cells[12] != cells[13] {
            ids.insert(cells[0].to_owned());
        }
    }
    ids
}

#[allow(clippy::print_stdout, reason = "what a run shows beside its verdict")]
fn replay(fleet: &Fleet, out: &Path, more: &[&str]) -> Value {
    let mut arguments = vec!["replay", "--from", "1h", "--out", out.to_str().unwrap()];
    arguments.extend(more);
    let told = run(fleet.command(&arguments));
    println!("duet {}\n{told}", arguments.join(" "));
    let json = serde_json::from_slice(&fs::read(out.join("replay.json")).unwrap()).unwrap();
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("Research use only"));
    json
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_threshold_turns_exactly_those_that_it_must_and_production_stays_as_it_was() {
    // A broker of its own, so that nothing else moves its offsets.
    let kafka = Kafka::start().unwrap();
    let config = kafka.own_config();
    let broker = KafkaBroker::connect(&config).await.unwrap();
    broker.create_topics().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("models");
    fs::create_dir(&dir).unwrap();
    models(&dir);
    let mut fleet = Fleet::with_models(&config, folder.path(), &dir, PRODUCTION).unwrap();
    let running: Vec<_> = STAGES.iter().map(|service| fleet.start(service).unwrap()).collect();
    fleet.wait_until_ready().unwrap();
    let mut ends = Ends::follow(&broker).await.unwrap();
    let sink = broker.sink().await.unwrap();
    let mut files: Vec<_> = (0..FILMS).map(film).collect();
    files.push(hand(1));
    files.push(b"no image".to_vec());
    for file in &files {
        feed(&*sink, file.clone()).await;
    }
    ends.wait_for(files.len(), PATIENCE).await.unwrap();
    for service in running {
        assert_eq!(fleet.take_out(service).unwrap(), Some(0));
    }
    let reports: Vec<Case> = ends.reports.values().flatten().cloned().collect();
    assert_eq!((reports.len(), ends.dead_letters.len()), (FILMS as usize + 1, 1));
    let decided = |decision: Decision| -> BTreeSet<String> {
        let is_it = |case: &&Case| case.triage.as_ref().unwrap().decision == decision;
        reports.iter().filter(is_it).map(|case| case.id.to_string()).collect()
    };
    let (cleared, flagged) = (decided(Decision::Cleared), decided(Decision::Flagged));
    let figures: Vec<_> = reports
        .iter()
        .map(|case| case.triage.as_ref().unwrap())
        .map(|own| format!("{} {} {:.4}", own.decision.name(), own.kind, own.abnormal.value()))
        .collect();
    println!("{}", figures.join("\n"));
    assert!(!cleared.is_empty() && !flagged.is_empty(), "{figures:?}");

    let before = ends_of_topics(&config);
    let out = |name: &str| folder.path().join(name);
    // The same again: nothing changes.
    let same = replay(&fleet, &out("same"), &["--shadow"]);
    assert_eq!((&same["compared"], &same["changed"]), (&(FILMS + 1).into(), &0.into()), "{same}");

    // A threshold of triage: what was cleared above it turns, and nothing else.
    let abnormal = |case: &Case| case.triage.as_ref().unwrap().abnormal.value();
    let mut levels: Vec<f64> =
        reports.iter().filter(|case| cleared.contains(case.id.as_str())).map(abnormal).collect();
    levels.sort_by(f64::total_cmp);
    let below = levels[levels.len() / 2];
    let expected: BTreeSet<String> = reports
        .iter()
        .filter(|case| cleared.contains(case.id.as_str()) && abnormal(case) >= below)
        .map(|case| case.id.to_string())
        .collect();
    let stricter = format!("triage.clear_below={below}");
    let triage = replay(&fleet, &out("triage"), &["--set", &stricter, "--shadow"]);
    assert_eq!(turned(&out("triage"), "abnormal"), expected);
    assert_eq!(triage["decisions"]["cleared -> flagged"], expected.len());
    assert_eq!(triage["decisions"].as_object().unwrap().len(), 1, "{triage}");
    assert_eq!(triage["turned"], expected.len());
    let largest = triage["largest"].as_array().unwrap();
    for case in largest {
        for when in ["before", "after"] {
            let name = format!("pictures/{}-{when}.png", case["case"].as_str().unwrap());
            let picture = fs::read(out("triage").join(name)).unwrap();
            assert!(picture.starts_with(b"\x89PNG"));
        }
    }

    // An operating point of a specialist: the findings between the two come or go.
    let score = reports.iter().flat_map(|case| &case.assessment).flat_map(|own| &own.scores).next();
    let score = score.expect("a specialist looked").clone();
    let of_label = |case: &Case| {
        let scores = case.assessment.as_ref().map(|own| own.scores.clone()).unwrap_or_default();
        scores.into_iter().find(|own| (&own.label, &own.model) == (&score.label, &score.model))
    };
    let probability = score.probability.value();
    // Just below or above that one, on the other side of it than the threshold in force.
    let moved = if score.probability >= score.threshold { probability + 1e-6 } else { probability };
    let expected: BTreeSet<String> = reports
        .iter()
        .filter_map(|case| Some((case.id.to_string(), of_label(case)?)))
        .filter(|(_, own)| (own.probability >= own.threshold) != (own.probability.value() >= moved))
        .map(|(id, _)| id)
        .collect();
    assert!(!expected.is_empty());
    let what = format!("{}:{}", score.model, score.label);
    let point = format!("{what}={moved}");
    let label = replay(&fleet, &out("label"), &["--threshold", &point]);
    assert_eq!(turned(&out("label"), &what), expected);
    assert_eq!(label["shadow"], Value::Null);
    let own = &label["labels"][&what];
    let came_and_went = own["appeared"].as_u64().unwrap() + own["gone"].as_u64().unwrap();
    assert_eq!(came_and_went, expected.len() as u64);

    // From the original files: the same.
    let images = replay(&fleet, &out("images"), &["--images"]);
    assert_eq!((&images["compared"], &images["changed"]), (&(FILMS + 1).into(), &0.into()));
    assert_eq!(images["left_out"]["prepare: unrecognised"]["count"], 1);

    // Another model in the place of one, and one that cannot be.
    let standing_in = format!("generalist={}", dir.join("generalist").display());
    let model = replay(&fleet, &out("model"), &["--model", &standing_in, "--limit", "3"]);
    assert_eq!((&model["compared"], &model["changed"]), (&3.into(), &0.into()));
    let wrong = format!("generalist={}", dir.join("cxr-findings").display());
    let refused = fleet
        .command(&["replay", "--from", "1h", "--out", "x", "--model", &wrong])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));

    // Everything is as it was, and the shadow has what was replayed with --shadow.
    let after = ends_of_topics(&config);
    let shadow = format!("{}shadow.", config.topic_prefix);
    let production = |ends: &BTreeMap<String, i64>| -> BTreeMap<String, i64> {
        ends.iter()
            .filter(|(name, _)| !name.starts_with(&shadow))
            .map(|(n, o)| (n.clone(), *o))
            .collect()
    };
    assert_eq!(production(&after), before, "production was written");
    assert!(after.len() > before.len());
    let shadow = KafkaConfig { topic_prefix: shadow, ..config.clone() };
    let shadow = KafkaBroker::connect(&shadow).await.unwrap();
    let mut seen = Ends::all_reports(&shadow).await.unwrap();
    assert_eq!(seen.len(), 2 * (FILMS as usize + 1));
    seen.retain(|case| case.triage.as_ref().unwrap().clear_below.unwrap().value() == below);
    assert_eq!(seen.len(), FILMS as usize + 1);

    // A picture that is gone is counted and named.
    let lost = reports.iter().find(|case| cleared.contains(case.id.as_str())).unwrap();
    let digest = lost.rendition.as_ref().unwrap().blob.sha256.to_string();
    let blob = folder.path().join("blobs/sha256").join(&digest[..2]).join(&digest);
    fs::rename(&blob, folder.path().join("lost")).unwrap();
    let gone = replay(&fleet, &out("gone"), &[]);
    let why = "its picture is no longer in the blob store, or damaged";
    assert_eq!(gone["left_out"][why]["cases"][0], lost.id.as_str());
    assert_eq!(gone["compared"], FILMS);
    fs::rename(folder.path().join("lost"), &blob).unwrap();

    explained(&fleet, &reports, &cleared, &flagged, &ends, folder.path());
}

/// `duet why` of each end.
#[allow(clippy::print_stdout, reason = "what a run shows beside its verdict")]
fn explained(
    fleet: &Fleet,
    reports: &[Case],
    cleared: &BTreeSet<String>,
    flagged: &BTreeSet<String>,
    ends: &Ends,
    folder: &Path,
) {
    let why = |case: &str| run(fleet.command(&["why", case]));
    let says = |text: &str, words: &[&str]| {
        for words in words {
            assert!(text.contains(words), "{words:?} is not in\n{text}");
        }
    };
    let one = cleared.first().unwrap();
    let text = why(one);
    println!("{text}");
    says(
        &text,
        &[
            "from reports",
            ": cleared",
            "against below 0.5000: may be cleared",
            "not drawn, as 0.0000",
        ],
    );
    says(
        &text,
        &[
            "promise (conformal)",
            "generalist 1",
            "hop: triage",
            "a frontal chest X-ray of an adult",
            "none looked",
        ],
    );

    // Of those that triage had several reasons for, one whose probability of abnormal is among them.
    let is_abnormal = |case: &&Case| case.triage.as_ref().unwrap().abnormal.value() >= 0.5;
    let mut abnormal = reports.iter().filter(is_abnormal).map(|case| case.id.as_str());
    let one = abnormal.find(|id| flagged.contains(*id)).unwrap();
    let text = why(&one[..12]);
    says(
        &text,
        &[
            "triage: flagged",
            "may not be cleared",
            "specialists: cxr-findings",
            "against",
            "hop: specialist",
        ],
    );

    let refused = CaseId::of_input(&hand(1));
    let text = why(refused.as_str());
    says(&text, &["not looked for", "refused as out of scope", "out of scope", "hand-radiograph"]);

    let rejected = CaseId::of_input(b"no image");
    let text = why(rejected.as_str());
    says(&text, &["dead letter", "by      prepare", "unrecognised", "not sent again"]);
    assert_eq!(ends.dead_letters.len(), 1);

    // As JSON, and out of a file.
    let json: Value = serde_json::from_str(&run(fleet.command(&["why", one, "--json"]))).unwrap();
    assert_eq!(json["case"]["id"], one);
    assert!(json["questions"]["answers"].as_array().unwrap().len() > 10);
    let file = folder.join("case.json");
    let case = reports.iter().find(|case| case.id.as_str() == one).unwrap();
    let mut other = case.clone();
    other.triage.as_mut().unwrap().model.sha256 = duet_case::Digest::of(b"another");
    fs::write(&file, other.to_json().unwrap()).unwrap();
    let text = run(fleet.command(&["why", "--case", file.to_str().unwrap()]));
    says(&text, &["triage: flagged", "has other weights"]);

    for (case, words) in
        [("c-", "fits several cases"), ("c-0000000000000000", "no case"), ("x", "is no case")]
    {
        let output = fleet.command(&["why", case]).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(words), "{told}");
    }
}
