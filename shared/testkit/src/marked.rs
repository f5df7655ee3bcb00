//! Files that name a patient in every place in which a file can, each with a mark of its own, so that whatever comes out
//! somewhere tells where it came from.

use std::io::Write as _;

use flate2::{Compression, Crc, write::ZlibEncoder};

use crate::phantoms::{self, DicomOptions, Syntax, Writer};

/// Words that stand in names, numbers, texts and wherever else. None of them is in anything that Duet makes.
pub mod mark {
    /// Patient's Name.
    pub const NAME: &str = "ZZQNAMEXVJ";
    /// Patient ID.
    pub const ID: &str = "ZZQIDENTWKPF";
    /// Accession number, institution, descriptions, comments.
    pub const TEXT: &str = "ZZQTEXTBRM";
    /// Private elements.
    pub const PRIVATE: &str = "ZZQPRIVATEOAE";
    /// Within sequences within sequences.
    pub const NESTED: &str = "ZZQNESTEDIFW";
    /// Preamble and file meta information.
    pub const META: &str = "ZZQMETAGKX";
    /// Overlays.
    pub const OVERLAY: &str = "ZZQOVERLAYTUN";
    /// Fields for coded words and numbers.
    pub const CODE: &str = "ZZQCODEHBD";
    /// Behind the end of a file.
    pub const TAIL: &str = "ZZQTAILEMW";
    /// Texts of a PNG.
    pub const CHUNK: &str = "ZZQCHUNKLPV";
    /// The same, compressed.
    pub const DEFLATED: &str = "ZZQDEFLATEDYS";
    /// EXIF of a PNG or JPEG.
    pub const EXIF: &str = "ZZQEXIFMJB";
    /// Comment of a JPEG.
    pub const COMMENT: &str = "ZZQCOMMENTRD";
    /// Digits of a Study, a Series and an SOP Instance UID.
    pub const STUDY: &str = "777001155667788";
    /// See [`STUDY`].
    pub const SERIES: &str = "777002255667788";
    /// See [`STUDY`].
    pub const INSTANCE: &str = "777003355667788";
    /// A SOP class and a transfer syntax of somebody's own.
    pub const CLASS: &str = "777004455667788";
    /// A birth date.
    pub const BIRTH: &str = "19630215";
    /// A study date.
    pub const DATE: &str = "20240911";

    /// Every one.
    pub const ALL: [&str; 19] = [
        NAME, ID, TEXT, PRIVATE, NESTED, META, OVERLAY, CODE, TAIL, CHUNK, DEFLATED, EXIF, COMMENT,
        STUDY, SERIES, INSTANCE, CLASS, BIRTH, DATE,
    ];
}

/// A marked file.
#[derive(Debug, Clone)]
pub struct Marked {
    /// Where its marks are.
    pub name: String,
    /// The file.
    pub bytes: Vec<u8>,
}

fn options(syntax: Syntax) -> DicomOptions {
    DicomOptions {
        syntax,
        patient_name: format!("{}^JANE", mark::NAME),
        patient_id: mark::ID.to_owned(),
        birth_date: mark::BIRTH.to_owned(),
        age: String::new(),
        sex: "F".to_owned(),
        study_date: mark::DATE.to_owned(),
        text: mark::TEXT.to_owned(),
        study_instance_uid: format!("1.2.826.0.1.{}", mark::STUDY),
        series_instance_uid: format!("1.2.826.0.1.{}", mark::SERIES),
        sop_instance_uid: format!("1.2.826.0.1.{}", mark::INSTANCE),
        ..DicomOptions::default()
    }
}

/// Every one of them. Each is of another film, so that each is a case of its own.
pub fn marked_files() -> Vec<Marked> {
    let mut seed = 5000;
    let mut film = || {
        seed += 1;
        phantoms::chest(seed, 200, 180)
    };
    let mut files = Vec::new();
    let mut add = |name: &str, bytes: Vec<u8>| files.push(Marked { name: name.to_owned(), bytes });
    for syntax in Syntax::ALL {
        add(&format!("standard elements, {syntax:?}"), phantoms::dicom(&film(), &options(syntax)));
    }
    let explicit = || options(Syntax::Explicit);
    let coded = DicomOptions {
        body_part: mark::CODE.to_owned(),
        view: mark::CODE.to_owned(),
        age: mark::CODE.to_owned(),
        sex: mark::CODE.to_owned(),
        ..explicit()
    };
    add("fields for coded words", phantoms::dicom(&film(), &coded));
    let whole = || explicit();
    add(
        "private elements, sequences, overlays",
        insert(&phantoms::dicom(&film(), &whole()), &further(), &overlays()),
    );
    let mut with_preamble = phantoms::dicom(&film(), &whole());
    for (place, byte) in with_preamble.iter_mut().zip(mark::META.bytes().cycle()).take(128) {
        *place = byte;
    }
    add("the preamble", with_preamble);
    add("file meta information", with_meta(&phantoms::dicom(&film(), &whole())));
    let mut with_tail = phantoms::dicom(&film(), &whole());
    with_tail.extend(mark::TAIL.bytes());
    add("behind the end", with_tail);
    // Such as fail, each in another way.
    let cut = phantoms::dicom(&film(), &whole());
    add("cut in its pixels", cut.get(..cut.len() / 2).unwrap_or_default().to_vec());
    add("cut in its header", cut.get(..430).unwrap_or_default().to_vec());
    for (what, tag, vr) in [
        ("a number that is a name: Window Center", 0x0028_1050, "DS"),
        ("a number that is a name: Imager Pixel Spacing", 0x0018_1164, "DS"),
        ("a number that is a name: Number of Frames", 0x0028_0008, "IS"),
        ("a code that is a name: Photometric Interpretation", 0x0028_0004, "CS"),
        ("a code that is a name: Modality", 0x0008_0060, "CS"),
        ("a code that is a name: Presentation LUT Shape", 0x2050_0020, "CS"),
        ("a code that is a name: VOI LUT Function", 0x0028_1056, "CS"),
        ("a code that is a name: Specific Character Set", 0x0008_0005, "CS"),
    ] {
        add(what, around(&[(tag, vr, mark::CODE)], &explicit(), Syntax::Explicit.uid(), None));
    }
    let class = format!("1.2.826.0.1.{}", mark::CLASS);
    add(
        "a private SOP class",
        around(
            &[(0x0008_0016, "UI", class.as_str())],
            &explicit(),
            Syntax::Explicit.uid(),
            Some(&class),
        ),
    );
    add("a private transfer syntax", around(&[], &explicit(), &class, None));
    add("a report that names a patient", report());
    let png = phantoms::png8(&film());
    add("a PNG's texts", with_chunks(&png, &texts()));
    let mut broken = with_chunks(&phantoms::png8(&film()), &texts());
    let half = broken.len() * 2 / 3;
    broken.truncate(half);
    add("a PNG's texts, cut", broken);
    let mut tailed = phantoms::png8(&film());
    tailed.extend(mark::TAIL.bytes());
    add("behind a PNG's end", tailed);
    let jpeg = phantoms::jpeg(&film());
    add("a JPEG's comment and EXIF", with_segments(&jpeg));
    let broken = with_segments(&phantoms::jpeg(&film()));
    add(
        "a JPEG's comment and EXIF, cut",
        broken.get(..broken.len() / 2).unwrap_or_default().to_vec(),
    );
    add(
        "a letter",
        format!("Dear colleague, {} ({}) was seen.\n", mark::NAME, mark::ID).into_bytes(),
    );
    files
}

fn explicit() -> Writer {
    Writer { explicit: true, big: false, bytes: Vec::new() }
}

fn item(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap_or_default().to_le_bytes();
    [&[0xFE, 0xFF, 0x00, 0xE0], &length[..], content].concat()
}

/// Private elements and nested sequences, of groups between the study's and the image's.
fn further() -> Vec<u8> {
    let mut innermost = explicit();
    innermost.text(0x0010_0020, "LO", mark::NESTED);
    innermost.text(0x0040_A160, "UT", mark::NESTED);
    let mut inner = explicit();
    inner.element(0x0040_0275, "SQ", &item(&innermost.bytes));
    let mut set = explicit();
    set.text(0x0021_0010, "LO", mark::PRIVATE);
    set.text(0x0021_1001, "LT", mark::PRIVATE);
    set.element(0x0021_1002, "UN", mark::PRIVATE.as_bytes());
    set.element(0x0021_1003, "SQ", &item(&inner.bytes));
    set.bytes
}

/// Overlay planes of a group behind the image's, before the pixels.
fn overlays() -> Vec<u8> {
    let mut set = explicit();
    set.number(0x6000_0010, 8);
    set.number(0x6000_0011, 16);
    set.text(0x6000_0022, "LO", mark::OVERLAY);
    set.text(0x6000_1500, "LO", mark::OVERLAY);
    set.element(0x6000_3000, "OW", mark::OVERLAY.as_bytes());
    set.bytes
}

/// Puts `further` before the image's group and `overlays` before the pixels of an explicit little endian file.
fn insert(file: &[u8], further: &[u8], overlays: &[u8]) -> Vec<u8> {
    let at = |element: &[u8]| {
        file.windows(element.len()).position(|part| part == element).unwrap_or(file.len())
    };
    let (image, pixels) = (at(b"\x28\x00\x02\x00US"), at(b"\xE0\x7F\x10\x00OW"));
    let part = |range: std::ops::Range<usize>| file.get(range).unwrap_or_default().to_vec();
    [
        part(0..image),
        further.to_vec(),
        part(image..pixels),
        overlays.to_vec(),
        part(pixels..file.len()),
    ]
    .concat()
}

/// Puts Source Application Entity Title and private information behind a file's meta information.
fn with_meta(file: &[u8]) -> Vec<u8> {
    // Behind preamble, prefix, and the group length's own element.
    const LENGTH: usize = 128 + 4 + 8;
    let mut more = explicit();
    more.text(0x0002_0016, "AE", mark::META);
    more.text(0x0002_0100, "UI", &format!("1.2.826.0.1.{}", mark::CLASS));
    more.element(0x0002_0102, "OB", mark::META.as_bytes());
    let held =
        file.get(LENGTH..LENGTH + 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; 4]);
    let length = usize::try_from(u32::from_le_bytes(held)).unwrap_or_default();
    let total = u32::try_from(length + more.bytes.len()).unwrap_or_default();
    let part = |range: std::ops::Range<usize>| file.get(range).unwrap_or_default().to_vec();
    let end = LENGTH + 4 + length;
    [
        part(0..LENGTH),
        total.to_le_bytes().to_vec(),
        part(LENGTH + 4..end),
        more.bytes,
        part(end..file.len()),
    ]
    .concat()
}

/// A film with some elements in the place of its own or added, in order of their tags.
fn around(
    elements: &[(u32, &str, &str)],
    o: &DicomOptions,
    syntax: &str,
    class: Option<&str>,
) -> Vec<u8> {
    let mut own: Vec<(u32, &str, String)> = [
        (0x0008_0016, "UI", "1.2.840.10008.5.1.4.1.1.1.1".to_owned()),
        (0x0008_0018, "UI", o.sop_instance_uid.clone()),
        (0x0008_0020, "DA", o.study_date.clone()),
        (0x0008_0060, "CS", "DX".to_owned()),
        (0x0010_0010, "PN", o.patient_name.clone()),
        (0x0010_0020, "LO", o.patient_id.clone()),
        (0x0020_000D, "UI", o.study_instance_uid.clone()),
        (0x0028_0002, "US", "1".to_owned()),
        (0x0028_0004, "CS", "MONOCHROME2".to_owned()),
        (0x0028_0010, "US", "64".to_owned()),
        (0x0028_0011, "US", "64".to_owned()),
        (0x0028_0100, "US", "8".to_owned()),
        (0x0028_0101, "US", "8".to_owned()),
        (0x0028_0102, "US", "7".to_owned()),
        (0x0028_0103, "US", "0".to_owned()),
    ]
    .into();
    for (tag, vr, text) in elements {
        own.retain(|(other, _, _)| other != tag);
        own.push((*tag, vr, (*text).to_owned()));
    }
    own.sort_by_key(|(tag, _, _)| *tag);
    let mut set = explicit();
    for (tag, vr, text) in own {
        match vr {
            "US" => set.number(tag, text.parse().unwrap_or_default()),
            vr => set.text(tag, vr, &text),
        }
    }
    // Of this combination alone.
    let shade =
        elements.iter().map(|(tag, _, _)| *tag as u8).fold(syntax.len() as u8, u8::wrapping_add);
    let pixels: Vec<u8> = (0..64 * 64).map(|i| (i % 251) as u8 ^ shade).collect();
    set.element(0x7FE0_0010, "OB", &pixels);
    let class = class.unwrap_or("1.2.840.10008.5.1.4.1.1.1.1");
    phantoms::file(set.bytes, syntax, class, &o.sop_instance_uid, o)
}

fn report() -> Vec<u8> {
    const BASIC_TEXT_SR: &str = "1.2.840.10008.5.1.4.1.1.88.11";
    let o = options(Syntax::Explicit);
    let mut set = explicit();
    set.text(0x0008_0016, "UI", BASIC_TEXT_SR);
    set.text(0x0008_0018, "UI", &o.sop_instance_uid);
    set.text(0x0008_0060, "CS", "SR");
    set.text(0x0010_0010, "PN", &o.patient_name);
    set.text(0x0020_000D, "UI", &o.study_instance_uid);
    let mut content = explicit();
    content.text(0x0040_A160, "UT", mark::NESTED);
    set.element(0x0040_A730, "SQ", &item(&content.bytes));
    phantoms::file(set.bytes, Syntax::Explicit.uid(), BASIC_TEXT_SR, &o.sop_instance_uid, &o)
}

fn deflated(text: &str) -> Vec<u8> {
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
    let written = zlib.write_all(text.as_bytes());
    debug_assert!(written.is_ok(), "{written:?}");
    zlib.finish().unwrap_or_default()
}

/// A TIFF structure with Image Description, as EXIF has it.
fn exif() -> Vec<u8> {
    let text = [mark::EXIF.as_bytes(), b"\0"].concat();
    let mut tiff = b"II*\0\x08\0\0\0\x01\0".to_vec();
    tiff.extend([0x0E, 0x01, 2, 0]);
    tiff.extend(u32::try_from(text.len()).unwrap_or_default().to_le_bytes());
    tiff.extend(26_u32.to_le_bytes());
    tiff.extend([0; 4]);
    tiff.extend(text);
    tiff
}

fn texts() -> Vec<([u8; 4], Vec<u8>)> {
    vec![
        (*b"tEXt", [b"Author\0", mark::CHUNK.as_bytes()].concat()),
        (*b"zTXt", [b"Comment\0\0", &deflated(mark::DEFLATED)[..]].concat()),
        (*b"iTXt", [b"Title\0\x01\0de\0Titel\0", &deflated(mark::DEFLATED)[..]].concat()),
        (*b"eXIf", exif()),
        // A chunk of somebody's own.
        (*b"zzQc", mark::CHUNK.as_bytes().to_vec()),
    ]
}

/// A PNG with further chunks behind its header.
fn with_chunks(png: &[u8], chunks: &[([u8; 4], Vec<u8>)]) -> Vec<u8> {
    const HEADER: usize = 8 + 25;
    let mut bytes = png.get(..HEADER).unwrap_or_default().to_vec();
    for (kind, content) in chunks {
        let mut crc = Crc::new();
        crc.update(kind);
        crc.update(content);
        bytes.extend(u32::try_from(content.len()).unwrap_or_default().to_be_bytes());
        bytes.extend(kind);
        bytes.extend(content);
        bytes.extend(crc.sum().to_be_bytes());
    }
    bytes.extend(png.get(HEADER..).unwrap_or_default());
    bytes
}

/// A JPEG with a comment and an EXIF segment behind its start.
fn with_segments(jpeg: &[u8]) -> Vec<u8> {
    let mut bytes = jpeg.get(..2).unwrap_or_default().to_vec();
    for (marker, content) in
        [(0xE1, [b"Exif\0\0", &exif()[..]].concat()), (0xFE, mark::COMMENT.as_bytes().to_vec())]
    {
        bytes.extend([0xFF, marker]);
        bytes.extend(u16::try_from(content.len() + 2).unwrap_or_default().to_be_bytes());
        bytes.extend(content);
    }
    bytes.extend(jpeg.get(2..).unwrap_or_default());
    bytes
}
