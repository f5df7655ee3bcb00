//! Models that `models/export` wrote: tiny random networks of the packages' architectures, against what PyTorch made of
//! them when they were written. `make test-export` does the same with the architectures in full.

// A test's helpers may panic: that is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::HashMap, fs, path::PathBuf};

use duet_inference::{Fit, Kind, Probe, Question, Registry};
use image::{GrayImage, Luma};

/// What `models/export` promises.
const TOLERANCE: f32 = 1e-4;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/export")).join(name)
}

/// The picture of `models/export/fixtures.py`.
fn picture() -> GrayImage {
    GrayImage::from_fn(32, 32, |x, y| Luma([((37 * x + 91 * y + 13 * x * y) % 256) as u8]))
}

#[test]
fn tract_computes_what_pytorch_does() {
    for name in ["xray-densenet", "three-channel-densenet", "open-clip-vit", "timm-vit"] {
        let probe = Probe::open(&folder(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let text = fs::read_to_string(folder(name).join("pytorch.json")).unwrap();
        let pytorch: HashMap<String, Vec<f32>> = serde_json::from_str(&text).unwrap();
        let outputs = probe.run(&probe.input(&picture())).unwrap();
        assert_eq!(outputs.len(), pytorch.len(), "{name}");
        for output in outputs {
            let theirs = &pytorch[&output.name];
            assert_eq!(output.values.len(), theirs.len(), "{name} {}", output.name);
            assert_eq!(output.shape.iter().product::<usize>(), theirs.len());
            let worst = output
                .values
                .iter()
                .zip(theirs)
                .map(|(ours, theirs)| (ours - theirs).abs())
                .fold(0.0, f32::max);
            assert!(worst < TOLERANCE, "{name} {}: {worst}", output.name);
            let spread = theirs.iter().copied().fold(f32::MIN, f32::max)
                - theirs.iter().copied().fold(f32::MAX, f32::min);
            assert!(spread > 100.0 * TOLERANCE, "{name} {}: too flat to compare", output.name);
        }
    }
}

#[test]
fn exported_folders_are_models_that_say_that_nobody_has_calibrated_them() {
    let dir = folder("");
    let registry = Registry::load(&dir).unwrap_or_else(|error| panic!("{error}"));
    let caveats: HashMap<_, _> = registry
        .list()
        .map(|own| (own.manifest.name.clone(), own.manifest.caveat().unwrap_or_default()))
        .collect();
    assert!(caveats["xray-densenet"].ends_with("1 of 3 labels have an operating point"));
    assert!(caveats["three-channel-densenet"].contains("finds nothing yet"));
    assert!(caveats["open-clip-vit"].ends_with("it clears nothing"));

    // Not square: the packages crop the middle.
    let wide = GrayImage::from_fn(96, 64, |x, y| Luma([(x ^ (3 * y)) as u8]));
    let seen = registry.classifiers()[0].classify(&wide).unwrap();
    let area = seen.labels[0].map.area;
    assert_eq!((area.x, area.y, area.width, area.height), (16, 0, 64, 64));
    let look = registry.vision_language("timm-vit").unwrap().look(&wide).unwrap();
    assert_eq!(look.answers(Question::Kind).len(), 2);
    let rules = registry.vision_language("timm-vit").unwrap().rules().clone();
    assert_eq!((rules.clear_below, rules.scope_min.value()), (None, 0.0), "nothing is decided");
}

#[test]
fn a_xray_densenet_takes_grey_as_its_package_scales_it() {
    let probe = Probe::open(&folder("xray-densenet")).unwrap();
    let Kind::Classifier(spec) = &probe.manifest().kind else { panic!("a classifier") };
    assert_eq!(probe.manifest().kind.input().unwrap().fit, Fit::Crop);
    for (grey, scaled) in [(0, -1024.0), (255, 1024.0), (51, -614.4)] {
        let input = probe.input(&GrayImage::from_pixel(32, 32, Luma([grey])));
        assert!((input[7] - scaled).abs() < 1e-3, "{grey}: {}", input[7]);
    }
    let point = spec.labels[1].operating_point.as_ref().unwrap();
    assert_eq!(point.source.as_deref(), Some("models/export/fixtures.py"));
    assert_eq!(spec.labels[2].code.value, "pleural-thickening");
    assert_eq!(spec.labels[2].code.scheme, "99DUET");
}
