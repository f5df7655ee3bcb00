//! One drawing in many files: it must come out as one picture.

// Helpers of tests, as the lints see them, are no tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use duet_case::{Format, Sex, Source, WindowMethod};
use duet_imaging::{Limits, Prepared, decode_rendition, prepare};
use duet_testkit::phantoms::{self, DicomOptions, Syntax};
use image::GrayImage;

struct Seen {
    source: Source,
    picture: GrayImage,
    window: WindowMethod,
    inverted: bool,
    scale: [f64; 2],
}

fn see(bytes: &[u8]) -> Seen {
    match prepare(bytes, &Limits::default()).unwrap() {
        Prepared::Picture {
            source, rendition_png, window, inverted, scale, width, height, ..
        } => {
            let picture = decode_rendition(&rendition_png).unwrap();
            assert_eq!(picture.dimensions(), (width, height));
            Seen { source, picture, window, inverted, scale }
        }
        other => panic!("{other:?}"),
    }
}

/// The greatest difference between two pictures' pixels.
fn apart(a: &GrayImage, b: &GrayImage) -> u8 {
    assert_eq!(a.dimensions(), b.dimensions());
    a.pixels().zip(b.pixels()).map(|(a, b)| a.0[0].abs_diff(b.0[0])).max().unwrap_or_default()
}

#[test]
fn every_way_of_writing_a_film_shows_the_same_film() {
    let film = phantoms::chest(2, 300, 260);
    let whole_range = |bits: u16| Some([f64::from(1_u32 << (bits - 1)), f64::from(1_u32 << bits)]);
    let base = DicomOptions { window: whole_range(12), ..DicomOptions::default() };
    let mut table = vec![
        ("8 bits, no window", DicomOptions { bits: 8, window: None, ..base.clone() }),
        ("16 bits", DicomOptions { bits: 16, window: whole_range(16), ..base.clone() }),
        ("MONOCHROME1", DicomOptions { monochrome1: true, ..base.clone() }),
        ("signed", DicomOptions { signed: true, window: Some([0.0, 4096.0]), ..base.clone() }),
        (
            "rescaled",
            DicomOptions {
                rescale: Some([2.0, -1000.0]),
                window: Some([3096.0, 8192.0]),
                ..base.clone()
            },
        ),
        ("no preamble", DicomOptions { preamble: false, ..base.clone() }),
    ];
    for syntax in Syntax::ALL {
        table.push((syntax.uid(), DicomOptions { syntax, ..base.clone() }));
        table.push((syntax.uid(), DicomOptions { syntax, bits: 8, window: None, ..base.clone() }));
    }
    for (name, options) in table {
        let seen = see(&phantoms::dicom(&film, &options));
        assert!(apart(&seen.picture, &film) <= 1, "{name}: {}", apart(&seen.picture, &film));
        assert_eq!(seen.inverted, options.monochrome1, "{name}");
        assert_eq!(seen.source.transfer_syntax.as_deref(), Some(options.syntax.uid()), "{name}");
        assert_eq!(
            (seen.source.format, seen.source.width, seen.source.bits),
            (Format::Dicom, 300, options.bits),
            "{name}"
        );
    }
    assert_eq!(apart(&see(&phantoms::png8(&film)).picture, &film), 0);
    assert!(apart(&see(&phantoms::jpeg(&film)).picture, &film) < 24);
    assert!(apart(&see(&phantoms::cmyk_jpeg(&film)).picture, &film) < 24);
}

#[test]
fn without_a_window_the_percentiles_decide() {
    let film = phantoms::chest(3, 200, 200);
    for bytes in [phantoms::dicom(&film, &DicomOptions::default()), phantoms::png16(&film)] {
        let seen = see(&bytes);
        let WindowMethod::Percentiles { low, high } = seen.window else {
            panic!("{:?}", seen.window)
        };
        assert!(low < high);
        let (black, white) = (
            seen.picture.pixels().filter(|p| p.0[0] == 0).count(),
            seen.picture.pixels().filter(|p| p.0[0] == 255).count(),
        );
        assert!(
            (1..=8000).contains(&black) && (1..=2000).contains(&white),
            "{black} black, {white} white"
        );
    }
}

#[test]
fn padding_is_black_whatever_the_polarity() {
    let mut film = phantoms::chest(4, 100, 100);
    for x in 0..100 {
        film.put_pixel(x, 0, image::Luma([0]));
        film.put_pixel(x, 99, image::Luma([255]));
    }
    for (monochrome1, padding, row) in [(false, 4095, 99), (true, 0, 99), (true, 4095, 0)] {
        let seen = see(&phantoms::dicom(
            &film,
            &DicomOptions { monochrome1, padding: Some(padding), ..DicomOptions::default() },
        ));
        assert!(
            (0..100).all(|x| seen.picture.get_pixel(x, row).0[0] == 0),
            "MONOCHROME1 {monochrome1}, padding {padding}"
        );
    }
}

#[test]
fn large_films_shrink_and_say_by_how_much() {
    let seen = see(&phantoms::png8(&phantoms::chest(1, 2050, 1640)));
    assert_eq!(seen.picture.dimensions(), (1024, 819));
    assert!(
        (seen.scale[0] - 2050.0 / 1024.0).abs() < 1e-12
            && (seen.scale[1] - 1640.0 / 819.0).abs() < 1e-12
    );
}

#[test]
fn the_source_says_what_the_file_was() {
    let seen = see(&phantoms::dicom(&phantoms::chest(1, 64, 64), &DicomOptions::marked()));
    let source = seen.source;
    assert_eq!(source.modality.as_deref(), Some("DX"));
    assert_eq!(
        (source.body_part.as_deref(), source.view_position.as_deref()),
        (Some("CHEST"), Some("PA"))
    );
    assert_eq!(source.sop_class.as_deref(), Some("1.2.840.10008.5.1.4.1.1.1.1"));
    assert_eq!(source.pixel_spacing_mm, Some([0.143, 0.143]));
    assert_eq!((source.patient.age_years, source.patient.sex), (Some(61), Some(Sex::F)));
    let old = see(&phantoms::dicom(
        &phantoms::chest(1, 64, 64),
        &DicomOptions { age: "104Y".into(), ..DicomOptions::default() },
    ));
    assert_eq!(old.source.patient.age_years, Some(90));
}

#[test]
fn an_identifier_in_a_coded_field_does_not_pass() {
    let options = DicomOptions {
        body_part: "DOE^JANE".into(),
        view: "MRN 1234567".into(),
        ..DicomOptions::default()
    };
    let source = see(&phantoms::dicom(&phantoms::chest(1, 64, 64), &options)).source;
    assert_eq!((source.body_part, source.view_position), (None, None));
}
