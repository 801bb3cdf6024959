//! `tenure status`: who holds one lock, and who waits.

use comfy_table::Table;
use tenure::Options;
use tenure::engine::{Line, Standing};

use crate::args::Status;
use crate::connect::connect;
use crate::duration::human;
use crate::exit::{Code, Failure};
use crate::report::print;
use crate::{list, view};

pub(crate) async fn status(args: Status) -> Result<Code, Failure> {
    let connected = connect(args.engine.at, Options::default()).await?;
    for caution in &connected.tenure.facts().cautions {
        eprintln!("tenure: {}", view::clean(caution));
    }
    let line = connected.tenure.inspect(args.name.as_str()).await;
    let line = line.map_err(|error| connected.place.failure(&error))?;
    if args.json {
        print(&format!("{}\n", view::line_json(&line)))?;
    } else {
        print(&text(&line))?;
    }
    Ok(Code::OK)
}

fn text(line: &Line) -> String {
    let last = line.last_token.map_or_else(String::new, |token| format!("; its last token is {token}"));
    if line.places.is_empty() {
        return format!("{} is free{last}\n", view::clean(line.key.as_str()));
    }
    format!("{}\n{}\n", view::held_by(line), table(line))
}

/// The places of a line in order.
fn table(line: &Line) -> Table {
    let mut table =
        list::plain_table(["STATE", "MODE", "WHO", "SINCE", "FOR", "TOKEN", "SLOT", "EXPIRES IN", "CLAIM"]);
    for place in &line.places {
        let (state, token, slot, expires) = match place.standing {
            Standing::Waits => ("waits", String::new(), String::new(), String::new()),
            Standing::Holds { token, slot, expires_in } => {
                let slot = place.mode.limit().map_or_else(String::new, |_| slot.to_string());
                ("holds", token.to_string(), slot, expires_in.map_or_else(|| "never".to_owned(), human))
            }
        };
        table.add_row([
            state.to_owned(),
            place.mode.to_string(),
            view::who(place),
            view::since(place.since),
            human(place.since),
            token,
            slot,
            expires,
            place.claim.to_string(),
        ]);
    }
    table
}
