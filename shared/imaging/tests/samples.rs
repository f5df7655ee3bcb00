//! Every file of a folder through `prepare`, for sample files that do not belong in the repository: set `DUET_SAMPLES` to the
//! folder, and `DUET_SAMPLES_OUT` to another one for the renditions. Without `DUET_SAMPLES` there is nothing to do, and it says so.

// Helpers of tests, as the lints see them, are no tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};

use duet_imaging::{Limits, Prepared, prepare};

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[test]
fn every_sample_is_a_picture_or_says_why_not() {
    let Some(folder) = std::env::var_os("DUET_SAMPLES").map(PathBuf::from) else {
        eprintln!("DUET_SAMPLES names no folder: no samples tried");
        return;
    };
    let out = std::env::var_os("DUET_SAMPLES_OUT").map(PathBuf::from);
    let mut paths = Vec::new();
    files(&folder, &mut paths);
    paths.sort();
    for path in paths {
        let bytes = std::fs::read(&path).unwrap();
        let name = path.strip_prefix(&folder).unwrap().display().to_string();
        let start = std::time::Instant::now();
        let prepared = prepare(&bytes, &Limits::default());
        let ms = start.elapsed().as_millis();
        match prepared {
            Ok(Prepared::Picture {
                source,
                rendition_png,
                width,
                height,
                window,
                inverted,
                ..
            }) => {
                println!(
                    "picture\t{name}\t{ms} ms\t{}\t{}x{}x{}b -> {width}x{height}\t{}\t{window:?}\tinverted {inverted}\t{:?}\t{:?} {:?} {:?} {:?} {:?}",
                    source.transfer_syntax.as_deref().unwrap_or("-"),
                    source.width,
                    source.height,
                    source.bits,
                    source.photometric.as_deref().unwrap_or("-"),
                    source.notes,
                    source.modality,
                    source.body_part,
                    source.view_position,
                    source.patient,
                    source.pixel_spacing_mm,
                );
                if let Some(out) = &out {
                    std::fs::write(out.join(name.replace('/', "_") + ".png"), rendition_png)
                        .unwrap();
                }
            }
            Ok(Prepared::NoPixels { reason, .. }) => {
                println!("no pixels\t{name}\t{ms} ms\t{reason}")
            }
            Err(error) => {
                let source =
                    std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                assert!(!error.to_string().is_empty());
                println!("{}\t{name}\t{ms} ms\t{error}\t{source}", error.class());
            }
        }
    }
}
