//! `tenure migrate`: the tables of an engine in a database.

use crate::args::Migrate;
use crate::connect;
use crate::exit::{Code, Failure};
use crate::report::print;

pub(crate) async fn migrate(args: Migrate) -> Result<Code, Failure> {
    let (place, url) = connect::asked(args.engine.at)?;
    let failed = |error| place.failure(&error);
    if args.print {
        print(&tenure::migration_sql(&url).map_err(failed)?)?;
    } else {
        tenure::migrate(&url).await.map_err(failed)?;
    }
    Ok(Code::OK)
}
