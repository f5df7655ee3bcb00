#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]
//! Milliseconds that each model of a folder takes for one image in one thread: load, then the best and the median of
//! many runs. With a side of the model's own input the squashing falls away.
//! `cargo run -p duet-inference --example milliseconds -- models 50 1024`

use std::{path::PathBuf, time::Instant};

use duet_inference::{Kind, Registry};
use image::{GrayImage, Luma};

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().unwrap_or_else(|| "models".to_owned()));
    let runs: usize = args.next().and_then(|text| text.parse().ok()).unwrap_or(50);
    let side = args.next().and_then(|text| text.parse().ok()).unwrap_or(1024);
    let picture = GrayImage::from_fn(side, side, |x, y| Luma([((x / 3) ^ (y / 5)) as u8]));
    let start = Instant::now();
    let registry = Registry::load(&dir).unwrap_or_else(|error| panic!("{error}"));
    println!("loaded in {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    for info in registry.list() {
        let name = &info.manifest.name;
        let mut times: Vec<f64> = (0..runs.max(1))
            .map(|_| {
                let start = Instant::now();
                match &info.manifest.kind {
                    Kind::VisionLanguage(_) => {
                        let model = registry.vision_language(name).expect("it is listed");
                        model.look(&picture).expect("it looks");
                    }
                    Kind::Classifier(_) => {
                        let models = registry.classifiers();
                        let model = models.iter().find(|own| own.model().name == *name);
                        model.expect("it is listed").classify(&picture).expect("it looks");
                    }
                    Kind::Segmentation(_) => {
                        let models = registry.segmenters();
                        let model = models.iter().find(|own| own.model().name == *name);
                        model.expect("it is listed").segment(&picture).expect("it draws");
                    }
                    // None of these is loaded by a registry.
                    Kind::Text(_) => {}
                }
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let (best, median) = (times[0], times[times.len() / 2]);
        println!(
            "{name}: best {best:.1} ms, median {median:.1} ms, {:.1} MB",
            info.bytes as f64 / 1e6
        );
    }
}
