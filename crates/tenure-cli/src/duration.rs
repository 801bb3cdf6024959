//! Durations as people write and read them: `30s`, `1m 30s`, `500ms`, and plain seconds as in flock(1).

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

/// Reads a duration.
///
/// # Errors
/// A message that says what is accepted.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wanted = || "write seconds (90, 0.5) or a duration such as 30s, 1m 30s, 500ms, 2h".to_owned();
    if let Ok(seconds) = text.trim().parse::<f64>() {
        if seconds < 0.0 {
            return Err("a duration cannot be negative".to_owned());
        }
        return Duration::try_from_secs_f64(seconds).map_err(|_| wanted());
    }
    let span: Span = text.parse().map_err(|_| wanted())?;
    // A month has no length; days and weeks do, for whoever waits.
    let signed = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wanted())?;
    Duration::try_from(signed).map_err(|_| "a duration cannot be negative".to_owned())
}

/// Writes a duration for people, to two units: `2m 13s`, `350ms`.
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds == 0 => format!("{}ms", duration.as_millis()),
        (0, 0, 0) if duration.subsec_millis() >= 100 && seconds < 10 => {
            format!("{seconds}.{}s", duration.subsec_millis() / 100)
        }
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_may_write_seconds_or_units() {
        let ms = Duration::from_millis;
        for (text, wanted) in [
            ("0", ms(0)),
            ("1.5", ms(1_500)),
            (".25", ms(250)),
            ("90", ms(90_000)),
            ("30s", ms(30_000)),
            ("1m 30s", ms(90_000)),
            ("1m30s", ms(90_000)),
            ("500ms", ms(500)),
            ("2h", ms(7_200_000)),
            ("7 days", ms(7 * 86_400_000)),
            ("PT5S", ms(5_000)),
        ] {
            assert_eq!(parse(text), Ok(wanted), "{text}");
        }
        assert_eq!(parse("1e12").map(|d| d.as_secs()), Ok(1_000_000_000_000));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for bad in ["", " ", "-1", "-1s", "5s ago", "soon", "nan", "inf", "1e400", "1 month", "10s!", "0x10"]
        {
            assert!(parse(bad).is_err(), "{bad} gave {:?}", parse(bad));
        }
    }

    #[test]
    fn a_duration_reads_in_two_units() {
        for (ms, text) in [
            (0, "0ms"),
            (350, "350ms"),
            (1_200, "1.2s"),
            (45_900, "45s"),
            (133_000, "2m 13s"),
            (7_260_000, "2h 1m"),
            (90_000_000, "1d 1h"),
        ] {
            assert_eq!(human(Duration::from_millis(ms)), text);
        }
    }
}
