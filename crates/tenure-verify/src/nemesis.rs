//! The nemesis: one schedule of faults, decided by a seed alone, so that the seed repeats it.
//!
//! Faults come in storms with calms between them, in which all is healed: what only fails while the world recovers
//! would otherwise be hidden by the next fault.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use crate::crew::Crew;
use crate::history::{Event, Fault, Micros};
use crate::referee::{Referee, now};
use crate::site::Site;

/// After how many faults there is a calm.
const STORM: u32 = 16;

/// For which part of a TTL a pause waits for the worst moment. The seed decides when it begins to wait, not whom it
/// meets.
const AIM: Micros = 5;

/// What is done to workers and servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// A worker is killed, and begun again.
    Kill,
    /// A worker is stopped, often for longer than a TTL, and continued.
    Pause,
    /// A worker cannot reach the server, or only late.
    Cut,
    /// The clock of a server steps.
    Clock,
    /// A server is killed, and started again with what is on its disk.
    Restart,
    /// A server is stopped, and continued.
    Freeze,
    /// A server forgets the scripts that it knows.
    Flush,
    /// A server has no memory for anything new.
    Memory,
    /// Another server becomes the primary; the engine in memory forgets what was written last, as if it had lagged.
    Failover,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Kill,
        Self::Pause,
        Self::Cut,
        Self::Clock,
        Self::Restart,
        Self::Freeze,
        Self::Flush,
        Self::Memory,
        Self::Failover,
    ];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Cut => "cut",
            Self::Clock => "clock",
            Self::Restart => "restart",
            Self::Freeze => "freeze",
            Self::Flush => "flush",
            Self::Memory => "memory",
            Self::Failover => "failover",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::as_str).join(", ");
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no fault that is known: use some of {known}"))
    }
}

/// One fault of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strike {
    /// How long after the one before.
    pub(crate) after: Micros,
    pub(crate) kind: Kind,
    /// Which worker, or which server.
    pub(crate) victim: usize,
    pub(crate) lasts: Micros,
    /// What else has to be decided.
    pub(crate) dice: u32,
}

/// The faults of a run, without end.
#[derive(Debug)]
pub(crate) struct Schedule {
    dice: StdRng,
    kinds: Vec<Kind>,
    workers: usize,
    ttl: Micros,
    count: u32,
}

impl Schedule {
    pub(crate) fn new(seed: u64, kinds: &[Kind], workers: usize, ttl: Micros) -> Self {
        let dice = StdRng::seed_from_u64(seed);
        Self { dice, kinds: kinds.to_vec(), workers, ttl, count: 0 }
    }
}

impl Iterator for Schedule {
    type Item = Strike;

    fn next(&mut self) -> Option<Strike> {
        if self.kinds.is_empty() {
            return None;
        }
        let (ttl, dice) = (self.ttl, &mut self.dice);
        self.count += 1;
        let calm = if self.count.is_multiple_of(STORM) { 3 * ttl } else { 0 };
        // The first kinds come first, so that a short run has all of them.
        let nth = usize::try_from(self.count - 1).unwrap_or(usize::MAX);
        // Pauses are what locks cannot prevent, and what fences are for: there are more of them.
        let pauses = self.kinds.iter().filter(|kind| **kind == Kind::Pause);
        let drawn: Vec<_> = self.kinds.iter().chain(pauses.clone()).chain(pauses).collect();
        let kind = self.kinds.get(nth).copied().unwrap_or(*drawn[dice.random_range(0..drawn.len())]);
        let short = dice.random_bool(0.25);
        let lasts = match kind {
            Kind::Kill => 0..ttl,
            Kind::Pause if short => 5_000..ttl / 4 + 5_001,
            Kind::Pause => ttl * 11 / 10..ttl * 22 / 10,
            Kind::Cut => 20_000..ttl * 3 / 2 + 20_001,
            Kind::Clock => ttl / 2..ttl * 2,
            Kind::Restart => 20_000..ttl + 20_001,
            Kind::Freeze => 20_000..ttl * 3 / 2 + 20_001,
            Kind::Flush => 0..1,
            Kind::Memory => 50_000..ttl + 50_001,
            Kind::Failover => 10_000..ttl / 2 + 10_001,
        };
        Some(Strike {
            after: calm + dice.random_range(ttl / 10..ttl / 3 + 1),
            kind,
            victim: dice.random_range(0..self.workers),
            lasts: dice.random_range(lasts),
            dice: dice.next_u32(),
        })
    }
}

/// A fault that has begun and is not healed.
#[derive(Clone, Copy, Debug)]
struct Open {
    number: u32,
    strike: Strike,
    ends: Micros,
    /// Its cause is gone, what it delayed is still on its way.
    fades: bool,
}

/// Does what the schedule says.
#[derive(Debug)]
pub(crate) struct Nemesis {
    schedule: Schedule,
    next: Option<Strike>,
    due: Micros,
    open: Vec<Open>,
    count: u32,
}

impl Nemesis {
    pub(crate) fn new(mut schedule: Schedule) -> Self {
        let next = schedule.next();
        let due = now() + next.map_or(0, |strike| strike.after);
        Self { schedule, next, due, open: Vec::new(), count: 0 }
    }

    /// Heals what has lasted, and strikes if it is time. Says for how long there is nothing to do.
    pub(crate) fn act(
        &mut self,
        crew: &mut Crew,
        site: &mut Site,
        referee: &Referee,
    ) -> Result<Duration, String> {
        let at = now();
        while let Some(due) = self.open.iter().position(|open| open.ends <= at) {
            let open = self.open.swap_remove(due);
            self.heal(open, crew, site, referee)?;
        }
        if let Some(strike) = self.next.filter(|_| self.due <= at) {
            if self.strike(strike, crew, site, referee)? {
                self.next = self.schedule.next();
                self.due += self.next.map_or(0, |next| next.after);
            } else {
                // Something else is under way there. Left out, a kind might never come in a short run.
                self.due = at + self.schedule.ttl / 10;
            }
        }
        let next =
            self.next.map(|_| self.due).into_iter().chain(self.open.iter().map(|open| open.ends)).min();
        Ok(next.map_or(Duration::from_secs(1), |next| Duration::from_micros(next.saturating_sub(now()))))
    }

    /// Heals everything.
    pub(crate) fn calm(&mut self, crew: &mut Crew, site: &mut Site, referee: &Referee) -> Result<(), String> {
        for open in std::mem::take(&mut self.open) {
            self.heal(open, crew, site, referee)?;
        }
        // What fades has no cause that could be taken away, and is waited for.
        let faded = self.open.iter().map(|open| open.ends).max().unwrap_or(0);
        while now() < faded {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        for open in std::mem::take(&mut self.open) {
            referee.hear(Event::Healed { fault: open.number });
        }
        Ok(())
    }

    /// Whether a worker is away because it was killed.
    pub(crate) fn has_killed(&self, at: usize) -> bool {
        self.open.iter().any(|open| open.strike.kind == Kind::Kill && open.strike.victim == at)
    }

    /// Begins a fault; false when another one is in its way.
    fn strike(
        &mut self,
        strike: Strike,
        crew: &mut Crew,
        site: &mut Site,
        referee: &Referee,
    ) -> Result<bool, String> {
        let strike = match strike.kind {
            Kind::Pause if strike.dice.is_multiple_of(4) => strike,
            Kind::Pause => {
                let aimed = aim(crew, referee, self.schedule.ttl / AIM);
                Strike { victim: aimed.unwrap_or(strike.victim), ..strike }
            }
            _ => strike,
        };
        let Strike { kind, victim, .. } = strike;
        let is_same = |open: &Open| open.strike.kind == kind && open.strike.victim == victim;
        let on_worker = matches!(kind, Kind::Kill | Kind::Pause | Kind::Cut);
        let down = |open: &Open| {
            let other = open.strike.kind;
            // A worker has one life, and servers one trouble at a time.
            if on_worker { other == Kind::Kill && open.strike.victim == victim } else { is_on_server(other) }
        };
        if self.open.iter().any(|open| is_same(open) || down(open)) {
            return Ok(false);
        }
        if kind == Kind::Kill && self.open.iter().any(|open| on_one(open, victim)) {
            return Ok(false);
        }
        let life = on_worker.then(|| crew.members[victim].life);
        let number = self.count;
        self.count += 1;
        let detail = site.describe(&strike);
        let forgets = site.forgets(kind);
        referee.hear(Event::Fault(Fault { fault: number, kind: kind.to_string(), life, forgets, detail }));
        match kind {
            Kind::Kill => crew.kill(victim),
            Kind::Pause => crew.pause(victim, true),
            _ => site.strike(&strike, crew)?,
        }
        self.open.push(Open { number, strike, ends: now() + strike.lasts, fades: false });
        Ok(true)
    }

    fn heal(
        &mut self,
        open: Open,
        crew: &mut Crew,
        site: &mut Site,
        referee: &Referee,
    ) -> Result<(), String> {
        let Open { number, strike, fades, .. } = open;
        if !fades {
            match strike.kind {
                Kind::Kill => {
                    crew.begin(strike.victim).map_err(|error| format!("cannot start a worker: {error}"))?
                }
                Kind::Pause => crew.pause(strike.victim, false),
                _ => site.heal(&strike, crew)?,
            }
            if let Some(fading) = site.fades(&strike) {
                self.open.push(Open { ends: now() + fading, fades: true, ..open });
                return Ok(());
            }
        }
        referee.hear(Event::Healed { fault: number });
        Ok(())
    }
}

/// Waits a little until some worker is between its check and its write, which no lock can protect.
fn aim(crew: &Crew, referee: &Referee, patience: Micros) -> Option<usize> {
    let limit = now() + patience;
    while now() < limit {
        let about_to = |at: &usize| {
            let member = &crew.members[*at];
            !member.paused && referee.is_about_to_write(member.life)
        };
        if let Some(at) = (0..crew.members.len()).find(about_to) {
            return Some(at);
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    None
}

fn is_on_server(kind: Kind) -> bool {
    !matches!(kind, Kind::Kill | Kind::Pause | Kind::Cut)
}

/// Whether a fault concerns the life of one worker.
fn on_one(open: &Open, victim: usize) -> bool {
    !is_on_server(open.strike.kind) && open.strike.victim == victim && !open.fades
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(seed: u64) -> Vec<Strike> {
        Schedule::new(seed, &Kind::ALL, 8, 2_000_000).take(200).collect()
    }

    #[test]
    fn a_seed_repeats_its_schedule_and_another_has_another() {
        assert_eq!(schedule(7), schedule(7));
        assert_ne!(schedule(7), schedule(8));
    }

    #[test]
    fn every_kind_comes_early_and_there_are_calms() {
        let strikes = schedule(1);
        assert_eq!(strikes.iter().take(9).map(|strike| strike.kind).collect::<Vec<_>>(), Kind::ALL);
        assert!(strikes.iter().any(|strike| strike.kind == Kind::Pause && strike.lasts > 2_000_000));
        assert!(strikes.iter().filter(|strike| strike.after > 6_000_000).count() >= 12);
    }

    #[test]
    fn a_kind_is_read_as_it_is_written() {
        for kind in Kind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("kil".parse::<Kind>().unwrap_err().contains("kill, pause"));
    }
}
