//! The gateway, the review page and its stream of events: they have no part in the flow, and have to get over
//! everything that happens to the broker.

use std::{
    io::{BufRead, BufReader},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::Fleet;

/// They have this long to know everything, once all has come to its end.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Followers {
    gateway: usize,
    review: usize,
    stream: Arc<Stream>,
}

/// A page that is open all the time.
#[derive(Default)]
struct Stream {
    events: AtomicUsize,
    has_ended: AtomicBool,
}

impl Followers {
    /// Starts both beside what `fleet` runs, waits for all of them, and opens a page.
    pub(super) fn start(fleet: &mut Fleet) -> Result<Self> {
        let (gateway, review) = (fleet.start("gateway")?, fleet.start("review")?);
        fleet.wait_until_ready()?;
        let lines = BufReader::new(fleet.open(review, "/review/events")?).lines();
        let stream = Arc::new(Stream::default());
        let seen = Arc::clone(&stream);
        // It ends with the review service.
        thread::Builder::new().name("page".to_owned()).spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.starts_with("event:") {
                    seen.events.fetch_add(1, Ordering::AcqRel);
                }
            }
            seen.has_ended.store(true, Ordering::Release);
        })?;
        Ok(Self { gateway, review, stream })
    }

    /// What is not as it should be when `cases` have come to their ends.
    pub(super) fn finish(&self, fleet: &Fleet, cases: usize) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        for (number, path) in [(self.gateway, "/v1/cases"), (self.review, "/review/cases")] {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let known = finished(&fleet.get(number, &format!("{path}?limit=0"))?)?;
                if known == cases {
                    break;
                }
                if Instant::now() >= deadline {
                    wrong.push(format!(
                        "{path} knows the ends of {known} cases, but {cases} have ended"
                    ));
                    break;
                }
                sleep(Duration::from_millis(100));
            }
        }
        let events = self.stream.events.load(Ordering::Acquire);
        if events < 2 || self.stream.has_ended.load(Ordering::Acquire) {
            wrong.push(format!("the page's stream of events did not live: {events} events"));
        }
        Ok(wrong)
    }
}

/// How many cases are reported or dead letters, by a list's counts.
fn finished(list: &str) -> Result<usize> {
    let list: serde_json::Value = serde_json::from_str(list)?;
    let states = list["counts"]["states"].as_object().context("the list has no counts")?;
    let count = |name: &str| states.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
    Ok(usize::try_from(count("reported") + count("dead_letter"))?)
}
