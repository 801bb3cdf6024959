//! The contract with boxed futures, so that nobody above has to be generic over engines.

use std::fmt::Debug;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{Attempt, Contender, Engine, EngineError, Facts, Line, Renewal, Restamp, Stray, Wake, Withdrawn};
use crate::{Claim, ClaimId, Key};

type Reply<'a, T> = BoxFuture<'a, Result<T, EngineError>>;

/// [`Engine`], erased.
pub(crate) trait DynEngine: Send + Sync + Debug + 'static {
    fn facts(&self) -> Facts;
    fn contend(&self, claim: Claim) -> Box<dyn DynContender>;
    fn inspect<'a>(&'a self, key: &'a Key) -> Reply<'a, Line>;
    fn keys<'a>(&'a self, prefix: &'a str, after: Option<&'a Key>, limit: usize) -> Reply<'a, Vec<Key>>;
    fn evict<'a>(&'a self, key: &'a Key, claim: ClaimId) -> Reply<'a, Withdrawn>;
}

/// [`Contender`], erased.
pub(crate) trait DynContender: Send + 'static {
    fn attempt(&mut self) -> Reply<'_, Attempt>;
    fn changed(&mut self) -> Reply<'_, Wake>;
    fn renew(&mut self) -> Reply<'_, Renewal>;
    fn restamp(&mut self) -> Reply<'_, Restamp>;
    fn withdraw(&mut self, stray: Stray) -> Reply<'_, Withdrawn>;
}

impl<E: Engine> DynEngine for E {
    fn facts(&self) -> Facts {
        Engine::facts(self)
    }

    fn contend(&self, claim: Claim) -> Box<dyn DynContender> {
        Box::new(Engine::contend(self, claim))
    }

    fn inspect<'a>(&'a self, key: &'a Key) -> Reply<'a, Line> {
        Engine::inspect(self, key).boxed()
    }

    fn keys<'a>(&'a self, prefix: &'a str, after: Option<&'a Key>, limit: usize) -> Reply<'a, Vec<Key>> {
        Engine::keys(self, prefix, after, limit).boxed()
    }

    fn evict<'a>(&'a self, key: &'a Key, claim: ClaimId) -> Reply<'a, Withdrawn> {
        Engine::evict(self, key, claim).boxed()
    }
}

impl<C: Contender> DynContender for C {
    fn attempt(&mut self) -> Reply<'_, Attempt> {
        Contender::attempt(self).boxed()
    }

    fn changed(&mut self) -> Reply<'_, Wake> {
        Contender::changed(self).boxed()
    }

    fn renew(&mut self) -> Reply<'_, Renewal> {
        Contender::renew(self).boxed()
    }

    fn restamp(&mut self) -> Reply<'_, Restamp> {
        Contender::restamp(self).boxed()
    }

    fn withdraw(&mut self, stray: Stray) -> Reply<'_, Withdrawn> {
        Contender::withdraw(self, stray).boxed()
    }
}
