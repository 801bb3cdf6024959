//! Histories of a lock that does everything right, made by dice.
#![allow(unreachable_pub, reason = "a part of tests")]

use std::num::NonZeroU32;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_core::engine::line;
use tenure_core::{ClaimId, Mode};
use tenure_verify::history::{
    Act, Ask, Event, Fault, Got, Header, History, KeyKind, KeyPlan, Micros, Promises, Record, Release,
};

pub const TTL: Micros = 1_000_000;

#[derive(Clone, Copy, PartialEq)]
enum State {
    Idle,
    Waits,
    Holds(u8),
}

struct Worker {
    state: State,
    op: u64,
    key: usize,
    slot: u32,
    token: u64,
    read: (u64, u64),
}

struct Place {
    worker: usize,
    mode: Mode,
    granted: bool,
}

/// A lock, its workers and their referee, all of them sound.
pub struct World {
    dice: StdRng,
    now: Micros,
    ops: u64,
    token: u64,
    workers: Vec<Worker>,
    lines: Vec<Vec<Place>>,
    registers: Vec<Vec<(u64, u64)>>,
    history: History,
}

fn claim(op: u64) -> ClaimId {
    ClaimId::from_bits(u128::from(op))
}

impl World {
    pub fn new(seed: u64, workers: usize) -> Self {
        let kinds = [KeyKind::Mutex, KeyKind::File, KeyKind::Seats(2)];
        let keys = kinds.iter().enumerate().map(|(n, kind)| KeyPlan { name: format!("k{n}"), kind: *kind });
        let promises = Promises { arrival: true, lease: true, claim_window: 500_000, refresh_every: 200_000 };
        let header = Header {
            tenure_history: 1,
            program: "test".into(),
            engine: "test".into(),
            server: None,
            nemesis: vec![],
            seed,
            workers: workers as u32,
            ttl: TTL,
            promises,
            keys: keys.collect(),
        };
        let idle = || Worker { state: State::Idle, op: 0, key: 0, slot: 0, token: 0, read: (0, 0) };
        let mut world = Self {
            dice: StdRng::seed_from_u64(seed),
            now: 1_000_000,
            ops: 0,
            token: 100,
            workers: (0..workers).map(|_| idle()).collect(),
            lines: vec![vec![], vec![], vec![]],
            registers: vec![vec![(0, 0); 3], vec![(0, 0); 3], vec![(0, 0); 3]],
            history: History { header, records: vec![] },
        };
        for life in 0..workers as u32 {
            world.say(Event::Born { life, worker: life });
        }
        world
    }

    fn say(&mut self, event: Event) {
        self.now += self.dice.random_range(1..50);
        self.history.records.push(Record(self.now, event));
    }

    /// Until when a hold is valid that is renewed all the time.
    fn until(&self) -> Option<Micros> {
        Some(self.now + TTL)
    }

    fn act(&self, worker: usize, value: u64, plain: u64) -> Act {
        let Worker { op, token, .. } = self.workers[worker];
        Act { op, token, until: self.until(), accepted: true, value, plain }
    }

    fn step(&mut self) {
        let worker = self.dice.random_range(0..self.workers.len());
        self.now += self.dice.random_range(1..3_000);
        match self.workers[worker].state {
            State::Idle => self.ask(worker),
            State::Waits if self.dice.random_bool(0.05) => self.quit(worker),
            State::Waits => {}
            State::Holds(0) => {
                let Worker { key, slot, .. } = self.workers[worker];
                let read = self.registers[key][slot as usize];
                self.workers[worker].read = read;
                let act = self.act(worker, read.0, read.1);
                self.say(Event::Enter(act));
                self.workers[worker].state = State::Holds(1);
            }
            State::Holds(1) => {
                let Worker { key, slot, read, .. } = self.workers[worker];
                let act = self.act(worker, read.0, read.1);
                self.registers[key][slot as usize] = (read.0 + 1, read.1 + 1);
                self.say(Event::Write(act));
                self.workers[worker].state = State::Holds(2);
            }
            State::Holds(_) => self.leave(worker),
        }
    }

    fn ask(&mut self, worker: usize) {
        let key = self.dice.random_range(0..3);
        let mode = match key {
            0 => Mode::Exclusive,
            1 if self.dice.random_bool(0.5) => Mode::Exclusive,
            1 => Mode::Shared,
            _ => Mode::Permit { limit: NonZeroU32::new(2).unwrap() },
        };
        self.ops += 1;
        let op = self.ops;
        let life = worker as u32;
        self.say(Event::Ask(Ask { op, life, key, mode, waits: true, alone: true, max_hold: None }));
        self.workers[worker] = Worker { state: State::Waits, op, key, slot: 0, token: 0, read: (0, 0) };
        self.lines[key].push(Place { worker, mode, granted: false });
        if !self.promote(key) {
            self.say(Event::Joined { life, claim: claim(op) });
        }
    }

    /// Grants whom the rule of the line grants; says whether the last of the line is among them.
    fn promote(&mut self, key: usize) -> bool {
        let granted = line::granted(self.lines[key].iter().map(|place| place.mode));
        for at in 0..granted {
            if self.lines[key][at].granted {
                continue;
            }
            let taken: Vec<_> = self.lines[key][..granted]
                .iter()
                .filter(|place| place.granted)
                .map(|place| self.workers[place.worker].slot)
                .collect();
            let Place { worker, mode, .. } = self.lines[key][at];
            let slot =
                if mode.limit().is_some() { (0..).find(|slot| !taken.contains(slot)).unwrap() } else { 0 };
            self.lines[key][at].granted = true;
            self.token += self.dice.random_range(1..5);
            let writes = mode != Mode::Shared;
            let it = &mut self.workers[worker];
            (it.state, it.slot, it.token) = (State::Holds(if writes { 0 } else { 2 }), slot, self.token);
            let (op, token, until) = (it.op, self.token, self.until());
            self.say(Event::Got(Got { op, claim: claim(op), token, slot, until }));
        }
        granted == self.lines[key].len()
    }

    fn quit(&mut self, worker: usize) {
        let Worker { op, key, .. } = self.workers[worker];
        self.say(Event::Quit { op });
        self.out(worker, key);
        self.say(Event::Withdrawn { life: worker as u32, claim: claim(op) });
    }

    fn leave(&mut self, worker: usize) {
        let Worker { op, key, .. } = self.workers[worker];
        self.say(Event::Leave { op, until: self.until() });
        self.say(Event::Released { op, how: Release::Cleanly });
        self.say(Event::Withdrawn { life: worker as u32, claim: claim(op) });
        self.out(worker, key);
    }

    fn out(&mut self, worker: usize, key: usize) {
        self.workers[worker].state = State::Idle;
        self.lines[key].retain(|place| place.worker != worker);
        self.promote(key);
        if self.dice.random_bool(0.1) {
            let places = self.lines[key].iter();
            let places = places
                .map(|place| (claim(self.workers[place.worker].op), place.granted, Some(TTL + 1_000)))
                .collect();
            self.say(Event::Line { key, asked: self.now, places });
        }
    }
}

/// A history of about so many wishes, without a fault.
pub fn history(seed: u64, workers: usize, wishes: u64) -> History {
    let mut world = World::new(seed, workers);
    while world.ops < wishes {
        world.step();
    }
    for worker in 0..workers {
        // Who waits is let go first, so that nobody is granted any more.
        if world.workers[worker].state == State::Waits {
            let key = world.workers[worker].key;
            let promoted = world.workers[worker].op;
            world.say(Event::Quit { op: promoted });
            world.workers[worker].state = State::Idle;
            world.lines[key].retain(|place| place.worker != worker);
        }
    }
    for worker in 0..workers {
        if matches!(world.workers[worker].state, State::Holds(_)) {
            world.leave(worker);
        }
    }
    world.say(Event::Calm {});
    for life in 0..workers as u32 {
        world.say(Event::Dead { life });
    }
    world.say(Event::Left { keys: vec![] });
    world.history
}

/// A fault that hits one life, or all.
#[allow(dead_code, reason = "not all who make histories plant faults")]
pub fn fault(number: u32, kind: &str, life: Option<u32>) -> Event {
    Event::Fault(Fault { fault: number, kind: kind.into(), life, forgets: false, detail: String::new() })
}
