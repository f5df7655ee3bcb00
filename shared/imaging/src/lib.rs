//! Images: decoding, rendering, preprocessing for models, heat maps and annotation.
//!
//! `prepare` turns the bytes of a DICOM, PNG or JPEG file into the working [`Prepared`] rendition with [`prepare`]; the model stages
//! read it back with [`decode_rendition`] and [`squash`] it to a model's input; the specialist turns class-activation maps into
//! [`heat()`] maps and regions and mask logits into an [`Area`]; `publish` draws the [annotated](annotate()) picture.
//!
//! Everything here is pure, synchronous and capped: bytes in, bytes out, nothing allocated that the input has not got
//! the bytes or the [`Limits`] for. Callers run it on the compute pool.
//!
//! Deliberately absent: Kafka, files, async, and any way for what identifies a patient to reach a [`Source`]; it comes back
//! apart, in [`Identifiers`].

mod annotate;
mod area;
mod codestream;
mod dicom;
mod error;
mod guard;
mod heat;
mod limits;
mod preprocess;
mod raster;
mod render;
mod resample;
mod sniff;

use std::panic::{AssertUnwindSafe, catch_unwind};

use duet_case::{Source, WindowMethod};
use serde::{Deserialize, Serialize};

pub use annotate::{
    AnnotatedFinding, AnnotatedMeasurement, AnnotationSpec, annotate, annotated_png,
};
pub use area::{Area, area};
pub use error::{Class, PrepareError};
pub use heat::{Heat, heat};
pub use limits::Limits;
pub use preprocess::{decode_rendition, reduced_png, squash};
pub use render::LONG_SIDE;
pub use sniff::sniff;

/// What a file became.
#[derive(Debug, Clone)]
pub enum Prepared {
    /// A picture.
    Picture {
        /// What the file was.
        source: Source,
        /// What names the patient and the study.
        identifiers: Identifiers,
        /// The working rendition: eight-bit grey PNG.
        rendition_png: Vec<u8>,
        /// The rendition's width in pixels.
        width: u32,
        /// The rendition's height in pixels.
        height: u32,
        /// Original pixels per rendition pixel, along x and y.
        scale: [f64; 2],
        /// How stored values became grey.
        window: WindowMethod,
        /// Whether the polarity was turned.
        inverted: bool,
    },
    /// A DICOM object that has no pixels by intent: a report, a PDF, a directory.
    NoPixels {
        /// What the file was.
        source: Source,
        /// What names the patient and the study.
        identifiers: Identifiers,
        /// What it is instead of an image.
        reason: String,
    },
}

/// What a result needs to be filed back where a DICOM object came from: the attributes that a result object of the same study
/// repeats, and by which a FHIR DiagnosticReport names patient, order and study. They name a patient, so that they enter a
/// Case sealed or not at all; `Debug` does not show them.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identifiers {
    /// Patient ID (0010,0020).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patient_id: Option<String>,
    /// Issuer of Patient ID (0010,0021).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_of_patient_id: Option<String>,
    /// Patient's Name (0010,0010).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patient_name: Option<String>,
    /// Patient's Birth Date (0010,0030).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patient_birth_date: Option<String>,
    /// Accession Number (0008,0050).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accession_number: Option<String>,
    /// Study ID (0020,0010).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub study_id: Option<String>,
    /// Study Date (0008,0020).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub study_date: Option<String>,
    /// Study Time (0008,0030).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub study_time: Option<String>,
    /// Institution Name (0008,0080).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub institution_name: Option<String>,
    /// Study Instance UID (0020,000D).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub study_instance_uid: Option<String>,
    /// Series Instance UID (0020,000E).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series_instance_uid: Option<String>,
    /// SOP Class UID (0008,0016).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sop_class_uid: Option<String>,
    /// SOP Instance UID (0008,0018).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sop_instance_uid: Option<String>,
}

impl Identifiers {
    /// Whether they name anything at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl std::fmt::Debug for Identifiers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identifiers(withheld)")
    }
}

/// Decodes a file and renders it.
///
/// # Errors
///
/// Where the bytes are not a DICOM, PNG or JPEG file that can be read within `limits`. A decoder that panics is an error of
/// class `corrupt` and nothing more.
pub fn prepare(bytes: &[u8], limits: &Limits) -> Result<Prepared, PrepareError> {
    catch_unwind(AssertUnwindSafe(|| read(bytes, limits))).unwrap_or_else(|_| {
        Err(PrepareError::corrupt("the decoder crashed on this file: the file is damaged"))
    })
}

fn read(bytes: &[u8], limits: &Limits) -> Result<Prepared, PrepareError> {
    if bytes.len() as u64 > limits.max_bytes {
        return Err(PrepareError::over_limit(format!(
            "the file has {} bytes; the limit is {} (limits.max_bytes)",
            bytes.len(),
            limits.max_bytes
        )));
    }
    let container = sniff::container(bytes)?;
    let mut source = Source::new(container.format(), bytes);
    let (source, identifiers, grey) = match container {
        sniff::Container::Png => {
            let grey = raster::png(bytes, &mut source, limits)?;
            (source, Identifiers::default(), grey)
        }
        sniff::Container::Jpeg => {
            let grey = raster::jpeg(bytes, &mut source, limits)?;
            (source, Identifiers::default(), grey)
        }
        sniff::Container::DicomMarked(_) | sniff::Container::DicomBare => {
            let meta_at =
                if let sniff::Container::DicomMarked(at) = container { at + 4 } else { 0 };
            match dicom::read(bytes, meta_at, source, limits)? {
                dicom::Dicom::NoPixels { source, identifiers, reason } => {
                    return Ok(Prepared::NoPixels { source, identifiers, reason });
                }
                dicom::Dicom::Picture { source, identifiers, grey } => (source, identifiers, grey),
            }
        }
    };
    let rendition = render::rendition(grey.image)?;
    let (width, height) = rendition.dimensions();
    Ok(Prepared::Picture {
        scale: [
            f64::from(source.width) / f64::from(width),
            f64::from(source.height) / f64::from(height),
        ],
        rendition_png: render::grey_png(&rendition)?,
        source,
        identifiers,
        width,
        height,
        window: grey.window,
        inverted: grey.inverted,
    })
}
