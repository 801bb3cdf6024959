//! The page about all runs whose records were kept.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use crate::check::Rule;
use crate::summary::{Summary, Verdict, list};

/// What stands above the tables.
const HEAD: &str = "\
# Reliability

What `tenure verify` found on real engines: workers that lock, work and unlock while they are killed, stopped and cut
off, and a judge that reads what happened afterwards. This page is generated from the records in
[reliability/](reliability/) by `tenure verify --publish docs`; `cargo xtask reliability --for 20m` makes the records
anew. How it works and what each rule means is in [verify.md](verify.md).

A *violation* is a rule that was broken. An *exposure* is no violation: somebody acted after the end of its own hold,
because it was stopped between the check and the act, which no lock can prevent; the fence refused it if it was late.
*Lost without fence* is how many updates a resource that checks no tokens lost in the same run. All times are those of
runs under faults: a hand-off may have met one. Minutes say how much a run proves.

ZooKeeper 3.8.0, which Debian has, loses writes that a quorum has agreed upon when servers rejoin it and are killed
again soon (ZOOKEEPER-4785, mended in 3.8.4; `Facts` caution against it). A run in which servers are restarted shows it:
a place whose deletion was acknowledged, and seen, is back. On ZooKeeper 3.9.5 the same faults break nothing.
";

/// What stands below them.
const TAIL: &str = "
## A run in a picture

![Who held what and when in ten seconds on Redis, and where the faults fell](reliability/timeline.svg)

Each row is a key, or what was done to a worker or to all; a colour is a worker; a pale end of a hold is what it held
beyond its lease. Opened by itself, [the picture](reliability/timeline.svg) says more at each bar. `cargo xtask
reliability picture` draws it; `--report` does for any run.
";

/// Writes `reliability.md` in a folder from the records in its folder `reliability`.
///
/// # Errors
/// When a record cannot be read or the page not be written.
pub fn publish(folder: &Path) -> io::Result<PathBuf> {
    let records = folder.join("reliability");
    let mut paths: Vec<_> = std::fs::read_dir(&records)?.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let mut summaries = Vec::new();
    for path in paths {
        let wrong = |error| io::Error::other(format!("{}: {error}", path.display()));
        let summary = serde_json::from_slice(&std::fs::read(&path)?).map_err(wrong)?;
        summaries.push(summary);
    }
    let page = folder.join("reliability.md");
    std::fs::write(&page, text(&summaries))?;
    Ok(page)
}

fn text(summaries: &[Summary]) -> String {
    let mut page = HEAD.to_owned();
    page.push_str(
        "\n## What happened\n\n| engine | minutes | workers | TTL | seed | faults | grants | verdict |\n",
    );
    page.push_str("|---|---|---|---|---|---|---|---|\n");
    for summary in summaries {
        let (terms, figures) = (&summary.terms, &summary.figures);
        // Writing to a text cannot fail.
        let _ = writeln!(
            page,
            "| {} | {:.1} | {} | {} s | {} | {} | {} | {} |",
            engine(summary),
            figures.micros as f64 / 60e6,
            terms.workers,
            terms.ttl as f64 / 1e6,
            terms.seed,
            list(&figures.faults),
            figures.grants,
            verdict(summary)
        );
    }
    page.push_str("\n## What was broken\n\n| engine |");
    Rule::ALL.iter().for_each(|rule| page.push_str(&format!(" {} |", rule.as_str())));
    page.push_str("\n|---|");
    Rule::ALL.iter().for_each(|_| page.push_str("---|"));
    page.push('\n');
    for summary in summaries {
        let _ = write!(page, "| {} |", engine(summary));
        for rule in Rule::ALL {
            let check = summary.checks.iter().find(|check| check.rule == rule);
            let (broken, judged) = check.map_or((0, 0), |check| (check.broken, check.judged));
            let tolerated = rule == Rule::Exclusion && broken > 0 && !summary.tolerates.is_empty();
            let note = match tolerated {
                true => format!(", tolerated after {}", summary.tolerates.join(", ")),
                false => String::new(),
            };
            let _ = write!(page, " {broken} of {judged}{note} |");
        }
        page.push('\n');
    }
    page.push_str(
        "\n## What the fence prevented, and how long waiting took\n\n\
         | engine | fenced writes | accepted | refused | exposures | lost with fence | lost without fence | \
         longest unavailable | hand-offs | half within | 99 % within |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for summary in summaries {
        let figures = &summary.figures;
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} | {} | {:.1} s | {} | {:.1} ms | {:.1} ms |",
            engine(summary),
            figures.writes_offered,
            figures.writes_accepted,
            figures.writes_refused,
            figures.exposures,
            figures.lost_fenced,
            figures.lost_unfenced,
            figures.unavailable_max as f64 / 1e6,
            figures.hand_offs,
            figures.hand_off_p50 as f64 / 1e3,
            figures.hand_off_p99 as f64 / 1e3
        );
    }
    page.push_str(TAIL);
    page
}

fn engine(summary: &Summary) -> String {
    let terms = &summary.terms;
    terms.server.clone().unwrap_or_else(|| terms.engine.clone())
}

fn verdict(summary: &Summary) -> &'static str {
    match summary.verdict {
        Verdict::Clean => "clean",
        Verdict::Violated => "violated",
        Verdict::Unproven => "proves too little",
    }
}
