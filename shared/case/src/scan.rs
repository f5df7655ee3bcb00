//! What came in, and the working rendition made of it. Nothing here names a patient.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BlobRef, Digest};

/// The container format, from the content and never from a file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// DICOM (PS3.10 file, with or without its preamble).
    Dicom,
    /// Portable Network Graphics.
    Png,
    /// JPEG File Interchange Format.
    Jpeg,
}

/// A patient's sex as DICOM's Patient's Sex (0010,0040) writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Sex {
    /// Female.
    F,
    /// Male.
    M,
    /// Other.
    O,
}

/// What models need to know of a patient, kept under DICOM PS3.15's "Retain Patient Characteristics" option.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PatientContext {
    /// Whole years, 0 to 90; 90 stands for everyone of 90 and more, since a great age identifies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_years: Option<u8>,
    /// As recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sex: Option<Sex>,
}

/// What names the patient and the study, for filing results back: sealed by `prepare`, opened by `publish` alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sealed {
    /// The id of the key that it was sealed with.
    pub key: String,
    /// Base64 of 12 bytes of nonce, the identifiers encrypted with AES-256-GCM, and 16 bytes of tag. Bound to this case.
    pub data: String,
}

/// What the file was, as its content says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Source {
    /// Container format.
    pub format: Format,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// DICOM transfer syntax UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer_syntax: Option<String>,
    /// DICOM SOP Class UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sop_class: Option<String>,
    /// DICOM modality, for instance `DX`, `CR`, `MG`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modality: Option<String>,
    /// DICOM Body Part Examined, upper case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_part: Option<String>,
    /// DICOM View Position, for instance `PA`, `AP`, `LL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view_position: Option<String>,
    /// DICOM Image Laterality or Laterality.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub laterality: Option<String>,
    /// Photometric interpretation, or the colour type of a PNG or JPEG file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub photometric: Option<String>,
    /// Width of the original in pixels; 0 where there are none.
    pub width: u32,
    /// Height of the original in pixels; 0 where there are none.
    pub height: u32,
    /// Bits stored per sample; 0 where there are no pixels.
    pub bits: u16,
    /// Frames in the file; the first one is read.
    pub frames: u32,
    /// Row and column spacing in millimetres, where the file states it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pixel_spacing_mm: Option<[f64; 2]>,
    /// What models need to know of the patient.
    #[serde(default)]
    pub patient: PatientContext,
    /// What a reader should know of how the file was read, for instance "first of 12 frames".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What is needed to file results back, sealed; absent where the file names nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Sealed>,
}

impl Source {
    /// A file of that format of which nothing is known yet but its bytes.
    pub fn new(format: Format, bytes: &[u8]) -> Self {
        Self {
            format,
            sha256: Digest::of(bytes),
            bytes: bytes.len() as u64,
            transfer_syntax: None,
            sop_class: None,
            modality: None,
            body_part: None,
            view_position: None,
            laterality: None,
            photometric: None,
            width: 0,
            height: 0,
            bits: 0,
            frames: 0,
            pixel_spacing_mm: None,
            patient: PatientContext::default(),
            notes: Vec::new(),
            sealed: None,
        }
    }
}

/// How stored values became grey.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum WindowMethod {
    /// The file's own VOI LUT Sequence.
    VoiLut,
    /// The file's own Window Center and Window Width.
    Window {
        /// Centre, in modality units.
        center: f64,
        /// Width, in modality units.
        width: f64,
    },
    /// No window in the file: from the low to the high percentile of the image's own values.
    Percentiles {
        /// Value shown black.
        low: f64,
        /// Value shown white.
        high: f64,
    },
    /// Eight-bit grey already: shown as it is.
    Identity,
}

/// The de-identified working picture that models and pages see: 8-bit grey PNG.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rendition {
    /// Where it is.
    pub blob: BlobRef,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Original pixels per rendition pixel, along x and y.
    pub scale: [f64; 2],
    /// How stored values became grey.
    pub window: WindowMethod,
    /// Whether the polarity was turned (MONOCHROME1, Presentation LUT Shape INVERSE).
    pub inverted: bool,
}
