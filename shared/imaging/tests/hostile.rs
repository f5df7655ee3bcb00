//! What real archives and hostile senders produce: never a panic, never a long time, always a reason.

// Helpers of tests, as the lints see them, are no tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use duet_imaging::{Class, Limits, Prepared, prepare};
use duet_testkit::{
    bad::{Expect, bad_inputs},
    phantoms::{self, DicomOptions, Syntax},
};
use proptest::prelude::*;

#[test]
fn bad_inputs_come_to_the_end_that_they_should() {
    for input in bad_inputs() {
        let got = match prepare(&input.bytes, &Limits::default()) {
            Ok(Prepared::Picture { .. }) => Expect::Report,
            Ok(Prepared::NoPixels { .. }) => Expect::OutOfScope,
            Err(error) => Expect::DeadLetter(error.class()),
        };
        assert_eq!(got, input.expect, "{}", input.name);
    }
}

fn every_kind_of_file() -> Vec<Vec<u8>> {
    let film = phantoms::chest(5, 48, 40);
    let mut files = vec![
        phantoms::png8(&film),
        phantoms::png16(&film),
        phantoms::jpeg(&film),
        phantoms::cmyk_jpeg(&film),
    ];
    for syntax in Syntax::ALL {
        files.push(phantoms::dicom(
            &film,
            &DicomOptions {
                syntax,
                window: Some([900.0, 2000.0]),
                padding: Some(7),
                ..DicomOptions::marked()
            },
        ));
    }
    files.push(phantoms::structured_report());
    files
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Some bytes of a good file changed, cut or doubled. Whatever comes out, nothing of the patient is in it.
    #[test]
    fn mutated_files_never_crash_the_reader(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let files = every_kind_of_file();
        let mut bytes = which.get(&files).clone();
        for (at, value, early) in changes {
            // Half of the changes hit the header.
            let reach = if early { bytes.len().min(900) } else { bytes.len() };
            bytes[at.index(reach)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let limits = Limits { max_pixels: 1 << 20, ..Limits::default() };
        let said = match prepare(&bytes, &limits) {
            Ok(Prepared::Picture { source, width, height, .. }) => {
                prop_assert!(width <= 1024 && height <= 1024);
                format!("{source:?}")
            }
            Ok(Prepared::NoPixels { source, reason, .. }) => format!("{source:?} {reason}"),
            Err(error) => {
                prop_assert!(Class::ALL.iter().any(|class| class.name() == error.class()));
                format!("{error:?} {error}")
            }
        };
        for mark in phantoms::MARKS {
            prop_assert!(!said.contains(mark), "{} in {}", mark, said);
        }
    }
}

#[test]
fn limits_are_the_callers() {
    let film = phantoms::dicom(&phantoms::chest(1, 64, 64), &DicomOptions::default());
    for (limits, word) in [
        (Limits { max_bytes: 1000, ..Limits::default() }, "limits.max_bytes"),
        (Limits { max_pixels: 64 * 63, ..Limits::default() }, "limits.max_pixels"),
        (Limits { max_elements: 5, ..Limits::default() }, "limits.max_elements"),
    ] {
        let error = prepare(&film, &limits).unwrap_err();
        assert_eq!(error.class(), "over_limit");
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn a_deflated_data_set_is_capped_by_what_it_inflates_to() {
    let options = DicomOptions { syntax: Syntax::Deflated, ..DicomOptions::default() };
    let bytes = phantoms::dicom(&image::GrayImage::new(2000, 2000), &options);
    assert!(bytes.len() < 100_000);
    let limits = Limits { max_bytes: 1 << 20, ..Limits::default() };
    assert_eq!(prepare(&bytes, &limits).unwrap_err().class(), "over_limit");
}
