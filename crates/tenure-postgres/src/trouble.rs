//! What each error of the server or the client means: kind, effect, retry.
//!
//! A verb is one statement, and so one transaction: when the server answers it with an error, nothing of it stays.

use tenure_core::engine::{Effect, EngineErrorKind, Retry, Trouble};
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

/// The state that verbs raise when the role's defaults do not let them read what was committed.
const ISOLATED: &str = "TN001";

/// The state that verbs raise when another process than that of the session runs them.
const MOVED: &str = "TN002";

/// The states when a statement that was prepared is not there, and when one of its name is there already: another
/// process of the server has ours.
const UNPREPARED: &str = "26000";
const PREPARED: &str = "42P05";

/// A verb that failed.
pub(crate) fn of(error: &Error) -> Trouble {
    match error.as_db_error() {
        Some(answer) => of_answer(answer.code(), answer.message()),
        None if error.is_closed() => Trouble::lost("the connection has ended"),
        None => Trouble::lost(format!("the connection has failed: {}", shown(error))),
    }
}

/// Whether the server will answer everything on this connection like this.
pub(crate) fn ends_connection(trouble: &Trouble, error: &Error) -> bool {
    // It was a primary when we connected: find out anew. Where objects are missing, they may have been made anew.
    let code = error.code().map_or("", SqlState::code);
    error.as_db_error().is_none()
        || matches!(code, "25006" | "42P01" | "42883" | MOVED | UNPREPARED | PREPARED)
        || (trouble.kind == EngineErrorKind::Unreachable && trouble.effect == Effect::Unknown)
}

/// The error and what caused it, which the client library keeps apart.
pub(crate) fn shown(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// What an answer with this state means.
pub(crate) fn of_answer(state: &SqlState, message: &str) -> Trouble {
    use EngineErrorKind::{Denied, Foreign, Full, Protocol, Unreachable, Unsupported};
    let code = state.code();
    let (kind, effect, retry, advice) = match code {
        "55P03" => (Unreachable, Effect::None, Retry::Worth, "somebody else holds the row of the key locked"),
        "40001" | "40P01" => {
            (Unreachable, Effect::None, Retry::Worth, "the server gave way to somebody else")
        }
        "57014" => {
            (Unreachable, Effect::None, Retry::Worth, "somebody cancelled the statement, or it took too long")
        }
        "57P03" => (Unreachable, Effect::None, Retry::Worth, "the server is starting or stopping"),
        // While it waits for a standby, a transaction that is ended so has been committed.
        "57P01" | "57P02" => {
            (Unreachable, Effect::Unknown, Retry::Worth, "the server has ended the connection")
        }
        "25006" => {
            (Unreachable, Effect::None, Retry::Worth, "this is a standby or read-only: name its primary")
        }
        "53100" => (Full, Effect::None, Retry::Worth, "the server's disk is full: make room"),
        "53200" | "53000" | "53400" => {
            (Full, Effect::None, Retry::Worth, "the server is out of memory or slots")
        }
        "53300" => (
            Unreachable,
            Effect::None,
            Retry::Worth,
            "the server has no connection left: raise max_connections",
        ),
        "42501" => {
            (Denied, Effect::None, Retry::Useless, "grant the rights that docs/engines/postgres.md lists")
        }
        "3D000" => {
            (Unsupported, Effect::None, Retry::Useless, "create the database, or name another in the URL")
        }
        "42P01" | "42883" | "3F000" => (
            Unsupported,
            Effect::None,
            Retry::Useless,
            "tables or functions are missing: run tenure migrate --at URL",
        ),
        "42703" | "42804" | "42P13" | "42P07" | "42710" => (
            Foreign,
            Effect::None,
            Retry::Useless,
            "the tables are not those of this version: see tenure migrate",
        ),
        ISOLATED => (
            Unsupported,
            Effect::None,
            Retry::Useless,
            "verbs run at read committed: ALTER ROLE … SET default_transaction_isolation = 'read committed'",
        ),
        MOVED => (
            Unreachable,
            Effect::None,
            Retry::Worth,
            "the session has lost its lock: something between us and the server shares or resets connections",
        ),
        UNPREPARED | PREPARED => (
            Unreachable,
            Effect::None,
            Retry::Worth,
            "something between us and the server shares or resets connections",
        ),
        _ if code.starts_with("28") => {
            (Denied, Effect::None, Retry::Useless, "the server does not let us in")
        }
        _ if code.starts_with("08") => {
            (Unreachable, Effect::Unknown, Retry::Worth, "the connection has failed")
        }
        _ if code.starts_with("53") => (Full, Effect::None, Retry::Worth, "the server has no room"),
        _ if code.starts_with("57") => {
            (Unreachable, Effect::Unknown, Retry::Worth, "the server is being operated on")
        }
        _ => (Protocol, Effect::None, Retry::Useless, "this answer is not expected here"),
    };
    Trouble::new(kind, effect, retry, format!("{advice} ({code}: {message})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c070_each_state_has_a_row() {
        use EngineErrorKind::{Denied, Foreign, Full, Protocol, Unreachable, Unsupported};
        for (code, kind, effect, retry) in [
            ("55P03", Unreachable, Effect::None, Retry::Worth),
            ("40001", Unreachable, Effect::None, Retry::Worth),
            ("40P01", Unreachable, Effect::None, Retry::Worth),
            ("57014", Unreachable, Effect::None, Retry::Worth),
            ("57P01", Unreachable, Effect::Unknown, Retry::Worth),
            ("57P03", Unreachable, Effect::None, Retry::Worth),
            ("57P05", Unreachable, Effect::Unknown, Retry::Worth),
            ("25006", Unreachable, Effect::None, Retry::Worth),
            ("08006", Unreachable, Effect::Unknown, Retry::Worth),
            ("53100", Full, Effect::None, Retry::Worth),
            ("53300", Unreachable, Effect::None, Retry::Worth),
            ("42501", Denied, Effect::None, Retry::Useless),
            ("28P01", Denied, Effect::None, Retry::Useless),
            ("3D000", Unsupported, Effect::None, Retry::Useless),
            ("42P01", Unsupported, Effect::None, Retry::Useless),
            ("42883", Unsupported, Effect::None, Retry::Useless),
            ("42703", Foreign, Effect::None, Retry::Useless),
            ("TN001", Unsupported, Effect::None, Retry::Useless),
            ("TN002", Unreachable, Effect::None, Retry::Worth),
            ("26000", Unreachable, Effect::None, Retry::Worth),
            ("42P05", Unreachable, Effect::None, Retry::Worth),
            ("22012", Protocol, Effect::None, Retry::Useless),
        ] {
            let trouble = of_answer(&SqlState::from_code(code), "why");
            assert_eq!((trouble.kind, trouble.effect, trouble.retry), (kind, effect, retry), "{code}");
            assert!(trouble.message.contains(code));
        }
    }
}
