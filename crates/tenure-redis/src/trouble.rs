//! What servers and networks refuse, in the words of the contract.
//!
//! The table says of each reply two things that are never derived from one another: whether the verb may have been
//! applied, and whether the same verb may succeed later. Our scripts read before they write, and all that a server can
//! refuse it refuses at the first write; so a refusal by state (read-only, loading, full …) has changed nothing. Only a
//! right that is missing may be noticed in the middle, since each command of a script has its own.

use redis::{ErrorKind, RedisError};
use tenure_core::engine::{Effect, EngineErrorKind, Retry, Trouble};

/// A request was not answered, and nobody knows how far it came. Its connection must not be used again.
pub(crate) fn unanswered(error: &RedisError) -> Trouble {
    match error.kind() {
        ErrorKind::Io if error.is_timeout() => Trouble::lost("the server did not answer in time"),
        ErrorKind::Io => Trouble::lost(format!("the connection broke: {error}")),
        _ => Trouble::nonsense(format!("the server's answer cannot be read: {error}")),
    }
}

/// The table: what an error reply means.
pub(crate) fn of_reply(reply: &str) -> Trouble {
    use EngineErrorKind::{Denied, Full, Protocol, Unreachable, Unsupported};
    let (kind, effect, retry, advice) = match code(reply) {
        "READONLY" => {
            (Unreachable, Effect::None, Retry::Worth, "the server is a replica: is a failover going on?")
        }
        "LOADING" => (Unreachable, Effect::None, Retry::Worth, "the server is starting"),
        "BUSY" => (Unreachable, Effect::None, Retry::Worth, "somebody's script blocks the server"),
        "MASTERDOWN" => (Unreachable, Effect::None, Retry::Worth, "the replica has lost its primary"),
        "NOREPLICAS" => {
            (Unreachable, Effect::None, Retry::Worth, "the server has fewer good replicas than it wants")
        }
        "MISCONF" => {
            (Unreachable, Effect::None, Retry::Worth, "the server cannot write its files: is its disk full?")
        }
        "CLUSTERDOWN" | "TRYAGAIN" => {
            (Unreachable, Effect::None, Retry::Worth, "the cluster is being repaired")
        }
        "MOVED" | "ASK" => (Unreachable, Effect::None, Retry::Worth, "the slot has moved"),
        "NOSCRIPT" => (Unreachable, Effect::None, Retry::Worth, "the server has forgotten a script"),
        "OOM" => (Full, Effect::None, Retry::Worth, "raise maxmemory or make room"),
        "NOAUTH" => (Denied, Effect::None, Retry::Useless, "the server wants a password"),
        "WRONGPASS" => (Denied, Effect::None, Retry::Useless, "user or password is wrong"),
        "NOPERM" => {
            (Denied, Effect::Unknown, Retry::Useless, "grant the rights that docs/engines/redis.md lists")
        }
        "CROSSSLOT" => (
            Unsupported,
            Effect::None,
            Retry::Useless,
            "the fence and its data must share a hash tag, as {orders}:fence and {orders}",
        ),
        "WRONGTYPE" | "FOREIGN" => {
            return Trouble::foreign(format!("the server holds something else: {reply}"));
        }
        // So say scripts in 7.0 when the user lacks the right to one of their commands.
        _ if reply.contains("The user executing the script") => {
            (Denied, Effect::Unknown, Retry::Useless, "grant the rights that docs/engines/redis.md lists")
        }
        _ if reply.contains("max number of clients") => {
            (Unreachable, Effect::None, Retry::Worth, "raise maxclients")
        }
        _ if reply.contains("SCRIPT KILL") => {
            (Unreachable, Effect::None, Retry::Worth, "somebody killed the script")
        }
        _ => (Protocol, Effect::Unknown, Retry::Useless, "this reply is not expected here"),
    };
    Trouble::new(kind, effect, retry, format!("{advice} ({reply})"))
}

/// The code of an error reply. Before 7.0, errors inside a script carry theirs in the middle of the text.
fn code(reply: &str) -> &str {
    let inner = match reply.strip_prefix("ERR ") {
        Some(_) if reply.contains("FOREIGN damaged") => "FOREIGN",
        Some(text) if text.contains("Error running script") => {
            text.rsplit_once(": -").map_or(reply, |(_, inner)| inner)
        }
        _ => reply,
    };
    inner.split(' ').next().unwrap_or(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c070_each_reply_has_a_row() {
        use EngineErrorKind::{Denied, Foreign, Full, Protocol, Unreachable, Unsupported};
        for (reply, kind, effect, retry) in [
            ("READONLY You can't write", Unreachable, Effect::None, Retry::Worth),
            ("LOADING Redis is loading", Unreachable, Effect::None, Retry::Worth),
            ("BUSY Redis is busy", Unreachable, Effect::None, Retry::Worth),
            ("MASTERDOWN Link with MASTER is down", Unreachable, Effect::None, Retry::Worth),
            ("NOREPLICAS Not enough good replicas", Unreachable, Effect::None, Retry::Worth),
            ("MISCONF Redis is configured to", Unreachable, Effect::None, Retry::Worth),
            ("CLUSTERDOWN Hash slot not served", Unreachable, Effect::None, Retry::Worth),
            ("TRYAGAIN Multiple keys", Unreachable, Effect::None, Retry::Worth),
            ("MOVED 866 127.0.0.1:7001", Unreachable, Effect::None, Retry::Worth),
            ("ASK 866 127.0.0.1:7001", Unreachable, Effect::None, Retry::Worth),
            ("NOSCRIPT No matching script", Unreachable, Effect::None, Retry::Worth),
            ("OOM command not allowed", Full, Effect::None, Retry::Worth),
            ("NOAUTH Authentication required.", Denied, Effect::None, Retry::Useless),
            ("WRONGPASS invalid username-password", Denied, Effect::None, Retry::Useless),
            ("NOPERM this user has no permissions", Denied, Effect::Unknown, Retry::Useless),
            ("ERR The user executing the script can't run", Denied, Effect::Unknown, Retry::Useless),
            ("CROSSSLOT Keys in request don't hash", Unsupported, Effect::None, Retry::Useless),
            ("WRONGTYPE Operation against", Foreign, Effect::None, Retry::Useless),
            ("ERR user_script:90: FOREIGN damaged hash script: f_1", Foreign, Effect::None, Retry::Useless),
            ("ERR max number of clients reached", Unreachable, Effect::None, Retry::Worth),
            (
                "ERR Error running script: Script killed by user with SCRIPT KILL...",
                Unreachable,
                Effect::None,
                Retry::Worth,
            ),
            ("ERR value is not an integer", Protocol, Effect::Unknown, Retry::Useless),
            (
                "ERR Error running script (call to f_1): @user_script:9: @user_script: 9: -OOM command not allowed",
                Full,
                Effect::None,
                Retry::Worth,
            ),
        ] {
            let trouble = of_reply(reply);
            assert_eq!((trouble.kind, trouble.effect, trouble.retry), (kind, effect, retry), "{reply}");
            assert!(trouble.message.contains(reply) || kind == Foreign, "{}", trouble.message);
        }
    }
}
