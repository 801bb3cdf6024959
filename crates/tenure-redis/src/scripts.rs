//! The verbs as scripts: one per verb, all with the same prelude, so that each is atomic on the server.

use crate::names;

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
        let (frame, verb) = match self {
            Self::Attempt => (ONE, include_str!("scripts/attempt.lua")),
            Self::Renew => (ONE, include_str!("scripts/renew.lua")),
            Self::Restamp => (ONE, include_str!("scripts/restamp.lua")),
            Self::Withdraw => (ONE, include_str!("scripts/withdraw.lua")),
            Self::Evict => (ONE, include_str!("scripts/evict.lua")),
            Self::Prove => (ONE, include_str!("scripts/prove.lua")),
            Self::Raise => (ONE, include_str!("scripts/raise.lua")),
            Self::Attempts => (MANY, include_str!("scripts/attempt.lua")),
            Self::Renewals => (MANY, include_str!("scripts/renew.lua")),
            Self::Withdrawals => (MANY, include_str!("scripts/withdraw.lua")),
            Self::Inspect => return include_str!("scripts/inspect.lua").to_owned(),
            Self::Fence => return include_str!("scripts/fence.lua").to_owned(),
        };
        let slow = part(verb, "slow").replace("-- helpers --\n", include_str!("scripts/helpers.lua"));
        let slow = slow.replace("-- rules --\n", include_str!("scripts/rules.lua"));
        let slow = slow.replace("'PUBLISH'", &format!("'{}'", voice.publish()));
        let frame = frame.replace("~= MINE", &format!("~= {}", names::MINE));
        let frame = frame.replace("-- words --\n", part(verb, "words"));
        let frame = frame.replace("-- fast --\n", part(verb, "fast")).replace("-- slow --\n", &slow);
        [include_str!("scripts/prelude.lua"), part(verb, "once"), &frame].concat()
    }
}

/// What stands around a verb for one claim, and for many.
const ONE: &str = include_str!("scripts/one.lua");
const MANY: &str = include_str!("scripts/many.lua");

/// The part of a verb's text that has this name: its variables (`once`), what it makes of its words (`words`), its
/// short cut for the commonest case (`fast`), and the rest (`slow`). A part that a verb does not have is empty.
fn part<'a>(verb: &'a str, name: &str) -> &'a str {
    let Some((_, text)) = verb.split_once(&format!("-- {name} --\n")) else { return "" };
    let others = ["words", "fast", "slow"].iter().filter_map(|name| text.find(&format!("-- {name} --\n")));
    &text[..others.min().unwrap_or(text.len())]
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
                for mark in ["helpers", "rules", "once", "words", "fast", "slow"] {
                    assert!(!source.contains(&format!("-- {mark} --")), "{script:?}: {mark}");
                }
            }
        }
    }
}
