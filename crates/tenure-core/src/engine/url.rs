//! What the URLs of all engines have in common.

use std::time::Duration;

/// The bytes that percent-encoded text stands for; none when an escape is broken, or something stands for NUL, which no
/// path, name or password has.
#[must_use]
pub fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            let digits = std::str::from_utf8(&digits).ok();
            let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    (!bytes.contains(&0)).then_some(bytes)
}

/// The text that percent-encoded text stands for; none when an escape is broken or it is no text.
#[must_use]
pub fn percent_decoded_text(text: &str) -> Option<String> {
    String::from_utf8(percent_decoded(text)?).ok()
}

/// A number of milliseconds that is not zero.
#[must_use]
pub fn millis(text: &str) -> Option<Duration> {
    let millis = text.parse::<u32>().ok().filter(|millis| *millis > 0)?;
    Some(Duration::from_millis(millis.into()))
}

#[cfg(test)]
mod tests {
    use super::{millis, percent_decoded, percent_decoded_text};
    use std::time::Duration;

    #[test]
    fn times_and_texts_are_read_or_refused() {
        assert_eq!(millis("250"), Some(Duration::from_millis(250)));
        for wrong in ["0", "-1", "1s", "", "4294967296"] {
            assert_eq!(millis(wrong), None, "{wrong:?}");
        }
        assert_eq!(percent_decoded_text("p%40ss").as_deref(), Some("p@ss"));
        assert_eq!(percent_decoded_text("%ff"), None, "no text");
    }

    #[test]
    fn c114_an_escape_is_one_byte_or_refused() {
        assert_eq!(percent_decoded("a%20b/%C3%a9").as_deref(), Some("a b/é".as_bytes()));
        for broken in ["%", "%2", "%zz", "%+1", "a%00b", "a\0b"] {
            assert_eq!(percent_decoded(broken), None, "{broken:?}");
        }
    }
}
