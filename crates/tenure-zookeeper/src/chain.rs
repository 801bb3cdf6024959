//! Whether a session may be counted on: since when the ensemble has heard of it without a gap.
//!
//! An answer proves that the session lived when it was given, and not that it goes on. A leader ends a session of which
//! it has not heard for the timeout, and of what is sent to another server it hears only with that server's next ping.
//! After a silence — a process that was paused, a network that was cut, a leader that was stopped — a request may
//! therefore be answered moments before the leader ends the session for the silence that came before.
//!
//! # Invariants
//! 1. After a silence of a quarter of the timeout nothing counts, until there has been none for another quarter.
//! 2. A silence counts whether or not anybody asked for anything meanwhile.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenure_core::lease::Moment;

/// The requests of a session that were answered by the ensemble as a whole, one after the other.
#[derive(Debug)]
pub(crate) struct Chain {
    timeout: Duration,
    heard: Mutex<Heard>,
}

#[derive(Debug)]
struct Heard {
    /// When the last one was sent that was answered.
    last: Moment,
    /// When the first one after the last silence was sent; none when there was no silence.
    since: Option<Moment>,
}

impl Chain {
    /// That of a session that was asked for at this moment: making it tells the leader of it.
    pub(crate) fn new(timeout: Duration, begun: Moment) -> Self {
        Self { timeout, heard: Mutex::new(Heard { last: begun, since: None }) }
    }

    /// How long a silence may last.
    fn silence(&self) -> Duration {
        self.timeout / 4
    }

    /// How often something must be asked, so that trouble of less than a sixth of the timeout makes no silence.
    pub(crate) fn beat(&self) -> Duration {
        self.timeout / 16
    }

    /// How long to wait now before something must be asked again, when it was last asked then. An answer that took
    /// long is followed at once, so that it does not become two silences.
    pub(crate) fn rest(&self, sent: Moment, now: Moment) -> Duration {
        now.until(sent.after(self.beat()))
    }

    /// A request that was sent then is answered now.
    pub(crate) fn answered(&self, sent: Moment, now: Moment) {
        let mut heard = self.heard();
        if now.since(heard.last) > self.silence() {
            heard.since = Some(sent);
        }
        heard.last = sent;
    }

    /// Whether what the ensemble has answered just now counts.
    pub(crate) fn stands(&self, now: Moment) -> bool {
        let heard = self.heard();
        now.since(heard.last) <= self.silence()
            && heard.since.is_none_or(|since| now.since(since) >= self.silence())
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        let since = Duration::from_millis(millis);
        Moment::new(since, since)
    }

    fn chain() -> Chain {
        Chain::new(Duration::from_secs(4), at(0))
    }

    #[test]
    fn c023_an_answer_right_after_a_silence_counts_for_nothing() {
        let chain = chain();
        for beat in 1..8 {
            chain.answered(at(beat * 500), at(beat * 500 + 20));
            assert!(chain.stands(at(beat * 500 + 30)));
        }
        // Paused for nearly as long as the session lasts.
        assert!(!chain.stands(at(7_400)), "although nobody has asked for anything");
        chain.answered(at(7_410), at(7_420));
        for now in [7_420, 7_900, 8_300] {
            assert!(!chain.stands(at(now)), "{now}");
            chain.answered(at(now), at(now));
        }
        assert!(chain.stands(at(8_410)));
    }

    #[test]
    fn an_answer_that_took_too_long_is_a_silence() {
        let chain = chain();
        chain.answered(at(500), at(1_400));
        assert!(!chain.stands(at(1_400)));
        chain.answered(at(1_450), at(1_460));
        assert!(chain.stands(at(1_500)), "a quarter after it was sent");
    }

    /// Found by `tenure verify`: a hold was lost two seconds after a server had been stopped for half a second.
    #[test]
    fn one_answer_that_took_long_is_one_silence_at_most() {
        for took in (20..2_000).step_by(20) {
            let chain = chain();
            let (mut now, mut healed) = (0, 0);
            for beat in 0..20 {
                let sent = now;
                now += if beat == 3 { took } else { 20 };
                chain.answered(at(sent), at(now));
                if beat == 3 {
                    healed = now;
                }
                now += u64::try_from(chain.rest(at(sent), at(now)).as_millis()).unwrap();
                let stands = chain.stands(at(now));
                assert!(stands || healed > 0 && now < healed + 1_000, "{took} ms: not at {now} ms");
                assert!(stands || took > 4_000 / 6, "a silence after {took} ms");
            }
        }
    }

    #[test]
    fn a_new_session_counts_at_once_and_not_for_long() {
        let chain = chain();
        assert!(chain.stands(at(900)));
        assert!(!chain.stands(at(1_100)), "it was not heard of since");
    }
}
