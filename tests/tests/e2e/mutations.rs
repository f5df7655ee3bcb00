//! Damaged files through the whole chain on a real broker, each service its own process. The long form is the example `mutations`.

use duet_case::Topic;
use duet_tests::{
    Fleet, Kafka, STAGES,
    mutations::{Plan, run, sources},
};
use duet_transport::{Broker, KafkaBroker};

const COUNT: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_files_come_to_one_end_each_and_every_process_lives_on() {
    let config = Kafka::config().unwrap();
    let broker = KafkaBroker::connect(&config).await.unwrap();
    broker.create_topics().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::new(&config, folder.path()).unwrap();
    for service in STAGES {
        fleet.start(service).unwrap();
    }
    fleet.wait_until_ready().unwrap();

    let files = sources(&[], 0).unwrap();
    let ends = vec![Topic::Reports, Topic::DeadLetters];
    let plan = Plan { files, seed: 1, count: COUNT, ends };
    let tally = run(&plan, &broker, &fleet, |_| {}).await.unwrap();
    assert_eq!((tally.lost, tally.doubled, tally.dead.as_slice()), (0, 0, &[][..]), "{tally:?}");
    assert_eq!(tally.ends.values().sum::<usize>(), COUNT);
    // Both ends were met, and only prepare refused anything.
    assert!(tally.ends["reports"] > COUNT / 10, "{tally:?}");
    let refused = tally.ends.iter().filter(|(end, _)| end.starts_with("dead-letters prepare/"));
    assert_eq!(refused.map(|(_, count)| count).sum::<usize>() + tally.ends["reports"], COUNT);
    // None of these files needs more than a tenth of what a decoder may use.
    assert!(tally.peak_kib["its decoders, each"] < 100 << 10, "{tally:?}");
    // The answers' stream beside the standard ones, and nothing of the service's.
    assert!(!tally.descriptors.is_empty() && tally.descriptors.iter().all(|own| *own == 4));

    for (service, code) in fleet.stop().unwrap() {
        assert_eq!(code, Some(0), "{service} did not stop in good order");
    }
}
