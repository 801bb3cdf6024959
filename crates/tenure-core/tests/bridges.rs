//! The bridges from events to logs and metrics say what has happened, in names that do not change unnoticed.
#![cfg(all(feature = "metrics", feature = "tracing"))]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit,
};
use tenure_core::engine::memory::Memory;
use tenure_core::event::{Event, MetricsObserver, Observer, TracingObserver};
use tenure_core::{Options, Tenure};

/// The events of a life: waiting, a handover, a release, a busy key, a loss.
async fn events_of_a_life() -> Vec<Event> {
    let events = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&events);
    let options = Options::default().observer(move |event: &Event| heard.lock().unwrap().push(event.clone()));
    let tenure = Tenure::with_options(Memory::new(), options);
    let guard = tenure.lock("a").acquire().await.unwrap();
    assert!(tenure.lock("a").try_acquire().await.unwrap().is_busy());
    let lock = tenure.lock("a");
    let (next, released) = tokio::join!(lock.acquire(), async {
        tokio::task::yield_now().await;
        guard.release().await
    });
    released.unwrap();
    next.unwrap().release().await.unwrap();
    let short = tenure.lock("b").max_hold(Duration::from_millis(1)).acquire().await.unwrap();
    short.lost().await;
    drop(short);
    assert_eq!(tenure.shutdown(Duration::from_secs(5)).await, 0);
    std::mem::take(&mut events.lock().unwrap())
}

#[derive(Default)]
struct Counts(Mutex<BTreeMap<String, Arc<Cell>>>);

#[derive(Default)]
struct Cell(AtomicU64);

impl CounterFn for Cell {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

impl HistogramFn for Cell {
    fn record(&self, value: f64) {
        assert!((0.0..60.0).contains(&value), "seconds: {value}");
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counts {
    fn cell(&self, key: &Key) -> Arc<Cell> {
        let labels: String =
            key.labels().map(|label| format!(" {}={}", label.key(), label.value())).collect();
        Arc::clone(self.0.lock().unwrap().entry(format!("{}{labels}", key.name())).or_default())
    }
}

impl metrics::Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        panic!("no gauge is known: {key}")
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.cell(key))
    }
}

#[tokio::test]
async fn metrics_count_waits_holds_handovers_and_losses() {
    let counts = Counts::default();
    for event in events_of_a_life().await {
        metrics::with_local_recorder(&counts, || MetricsObserver.observe(&event));
    }
    let seen = counts.0.into_inner().unwrap();
    let seen: Vec<_> =
        seen.iter().map(|(name, cell)| (name.as_str(), cell.0.load(Ordering::Relaxed))).collect();
    let expected = [
        ("tenure_gave_up_total", 1),
        ("tenure_handover_seconds", 1),
        ("tenure_hold_seconds", 3),
        ("tenure_losses_total cause=max_hold", 1),
        ("tenure_wait_seconds", 3),
    ];
    assert_eq!(seen, expected);
}

/// Writes each record as a line: its level, and its fields.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Fields(String);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => write!(self.0, " {value:?}").unwrap(),
            name => write!(self.0, " {name}").unwrap(),
        }
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields(event.metadata().level().to_string());
        event.record(&mut fields);
        self.0.lock().unwrap().push(fields.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn logs_are_quiet_but_for_losses() {
    let lines = Lines::default();
    let events = events_of_a_life().await;
    tracing::subscriber::with_default(lines.clone(), || {
        events.iter().for_each(|event| TracingObserver.observe(event));
    });
    let lines = lines.0.lock().unwrap();
    let loud: Vec<_> = lines.iter().filter(|line| !line.starts_with("DEBUG")).collect();
    assert_eq!(loud, ["ERROR lost key claim token cause held"]);
    assert!(lines.iter().any(|line| line == "DEBUG granted key claim token waited handover"), "{lines:?}");
}
