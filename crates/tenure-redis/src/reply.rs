//! What is read from a reply: text and lists, in whatever form a server of either protocol gives them.

use redis::{ServerError, Value};

pub(crate) trait Reply: Sized {
    fn text(&self) -> Option<&str>;

    /// An array, or a map as keys and values in turn.
    fn list(self) -> Option<Vec<Self>>;
}

impl Reply for Value {
    fn text(&self) -> Option<&str> {
        match self {
            Self::BulkString(text) => std::str::from_utf8(text).ok(),
            Self::SimpleString(text) | Self::VerbatimString { text, .. } => Some(text),
            _ => None,
        }
    }

    fn list(self) -> Option<Vec<Self>> {
        match self {
            Self::Array(list) => Some(list),
            Self::Map(pairs) => Some(pairs.into_iter().flat_map(<[Self; 2]>::from).collect()),
            _ => None,
        }
    }
}

/// An error reply as the server wrote it, without the dash.
pub(crate) fn error_text(error: &ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}
