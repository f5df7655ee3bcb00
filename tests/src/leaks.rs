//! Looking for marks in whatever came out of Duet, however they may be written there.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
};

use base64::{
    Engine as _, alphabet,
    engine::{GeneralPurpose, general_purpose::NO_PAD},
};

/// How a mark may be written.
struct Needle {
    mark: String,
    form: &'static str,
    bytes: Vec<u8>,
    /// A number of its own: no digit or point stands beside it.
    is_number: bool,
}

/// Looks for marks, and keeps what it found.
pub struct Search {
    needles: Vec<Needle>,
    /// The needles that begin with two bytes, by these: one pass over a text finds all of them.
    by_start: Vec<Vec<usize>>,
    /// Bytes looked through, by place.
    looked: BTreeMap<String, usize>,
    /// Marks with the place and the form.
    found: BTreeSet<(String, String, &'static str)>,
}

impl Search {
    /// For these marks.
    pub fn new<'a>(marks: impl IntoIterator<Item = &'a str>) -> Self {
        let needles: Vec<Needle> = marks.into_iter().flat_map(forms_of).collect();
        let mut by_start = vec![Vec::new(); 1 << 16];
        for (number, needle) in needles.iter().enumerate() {
            if let Some(place) = start_of(&needle.bytes).and_then(|start| by_start.get_mut(start)) {
                place.push(number);
            }
        }
        Self { needles, by_start, looked: BTreeMap::new(), found: BTreeSet::new() }
    }

    /// Looks through `bytes` as they are, and where they are a PNG through what is deflated in it.
    pub fn look(&mut self, place: &str, bytes: &[u8]) {
        *self.looked.entry(place.to_owned()).or_default() += bytes.len();
        let mut texts = vec![bytes.to_ascii_lowercase()];
        texts.extend(inflated(bytes).into_iter().map(|text| text.to_ascii_lowercase()));
        for text in texts {
            for at in 0..text.len() {
                let starting = start_of(text.get(at..).unwrap_or_default());
                let candidates = starting.and_then(|start| self.by_start.get(start));
                for needle in candidates.into_iter().flatten().filter_map(|n| self.needles.get(*n))
                {
                    if needle.is_at(&text, at) {
                        self.found.insert((needle.mark.clone(), place.to_owned(), needle.form));
                    }
                }
            }
        }
    }

    /// What was found: mark, place and form.
    pub fn found(&self) -> Vec<String> {
        self.found.iter().map(|(mark, place, form)| format!("{mark} in {place}, {form}")).collect()
    }

    /// The marks that were found anywhere.
    pub fn marks_found(&self) -> BTreeSet<&str> {
        self.found.iter().map(|(mark, _, _)| mark.as_str()).collect()
    }

    /// How many bytes were looked through, by place.
    pub fn looked(&self) -> &BTreeMap<String, usize> {
        &self.looked
    }
}

/// The first two bytes, as a number.
fn start_of(bytes: &[u8]) -> Option<usize> {
    let (start, _) = bytes.split_first_chunk::<2>()?;
    Some(u16::from_be_bytes(*start).into())
}

impl Needle {
    fn is_at(&self, text: &[u8], at: usize) -> bool {
        let end = at + self.bytes.len();
        if text.get(at..end) != Some(&self.bytes) {
            return false;
        }
        let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
        let before = at.checked_sub(1).and_then(|at| text.get(at));
        // 0.19630215 is no date.
        let beside = is_digit(before) || before == Some(&b'.') || is_digit(text.get(end));
        !self.is_number || !beside
    }
}

/// Everything is compared in lower case; base64 in lower case is a little less certain, and marks are long.
fn forms_of(mark: &str) -> Vec<Needle> {
    let bytes = mark.as_bytes();
    let mut forms: Vec<(&'static str, Vec<u8>)> = vec![
        ("as it is", bytes.to_vec()),
        ("hexadecimal", hex::encode(bytes).into_bytes()),
        (
            "percent-encoded",
            bytes.iter().map(|byte| format!("%{byte:02x}")).collect::<String>().into_bytes(),
        ),
        (
            "JSON escapes",
            mark.encode_utf16()
                .map(|unit| format!("\\u{unit:04x}"))
                .collect::<String>()
                .into_bytes(),
        ),
        ("a list of bytes", list(bytes, ", ")),
        ("a list of bytes, tight", list(bytes, ",")),
        ("UTF-16, little endian", mark.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("UTF-16, big endian", mark.encode_utf16().flat_map(u16::to_be_bytes).collect()),
        ("backwards", bytes.iter().rev().copied().collect()),
    ];
    for (form, alphabet) in [("base64", &alphabet::STANDARD), ("base64url", &alphabet::URL_SAFE)] {
        let engine = GeneralPurpose::new(alphabet, NO_PAD);
        for shift in 0..3 {
            let text = engine.encode([&[0; 2][..shift], bytes].concat());
            // Without the characters that depend on what stands before and behind.
            let (start, end) = ((shift * 8).div_ceil(6), (shift + bytes.len()) * 8 / 6);
            forms.push((form, text.as_bytes().get(start..end).unwrap_or_default().to_vec()));
        }
    }
    let is_digits = bytes.iter().all(u8::is_ascii_digit);
    if let (true, Some([year, month, day])) = (bytes.len() == 8 && is_digits, date(mark)) {
        for text in [
            format!("{year}-{month}-{day}"),
            format!("{year}.{month}.{day}"),
            format!("{year}/{month}/{day}"),
            format!("{day}.{month}.{year}"),
            format!("{day}/{month}/{year}"),
            format!("{month}/{day}/{year}"),
        ] {
            forms.push(("as a date", text.into_bytes()));
        }
    }
    forms
        .into_iter()
        .map(|(form, bytes)| Needle {
            mark: mark.to_owned(),
            form,
            bytes: bytes.to_ascii_lowercase(),
            is_number: is_digits && form == "as it is" && mark.len() == 8,
        })
        .collect()
}

fn list(bytes: &[u8], between: &str) -> Vec<u8> {
    let numbers: Vec<_> = bytes.iter().map(u8::to_string).collect();
    numbers.join(between).into_bytes()
}

fn date(digits: &str) -> Option<[&str; 3]> {
    Some([digits.get(0..4)?, digits.get(4..6)?, digits.get(6..8)?])
}

/// What is deflated in the chunks of a PNG: its texts, and its rows.
fn inflated(bytes: &[u8]) -> Vec<Vec<u8>> {
    let Some(mut rest) = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n") else { return Vec::new() };
    let (mut texts, mut rows) = (Vec::new(), Vec::new());
    while let Some((head, behind)) = rest.split_first_chunk::<8>() {
        let (length, kind) = head.split_at(4);
        let length = length.try_into().map_or(0, u32::from_be_bytes) as usize;
        let content = behind.get(..length).unwrap_or(behind);
        match kind {
            b"IDAT" => rows.extend(content),
            // Wherever in a chunk a zlib stream begins.
            _ => texts.extend((0..content.len()).filter_map(|at| inflate(content.get(at..)?))),
        }
        rest = behind.get(length + 4..).unwrap_or_default();
    }
    texts.extend(inflate(&rows));
    texts
}

fn inflate(bytes: &[u8]) -> Option<Vec<u8>> {
    // The first byte of a zlib stream with a window of 32 KiB or less.
    if bytes.first()? & 0x0F != 8 {
        return None;
    }
    let mut text = Vec::new();
    let _broken = flate2::read::ZlibDecoder::new(bytes).take(64 << 20).read_to_end(&mut text);
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = "ZZQNAMEXVJ";

    fn found(text: &[u8]) -> Vec<String> {
        let mut search = Search::new([MARK, "19630215", "777001155667788"]);
        search.look("here", text);
        search.found()
    }

    #[test]
    fn a_mark_is_found_however_it_is_written() {
        let engine = &base64::engine::general_purpose::STANDARD;
        let utf16: Vec<u8> = MARK.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut texts: Vec<(String, Vec<u8>)> = vec![
            ("plain".into(), format!("a {MARK} b").into()),
            ("other case".into(), MARK.to_lowercase().into()),
            ("hex".into(), format!("00{}ff", hex::encode_upper(MARK)).into()),
            ("url".into(), MARK.bytes().map(|b| format!("%{b:02X}")).collect::<String>().into()),
            ("utf-16".into(), [&[7][..], &utf16].concat()),
            ("debug".into(), format!("{:?}", MARK.as_bytes()).into()),
            ("date".into(), b"born 1963-02-15".to_vec()),
            ("german date".into(), b"15.02.1963".to_vec()),
            ("digits".into(), b"\"19630215\"".to_vec()),
            ("uid".into(), b"1.2.826.0.1.777001155667788".to_vec()),
        ];
        for before in 0..4 {
            let text = ["x".repeat(before), MARK.to_owned(), "behind".to_owned()].concat();
            texts.push((format!("base64 behind {before}"), engine.encode(text).into()));
        }
        for (what, text) in texts {
            let found = found(&text);
            // Both alphabets of base64 write it alike.
            let is_one = found.len() == 1 || (found.len() == 2 && what.starts_with("base64"));
            assert!(is_one, "{what}: {found:?}");
        }
    }

    #[test]
    fn what_is_deflated_in_a_png_is_looked_through() {
        let of = |name: &str| {
            let file = duet_testkit::marked::marked_files().into_iter().find(|f| f.name == name);
            let mut search = Search::new(duet_testkit::marked::mark::ALL);
            search.look("here", &file.unwrap().bytes);
            search.marks_found().into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        use duet_testkit::marked::mark;
        assert_eq!(of("a PNG's texts"), [mark::CHUNK, mark::DEFLATED, mark::EXIF]);
    }

    #[test]
    fn what_is_no_mark_is_not_found() {
        for text in ["ZZQNAME", "0.19630215", "119630215", "1963-02-16", "hash 9f86d081884c7d65"] {
            assert!(found(text.as_bytes()).is_empty(), "{text}");
        }
    }
}
