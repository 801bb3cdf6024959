//! Progress of a wait: behind whom, for how long.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tenure::engine::line::{Verdict, verdict};
use tenure::engine::{Line, PlaceView};
use tenure::event::Event;
use tenure::{ClaimId, Tenure};

use crate::duration::human;
use crate::report::{Report, Weight};
use crate::view;

/// When to say where we stand: soon, then less and less often.
const AFTER: [u64; 6] = [100, 2_000, 3_000, 5_000, 20_000, 30_000];
const LATER: u64 = 60_000;

/// The claim that we wait with, as soon as it is known.
#[derive(Clone, Default)]
pub(crate) struct Mine(Arc<Mutex<Option<ClaimId>>>);

impl Mine {
    pub(crate) fn hear(&self, event: &Event) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = event.claim;
    }

    fn claim(&self) -> Option<ClaimId> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says where we stand from time to time, for as long as it is polled.
pub(crate) async fn tell_progress(tenure: &Tenure, name: &str, mine: &Mine, report: &mut Report) {
    let mut waited = Duration::ZERO;
    for pause in AFTER.into_iter().chain(std::iter::repeat(LATER)) {
        let pause = Duration::from_millis(pause);
        tokio::time::sleep(pause).await;
        waited += pause;
        // Progress is a courtesy: what the engine cannot say now, it may say next time.
        let Ok(line) = tenure.inspect(name).await else { continue };
        let me = mine.claim().and_then(|mine| line.places.iter().position(|place| place.claim == mine));
        let blocker = blocker(&line, me);
        report.tell(
            Weight::Detail,
            "waiting",
            || json!({"ahead": me, "waited": waited.as_secs_f64(), "behind": blocker.map(view::place_json)}),
            || {
                let position = me.map_or_else(String::new, |ahead| format!(", {ahead} ahead"));
                let behind =
                    blocker.map_or_else(String::new, |place| format!(": behind {}", view::place(place)));
                format!("waiting for {name} for {}{position}{behind}", human(waited))
            },
        );
    }
}

/// The one place that must leave before ours can hold.
fn blocker(line: &Line, me: Option<usize>) -> Option<&PlaceView> {
    let modes: Vec<_> = line.places.iter().map(|place| place.mode).collect();
    match me.map(|me| verdict(&modes, me)) {
        Some(Verdict::WaitBehind(index)) => line.places.get(index),
        Some(Verdict::Granted) => None,
        _ => view::holders(line).next(),
    }
}
