//! The Case: what a stage reads, it writes again as it was.
#![no_main]

use duet_case::Case;
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(case) = Case::from_json(data) else { return Corpus::Reject };
    let written = case.to_json().expect("a Case that was read can be written");
    let again = Case::from_json(&written).expect("a Case that was written can be read");
    assert_eq!(again, case);
    assert_eq!(again.to_json().expect("twice"), written);
    Corpus::Keep
});
