//! One claim's verbs.
//!
//! A place that found the line empty hangs on a lease of the claim's own length. One that found others hangs on a short
//! lease, kept alive by attempts, so that a waiter that has died holds nobody up for long; its first renewal as a
//! holder moves it to a lease of full length.

use std::sync::Arc;

use tenure_core::engine::line::{self, Verdict};
use tenure_core::engine::{
    Attempt, Contender, EngineError, Gone, Renewal, Restamp, Stray, Validity, Wake, Withdrawn,
};
use tenure_core::lease::{Clock, Moment, SystemClock};
use tenure_core::{Claim, FencingToken, TokenBlock};

use crate::Shared;
use crate::holding::Renewed;
use crate::link::{Failed, Link};
use crate::listening::{Listening, Matter};
use crate::place::{Doing, Seen};
use crate::record::{Place, View};
use crate::seat::Seat;

/// How often a line may change under a verb before it gives up.
const TRIES_MAX: usize = 32;

/// Speaks for one claim at an [`Etcd`](crate::Etcd).
#[derive(Debug)]
pub struct EtcdContender {
    shared: Arc<Shared>,
    claim: Claim,
    seat: Seat,
    /// What may change something for the claim since it was last looked at.
    listening: Option<Listening>,
    /// What was listened to before the look that is under way.
    before: Option<Listening>,
}

impl EtcdContender {
    pub(crate) fn new(shared: Arc<Shared>, claim: Claim) -> Self {
        let seat = shared.seats.of(claim.id);
        Self { shared, claim, seat, listening: None, before: None }
    }

    /// Forgets what was told so far: done before the server is asked.
    fn forget_wakes(&mut self) {
        self.before = self.listening.take();
    }

    fn listen(&mut self, matters: Vec<Matter>, after: i64) {
        self.listening = Some(Listening::to(matters, after, self.before.take()));
    }

    fn doing<'a>(&'a self, link: &'a Arc<Link>, begun: Moment) -> Doing<'a> {
        Doing { shared: &self.shared, claim: &self.claim, seat: &self.seat, link, begun }
    }

    /// From now on only what happens to the own place is of interest.
    fn listen_as_holder(&mut self, after: i64) {
        if let Some(place) = self.seat.place() {
            self.listen(vec![Matter::deletion(&place.key, place.created)], after);
        }
    }

    /// What a waiter waits for: its own place may be taken away, and somebody before it may leave.
    ///
    /// Of the waiters for a permit only the first watches all who hold one; each other watches the waiter before it,
    /// which writes its slot when it is granted. So a release wakes one of them.
    ///
    /// The own place is the last that matters, which is only worse when a watch of it is put off.
    fn listen_as_waiter(&mut self, view: &View, me: usize) {
        let leaves = |place: &Place| Matter::deletion(&place.key, place.created);
        let mut matters = Vec::new();
        match line::verdict(&view.modes(), me) {
            Verdict::Granted => {}
            Verdict::WaitBehind(behind) => matters.push(leaves(&view.places[behind])),
            Verdict::WaitForPermit if me > view.granted() => {
                let before = &view.places[me - 1];
                matters.push(Matter::change(&before.key, before.changed));
            }
            Verdict::WaitForPermit => matters.extend(view.places[..me].iter().map(leaves)),
        }
        matters.push(leaves(&view.places[me]));
        self.listen(matters, view.revision);
    }

    /// What a waiter far back waits for: its own place and the one before it, which are as they were.
    fn listen_as_before(&mut self, after: i64) {
        if let Some(place) = self.seat.place() {
            let own = Matter::deletion(&place.key, place.created);
            let behind = place.behind.map(|behind| Matter::deletion(&behind.key, behind.created));
            self.listen(behind.into_iter().chain([own]).collect(), after);
        }
    }

    async fn attempt_on(&mut self, link: &Arc<Link>, begun: Moment) -> Result<Attempt, EngineError> {
        for _ in 0..TRIES_MAX {
            let doing = self.doing(link, begun);
            let seen = match self.seat.place() {
                Some(place) => doing.look(&place).await?,
                None => doing.join().await?,
            };
            match seen {
                Seen::Gone(gone) => return Ok(Attempt::Gone(gone)),
                Seen::Again => {}
                Seen::Still(waiting, revision) => {
                    self.listen_as_before(revision);
                    return Ok(Attempt::Waiting(waiting));
                }
                Seen::Busy(view) => {
                    doing.dispose(false);
                    return Ok(Attempt::Busy(doing.waiting(&view, view.places.len())));
                }
                Seen::Line { view, me, joined } => {
                    if joined {
                        doing.check_limit(&view, me).await?;
                    }
                    if me < view.granted() {
                        let Some(grant) = doing.settle(&view, me).await? else { continue };
                        self.listen_as_holder(view.revision);
                        return Ok(Attempt::Granted(grant));
                    }
                    let waiting = doing.waiting(&view, me);
                    if joined && doing.leaves() {
                        doing.undo().await?;
                        return Ok(Attempt::Busy(waiting));
                    }
                    doing.note_behind(&view, me, waiting);
                    self.listen_as_waiter(&view, me);
                    return Ok(Attempt::Waiting(waiting));
                }
            }
        }
        Err(Failed::busy().into())
    }

    /// Makes sure that the claim is granted and known to be; if not, why it does not hold.
    async fn confirm(&self, doing: &Doing<'_>) -> Result<Option<Gone>, EngineError> {
        for _ in 0..TRIES_MAX {
            match self.seat.place() {
                Some(place) if place.grant.is_some() => return Ok(None),
                Some(place) => match doing.look(&place).await? {
                    Seen::Line { view, me, .. } if me < view.granted() => {
                        if doing.settle(&view, me).await?.is_some() {
                            return Ok(None);
                        }
                    }
                    Seen::Gone(gone) => return Ok(Some(gone)),
                    Seen::Again => {}
                    _ => return Ok(Some(Gone::Absent)),
                },
                None => {
                    if let Some(gone) = doing.find().await? {
                        return Ok(Some(gone));
                    }
                }
            }
        }
        Err(Failed::busy().into())
    }
}

impl Contender for EtcdContender {
    /// Joins the line, looks again, and keeps the place alive.
    ///
    /// # Cancel safety
    /// Safe: whether the dropped attempt was applied is unknown, and the next one finds out.
    async fn attempt(&mut self) -> Result<Attempt, EngineError> {
        self.forget_wakes();
        let begun = SystemClock.now();
        let link = self.shared.links.link().await?;
        self.attempt_on(&link, begun).await
    }

    /// Waits until something may have changed for the claim.
    ///
    /// # Cancel safety
    /// Safe: what one call would have reported, the next one reports.
    async fn changed(&mut self) -> Result<Wake, EngineError> {
        let Some(listening) = &mut self.listening else { return Ok(Wake::LookAgain) };
        let link = match listening.link() {
            Some(link) => Arc::clone(link),
            None => self.shared.links.link().await?,
        };
        listening.told(&link).await?;
        Ok(Wake::LookAgain)
    }

    async fn renew(&mut self) -> Result<Renewal, EngineError> {
        self.forget_wakes();
        let begun = SystemClock.now();
        let link = self.shared.links.link().await?;
        for _ in 0..TRIES_MAX {
            let doing = self.doing(&link, begun);
            if let Some(gone) = self.confirm(&doing).await? {
                return Ok(Renewal::Gone(gone));
            }
            match doing.renew().await? {
                Renewed::Until(left, revision) => {
                    self.listen_as_holder(revision);
                    return Ok(Renewal::Renewed(Validity::Lease(left)));
                }
                Renewed::Gone(gone) => return Ok(Renewal::Gone(gone)),
                Renewed::Again => {}
            }
        }
        Err(Failed::busy().into())
    }

    async fn restamp(&mut self) -> Result<Restamp, EngineError> {
        let begun = SystemClock.now();
        let link = self.shared.links.link().await?;
        let doing = self.doing(&link, begun);
        if let Some(gone) = self.confirm(&doing).await? {
            return Ok(Restamp::Gone(gone));
        }
        Ok(match doing.restamp().await? {
            Ok(token) => Restamp::Fresh(TokenBlock::single(token)),
            Err(gone) => Restamp::Gone(gone),
        })
    }

    async fn withdraw(&mut self, stray: Stray) -> Result<Withdrawn, EngineError> {
        let begun = SystemClock.now();
        let link = self.shared.links.link().await?;
        self.doing(&link, begun).withdraw(stray).await
    }
}

/// A token from a number; an engine that has written more than 2^53 times is none that exists.
pub(crate) fn token(number: u64) -> Result<FencingToken, EngineError> {
    FencingToken::new(number).ok_or_else(|| {
        tenure_core::engine::Trouble::nonsense(format!("{number} is no token: it does not fit in 53 bits"))
            .into()
    })
}
