//! What a claim listens to between two looks at its line.
//!
//! # Invariants
//! 1. Nothing that happens after a look is missed: what happened before the watches began is asked for once.
//! 2. Who looks again and finds that the same keys matter keeps its watches, unless they have told something.
//! 3. Of watches that begin together all but the last are known to begin at the server's present, or are made anew.
//!
//! A server looks which revision is its present, and begins a watch there a moment later. When something was written
//! between the two, the watch begins in the past after all, and is put off to one of the server's rounds. It does not
//! say so; but the revision of the next watch was looked up after this one had begun, so if the two are equal nothing
//! was written between.

use std::sync::Arc;

use futures_util::future::select_all;
use tenure_core::engine::Trouble;

use crate::link::{Failed, Link};
use crate::ops::{self, Answers};
use crate::rpc::Compare;
use crate::watch::{Sight, Watch};

/// How many keys are asked for at once: etcd takes no more than 128 in one transaction.
const ASKED_MAX: usize = 100;

/// How often watches are begun before they are taken as they are. Each time it needs a write within microseconds that
/// they are begun again, and one that was put off tells a tenth of a second later.
const BEGINS_MAX: u32 = 8;

/// One key that matters, as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Matter {
    key: Vec<u8>,
    sight: Sight,
    /// The revision of its creation, or where each write matters, of its last one.
    revision: i64,
}

/// The keys of which a claim wants to hear.
#[derive(Debug)]
pub(crate) struct Listening {
    /// The revision of the look at which they were as they are noted.
    after: i64,
    matters: Vec<Matter>,
    watches: Option<Watching>,
}

#[derive(Debug)]
struct Watching {
    link: Arc<Link>,
    watches: Vec<Watch>,
    /// How often they were begun.
    begins: u32,
    /// Whether nothing has happened before the watches began.
    in_time: bool,
}

impl Matter {
    /// That a key is deleted, which was created at this revision.
    pub(crate) fn deletion(key: &[u8], created: i64) -> Self {
        Self { key: key.to_vec(), sight: Sight::Deletions, revision: created }
    }

    /// That a key is deleted or written, which was written last at this revision.
    pub(crate) fn change(key: &[u8], changed: i64) -> Self {
        Self { key: key.to_vec(), sight: Sight::Changes, revision: changed }
    }

    fn is_as_it_was(&self) -> Compare {
        match self.sight {
            Sight::Deletions => ops::created_at(&self.key, self.revision),
            Sight::Changes => ops::changed_at(&self.key, self.revision),
        }
    }
}

impl Listening {
    /// Listens to what matters after a look at a revision. What was listened to before goes on if it is the same.
    pub(crate) fn to(matters: Vec<Matter>, after: i64, before: Option<Self>) -> Self {
        match before {
            Some(before) if before.matters == matters && before.goes_on() => before,
            _ => Self { after, matters, watches: None },
        }
    }

    fn goes_on(&self) -> bool {
        let quiet = |watching: &Watching| watching.watches.iter().all(Watch::is_quiet);
        self.watches.as_ref().is_some_and(quiet)
    }

    /// On which connection it listens.
    pub(crate) fn link(&self) -> Option<&Arc<Link>> {
        self.watches.as_ref().map(|watching| &watching.link)
    }

    /// Waits until something of it has happened, or may have.
    ///
    /// # Cancel safety
    /// Safe: what one call would have reported, the next one reports.
    pub(crate) async fn told(&mut self, link: &Arc<Link>) -> Result<(), Trouble> {
        let Self { after, matters, watches } = self;
        let watching = watches.get_or_insert_with(|| Watching::begin(link, matters));
        if !watching.in_time
            && let Some(begun) = watching.begun(matters).await
        {
            if begun > *after && !are_as_they_were(&watching.link, matters, begun).await? {
                return Ok(());
            }
            watching.in_time = true;
        }
        let told = watching.watches.iter_mut().map(|watch| Box::pin(watch.told()));
        select_all(told).await.0
    }
}

impl Watching {
    fn begin(link: &Arc<Link>, matters: &[Matter]) -> Self {
        Self { link: Arc::clone(link), watches: watches(link, matters), begins: 1, in_time: false }
    }

    /// The revision since which all of them tell; none when one has something to tell already.
    ///
    /// # Cancel safety
    /// Safe: what was begun goes on.
    async fn begun(&mut self, matters: &[Matter]) -> Option<i64> {
        loop {
            let (mut first, mut last) = (i64::MAX, 0);
            for watch in &mut self.watches {
                let revision = watch.begun().await?;
                (first, last) = (first.min(revision), last.max(revision));
            }
            if first >= last || self.begins >= BEGINS_MAX {
                return Some(last);
            }
            self.watches = watches(&self.link, matters);
            self.begins += 1;
        }
    }
}

fn watches(link: &Link, matters: &[Matter]) -> Vec<Watch> {
    matters.iter().map(|matter| link.watch(matter.key.clone(), matter.sight)).collect()
}

/// Whether all keys are as they were seen, when the watches have begun. The server that watches them is asked for what
/// it knows itself, which is at least what it knew then; so the others of its cluster need not be asked. Behind one
/// address there may be several servers: an answer from before the begin is none.
async fn are_as_they_were(link: &Link, matters: &[Matter], begun: i64) -> Result<bool, Trouble> {
    for matters in matters.chunks(ASKED_MAX) {
        let compare = matters.iter().map(Matter::is_as_it_was).collect();
        // A transaction without reads is answered by the server alone.
        let asked = link.txn(ops::txn(compare, Vec::new(), Vec::new())).await;
        let answers = asked.map_err(|failed: Failed| failed.trouble.without_effect())?;
        let answers = Answers::from(answers);
        if !answers.succeeded || answers.revision < begun {
            return Ok(false);
        }
    }
    Ok(true)
}
