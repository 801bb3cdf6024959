//! A picture of a run: who held what and when, and where the faults fell. It opens in a browser, by itself or on a page
//! that says what is to be seen.

use std::collections::HashMap;
use std::fmt::Write;

use tenure_core::Mode;

use crate::check::Judgement;
use crate::history::{Event, History, Life, Micros, Op, Record};

/// How many holds are drawn; the first ones.
const BARS_MAX: usize = 6_000;

/// Pixels.
const LANE: usize = 16;
const LEFT: usize = 190;
const SECOND: f64 = 120.0;

const PAGE_STYLE: &str =
    "body{font:13px sans-serif;margin:1.5em;color:#222}.x{overflow-x:auto;border:1px solid #ccc}";
const STYLE: &str = "svg{background:#fff}text{font:11px sans-serif}.bad{stroke:#d00;stroke-width:2}";

/// A bar of the picture.
struct Bar {
    lane: String,
    from: Micros,
    to: Micros,
    colour: String,
    title: String,
}

/// The page around a picture.
pub(crate) fn page(history: &History, picture: &str) -> String {
    let header = &history.header;
    let title = format!("tenure verify: {}, seed {}", header.engine, header.seed);
    let keys = "Each row is a key, or what was done to a worker or to all. A colour is a worker; a pale end of a hold \
                is what it held beyond its lease. Point at a bar to read it. A red line is a violation.";
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title><style>{PAGE_STYLE}</style>\n\
         <h1>{title}</h1>\n<p>{keys}</p>\n<div class=\"x\">\n{picture}</div>\n</html>\n"
    )
}

/// The picture, as SVG.
pub(crate) fn picture(history: &History, judgement: &Judgement) -> String {
    let first = history.records.first().map_or(0, |record| record.0);
    let last = history.records.last().map_or(0, |record| record.0);
    let mut bars = faults(history, last);
    bars.extend(holds(history, last));
    let end = bars.iter().map(|bar| bar.to).max().unwrap_or(first);
    let mut lanes: Vec<_> = bars.iter().map(|bar| bar.lane.clone()).collect();
    lanes.sort();
    lanes.dedup();
    let x = |at: Micros| LEFT as f64 + at.saturating_sub(first) as f64 / 1e6 * SECOND;
    let (width, height) = (x(end) + 20.0, (lanes.len() + 2) * LANE);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height}\"><style>{STYLE}</style>\n"
    );
    for second in 0..=(end.saturating_sub(first) / 1_000_000) {
        let at = x(first + second * 1_000_000);
        // Writing to a text cannot fail.
        let _ =
            writeln!(svg, "<line x1=\"{at:.0}\" x2=\"{at:.0}\" y1=\"14\" y2=\"{height}\" stroke=\"#eee\"/>");
        let _ = writeln!(svg, "<text x=\"{at:.0}\" y=\"11\" fill=\"#888\">{second} s</text>");
    }
    for (row, lane) in lanes.iter().enumerate() {
        let y = (row + 1) * LANE + 12;
        let _ = writeln!(svg, "<text x=\"4\" y=\"{y}\">{}</text>", escaped(lane));
    }
    for bar in &bars {
        let row = lanes.binary_search(&bar.lane).unwrap_or(0);
        let (left, y) = (x(bar.from), (row + 1) * LANE + 2);
        let wide = (x(bar.to) - left).max(0.5);
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"{y}\" width=\"{wide:.1}\" height=\"{}\" fill=\"{}\"><title>{}</title></rect>",
            LANE - 4,
            bar.colour,
            escaped(&bar.title)
        );
    }
    for finding in judgement.checks.iter().flat_map(|check| &check.found) {
        let at = x(first + finding.at);
        let _ = writeln!(
            svg,
            "<line class=\"bad\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"14\" y2=\"{height}\"><title>{}</title></line>",
            escaped(&finding.what)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// What was done, one row for each worker, and one for all.
fn faults(history: &History, last: Micros) -> Vec<Bar> {
    let mut healed: HashMap<u32, Micros> = HashMap::new();
    let mut workers: HashMap<Life, u32> = HashMap::new();
    for Record(at, event) in &history.records {
        match event {
            Event::Healed { fault } => drop(healed.insert(*fault, *at)),
            Event::Born { life, worker } => drop(workers.insert(*life, *worker)),
            _ => {}
        }
    }
    let faults = history.records.iter().filter_map(|Record(at, event)| match event {
        Event::Fault(fault) => Some((*at, fault)),
        _ => None,
    });
    let bars = faults.map(|(from, fault)| {
        let worker = fault.life.and_then(|life| workers.get(&life));
        let colour = match fault.kind.as_str() {
            "kill" => "#444",
            "pause" => "#88a",
            "cut" => "#c96",
            _ => "#b55",
        };
        Bar {
            lane: worker.map_or("all".to_owned(), |worker| format!("worker {worker}")),
            from,
            to: healed.get(&fault.fault).copied().unwrap_or(last),
            colour: colour.to_owned(),
            title: format!("{} {}", fault.kind, fault.detail),
        }
    });
    bars.collect()
}

/// A hold as it is put together.
struct Drawn {
    from: Micros,
    until: Option<Micros>,
    slot: u32,
    token: u64,
}

/// Who held what.
fn holds(history: &History, last: Micros) -> Vec<Bar> {
    let mut bars = Vec::new();
    let mut asked: HashMap<Op, (usize, Mode, Life)> = HashMap::new();
    let mut open: HashMap<Op, Drawn> = HashMap::new();
    let mut workers: HashMap<Life, u32> = HashMap::new();
    for Record(at, event) in &history.records {
        if bars.len() >= BARS_MAX {
            break;
        }
        match event {
            Event::Born { life, worker } => drop(workers.insert(*life, *worker)),
            Event::Ask(ask) => drop(asked.insert(ask.op, (ask.key, ask.mode, ask.life))),
            Event::Got(got) => {
                open.insert(got.op, Drawn { from: *at, until: got.until, slot: got.slot, token: got.token });
            }
            Event::Enter(act) | Event::Write(act) => {
                if let Some(drawn) = open.get_mut(&act.op) {
                    drawn.until = act.until.or(drawn.until);
                }
            }
            Event::Leave { op, until } => {
                if let (Some(drawn), Some(wish)) = (open.remove(op), asked.remove(op)) {
                    let until = until.or(drawn.until);
                    draw(history, &mut bars, wish, drawn, *at, until, &workers);
                }
            }
            Event::Dead { life } => {
                let dead = open.keys().filter(|op| asked.get(op).is_some_and(|wish| wish.2 == *life));
                for op in dead.copied().collect::<Vec<_>>() {
                    if let (Some(drawn), Some(wish)) = (open.remove(&op), asked.remove(&op)) {
                        let until = drawn.until;
                        draw(history, &mut bars, wish, drawn, (*at).min(last), until, &workers);
                    }
                }
            }
            _ => {}
        }
    }
    bars
}

fn draw(
    history: &History,
    bars: &mut Vec<Bar>,
    (key, mode, life): (usize, Mode, Life),
    drawn: Drawn,
    left: Micros,
    until: Option<Micros>,
    workers: &HashMap<Life, u32>,
) {
    let worker = workers.get(&life).copied().unwrap_or(0);
    let name =
        history.header.keys.get(key).map_or("?", |key| key.name.rsplit('/').next().unwrap_or(&key.name));
    let lane = match mode {
        Mode::Permit { .. } => format!("{name}, permit {}", drawn.slot),
        Mode::Shared => format!("{name}, readers"),
        Mode::Exclusive => name.to_owned(),
    };
    let hue = worker * 360 / history.header.workers.max(1);
    let title = format!("worker {worker}, life {life}, {mode}, token {}", drawn.token);
    let end = until.map_or(left, |until| until.clamp(drawn.from, left));
    let colour = format!("hsl({hue},60%,50%)");
    bars.push(Bar { lane: lane.clone(), from: drawn.from, to: end, colour, title: title.clone() });
    if end < left {
        let colour = format!("hsl({hue},60%,85%)");
        bars.push(Bar {
            lane,
            from: end,
            to: left,
            colour,
            title: format!("{title}, after the end of its hold"),
        });
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
