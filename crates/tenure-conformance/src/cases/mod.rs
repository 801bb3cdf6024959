//! The trials.

mod dropped;
mod faces;
mod life;
mod lines;
mod rules_1_to_4;
mod rules_5_to_8;

use futures_util::future::LocalBoxFuture;
use tenure_core::engine::{Facts, Liveness, Order, Permits, TokenOrigin};

use crate::MemorySite;
use crate::site::{Hook, Site};
use crate::stage::Stage;

/// One trial.
pub(crate) struct Case<S: Site> {
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [Need],
    pub(crate) run: for<'a> fn(&'a Stage<S>) -> LocalBoxFuture<'a, ()>,
}

/// What a trial needs of the engine or the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Holds and places end by lease.
    Leases,
    /// Holds last as long as their client lives.
    Lifetimes,
    /// A hold can be followed by a quarantine of its own.
    Quarantine,
    /// Tokens can be raised above what a client has seen.
    Floor,
    /// Waiters are granted in order of arrival.
    Arrival,
    /// There are semaphores.
    Permits,
    /// A client can be made to vanish.
    Vanish,
    /// The storage can be made to forget.
    Forget,
}

impl Need {
    /// Why a trial with this need is skipped; none when the need is met.
    pub(crate) fn unmet(self, facts: &Facts, site: &impl Site) -> Option<String> {
        let leases = facts.liveness == Liveness::Lease;
        match self {
            Self::Leases => {
                (!leases).then(|| "holds do not expire: they last as long as their client".into())
            }
            Self::Lifetimes => leases.then(|| "holds expire by lease, also under a living client".into()),
            Self::Quarantine => {
                let session = facts.liveness == Liveness::Session;
                session.then(|| "a session ends for all its holds at once, so none has a quarantine".into())
            }
            Self::Floor => {
                let revision = facts.token_origin == TokenOrigin::Revision;
                revision.then(|| "tokens are the engine's own revisions, which nobody can raise".into())
            }
            Self::Arrival => (facts.order != Order::Arrival).then(|| "waiters have no promised order".into()),
            Self::Permits => {
                (facts.permits != Permits::Kept).then(|| "there are no semaphores on this engine".into())
            }
            Self::Vanish => site.can(Hook::Vanish).err().map(Into::into),
            Self::Forget => site.can(Hook::Forget).err().map(Into::into),
        }
    }
}

/// Makes the list of a module's trials, with their needs in brackets.
macro_rules! cases {
    ($($name:ident $([$($need:ident),+])?),+ $(,)?) => {
        pub(super) fn cases<S: crate::site::Site>() -> Vec<super::Case<S>> {
            vec![$(super::Case {
                name: stringify!($name),
                needs: &[$($(super::Need::$need),+)?],
                run: |stage| Box::pin($name(stage)),
            }),+]
        }
    };
}
use cases;

/// All trials.
pub(crate) fn all<S: Site>() -> Vec<Case<S>> {
    let mut all = rules_1_to_4::cases();
    all.extend(rules_5_to_8::cases());
    all.extend(lines::cases());
    all.extend(faces::cases());
    all.extend(life::cases());
    all.extend(dropped::cases());
    all
}

/// A trial of the suite, for those who check the suite.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Listed {
    /// Its name.
    pub name: &'static str,
    /// Whether it may be skipped for some engines.
    pub conditional: bool,
}

/// The trials of the suite.
#[must_use]
pub fn catalogue() -> Vec<Listed> {
    let listed = |case: Case<MemorySite>| Listed { name: case.name, conditional: !case.needs.is_empty() };
    all().into_iter().map(listed).collect()
}
