//! One film as many files: other bytes, and so another case, but the same pixels, and so the same findings.

use flate2::Crc;

const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
/// The signature and the `IHDR` chunk, which comes first and has 13 bytes.
const PNG_HEAD: usize = 8 + 4 + 4 + 13 + 4;
const JPEG_START: &[u8] = &[0xFF, 0xD8];

/// A PNG or JPEG file with `number` in a comment of fixed length. What is neither comes back as it is.
pub fn numbered(file: &[u8], number: u64) -> Vec<u8> {
    let comment = format!("film {number:020}");
    let split = |at: usize, inserted: &[u8]| {
        let (head, rest) = file.split_at(at.min(file.len()));
        [head, inserted, rest].concat()
    };
    if file.starts_with(PNG_SIGNATURE) {
        return split(PNG_HEAD, &png_text(&comment));
    }
    if file.starts_with(JPEG_START) {
        let length = u16::try_from(comment.len() + 2).unwrap_or(2).to_be_bytes();
        let segment = [&[0xFF, 0xFE], &length[..], comment.as_bytes()].concat();
        return split(JPEG_START.len(), &segment);
    }
    file.to_vec()
}

/// A `tEXt` chunk.
fn png_text(comment: &str) -> Vec<u8> {
    let content = [b"tEXtComment\0", comment.as_bytes()].concat();
    let mut crc = Crc::new();
    crc.update(&content);
    let length = u32::try_from(content.len() - 4).unwrap_or_default().to_be_bytes();
    [&length[..], &content, &crc.sum().to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phantoms;

    #[test]
    fn another_number_is_another_file_of_the_same_pixels() {
        let film = phantoms::chest(1, 40, 30);
        for file in [phantoms::png8(&film), phantoms::png16(&film), phantoms::jpeg(&film)] {
            let (one, two) = (numbered(&file, 1), numbered(&file, 2));
            assert_ne!(one, two);
            let pixels = |file: &[u8]| image::load_from_memory(file).unwrap().into_luma16();
            assert_eq!(pixels(&one), pixels(&file));
            assert_eq!(pixels(&two), pixels(&file));
        }
        assert_eq!(numbered(b"no picture", 1), b"no picture");
    }
}
