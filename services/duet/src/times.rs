//! Points in time as people write them on a command line.

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Utc};

/// A point in time: RFC 3339 (`2026-11-01T08:00:00+01:00`), the same without a zone, which is then UTC
/// (`2026-11-01T08:00`, `2026-11-01`), or how long ago (`90m`, `12h`, `3d`).
///
/// # Errors
///
/// Says what can be read.
pub(crate) fn parse(text: &str) -> Result<DateTime<Utc>, String> {
    ago(text)
        .map(|ago| Utc::now() - ago)
        .or_else(|| DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc()))
        .or_else(|| {
            let written = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
            let day = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
            let time = written.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
            time.or_else(day).map(|time| time.and_utc())
        })
        .ok_or_else(|| {
            "write 2026-11-01, 2026-11-01T08:00 (UTC), 2026-11-01T08:00:00+01:00, or how long ago: 90m, 12h, 3d".to_owned()
        })
}

fn ago(text: &str) -> Option<TimeDelta> {
    let (count, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: i64 = count.parse().ok().filter(|count| (0..=1_000_000).contains(count))?;
    match unit {
        "m" => TimeDelta::try_minutes(count),
        "h" => TimeDelta::try_hours(count),
        "d" => TimeDelta::try_days(count),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read_and_the_rest_refused() {
        for (text, expected) in [
            ("2026-11-01", "2026-11-01T00:00:00+00:00"),
            ("2026-11-01T08:30", "2026-11-01T08:30:00+00:00"),
            ("2026-11-01 08:30", "2026-11-01T08:30:00+00:00"),
            ("2026-11-01T08:30:15", "2026-11-01T08:30:15+00:00"),
            ("2026-11-01T08:30:15.5Z", "2026-11-01T08:30:15.500+00:00"),
            ("2026-11-01T08:30:00+01:00", "2026-11-01T07:30:00+00:00"),
        ] {
            assert_eq!(parse(text).unwrap().to_rfc3339(), expected, "{text}");
        }
        let then = parse("12h").unwrap();
        assert_eq!((Utc::now() - then).num_minutes(), 720);
        for text in ["", "d", "-3d", "yesterday", "2026-13-01", "11é"] {
            assert!(parse(text).unwrap_err().contains("3d"), "{text}");
        }
    }
}
