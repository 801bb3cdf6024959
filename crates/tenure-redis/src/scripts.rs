//! The verbs as scripts: one per verb, all with the same prelude, so that each is atomic on the server.

/// How a server tells a connection something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Voice {
    /// `PUBLISH`: to whoever listens, on a cluster at whichever node.
    Plain,
    /// `SPUBLISH`: on a cluster, to those who listen at this node. The channel must be in a slot of the node, and
    /// nothing is sent to the others.
    Sharded,
}

impl Voice {
    pub(crate) fn publish(self) -> &'static str {
        match self {
            Self::Plain => "PUBLISH",
            Self::Sharded => "SPUBLISH",
        }
    }

    pub(crate) fn subscribe(self) -> &'static str {
        match self {
            Self::Plain => "SUBSCRIBE",
            Self::Sharded => "SSUBSCRIBE",
        }
    }
}

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
    pub(crate) fn source(self, voice: Voice) -> String {
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
        let own = own.replace("'PUBLISH'", &format!("'{}'", voice.publish()));
        format!("{}{own}", include_str!("scripts/prelude.lua"))
    }
}
