//! What servers and networks refuse, in the words of the contract.
//!
//! The table says of each refusal two things that are never derived from one another: whether the verb may have been
//! applied, and whether the same verb may succeed later. etcd checks rights, leases and room before it applies any part
//! of a transaction, so a refusal by these has changed nothing. Whatever ran out of time on its way through the cluster
//! may still be applied.

use std::error::Error;

use tenure_core::engine::{Effect, EngineErrorKind, Retry, Trouble};
use tonic::{Code, Status};

/// What etcd says of a lease that has ended or was revoked.
const NO_LEASE: &str = "requested lease not found";

/// Whether the request was refused because its lease has ended.
pub(crate) fn is_no_lease(status: &Status) -> bool {
    status.code() == Code::NotFound && status.message().contains(NO_LEASE)
}

/// Whether the request was refused because our login has to be made again.
pub(crate) fn wants_login(status: &Status) -> bool {
    status.code() == Code::Unauthenticated || status.message().contains("revision of auth store is old")
}

/// Whether a connection with this trouble can serve no more: what is behind it would have the same.
pub(crate) fn ends_connection(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown)
}

/// The table: what a refusal means.
pub(crate) fn of(status: &Status) -> Trouble {
    use EngineErrorKind::{Denied, Full, Protocol, Unreachable, Unsupported};
    let said = status.message();
    if status.code() == Code::Unavailable && never_left(status) {
        return Trouble::away(format!("cannot connect: {}", root_cause(status)));
    }
    let (kind, effect, retry, advice) = match status.code() {
        Code::Unavailable if said.contains("no leader") => {
            (Unreachable, Effect::None, Retry::Worth, "the cluster has no leader now")
        }
        Code::Unavailable if said.contains("learner") => {
            (Unreachable, Effect::None, Retry::Worth, "the server is a learner: name a voting member")
        }
        Code::Unavailable | Code::Cancelled | Code::Unknown => {
            (Unreachable, Effect::Unknown, Retry::Worth, "the request was not answered")
        }
        Code::DeadlineExceeded => {
            (Unreachable, Effect::Unknown, Retry::Worth, "the cluster did not answer in time")
        }
        Code::NotFound if said.contains(NO_LEASE) => {
            (Unreachable, Effect::None, Retry::Worth, "the lease has ended: try again with another")
        }
        Code::ResourceExhausted if said.contains("space exceeded") => {
            (Full, Effect::None, Retry::Worth, "compact and defragment etcd, and disarm its alarm")
        }
        Code::ResourceExhausted => {
            (Unreachable, Effect::None, Retry::Worth, "the cluster has too much to do")
        }
        Code::Unauthenticated => (Denied, Effect::None, Retry::Worth, "the login has to be made again"),
        Code::PermissionDenied => {
            (Denied, Effect::None, Retry::Useless, "grant the rights that docs/engines/etcd.md lists")
        }
        Code::InvalidArgument if said.contains("revision of auth store is old") => {
            (Denied, Effect::None, Retry::Worth, "users or roles were changed just now")
        }
        Code::InvalidArgument if said.contains("authentication failed") => {
            (Denied, Effect::None, Retry::Useless, "user or password is wrong")
        }
        Code::InvalidArgument if said.contains("user name is empty") => {
            (Denied, Effect::None, Retry::Useless, "the cluster wants a user and a password")
        }
        Code::InvalidArgument if said.contains("request is too large") => {
            (Unsupported, Effect::None, Retry::Useless, "start etcd with a higher --max-request-bytes")
        }
        Code::InvalidArgument if said.contains("too many operations") => {
            (Unsupported, Effect::None, Retry::Useless, "start etcd with a higher --max-txn-ops")
        }
        Code::FailedPrecondition if said.contains("authentication is not enabled") => {
            (Denied, Effect::None, Retry::Useless, "the cluster has no users: leave out user and password")
        }
        Code::Unimplemented => {
            (Unsupported, Effect::None, Retry::Useless, "the server is no etcd of 3.4 or newer")
        }
        _ => (Protocol, Effect::Unknown, Retry::Useless, "this refusal is not expected here"),
    };
    Trouble::new(
        kind,
        effect,
        retry,
        format!("{advice} ({})", if said.is_empty() { "no reason given" } else { said }),
    )
}

/// Whether no connection could be made, so that the request never left.
fn never_left(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The innermost cause: what the system said.
pub(crate) fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c070_each_refusal_has_a_row() {
        use EngineErrorKind::{Denied, Full, Protocol, Unreachable, Unsupported};
        for (code, said, kind, effect, retry) in [
            (Code::Unavailable, "etcdserver: no leader", Unreachable, Effect::None, Retry::Worth),
            (
                Code::Unavailable,
                "etcdserver: rpc not supported for learner",
                Unreachable,
                Effect::None,
                Retry::Worth,
            ),
            (Code::Unavailable, "etcdserver: request timed out", Unreachable, Effect::Unknown, Retry::Worth),
            (Code::Unavailable, "etcdserver: leader changed", Unreachable, Effect::Unknown, Retry::Worth),
            (Code::DeadlineExceeded, "context deadline exceeded", Unreachable, Effect::Unknown, Retry::Worth),
            (Code::Unknown, "h2 protocol error", Unreachable, Effect::Unknown, Retry::Worth),
            (
                Code::NotFound,
                "etcdserver: requested lease not found",
                Unreachable,
                Effect::None,
                Retry::Worth,
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                Full,
                Effect::None,
                Retry::Worth,
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: too many requests",
                Unreachable,
                Effect::None,
                Retry::Worth,
            ),
            (Code::Unauthenticated, "etcdserver: invalid auth token", Denied, Effect::None, Retry::Worth),
            (Code::PermissionDenied, "etcdserver: permission denied", Denied, Effect::None, Retry::Useless),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                Denied,
                Effect::None,
                Retry::Useless,
            ),
            (Code::InvalidArgument, "etcdserver: user name is empty", Denied, Effect::None, Retry::Useless),
            (
                Code::InvalidArgument,
                "etcdserver: duplicate key given",
                Protocol,
                Effect::Unknown,
                Retry::Useless,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: too many operations in txn request",
                Unsupported,
                Effect::None,
                Retry::Useless,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: request is too large",
                Unsupported,
                Effect::None,
                Retry::Useless,
            ),
            (
                Code::FailedPrecondition,
                "etcdserver: authentication is not enabled",
                Denied,
                Effect::None,
                Retry::Useless,
            ),
            (Code::Unimplemented, "unknown service", Unsupported, Effect::None, Retry::Useless),
        ] {
            let trouble = of(&Status::new(code, said));
            assert_eq!((trouble.kind, trouble.effect, trouble.retry), (kind, effect, retry), "{said}");
            assert!(trouble.message.contains(said), "{}", trouble.message);
        }
    }
}
