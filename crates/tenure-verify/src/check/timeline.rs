//! A history, put in order: who wished and held what, and when something was wrong with the world.

use std::collections::HashMap;

use tenure_core::{ClaimId, Mode};

use crate::history::{Act, Event, Fault, Got, History, Life, Micros, Op, Release};

/// Later than anything.
pub(super) const NEVER: Micros = Micros::MAX;

/// One wish, from asking to its end.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) op: Op,
    pub(super) life: Life,
    pub(super) key: usize,
    pub(super) mode: Mode,
    pub(super) waits: bool,
    pub(super) alone: bool,
    pub(super) asked: Micros,
    /// When the waiting ended without a grant.
    pub(super) gave_up: Option<Micros>,
    pub(super) hold: Option<Hold>,
}

/// What a wish held.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    pub(super) got: Micros,
    pub(super) claim: ClaimId,
    pub(super) token: u64,
    pub(super) slot: u32,
    /// The last that its holder said of its deadline.
    pub(super) until: Option<Micros>,
    pub(super) lost: Option<Lost>,
    /// When the holder stopped acting, before it gave the hold up.
    pub(super) left: Option<Micros>,
    pub(super) released: Option<(Micros, Release)>,
    /// When the holder's process ended, if that came first.
    pub(super) died: Option<Micros>,
}

#[derive(Clone, Debug)]
pub(super) struct Lost {
    pub(super) cause: String,
    pub(super) heard: Micros,
    pub(super) told: Micros,
    pub(super) until: Option<Micros>,
}

impl Hold {
    /// Until when the hold was certainly believed to be valid.
    pub(super) fn valid_until(&self) -> Micros {
        let lost = self.lost.as_ref().map(|lost| lost.told.min(lost.heard));
        let ends = [self.until, self.left, self.died, lost];
        ends.into_iter().flatten().min().unwrap_or(NEVER)
    }

    /// When whoever held it stopped having anything to do with it.
    pub(super) fn ended(&self) -> Micros {
        self.left.or(self.died).unwrap_or(NEVER)
    }
}

/// A time in which something was wrong.
#[derive(Clone, Debug)]
pub(super) struct Spell {
    pub(super) from: Micros,
    pub(super) to: Micros,
    pub(super) fault: Fault,
}

/// Times that do not overlap, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Spans(Vec<(Micros, Micros)>);

impl Spans {
    pub(super) fn new(mut spans: Vec<(Micros, Micros)>) -> Self {
        spans.sort_unstable();
        let mut merged: Vec<(Micros, Micros)> = Vec::new();
        for (from, to) in spans {
            match merged.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        Self(merged)
    }

    /// Those that touch a time, cut to it.
    pub(super) fn within(&self, from: Micros, to: Micros) -> impl Iterator<Item = (Micros, Micros)> {
        let first = self.0.partition_point(|span| span.1 < from);
        let touching = self.0[first..].iter().take_while(move |span| span.0 <= to);
        touching.map(move |span| (span.0.max(from), span.1.min(to)))
    }

    /// How much of a time they cover.
    pub(super) fn overlap(&self, from: Micros, to: Micros) -> Micros {
        self.within(from, to).map(|(from, to)| to.saturating_sub(from)).sum()
    }

    pub(super) fn touches(&self, from: Micros, to: Micros) -> bool {
        self.within(from, to).next().is_some()
    }

    /// The longest of those that touch a time, not cut.
    pub(super) fn longest(&self, from: Micros, to: Micros) -> Micros {
        let first = self.0.partition_point(|span| span.1 < from);
        let touching = self.0[first..].iter().take_while(|span| span.0 <= to);
        touching.map(|span| span.1 - span.0).max().unwrap_or(0)
    }
}

/// A history, put in order.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    pub(super) wishes: Vec<Wish>,
    pub(super) spells: Vec<Spell>,
    /// What is wrong with everybody's world: faults that hit all.
    pub(super) everybody: Spans,
    /// What is wrong with one life's world: its own pauses and cuts, and when it wanted to run and did not.
    pub(super) lives: HashMap<Life, Spans>,
    /// When the referee wanted to run and did not: the whole machine is busy.
    pub(super) starved: Spans,
    /// Times in which the engine may have forgotten something.
    pub(super) forgot: Spans,
    pub(super) joined: HashMap<ClaimId, Micros>,
    pub(super) withdrawn: HashMap<ClaimId, Micros>,
    pub(super) acts: Vec<Acted>,
    pub(super) died: HashMap<Life, Micros>,
    pub(super) calm: Option<Micros>,
    pub(super) first: Micros,
    pub(super) last: Micros,
}

/// Something done to a resource.
#[derive(Clone, Debug)]
pub(super) struct Acted {
    pub(super) at: Micros,
    pub(super) wish: usize,
    pub(super) writes: bool,
    pub(super) act: Act,
}

/// What is put together while a history is read.
#[derive(Default)]
struct Reader {
    timeline: Timeline,
    index: HashMap<Op, usize>,
    open: HashMap<u32, (Micros, Fault)>,
    starved: Vec<(Micros, Micros)>,
    lives: HashMap<Life, Vec<(Micros, Micros)>>,
}

impl Timeline {
    pub(super) fn of(history: &History) -> Self {
        let mut reader = Reader::default();
        reader.timeline.first = history.records.first().map_or(0, |record| record.0);
        for record in &history.records {
            reader.take(record.0, &record.1);
            reader.timeline.last = record.0;
        }
        reader.finish()
    }

    /// How much of a time something was wrong that concerns a life.
    pub(super) fn trouble(&self, life: Life, from: Micros, to: Micros) -> Micros {
        let own = self.lives.get(&life).map_or(0, |spans| spans.overlap(from, to));
        own + self.everybody.overlap(from, to) + self.starved.overlap(from, to)
    }

    /// Whether anything was wrong in a time that concerns a life, the machine being busy aside.
    pub(super) fn faulty(&self, life: Life, from: Micros, to: Micros) -> bool {
        let own = self.lives.get(&life).is_some_and(|spans| spans.touches(from, to));
        own || self.everybody.touches(from, to)
    }
}

impl Reader {
    fn take(&mut self, at: Micros, event: &Event) {
        let timeline = &mut self.timeline;
        match event {
            Event::Ask(ask) => {
                self.index.insert(ask.op, timeline.wishes.len());
                timeline.wishes.push(Wish {
                    op: ask.op,
                    life: ask.life,
                    key: ask.key,
                    mode: ask.mode,
                    waits: ask.waits,
                    alone: ask.alone,
                    asked: at,
                    gave_up: None,
                    hold: None,
                });
            }
            Event::Joined { claim, .. } => {
                timeline.joined.entry(*claim).or_insert(at);
            }
            Event::Withdrawn { claim, .. } => {
                timeline.withdrawn.entry(*claim).or_insert(at);
            }
            Event::Got(got) => {
                if let Some(wish) = self.wish(got.op) {
                    wish.hold = Some(Hold::begun(at, got));
                }
            }
            Event::Missed { op } | Event::Quit { op } | Event::Failed { op, .. } => {
                if let Some(wish) = self.wish(*op) {
                    wish.gave_up = Some(at);
                }
            }
            Event::Enter(act) => self.act(at, false, act),
            Event::Write(act) => self.act(at, true, act),
            Event::Lost { op, cause, until, told } => {
                if let Some(hold) = self.hold(*op) {
                    hold.until = until.or(hold.until);
                    hold.lost = Some(Lost { cause: cause.clone(), heard: at, told: *told, until: *until });
                }
            }
            Event::Leave { op, until } => {
                if let Some(hold) = self.hold(*op) {
                    hold.until = until.or(hold.until);
                    hold.left = Some(at);
                }
            }
            Event::Released { op, how } => {
                if let Some(hold) = self.hold(*op) {
                    hold.released = Some((at, *how));
                }
            }
            Event::Starved { life: None, from } => self.starved.push((*from, at)),
            Event::Starved { life: Some(life), from } => {
                self.lives.entry(*life).or_default().push((*from, at));
            }
            Event::Fault(fault) => {
                self.open.insert(fault.fault, (at, fault.clone()));
            }
            Event::Healed { fault } => {
                if let Some((from, fault)) = self.open.remove(fault) {
                    timeline.spells.push(Spell { from, to: at, fault });
                }
            }
            Event::Dead { life } => {
                timeline.died.insert(*life, at);
            }
            Event::Calm {} => timeline.calm = Some(at),
            Event::Born { .. }
            | Event::Read { .. }
            | Event::Checked { .. }
            | Event::Line { .. }
            | Event::Undone { .. }
            | Event::Left { .. } => {}
        }
    }

    fn wish(&mut self, op: Op) -> Option<&mut Wish> {
        self.index.get(&op).map(|at| &mut self.timeline.wishes[*at])
    }

    fn hold(&mut self, op: Op) -> Option<&mut Hold> {
        self.wish(op)?.hold.as_mut()
    }

    fn act(&mut self, at: Micros, writes: bool, act: &Act) {
        let Some(wish) = self.index.get(&act.op).copied() else { return };
        if let Some(hold) = self.timeline.wishes[wish].hold.as_mut() {
            hold.until = act.until.or(hold.until);
        }
        self.timeline.acts.push(Acted { at, wish, writes, act: act.clone() });
    }

    fn finish(mut self) -> Timeline {
        let end = self.timeline.last;
        let open = self.open.into_values();
        self.timeline.spells.extend(open.map(|(from, fault)| Spell { from, to: end, fault }));
        self.timeline.spells.sort_by_key(|spell| spell.from);
        let (mut all, mut forgot) = (Vec::new(), Vec::new());
        let mut lives = self.lives;
        let mut killed = HashMap::new();
        for Spell { from, to, fault } in &self.timeline.spells {
            match fault.life {
                // A life that is killed has no world any more, but ends at the latest here.
                Some(life) if fault.kind == "kill" => drop(killed.insert(life, *from)),
                Some(life) => lives.entry(life).or_default().push((*from, *to)),
                None => all.push((*from, *to)),
            }
            if fault.forgets {
                forgot.push((*from, *to));
            }
        }
        for wish in &mut self.timeline.wishes {
            // It may die at any moment after it was decided to kill it.
            let died = killed.get(&wish.life).or_else(|| self.timeline.died.get(&wish.life)).copied();
            if let Some(died) = died {
                match &mut wish.hold {
                    None if wish.gave_up.is_none() => wish.gave_up = Some(died),
                    Some(hold) if hold.left.is_none() => hold.died = Some(died),
                    _ => {}
                }
            }
        }
        self.timeline.everybody = Spans::new(all);
        self.timeline.forgot = Spans::new(forgot);
        self.timeline.starved = Spans::new(self.starved);
        self.timeline.lives = lives.into_iter().map(|(life, spans)| (life, Spans::new(spans))).collect();
        self.timeline
    }
}

impl Hold {
    fn begun(at: Micros, got: &Got) -> Self {
        Self {
            got: at,
            claim: got.claim,
            token: got.token,
            slot: got.slot,
            until: got.until,
            lost: None,
            left: None,
            released: None,
            died: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_merge_and_are_measured_where_they_overlap() {
        let spans = Spans::new(vec![(10, 20), (15, 30), (50, 60)]);
        assert_eq!(spans.overlap(0, 100), 30);
        assert_eq!(spans.overlap(25, 55), 10);
        assert!(spans.touches(30, 40) && !spans.touches(31, 49));
        assert_eq!(spans.longest(0, 100), 20);
    }
}
