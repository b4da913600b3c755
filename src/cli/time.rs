//! Dates and durations as people write them: `2013-01-01`, RFC 3339, `7d`, `12h`. All of it UTC.

use crate::clock::{DAY_MS, HOUR_MS};

/// Reads `2013-01-01`, `2013-01-01T12:00`, RFC 3339 with any offset, or ms since 1970; returns ms since 1970.
///
/// # Errors
/// What is accepted instead.
pub fn instant(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is no time; write 2013-01-01 or 2013-01-01T12:00:00Z (UTC unless it says otherwise)");
    let trimmed = text.trim();
    if trimmed.len() > 10 && trimmed.bytes().all(|b| b.is_ascii_digit()) {
        return trimmed.parse().map_err(|_| wrong());
    }
    let full = match trimmed.len() {
        10 => format!("{trimmed}T00:00:00Z"),
        16 => format!("{}:00Z", trimmed.replace(' ', "T")),
        19 => format!("{}Z", trimmed.replace(' ', "T")),
        _ => trimmed.to_owned(),
    };
    bson::DateTime::parse_rfc3339_str(&full).map(bson::DateTime::timestamp_millis).map_err(|_| wrong())
}

/// Reads `90s`, `15m`, `12h`, `7d` or `2w`; returns ms.
///
/// # Errors
/// What is accepted instead.
pub fn duration(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is no duration; write a whole number and s, m, h, d or w: 12h, 7d");
    let trimmed = text.trim();
    let (number, unit) = trimmed.split_at(trimmed.len() - trimmed.chars().next_back().map_or(0, char::len_utf8));
    let unit_ms = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => HOUR_MS,
        "d" => DAY_MS,
        "w" => 7 * DAY_MS,
        _ => return Err(wrong()),
    };
    let number: i64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(unit_ms).filter(|ms| *ms > 0).ok_or_else(wrong)
}

/// Reads a time, or how long ago one was; returns ms since 1970.
///
/// # Errors
/// What is accepted instead.
pub fn since(text: &str) -> Result<i64, String> {
    duration(text).map(|length_ms| crate::clock::now_ms() - length_ms).or_else(|_| instant(text))
}

/// Writes ms since 1970 as `2013-03-22 14:00 UTC`, with seconds and ms only where they are not 0.
#[must_use]
pub fn shown(ms: i64) -> String {
    let full = crate::clock::rfc3339(ms).replacen('T', " ", 1);
    let text = full.trim_end_matches('Z');
    let text = text.strip_suffix(".000").unwrap_or(text);
    format!("{} UTC", text.strip_suffix(":00").unwrap_or(text))
}

/// Writes a length of time as people say it: `7 d`, `3 h 20 min`.
#[must_use]
pub fn span(ms: i64) -> String {
    let (days, hours, minutes, seconds) = (ms / DAY_MS, ms % DAY_MS / HOUR_MS, ms % HOUR_MS / 60_000, ms % 60_000 / 1_000);
    let parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")];
    let said: Vec<String> = parts.iter().filter(|(n, _)| *n > 0).take(2).map(|(n, unit)| format!("{n} {unit}")).collect();
    if said.is_empty() { format!("{ms} ms") } else { said.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_in_every_form() {
        for (text, ms) in [
            ("2013-01-01", 1_356_998_400_000),
            ("2013-03-22T14:00", 1_363_960_800_000),
            ("2013-03-22 14:00:00", 1_363_960_800_000),
            ("2013-03-22T14:00:00Z", 1_363_960_800_000),
            ("2013-03-22T15:00:00+01:00", 1_363_960_800_000),
            ("2013-03-22T14:00:00.250Z", 1_363_960_800_250),
            ("1363960800000", 1_363_960_800_000),
        ] {
            assert_eq!(instant(text), Ok(ms), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "yesterday", "2013-13-01", "2013-02-30", "2013-1-1", "99999999999999999999", "2013-01-01T25:00:00Z", "ääääääääää"]
        {
            assert!(instant(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_is_a_number_with_its_unit() {
        for (text, ms) in [("90s", 90_000), ("15m", 900_000), ("12h", 43_200_000), ("7d", 604_800_000), ("2w", 1_209_600_000)] {
            assert_eq!(duration(text), Ok(ms), "{text}");
        }
        for text in ["", "7", "d", "0d", "-1d", "1.5h", "7 days", "9223372036854775807w", "7ä"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_is_shown_as_short_as_it_is_exact() {
        assert_eq!(shown(1_363_960_800_000), "2013-03-22 14:00 UTC");
        assert_eq!(shown(1_363_960_801_000), "2013-03-22 14:00:01 UTC");
        assert_eq!(shown(1_363_960_800_250), "2013-03-22 14:00:00.250 UTC");
        assert_eq!(span(604_800_000), "7 d");
        assert_eq!(span(12_000_000), "3 h 20 min");
        assert_eq!(span(250), "250 ms");
    }
}
