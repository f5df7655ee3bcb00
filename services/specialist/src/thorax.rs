//! The cardiothoracic ratio: how wide the heart is in the chest, measured from outlines of the heart and both lungs.
//!
//! The ratio is the largest horizontal width of the heart over the largest inner width of the chest (Danzer, Am. J.
//! Med. Sci. 157, 1919); at most 0.50 counts as usual on films of adults taken from behind (PA). Here the heart's width
//! is from its outermost left to its outermost right point, and the chest's from the outermost point of one lung to
//! that of the other, for the lungs fill it: as `models/cxr-anatomy` was measured. Both are of the largest connected
//! piece of each organ.
//!
//! Outlines that no chest has give no ratio and the reason. Deliberately absent: a finding. The ratio is evidence
//! beside the classifiers' Cardiomegaly; no operating point was measured for it.

use std::sync::Arc;

use duet_case::{Code, MeasuredArea, MeasuredLine, Measurement, ModelRef, Source};
use duet_imaging::{Area, area};
use duet_inference::{Accepts, InferenceError, Label, Segmentation};
use image::GrayImage;

/// What is measured, as cases name it.
pub const CARDIOTHORACIC_RATIO: &str = "Cardiothoracic ratio";
/// Up to this ratio a heart counts as of usual size, on PA films of adults.
pub const USUAL_UP_TO: f64 = 0.5;

/// Concepts by which a model's labels are known (SNOMED CT), never by their names.
const HEART: &str = "80891009";
const RIGHT_LUNG: &str = "3341006";
const LEFT_LUNG: &str = "44029006";

const AP: &str = "taken from the front (AP), where the heart is magnified: the ratio is too large";
const PROJECTION_UNKNOWN: &str = "the file does not say whether the film was taken from behind (PA); on films taken from the front (AP) the ratio is too large";
const CHILD: &str = "the limit of 0.50 is that of adults; children's ratios are larger";
const ADULT_YEARS: u8 = 18;

/// A segmentation model that outlines heart and lungs.
#[derive(Clone)]
pub struct Thorax {
    model: Arc<dyn Segmentation>,
    heart: usize,
    right_lung: usize,
    left_lung: usize,
}

impl Thorax {
    /// `None` where `model` does not outline the heart and both lungs.
    pub fn of(model: Arc<dyn Segmentation>) -> Option<Self> {
        let at = |value: &str| {
            model
                .labels()
                .iter()
                .position(|own| own.code.scheme == "SCT" && own.code.value == value)
        };
        let (heart, right_lung, left_lung) = (at(HEART)?, at(RIGHT_LUNG)?, at(LEFT_LUNG)?);
        Some(Self { heart, right_lung, left_lung, model })
    }

    /// Who outlines.
    pub fn model(&self) -> &ModelRef {
        self.model.model()
    }

    /// Which images it takes.
    pub fn accepts(&self) -> &Accepts {
        self.model.accepts()
    }

    /// Measures the ratio in a rendition, of which one pixel is `scale` of the original's.
    ///
    /// # Errors
    ///
    /// Where the model gives no answer. Outlines that are not plausible are an answer: a measurement without a value.
    pub fn measure(
        &self,
        picture: &GrayImage,
        scale: [f64; 2],
        source: &Source,
    ) -> Result<Measurement, InferenceError> {
        let masks = self.model.segment(picture)?;
        let outlined = |at: usize| -> Option<Area> {
            let mask = masks.get(at)?;
            area(mask.as_raw(), mask.dimensions())
        };
        let organs = Organs {
            heart: outlined(self.heart),
            right_lung: outlined(self.right_lung),
            left_lung: outlined(self.left_lung),
        };
        let pictured = Pictured { size: picture.dimensions(), scale };
        let (value, lines, reason) = match organs.widths() {
            Ok([heart, chest]) => {
                let lines = vec![pictured.line("Heart", heart), pictured.line("Chest", chest)];
                (Some(heart.length() / chest.length()), lines, None)
            }
            Err(reason) => (None, Vec::new(), Some(reason)),
        };
        let labelled = |at: usize, area: &Option<Area>| {
            Some(pictured.area(self.model.labels().get(at)?, area.as_ref()?))
        };
        Ok(Measurement {
            value,
            lines,
            areas: [
                labelled(self.heart, &organs.heart),
                labelled(self.right_lung, &organs.right_lung),
                labelled(self.left_lung, &organs.left_lung),
            ]
            .into_iter()
            .flatten()
            .collect(),
            reason,
            cautions: if value.is_some() { cautions(source) } else { Vec::new() },
            ..self.blank()
        })
    }

    /// What stands in the Case where the model gave no answer.
    pub(crate) fn nothing(&self, why: String) -> Measurement {
        Measurement { reason: Some(why), ..self.blank() }
    }

    fn blank(&self) -> Measurement {
        Measurement {
            name: CARDIOTHORACIC_RATIO.to_owned(),
            code: code("99DUET", "cardiothoracic-ratio", CARDIOTHORACIC_RATIO),
            value: None,
            unit: code("UCUM", "1", "no units"),
            usual_up_to: Some(USUAL_UP_TO),
            lines: Vec::new(),
            areas: Vec::new(),
            reason: None,
            cautions: Vec::new(),
            model: self.model().clone(),
        }
    }
}

fn code(scheme: &str, value: &str, meaning: &str) -> Code {
    Code { scheme: scheme.to_owned(), value: value.to_owned(), meaning: meaning.to_owned() }
}

fn cautions(source: &Source) -> Vec<String> {
    let projection = match source.view_position.as_deref() {
        Some("PA") => None,
        Some("AP") => Some(AP),
        _ => Some(PROJECTION_UNKNOWN),
    };
    let age = source.patient.age_years.filter(|years| *years < ADULT_YEARS).map(|_| CHILD);
    projection.into_iter().chain(age).map(str::to_owned).collect()
}

/// What was outlined.
struct Organs {
    heart: Option<Area>,
    right_lung: Option<Area>,
    left_lung: Option<Area>,
}

/// A horizontal line in shares of the picture's width and height.
#[derive(Clone, Copy)]
struct Width {
    from: f64,
    to: f64,
    at: f64,
}

impl Width {
    fn length(self) -> f64 {
        self.to - self.from
    }
}

/// What chests are like, in shares. Of unseen frontal films of two hospitals these leave about 96 % with a ratio; of 750
/// images that were turned by a quarter or a half, inverted, photographs or of another modality they leave two
/// (`models/training/ctr_table.py --spoilt 150`).
mod plausible {
    /// Mean probability within an outline.
    pub(super) const CERTAINTY: f64 = 0.88;
    /// Of what is marked as the heart, in one piece.
    pub(super) const HEART_WHOLE: f64 = 0.9;
    /// Of what is marked as a lung, in one piece.
    pub(super) const LUNG_WHOLE: f64 = 0.7;
    /// Of the picture.
    pub(super) const SHARE: f64 = 0.03;
    /// The smaller lung's area over the larger's; less is a lung that is hidden, and then the chest is wider than seen.
    pub(super) const LUNGS_ALIKE: f64 = 0.4;
    /// This near to the picture's left or right edge an organ is cut off.
    pub(super) const SIDE_MARGIN: f64 = 0.002;
    /// This near to the picture's lower edge the heart is cut off.
    pub(super) const FOOT_MARGIN: f64 = 0.015;
    /// The height that both lungs have in common, over the smaller's.
    pub(super) const SIDE_BY_SIDE: f64 = 0.75;
    /// The heart's centre, across the chest and down the lungs.
    pub(super) const HEART_ACROSS: std::ops::RangeInclusive<f64> = 0.42..=0.75;
    pub(super) const HEART_DOWN: std::ops::RangeInclusive<f64> = 0.5..=1.0;
    /// Of the chest's width, what lies at least between the heart and the outermost point of either lung.
    pub(super) const BESIDE_HEART: f64 = 0.02;
    /// The ratio itself.
    pub(super) const RATIO: std::ops::RangeInclusive<f64> = 0.25..=0.85;
}

impl Organs {
    /// The heart's width and the chest's, or why there are none.
    fn widths(&self) -> Result<[Width; 2], String> {
        let there = |organ: &'static str, area: &Option<Area>| {
            area.clone().ok_or_else(|| format!("no {organ} was outlined"))
        };
        let heart = there("heart", &self.heart)?;
        let right = there("right lung", &self.right_lung)?;
        let left = there("left lung", &self.left_lung)?;
        for (organ, area, whole) in [
            ("heart", &heart, plausible::HEART_WHOLE),
            ("right lung", &right, plausible::LUNG_WHOLE),
            ("left lung", &left, plausible::LUNG_WHOLE),
        ] {
            if area.certainty < plausible::CERTAINTY {
                return Err(format!("the outline of the {organ} is too uncertain"));
            }
            if area.whole < whole {
                return Err(format!("the outline of the {organ} falls into pieces"));
            }
            if area.share < plausible::SHARE {
                return Err(format!("the outline of the {organ} is too small"));
            }
        }
        if right.share.min(left.share) < plausible::LUNGS_ALIKE * right.share.max(left.share) {
            return Err("one lung is outlined far smaller than the other: it may be hidden, and the chest wider than seen".to_owned());
        }
        let edge = plausible::SIDE_MARGIN;
        if right.left <= edge || left.right >= 1.0 - edge {
            return Err("the chest is cut off at the picture's side".to_owned());
        }
        if heart.bottom >= 1.0 - plausible::FOOT_MARGIN {
            return Err("the heart is cut off at the picture's lower edge".to_owned());
        }
        let in_common = right.bottom.min(left.bottom) - right.top.max(left.top);
        let smaller = (right.bottom - right.top).min(left.bottom - left.top);
        if left.centre[0] <= right.centre[0] || in_common < plausible::SIDE_BY_SIDE * smaller {
            return Err(
                "the lungs do not lie side by side, the patient's right at the picture's left"
                    .to_owned(),
            );
        }
        let chest = Width {
            from: right.left.min(left.left),
            to: right.right.max(left.right),
            at: (right.left_at + left.right_at) / 2.0,
        };
        let (top, bottom) = (right.top.min(left.top), right.bottom.max(left.bottom));
        let across = (heart.centre[0] - chest.from) / chest.length();
        let down = (heart.centre[1] - top) / (bottom - top);
        if !plausible::HEART_ACROSS.contains(&across) || !plausible::HEART_DOWN.contains(&down) {
            return Err("the heart does not lie between the lungs".to_owned());
        }
        let beside = plausible::BESIDE_HEART * chest.length();
        if heart.left < chest.from + beside || heart.right > chest.to - beside {
            return Err("the heart reaches as far out as the lungs: one may be hidden, and the chest wider than seen".to_owned());
        }
        let width =
            Width { from: heart.left, to: heart.right, at: (heart.left_at + heart.right_at) / 2.0 };
        let ratio = width.length() / chest.length();
        if !plausible::RATIO.contains(&ratio) {
            return Err(format!("a ratio of {ratio:.2} is none that a chest has"));
        }
        Ok([width, chest])
    }
}

/// The picture that shares are turned into pixels of.
struct Pictured {
    size: (u32, u32),
    scale: [f64; 2],
}

impl Pictured {
    fn point(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [x * f64::from(self.size.0), y * f64::from(self.size.1)]
    }

    fn original(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [x * self.scale[0], y * self.scale[1]]
    }

    fn line(&self, name: &str, width: Width) -> MeasuredLine {
        let rendition = [[width.from, width.at], [width.to, width.at]].map(|end| self.point(end));
        MeasuredLine {
            name: name.to_owned(),
            rendition,
            original: rendition.map(|end| self.original(end)),
        }
    }

    fn area(&self, label: &Label, area: &Area) -> MeasuredArea {
        let rings: Vec<Vec<[f64; 2]>> = area
            .contours
            .iter()
            .map(|ring| ring.iter().map(|point| self.point(*point)).collect())
            .collect();
        let original =
            |ring: &Vec<[f64; 2]>| ring.iter().map(|point| self.original(*point)).collect();
        MeasuredArea {
            label: label.name.clone(),
            code: label.code.clone(),
            share: area.share,
            original_contours: rings.iter().map(original).collect(),
            rendition_contours: rings,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
