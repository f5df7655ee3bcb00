//! What the targets assert of a file that was read, whatever bytes it had.
//!
//! Deliberately absent: "it did not crash", which libFuzzer sees by itself.

use std::panic;

use duet_imaging::{Class, LONG_SIDE, Limits, Prepared, decode_rendition, prepare};

/// Small, so that a picture of the limits' size costs milliseconds.
pub fn limits() -> Limits {
    Limits { max_bytes: 4 << 20, max_pixels: 1 << 20, max_frames: 64, ..Limits::default() }
}

/// A decoder that panics costs its file alone: `prepare` says so of it. A panic in Duet's own code is a finding.
///
/// libFuzzer's own hook, which this takes the place of, ends the run at either.
pub fn own_panics_end_the_run() {
    panic::set_hook(Box::new(|info| {
        let file = info.location().map_or("", |location| location.file());
        // Crates of others come from the registry's folder, the standard library from `/rustc`.
        if !file.contains("/registry/") && !file.starts_with("/rustc") && !file.contains("/library/") {
            eprintln!("{info}");
            std::process::abort();
        }
    }));
}

/// Puts `bytes` through `prepare` where they begin as a file of that kind does, and checks what comes out.
///
/// # Panics
///
/// Where an invariant does not hold.
pub fn check(bytes: &[u8]) {
    let limits = limits();
    match prepare(bytes, &limits) {
        Ok(Prepared::Picture { source, rendition_png, width, height, scale, .. }) => {
            assert!((1..=LONG_SIDE).contains(&width) && (1..=LONG_SIDE).contains(&height));
            assert!(u64::from(source.width) * u64::from(source.height) <= limits.max_pixels);
            assert!(source.width >= width && source.height >= height, "renditions are not enlarged");
            assert!(scale.iter().all(|axis| axis.is_finite() && *axis >= 1.0), "{scale:?}");
            assert!(source.frames >= 1 && source.bits >= 1);
            assert_eq!(source.bytes, bytes.len() as u64);
            let picture = decode_rendition(&rendition_png).expect("a rendition that can be read");
            assert_eq!(picture.dimensions(), (width, height));
        }
        Ok(Prepared::NoPixels { source, reason, .. }) => {
            assert_eq!((source.width, source.height), (0, 0));
            assert!(!reason.is_empty());
        }
        Err(error) => {
            assert!(Class::ALL.contains(&error.kind()));
            assert!(!error.to_string().is_empty());
        }
    }
}
