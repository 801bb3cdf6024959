//! What the faces promise: mutual exclusion, readers and writers, permits, several locks, order and handover.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;
use tenure_core::engine::PlaceView;
use tenure_core::event::{Event, Via, What};
use tenure_core::{
    ErrorKind, Fairness, FencingToken, Guard, Identity, Lock, Options, Outcome, OutcomeAll, Released, Tenure,
    blocking,
};
use tokio::task::JoinSet;

use super::cases;
use crate::site::Site;
use crate::stage::Stage;
use crate::tools::{eventually, in_time};

cases![
    a_mutex_has_one_holder_and_rising_tokens,
    a_wait_of_zero_tiny_or_huge_is_a_wait_c113,
    a_wait_that_ends_leaves_the_line_c113,
    readers_share_and_a_writer_is_alone,
    a_writer_is_not_starved_by_readers_c110[Arrival],
    a_semaphore_never_exceeds_its_limit_c111[Permits],
    a_different_limit_is_refused_with_the_stored_one[Permits],
    invalid_terms_are_typed_errors_c021_c114,
    lock_all_is_all_or_nothing_c112,
    lock_all_with_crossing_orders_does_not_deadlock_c112,
    waiters_of_several_clients_are_granted_in_order_of_arrival[Arrival],
    strict_fifo_keeps_the_order_inside_a_client_too[Arrival],
    a_handover_is_bounded_while_others_wait_and_has_tokens_of_its_own[Arrival],
    two_clients_with_many_tasks_never_overlap_c115,
    many_keys_at_once,
    the_blocking_api_does_the_same,
];

async fn a_mutex_has_one_holder_and_rising_tokens<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.tenure().await, stage.tenure().await);
    let mut last = None;
    for round in 0..20 {
        let (mine, other) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let guard = mine.lock(stage.name("k")).acquire().await.unwrap();
        assert!(Some(guard.token()) > last);
        last = Some(guard.token());
        assert!(guard.is_held());
        assert_eq!(guard.key().as_str(), stage.name("k"));
        assert!(other.lock(stage.name("k")).try_acquire().await.unwrap().is_busy());
        assert!(mine.lock(stage.name("k")).try_acquire().await.unwrap().is_busy());
        let places = stage.places("k").await;
        assert_eq!(places.iter().map(|place| place.claim).collect::<Vec<_>>(), [guard.claim()]);
        assert_eq!(guard.release().await.unwrap(), Released::Cleanly);
        assert!(stage.places("k").await.is_empty());
    }
}

async fn a_wait_of_zero_tiny_or_huge_is_a_wait_c113<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.tenure().await, stage.tenure().await);
    // A short wait is long enough for an answer, however busy the machine.
    let waits = [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(1), Duration::MAX];
    for patience in waits {
        let mut free = None;
        // A wait may be over before an engine has answered that is far away or busy; but not again and again.
        eventually("a free key is to be had", async || {
            free = one.lock(stage.name("k")).wait_for(patience).await.unwrap().guard();
            free.is_some()
        })
        .await;
        let guard = free.unwrap();
        if patience != Duration::MAX {
            let busy =
                in_time("a short wait ends", two.lock(stage.name("k")).wait_for(patience)).await.unwrap();
            assert!(busy.is_busy());
            assert!(guard.is_held());
            // Whoever gave up is withdrawn in the background, or it would be offered the key first.
            stage.until_places("k", 1).await;
            guard.release().await.unwrap();
        } else {
            let lock = two.lock(stage.name("k"));
            let waiter = tokio::spawn(async move { lock.wait_for(Duration::MAX).await });
            stage.until_places("k", 2).await;
            guard.release().await.unwrap();
            let guard =
                in_time("a wait without end is granted", waiter).await.unwrap().unwrap().guard().unwrap();
            guard.release().await.unwrap();
        }
    }
}

async fn a_wait_that_ends_leaves_the_line_c113<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.tenure().await, stage.tenure().await);
    let guard = one.lock(stage.name("k")).acquire().await.unwrap();
    let mut waits = JoinSet::new();
    for n in 0..6 {
        let (lock, patience) = (two.lock(stage.name("k")), Duration::from_millis(20 + n * 15));
        let lock = if n % 2 == 0 { lock } else { lock.fairness(Fairness::StrictFifo) };
        waits.spawn(async move { lock.wait_for(patience).await.unwrap() });
    }
    while let Some(outcome) = in_time("the waits end", waits.join_next()).await {
        assert!(outcome.unwrap().is_busy());
    }
    stage.until_places("k", 1).await;
    assert!(guard.is_held());
    guard.release().await.unwrap();
}

async fn readers_share_and_a_writer_is_alone<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.tenure().await, stage.tenure().await);
    let (here, there) = (one.rw_lock(stage.name("k")), two.rw_lock(stage.name("k")));
    let first = here.read().acquire().await.unwrap();
    let second = there.read().try_acquire().await.unwrap().guard().expect("readers share");
    let third = here.read().try_acquire().await.unwrap().guard().expect("readers of one client share");
    assert!(second.token() > first.token() && third.token() > second.token());
    assert!(there.write().try_acquire().await.unwrap().is_busy());
    first.release().await.unwrap();
    second.release().await.unwrap();
    assert!(there.write().try_acquire().await.unwrap().is_busy());
    third.release().await.unwrap();
    let writer = there.write().try_acquire().await.unwrap().guard().expect("a writer alone");
    assert!(here.read().try_acquire().await.unwrap().is_busy());
    assert!(here.write().try_acquire().await.unwrap().is_busy());
    writer.release().await.unwrap();
}

async fn a_writer_is_not_starved_by_readers_c110<S: Site>(stage: &Stage<S>) {
    const READERS: usize = 8;
    let clients = [stage.tenure().await, stage.tenure().await];
    let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut readers = JoinSet::new();
    for n in 0..READERS {
        let (lock, stop, reads) =
            (clients[n % 2].rw_lock(stage.name("k")).read(), Arc::clone(&stop), Arc::clone(&reads));
        readers.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let guard = lock.acquire().await.unwrap();
                reads.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(2)).await;
                guard.release().await.unwrap();
            }
        });
    }
    eventually("the readers read", async || reads.load(Ordering::SeqCst) > 20).await;
    let writer = stage.tenure().await.rw_lock(stage.name("k")).write();
    let granted =
        tokio::spawn(async move { in_time("the writer is granted", writer.acquire()).await.unwrap() });
    let writes = |mode| mode == tenure_core::Mode::Exclusive;
    eventually("the writer is in the line", async || {
        granted.is_finished() || stage.places("k").await.iter().any(|place| writes(place.mode))
    })
    .await;
    let seen = reads.load(Ordering::SeqCst);
    let writer = granted.await.unwrap();
    let during = reads.load(Ordering::SeqCst);
    // Those who were before it in the line, and nobody who came after.
    assert!(during - seen <= READERS as u64, "{} readers overtook the writer", during - seen);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(reads.load(Ordering::SeqCst), during, "somebody reads beside the writer");
    writer.release().await.unwrap();
    eventually("the readers go on", async || reads.load(Ordering::SeqCst) > during).await;
    stop.store(true, Ordering::SeqCst);
    while let Some(reader) = in_time("the readers end", readers.join_next()).await {
        reader.unwrap();
    }
}

async fn a_semaphore_never_exceeds_its_limit_c111<S: Site>(stage: &Stage<S>) {
    const LIMIT: u32 = 3;
    let clients = [stage.tenure().await, stage.tenure().await];
    let inside = Arc::new(AtomicI64::new(0));
    let slots = Arc::new(Mutex::new(BTreeSet::new()));
    let mut tasks = JoinSet::new();
    for n in 0..12 {
        let semaphore = clients[n % 2].semaphore(stage.name("k"), LIMIT);
        let (inside, slots) = (Arc::clone(&inside), Arc::clone(&slots));
        tasks.spawn(async move {
            for _ in 0..8 {
                let guard = semaphore.acquire().await.unwrap();
                assert!(
                    inside.fetch_add(1, Ordering::SeqCst) < i64::from(LIMIT),
                    "more holders than permits"
                );
                assert!(guard.slot() < LIMIT);
                assert!(slots.lock().unwrap().insert(guard.slot()), "two holders have one slot");
                tokio::time::sleep(Duration::from_millis(1)).await;
                assert!(guard.is_held());
                slots.lock().unwrap().remove(&guard.slot());
                inside.fetch_sub(1, Ordering::SeqCst);
                if n % 3 == 0 {
                    drop(guard)
                } else {
                    assert_eq!(guard.release().await.unwrap(), Released::Cleanly)
                }
            }
        });
    }
    while let Some(task) = in_time("the permits go round", tasks.join_next()).await {
        task.unwrap();
    }
}

async fn a_different_limit_is_refused_with_the_stored_one<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.tenure().await, stage.tenure().await);
    let guard = one.semaphore(stage.name("k"), 5).acquire().await.unwrap();
    for limit in [4, 6] {
        let error = two.semaphore(stage.name("k"), limit).acquire().await.expect_err("another limit");
        assert!(
            matches!(error.kind(), ErrorKind::LimitMismatch { stored } if stored.get() == 5),
            "{error:?}"
        );
        assert!(error.to_string().contains('5') && error.to_string().contains(&stage.name("k")), "{error}");
    }
    guard.release().await.unwrap();
    two.semaphore(stage.name("k"), 4).acquire().await.unwrap().release().await.unwrap();
}

async fn invalid_terms_are_typed_errors_c021_c114<S: Site>(stage: &Stage<S>) {
    let tenure = stage.tenure().await;
    let kind = async |lock: Lock| lock.acquire().await.expect_err("invalid").kind();
    let day = Duration::from_secs(86_400);
    for name in ["", "a\0b", "a\r\nb", &"x".repeat(513)] {
        assert_eq!(kind(tenure.lock(name)).await, ErrorKind::InvalidName);
    }
    for ttl in [Duration::ZERO, Duration::from_millis(49), day * 8, Duration::MAX] {
        assert_eq!(kind(tenure.lock(stage.name("k")).ttl(ttl)).await, ErrorKind::InvalidDuration);
    }
    assert_eq!(kind(tenure.lock(stage.name("k")).quarantine(day * 8)).await, ErrorKind::InvalidDuration);
    assert_eq!(kind(tenure.lock(stage.name("k")).max_hold(Duration::ZERO)).await, ErrorKind::InvalidDuration);
    assert_eq!(kind(tenure.semaphore(stage.name("k"), 0).permit()).await, ErrorKind::InvalidLimit);
    let error =
        tenure.lock_all([stage.name("a"), String::new()]).acquire().await.expect_err("one is no name");
    assert!(error.is_invalid_input());
    stage.until_places("a", 0).await;
}

async fn lock_all_is_all_or_nothing_c112<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.tenure().await, stage.tenure().await);
    let name = |n: &str| stage.name(n);
    let blocker = one.lock(name("b")).acquire().await.unwrap();
    let all = two.lock_all([name("c"), name("a"), name("b"), name("a")]);
    assert!(matches!(all.try_acquire().await.unwrap(), OutcomeAll::Busy(_)));
    assert!(matches!(all.wait_for(Duration::from_millis(30)).await.unwrap(), OutcomeAll::Busy(_)));
    for (key, places) in [("a", 0), ("b", 1), ("c", 0)] {
        stage.until_places(key, places).await;
    }
    blocker.release().await.unwrap();
    let guards = all.acquire().await.unwrap();
    let held: Vec<_> = guards.each().iter().map(|guard| guard.key().as_str().to_owned()).collect();
    assert_eq!(held, [name("a"), name("b"), name("c")]);
    assert!(guards.check().is_ok());
    for key in ["a", "b", "c"] {
        assert!(one.lock(name(key)).try_acquire().await.unwrap().is_busy());
    }
    assert_eq!(guards.release().await.unwrap(), vec![Released::Cleanly; 3]);
    for key in ["a", "b", "c"] {
        assert!(stage.places(key).await.is_empty());
    }
}

async fn lock_all_with_crossing_orders_does_not_deadlock_c112<S: Site>(stage: &Stage<S>) {
    let clients = [stage.tenure().await, stage.tenure().await];
    let names: Vec<_> = (0..5).map(|n| stage.name(&n.to_string())).collect();
    let inside: Arc<Vec<AtomicI64>> = Arc::new((0..5).map(|_| AtomicI64::new(0)).collect());
    let mut tasks = JoinSet::new();
    for n in 0..10 {
        let (tenure, names, inside) = (clients[n % 2].clone(), names.clone(), Arc::clone(&inside));
        tasks.spawn(async move {
            for _ in 0..6 {
                let picked = {
                    let mut order: Vec<usize> = (0..5).collect();
                    order.shuffle(&mut rand::rng());
                    order.truncate(rand::rng().random_range(2..=4));
                    order
                };
                let guards = tenure.lock_all(picked.iter().map(|at| &names[*at])).acquire().await.unwrap();
                for at in &picked {
                    assert_eq!(inside[*at].fetch_add(1, Ordering::SeqCst), 0, "two hold key {at}");
                }
                tokio::task::yield_now().await;
                for at in &picked {
                    inside[*at].fetch_sub(1, Ordering::SeqCst);
                }
                guards.release().await.unwrap();
            }
        });
    }
    while let Some(task) = in_time("nobody waits for each other", tasks.join_next()).await {
        task.unwrap();
    }
}

async fn waiters_of_several_clients_are_granted_in_order_of_arrival<S: Site>(stage: &Stage<S>) {
    let holder = stage.tenure().await.lock(stage.name("k")).acquire().await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waiters = JoinSet::new();
    for n in 0..6 {
        let (tenure, order, name) = (stage.tenure().await, Arc::clone(&order), stage.name("k"));
        waiters.spawn(async move {
            let guard = tenure.lock(name).acquire().await.unwrap();
            order.lock().unwrap().push((n, guard.token()));
            guard.release().await.unwrap();
        });
        stage.until_places("k", n + 2).await;
    }
    holder.release().await.unwrap();
    while let Some(waiter) = in_time("all are granted", waiters.join_next()).await {
        waiter.unwrap();
    }
    assert_in_order(&order.lock().unwrap());
}

async fn strict_fifo_keeps_the_order_inside_a_client_too<S: Site>(stage: &Stage<S>) {
    let clients = [stage.tenure().await, stage.tenure().await];
    let strict = |n: usize| clients[n % 2].lock(stage.name("k")).fairness(Fairness::StrictFifo);
    let holder = strict(0).acquire().await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waiters = JoinSet::new();
    for n in 0..6 {
        // Two of one client, then two of the other: handover would draw the first client's together.
        let (lock, order) = (strict(n / 2), Arc::clone(&order));
        waiters.spawn(async move {
            let guard = lock.acquire().await.unwrap();
            order.lock().unwrap().push((n, guard.token()));
            guard.release().await.unwrap();
        });
        stage.until_places("k", n + 2).await;
    }
    holder.release().await.unwrap();
    while let Some(waiter) = in_time("all are granted", waiters.join_next()).await {
        waiter.unwrap();
    }
    assert_in_order(&order.lock().unwrap());
}

fn assert_in_order(order: &[(usize, FencingToken)]) {
    assert!(order.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "granted out of order: {order:?}");
}

async fn a_handover_is_bounded_while_others_wait_and_has_tokens_of_its_own<S: Site>(stage: &Stage<S>) {
    /// How often a hold may pass inside a client, as documented.
    const PASSES_MAX: usize = 64;
    const OTHER: &str = "the other client";
    let passes = Arc::new(AtomicU64::new(0));
    let observer = {
        let passes = Arc::clone(&passes);
        move |event: &Event| {
            if matches!(event.what, What::Granted { via: Via::Handover { .. }, .. }) {
                passes.fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    let busy = Tenure::with_options(stage.client().await, Options::default().observer(observer));
    let log: Arc<Mutex<Vec<(bool, FencingToken)>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let (lock, log, stop) = (busy.lock(stage.name("k")), Arc::clone(&log), Arc::clone(&stop));
        tasks.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let guard = lock.acquire().await.unwrap();
                log.lock().unwrap().push((false, guard.token()));
                tokio::task::yield_now().await;
                guard.release().await.unwrap();
            }
        });
    }
    eventually("holds are passed on", async || passes.load(Ordering::SeqCst) > 50).await;
    for _ in 0..5 {
        let other = Options::default().identity(Identity::with_command(OTHER));
        let other = Tenure::with_options(stage.client().await, other);
        let (waiter, log) = (other.lock(stage.name("k")), Arc::clone(&log));
        let granted = {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let guard = in_time("the other client has its turn", waiter.acquire()).await.unwrap();
                log.lock().unwrap().push((true, guard.token()));
                guard.release().await.unwrap();
            })
        };
        // Two places may both be of the busy one, which gives one up and asks for the next.
        let is_other =
            |place: &PlaceView| place.identity.as_ref().is_some_and(|identity| identity.command == OTHER);
        let stands = async || stage.places("k").await.iter().any(is_other) || granted.is_finished();
        eventually("the other client stands in the line", stands).await;
        let seen = log.lock().unwrap().len();
        granted.await.unwrap();
        // It may have had its turn before it was seen in the line.
        if let Some(others) = log.lock().unwrap()[seen..].iter().position(|(other, _)| *other) {
            assert!(others <= PASSES_MAX + 1, "{others} holds of one client while another waited");
        }
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(task) = in_time("the tasks end", tasks.join_next()).await {
        task.unwrap();
    }
    let log = log.lock().unwrap();
    assert!(log.is_sorted_by(|a, b| a.1 < b.1), "each pass has a token above the one before");
}

async fn two_clients_with_many_tasks_never_overlap_c115<S: Site>(stage: &Stage<S>) {
    let clients = [stage.tenure().await, stage.tenure().await];
    let inside = Arc::new(AtomicI64::new(0));
    let highest = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for n in 0..64 {
        let (tenure, inside, highest) = (clients[n % 2].clone(), Arc::clone(&inside), Arc::clone(&highest));
        let name = stage.name("hot");
        tasks.spawn(async move {
            for round in 0..12 {
                let guard = match (n + round) % 7 {
                    0 => patient(&tenure, &name).await,
                    1 => tenure.lock(&name).fairness(Fairness::StrictFifo).acquire().await.unwrap(),
                    _ => tenure.lock(&name).acquire().await.unwrap(),
                };
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold a mutex");
                let token = guard.token().get();
                assert!(highest.fetch_max(token, Ordering::SeqCst) < token, "a token did not rise");
                tokio::task::yield_now().await;
                assert!(guard.is_held());
                inside.fetch_sub(1, Ordering::SeqCst);
                if round % 3 == 0 {
                    drop(guard)
                } else {
                    assert_eq!(guard.release().await.unwrap(), Released::Cleanly)
                }
            }
        });
    }
    while let Some(task) = in_time("everybody has its turn", tasks.join_next()).await {
        task.unwrap();
    }
}

/// Asks with little patience until it is granted.
async fn patient(tenure: &Tenure, name: &str) -> Guard {
    loop {
        match tenure.lock(name).wait_for(Duration::from_millis(5)).await.unwrap() {
            Outcome::Acquired(guard) => return guard,
            Outcome::Busy(_) => tokio::task::yield_now().await,
        }
    }
}

async fn many_keys_at_once<S: Site>(stage: &Stage<S>) {
    const KEYS: usize = 300;
    let (one, two) = (stage.tenure().await, stage.tenure().await);
    let mut tasks = JoinSet::new();
    for n in 0..KEYS {
        let lock = one.lock(stage.name(&format!("many/{n}")));
        tasks.spawn(async move { lock.acquire().await.unwrap() });
    }
    let mut guards = Vec::new();
    while let Some(guard) = in_time("every key is free", tasks.join_next()).await {
        guards.push(guard.unwrap());
    }
    assert_eq!(stage.keys(&stage.name("many/")).await.len(), KEYS);
    assert!(two.lock(stage.name("many/7")).try_acquire().await.unwrap().is_busy());
    assert!(guards.iter().all(Guard::is_held));
    drop(guards);
    assert_eq!(one.shutdown(Duration::from_secs(30)).await, 0);
    assert!(stage.keys(&stage.name("many/")).await.is_empty());
}

async fn the_blocking_api_does_the_same<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.tenure().await, blocking::Tenure::from(stage.tenure().await));
    let guard = one.lock(stage.name("k")).acquire().await.unwrap();
    let (name, first) = (stage.name("k"), guard.token());
    let (tried, has_tried) = tokio::sync::oneshot::channel();
    let thread = std::thread::spawn(move || {
        let lock = two.lock(&name);
        assert!(matches!(lock.try_acquire().unwrap(), blocking::Outcome::Busy(_)));
        assert!(matches!(lock.wait_for(Duration::from_millis(20)).unwrap(), blocking::Outcome::Busy(_)));
        tried.send(()).unwrap();
        let guard = lock.acquire().unwrap();
        assert!(guard.token() > first && guard.is_held());
        assert!(guard.verify().unwrap().is_ok());
        assert_eq!(two.inspect(&name).unwrap().places.len(), 1);
        assert_eq!(guard.release().unwrap(), Released::Cleanly);
        let guards = two.acquire_all([&name, &format!("{name}2")]).unwrap();
        assert_eq!(guards.len(), 2);
        drop(guards);
        assert_eq!(two.shutdown(Duration::from_secs(30)), 0);
    });
    in_time("the short waits end", has_tried).await.unwrap();
    stage.until_places("k", 2).await;
    guard.release().await.unwrap();
    let done = tokio::task::spawn_blocking(move || thread.join());
    in_time("the thread ends", done).await.unwrap().unwrap();
}
