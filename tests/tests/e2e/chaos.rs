//! The short form of `make chaos`: every kind of fault once, on a real broker, with each service its own process.

use std::time::Duration;

use duet_tests::chaos::{self, Corpus, Kind, Plan, Timeouts};
use duet_transport::Delivery;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_dies_every_image_comes_to_one_end() {
    let plan = Plan {
        seed: 20,
        images: 150,
        faults: 9,
        corpus: Corpus::drawn(12),
        delivery: Delivery::ExactlyOnce,
        timeouts: Timeouts { session: Duration::from_secs(2), transaction: Duration::from_secs(3) },
        further: vec!["triage"],
        limit: Duration::from_secs(400),
    };
    let outcome = chaos::run(plan, &|_, _, _| {}).await.unwrap();
    println!("{outcome}");
    assert!(outcome.is_good(), "{outcome}");
    for kind in
        [Kind::Kill, Kind::Pause, Kind::LongPause, Kind::Drain, Kind::BrokerStop, Kind::BrokerKill]
    {
        assert!(outcome.strikes.iter().any(|strike| strike.kind == kind), "no {kind}");
    }
}
