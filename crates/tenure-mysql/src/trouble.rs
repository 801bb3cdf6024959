//! What servers and networks refuse, in the words of the contract.
//!
//! A procedure that meets an error rolls back before it reports it, so an error reply to a verb has certainly changed
//! nothing, unless the server says that it was interrupted: then it may have been after the commit.

use std::io::ErrorKind;

use sqlx::mysql::MySqlDatabaseError;
use tenure_core::engine::{Effect, EngineErrorKind, Retry, Trouble};

pub(crate) const NO_TABLE: u16 = 1146;
pub(crate) const NO_PROCEDURE: u16 = 1305;
pub(crate) const NO_COLUMN: u16 = 1054;
/// The server has chosen our transaction to end a deadlock.
pub(crate) const DEADLOCK: u16 = 1213;

/// The number of an error reply.
pub(crate) fn number(error: &sqlx::Error) -> Option<u16> {
    let error = error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()?;
    Some(error.number())
}

/// An error on the way to a connection, or while the schema is made or checked: no verb was sent.
pub(crate) fn of_setup(error: &sqlx::Error) -> Trouble {
    match error {
        // So says the client of a certificate that proves nothing; it will not be better next time.
        sqlx::Error::Io(error) if error.kind() == ErrorKind::InvalidData => {
            Trouble::denied(format!("no TLS with the server: {error}"))
        }
        error => of_verb(error).0.without_effect(),
    }
}

/// What an error of a verb means, and whether its connection may still be used.
pub(crate) fn of_verb(error: &sqlx::Error) -> (Trouble, bool) {
    if let Some(number) = number(error) {
        return of_reply(number, &error.to_string());
    }
    let trouble = match error {
        sqlx::Error::Io(error) => Trouble::lost(format!("the connection broke: {error}")),
        sqlx::Error::Tls(error) => Trouble::denied(format!("no TLS with the server: {error}")),
        sqlx::Error::Configuration(error) => {
            Trouble::unsupported(format!("the server cannot be used: {error}"))
        }
        error => Trouble::nonsense(format!("the server's answer cannot be read: {error}")),
    };
    (trouble, false)
}

/// The table: what an error reply means.
fn of_reply(number: u16, reply: &str) -> (Trouble, bool) {
    use EngineErrorKind::{Denied, Foreign, Full, Protocol, Unreachable, Unsupported};
    let (kind, effect, retry, stays, advice) = match number {
        1205 => (
            Unreachable,
            Effect::None,
            Retry::Worth,
            true,
            "somebody else's transaction keeps the key's row locked",
        ),
        DEADLOCK => (Unreachable, Effect::None, Retry::Worth, true, "a deadlock was ended at our cost"),
        1040 | 1203 | 1226 => (Unreachable, Effect::None, Retry::Worth, false, "raise max_connections"),
        1053 | 1077 | 1079 | 1927 | 3169 => {
            (Unreachable, Effect::Unknown, Retry::Worth, false, "the server has ended the connection")
        }
        1317 | 1969 | 3024 => {
            (Unreachable, Effect::Unknown, Retry::Worth, false, "the statement was interrupted")
        }
        1290 | 1792 | 1836 | 4173 => (
            Unreachable,
            Effect::None,
            Retry::Worth,
            false,
            "the server is read-only: is a failover going on?",
        ),
        1047 => (Unreachable, Effect::None, Retry::Worth, false, "the node of the cluster is not ready"),
        1021 | 1041 | 1114 => (Full, Effect::None, Retry::Worth, true, "make room on the server"),
        1044 | 1045 | 1049 | 1142 | 1143 | 1227 | 1370 | 1698 | 1410 | 4151 => {
            (Denied, Effect::None, Retry::Useless, true, "grant the rights that docs/engines/mysql.md lists")
        }
        NO_PROCEDURE => (
            Unsupported,
            Effect::None,
            Retry::Worth,
            false,
            "a procedure is missing: run `tenure migrate --at URL`",
        ),
        NO_TABLE | NO_COLUMN | 1318 => (
            Unsupported,
            Effect::None,
            Retry::Useless,
            false,
            "the schema is not ours: run `tenure migrate --at URL`",
        ),
        1064 => (Unsupported, Effect::None, Retry::Useless, true, "the server is too old for our statements"),
        1264 | 1406 => (Foreign, Effect::None, Retry::Useless, true, "the table has other columns than ours"),
        _ => (Protocol, Effect::Unknown, Retry::Useless, false, "this reply is not expected here"),
    };
    (Trouble::new(kind, effect, retry, format!("{advice} ({reply})")), stays)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reply_has_a_row() {
        use EngineErrorKind::{Denied, Full, Protocol, Unreachable, Unsupported};
        for (number, kind, effect, retry) in [
            (1205, Unreachable, Effect::None, Retry::Worth),
            (1213, Unreachable, Effect::None, Retry::Worth),
            (1040, Unreachable, Effect::None, Retry::Worth),
            (1053, Unreachable, Effect::Unknown, Retry::Worth),
            (1317, Unreachable, Effect::Unknown, Retry::Worth),
            (1290, Unreachable, Effect::None, Retry::Worth),
            (1114, Full, Effect::None, Retry::Worth),
            (1045, Denied, Effect::None, Retry::Useless),
            (1370, Denied, Effect::None, Retry::Useless),
            (1146, Unsupported, Effect::None, Retry::Useless),
            (9999, Protocol, Effect::Unknown, Retry::Useless),
        ] {
            let (trouble, _) = of_reply(number, "why");
            assert_eq!((trouble.kind, trouble.effect, trouble.retry), (kind, effect, retry), "{number}");
            assert!(trouble.message.ends_with("(why)"));
        }
    }
}
