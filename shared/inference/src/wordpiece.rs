//! BERT's word pieces: a text cut into pieces of a vocabulary, as the tokeniser cut it with which the encoder was trained.

use std::collections::HashMap;

use icu_normalizer::DecomposingNormalizerBorrowed;
use icu_properties::{
    CodePointMapData, CodePointMapDataBorrowed,
    props::{GeneralCategory, GeneralCategoryGroup},
};

/// Pieces that have a meaning of their own.
const START: &str = "[CLS]";
const END: &str = "[SEP]";
const UNKNOWN: &str = "[UNK]";
/// What a piece begins with that goes on with a word.
const GOES_ON: &str = "##";
/// Characters of a word; a longer one is unknown as a whole.
const MAX_WORD: usize = 100;
/// Pieces of a vocabulary; more is another file.
const MAX_PIECES: usize = 1 << 20;

const CATEGORIES: CodePointMapDataBorrowed<'static, GeneralCategory> = CodePointMapData::new();

/// Why a file is no vocabulary.
#[derive(Debug, thiserror::Error)]
pub enum VocabularyError {
    /// Not text.
    #[error("is not UTF-8 text")]
    NotText(#[from] std::str::Utf8Error),
    /// A piece that every vocabulary has is not in it.
    #[error("has no line {0}: it is not a vocabulary of word pieces, one a line")]
    Missing(&'static str),
    /// More pieces than any vocabulary.
    #[error("has more than {MAX_PIECES} lines: it is not a vocabulary of word pieces")]
    TooLong,
}

/// A vocabulary, and how a text is cut into its pieces.
#[derive(Debug)]
pub(crate) struct WordPieces {
    pieces: HashMap<String, i64>,
    lower_case: bool,
    start: i64,
    end: i64,
    unknown: i64,
}

impl WordPieces {
    /// From a file of pieces, one a line; the number of its line, from 0 on, is a piece's number.
    pub(crate) fn parse(vocabulary: &[u8], lower_case: bool) -> Result<Self, VocabularyError> {
        let mut pieces = HashMap::new();
        for (number, piece) in std::str::from_utf8(vocabulary)?.lines().enumerate() {
            if number >= MAX_PIECES {
                return Err(VocabularyError::TooLong);
            }
            pieces.insert(piece.to_owned(), number as i64);
        }
        let of =
            |name: &'static str| pieces.get(name).copied().ok_or(VocabularyError::Missing(name));
        let (start, end, unknown) = (of(START)?, of(END)?, of(UNKNOWN)?);
        Ok(Self { lower_case, start, end, unknown, pieces })
    }

    /// The numbers of the text's pieces, between the two that mark its ends.
    pub(crate) fn cut(&self, text: &str) -> Vec<i64> {
        let mut numbers = vec![self.start];
        let clean = self.normal(text);
        for part in clean.split(char::is_whitespace) {
            let mut word = String::new();
            for c in part.chars() {
                if is_punctuation(c) {
                    self.cut_word(&word, &mut numbers);
                    word.clear();
                    self.cut_word(c.encode_utf8(&mut [0; 4]), &mut numbers);
                } else {
                    word.push(c);
                }
            }
            self.cut_word(&word, &mut numbers);
        }
        numbers.push(self.end);
        numbers
    }

    /// Without control characters, each Chinese character a word of its own, and where case does not count, without it
    /// and without accents.
    fn normal(&self, text: &str) -> String {
        let mut clean = String::with_capacity(text.len());
        for c in text.chars() {
            if c.is_whitespace() {
                clean.push(' ');
            } else if is_chinese(c) {
                clean.extend([' ', c, ' ']);
            } else if c != '\u{fffd}' && !is_other(c) {
                clean.push(c);
            }
        }
        if !self.lower_case {
            return clean;
        }
        let decomposed = DecomposingNormalizerBorrowed::new_nfd();
        let accent = |c: &char| CATEGORIES.get(*c) == GeneralCategory::NonspacingMark;
        let bare = decomposed.normalize_iter(clean.chars()).filter(|c| !accent(c));
        bare.flat_map(char::to_lowercase).collect()
    }

    /// The longest piece that the word begins with, then the longest that the rest goes on with; a word that cannot be
    /// cut so is unknown as a whole.
    fn cut_word(&self, word: &str, numbers: &mut Vec<i64>) {
        if word.is_empty() {
            return;
        }
        let before = numbers.len();
        let mut rest = word;
        while !rest.is_empty() && word.chars().count() <= MAX_WORD {
            let goes_on = if rest.len() < word.len() { GOES_ON } else { "" };
            let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8()).rev();
            let found = ends.filter_map(|end| {
                let (head, tail) = rest.split_at_checked(end)?;
                Some((*self.pieces.get(&format!("{goes_on}{head}"))?, tail))
            });
            match { found }.next() {
                Some((number, tail)) => {
                    numbers.push(number);
                    rest = tail;
                }
                None => break,
            }
        }
        if !rest.is_empty() {
            numbers.truncate(before);
            numbers.push(self.unknown);
        }
    }
}

fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || GeneralCategoryGroup::Punctuation.contains(CATEGORIES.get(c))
}

/// Control and format characters, and those of private use.
fn is_other(c: char) -> bool {
    use GeneralCategory::{Control, Format, PrivateUse};
    matches!(CATEGORIES.get(c), Control | Format | PrivateUse)
}

fn is_chinese(c: char) -> bool {
    matches!(
        u32::from(c),
        0x4E00..=0x9FFF
            | 0x3400..=0x4DBF
            | 0x20000..=0x2A6DF
            | 0x2A700..=0x2B73F
            | 0x2B740..=0x2B81F
            | 0x2B920..=0x2CEAF
            | 0xF900..=0xFAFF
            | 0x2F800..=0x2FA1F
    )
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// `testdata/wordpiece.json` is what the Python package `tokenizers` makes of each text with the same vocabulary.
    #[test]
    fn pieces_are_those_of_the_tokeniser_in_python() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
        let read = |path: &str| std::fs::read(format!("{root}{path}")).unwrap();
        let vocabulary = read("../../models/all-minilm-l6-v2/vocab.txt");
        let pieces = WordPieces::parse(&vocabulary, true).unwrap();
        assert_eq!(pieces.pieces.len(), 30_522);
        let fixture: Vec<Value> = serde_json::from_slice(&read("testdata/wordpiece.json")).unwrap();
        assert!(fixture.len() > 30);
        for case in fixture {
            let text = case["text"].as_str().unwrap();
            let wanted: Vec<i64> =
                case["ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
            assert_eq!(pieces.cut(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_vocabulary_is_refused() {
        for (file, says) in [
            (&b"\xff\xfe"[..], "UTF-8"),
            (b"", "no line [CLS]"),
            (b"[CLS]\n[SEP]\nlung\n", "no line [UNK]"),
        ] {
            let error = WordPieces::parse(file, true).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn case_and_accents_stay_where_they_count() {
        let pieces = WordPieces::parse("[CLS]\n[SEP]\n[UNK]\nÖdem\noedem\n##e".as_bytes(), false);
        assert_eq!(pieces.unwrap().cut("Ödeme oedem ödem"), [0, 3, 5, 4, 2, 1]);
    }
}
