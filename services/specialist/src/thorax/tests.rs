//! Drawn chests, right and wrong, and what is measured in them.

use duet_case::{Digest, Format};
use duet_inference::{Mask, Platt};

use super::*;

/// A box in shares of the picture: left, top, right, bottom.
type Drawn = [f64; 4];

const HEART_BOX: Drawn = [0.375, 0.5, 0.6875, 0.8125];
const RIGHT_BOX: Drawn = [0.1875, 0.25, 0.4375, 0.75];
const LEFT_BOX: Drawn = [0.5625, 0.25, 0.8125, 0.75];

/// Outlines what it is told, whatever it sees, with log-odds of `sure`.
pub(crate) struct Outlines {
    model: ModelRef,
    accepts: Accepts,
    labels: Vec<Label>,
    boxes: Vec<Vec<Drawn>>,
    sure: f32,
}

impl Outlines {
    pub(crate) fn chest() -> Self {
        Self::of(&[HEART_BOX], &[RIGHT_BOX], &[LEFT_BOX])
    }

    fn of(heart: &[Drawn], right: &[Drawn], left: &[Drawn]) -> Self {
        let label = |name: &str, value: &str| Label {
            name: name.into(),
            synonyms: Vec::new(),
            code: code("SCT", value, name),
            platt: Platt::IDENTITY,
            operating_point: None,
            auroc: None,
        };
        let sha256 = Digest::of(b"anatomy");
        Self {
            model: ModelRef { name: "anatomy".into(), version: "1".into(), sha256 },
            accepts: Accepts {
                kinds: vec!["chest-radiograph-frontal".into()],
                min_age_years: Some(10),
                max_age_years: None,
            },
            // In another order than the stage's own, and under other names: codes decide.
            labels: vec![label("L", LEFT_LUNG), label("Cor", HEART), label("R", RIGHT_LUNG)],
            boxes: vec![left.to_vec(), heart.to_vec(), right.to_vec()],
            sure: 4.0,
        }
    }
}

impl Segmentation for Outlines {
    fn model(&self) -> &ModelRef {
        &self.model
    }

    fn accepts(&self) -> &Accepts {
        &self.accepts
    }

    fn labels(&self) -> &[Label] {
        &self.labels
    }

    fn segment(&self, _: &GrayImage) -> Result<Vec<Mask>, InferenceError> {
        let mask = |boxes: &Vec<Drawn>| {
            Mask::from_fn(128, 128, |x, y| {
                let (x, y) = ((f64::from(x) + 0.5) / 128.0, (f64::from(y) + 0.5) / 128.0);
                let inside =
                    boxes.iter().any(|&[l, t, r, b]| (l..r).contains(&x) && (t..b).contains(&y));
                image::Luma([if inside { self.sure } else { -self.sure }])
            })
        };
        Ok(self.boxes.iter().map(mask).collect())
    }
}

fn measured(outlines: Outlines, source: &Source) -> Measurement {
    let thorax = Thorax::of(Arc::new(outlines)).unwrap();
    thorax.measure(&GrayImage::new(200, 100), [2.0, 3.0], source).unwrap()
}

fn film(view: Option<&str>, age_years: Option<u8>) -> Source {
    let mut source = Source::new(Format::Dicom, b"film");
    source.view_position = view.map(str::to_owned);
    source.patient.age_years = age_years;
    source
}

#[test]
fn the_ratio_is_the_hearts_width_over_the_chests_and_its_lines_show_it() {
    let seen = measured(Outlines::chest(), &film(Some("PA"), Some(60)));
    // 0.3125 of the width over 0.625 of it.
    assert!((seen.value.unwrap() - 0.5).abs() < 0.01, "{seen:?}");
    assert_eq!(seen.reason, None);
    assert_eq!(seen.cautions, Vec::<String>::new());
    let [heart, chest] = seen.lines.as_slice() else { panic!("{:?}", seen.lines) };
    for (line, name, from, to, at) in
        [(heart, "Heart", 75.0, 137.5, 65.6), (chest, "Chest", 37.5, 162.5, 50.0)]
    {
        assert_eq!(line.name, name);
        for (is, expected) in line.rendition.iter().flatten().zip([from, at, to, at]) {
            assert!((is - expected).abs() < 1.0, "{line:?}");
        }
        for (rendition, original) in line.rendition.iter().zip(line.original) {
            assert_eq!(original, [rendition[0] * 2.0, rendition[1] * 3.0]);
        }
    }
    // The value is the drawn lines' and nothing else.
    let length = |line: &MeasuredLine| line.original[1][0] - line.original[0][0];
    assert!((length(heart) / length(chest) - seen.value.unwrap()).abs() < 1e-12);

    let labels: Vec<_> = seen.areas.iter().map(|own| own.label.as_str()).collect();
    assert_eq!(labels, ["Cor", "R", "L"]);
    assert!((seen.areas[0].share - 0.098).abs() < 0.005, "{}", seen.areas[0].share);
    let ring = &seen.areas[0].rendition_contours[0];
    assert!(ring.iter().all(|[x, y]| (74.0..138.5).contains(x) && (49.0..82.5).contains(y)));
}

#[test]
fn outlines_that_no_chest_has_give_no_ratio_and_the_reason() {
    let [small, aside] = [[0.45, 0.6, 0.5, 0.65], [0.05, 0.5, 0.35, 0.8]];
    let mut unsure = Outlines::chest();
    unsure.sure = 1.0;
    for (outlines, says) in [
        (Outlines::of(&[], &[RIGHT_BOX], &[LEFT_BOX]), "no heart was outlined"),
        (Outlines::of(&[HEART_BOX], &[RIGHT_BOX], &[]), "no left lung was outlined"),
        (unsure, "the heart is too uncertain"),
        (Outlines::of(&[small], &[RIGHT_BOX], &[LEFT_BOX]), "the heart is too small"),
        (
            Outlines::of(&[HEART_BOX, [0.0, 0.0, 0.3, 0.15]], &[RIGHT_BOX], &[LEFT_BOX]),
            "the heart falls into pieces",
        ),
        (
            Outlines::of(&[HEART_BOX], &[[0.1875, 0.25, 0.4375, 0.40625]], &[LEFT_BOX]),
            "far smaller than the other",
        ),
        (
            Outlines::of(&[HEART_BOX], &[[0.0, 0.25, 0.4375, 0.75]], &[LEFT_BOX]),
            "cut off at the picture's side",
        ),
        (
            Outlines::of(&[[0.4, 0.6, 0.7, 1.0]], &[RIGHT_BOX], &[LEFT_BOX]),
            "cut off at the picture's lower edge",
        ),
        // A mirrored film, and one that lies on its side.
        (Outlines::of(&[HEART_BOX], &[LEFT_BOX], &[RIGHT_BOX]), "do not lie side by side"),
        (
            Outlines::of(&[HEART_BOX], &[[0.2, 0.1, 0.75, 0.35]], &[[0.25, 0.6, 0.8, 0.85]]),
            "do not lie side by side",
        ),
        (Outlines::of(&[aside], &[RIGHT_BOX], &[LEFT_BOX]), "not lie between the lungs"),
        (
            Outlines::of(&[[0.375, 0.5, 0.84375, 0.8125]], &[RIGHT_BOX], &[LEFT_BOX]),
            "as far out as the lungs",
        ),
        (
            Outlines::of(&[[0.203125, 0.46875, 0.796875, 0.8125]], &[RIGHT_BOX], &[LEFT_BOX]),
            "a ratio of 0.9",
        ),
    ] {
        let seen = measured(outlines, &film(None, None));
        assert_eq!(seen.value, None, "{says}");
        assert!(seen.lines.is_empty() && seen.cautions.is_empty(), "{says}");
        let reason = seen.reason.unwrap();
        assert!(reason.contains(says), "{reason:?} is not about {says:?}");
    }
}

#[test]
fn what_makes_the_ratio_mean_less_is_told() {
    // view, age, what the cautions say
    for (view, age, says) in [
        (Some("PA"), Some(60), [].as_slice()),
        (Some("PA"), None, &[]),
        (Some("AP"), Some(60), &["AP"]),
        (None, Some(60), &["does not say"]),
        (Some("PA"), Some(12), &["adults"]),
        (Some("AP"), Some(12), &["AP", "adults"]),
    ] {
        let seen = measured(Outlines::chest(), &film(view, age));
        assert_eq!(seen.cautions.len(), says.len(), "{view:?} {age:?}: {:?}", seen.cautions);
        for (caution, says) in seen.cautions.iter().zip(says) {
            assert!(caution.contains(says), "{caution}");
        }
    }
}

#[test]
fn a_model_without_heart_and_lungs_measures_nothing() {
    let mut outlines = Outlines::chest();
    outlines.labels[1].code.value = "1".into();
    assert!(Thorax::of(Arc::new(outlines)).is_none());
}
