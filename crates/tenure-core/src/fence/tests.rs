use super::*;
use proptest::prelude::*;

fn token(number: u64) -> FencingToken {
    FencingToken::new(number).unwrap()
}

/// A value that two holders read and write, and what became of each accepted write.
struct Shared {
    gate: FenceGate,
    /// The value, as the list of the updates that it is made of.
    value: Vec<u64>,
    accepted: Vec<u64>,
}

/// One holder: it enters or not, reads, and writes its update on top of what it read.
struct Holder {
    token: FencingToken,
    steps: std::vec::IntoIter<fn(&mut Holder, &mut Shared)>,
    read: Vec<u64>,
    refused: bool,
}

impl Holder {
    fn new(number: u64, steps: &[fn(&mut Holder, &mut Shared)]) -> Self {
        Self { token: token(number), steps: Vec::from(steps).into_iter(), read: Vec::new(), refused: false }
    }

    fn enter(&mut self, shared: &mut Shared) {
        self.refused |= shared.gate.enter(self.token).is_err();
    }

    fn read(&mut self, shared: &mut Shared) {
        self.read = shared.value.clone();
    }

    fn write(&mut self, shared: &mut Shared) {
        if self.refused {
            return;
        }
        let mut value = self.read.clone();
        value.push(self.token.get());
        match shared.gate.write(self.token, || shared.value = value) {
            Ok(()) => shared.accepted.push(self.token.get()),
            Err(error) => {
                assert!(error.stale().is_some(), "{error}");
                self.refused = true;
            }
        }
    }
}

/// Runs two holders in the order given by the bits of `order`, and says whether an accepted update was lost.
fn loses_an_update(steps: &[fn(&mut Holder, &mut Shared)], order: u32) -> bool {
    let mut shared = Shared { gate: FenceGate::new(), value: Vec::new(), accepted: Vec::new() };
    let (mut a, mut b) = (Holder::new(33, steps), Holder::new(34, steps));
    for turn in 0..2 * steps.len() {
        let holder = if order >> turn & 1 == 0 { &mut a } else { &mut b };
        let step = holder.steps.next().unwrap();
        step(holder, &mut shared);
    }
    shared.accepted.iter().any(|update| !shared.value.contains(update))
}

fn orders(steps: usize) -> impl Iterator<Item = u32> {
    (0u32..1 << (2 * steps)).filter(move |order| order.count_ones() as usize == steps)
}

#[test]
fn c001_fence_in_before_reading_refuses_the_late_write_that_would_be_lost() {
    let gate = FenceGate::new();
    let mut value = 100;

    gate.enter(token(34)).unwrap();
    let read_by_b = value;
    let refused = gate.write(token(33), || value = 150).unwrap_err();
    assert_eq!(refused.stale(), Some(Stale { slot: 0, offered: token(33), mark: token(34) }));
    gate.write(token(34), || value = read_by_b + 1).unwrap();
    assert_eq!(value, 101);
}

#[test]
fn c001_a_check_at_the_write_alone_loses_the_update_of_the_late_writer() {
    let gate = FenceGate::new();
    let mut value = 100;

    let read_by_b = value;
    gate.write(token(33), || value = 150).unwrap();
    gate.write(token(34), || value = read_by_b + 1).unwrap();
    assert_eq!(value, 101, "the update to 150 was accepted, and is gone");
}

#[test]
fn c001_in_every_order_of_steps_no_update_is_lost_with_entering_and_some_without() {
    let with: [fn(&mut Holder, &mut Shared); 4] = [Holder::enter, Holder::read, Holder::write, Holder::write];
    let without: [fn(&mut Holder, &mut Shared); 2] = [Holder::read, Holder::write];
    assert!(orders(with.len()).all(|order| !loses_an_update(&with, order)));
    assert!(orders(without.len()).any(|order| loses_an_update(&without, order)));
}

#[test]
fn an_equal_token_is_accepted_again_and_a_lower_one_never() {
    let gate = FenceGate::new();
    assert_eq!(gate.mark(0).unwrap(), None);
    for _ in 0..3 {
        gate.check(token(7)).unwrap();
    }
    assert!(gate.check(token(6)).unwrap_err().stale().is_some());
    assert_eq!(gate.mark(0).unwrap(), Some(token(7)));
}

#[test]
fn an_older_permit_of_another_slot_is_not_refused() {
    let gate = FenceGate::new();
    gate.enter(Fence { slot: 3, token: token(40) }).unwrap();
    gate.enter(Fence { slot: 1, token: token(39) }).unwrap();
    assert!(gate.enter(Fence { slot: 3, token: token(39) }).unwrap_err().stale().is_some());
    assert_eq!(gate.mark(1).unwrap(), Some(token(39)));
}

#[test]
fn a_slot_over_the_limit_is_a_typed_error() {
    let gate = FenceGate::new();
    let last = Fence { slot: FenceGate::SLOTS_MAX - 1, token: token(1) };
    gate.enter(last).unwrap();
    let error = gate.enter(Fence { slot: FenceGate::SLOTS_MAX, ..last }).unwrap_err();
    assert_eq!(error.trouble().map(FenceTrouble::kind), Some(FenceTroubleKind::SlotLimit));
    assert!(gate.mark(u32::MAX).is_err());
}

#[test]
fn a_panic_inside_a_write_opens_the_gate_and_keeps_the_mark() {
    let gate = FenceGate::new();
    let panicking = gate.clone();
    std::thread::spawn(move || panicking.write(token(9), || panic!("on purpose"))).join().unwrap_err();
    assert!(gate.check(token(8)).unwrap_err().stale().is_some());
    gate.check(token(9)).unwrap();
}

#[test]
fn a_newer_holder_enters_only_after_the_passage_has_ended() {
    let gate = FenceGate::new();
    let passage = gate.pass(token(1)).unwrap();
    let written = Arc::new(Mutex::new(false));
    let newer = std::thread::spawn({
        let (gate, written) = (gate.clone(), Arc::clone(&written));
        move || gate.write(token(2), || *written.lock().unwrap()).unwrap()
    });
    // The passage goes to a third thread, which writes and ends it.
    std::thread::spawn({
        let written = Arc::clone(&written);
        move || {
            *written.lock().unwrap() = true;
            drop(passage);
        }
    });
    assert!(newer.join().unwrap(), "the newer holder saw the write of the older one");
}

#[test]
fn gates_and_passages_can_be_sent() {
    fn sent<T: Send + 'static>() {}
    fn shared<T: Send + Sync + 'static>() {}
    sent::<Passage>();
    shared::<FenceGate>();
    shared::<FenceError>();
}

proptest! {
    #[test]
    fn marks_never_fall_and_a_stale_token_is_always_refused(
        offers in prop::collection::vec((0u32..3, 1u64..20), 0..60),
    ) {
        let gate = FenceGate::new();
        let mut marks = [0u64; 3];
        for (slot, number) in offers {
            let mark = &mut marks[slot as usize];
            match gate.check(Fence { slot, token: token(number) }) {
                Ok(()) => prop_assert!(number >= *mark),
                Err(error) => {
                    let stale = Stale { slot, offered: token(number), mark: token(*mark) };
                    prop_assert!(number < *mark);
                    prop_assert_eq!(error.stale(), Some(stale));
                }
            }
            *mark = number.max(*mark);
            prop_assert_eq!(gate.mark(slot).unwrap(), Some(token(*mark)));
        }
    }
}
