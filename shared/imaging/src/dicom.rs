//! DICOM files: from bytes to eight-bit grey.
//!
//! [`crate::guard`] walks the headers first and says where everything is. Only the elements that Duet reads are
//! then handed to dicom-rs to be parsed, and only the first frame to its codecs: what identifies a patient is parsed apart and
//! kept apart, as far as a result is filed by it, and a broken private element costs no film.

mod attributes;
mod describe;
mod frame;
mod grey;
mod lut;
mod stream;
mod terms;

use std::{borrow::Cow, io::Read as _};

use dicom_core::dictionary::{UidDictionary as _, UidDictionaryEntry as _};
use dicom_dictionary_std::{StandardSopClassDictionary, tags};
use duet_case::Source;

use crate::{
    Identifiers, Limits, PrepareError,
    guard::{self, Encoding, Outline},
    render::Grey,
};
use attributes::Attributes;

/// A DICOM file, read.
pub(crate) enum Dicom {
    Picture { source: Source, identifiers: Identifiers, grey: Grey },
    NoPixels { source: Source, identifiers: Identifiers, reason: String },
}

const IMPLICIT_LITTLE: &str = "1.2.840.10008.1.2";
const EXPLICIT_LITTLE: &str = "1.2.840.10008.1.2.1";
const EXPLICIT_BIG: &str = "1.2.840.10008.1.2.2";
/// The transfer syntaxes whose whole data set is deflated: the plain one and two that only refer to pixels.
const DEFLATED: [&str; 3] =
    ["1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"];

/// Reads a DICOM file. `meta_at` is where its file meta group starts: behind `DICM`, or at 0.
pub(crate) fn read(
    bytes: &[u8],
    meta_at: usize,
    source: Source,
    limits: &Limits,
) -> Result<Dicom, PrepareError> {
    let (meta, body_at) = guard::walk_meta(bytes, meta_at, limits)?;
    let declared =
        Attributes::parse(bytes, &meta, Encoding::EXPLICIT_LITTLE)?.text(tags::TRANSFER_SYNTAX_UID);
    let body = bytes.get(body_at..).unwrap_or_default();
    let body: Cow<'_, [u8]> = match &declared {
        Some(uid) if DEFLATED.contains(&uid.as_str()) => {
            Cow::Owned(inflate(body, limits.max_bytes)?)
        }
        _ => Cow::Borrowed(body),
    };
    let mut notes = Vec::new();
    let encoding = encoding(declared.as_deref(), &body, &mut notes)?;
    let outline = guard::walk(&body, encoding, limits, attributes::is_parsed_sequence)?;
    let attributes = Attributes::parse(&body, &outline, encoding)?;
    let syntax = declared.unwrap_or_else(|| {
        notes.push("no file meta information: transfer syntax told from the content".to_owned());
        undeclared(encoding).to_owned()
    });

    let (mut source, identifiers) = describe::describe(&attributes, &syntax, source);
    source.notes.append(&mut notes);
    if let Some(reason) = without_pixels(&attributes, &outline)? {
        return Ok(Dicom::NoPixels { source, identifiers, reason });
    }
    let frame = frame::first(&body, &outline, encoding, &attributes, &syntax, limits)?;
    source.width = frame.width;
    source.height = frame.height;
    source.bits = frame.bits;
    source.frames = frame.frames;
    source.photometric = Some(frame.photometric.name().to_owned());
    if frame.frames > 1 {
        source.notes.push(format!("first of {} frames", frame.frames));
    }
    let grey = grey::render(&frame, &attributes, &mut source.notes)?;
    Ok(Dicom::Picture { source, identifiers, grey })
}

fn inflate(deflated: &[u8], max_bytes: u64) -> Result<Vec<u8>, PrepareError> {
    let mut inflated = Vec::new();
    flate2::read::DeflateDecoder::new(deflated)
        .take(max_bytes.saturating_add(1))
        .read_to_end(&mut inflated)
        .map_err(|error| {
            PrepareError::corrupt("the deflated data set cannot be inflated: the file is damaged")
                .because(error)
        })?;
    if inflated.len() as u64 > max_bytes {
        return Err(PrepareError::over_limit(format!(
            "the deflated data set inflates to more than {max_bytes} bytes (limits.max_bytes)"
        )));
    }
    Ok(inflated)
}

/// How the data set is written: as declared, unless its first element plainly says otherwise, which some writers' do.
fn encoding(
    declared: Option<&str>,
    body: &[u8],
    notes: &mut Vec<String>,
) -> Result<Encoding, PrepareError> {
    let looks_explicit = body.get(4..6).is_some_and(|vr| vr.iter().all(u8::is_ascii_uppercase));
    match declared {
        Some(EXPLICIT_BIG) => Ok(Encoding::EXPLICIT_BIG),
        // Group 0008 with its bytes the other way round.
        None if body.first() == Some(&0) && looks_explicit => Ok(Encoding::EXPLICIT_BIG),
        _ => {
            let declared_explicit = declared.map_or(looks_explicit, |uid| uid != IMPLICIT_LITTLE);
            if declared_explicit != looks_explicit && body.len() >= 8 {
                notes.push(format!(
                    "declares {} value representations, written with {}",
                    if declared_explicit { "explicit" } else { "implicit" },
                    if looks_explicit { "explicit" } else { "implicit" }
                ));
            }
            let explicit = if body.len() >= 8 { looks_explicit } else { declared_explicit };
            Ok(if explicit { Encoding::EXPLICIT_LITTLE } else { Encoding::IMPLICIT_LITTLE })
        }
    }
}

fn undeclared(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding { explicit: false, .. } => IMPLICIT_LITTLE,
        Encoding { big: true, .. } => EXPLICIT_BIG,
        Encoding { .. } => EXPLICIT_LITTLE,
    }
}

/// Why there are no pixels, where there are none by intent.
fn without_pixels(
    attributes: &Attributes,
    outline: &Outline,
) -> Result<Option<String>, PrepareError> {
    if outline.pixels.is_some() {
        return Ok(None);
    }
    if attributes.has(tags::ROWS) && attributes.has(tags::COLUMNS) {
        return Err(PrepareError::truncated(
            "the DICOM object declares rows and columns and has no pixel data: it was cut short or stripped, send it again, whole",
        ));
    }
    if outline.elements.is_empty() {
        return Err(PrepareError::truncated(
            "the DICOM file ends before its data set: send it again, whole",
        ));
    }
    let class = attributes
        .text(tags::SOP_CLASS_UID)
        .or_else(|| attributes.text(tags::MEDIA_STORAGE_SOP_CLASS_UID));
    let name = class
        .as_deref()
        .and_then(|uid| StandardSopClassDictionary.by_uid(uid))
        .map(|entry| entry.name());
    let directory = attributes.has(tags::DIRECTORY_RECORD_SEQUENCE);
    Ok(Some(match name {
        Some(name) => format!("not an image: a DICOM object of class {name} without pixel data"),
        None if directory => "not an image: a DICOM directory (DICOMDIR)".to_owned(),
        None => "not an image: a DICOM object without pixel data".to_owned(),
    }))
}
