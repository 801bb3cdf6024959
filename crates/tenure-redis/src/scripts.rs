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
    /// Many of a kind together.
    Attempts,
    Renewals,
    Withdrawals,
    Prove,
    Raise,
}

impl Script {
    pub(crate) const ALL: [Self; 12] = [
        Self::Attempt,
        Self::Renew,
        Self::Restamp,
        Self::Withdraw,
        Self::Evict,
        Self::Inspect,
        Self::Fence,
        Self::Attempts,
        Self::Renewals,
        Self::Withdrawals,
        Self::Prove,
        Self::Raise,
    ];

    /// The script that does the same for many claims, each on its own key; none for a verb that never comes in numbers.
    pub(crate) fn for_many(self) -> Option<Self> {
        match self {
            Self::Attempt => Some(Self::Attempts),
            Self::Renew => Some(Self::Renewals),
            Self::Withdraw => Some(Self::Withdrawals),
            _ => None,
        }
    }

    /// Whether only a node of a quorum needs it.
    pub(crate) fn is_of_quorums(self) -> bool {
        matches!(self, Self::Prove | Self::Raise)
    }

    /// Its text. What is common stands where the lines `-- helpers --` and `-- rules --` are: after the verb's
    /// short cuts for the common cases.
    pub(crate) fn source(self, voice: Voice) -> String {
        let own = match self {
            Self::Attempt => include_str!("scripts/attempt.lua"),
            Self::Renew => include_str!("scripts/renew.lua"),
            Self::Restamp => include_str!("scripts/restamp.lua"),
            Self::Withdraw => include_str!("scripts/withdraw.lua"),
            Self::Evict => include_str!("scripts/evict.lua"),
            Self::Prove => include_str!("scripts/prove.lua"),
            Self::Raise => include_str!("scripts/raise.lua"),
            Self::Inspect => return include_str!("scripts/inspect.lua").to_owned(),
            Self::Fence => return include_str!("scripts/fence.lua").to_owned(),
            Self::Attempts => return for_many(Self::Attempt.source(voice), 6),
            Self::Renewals => return for_many(Self::Renew.source(voice), 2),
            Self::Withdrawals => return for_many(Self::Withdraw.source(voice), 3),
        };
        let own = own.replace("-- helpers --\n", include_str!("scripts/helpers.lua"));
        let own = own.replace("-- rules --\n", include_str!("scripts/rules.lua"));
        let own = own.replace("'PUBLISH'", &format!("'{}'", voice.publish()));
        format!("{}{own}", include_str!("scripts/prelude.lua"))
    }
}

/// The text that runs a verb with so many arguments for each of many claims: the time is read once for all.
fn for_many(verb: String, stride: usize) -> String {
    let verb = verb.replace("local clock = redis.call('TIME')\n", "");
    let many = include_str!("scripts/many.lua").replace("STRIDE do", &format!("{stride} do"));
    many.replace("* STRIDE", &format!("* {stride}")).replace("-- verb --\n", &verb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_defines_what_it_calls_before_it_calls_it() {
        for script in Script::ALL {
            for voice in [Voice::Plain, Voice::Sharded] {
                let source = script.source(voice);
                for name in ["keep", "index_in", "limit_in_force", "bury", "promote", "commit"] {
                    let Some(called) = source.find(&format!("{name}(")) else { continue };
                    let defined = source.find(&format!("local function {name}("));
                    assert!(
                        defined.is_some_and(|defined| defined < called),
                        "{script:?} calls {name}, which is not defined by then"
                    );
                }
                assert!(!source.contains("-- helpers --") && !source.contains("-- rules --"), "{script:?}");
            }
        }
    }
}
