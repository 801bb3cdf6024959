//! The wire format: commands as arrays of bulk strings, replies in RESP3.
//!
//! Only what a lock needs is told apart. A reply is parsed from bytes that may end anywhere; whatever is not RESP3, or
//! larger than any reply of ours could be, ends the connection.

/// No reply of ours is nested deeper.
const DEPTH_MAX: u8 = 8;
/// No reply of ours has more elements, or longer ones.
const LENGTH_MAX: usize = 1 << 26;

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Nil,
    Int(i64),
    Text(Vec<u8>),
    /// An error, without the dash.
    Error(String),
    /// An array, a set, or a map as keys and values in turn.
    List(Vec<Value>),
    /// What nobody has asked for.
    Push(Vec<Value>),
}

/// Bytes that are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Value {
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    pub(crate) fn list(self) -> Option<Vec<Value>> {
        match self {
            Self::List(list) => Some(list),
            _ => None,
        }
    }
}

/// Appends a command.
pub(crate) fn command(out: &mut Vec<u8>, parts: &[&[u8]]) {
    length(out, b'*', parts.len());
    for part in parts {
        length(out, b'$', part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

fn length(out: &mut Vec<u8>, kind: u8, mut length: usize) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(length % 10).unwrap_or(0);
        length /= 10;
        if length == 0 {
            break;
        }
    }
    out.push(kind);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// The first value in `bytes` and how long it is; none when its end has not come yet.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Value, usize)>, Malformed> {
    let mut parser = Parser { bytes, at: 0 };
    match parser.value(0) {
        Ok(value) => Ok(Some((value, parser.at))),
        Err(Stop::Short) => Ok(None),
        Err(Stop::Malformed) => Err(Malformed),
    }
}

enum Stop {
    Short,
    Malformed,
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Parser<'a> {
    fn value(&mut self, depth: u8) -> Result<Value, Stop> {
        if depth > DEPTH_MAX {
            return Err(Stop::Malformed);
        }
        let (kind, rest) = self.line()?.split_first().ok_or(Stop::Malformed)?;
        match kind {
            b'+' | b',' | b'(' => Ok(Value::Text(rest.to_vec())),
            b'-' => Ok(Value::Error(lossy(rest))),
            b':' => Ok(Value::Int(number(rest)?)),
            b'#' => Ok(Value::Int(i64::from(rest == b"t"))),
            b'_' => Ok(Value::Nil),
            b'$' | b'=' | b'!' => {
                let Some(length) = count(rest)? else { return Ok(Value::Nil) };
                let text = self.take(length)?;
                if self.take(2)? != b"\r\n" {
                    return Err(Stop::Malformed);
                }
                Ok(match kind {
                    b'!' => Value::Error(lossy(text)),
                    b'=' => Value::Text(text.get(4..).ok_or(Stop::Malformed)?.to_vec()),
                    _ => Value::Text(text.to_vec()),
                })
            }
            b'*' | b'~' | b'>' => {
                let Some(length) = count(rest)? else { return Ok(Value::Nil) };
                let list = self.list(length, depth)?;
                Ok(if *kind == b'>' { Value::Push(list) } else { Value::List(list) })
            }
            b'%' => {
                let length = count(rest)?.ok_or(Stop::Malformed)?;
                Ok(Value::List(self.list(length * 2, depth)?))
            }
            b'|' => {
                // Attributes of the value that follows.
                let length = count(rest)?.ok_or(Stop::Malformed)?;
                self.list(length * 2, depth)?;
                self.value(depth + 1)
            }
            _ => Err(Stop::Malformed),
        }
    }

    fn list(&mut self, length: usize, depth: u8) -> Result<Vec<Value>, Stop> {
        // What is claimed to come is not allocated before it has come.
        let mut list = Vec::with_capacity(length.min(64));
        for _ in 0..length {
            list.push(self.value(depth + 1)?);
        }
        Ok(list)
    }

    fn line(&mut self) -> Result<&'a [u8], Stop> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\r') else { return Err(Stop::Short) };
        match rest.get(end + 1) {
            None => Err(Stop::Short),
            Some(b'\n') => {
                self.at += end + 2;
                Ok(&rest[..end])
            }
            Some(_) => Err(Stop::Malformed),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Stop> {
        let taken = self.bytes.get(self.at..self.at + length).ok_or(Stop::Short)?;
        self.at += length;
        Ok(taken)
    }
}

fn number(digits: &[u8]) -> Result<i64, Stop> {
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(Stop::Malformed)
}

/// A length; none for the nil of the second version of the protocol.
fn count(digits: &[u8]) -> Result<Option<usize>, Stop> {
    match number(digits)? {
        -1 => Ok(None),
        length => {
            let length = usize::try_from(length).map_err(|_| Stop::Malformed)?;
            if length > LENGTH_MAX { Err(Stop::Malformed) } else { Ok(Some(length)) }
        }
    }
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(text: &str) -> Value {
        Value::Text(text.as_bytes().to_vec())
    }

    #[test]
    fn every_kind_of_reply_is_read() {
        for (bytes, value) in [
            ("+OK\r\n", text("OK")),
            ("-OOM no room\r\n", Value::Error("OOM no room".into())),
            ("!8\r\nERR\r\nbad\r\n", Value::Error("ERR\r\nbad".into())),
            (":-42\r\n", Value::Int(-42)),
            ("$0\r\n\r\n", text("")),
            ("$4\r\na\r\nb\r\n", text("a\r\nb")),
            ("=6\r\ntxt:hi\r\n", text("hi")),
            ("$-1\r\n", Value::Nil),
            ("_\r\n", Value::Nil),
            ("#t\r\n", Value::Int(1)),
            (",1.5\r\n", text("1.5")),
            ("*2\r\n:1\r\n*-1\r\n", Value::List(vec![Value::Int(1), Value::Nil])),
            ("%1\r\n+a\r\n+b\r\n", Value::List(vec![text("a"), text("b")])),
            ("|1\r\n+a\r\n+b\r\n+c\r\n", text("c")),
            (">2\r\n+message\r\n+x\r\n", Value::Push(vec![text("message"), text("x")])),
        ] {
            assert_eq!(parse(bytes.as_bytes()), Ok(Some((value, bytes.len()))), "{bytes:?}");
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes.as_bytes()[..end]), Ok(None), "{bytes:?} cut at {end}");
            }
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        let deep = "*1\r\n".repeat(40);
        for bytes in ["HTTP/1.1 400\r\n", "\r\n", ":x\r\n", "$-2\r\n", "$99999999999\r\n", "$1\r\nabc", &deep]
        {
            assert_eq!(parse(bytes.as_bytes()), Err(Malformed), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn a_command_reads_back(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..5)) {
            let mut bytes = Vec::new();
            command(&mut bytes, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let list = parts.into_iter().map(Value::Text).collect();
            prop_assert_eq!(parse(&bytes), Ok(Some((Value::List(list), bytes.len()))));
        }
    }
}
