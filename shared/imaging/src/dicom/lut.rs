//! Lookup tables: modality, VOI and palette (PS3.3 section C.11 and C.7.6.3.1.5).

use dicom_core::{Tag, value::PrimitiveValue};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::attributes::{integers, primitive};
use crate::PrepareError;

/// One table. Inputs below its first or above its last entry take that entry.
pub(crate) struct Lut {
    first: i64,
    entries: Vec<u16>,
    /// The greatest value that its bits allow, or that it holds where it holds a greater one.
    pub(crate) top: u16,
}

impl Lut {
    /// Reads the table in an item of the Modality or VOI LUT Sequence.
    pub(crate) fn in_item(item: &InMemDicomObject, signed: bool) -> Result<Self, PrepareError> {
        Self::read(item, tags::LUT_DESCRIPTOR, tags::LUT_DATA, signed)
    }

    /// Reads the table that `descriptor` describes and `data` holds.
    pub(crate) fn read(
        object: &InMemDicomObject,
        descriptor: Tag,
        data: Tag,
        signed: bool,
    ) -> Result<Self, PrepareError> {
        let wrong = |what: &str| PrepareError::corrupt(format!("the lookup table {data} {what}"));
        let described = integers(object, descriptor)?.unwrap_or_default();
        let &[count, first, bits] = described.as_slice() else {
            return Err(wrong("has no descriptor of three numbers"));
        };
        // 65,536 entries are written as 0, and a descriptor read as signed shows more than 32,767 as negative.
        let count = usize::try_from(count & 0xFFFF).unwrap_or_default();
        let count = if count == 0 { 1 << 16 } else { count };
        let first = if signed { i64::from(first as u16 as i16) } else { first & 0xFFFF };
        let value = primitive(object, data).ok_or_else(|| wrong("has no data"))?;
        let mut entries = words(value).ok_or_else(|| wrong("has data of an unknown kind"))?;
        if entries.len() < count && entries.len() * 2 >= count {
            // Eight-bit entries, two to a word.
            entries = entries.iter().flat_map(|word| word.to_le_bytes()).map(u16::from).collect();
        }
        if entries.len() < count {
            return Err(wrong(&format!("declares {count} entries and has {}", entries.len())));
        }
        entries.truncate(count);
        let top = u32::from(u16::MAX) >> (16 - bits.clamp(1, 16));
        let greatest = entries.iter().copied().max().unwrap_or_default();
        Ok(Self { first, entries, top: greatest.max(top as u16) })
    }

    pub(crate) fn get(&self, input: i64) -> u16 {
        let last = self.entries.len().saturating_sub(1);
        let index = usize::try_from(input.saturating_sub(self.first)).unwrap_or(0).min(last);
        self.entries.get(index).copied().unwrap_or_default()
    }
}

fn words(value: &PrimitiveValue) -> Option<Vec<u16>> {
    match value {
        PrimitiveValue::U16(words) => Some(words.to_vec()),
        PrimitiveValue::I16(words) => Some(words.iter().map(|&word| word as u16).collect()),
        PrimitiveValue::U8(bytes) => {
            Some(bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect())
        }
        _ => None,
    }
}
