//! PNG files.
#![no_main]

use duet_case::Format;
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(init: duet_fuzz::own_panics_end_the_run(), |data: &[u8]| -> Corpus {
    if !duet_imaging::sniff(data).is_ok_and(|format| format == Format::Png) {
        return Corpus::Reject;
    }
    duet_fuzz::check(data);
    Corpus::Keep
});
