//! What each error of the client library means on our two axes.

use tenure_core::engine::{Effect, EngineErrorKind, Retry, Trouble};
use zookeeper_client::Error;

/// Whether the session in which something failed is over, and its nodes with it.
pub(crate) fn ends_the_session(error: &Error) -> bool {
    matches!(error, Error::SessionExpired | Error::ClientClosed | Error::AuthFailed)
}

/// What went wrong where something else may have been done already, whatever became of this request.
pub(crate) fn in_doubt(error: Error) -> Trouble {
    of(&error).with_unknown_effect()
}

/// What went wrong with one request that may have been sent.
pub(crate) fn of(error: &Error) -> Trouble {
    match error {
        // Whatever a connection has failed of, but for its ordinary end, the library calls an error of its own.
        Error::ConnectionLoss | Error::SessionMoved | Error::Custom(_) => {
            Trouble::lost(format!("the connection to ZooKeeper has ended: {error}"))
        }
        Error::Timeout => Trouble::lost("ZooKeeper does not answer"),
        // Whatever a dead session has created dies with it, but perhaps not yet.
        Error::SessionExpired | Error::ClientClosed => {
            Trouble::lost("the session with ZooKeeper has expired, and all holds with it")
        }
        Error::NoHosts => Trouble::away("none of the servers of ZooKeeper lets us in"),
        Error::Throttled => Trouble::away("ZooKeeper is overloaded and has refused the request"),
        Error::NotReadOnly => Trouble::away("the server is cut off from its ensemble and only reads"),
        Error::QuotaExceeded => {
            let message = "the quota of the path is used up: raise it, or use another chroot";
            Trouble::new(EngineErrorKind::Full, Effect::None, Retry::Worth, message)
        }
        Error::NoAuth => Trouble::denied(
            "ZooKeeper refuses us the right to a node: log in with the user that its access control list names, \
             or use another chroot",
        ),
        Error::AuthFailed => Trouble::denied("ZooKeeper refuses our login"),
        Error::InvalidAcl => Trouble::denied("ZooKeeper refuses an access control list for us: log in first"),
        Error::Unimplemented => {
            Trouble::unsupported("the server does not know a request: ZooKeeper 3.5.3 or newer is needed")
        }
        Error::BadArguments(why) => Trouble::unsupported(format!("no path of ZooKeeper can be made: {why}")),
        Error::NoChildrenForEphemerals => Trouble::foreign(
            "an ephemeral node of somebody else is where a line would be: use another chroot",
        ),
        other => Trouble::nonsense(format!("ZooKeeper has answered what makes no sense here: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_effect_is_claimed_only_of_what_was_refused() {
        for certain in [Error::NoAuth, Error::QuotaExceeded, Error::Throttled, Error::Unimplemented] {
            assert_eq!(of(&certain).effect, Effect::None, "{certain}");
        }
        for unknown in [Error::ConnectionLoss, Error::Timeout, Error::SessionExpired, Error::SessionMoved] {
            assert_eq!(
                (of(&unknown).effect, of(&unknown).retry),
                (Effect::Unknown, Retry::Worth),
                "{unknown}"
            );
        }
    }
}
