//! The whole chain on a real Kafka broker, each service its own process, fed by a client that knows nothing of Duet.

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Output},
    time::Duration,
};

use duet_case::{CaseId, Topic};
use duet_testkit::bad::bad_inputs;
use duet_tests::{Ends, Fleet, Kafka, STAGES};
use duet_transport::{Broker, KafkaBroker, KafkaConfig};

use crate::pipeline::{assert_end, assert_is_whole, feed, phantom};

const IMAGES: usize = 60;
const PATIENCE: Duration = Duration::from_secs(240);

fn kcat(config: &KafkaConfig, mode: &str, topic: Topic, arguments: &[&str]) -> Output {
    let output = Command::new("kcat")
        .args([mode, "-b", &config.bootstrap, "-t", &config.name_of(topic)])
        .args(arguments)
        .output()
        .expect("kcat is not there: install it, for instance with `apt-get install -y kcat`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_with_each_service_its_own_process() {
    let config = Kafka::config().unwrap();
    let broker = KafkaBroker::connect(&config).await.unwrap();
    broker.create_topics().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::new(&config, folder.path()).unwrap();
    for service in STAGES {
        fleet.start(service).unwrap();
    }
    // A second replica of the slowest.
    fleet.start("triage").unwrap();
    fleet.start("gateway").unwrap();
    fleet.start("review").unwrap();
    fleet.wait_until_ready().unwrap();

    let mut ends = Ends::follow(&broker).await.unwrap();
    let sink = broker.sink().await.unwrap();
    for number in 0..IMAGES {
        feed(&*sink, phantom(number)).await;
    }
    let inputs = bad_inputs();
    for input in &inputs {
        feed(&*sink, input.bytes.clone()).await;
    }
    // A foreign client, with a file and nothing else.
    let foreign = phantom(IMAGES);
    let file = folder.path().join("film");
    fs::write(&file, &foreign).unwrap();
    kcat(&config, "-P", Topic::Images, &[file.to_str().unwrap()]);

    let fed = IMAGES + inputs.len() + 1;
    ends.wait_for(fed, PATIENCE).await.unwrap();
    ends.settle().await.unwrap();
    assert_eq!(fleet.dead(), [""; 0]);
    for number in 0..=IMAGES {
        let reports = ends.reports_on(&phantom(number));
        assert_eq!(reports.len(), 1, "phantom {number}");
        assert_is_whole(&reports[0], &ends);
    }
    for input in &inputs {
        assert_end(input, &ends);
    }
    assert_eq!(ends.count(), fed);

    // And out again, by a foreign client.
    let committed = ["-C", "-q", "-e", "-o", "beginning", "-X", "isolation.level=read_committed"];
    let seen = kcat(&config, committed[0], Topic::Reports, &committed[1..]).stdout;
    let seen: BTreeSet<_> =
        seen.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    assert_eq!(seen.len(), ends.reports.values().map(Vec::len).sum::<usize>());
    let id = CaseId::of_input(&foreign);
    assert!(seen.iter().any(|line| String::from_utf8_lossy(line).contains(id.as_str())));

    for (service, text) in fleet.get_all("/metrics").unwrap() {
        assert_is_exposition(service, &text);
    }
    for (service, code) in fleet.stop().unwrap() {
        assert_eq!(code, Some(0), "{service} did not stop in good order");
    }
}

/// The text format of Prometheus: every sample belongs to a family with help and a type, and no series comes twice.
fn assert_is_exposition(service: &str, text: &str) {
    let mut families = BTreeSet::new();
    let mut series = BTreeSet::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name, rest) = (words.next(), words.next().unwrap(), words.next());
            assert!(rest.is_some_and(|rest| !rest.is_empty()), "{service}: {line}");
            match kind.unwrap() {
                "TYPE" => assert!(families.insert(name), "{service}: {name} has two types"),
                other => assert_eq!(other, "HELP", "{service}: {line}"),
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{service}: {line}"));
        assert!(value.parse::<f64>().is_ok(), "{service}: {line}");
        assert!(series.insert(sample), "{service}: {sample} comes twice");
        let name = sample.split('{').next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        assert!(
            families.contains(name) || family.is_some_and(|family| families.contains(family)),
            "{service}: {name} has no type"
        );
    }
    assert!(families.iter().any(|name| name.starts_with("duet_")), "{service}: {families:?}");
}
