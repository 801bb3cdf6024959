//! How long the judge takes: histories of 25,000, 50,000 and 100,000 wishes, so that one sees how it grows.
#![allow(clippy::unwrap_used, reason = "an example that measures")]

#[path = "../tests/checkers/good.rs"]
mod good;

use tenure_core::lease::{Clock, SystemClock};
use tenure_verify::check::judge;
use tenure_verify::history::History;

fn main() {
    for wishes in [25_000, 50_000, 100_000] {
        let mut text = Vec::new();
        good::history(7, 8, wishes).write(&mut text).unwrap();
        let start = SystemClock.now();
        let history = History::read(text.as_slice()).unwrap();
        let read = SystemClock.now();
        let judgement = judge(&history);
        let done = SystemClock.now();
        assert!(judgement.checks.iter().all(|check| check.broken == 0));
        println!(
            "{wishes} wishes, {} records, {} MB: read in {:.2} s, judged in {:.2} s",
            history.records.len(),
            text.len() >> 20,
            read.since(start).as_secs_f64(),
            done.since(read).as_secs_f64()
        );
    }
}
