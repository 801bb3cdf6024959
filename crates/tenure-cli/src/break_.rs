//! `tenure break`: an operator takes a lock away.
//!
//! Whoever does this at three in the morning must see whom it hits before it does, and what it means after it did.

use std::io::{BufRead, IsTerminal, Write};

use serde_json::json;
use tenure::Options;
use tenure::engine::{Line, PlaceView, Standing, Withdrawn};

use crate::args::Break;
use crate::connect::{Connected, connect};
use crate::exit::{Code, Failure};
use crate::report::print;
use crate::view;

pub(crate) async fn break_(args: Break) -> Result<Code, Failure> {
    let connected = connect(args.engine.at.clone(), Options::default()).await?;
    let line = connected.tenure.inspect(args.name.as_str()).await;
    let line = line.map_err(|error| connected.place.failure(&error))?;
    let chosen = chosen(&args, &line)?;
    if chosen.is_empty() {
        say(&format!("{}: nothing to break", view::held_by(&line)));
        return Ok(Code::OK);
    }
    for place in &chosen {
        say(&format!("{} {} {}", verb(place), view::clean(line.key.as_str()), detail(place)));
    }
    if !args.yes && !confirmed(&chosen)? {
        say("nothing was broken");
        return Ok(Code::DECLINED);
    }
    for place in &chosen {
        break_one(&args, &connected, place).await?;
    }
    Ok(Code::OK)
}

/// Whom to break: what the flags say, the present holders otherwise.
fn chosen<'a>(args: &Break, line: &'a Line) -> Result<Vec<&'a PlaceView>, Failure> {
    if let Some(claim) = args.claim {
        let place = line.places.iter().find(|place| place.claim == claim);
        return place.map(|place| vec![place]).ok_or_else(|| {
            let name = view::clean(line.key.as_str());
            Failure::usage(format!("--claim {claim} is not in the line of {name}: see tenure status"))
        });
    }
    Ok(if args.all { line.places.iter().collect() } else { view::holders(line).collect() })
}

/// Asks, if there is anybody to ask.
fn confirmed(chosen: &[&PlaceView]) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("nothing was broken: stdin is no terminal to ask at, so pass --yes"));
    }
    let what =
        if chosen.len() == 1 { "Break it?".to_owned() } else { format!("Break all {}?", chosen.len()) };
    let _ = write!(std::io::stderr(), "{what} [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| Failure::internal(format!("cannot read the answer: {error}")))?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}

async fn break_one(args: &Break, connected: &Connected, place: &PlaceView) -> Result<(), Failure> {
    let evicted = connected.tenure.evict(args.name.as_str(), place.claim).await;
    let evicted = evicted.map_err(|error| connected.place.failure(&error))?;
    if args.json {
        let mut value = view::place_json(place);
        value["name"] = json!(args.name.as_str());
        value["broken"] = json!(match evicted {
            Withdrawn::Held => "held",
            Withdrawn::Waited => "waited",
            Withdrawn::Absent => "gone",
        });
        return print(&format!("{value}\n"));
    }
    say(&match evicted {
        Withdrawn::Held => {
            let token = match place.standing {
                Standing::Holds { token, .. } => format!(" {token}"),
                Standing::Waits => String::new(),
            };
            format!(
                "broke the hold of {}: it is told, and whatever checks tokens refuses its token{token} \
                 once a later one was used",
                view::who(place)
            )
        }
        Withdrawn::Waited => format!("took {} out of the line", view::who(place)),
        Withdrawn::Absent => format!("{} was gone before", view::who(place)),
    });
    Ok(())
}

fn verb(place: &PlaceView) -> &'static str {
    match place.standing {
        Standing::Holds { .. } => "holder of",
        Standing::Waits => "waiter for",
    }
}

fn detail(place: &PlaceView) -> String {
    format!("is {}, claim {}", view::place(place), place.claim)
}

/// Words go to stderr, so that stdout has nothing but data.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "tenure: {text}");
}
