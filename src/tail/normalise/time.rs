//! Times in ms since 1970: RFC 3339 text, calendar, and what is plausible.

use crate::clock::{DAY_MS, civil, days_since_1970};

/// The earliest time that is believed: 1971-01-01. Seconds mistaken for ms, and zeros, lie before it.
pub const EARLIEST_MS: i64 = 365 * DAY_MS;
/// The first time that is not believed any more: 2200-01-01. Microseconds mistaken for ms lie behind it.
pub const LATEST_MS: i64 = 84_006 * DAY_MS;

/// Returns whether a time can be meant: [`EARLIEST_MS`] up to, not including, [`LATEST_MS`].
#[must_use]
pub fn is_plausible(ms: i64) -> bool {
    (EARLIEST_MS..LATEST_MS).contains(&ms)
}

/// Reads RFC 3339, and the same without a zone, which is UTC. A space may stand for the `T`; digits behind the
/// milliseconds are dropped; a leap second is the next second.
#[must_use]
pub fn from_rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let punctuation = bytes.get(4) == Some(&b'-')
        && bytes.get(7) == Some(&b'-')
        && matches!(bytes.get(10), Some(b'T' | b't' | b' '))
        && bytes.get(13) == Some(&b':')
        && bytes.get(16) == Some(&b':');
    if !punctuation {
        return None;
    }
    let (year, month, day) = (digits(&bytes[0..4])?, digits(&bytes[5..7])?, digits(&bytes[8..10])?);
    let (hour, minute, second) = (digits(bytes.get(11..13)?)?, digits(bytes.get(14..16)?)?, digits(bytes.get(17..19)?)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = &bytes[19..];
    let mut ms = 0;
    if rest.first() == Some(&b'.') {
        let length = rest[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let fraction = &rest[1..=length];
        ms = match length {
            0 => return None,
            1 => digits(fraction)? * 100,
            2 => digits(fraction)? * 10,
            _ => digits(&fraction[..3])?,
        };
        rest = &rest[1 + length..];
    }
    let offset_minutes = match rest {
        [] | [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] | [sign @ (b'+' | b'-'), h1, h2, m1, m2] => {
            let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (if *sign == b'-' { -1 } else { 1 }) * (hours * 60 + minutes)
        }
        _ => return None,
    };
    let seconds = hour * 3600 + (minute - offset_minutes) * 60 + second;
    Some(days_since_1970(year, month, day) * DAY_MS + seconds * 1000 + ms)
}

/// Returns `2013-03-10T07:00:00Z`, with milliseconds only where there are some. Years beyond four digits have more.
#[must_use]
pub fn to_rfc3339(ms: i64) -> String {
    let (day, of_day) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    let (year, month, date) = civil(day);
    let (hour, minute, second, rest) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60, of_day % 1000);
    let fraction = if rest == 0 { String::new() } else { format!(".{rest:03}") };
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0')))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_3339_is_read_with_any_offset_and_without_one_as_utc() {
        let ten_past = Some(1_357_034_940_123);
        for text in [
            "2013-01-01T10:09:00.123Z",
            "2013-01-01t10:09:00.123z",
            "2013-01-01 10:09:00.123",
            "2013-01-01T10:09:00.123456789",
            "2013-01-01T12:09:00.123+02:00",
            "2013-01-01T05:09:00.123-0500",
            "2012-12-31T23:39:00.123-10:30",
        ] {
            assert_eq!(from_rfc3339(text), ten_past, "{text}");
        }
        assert_eq!(from_rfc3339("2016-12-31T23:59:60Z"), from_rfc3339("2017-01-01T00:00:00Z"));
        assert_eq!(from_rfc3339("2012-02-29T00:00:00.5Z"), Some(1_330_473_600_500));
        assert_eq!(from_rfc3339("1969-12-31T23:59:59.999Z"), Some(-1));
    }

    #[test]
    fn what_is_no_rfc_3339_is_not_guessed() {
        for text in [
            "",
            "2013-01-01",
            "2013-01-01T10:09",
            "1357034940123",
            "2013-13-01T10:09:00Z",
            "2013-02-29T10:09:00Z",
            "2013-01-00T10:09:00Z",
            "2013-01-01T24:00:00Z",
            "2013-01-01T10:60:00Z",
            "2013-01-01T10:09:61Z",
            "2013-01-01T10:09:00.Z",
            "2013-01-01T10:09:00+2",
            "2013-01-01T10:09:00+24:00",
            "2013-01-01T10:09:00Z ",
            "2013-01-01T10:09:00 Europe/Paris",
            "2013-01-01T１0:09:00Z",
            "Tue Jan  1 10:09:00 2013",
        ] {
            assert_eq!(from_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_of_a_calendar_cycle_goes_to_text_and_back() {
        for day in -200_000..200_000 {
            let (year, month, date) = civil(day);
            assert_eq!(days_since_1970(year, month, date), day);
        }
        for ms in [0, -1, 1_357_034_940_123, 1_362_898_800_000, 253_402_300_799_999] {
            assert_eq!(from_rfc3339(&to_rfc3339(ms)), Some(ms));
        }
        assert_eq!(to_rfc3339(1_362_898_800_000), "2013-03-10T07:00:00Z");
    }

    #[test]
    fn the_plausible_range_is_1971_to_2199() {
        assert_eq!(to_rfc3339(EARLIEST_MS), "1971-01-01T00:00:00Z");
        assert_eq!(to_rfc3339(LATEST_MS), "2200-01-01T00:00:00Z");
        assert!(!is_plausible(EARLIEST_MS - 1) && is_plausible(EARLIEST_MS));
        assert!(is_plausible(LATEST_MS - 1) && !is_plausible(LATEST_MS));
    }
}
