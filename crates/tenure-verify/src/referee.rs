//! The referee: the only clock, the journal, and the resources that the locks are there for.
//!
//! For each key there is a register that checks fencing tokens and one that does not. Both are written by whoever
//! believes to hold the key, so the second shows what the first prevents.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tenure_core::lease::{Clock, SystemClock};

use crate::history::{Act, Event, Header, Life, Micros, Op, Record, write_line};

/// What the referee answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The number of the wish that was announced.
    pub(crate) op: Op,
    /// Whether the resource let the holder in.
    pub(crate) accepted: bool,
    /// The value of the resource that checks tokens.
    pub(crate) value: u64,
    /// The value of the one that does not.
    pub(crate) plain: u64,
    /// No more wishes, please.
    pub(crate) stop: bool,
}

/// How a run goes, for those who watch.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Live {
    /// Wishes granted so far.
    pub grants: u64,
    /// Faults begun so far.
    pub faults: u64,
    /// Holds lost so far.
    pub losses: u64,
    /// Stale writes refused so far.
    pub refused: u64,
    /// How often somebody acted after the end of its hold.
    pub exposures: u64,
}

/// Hears everything, stamps it, writes it down, and lets holders read and write.
pub(crate) struct Referee {
    state: Mutex<State>,
    stop: AtomicBool,
}

struct State {
    journal: Box<dyn Write + Send>,
    trouble: Option<io::Error>,
    last: Micros,
    ops: Op,
    /// The wishes under way.
    wishes: HashMap<Op, Wish>,
    registers: HashMap<(usize, u32), Register>,
    live: Live,
}

/// A wish under way.
#[derive(Clone, Copy)]
struct Wish {
    life: Life,
    /// Its resource: a key, and a permit.
    resource: (usize, u32),
    /// It is about to write.
    checked: bool,
}

#[derive(Clone, Copy, Default)]
struct Register {
    mark: u64,
    value: u64,
    plain: u64,
}

impl std::fmt::Debug for Referee {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Referee").finish_non_exhaustive()
    }
}

/// The clock of all histories: the boot clock, which every process of this machine reads alike.
pub(crate) fn now() -> Micros {
    SystemClock.now().boot_micros()
}

impl Referee {
    pub(crate) fn new(header: &Header, mut journal: impl Write + Send + 'static) -> io::Result<Self> {
        write_line(&mut journal, header)?;
        let state = State {
            journal: Box::new(journal),
            trouble: None,
            last: 0,
            ops: 0,
            wishes: HashMap::new(),
            registers: HashMap::new(),
            live: Live::default(),
        };
        Ok(Self { state: Mutex::new(state), stop: AtomicBool::new(false) })
    }

    /// Hears of something: stamps it, writes it down, and answers.
    pub(crate) fn hear(&self, mut event: Event) -> Answer {
        let stop = self.stop.load(Ordering::Relaxed);
        let mut state = self.state();
        // The clock is read under the lock: the order of lines is that of stamps.
        let at = now().max(state.last);
        state.last = at;
        let mut answer = state.answer(at, &mut event);
        if let Err(error) = write_line(&mut state.journal, &Record(at, event)) {
            state.trouble.get_or_insert(error);
        }
        answer.stop = stop;
        answer
    }

    /// Tells everybody who asks next that the run is over.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether a life has just checked its hold and is about to write: the worst moment to stop it.
    pub(crate) fn is_about_to_write(&self, life: Life) -> bool {
        self.state().wishes.values().any(|wish| wish.life == life && wish.checked)
    }

    pub(crate) fn live(&self) -> Live {
        self.state().live
    }

    /// Makes sure that all is written.
    pub(crate) fn finish(&self) -> io::Result<()> {
        let mut state = self.state();
        match state.trouble.take() {
            Some(error) => Err(error),
            None => state.journal.flush(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn answer(&mut self, at: Micros, event: &mut Event) -> Answer {
        let nothing = Answer::default();
        match event {
            Event::Ask(ask) => {
                self.ops += 1;
                ask.op = self.ops;
                let wish = Wish { life: ask.life, resource: (ask.key, 0), checked: false };
                self.wishes.insert(ask.op, wish);
                Answer { op: ask.op, ..nothing }
            }
            Event::Got(got) => {
                self.live.grants += 1;
                if let Some(wish) = self.wishes.get_mut(&got.op) {
                    wish.resource.1 = got.slot;
                }
                nothing
            }
            Event::Read { op } => {
                let register = self.register(*op);
                Answer { accepted: true, value: register.value, plain: register.plain, ..nothing }
            }
            Event::Enter(act) => {
                let register = self.register(act.op);
                act.accepted = act.token >= register.mark;
                if act.accepted {
                    register.mark = act.token;
                }
                (act.value, act.plain) = (register.value, register.plain);
                self.count(at, act);
                Answer { accepted: act.accepted, value: act.value, plain: act.plain, ..nothing }
            }
            Event::Checked { op } => {
                self.check(*op, true);
                nothing
            }
            Event::Write(act) => {
                self.check(act.op, false);
                let register = self.register(act.op);
                act.accepted = act.token >= register.mark;
                if act.accepted {
                    (register.mark, register.value) = (act.token, act.value + 1);
                }
                register.plain = act.plain + 1;
                self.count(at, act);
                Answer { accepted: act.accepted, ..nothing }
            }
            Event::Lost { .. } => {
                self.live.losses += 1;
                nothing
            }
            Event::Fault(_) => {
                self.live.faults += 1;
                nothing
            }
            Event::Released { op, .. }
            | Event::Missed { op }
            | Event::Quit { op }
            | Event::Failed { op, .. } => {
                self.wishes.remove(op);
                nothing
            }
            _ => nothing,
        }
    }

    fn check(&mut self, op: Op, checked: bool) {
        if let Some(wish) = self.wishes.get_mut(&op) {
            wish.checked = checked;
        }
    }

    fn register(&mut self, op: Op) -> &mut Register {
        let resource = self.wishes.get(&op).map_or((0, 0), |wish| wish.resource);
        self.registers.entry(resource).or_default()
    }

    fn count(&mut self, at: Micros, act: &Act) {
        self.live.exposures += u64::from(act.until.is_some_and(|until| until <= at));
        self.live.refused += u64::from(!act.accepted);
    }
}
