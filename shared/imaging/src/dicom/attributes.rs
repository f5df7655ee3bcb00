//! The elements that Duet reads, parsed by dicom-rs from the ranges that the guard walked.

use std::ops::Range;

use dicom_core::{
    Tag,
    dictionary::{DataDictionary as _, DataDictionaryEntry as _},
    value::PrimitiveValue,
};
use dicom_dictionary_std::{StandardDataDictionary, tags};
use dicom_object::InMemDicomObject;
use dicom_transfer_syntax_registry::entries;

use crate::{
    PrepareError,
    guard::{self, Encoding, Outline},
};

/// Everything that is read of a DICOM object besides its pixels. What is neither here nor in [`IDENTIFYING`] is never parsed.
const READ: [Tag; 44] = [
    tags::TRANSFER_SYNTAX_UID,
    tags::MEDIA_STORAGE_SOP_CLASS_UID,
    tags::SOP_CLASS_UID,
    tags::SOP_INSTANCE_UID,
    tags::STUDY_DATE,
    tags::MODALITY,
    tags::PATIENT_BIRTH_DATE,
    tags::PATIENT_SEX,
    tags::PATIENT_AGE,
    tags::BODY_PART_EXAMINED,
    tags::NOMINAL_SCANNED_PIXEL_SPACING,
    tags::IMAGER_PIXEL_SPACING,
    tags::VIEW_POSITION,
    tags::STUDY_INSTANCE_UID,
    tags::SERIES_INSTANCE_UID,
    tags::LATERALITY,
    tags::IMAGE_LATERALITY,
    tags::SAMPLES_PER_PIXEL,
    tags::PHOTOMETRIC_INTERPRETATION,
    tags::PLANAR_CONFIGURATION,
    tags::NUMBER_OF_FRAMES,
    tags::ROWS,
    tags::COLUMNS,
    tags::PIXEL_SPACING,
    tags::BITS_ALLOCATED,
    tags::BITS_STORED,
    tags::HIGH_BIT,
    tags::PIXEL_REPRESENTATION,
    tags::PIXEL_PADDING_VALUE,
    tags::PIXEL_PADDING_RANGE_LIMIT,
    tags::WINDOW_CENTER,
    tags::WINDOW_WIDTH,
    tags::RESCALE_INTERCEPT,
    tags::RESCALE_SLOPE,
    tags::VOILUT_FUNCTION,
    tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
    tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
    tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
    tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DATA,
    tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DATA,
    tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DATA,
    tags::MODALITY_LUT_SEQUENCE,
    tags::VOILUT_SEQUENCE,
    tags::PRESENTATION_LUT_SHAPE,
];

/// What a result is filed by. Parsed apart, so that one that is damaged costs the result its address and not the film.
const IDENTIFYING: [Tag; 14] = [
    tags::SPECIFIC_CHARACTER_SET,
    tags::SOP_CLASS_UID,
    tags::SOP_INSTANCE_UID,
    tags::STUDY_DATE,
    tags::STUDY_TIME,
    tags::ACCESSION_NUMBER,
    tags::INSTITUTION_NAME,
    tags::PATIENT_NAME,
    tags::PATIENT_ID,
    tags::ISSUER_OF_PATIENT_ID,
    tags::PATIENT_BIRTH_DATE,
    tags::STUDY_INSTANCE_UID,
    tags::SERIES_INSTANCE_UID,
    tags::STUDY_ID,
];

/// The longest value of an identifier: a name of three groups of 64 characters of six bytes fits. What is longer is none.
const LONGEST_IDENTIFIER: usize = 1200;

/// The sequences that are parsed, and so walked to their leaves before.
pub(crate) fn is_parsed_sequence(tag: Tag) -> bool {
    matches!(
        tag,
        tags::MODALITY_LUT_SEQUENCE
            | tags::VOILUT_SEQUENCE
            | tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE
            | tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE
    )
}

/// Attributes of the object, and of its first frame where they stand in functional groups (multi-frame objects).
pub(crate) struct Attributes {
    object: InMemDicomObject,
    /// First frame's functional groups, then the shared ones.
    groups: Vec<InMemDicomObject>,
    /// [`IDENTIFYING`], as far as it can be parsed.
    identity: InMemDicomObject,
    present: Vec<Tag>,
}

impl Attributes {
    pub(crate) fn parse(
        bytes: &[u8],
        outline: &Outline,
        encoding: Encoding,
    ) -> Result<Self, PrepareError> {
        let mut wanted = Vec::new();
        let mut groups = Vec::new();
        let mut identity = Vec::new();
        for element in &outline.elements {
            let whole = slice(bytes, element.whole.clone());
            if READ.contains(&element.tag) {
                append(&mut wanted, whole, element.tag, encoding);
            }
            if IDENTIFYING.contains(&element.tag) && whole.len() <= LONGEST_IDENTIFIER + 12 {
                append(&mut identity, whole, element.tag, encoding);
            }
        }
        for tag in
            [tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE]
        {
            let item = outline
                .elements
                .iter()
                .find(|element| element.tag == tag)
                .and_then(|element| element.first_item.clone());
            if let Some(item) = item {
                groups.push(parse(bytes.get(item).unwrap_or_default(), encoding)?);
            }
        }
        Ok(Self {
            object: parse(&wanted, encoding)?,
            groups,
            identity: parse(&identity, encoding).unwrap_or_else(|_| InMemDicomObject::new_empty()),
            present: outline.elements.iter().map(|element| element.tag).collect(),
        })
    }

    /// Whether the object has the element at its top level, read or not.
    pub(crate) fn has(&self, tag: Tag) -> bool {
        self.present.contains(&tag)
    }

    /// The object's own attributes.
    pub(crate) fn object(&self) -> &InMemDicomObject {
        &self.object
    }

    /// The first item of the functional group macro `group`, of the first frame or shared; else the object itself.
    pub(crate) fn group(&self, group: Tag) -> &InMemDicomObject {
        self.groups.iter().find_map(|groups| first_item(groups, group)).unwrap_or(&self.object)
    }

    /// The first value as text, without padding; `None` where it is absent or empty.
    pub(crate) fn text(&self, tag: Tag) -> Option<String> {
        text(&self.object, tag)
    }

    /// An identifier's first value as text, in the object's own character set; `None` where it is absent or empty.
    pub(crate) fn identifier(&self, tag: Tag) -> Option<String> {
        text(&self.identity, tag)
    }

    /// The first value as an integer; `None` where it is absent or empty.
    pub(crate) fn integer(&self, tag: Tag) -> Result<Option<i64>, PrepareError> {
        let Some(value) = primitive(&self.object, tag) else { return Ok(None) };
        let value = value.to_int::<i64>().map_err(|_| not_a_number(tag))?;
        Ok(Some(value))
    }

    /// The first value as an integer that has to be there.
    pub(crate) fn required(&self, tag: Tag, name: &str) -> Result<i64, PrepareError> {
        self.integer(tag)?.ok_or_else(|| {
            PrepareError::corrupt(format!(
                "the object has pixel data and no {name} {tag}, without which it cannot be read"
            ))
        })
    }
}

/// Appends an element as it stands; one of unknown VR (UN, which some archives write for everything) with the VR that its tag has.
fn append(wanted: &mut Vec<u8>, element: &[u8], tag: Tag, encoding: Encoding) {
    let known = || StandardDataDictionary.by_tag(tag).map(|entry| entry.vr().relaxed().to_bytes());
    if encoding == Encoding::EXPLICIT_LITTLE
        && element.get(4..6) == Some(b"UN")
        && let (Some(vr), Some(head), Some(length), Some(value)) =
            (known(), element.get(..4), element.get(8..12), element.get(12..))
        && &vr != b"SQ"
    {
        wanted.extend_from_slice(head);
        wanted.extend_from_slice(&vr);
        if guard::has_long_header(vr) {
            wanted.extend_from_slice(&[0, 0]);
            wanted.extend_from_slice(length);
            return wanted.extend_from_slice(value);
        }
        if let Ok(short) = u16::try_from(value.len()) {
            wanted.extend_from_slice(&short.to_le_bytes());
            return wanted.extend_from_slice(value);
        }
        wanted.truncate(wanted.len() - 6);
    }
    wanted.extend_from_slice(element);
}

fn parse(bytes: &[u8], encoding: Encoding) -> Result<InMemDicomObject, PrepareError> {
    let syntax = match encoding {
        Encoding { explicit: false, .. } => entries::IMPLICIT_VR_LITTLE_ENDIAN.erased(),
        Encoding { big: true, .. } => entries::EXPLICIT_VR_BIG_ENDIAN.erased(),
        Encoding { .. } => entries::EXPLICIT_VR_LITTLE_ENDIAN.erased(),
    };
    // The parser's own message may quote a value, so it goes no further.
    InMemDicomObject::read_dataset_with_ts(bytes, &syntax).map_err(|_| {
        PrepareError::corrupt(
            "the elements that describe the image cannot be parsed: the file is damaged",
        )
    })
}

fn not_a_number(tag: Tag) -> PrepareError {
    PrepareError::corrupt(format!("element {tag} does not hold the number that it should"))
}

/// The first item of a sequence.
pub(crate) fn first_item(object: &InMemDicomObject, tag: Tag) -> Option<&InMemDicomObject> {
    object.get(tag)?.items()?.first()
}

/// An element's value, unless it is empty.
pub(crate) fn primitive(object: &InMemDicomObject, tag: Tag) -> Option<&PrimitiveValue> {
    object
        .get(tag)
        .and_then(|element| element.value().primitive())
        .filter(|value| value.multiplicity() > 0)
}

/// The first value as text, without padding; `None` where it is absent or empty.
pub(crate) fn text(object: &InMemDicomObject, tag: Tag) -> Option<String> {
    let value = primitive(object, tag)?.to_multi_str();
    let first = value.first()?.trim_matches(|c: char| c == ' ' || c == '\0').to_owned();
    (!first.is_empty()).then_some(first)
}

/// All values as numbers; `None` where the element is absent or empty.
pub(crate) fn floats(
    object: &InMemDicomObject,
    tag: Tag,
) -> Result<Option<Vec<f64>>, PrepareError> {
    if text(object, tag).is_none() {
        return Ok(None);
    }
    let Some(value) = primitive(object, tag) else { return Ok(None) };
    let values = value.to_multi_float64().map_err(|_| not_a_number(tag))?;
    if values.iter().any(|value| !value.is_finite()) {
        return Err(not_a_number(tag));
    }
    Ok((!values.is_empty()).then_some(values))
}

/// All values as integers; `None` where the element is absent or empty.
pub(crate) fn integers(
    object: &InMemDicomObject,
    tag: Tag,
) -> Result<Option<Vec<i64>>, PrepareError> {
    let Some(value) = primitive(object, tag) else { return Ok(None) };
    value.to_multi_int::<i64>().map(Some).map_err(|_| not_a_number(tag))
}

/// Slices of `bytes`; ranges come from the guard and lie within.
pub(crate) fn slice(bytes: &[u8], range: Range<usize>) -> &[u8] {
    bytes.get(range).unwrap_or_default()
}
