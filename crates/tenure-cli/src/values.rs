//! The values of arguments, each read with an error that says what is accepted.

use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use tenure::{ClaimId, Key, Ttl};

use crate::duration;

/// An argument that cannot be used, in words.
#[derive(Debug)]
struct Unusable(String);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unusable {}

fn utf8(text: OsString) -> Result<String, Unusable> {
    text.into_string().map_err(|text| Unusable(format!("{text:?} is not UTF-8: names are")))
}

pub(crate) fn name() -> impl TypedValueParser<Value = Key> {
    OsStringValueParser::new().try_map(|text| {
        utf8(text).and_then(|text| Key::new(text).map_err(|error| Unusable(error.to_string())))
    })
}

pub(crate) fn prefix() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().try_map(utf8)
}

pub(crate) fn ttl(text: &str) -> Result<Ttl, String> {
    Ttl::new(duration::parse(text)?).map_err(|error| error.to_string())
}

pub(crate) fn max_hold(text: &str) -> Result<Duration, String> {
    let max_hold = duration::parse(text)?;
    if max_hold < Ttl::MIN.duration() {
        return Err("the longest hold is at least 50ms: leave --max-hold away for no limit".to_owned());
    }
    Ok(max_hold)
}

pub(crate) fn slots(text: &str) -> Result<u32, String> {
    let slots = text.parse::<u32>().ok().filter(|slots| *slots > 0);
    slots.ok_or_else(|| format!("the number of slots is 1 to {}", u32::MAX))
}

pub(crate) fn claim(text: &str) -> Result<ClaimId, String> {
    text.parse().map_err(|error: tenure::ClaimIdError| error.to_string())
}
