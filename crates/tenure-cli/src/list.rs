//! `tenure list`: the locks in use.

use comfy_table::{ContentArrangement, Table, presets};
use tenure::engine::{Line, Standing};
use tenure::{Key, Options};

use crate::args::List;
use crate::connect::connect;
use crate::duration::human;
use crate::exit::{Code, Failure};
use crate::report::print;
use crate::view;

/// How many names are fetched at once.
const PAGE: usize = 500;

pub(crate) async fn list(args: List) -> Result<Code, Failure> {
    let connected = connect(args.engine.at, Options::default()).await?;
    let failed = |error| connected.place.failure(&error);
    let prefix = args.prefix.unwrap_or_default();
    let mut table = plain_table(["NAME", "HOLDERS", "WAITERS", "HELD BY", "SINCE", "FOR", "TOKEN"]);
    let mut after: Option<Key> = None;
    loop {
        let keys = connected.tenure.keys(&prefix, after.as_ref(), PAGE).await.map_err(failed)?;
        let Some(last) = keys.last().cloned() else { break };
        let full = keys.len() == PAGE;
        for key in keys {
            let line = connected.tenure.inspect(key.as_str()).await.map_err(failed)?;
            if line.places.is_empty() {
                // It was given back in between.
                continue;
            }
            if args.json {
                print(&format!("{}\n", view::line_json(&line)))?;
            } else {
                table.add_row(row(&line));
            }
        }
        if !full {
            break;
        }
        after = Some(last);
    }
    if !args.json && table.row_count() > 0 {
        print(&format!("{table}\n"))?;
    }
    Ok(Code::OK)
}

fn row(line: &Line) -> [String; 7] {
    let first = view::holders(line).next();
    let holders = view::holders(line).count();
    let token = match first.map(|place| place.standing) {
        Some(Standing::Holds { token, .. }) => token.to_string(),
        _ => String::new(),
    };
    [
        view::clean(line.key.as_str()),
        holders.to_string(),
        (line.places.len() - holders).to_string(),
        first.map_or_else(String::new, view::who),
        first.map_or_else(String::new, |place| view::since(place.since)),
        first.map_or_else(String::new, |place| human(place.since)),
        token,
    ]
}

/// A table without lines, as wide as its content: for eyes and for `awk`.
pub(crate) fn plain_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}
