//! What a reader of the picture would notice.

use super::*;

fn finding(label: &str, probability: f64, contours: Vec<Vec<[f64; 2]>>) -> AnnotatedFinding {
    AnnotatedFinding { label: label.into(), probability, threshold: 0.3, contours, heat: None }
}

fn spec(findings: Vec<AnnotatedFinding>) -> AnnotationSpec {
    AnnotationSpec {
        headline: "Flagged".into(),
        lines: vec!["looks abnormal".into()],
        findings,
        measurements: Vec::new(),
        models: vec!["cxr-findings 1.0.0".into()],
        notice: "Research use only. Not for diagnosis.".into(),
    }
}

fn square(x: f64, y: f64, side: f64) -> Vec<[f64; 2]> {
    vec![[x, y], [x + side, y], [x + side, y + side], [x, y + side]]
}

fn has(picture: &RgbImage, colour: Rgb<u8>, (x, y, width, height): (u32, u32, u32, u32)) -> bool {
    (y..y + height).any(|y| (x..x + width).any(|x| *picture.get_pixel(x, y) == colour))
}

#[test]
fn outlines_come_where_the_region_is_at_every_size() {
    for side in [128, 512, 1024] {
        let grey = GrayImage::from_pixel(side, side, image::Luma([90]));
        let scale = 1024.0 / f64::from(side);
        let picture = annotate(
            &grey,
            &spec(vec![finding(
                "Mass",
                0.9,
                vec![square(500.0 / scale, 400.0 / scale, 200.0 / scale)],
            )]),
        );
        assert!(picture.width() > 1024 && picture.height() >= 1024);
        assert!(has(&picture, COLOURS[0], (497, 480, 7, 40)), "left edge at {side}");
        assert!(!has(&picture, COLOURS[0], (560, 460, 80, 80)), "inside at {side}");
    }
}

#[test]
fn what_is_below_its_operating_point_is_listed_and_not_drawn() {
    let grey = GrayImage::new(1024, 1024);
    let below =
        annotate(&grey, &spec(vec![finding("Mass", 0.1, vec![square(300.0, 300.0, 300.0)])]));
    let nothing = annotate(&grey, &spec(vec![]));
    let left = |picture: &RgbImage| image::imageops::crop_imm(picture, 0, 0, 1024, 1024).to_image();
    assert_eq!(left(&below), left(&nothing));
    assert_ne!(below, nothing);
}

#[test]
fn a_measured_line_is_where_it_is_at_every_size() {
    for side in [128, 512, 1024] {
        let scale = 1024.0 / f64::from(side);
        let grey = GrayImage::from_pixel(side, side, image::Luma([90]));
        let [from, to] = [[200.0, 600.0], [700.0, 600.0]].map(|p| p.map(|own| own / scale));
        let measured = AnnotatedMeasurement {
            name: "Ratio".into(),
            value: Some("0.50".into()),
            notes: vec!["within".into()],
            lines: vec![("Heart".into(), [from, to])],
            outlines: Vec::new(),
        };
        let picture =
            annotate(&grey, &AnnotationSpec { measurements: vec![measured], ..spec(vec![]) });
        let white = Rgb([255; 3]);
        assert!(has(&picture, white, (300, 598, 5, 5)), "the line at {side}");
        assert!(has(&picture, white, (699, 590, 3, 3)), "its end at {side}");
        assert!(!has(&picture, white, (720, 580, 100, 40)), "nothing beyond it at {side}");
    }
}

#[test]
fn any_shape_and_any_text_is_drawn() {
    let long =
        "An exceedingly long label that no manifest should have, and yet 漢字 \u{202e}\n".repeat(4);
    let mut findings: Vec<_> = (0..15)
        .map(|n| finding(&long, 0.5 + f64::from(n) / 40.0, vec![square(10.0, 5.0, 20.0)]))
        .collect();
    findings.push(finding(
        "",
        f64::NAN,
        vec![vec![], vec![[f64::NAN, 1e300]], vec![[-1e9, 0.0], [1e9, 5.0], [3.0, 1e12]]],
    ));
    for (width, height) in [(1, 1), (1024, 7), (5, 1024), (300, 900)] {
        let notes = AnnotationSpec {
            headline: long.clone(),
            lines: vec![long.clone(); 20],
            models: vec![long.clone(); 5],
            measurements: vec![AnnotatedMeasurement {
                name: long.clone(),
                value: Some(long.clone()),
                notes: vec![long.clone(); 9],
                lines: vec![
                    (long.clone(), [[f64::NAN, 1.0], [3.0, 4.0]]),
                    (long.clone(), [[-1e300, 1e300], [1e12, -5.0]]),
                ],
                outlines: vec![vec![], vec![[1e300, f64::INFINITY], [2.0, 3.0]]],
            }],
            ..spec(findings.clone())
        };
        let picture = annotate(&GrayImage::new(width, height), &notes);
        assert!(picture.width() >= 400 && picture.height() <= 8192);
    }
}

#[test]
fn probabilities_read_as_they_are() {
    let read = [0.0, 0.004, 0.126, 0.995, 1.0].map(per_cent);
    assert_eq!(read, ["0 %", "<1 %", "13 %", ">99 %", "100 %"]);
}
