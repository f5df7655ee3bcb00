//! Files that real archives and hostile senders produce, each with the end that it has to come to.

use std::io::Write as _;

use flate2::{Compression, Crc, write::ZlibEncoder};

use crate::phantoms::{self, DicomOptions, Syntax};

/// What has to become of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// A dead letter with this error class.
    DeadLetter(&'static str),
    /// A report that nothing was looked for.
    OutOfScope,
    /// A report like any other.
    Report,
}

/// One input.
#[derive(Debug, Clone)]
pub struct BadInput {
    /// What it is.
    pub name: &'static str,
    /// The record's value.
    pub bytes: Vec<u8>,
    /// What has to become of it.
    pub expect: Expect,
}

/// Every one of them. All are small: the largest is some hundred kilobytes.
pub fn bad_inputs() -> Vec<BadInput> {
    let film = phantoms::chest(11, 320, 300);
    let whole = phantoms::dicom(&film, &DicomOptions::marked());
    let cut = |share: usize| whole.get(..whole.len() * share / 100).unwrap_or_default().to_vec();
    let plain = |preamble, meta| DicomOptions {
        preamble,
        meta,
        syntax: Syntax::Implicit,
        ..DicomOptions::default()
    };
    let bytes_of = |picture: &[u8], share: usize| {
        picture.get(..picture.len() * share / 100).unwrap_or_default().to_vec()
    };
    let input = |name, bytes, expect| BadInput { name, bytes, expect };
    vec![
        input("an empty record", Vec::new(), Expect::DeadLetter("empty")),
        input(
            "a text file",
            b"Dear colleague, thank you for this film.\n".to_vec(),
            Expect::DeadLetter("unrecognised"),
        ),
        input("a file of zeros", vec![0; 65_536], Expect::DeadLetter("unrecognised")),
        input("a DICOM cut in its pixels", cut(60), Expect::DeadLetter("truncated")),
        input(
            "a DICOM cut in its header",
            whole.get(..400).unwrap_or_default().to_vec(),
            Expect::DeadLetter("truncated"),
        ),
        input(
            "a JPEG cut in the middle",
            bytes_of(&phantoms::jpeg(&film), 50),
            Expect::DeadLetter("truncated"),
        ),
        input(
            "a PNG cut in the middle",
            bytes_of(&phantoms::png8(&film), 50),
            Expect::DeadLetter("truncated"),
        ),
        input(
            "a DICOM without a preamble",
            phantoms::dicom(&film, &plain(false, true)),
            Expect::Report,
        ),
        input(
            "a DICOM data set alone",
            phantoms::dicom(&film, &plain(false, false)),
            Expect::Report,
        ),
        input("a 16-bit PNG", phantoms::png16(&film), Expect::Report),
        input("a CMYK JPEG", phantoms::cmyk_jpeg(&film), Expect::Report),
        input("a PNG of 20,000 x 20,000 pixels", huge_png(), Expect::DeadLetter("over_limit")),
        input("an SR object", phantoms::structured_report(), Expect::OutOfScope),
        input("an element of 3 GiB", declares_three_gib(), Expect::DeadLetter("truncated")),
        input("6,000 nested sequences", nested_sequences(6000), Expect::DeadLetter("over_limit")),
        input(
            "rows and columns that the pixels contradict",
            contradictory(),
            Expect::DeadLetter("truncated"),
        ),
    ]
}

/// A valid header for 20,000 x 20,000 grey pixels, and hardly any pixels.
fn huge_png() -> Vec<u8> {
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
    let written = zlib.write_all(&[0; 20_001]);
    debug_assert!(written.is_ok(), "{written:?}");
    let side = 20_000_u32.to_be_bytes();
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut png, b"IHDR", &[&side[..], &side, &[8, 0, 0, 0, 0]].concat());
    chunk(&mut png, b"IDAT", &zlib.finish().unwrap_or_default());
    chunk(&mut png, b"IEND", &[]);
    png
}

fn chunk(png: &mut Vec<u8>, kind: &[u8; 4], content: &[u8]) {
    let mut crc = Crc::new();
    crc.update(kind);
    crc.update(content);
    png.extend(u32::try_from(content.len()).unwrap_or_default().to_be_bytes());
    png.extend(kind);
    png.extend(content);
    png.extend(crc.sum().to_be_bytes());
}

fn around(set: phantoms::Writer) -> Vec<u8> {
    let o = DicomOptions::default();
    phantoms::file(
        set.bytes,
        o.syntax.uid(),
        "1.2.840.10008.5.1.4.1.1.1.1",
        &o.sop_instance_uid,
        &o,
    )
}

/// Some hundred bytes that declare an element of 3 GiB.
fn declares_three_gib() -> Vec<u8> {
    let mut set = phantoms::Writer { explicit: true, big: false, bytes: Vec::new() };
    set.text(0x0008_0060, "CS", "DX");
    set.header(0x0042_0011, "OB", 3 << 30);
    set.bytes.extend([0; 64]);
    around(set)
}

/// Sequences within sequences, none of them closed.
fn nested_sequences(depth: usize) -> Vec<u8> {
    let mut set = phantoms::Writer { explicit: true, big: false, bytes: Vec::new() };
    set.text(0x0008_0060, "CS", "SR");
    for _ in 0..depth {
        set.header(0x0040_A730, "SQ", u32::MAX);
        set.bytes.extend([0xFE, 0xFF, 0x00, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF]);
    }
    around(set)
}

/// 7,000 x 7,000 pixels declared over a handful of bytes.
fn contradictory() -> Vec<u8> {
    let mut set = phantoms::Writer { explicit: true, big: false, bytes: Vec::new() };
    set.text(0x0008_0060, "CS", "DX");
    set.number(0x0028_0002, 1);
    set.text(0x0028_0004, "CS", "MONOCHROME2");
    for (tag, value) in [
        (0x0028_0010, 7000),
        (0x0028_0011, 7000),
        (0x0028_0100, 16),
        (0x0028_0101, 12),
        (0x0028_0102, 11),
        (0x0028_0103, 0),
    ] {
        set.number(tag, value);
    }
    set.element(0x7FE0_0010, "OW", &[7; 512]);
    around(set)
}
