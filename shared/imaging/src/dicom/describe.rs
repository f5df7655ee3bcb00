//! What may be said of a DICOM object, and what may not.

use dicom_core::dictionary::{UidDictionary as _, UidDictionaryEntry as _};
use dicom_dictionary_std::{StandardSopClassDictionary, tags};
use dicom_encoding::TransferSyntaxIndex as _;
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;
use duet_case::{PatientContext, Sex, Source};

use super::{
    attributes::{Attributes, floats},
    terms,
};
use crate::Identifiers;

/// Ages above this identify, so that everyone older counts as this old.
const OLDEST: u32 = 90;

/// Fills `source` with what cannot name anyone, and sets the identifiers apart.
///
/// Free text is never taken. Coded texts and UIDs pass only where the standard defines them: an identifier may have been
/// typed into any field.
pub(crate) fn describe(
    attributes: &Attributes,
    syntax: &str,
    source: Source,
) -> (Source, Identifiers) {
    let coded = |tag, terms| attributes.text(tag).and_then(|text| terms::known(terms, &text));
    let class = attributes.text(tags::SOP_CLASS_UID);
    let source = Source {
        transfer_syntax: TransferSyntaxRegistry.get(syntax).map(|known| known.uid().to_owned()),
        sop_class: class
            .and_then(|uid| Some(StandardSopClassDictionary.by_uid(&uid)?.uid().to_owned())),
        modality: coded(tags::MODALITY, &terms::MODALITIES),
        body_part: coded(tags::BODY_PART_EXAMINED, &terms::BODY_PARTS),
        view_position: coded(tags::VIEW_POSITION, &terms::VIEWS),
        laterality: coded(tags::IMAGE_LATERALITY, &terms::SIDES)
            .or_else(|| coded(tags::LATERALITY, &terms::SIDES)),
        pixel_spacing_mm: spacing(attributes),
        patient: PatientContext { age_years: age(attributes), sex: sex(attributes) },
        ..source
    };
    let own = |tag| attributes.identifier(tag);
    let identifiers = Identifiers {
        patient_id: own(tags::PATIENT_ID),
        issuer_of_patient_id: own(tags::ISSUER_OF_PATIENT_ID),
        patient_name: own(tags::PATIENT_NAME),
        patient_birth_date: own(tags::PATIENT_BIRTH_DATE),
        accession_number: own(tags::ACCESSION_NUMBER),
        study_id: own(tags::STUDY_ID),
        study_date: own(tags::STUDY_DATE),
        study_time: own(tags::STUDY_TIME),
        institution_name: own(tags::INSTITUTION_NAME),
        // The pseudonym is made from it, so it is read even where another identifier is damaged.
        study_instance_uid: attributes.text(tags::STUDY_INSTANCE_UID),
        series_instance_uid: attributes.text(tags::SERIES_INSTANCE_UID),
        sop_class_uid: own(tags::SOP_CLASS_UID),
        sop_instance_uid: attributes.text(tags::SOP_INSTANCE_UID),
    };
    (source, identifiers)
}

/// Row and column spacing in millimetres: in the patient where it is calibrated so, else at the detector.
fn spacing(attributes: &Attributes) -> Option<[f64; 2]> {
    let measures = attributes.group(tags::PIXEL_MEASURES_SEQUENCE);
    let object = attributes.object();
    [
        (measures, tags::PIXEL_SPACING),
        (object, tags::PIXEL_SPACING),
        (object, tags::IMAGER_PIXEL_SPACING),
        (object, tags::NOMINAL_SCANNED_PIXEL_SPACING),
    ]
    .into_iter()
    .find_map(|(object, tag)| match floats(object, tag).ok()??.as_slice() {
        // A spacing that is not one says nothing; metres and micrometres are slips of a writer.
        &[row, column] if (1e-3..=100.0).contains(&row) && (1e-3..=100.0).contains(&column) => {
            Some([row, column])
        }
        _ => None,
    })
}

fn sex(attributes: &Attributes) -> Option<Sex> {
    match attributes.text(tags::PATIENT_SEX)?.to_ascii_uppercase().as_str() {
        "F" => Some(Sex::F),
        "M" => Some(Sex::M),
        "O" => Some(Sex::O),
        _ => None,
    }
}

/// Whole years: from Patient's Age, else from the birth date on the day of the study.
fn age(attributes: &Attributes) -> Option<u8> {
    let stated = attributes.text(tags::PATIENT_AGE).and_then(|text| years(&text));
    let years = stated.or_else(|| {
        let born = date(&attributes.text(tags::PATIENT_BIRTH_DATE)?)?;
        let study = date(&attributes.text(tags::STUDY_DATE)?)?;
        let had_birthday = (study.1, study.2) >= (born.1, born.2);
        let years = study.0.checked_sub(born.0)?.checked_sub(u32::from(!had_birthday))?;
        (years <= 150).then_some(years)
    })?;
    u8::try_from(years.min(OLDEST)).ok()
}

/// Reads an age string (VR AS): three digits and D, W, M or Y.
fn years(text: &str) -> Option<u32> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u32 = digits.parse().ok()?;
    match unit {
        "Y" | "y" => Some(count),
        "M" | "m" => Some(count / 12),
        "W" | "w" => Some(count / 52),
        "D" | "d" => Some(count / 365),
        _ => None,
    }
}

/// Reads a date (VR DA, or its form before DICOM 3): year, month, day.
fn date(text: &str) -> Option<(u32, u32, u32)> {
    let digits: String = text.chars().filter(|&c| c != '.').collect();
    if digits.len() != 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = |range: std::ops::Range<usize>| digits.get(range)?.parse::<u32>().ok();
    let (year, month, day) = (part(0..4)?, part(4..6)?, part(6..8)?);
    ((1..=12).contains(&month) && (1..=31).contains(&day) && year >= 1850)
        .then_some((year, month, day))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_whole_years() {
        for (text, expect) in [
            ("045Y", Some(45)),
            ("018M", Some(1)),
            ("011M", Some(0)),
            ("060W", Some(1)),
            ("300D", Some(0)),
            ("104Y", Some(104)),
            ("45", None),
            ("Y", None),
            ("-1Y", None),
            ("", None),
            ("04é", None),
        ] {
            assert_eq!(years(text), expect, "{text}");
        }
    }
}
