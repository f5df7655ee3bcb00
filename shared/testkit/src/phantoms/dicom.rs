//! Drawings as DICOM files, by a small writer of its own: what reads them in Duet is then tested against other code than itself, and
//! it can write what no library would.

use std::io::Write as _;

use flate2::{Compression, write::DeflateEncoder};
use image::GrayImage;

/// How a phantom is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// Implicit VR little endian.
    Implicit,
    /// Explicit VR little endian.
    Explicit,
    /// Explicit VR big endian (retired, and still met).
    BigEndian,
    /// Deflated explicit VR little endian.
    Deflated,
    /// RLE lossless.
    Rle,
}

impl Syntax {
    /// Every one.
    pub const ALL: [Self; 5] =
        [Self::Implicit, Self::Explicit, Self::BigEndian, Self::Deflated, Self::Rle];

    /// The transfer syntax UID.
    pub const fn uid(self) -> &'static str {
        match self {
            Self::Implicit => "1.2.840.10008.1.2",
            Self::Explicit => "1.2.840.10008.1.2.1",
            Self::BigEndian => "1.2.840.10008.1.2.2",
            Self::Deflated => "1.2.840.10008.1.2.1.99",
            Self::Rle => "1.2.840.10008.1.2.5",
        }
    }
}

/// What is in every field of [`DicomOptions::marked`] that identifies a patient: none of it may come out anywhere.
pub const MARKS: [&str; 6] = ["ZZMARK", "7770011", "7770022", "7770033", "19630215", "20240911"];

/// How to write a drawing as a DICOM file.
#[derive(Debug, Clone)]
pub struct DicomOptions {
    /// Transfer syntax.
    pub syntax: Syntax,
    /// Bits stored, 8 to 16.
    pub bits: u16,
    /// Signed samples.
    pub signed: bool,
    /// Stored the other way round, as MONOCHROME1.
    pub monochrome1: bool,
    /// Window Center and Window Width, in modality units.
    pub window: Option<[f64; 2]>,
    /// Rescale Slope and Rescale Intercept.
    pub rescale: Option<[f64; 2]>,
    /// Pixel Padding Value, as stored.
    pub padding: Option<u16>,
    /// With the 128-byte preamble and `DICM`.
    pub preamble: bool,
    /// With the file meta group.
    pub meta: bool,
    /// Patient's Name (0010,0010).
    pub patient_name: String,
    /// Patient ID (0010,0020).
    pub patient_id: String,
    /// Patient's Birth Date (0010,0030).
    pub birth_date: String,
    /// Patient's Age (0010,1010).
    pub age: String,
    /// Patient's Sex (0010,0040).
    pub sex: String,
    /// Study Date (0008,0020).
    pub study_date: String,
    /// Every other free text: accession number, institution, physicians, descriptions, comments.
    pub text: String,
    /// Study Instance UID.
    pub study_instance_uid: String,
    /// Series Instance UID.
    pub series_instance_uid: String,
    /// SOP Instance UID.
    pub sop_instance_uid: String,
    /// Body Part Examined.
    pub body_part: String,
    /// View Position.
    pub view: String,
}

impl Default for DicomOptions {
    fn default() -> Self {
        Self {
            syntax: Syntax::Explicit,
            bits: 12,
            signed: false,
            monochrome1: false,
            window: None,
            rescale: None,
            padding: None,
            preamble: true,
            meta: true,
            patient_name: "PHANTOM".into(),
            patient_id: "PHANTOM".into(),
            birth_date: String::new(),
            age: "050Y".into(),
            sex: "O".into(),
            study_date: "20260101".into(),
            text: "drawn phantom, nobody's film".into(),
            study_instance_uid: "2.25.1001".into(),
            series_instance_uid: "2.25.1002".into(),
            sop_instance_uid: "2.25.1003".into(),
            body_part: "CHEST".into(),
            view: "PA".into(),
        }
    }
}

impl DicomOptions {
    /// With [`MARKS`] in everything that identifies a patient. The age has to be told from the dates: 61.
    pub fn marked() -> Self {
        Self {
            patient_name: "ZZMARKNAME^JANE".into(),
            patient_id: "ZZMARKID".into(),
            birth_date: "19630215".into(),
            age: String::new(),
            sex: "F".into(),
            study_date: "20240911".into(),
            text: "ZZMARKTEXT".into(),
            study_instance_uid: "1.2.826.0.1.3680043.9.7770011".into(),
            series_instance_uid: "1.2.826.0.1.3680043.9.7770022".into(),
            sop_instance_uid: "1.2.826.0.1.3680043.9.7770033".into(),
            ..Self::default()
        }
    }
}

const DX_FOR_PRESENTATION: &str = "1.2.840.10008.5.1.4.1.1.1.1";

/// A drawing as a DICOM file (Digital X-Ray Image, for presentation).
pub fn dicom(picture: &GrayImage, options: &DicomOptions) -> Vec<u8> {
    let o = options;
    let big = o.syntax == Syntax::BigEndian;
    let mut set = Writer { explicit: o.syntax != Syntax::Implicit, big, bytes: Vec::new() };
    let short = |side: u32| u16::try_from(side).unwrap_or(u16::MAX);
    set.text(0x0008_0016, "UI", DX_FOR_PRESENTATION);
    set.text(0x0008_0018, "UI", &o.sop_instance_uid);
    set.text(0x0008_0020, "DA", &o.study_date);
    set.text(0x0008_0050, "SH", &o.text);
    set.text(0x0008_0060, "CS", "DX");
    set.text(0x0008_0080, "LO", &o.text);
    set.text(0x0008_0090, "PN", &o.text);
    set.text(0x0008_1030, "LO", &o.text);
    set.text(0x0010_0010, "PN", &o.patient_name);
    set.text(0x0010_0020, "LO", &o.patient_id);
    set.text(0x0010_0030, "DA", &o.birth_date);
    set.text(0x0010_0040, "CS", &o.sex);
    set.text(0x0010_1010, "AS", &o.age);
    set.text(0x0010_4000, "LT", &o.text);
    set.text(0x0018_0015, "CS", &o.body_part);
    set.text(0x0018_1164, "DS", "0.143\\0.143");
    set.text(0x0018_5101, "CS", &o.view);
    set.text(0x0020_000D, "UI", &o.study_instance_uid);
    set.text(0x0020_000E, "UI", &o.series_instance_uid);
    set.text(0x0020_4000, "LT", &o.text);
    set.number(0x0028_0002, 1);
    set.text(0x0028_0004, "CS", if o.monochrome1 { "MONOCHROME1" } else { "MONOCHROME2" });
    set.number(0x0028_0010, short(picture.height()));
    set.number(0x0028_0011, short(picture.width()));
    set.number(0x0028_0100, if o.bits > 8 { 16 } else { 8 });
    set.number(0x0028_0101, o.bits);
    set.number(0x0028_0102, o.bits.saturating_sub(1));
    set.number(0x0028_0103, o.signed.into());
    if let Some(padding) = o.padding {
        set.number(0x0028_0120, padding);
    }
    if let Some([center, width]) = o.window {
        set.text(0x0028_1050, "DS", &center.to_string());
        set.text(0x0028_1051, "DS", &width.to_string());
    }
    if let Some([slope, intercept]) = o.rescale {
        set.text(0x0028_1052, "DS", &intercept.to_string());
        set.text(0x0028_1053, "DS", &slope.to_string());
    }
    pixels(&mut set, picture, o);
    file(set.bytes, o.syntax.uid(), DX_FOR_PRESENTATION, &o.sop_instance_uid, o)
}

fn pixels(set: &mut Writer, picture: &GrayImage, o: &DicomOptions) {
    let top = (1_u32 << o.bits) - 1;
    let samples = picture.pixels().map(|pixel| {
        let shown = u32::from(pixel.0[0]) * top / 255;
        let stored = if o.monochrome1 { top - shown } else { shown };
        // The least signed value is all zeros less the sign: turning the top bit subtracts half the range.
        let stored = if o.signed { stored ^ (1 << (o.bits - 1)) } else { stored };
        let sign = if o.signed && stored >> (o.bits - 1) != 0 { u32::MAX << o.bits } else { 0 };
        (stored | sign) as u16
    });
    if o.syntax == Syntax::Rle {
        let samples: Vec<u16> = samples.collect();
        let mut planes = vec![samples.iter().map(|sample| *sample as u8).collect::<Vec<u8>>()];
        if o.bits > 8 {
            planes.insert(0, samples.iter().map(|sample| (*sample >> 8) as u8).collect());
        }
        set.fragments(&[&[], &rle(&planes)]);
    } else if o.bits > 8 {
        let value: Vec<u8> = samples
            .flat_map(|sample| if set.big { sample.to_be_bytes() } else { sample.to_le_bytes() })
            .collect();
        set.element(0x7FE0_0010, "OW", &value);
    } else {
        let value: Vec<u8> = samples.map(|sample| sample as u8).collect();
        set.element(0x7FE0_0010, "OB", &value);
    }
}

/// A Basic Text SR object: a report, and no pixels.
pub fn structured_report() -> Vec<u8> {
    const BASIC_TEXT_SR: &str = "1.2.840.10008.5.1.4.1.1.88.11";
    let o = DicomOptions::marked();
    let mut set = Writer { explicit: true, big: false, bytes: Vec::new() };
    set.text(0x0008_0016, "UI", BASIC_TEXT_SR);
    set.text(0x0008_0018, "UI", &o.sop_instance_uid);
    set.text(0x0008_0060, "CS", "SR");
    set.text(0x0010_0010, "PN", &o.patient_name);
    set.text(0x0020_000D, "UI", &o.study_instance_uid);
    set.text(0x0040_A040, "CS", "CONTAINER");
    let mut content = Writer { explicit: true, big: false, bytes: Vec::new() };
    content.text(0x0040_A040, "CS", "TEXT");
    content.text(0x0040_A160, "UT", &o.text);
    let length = u32::try_from(content.bytes.len()).unwrap_or_default().to_le_bytes();
    let item = [&[0xFE, 0xFF, 0x00, 0xE0], &length[..], &content.bytes].concat();
    set.element(0x0040_A730, "SQ", &item);
    file(set.bytes, Syntax::Explicit.uid(), BASIC_TEXT_SR, &o.sop_instance_uid, &o)
}

/// A whole file around a data set.
pub(crate) fn file(
    set: Vec<u8>,
    syntax: &str,
    class: &str,
    instance: &str,
    o: &DicomOptions,
) -> Vec<u8> {
    let mut meta = Writer { explicit: true, big: false, bytes: Vec::new() };
    meta.element(0x0002_0001, "OB", &[0, 1]);
    meta.text(0x0002_0002, "UI", class);
    meta.text(0x0002_0003, "UI", instance);
    meta.text(0x0002_0010, "UI", syntax);
    meta.text(0x0002_0012, "UI", "2.25.1000");
    let mut head = Writer { explicit: true, big: false, bytes: Vec::new() };
    head.element(
        0x0002_0000,
        "UL",
        &u32::try_from(meta.bytes.len()).unwrap_or_default().to_le_bytes(),
    );
    let mut bytes = Vec::new();
    if o.preamble {
        bytes.resize(128, 0);
        bytes.extend(b"DICM");
    }
    if o.meta {
        bytes.extend(head.bytes);
        bytes.extend(meta.bytes);
    }
    if syntax == Syntax::Deflated.uid() {
        let mut deflate = DeflateEncoder::new(&mut bytes, Compression::fast());
        let written = deflate.write_all(&set).and_then(|()| deflate.finish().map(|_| ()));
        debug_assert!(written.is_ok(), "{written:?}");
    } else {
        bytes.extend(set);
    }
    bytes
}

/// Writes elements one after another.
pub(crate) struct Writer {
    pub(crate) explicit: bool,
    pub(crate) big: bool,
    pub(crate) bytes: Vec<u8>,
}

impl Writer {
    fn short(&mut self, value: u16) {
        self.bytes.extend(if self.big { value.to_be_bytes() } else { value.to_le_bytes() });
    }

    fn long(&mut self, value: u32) {
        self.bytes.extend(if self.big { value.to_be_bytes() } else { value.to_le_bytes() });
    }

    /// An element's header, with any length.
    pub(crate) fn header(&mut self, tag: u32, vr: &str, length: u32) {
        self.short((tag >> 16) as u16);
        self.short(tag as u16);
        if !self.explicit {
            return self.long(length);
        }
        self.bytes.extend(vr.as_bytes());
        if matches!(vr, "OB" | "OW" | "SQ" | "UN" | "UT") {
            self.short(0);
            self.long(length);
        } else {
            self.short(length as u16);
        }
    }

    /// An element whose value is padded to even length with a zero.
    pub(crate) fn element(&mut self, tag: u32, vr: &str, value: &[u8]) {
        self.header(tag, vr, u32::try_from(value.len().next_multiple_of(2)).unwrap_or(u32::MAX));
        self.bytes.extend(value);
        if value.len() % 2 == 1 {
            self.bytes.push(0);
        }
    }

    pub(crate) fn text(&mut self, tag: u32, vr: &str, text: &str) {
        let pad = if vr == "UI" { "\0" } else { " " };
        let padded = if text.len() % 2 == 1 { format!("{text}{pad}") } else { text.to_owned() };
        self.element(tag, vr, padded.as_bytes());
    }

    pub(crate) fn number(&mut self, tag: u32, value: u16) {
        self.header(tag, "US", 2);
        self.short(value);
    }

    /// Compressed pixel data: the offset table and the fragments.
    fn fragments(&mut self, pieces: &[&[u8]]) {
        self.header(0x7FE0_0010, "OB", u32::MAX);
        let explicit = std::mem::replace(&mut self.explicit, false);
        for piece in pieces {
            self.element(0xFFFE_E000, "", piece);
        }
        self.header(0xFFFE_E0DD, "", 0);
        self.explicit = explicit;
    }
}

/// One frame in RLE (PS3.5 annex G): a header of 64 bytes and each plane in PackBits.
fn rle(planes: &[Vec<u8>]) -> Vec<u8> {
    let packed: Vec<Vec<u8>> = planes.iter().map(|plane| pack_bits(plane)).collect();
    let mut head = vec![u32::try_from(planes.len()).unwrap_or_default()];
    let mut at = 64;
    for plane in &packed {
        head.push(at);
        at += u32::try_from(plane.len()).unwrap_or_default();
    }
    head.resize(16, 0);
    head.into_iter().flat_map(u32::to_le_bytes).chain(packed.into_iter().flatten()).collect()
}

fn pack_bits(mut plane: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    while let Some(&first) = plane.first() {
        let run = plane.iter().take(128).take_while(|&&byte| byte == first).count();
        if run > 1 {
            packed.extend([(1 - run as i16) as u8, first]);
            plane = plane.get(run..).unwrap_or_default();
        } else {
            let literal =
                plane.windows(2).take(127).take_while(|pair| pair[0] != pair[1]).count().max(1);
            packed.push((literal - 1) as u8);
            packed.extend(plane.iter().take(literal));
            plane = plane.get(literal..).unwrap_or_default();
        }
    }
    if packed.len() % 2 == 1 {
        // -128 does nothing.
        packed.push(0x80);
    }
    packed
}
