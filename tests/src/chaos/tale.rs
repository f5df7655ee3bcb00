//! The outcome as a person reads it.

use std::{fmt, time::Duration};

use duet_case::Topic;
use duet_transport::Delivery;

use super::{Kind, Outcome, Strike};

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let delivery = match self.delivery {
            Delivery::ExactlyOnce => "exactly once",
            Delivery::AtLeastOnce => "at least once",
        };
        writeln!(f, "{delivery}, seed {}", self.seed)?;
        writeln!(f)?;
        writeln!(
            f,
            "{:32} {:>6} {:>24} {:>24}",
            "", "faults", "no image ended for, s", "until all was through, s"
        )?;
        writeln!(
            f,
            "{:32} {:>6} {:>12} {:>11} {:>12} {:>11}",
            "", "", "median", "worst", "median", "worst"
        )?;
        for kind in Kind::ALL {
            let strikes: Vec<&Strike> =
                self.strikes.iter().filter(|strike| strike.kind == kind).collect();
            row(f, &kind.to_string(), &strikes)?;
        }
        row(f, "all", &self.strikes.iter().collect::<Vec<_>>())?;
        writeln!(f)?;
        rate(f, "while nothing failed", self.calm)?;
        rate(f, "while faults struck", self.struck)?;
        writeln!(f, "{:32} {:>6}", "commits taken back, read again", self.taken_back)?;
        writeln!(f, "{:32} {:>6}", "starts that met no broker", self.starts_in_vain)?;
        writeln!(f, "{:32} {:>6}", "services ended by themselves", self.ended.len())?;
        for ended in &self.ended {
            writeln!(f, "  {ended}")?;
        }
        writeln!(f)?;
        self.write_books(f)
    }
}

impl Outcome {
    fn write_books(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let books = &self.books;
        let count = |topic| books.records.get(&topic).copied().unwrap_or(0);
        for topic in Topic::ALL {
            let more = books
                .more
                .get(&topic)
                .map_or(String::new(), |more| format!(", {more} of them doubles"));
            writeln!(f, "{:32} {:>6}{more}", format!("records in {topic}"), count(topic))?;
        }
        writeln!(f, "{:32} {:>6}", "pictures, read and whole", books.pictures)?;
        writeln!(f, "{:32} {:>6}", "images fed", books.images)?;
        writeln!(f, "{:32} {:>6}", "lost", books.lost)?;
        writeln!(f, "{:32} {:>6}", "doubled", books.doubled)?;
        for wrong in books.wrong.iter().chain(&self.wrong) {
            writeln!(f, "  {wrong}")?;
        }
        let words = match (self.is_good(), self.delivery) {
            (true, Delivery::ExactlyOnce) => "every image ended once, as while nothing failed",
            (true, Delivery::AtLeastOnce) => {
                "every image ended, as while nothing failed; each double bears the ce_id of its twin and says the same"
            }
            (false, _) => "NOT as it has to be",
        };
        write!(f, "{words}")
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, strikes: &[&Strike]) -> fmt::Result {
    let times = |of: fn(&Strike) -> Duration| {
        let mut times: Vec<Duration> = strikes.iter().map(|strike| of(strike)).collect();
        times.sort_unstable();
        let at = |place: usize| times.get(place).map_or(0.0, Duration::as_secs_f64);
        [at(times.len() / 2), at(times.len().saturating_sub(1))]
    };
    let ([stood, longest], [median, worst]) =
        (times(|strike| strike.standstill), times(|strike| strike.recovery));
    let count = strikes.len();
    writeln!(f, "{name:32} {count:>6} {stood:>12.1} {longest:>11.1} {median:>12.1} {worst:>11.1}")
}

fn rate(f: &mut fmt::Formatter<'_>, when: &str, (images, taken): (usize, Duration)) -> fmt::Result {
    let seconds = taken.as_secs_f64();
    let rate = images as f64 / seconds.max(0.001);
    writeln!(f, "{when:32} {images:>6} images in {seconds:.0} s: {rate:.2} a second")
}
