//! Places and lines, for people and for machines.
//!
//! What engines store about a holder was written by somebody else: nothing of it steers a terminal.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Unit, Zoned};
use serde_json::{Value, json};
use tenure::engine::{Line, PlaceView, Standing};

use crate::duration::human;

/// The text without what could steer a terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Who claims: `./report.sh on host7, pid 4242`.
pub(crate) fn who(place: &PlaceView) -> String {
    place.identity.as_ref().map_or_else(|| "somebody unknown".to_owned(), |who| clean(&who.to_string()))
}

/// A place in full: `./report.sh on host7, pid 4242, since 03:00:12 (2m 13s), token 17`.
pub(crate) fn place(place: &PlaceView) -> String {
    let token = match place.standing {
        Standing::Holds { token, .. } => format!(", token {token}"),
        Standing::Waits => String::new(),
    };
    format!("{}, since {} ({}){token}", who(place), since(place.since), human(place.since))
}

/// The moment `ago` before now on the clock at the wall, with the date when it was another day.
pub(crate) fn since(ago: Duration) -> String {
    let now = Zoned::now();
    let then = moment(ago).to_zoned(TimeZone::system());
    let format = if then.date() == now.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    then.strftime(format).to_string()
}

fn moment(ago: Duration) -> Timestamp {
    let micros = i64::try_from(ago.as_micros()).unwrap_or(i64::MAX);
    let now = Timestamp::now();
    now.checked_sub(micros.microseconds()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The places of a line that hold.
pub(crate) fn holders(line: &Line) -> impl Iterator<Item = &PlaceView> {
    line.places.iter().filter(|place| matches!(place.standing, Standing::Holds { .. }))
}

/// Who holds a key, in a sentence: `nightly is held by …`.
pub(crate) fn held_by(line: &Line) -> String {
    let name = clean(line.key.as_str());
    let mut holders = holders(line);
    match (holders.next(), holders.count()) {
        (None, _) if line.places.is_empty() => format!("{name} is free"),
        (None, _) => format!("{name} is about to be handed over"),
        (Some(one), 0) => format!("{name} is held by {}", place(one)),
        (Some(one), more) => format!("{name} is held by {} and {more} more", place(one)),
    }
}

/// A line as JSON.
pub(crate) fn line_json(line: &Line) -> Value {
    let (hold, wait): (Vec<_>, Vec<_>) =
        line.places.iter().partition(|place| matches!(place.standing, Standing::Holds { .. }));
    json!({
        "name": line.key.as_str(),
        "state": if line.places.is_empty() { "free" } else if hold.is_empty() { "offered" } else { "held" },
        "last_token": line.last_token.map(tenure::FencingToken::get),
        "holders": hold.into_iter().map(place_json).collect::<Vec<_>>(),
        "waiters": wait.into_iter().map(place_json).collect::<Vec<_>>(),
    })
}

/// A place as JSON.
pub(crate) fn place_json(place: &PlaceView) -> Value {
    let mode = match place.mode {
        tenure::Mode::Exclusive => "exclusive",
        tenure::Mode::Shared => "shared",
        tenure::Mode::Permit { .. } => "slot",
    };
    let then = moment(place.since).round(Unit::Millisecond);
    let mut value = json!({
        "claim": place.claim.to_string(),
        "mode": mode,
        "since": then.map(|then| then.to_string()).ok(),
        "seconds": place.since.as_secs_f64(),
        "host": place.identity.as_ref().map(|who| who.host.as_str()),
        "pid": place.identity.as_ref().map(|who| who.pid),
        "command": place.identity.as_ref().map(|who| who.command.as_str()),
    });
    if let Some(slots) = place.mode.limit() {
        value["slots"] = slots.get().into();
    }
    if let Standing::Holds { token, slot, expires_in } = place.standing {
        value["token"] = token.get().into();
        value["slot"] = slot.into();
        value["expires_in"] = expires_in.map(|left| left.as_secs_f64()).into();
    }
    value
}
