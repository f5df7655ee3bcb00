//! The walk over a DICOM file's element headers that goes before every parser.
//!
//! A header may declare 4 GiB in a file of 300 bytes, or sequences within sequences without end, and a parser that
//! believes it allocates or recurses. This walk believes nothing: it allocates one small entry an element of the top
//! level, compares every declared length with the bytes that are there, and keeps its place on a capped stack. It stops at
//! Pixel Data, which every element that Duet reads precedes. What it hands on are ranges of the file.
//!
//! Values, and private or foreign sequences of defined length, are stepped over unread: an error inside what nobody reads
//! costs no film.

use std::ops::Range;

use dicom_core::{
    Tag, VR,
    dictionary::{DataDictionary as _, DataDictionaryEntry as _},
};
use dicom_dictionary_std::{StandardDataDictionary, tags};

use crate::{Limits, PrepareError};

/// How elements are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Encoding {
    pub(crate) explicit: bool,
    pub(crate) big: bool,
}

impl Encoding {
    pub(crate) const EXPLICIT_LITTLE: Self = Self { explicit: true, big: false };
    pub(crate) const IMPLICIT_LITTLE: Self = Self { explicit: false, big: false };
    pub(crate) const EXPLICIT_BIG: Self = Self { explicit: true, big: true };
}

/// One element of the top level, as ranges of the bytes that were walked.
#[derive(Debug, Clone)]
pub(crate) struct Element {
    pub(crate) tag: Tag,
    /// Header and value.
    pub(crate) whole: Range<usize>,
    /// The content of a sequence's first item.
    pub(crate) first_item: Option<Range<usize>>,
}

/// Where the pixels are.
#[derive(Debug, Clone)]
pub(crate) enum PixelBytes {
    /// Uncompressed, in one piece. Words of 8-bit samples (OW) are swapped in pairs in a big endian file.
    Native { value: Range<usize>, words: bool },
    /// The offset table and the fragments.
    Encapsulated { offsets: Range<usize>, fragments: Vec<Range<usize>> },
    /// Float or double pixels, or pixels elsewhere: named in the error.
    Other(&'static str),
}

/// What the walk found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outline {
    pub(crate) elements: Vec<Element>,
    pub(crate) pixels: Option<PixelBytes>,
}

/// VRs whose explicit header has two reserved bytes and a length of four (PS3.5 section 7.1.2). VRs to come have it too.
pub(crate) fn has_long_header(vr: [u8; 2]) -> bool {
    !matches!(
        &vr,
        b"AE"
            | b"AS"
            | b"AT"
            | b"CS"
            | b"DA"
            | b"DS"
            | b"DT"
            | b"FL"
            | b"FD"
            | b"IS"
            | b"LO"
            | b"LT"
            | b"PN"
            | b"SH"
            | b"SL"
            | b"SS"
            | b"ST"
            | b"TM"
            | b"UI"
            | b"UL"
            | b"US"
    )
}

const UNDEFINED: u32 = u32::MAX;
const ITEM: Tag = Tag(0xFFFE, 0xE000);
const ITEM_END: Tag = Tag(0xFFFE, 0xE00D);
const SEQUENCE_END: Tag = Tag(0xFFFE, 0xE0DD);

/// Walks the file meta group, which is explicit VR little endian whatever follows it.
///
/// Returns its elements and where the data set starts.
pub(crate) fn walk_meta(
    bytes: &[u8],
    start: usize,
    limits: &Limits,
) -> Result<(Outline, usize), PrepareError> {
    let mut walk = Walk::new(bytes, Encoding::EXPLICIT_LITTLE, limits, |_| false);
    walk.at = start;
    while walk.peek_tag().is_some_and(|tag| tag.0 == 0x0002) {
        walk.element(bytes.len())?;
    }
    Ok((walk.outline, walk.at))
}

/// Walks a data set. Sequences for which `deep` says so are walked to their leaves, since somebody will parse them.
pub(crate) fn walk(
    bytes: &[u8],
    encoding: Encoding,
    limits: &Limits,
    deep: fn(Tag) -> bool,
) -> Result<Outline, PrepareError> {
    let mut walk = Walk::new(bytes, encoding, limits, deep);
    while walk.at < bytes.len() && walk.outline.pixels.is_none() {
        // No element has the tag zero: it is padding that some writers leave at the end, or damage.
        let rest = bytes.get(walk.at..).unwrap_or_default();
        if rest.iter().take(4).all(|&byte| byte == 0) {
            if rest.iter().all(|&byte| byte == 0) {
                break;
            }
            return Err(PrepareError::corrupt(format!(
                "zeros stand where an element should start, at byte {}: the file is damaged",
                walk.at
            )));
        }
        walk.element(bytes.len())?;
    }
    Ok(walk.outline)
}

/// One open sequence or item below the top level.
struct Level {
    /// Where it ends, if its length is defined.
    end: Option<usize>,
    /// Nothing in it may reach beyond this.
    bound: usize,
    /// A sequence holds items, an item holds elements.
    items: bool,
    explicit: bool,
}

struct Header {
    tag: Tag,
    vr: Option<[u8; 2]>,
    length: u32,
    value_at: usize,
}

struct Walk<'a> {
    bytes: &'a [u8],
    encoding: Encoding,
    limits: &'a Limits,
    deep: fn(Tag) -> bool,
    at: usize,
    count: u32,
    outline: Outline,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8], encoding: Encoding, limits: &'a Limits, deep: fn(Tag) -> bool) -> Self {
        Self { bytes, encoding, limits, deep, at: 0, count: 0, outline: Outline::default() }
    }

    fn take<const N: usize>(&self, at: usize, bound: usize) -> Result<[u8; N], PrepareError> {
        let end = at.checked_add(N).filter(|&end| end <= bound);
        end.and_then(|end| self.bytes.get(at..end)?.try_into().ok()).ok_or_else(|| {
            PrepareError::truncated(format!(
                "the file ends inside an element's header, at byte {at}: send it again, whole"
            ))
        })
    }

    fn u16_of(&self, pair: [u8; 2]) -> u16 {
        if self.encoding.big { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) }
    }

    fn u32_of(&self, four: [u8; 4]) -> u32 {
        if self.encoding.big { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
    }

    fn peek_tag(&self) -> Option<Tag> {
        let [a, b, c, d] = self.take::<4>(self.at, self.bytes.len()).ok()?;
        Some(Tag(self.u16_of([a, b]), self.u16_of([c, d])))
    }

    fn header(&mut self, explicit: bool, bound: usize) -> Result<Header, PrepareError> {
        self.count += 1;
        if self.count > self.limits.max_elements {
            return Err(PrepareError::over_limit(format!(
                "the file has more than {} elements (limits.max_elements)",
                self.limits.max_elements
            )));
        }
        let at = self.at;
        let [a, b, c, d, e, f, g, h] = self.take::<8>(at, bound)?;
        let tag = Tag(self.u16_of([a, b]), self.u16_of([c, d]));
        if !explicit || tag.0 == 0xFFFE {
            return Ok(Header {
                tag,
                vr: None,
                length: self.u32_of([e, f, g, h]),
                value_at: at + 8,
            });
        }
        if !(e.is_ascii_uppercase() && f.is_ascii_uppercase()) {
            return Err(PrepareError::corrupt(format!(
                "element {tag} at byte {at} has no valid value representation: the file is damaged, or written in another transfer syntax than it declares"
            )));
        }
        let vr = [e, f];
        if has_long_header(vr) {
            let length = self.u32_of(self.take::<4>(at + 8, bound)?);
            Ok(Header { tag, vr: Some(vr), length, value_at: at + 12 })
        } else {
            Ok(Header { tag, vr: Some(vr), length: self.u16_of([g, h]).into(), value_at: at + 8 })
        }
    }

    /// The end of a value of defined length, which has to lie within `bound`.
    fn end_of(&self, header: &Header, bound: usize) -> Result<usize, PrepareError> {
        let end = usize::try_from(header.length)
            .ok()
            .and_then(|length| header.value_at.checked_add(length));
        end.filter(|&end| end <= bound).ok_or_else(|| {
            let there = bound.saturating_sub(header.value_at);
            PrepareError::truncated(format!(
                "element {} declares {} bytes where {there} are left: the file was cut short or is damaged, send it again",
                header.tag, header.length
            ))
        })
    }

    /// One element of the top level and all that is in it.
    fn element(&mut self, bound: usize) -> Result<(), PrepareError> {
        let start = self.at;
        let header = self.header(self.encoding.explicit, bound)?;
        let (tag, value_at) = (header.tag, header.value_at);
        if tag.0 == 0xFFFE {
            return Err(PrepareError::corrupt(format!(
                "an item delimiter {tag} stands outside any sequence, at byte {start}"
            )));
        }
        match tag {
            tags::PIXEL_DATA => return self.pixel_data(&header, bound),
            tags::FLOAT_PIXEL_DATA => {
                self.outline.pixels = Some(PixelBytes::Other("Float Pixel Data"))
            }
            tags::DOUBLE_FLOAT_PIXEL_DATA => {
                self.outline.pixels = Some(PixelBytes::Other("Double Float Pixel Data"))
            }
            tags::PIXEL_DATA_PROVIDER_URL => {
                self.outline.pixels = Some(PixelBytes::Other("a Pixel Data Provider URL"))
            }
            _ => {}
        }
        let mut first_item = None;
        let descend = header.length == UNDEFINED || ((self.deep)(tag) && self.is_sequence(&header));
        if descend {
            let end =
                if header.length == UNDEFINED { None } else { Some(self.end_of(&header, bound)?) };
            // PS3.5 section 6.2.2: an unknown value of undefined length is a sequence in implicit VR.
            let explicit = self.encoding.explicit && header.vr != Some(*b"UN");
            self.at = value_at;
            first_item = self
                .sequence(Level { end, bound: end.unwrap_or(bound), items: true, explicit }, tag)?;
        } else {
            self.at = self.end_of(&header, bound)?;
        }
        self.outline.elements.push(Element { tag, whole: start..self.at, first_item });
        Ok(())
    }

    fn is_sequence(&self, header: &Header) -> bool {
        match header.vr {
            Some(vr) => &vr == b"SQ",
            None => StandardDataDictionary
                .by_tag(header.tag)
                .is_some_and(|entry| entry.vr().exact() == Some(VR::SQ)),
        }
    }

    /// Walks one sequence to its end; gives the range of its first item's content.
    fn sequence(&mut self, outer: Level, tag: Tag) -> Result<Option<Range<usize>>, PrepareError> {
        let deep = (self.deep)(tag);
        let mut first: Option<(usize, Option<usize>)> = None;
        let mut open = vec![outer];
        while let Some(level) = open.last() {
            let (bound, explicit, items, end) =
                (level.bound, level.explicit, level.items, level.end);
            if end == Some(self.at) {
                open.pop();
                close_first(&mut first, open.len(), self.at);
                continue;
            }
            if self.at >= bound {
                return Err(PrepareError::truncated(format!(
                    "sequence {tag} is not closed where the file ends: send it again, whole"
                )));
            }
            let header = self.header(explicit, bound)?;
            let closes = header.tag == if items { SEQUENCE_END } else { ITEM_END };
            if closes {
                open.pop();
                close_first(&mut first, open.len(), self.at);
                self.at = header.value_at;
                continue;
            }
            let enters = if items {
                if header.tag != ITEM {
                    return Err(PrepareError::corrupt(format!(
                        "sequence {tag} holds {} at byte {} where an item should start",
                        header.tag, self.at
                    )));
                }
                if first.is_none() {
                    first = Some((header.value_at, None));
                }
                true
            } else {
                header.length == UNDEFINED || (deep && self.is_sequence(&header))
            };
            let inner_end =
                if header.length == UNDEFINED { None } else { Some(self.end_of(&header, bound)?) };
            self.at = header.value_at;
            match inner_end {
                // Nobody reads inside: step over.
                Some(end) if !enters || (items && !deep) => {
                    self.at = end;
                    close_first(&mut first, open.len(), end);
                }
                _ => {
                    let explicit = explicit && header.vr != Some(*b"UN");
                    open.push(Level {
                        end: inner_end,
                        bound: inner_end.unwrap_or(bound),
                        items: !items,
                        explicit,
                    });
                }
            }
            if open.len() > 2 * self.limits.max_nesting as usize {
                return Err(PrepareError::over_limit(format!(
                    "sequences are nested more than {} deep (limits.max_nesting)",
                    self.limits.max_nesting
                )));
            }
        }
        Ok(first.and_then(|(start, end)| Some(start..end?)))
    }

    fn pixel_data(&mut self, header: &Header, bound: usize) -> Result<(), PrepareError> {
        self.at = header.value_at;
        if header.length != UNDEFINED {
            let end = self.end_of(header, bound)?;
            let words = header.vr != Some(*b"OB");
            self.outline.pixels = Some(PixelBytes::Native { value: header.value_at..end, words });
            self.at = end;
            return Ok(());
        }
        let mut pieces = Vec::new();
        loop {
            if self.at >= bound {
                return Err(PrepareError::truncated(
                    "the compressed pixel data is not closed where the file ends: send it again, whole",
                ));
            }
            let piece = self.header(false, bound)?;
            match piece.tag {
                SEQUENCE_END => break,
                ITEM => {
                    let end = self.end_of(&piece, bound)?;
                    pieces.push(piece.value_at..end);
                    self.at = end;
                }
                other => {
                    return Err(PrepareError::corrupt(format!(
                        "the compressed pixel data holds {other} at byte {} where a fragment should start",
                        self.at
                    )));
                }
            }
        }
        let fragments = pieces.split_off(pieces.len().min(1));
        let offsets = pieces.pop().unwrap_or(0..0);
        self.outline.pixels = Some(PixelBytes::Encapsulated { offsets, fragments });
        Ok(())
    }
}

/// Notes the end of the first item, once what closed is a direct child of the outer sequence.
fn close_first(first: &mut Option<(usize, Option<usize>)>, open: usize, at: usize) {
    if let Some((_, end @ None)) = first
        && open == 1
    {
        *end = Some(at);
    }
}
