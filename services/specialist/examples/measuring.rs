#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]
//! What measuring adds to an image in the specialist stage: the classifiers, the outlines alone, and the whole
//! measurement, each in one thread; on a machine that does other work the best says more than the median.
//! `cargo run -p duet-specialist --example measuring -- models 100 FILM.png`

use std::{path::PathBuf, time::Instant};

use duet_case::{Format, Source};
use duet_inference::Registry;
use duet_specialist::Thorax;

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().unwrap_or_else(|| "models".to_owned()));
    let runs: usize = args.next().and_then(|text| text.parse().ok()).unwrap_or(100);
    let film = args.next().expect("give the path of an 8-bit grey PNG");
    let film = image::open(&film).unwrap_or_else(|error| panic!("{film}: {error}")).into_luma8();
    let registry = Registry::load(&dir).unwrap_or_else(|error| panic!("{error}"));
    println!("{} x {} pixels, {runs} runs", film.width(), film.height());
    for model in registry.classifiers() {
        let name = &model.model().name;
        median(&format!("{name}: classify"), runs, || drop(model.classify(&film).expect(name)));
    }
    for model in registry.segmenters() {
        let name = model.model().name.clone();
        median(&format!("{name}: outline"), runs, || drop(model.segment(&film).expect(&name)));
        let Some(thorax) = Thorax::of(model) else { continue };
        let source = Source::new(Format::Png, &[]);
        median(&format!("{name}: outline and measure"), runs, || {
            drop(thorax.measure(&film, [1.0, 1.0], &source).expect(&name));
        });
        let measured = thorax.measure(&film, [1.0, 1.0], &source).expect(&name);
        println!("{}: {:?} {:?}", measured.name, measured.value, measured.reason);
    }
}

fn median(what: &str, runs: usize, run: impl Fn()) {
    let mut times: Vec<f64> = (0..runs.max(1))
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{what}: median {:.1} ms, best {:.1} ms", times[times.len() / 2], times[0]);
}
