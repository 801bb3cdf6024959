//! Where the frames of the protocols of the engines end, and what one says.

use crate::Proxy;

/// How long the first whole frame of these bytes is, if it is there.
pub type Framing = fn(&[u8]) -> Option<usize>;

/// Whether a frame has these bytes somewhere.
pub fn mentions(what: impl AsRef<[u8]> + Send + 'static) -> impl Fn(&[u8]) -> bool + Send + 'static {
    move |frame| {
        let what = what.as_ref();
        frame.windows(what.len()).any(|window| window == what)
    }
}

/// Framings of the protocols of the engines.
impl Proxy {
    /// Whatever comes at once is one frame.
    #[must_use]
    pub fn bytes(bytes: &[u8]) -> Option<usize> {
        (!bytes.is_empty()).then_some(bytes.len())
    }

    /// One frame of HTTP/2, or the greeting before the first. The fourth byte of a frame is its type; 0 is data.
    #[must_use]
    pub fn http2(bytes: &[u8]) -> Option<usize> {
        const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let [a, b, c, ..] = *bytes.first_chunk::<9>()?;
        let length = if bytes.starts_with(b"PRI * HTT") {
            GREETING.len()
        } else {
            9 + u32::from_be_bytes([0, a, b, c]) as usize
        };
        (bytes.len() >= length).then_some(length)
    }

    /// One value of RESP, versions 2 and 3.
    #[must_use]
    pub fn resp(bytes: &[u8]) -> Option<usize> {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
        let count = || std::str::from_utf8(&bytes[1..end - 2]).ok()?.parse::<i64>().ok();
        let several = |count: i64| {
            let mut at = end;
            for _ in 0..count.max(0) {
                at += Self::resp(&bytes[at..])?;
            }
            Some(at)
        };
        match bytes[0] {
            b'$' | b'=' | b'!' => match usize::try_from(count()?) {
                Ok(length) => (bytes.len() >= end + length + 2).then_some(end + length + 2),
                Err(_) => Some(end),
            },
            b'*' | b'~' | b'>' => several(count()?),
            b'%' | b'|' => several(count()? * 2),
            _ => Some(end),
        }
    }

    /// One message of PostgreSQL. All of a client's request in the extended protocol, from its first message to its
    /// last, is one frame.
    #[must_use]
    pub fn postgres(bytes: &[u8]) -> Option<usize> {
        let message = |bytes: &[u8]| {
            // The first message of a client has no type; its length is never so long.
            let typed = usize::from(*bytes.first()? != 0);
            let length = u32::from_be_bytes(*bytes.get(typed..)?.first_chunk()?);
            let whole = usize::try_from(length).ok()?.checked_add(typed)?;
            (bytes.len() >= whole).then_some(whole)
        };
        let mut end = message(bytes)?;
        if bytes[0] == b'P' {
            // From the text of the statement to the message that asks for its answer.
            while bytes.get(end) != Some(&b'S') {
                end += message(bytes.get(end..)?)?;
            }
            end += message(&bytes[end..])?;
        }
        Some(end)
    }

    /// Four bytes of length, most significant first, then so many bytes: ZooKeeper.
    #[must_use]
    pub fn length_first(bytes: &[u8]) -> Option<usize> {
        let length = u32::from_be_bytes(*bytes.first_chunk()?);
        let whole = usize::try_from(length).ok()?.checked_add(4)?;
        (bytes.len() >= whole).then_some(whole)
    }

    /// A packet of MySQL: three bytes of length, least significant first, a number, then so many bytes.
    #[must_use]
    pub fn mysql(bytes: &[u8]) -> Option<usize> {
        let [a, b, c, _] = *bytes.first_chunk()?;
        let whole = usize::try_from(u32::from_le_bytes([a, b, c, 0])).ok()? + 4;
        (bytes.len() >= whole).then_some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_end_where_the_protocol_says() {
        assert_eq!(Proxy::resp(b"*2\r\n$4\r\nECHO\r\n$1\r\nx\r\n+more"), Some(21));
        assert_eq!(Proxy::resp(b"*2\r\n$4\r\nECHO\r\n$1\r\nx"), None);
        assert_eq!(Proxy::resp(b"$-1\r\n"), Some(5));
        assert_eq!(Proxy::resp(b">2\r\n+a\r\n:1\r\n"), Some(12));
        assert_eq!(Proxy::resp(b"%1\r\n+a\r\n:1\r\n"), Some(12));
        assert_eq!(Proxy::length_first(&[0, 0, 0, 2, 7, 7, 9]), Some(6));
        assert_eq!(Proxy::length_first(&[0, 0, 0, 2, 7]), None);
        assert_eq!(Proxy::mysql(&[1, 0, 0, 0, 7, 9]), Some(5));
    }

    #[test]
    fn a_frame_mentions_what_stands_anywhere_in_it() {
        assert!(mentions("b")(b"abc") && mentions(*b"abc")(b"abc"));
        assert!(!mentions("ac")(b"abc") && !mentions("abcd")(b"abc"));
    }
}
