//! What a file is, from its content and never from a name.

use duet_case::Format;

use crate::{PrepareError, error::Class};

/// A container format and how it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Container {
    Png,
    Jpeg,
    /// `DICM` stands at this offset; the file meta group follows it.
    DicomMarked(usize),
    /// A DICOM data set (or its file meta group) starts with the first byte.
    DicomBare,
}

impl Container {
    pub(crate) fn format(self) -> Format {
        match self {
            Self::Png => Format::Png,
            Self::Jpeg => Format::Jpeg,
            Self::DicomMarked(_) | Self::DicomBare => Format::Dicom,
        }
    }
}

/// Tells the container format of `bytes`.
///
/// # Errors
///
/// `empty` where there are none, `unrecognised` for anything but DICOM, PNG and JPEG.
pub fn sniff(bytes: &[u8]) -> Result<Format, PrepareError> {
    container(bytes).map(Container::format)
}

const PREAMBLE: usize = 128;

pub(crate) fn container(bytes: &[u8]) -> Result<Container, PrepareError> {
    if bytes.is_empty() {
        return Err(PrepareError::new(
            Class::Empty,
            "the record is empty: send the bytes of a DICOM, PNG or JPEG file as the record's value",
        ));
    }
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Ok(Container::Png);
    }
    if bytes.starts_with(&[0xff, 0xd8, 0xff]) {
        return Ok(Container::Jpeg);
    }
    if bytes.get(PREAMBLE..PREAMBLE + 4) == Some(b"DICM") {
        return Ok(Container::DicomMarked(PREAMBLE));
    }
    if bytes.starts_with(b"DICM") {
        return Ok(Container::DicomMarked(0));
    }
    if starts_like_a_data_set(bytes) {
        return Ok(Container::DicomBare);
    }
    let seen = seen_instead(bytes);
    Err(PrepareError::new(
        Class::Unrecognised,
        format!("this is {seen} that is neither DICOM nor PNG nor JPEG: send one of these three"),
    ))
}

fn seen_instead(bytes: &[u8]) -> String {
    let known = KNOWN.iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, name)| *name);
    let start = bytes.get(..bytes.len().min(256)).unwrap_or_default();
    let is_text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace() || *byte > 0x7F;
    match known {
        Some(name) => name.to_owned(),
        None if bytes.iter().all(|&byte| byte == 0) => "a file of zeros".to_owned(),
        None if start.iter().all(is_text) => "a text file".to_owned(),
        None => format!("a file of {} bytes", bytes.len()),
    }
}

/// What people send by mistake, so that the message can name it.
const KNOWN: [(&[u8], &str); 9] = [
    (b"%PDF", "a PDF file"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"GIF8", "a GIF file"),
    (b"BM", "a BMP file"),
    (b"II*\0", "a TIFF file"),
    (b"MM\0*", "a TIFF file"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 file outside DICOM"),
    (b"RIFF", "a RIFF (WebP or AVI) file"),
];

/// Two plausible element headers in rising order, the first of group 0002 or 0008. Explicit or implicit VR, little or
/// (for group 0008) big endian.
fn starts_like_a_data_set(bytes: &[u8]) -> bool {
    [false, true].into_iter().any(|big| {
        let Some((tag, next)) = plausible_element(bytes, 0, big) else { return false };
        let group = tag >> 16;
        if !(group == 0x0002 && !big || group == 0x0008) {
            return false;
        }
        next == bytes.len()
            || plausible_element(bytes, next, big).is_some_and(|(second, _)| second > tag)
    })
}

fn plausible_element(bytes: &[u8], at: usize, big: bool) -> Option<(u32, usize)> {
    let head: [u8; 8] = bytes.get(at..at.checked_add(8)?)?.try_into().ok()?;
    let [a, b, c, d, e, f, g, h] = head;
    let u16_of = |x, y| if big { u16::from_be_bytes([x, y]) } else { u16::from_le_bytes([x, y]) };
    let tag = u32::from(u16_of(a, b)) << 16 | u32::from(u16_of(c, d));
    let (start, length) = if e.is_ascii_uppercase() && f.is_ascii_uppercase() {
        if crate::guard::has_long_header([e, f]) {
            let long: [u8; 4] = bytes.get(at + 8..at + 12)?.try_into().ok()?;
            (at + 12, if big { u32::from_be_bytes(long) } else { u32::from_le_bytes(long) })
        } else {
            (at + 8, u32::from(u16_of(g, h)))
        }
    } else {
        (
            at + 8,
            if big { u32::from_be_bytes([e, f, g, h]) } else { u32::from_le_bytes([e, f, g, h]) },
        )
    };
    // A declared length beyond the file is a matter for the guard, which names it; only the first element has to fit.
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    (end <= bytes.len() && length % 2 == 0).then_some((tag, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_decides() {
        let mut marked = vec![0; 128];
        marked.extend(b"DICM");
        let explicit = b"\x08\0\x16\0UI\x02\x001\0\x08\0\x18\0UI\x02\x001\0";
        let implicit = b"\x08\0\x16\0\x02\0\0\x001\0\x08\0\x18\0\x02\0\0\x001\0";
        for (bytes, expect) in [
            (&b"\x89PNG\r\n\x1a\nxxxx"[..], Ok(Format::Png)),
            (&[0xff, 0xd8, 0xff, 0xe0], Ok(Format::Jpeg)),
            (&marked, Ok(Format::Dicom)),
            (explicit, Ok(Format::Dicom)),
            (implicit, Ok(Format::Dicom)),
            (b"", Err("empty")),
            (&[0; 4096], Err("unrecognised")),
            (b"Dear colleague, thank you for referring", Err("unrecognised")),
            (b"%PDF-1.7", Err("unrecognised")),
        ] {
            assert_eq!(
                sniff(bytes).map_err(|e| e.class()),
                expect,
                "{:?}",
                &bytes[..bytes.len().min(12)]
            );
        }
        for (bytes, name) in [
            (&b"%PDF-1.7"[..], "a PDF file"),
            (b"Dear colleague", "a text file"),
            (&[0; 4096], "a file of zeros"),
        ] {
            assert!(sniff(bytes).unwrap_err().to_string().contains(name), "{name}");
        }
    }
}
