//! Guards a running command: its signals, its stops, and its end when the hold ends.
//!
//! # Invariants
//! 1. While the lease can be kept, TERM comes early enough for KILL to come inside the lease.
//! 2. A hold that was lost while nobody could be told (a stop, a suspended machine) ends in KILL at once: the lease is
//!    over, and there is no time left to be polite in.
//! 3. A stopped command goes on only after the engine has been asked whether the hold still stands.

use std::pin::Pin;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tenure::{Guard, Loss, LossCause};
use tokio::time::Sleep;

use crate::child::{Child, End, Turn};
use crate::duration::human;
use crate::report::{Report, Weight};
use crate::signals::Signals;
use crate::terminal::{Stop, Terminal};

/// How long before the end of a hold KILL is sent at the latest, so that it takes effect inside: a twentieth of the
/// lease, and not more than this.
const SLACK_MAX: Duration = Duration::from_millis(100);
/// How often a group that was told to end is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long the engine may take to say whether a hold has outlived a stop.
const VERIFY_MAX: Duration = Duration::from_secs(5);

/// How much time a command has at which end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) ttl: Duration,
    pub(crate) grace: Duration,
    pub(crate) max_hold: Option<Duration>,
}

impl Limits {
    /// From TERM to KILL, and from KILL to the end, within `whole`.
    fn split(self, whole: Duration, share: u32) -> (Duration, Duration) {
        (self.grace.min(whole / share), SLACK_MAX.min(whole / 20))
    }

    /// Of a lease that is not renewed: a third of it at most, so that the renewals have two thirds to succeed in.
    fn of_lease(self) -> (Duration, Duration) {
        self.split(self.ttl, 3)
    }

    /// Of the longest hold: half of it at most.
    fn of_max_hold(self, max_hold: Duration) -> (Duration, Duration) {
        self.split(max_hold, 2)
    }
}

/// Why a command was ended by us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Its hold was lost.
    Lost(Loss),
    /// Its lease was about to end, and could not be renewed.
    Unrenewed,
    /// Its longest time was about to end.
    MaxHold(Duration),
}

impl Cut {
    pub(crate) fn why(&self) -> String {
        match self {
            Self::Lost(loss) => loss.to_string(),
            Self::Unrenewed => "the engine did not answer, and the lease was about to end".to_owned(),
            Self::MaxHold(max) => format!("--max-hold {} was about to end", human(*max)),
        }
    }

    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Lost(loss) => loss.cause.as_str(),
            Self::Unrenewed => "unrenewed",
            Self::MaxHold(_) => "max_hold",
        }
    }
}

/// How a guarded command ended.
pub(crate) struct Ended {
    pub(crate) end: End,
    pub(crate) cut: Option<Cut>,
    /// It had the terminal to the last.
    pub(crate) had_terminal: bool,
}

/// Guards one command.
pub(crate) struct Supervisor<'a> {
    pub(crate) child: &'a mut Child,
    pub(crate) guard: &'a Guard,
    pub(crate) signals: &'a mut Signals,
    pub(crate) report: &'a mut Report,
    pub(crate) terminal: Option<Terminal>,
    pub(crate) limits: Limits,
    cut: Option<Cut>,
    kill: Option<Pin<Box<Sleep>>>,
    /// We were told to stop, and passed it on.
    told_to_stop: bool,
    /// The next TSTP is the echo of our own.
    echo: bool,
}

/// What woke the supervisor.
enum Event {
    Lost(Loss),
    KillNow,
    Unrenewed,
    MaxHold(Duration),
    Signal(Signal),
}

impl<'a> Supervisor<'a> {
    pub(crate) fn new(
        child: &'a mut Child,
        guard: &'a Guard,
        signals: &'a mut Signals,
        report: &'a mut Report,
        terminal: Option<Terminal>,
        limits: Limits,
    ) -> Self {
        let (cut, kill) = (None, None);
        Self { child, guard, signals, report, terminal, limits, cut, kill, told_to_stop: false, echo: false }
    }

    /// Guards the command until all that was to be waited for has ended. The group is killed if it was cut short.
    pub(crate) async fn watch(mut self) -> Ended {
        if let Some(terminal) = &mut self.terminal {
            terminal.lend_at_start(self.child.group());
        }
        let mut max_hold = self.limits.max_hold.map(|max| {
            let (grace, slack) = self.limits.of_max_hold(max);
            (max, Box::pin(tokio::time::sleep(max.saturating_sub(grace + slack))))
        });
        loop {
            let event = self.next(&mut max_hold).await;
            // What became of the command comes first: it decides what the event means.
            let going_on = matches!(event, Event::Signal(Signal::CONT));
            while let Some(turn) = self.child.turn() {
                match turn {
                    Turn::Stopped(signal) if !going_on => self.stopped(signal),
                    Turn::Stopped(_) | Turn::Continued => {}
                    Turn::Ended(end) => return self.ended(end).await,
                }
            }
            match event {
                Event::Lost(loss) => self.lost(loss),
                Event::KillNow => self.kill_now(),
                Event::Unrenewed => self.begin(Cut::Unrenewed, self.limits.of_lease().0),
                Event::MaxHold(max) => self.begin(Cut::MaxHold(max), self.limits.of_max_hold(max).0),
                Event::Signal(signal) => self.signal(signal).await,
            }
        }
    }

    async fn next(&mut self, max_hold: &mut Option<(Duration, Pin<Box<Sleep>>)>) -> Event {
        let lost_before = matches!(self.cut, Some(Cut::Lost(_)));
        let (grace, slack) = self.limits.of_lease();
        let longest = async {
            match max_hold {
                Some((max, sleep)) => {
                    sleep.as_mut().await;
                    *max
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // A loss and the end of the grace leave no time for anything else.
            biased;
            loss = self.guard.lost(), if !lost_before => Event::Lost(loss),
            () = rings(&mut self.kill) => Event::KillNow,
            () = near_its_end(self.guard, grace + slack), if self.cut.is_none() => Event::Unrenewed,
            max = longest, if self.cut.is_none() => Event::MaxHold(max),
            signal = self.signals.next() => Event::Signal(signal),
        }
    }

    /// Asks the group to end, and sets the time at which it must.
    fn begin(&mut self, cut: Cut, grace: Duration) {
        self.tell_cut(&cut, grace);
        self.cut = Some(cut);
        self.child.signal(Signal::TERM);
        if grace.is_zero() {
            return self.kill_now();
        }
        // The hold stands, so a stopped command may go on to hear of its end.
        self.child.signal(Signal::CONT);
        self.kill = Some(Box::pin(tokio::time::sleep(grace)));
    }

    fn lost(&mut self, loss: Loss) {
        let grace = self.limits.grace;
        // An operator who breaks a lock knows that its holder runs, and gives it the time to put things away: the
        // token keeps it from doing harm. It is not woken for that. In every other case the time is over.
        let polite = loss.cause == LossCause::Revoked && !self.child.is_stopped() && self.cut.is_none();
        let cut = Cut::Lost(loss);
        if polite && !grace.is_zero() {
            self.tell_cut(&cut, grace);
            self.cut = Some(cut);
            self.child.signal(Signal::TERM);
            self.kill = Some(Box::pin(tokio::time::sleep(grace)));
        } else {
            self.kill_now();
            self.tell_cut(&cut, Duration::ZERO);
            self.cut = Some(cut);
        }
    }

    fn kill_now(&mut self) {
        self.kill = None;
        self.child.signal(Signal::KILL);
    }

    fn tell_cut(&mut self, cut: &Cut, grace: Duration) {
        let (why, word) = (cut.why(), cut.word());
        self.report.tell(
            Weight::Word,
            "lost",
            || json!({"cause": word, "message": why, "grace": grace.as_secs_f64()}),
            || match grace.is_zero() {
                true => format!("{why}: the command is killed"),
                false => format!("{why}: the command is told to end, and killed after {}", human(grace)),
            },
        );
    }

    async fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::CHILD => {}
            Signal::TSTP if std::mem::take(&mut self.echo) => {}
            Signal::TSTP => {
                self.told_to_stop = true;
                self.child.signal(Signal::TSTP);
            }
            Signal::CONT => self.go_on().await,
            other => self.child.signal(other),
        }
    }

    /// The command was stopped: so are we, if somebody is there to continue us.
    fn stopped(&mut self, signal: i32) {
        if self.guard.check().is_err() {
            // The loss is about to be heard of.
            return;
        }
        let group = self.child.group();
        let stop = self.terminal.as_mut().map_or(Stop::Stay, |terminal| terminal.stopped(group, signal));
        let stop = if stop == Stop::Stay && self.told_to_stop { Stop::Follow } else { stop };
        match stop {
            Stop::Resume => self.child.signal(Signal::CONT),
            Stop::Stay => {}
            Stop::Follow => stop_ourselves(),
            Stop::FollowTogether => {
                self.echo = true;
                let _ = rustix::process::kill_current_process_group(Signal::TSTP);
                stop_ourselves();
            }
        }
    }

    /// We were continued: so is the command, if it still has its hold. Otherwise the loss is the next event.
    async fn go_on(&mut self) {
        self.told_to_stop = false;
        let (grace, slack) = self.limits.of_lease();
        let left = self.guard.remaining().map_or(VERIFY_MAX, |left| left.saturating_sub(grace + slack));
        // An engine that does not answer in time leaves the judgement to the clocks.
        let _ = tokio::time::timeout(left.min(VERIFY_MAX), self.guard.verify()).await;
        if self.guard.check().is_err() || self.cut.is_some() {
            return;
        }
        let group = self.child.group();
        if let Some(terminal) = &mut self.terminal {
            terminal.lend_again(group);
        }
        self.child.signal(Signal::CONT);
    }

    /// The leader ended. If it was told to, the rest of its group has the rest of the grace.
    async fn ended(mut self, end: End) -> Ended {
        if self.cut.is_some() {
            while self.kill.is_some() && !self.child.is_alone() {
                let lost_before = matches!(self.cut, Some(Cut::Lost(_)));
                tokio::select! {
                    biased;
                    _ = self.guard.lost(), if !lost_before => break,
                    () = rings(&mut self.kill) => break,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
            self.child.end_group().await;
        } else {
            self.child.reap();
        }
        let killed = matches!(end, End::Killed(_));
        let had_terminal = self.terminal.as_ref().is_some_and(|terminal| {
            let had_it = terminal.take_back(self.child.group());
            if killed {
                terminal.restore();
            }
            had_it
        });
        Ended { end, cut: self.cut, had_terminal }
    }
}

/// Stops this process; returns when it is continued.
fn stop_ourselves() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::STOP);
}

/// Waits until less than `margin` is left of the lease; for ever, if it cannot end.
async fn near_its_end(guard: &Guard, margin: Duration) {
    loop {
        let Some(left) = guard.remaining() else { return std::future::pending().await };
        let nap = left.saturating_sub(margin);
        if nap.is_zero() {
            return;
        }
        tokio::time::sleep(nap).await;
    }
}

async fn rings(sleep: &mut Option<Pin<Box<Sleep>>>) {
    match sleep {
        Some(sleep) => sleep.as_mut().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c101_the_grace_fits_into_the_lease_with_room_for_renewals() {
        let limits = |ttl, grace| Limits { ttl, grace, max_hold: None };
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        assert_eq!(limits(s(30), s(5)).of_lease(), (s(5), ms(100)));
        assert_eq!(limits(s(3), s(5)).of_lease(), (s(1), ms(100)));
        assert_eq!(limits(ms(60), s(5)).of_lease(), (ms(20), ms(3)));
        assert_eq!(limits(s(30), s(5)).of_max_hold(s(600)), (s(5), ms(100)));
        assert_eq!(limits(s(30), s(5)).of_max_hold(s(2)), (s(1), ms(100)));
    }
}
