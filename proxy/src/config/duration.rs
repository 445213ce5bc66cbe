//! Durations as Go writes them (`time.ParseDuration`): `30s`, `1h15m`, `0.5s`, `0`.

use std::time::Duration;

const UNITS: &[(&str, f64)] = &[
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
];

/// What [`parse`] takes, for error messages.
pub(crate) const ACCEPTED: &str =
    "a duration as 30s, 500ms or 1h15m, not negative and at most 2562047h";
/// As long as Go's, whose durations are 64 bits of nanoseconds: so they can be doubled, and added to
/// any time.
const LONGEST: Duration = Duration::from_nanos(i64::MAX as u64);

/// Reads a duration; `None` where it is none, negative, or longer than Go's can be.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Some(Duration::ZERO);
    }
    if text.is_empty() {
        return None;
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_len = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_len);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        seconds += number.parse::<f64>().ok()? * factor;
        rest = next;
    }
    let duration = Duration::try_from_secs_f64(seconds).ok();
    duration.filter(|duration| *duration <= LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_writes() {
        assert_eq!(parse("30s"), Some(Duration::from_secs(30)));
        assert_eq!(parse("1h15m0s"), Some(Duration::from_secs(4500)));
        assert_eq!(parse("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse("0.5s"), Some(Duration::from_millis(500)));
        assert_eq!(parse("0"), Some(Duration::ZERO));
        assert_eq!(parse("0s"), Some(Duration::ZERO));
        let longest = Duration::from_secs(2_562_047 * 3600);
        assert_eq!(parse("2562047h"), Some(longest));
    }

    #[test]
    fn refuses_what_go_refuses() {
        for bad in [
            "", "s", "30", "-1s", "3 s", "1d", "1.2.3s", "s3", "2562048h",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
