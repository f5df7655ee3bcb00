//! Until when a certificate holds: the one thing of it that is measured here.
//!
//! A full parser of X.509 would be a large dependency for one date. This reads the way to it and nothing else: RFC
//! 5280, section 4.1, in DER. What it cannot read it gives up on; whether a certificate is any good is rustls' to say.

use chrono::{DateTime, NaiveDateTime, Utc};

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0] EXPLICIT`: the version, which a certificate of version 1 has not.
const VERSION: u8 = 0xa0;

/// The end of a certificate's validity.
pub(crate) fn not_after(der: &[u8]) -> Option<DateTime<Utc>> {
    let (certificate, _) = read(der, SEQUENCE)?;
    let (signed, _) = read(certificate, SEQUENCE)?;
    let mut rest = signed;
    if rest.first() == Some(&VERSION) {
        rest = skip(rest)?;
    }
    // Serial number, algorithm of the signature, issuer.
    for _ in 0..3 {
        rest = skip(rest)?;
    }
    let (validity, _) = read(rest, SEQUENCE)?;
    time(skip(validity)?)
}

fn time(der: &[u8]) -> Option<DateTime<Utc>> {
    let text = |tag| read(der, tag).and_then(|(value, _)| std::str::from_utf8(value).ok());
    let text = match der.first()? {
        // Two digits of the year: RFC 5280, 4.1.2.5.1.
        &UTC_TIME => {
            let short = text(UTC_TIME)?;
            let century = if short.get(..2)?.parse::<u8>().ok()? < 50 { "20" } else { "19" };
            format!("{century}{short}")
        }
        _ => text(GENERALIZED_TIME)?.to_owned(),
    };
    Some(NaiveDateTime::parse_from_str(&text, "%Y%m%d%H%M%SZ").ok()?.and_utc())
}

fn skip(der: &[u8]) -> Option<&[u8]> {
    read(der, *der.first()?).map(|(_, rest)| rest)
}

/// The content of the element that `der` begins with, and what follows it.
fn read(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, length], mut rest) = der.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let mut length = usize::from(length);
    if length >= 0x80 {
        let digits;
        (digits, rest) = rest.split_at_checked(length - 0x80)?;
        let add = |sum: usize, digit: &u8| sum.checked_mul(256)?.checked_add((*digit).into());
        length = digits.iter().try_fold(0, add)?;
    }
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(year: i32) -> Vec<u8> {
        let mut parameters = rcgen::CertificateParams::new(vec!["duet.example".into()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(year, 7, 9);
        let key = rcgen::KeyPair::generate().unwrap();
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_end_is_read_in_both_ways_of_writing_a_time() {
        for year in [1999, 2031, 2049, 2050, 2999] {
            let end = not_after(&made(year)).unwrap();
            assert_eq!(end.to_rfc3339(), format!("{year}-07-09T00:00:00+00:00"));
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        let whole = made(2031);
        for length in 0..whole.len() {
            // A part of one either lacks the end of its outermost length, or is empty.
            assert_eq!(not_after(&whole[..length]), None, "{length}");
        }
        for wrong in
            [&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff][..], &[0x30, 0xff], &[0x31, 0], b"-----BEGIN"]
        {
            assert_eq!(not_after(wrong), None);
        }
        // Any byte may be wrong: no panic, whatever is read.
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 0xff;
            let _any = not_after(&damaged);
        }
    }
}
