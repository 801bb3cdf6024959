//! The verbs as scripts: one per verb, all with the same prelude, so that each is atomic on the server.

/// A verb that a server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    Attempt,
    Renew,
    Restamp,
    Withdraw,
    Evict,
    Inspect,
    Fence,
}

impl Script {
    pub(crate) const ALL: [Self; 7] =
        [Self::Attempt, Self::Renew, Self::Restamp, Self::Withdraw, Self::Evict, Self::Inspect, Self::Fence];

    /// Its text. What is common stands where the line `-- rules --` is: after the verb's short cut for the common case.
    pub(crate) fn source(self) -> String {
        let own = match self {
            Self::Attempt => include_str!("scripts/attempt.lua"),
            Self::Renew => include_str!("scripts/renew.lua"),
            Self::Restamp => include_str!("scripts/restamp.lua"),
            Self::Withdraw => include_str!("scripts/withdraw.lua"),
            Self::Evict => include_str!("scripts/evict.lua"),
            Self::Inspect => return include_str!("scripts/inspect.lua").to_owned(),
            Self::Fence => return include_str!("scripts/fence.lua").to_owned(),
        };
        let own = own.replace("-- rules --\n", include_str!("scripts/rules.lua"));
        format!("{}{own}", include_str!("scripts/prelude.lua"))
    }
}
