//! A recorded run as a page: `docs/performance.md`, its plots, and the table of the README.

mod explained;
mod scale;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::engines::{ALL, SLOW, STRICT, TENURE};
use crate::places;
use crate::plot::{bars, plot};
use crate::report::{Report, short};
use crate::workloads::across;
use explained::Explained;

/// What is shown of each workload: its name in the reports, what it is, the figure of the plot, and the columns.
const SECTIONS: &[Section] = &[
    Section {
        part: "w1",
        title: "One task on one key",
        about: "Acquire and release in a loop, each awaited. The limit is two round trips.",
        figure: "cycles/s",
        columns: &[
            "cycles/s",
            "cycle p50 us",
            "cycle p99 us",
            "commands/cycle",
            "bytes/cycle",
            "client us/cycle",
            "server us/cycle",
        ],
    },
    Section {
        part: "local-w1",
        title: "One task on one key of a directory",
        about: "The same where no server is asked, beside what the kernel's own lock takes.",
        figure: "cycles/s",
        columns: &["cycles/s", "us/cycle"],
    },
    Section {
        part: "w2",
        title: "64 tasks, 64 keys, one process",
        about: "What one process gets out of one server. The limit is the server's and the client's processor time.",
        figure: "cycles/s",
        columns: &["cycles/s", "cycle p50 us", "cycle p99 us", "client us/cycle", "server us/cycle"],
    },
    Section {
        part: "w3, hold 0",
        title: "16 waiters of four processes on one key",
        about: "A hand-off is from the call of release to the moment another worker, which was already waiting, has \
                the lock.\nGiving it back to oneself is none: read `handoffs/s`, the longest wait and Jain's index \
                together. `Jain of best` is that\nindex beside the best that so many turns among so many workers can \
                have: with 1.5 turns for each, some have\ntwice as many as others whatever a lock does. `turns \
                waited` is how many others had the lock, at the most, while one\nasked for it: whoever is never \
                passed over sees fifteen, and who else was served while the request was on its way.",
        figure: "handoffs/s",
        columns: &[
            "handoffs/s",
            "gap p50 us",
            "gap p99 us",
            "longest gap ms",
            "longest wait ms",
            "turns waited",
            "Jain",
            "Jain of best",
            "commands/cycle",
        ],
    },
    Section {
        part: across::PART,
        title: "The same across engines",
        about: "The strict hand-offs on Redis beside what locks on other servers did in the same workload, some \
                minutes later.",
        figure: "handoffs/s",
        columns: &["handoffs/s", "gap p50 us", "gap p99 us", "longest wait ms", "Jain"],
    },
    Section {
        part: "w3, idle gap",
        title: "How long a freed lock lies idle",
        about: "8 workers of four processes hold for 10 ms and are away for 100 ms.",
        figure: "gap p50 us",
        columns: &["gap p50 us", "gap p99 us", "longest wait ms", "Jain"],
    },
    Section {
        part: "w4",
        title: "64 tasks of one process on one key",
        about: "The handover inside a process: the engine is asked for every 64th pass or each 100 ms.\n\
                Where a token is the engine's own revision (ZooKeeper, etcd), each pass is one write.",
        figure: "handoffs/s",
        columns: &["handoffs/s", "gap p50 us", "gap p99 us", "longest wait ms", "Jain", "commands/cycle"],
    },
    Section {
        part: "w5, 1000 waiting",
        title: "1,000 wait",
        about: "1,000 tasks of four processes wait for a key that one more process holds.",
        figure: "commands/s",
        columns: &["commands/s", "script calls/s", "client us/s"],
    },
    Section {
        part: "w5, 1000 held",
        title: "1,000 are held and renewed",
        about: "1,000 keys with a TTL of 10 s, taken over a third of it. Only who renews by itself takes part. A stall \
                is a command\nthat takes longer than 0.3 ms, in which a server of one thread serves nobody else.",
        figure: "commands/s",
        columns: &["commands/s", "script calls/s", "client us/s", "server us/s", "stalls/s"],
    },
    Section {
        part: "ttl, 50 ms",
        title: "Holds of half a second with a TTL of 50 ms, beside load",
        about: "32 keys of two processes, renewed some 30 times in each hold, while 64 tasks of a third process take \
                and give\nothers. A process that stands still for 50 ms has rightly lost what it held: see how a bare \
                round trip fares.",
        figure: "",
        columns: &["holds/s", "lost of 1000", "other cycles/s"],
    },
    Section {
        part: "ttl, 60 s",
        title: "The same with a TTL of a minute",
        about: "No hold of half a second may end before its release.",
        figure: "",
        columns: &["holds/s", "lost of 1000", "other cycles/s"],
    },
    Section {
        part: "cli",
        title: "A command under a lock",
        about: "From the start of the program to its end, with the engine in a directory, beside `flock` of util-linux \
                and the\ncommand alone. The memory is the most that the program that locks has used.",
        figure: "ms",
        columns: &["ms", "peak MiB"],
    },
];

struct Section {
    part: &'static str,
    title: &'static str,
    about: &'static str,
    figure: &'static str,
    columns: &'static [&'static str],
}

impl Section {
    /// The name of its plot.
    fn file(&self) -> String {
        format!("{}.svg", self.part.replace([' ', ','], "-").replace("--", "-"))
    }
}

/// How busy the machine is.
pub(crate) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// A run for machines.
pub(crate) fn run(quick: bool, begun: &str, reports: &[Report], absent: &[(&str, String)]) -> Value {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let absent = absent.iter().map(|(name, why)| json!({ "name": name, "why": why }));
    json!({
        "quick": quick,
        "machine": {
            "processor": model.trim_start_matches([' ', '\t', ':']),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "load": { "begun": begun, "ended": load() },
        },
        "absent": absent.collect::<Vec<_>>(),
        "workloads": reports.iter().map(Report::json).collect::<Vec<_>>(),
    })
}

/// Writes the run itself, and all that is made of it.
pub(crate) fn record(run: &Value) -> Result<()> {
    put(recorded(), serde_json::to_string_pretty(run)? + "\n")?;
    // Of what was written: the page is then the same whenever it is written anew.
    write_again()
}

/// Writes anew what is made of the run that was recorded.
pub(crate) fn write_again() -> Result<()> {
    let file = recorded();
    let text = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    write(&serde_json::from_slice(&text).with_context(|| format!("{} is no recorded run", file.display()))?)
}

/// Where the run is recorded.
fn recorded() -> PathBuf {
    places::root().join("docs/performance/run.json")
}

fn put(path: PathBuf, text: String) -> Result<()> {
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes the page, the plots and the table of the README.
fn write(run: &Value) -> Result<()> {
    let root = places::root();
    let folder = root.join("docs/performance");
    std::fs::create_dir_all(&folder)?;
    for section in SECTIONS.iter().filter(|section| !section.figure.is_empty()) {
        let reports = of_part(run, section.part);
        if !reports.is_empty() {
            let title = format!("{}: {}", section.title, section.figure);
            put(folder.join(section.file()), plot(&title, &bars(&reports, section.figure)))?;
        }
    }
    for sweep in scale::SWEEPS.iter().filter(|sweep| sweep.is_plotted_of(run)) {
        put(folder.join(sweep.file), scale::plotted(run, sweep))?;
    }
    let page = page(run, &root.join("docs"));
    let unexplained =
        page.lines().zip(page.lines().skip(1)).filter(|(_, why)| why.ends_with("(unexplained)"));
    unexplained.for_each(|(miss, _)| eprintln!("{miss}"));
    put(root.join("docs/performance.md"), page)?;
    let readme = root.join("README.md");
    let text = std::fs::read_to_string(&readme)?;
    if let Some(text) = spliced(&text, &summary(run)) {
        put(readme, text)?;
    }
    Ok(())
}

/// The text of the page, with what the pages of the engines explain.
fn page(run: &Value, docs: &Path) -> String {
    let explained = Explained::in_docs(docs);
    let mut page = head(run);
    for section in SECTIONS {
        let reports = of_part(run, section.part);
        if !reports.is_empty() {
            section_text(&mut page, section, &reports, &explained);
        }
    }
    for sweep in scale::SWEEPS {
        page.push_str(&scale::text(run, sweep, &explained));
    }
    page + &counts(run)
}

fn workloads(run: &Value) -> impl Iterator<Item = &Value> {
    run["workloads"].as_array().into_iter().flatten()
}

fn of_part<'a>(run: &'a Value, part: &str) -> Vec<&'a Value> {
    workloads(run).filter(|report| report["part"] == part && report["engine"] != "").collect()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn head(run: &Value) -> String {
    let machine = &run["machine"];
    let mut text = format!(
        "# Performance\n\nWritten by `cargo xtask bench --record`, which repeats it in some ten minutes. The run \
         itself is in\n[performance/run.json](performance/run.json).\n\n**How to read it.** All take turns in short \
         slices on one machine, over the loopback address; a ratio is the\nmedian of the ratios of the rounds. \
         Absolute figures depend on the machine and on what else it does (here:\n{}, {} cores; load {} at the start \
         and {} at the end). A network makes round trips dearer\nand processor time matter less. What the workloads \
         are is said in [bench/README.md](../bench/README.md). Each run\nchecks that no two held at once.\n",
        word(&machine["processor"]),
        machine["cores"],
        word(&machine["load"]["begun"]),
        word(&machine["load"]["ended"]),
    );
    text.push_str("\n**Who takes part.**\n\n| engine | name | what it is |\n|---|---|---|\n");
    for engine in ALL {
        let took_part = |name: &str| {
            let reports = workloads(run).filter(|report| report["engine"] == engine.name);
            let rows = reports.flat_map(|report| report["rows"].as_array().into_iter().flatten());
            rows.filter(|row| row["name"] == name).count() > 0
        };
        for entrant in engine.entrants.iter().filter(|entrant| took_part(entrant.name)) {
            let _ = writeln!(text, "| {} | {} | {} |", engine.name, entrant.name, entrant.about);
        }
    }
    for absent in run["absent"].as_array().into_iter().flatten() {
        let _ =
            writeln!(text, "\nAbsent from this run: {} ({}).", word(&absent["name"]), word(&absent["why"]));
    }
    text
}

fn section_text(page: &mut String, section: &Section, reports: &[&Value], explained: &Explained<'_>) {
    let Section { title, about, .. } = section;
    // Writing to a string cannot fail.
    let _ = write!(page, "\n## {title}\n\n{about}\n");
    if !section.figure.is_empty() {
        let _ = write!(page, "\n![{title}](performance/{})\n", section.file());
    }
    for report in reports {
        let _ =
            write!(page, "\n| {} | {} | ratio |\n|---", word(&report["engine"]), section.columns.join(" | "));
        page.push_str(&"|---:".repeat(section.columns.len() + 1));
        page.push_str("|\n");
        for row in report["rows"].as_array().into_iter().flatten() {
            let _ = write!(page, "| {}", word(&row["name"]));
            for column in section.columns {
                let figure = row["figures"][column].as_f64().map_or("-".to_owned(), short);
                let _ = write!(page, " | {figure}");
            }
            let ratio = row["ratio"].as_f64().filter(|_| row["anchor"].is_string());
            let ratio = ratio.map(|ratio| format!("{} x {}", short(ratio), word(&row["anchor"])));
            let _ = writeln!(page, " | {} |", ratio.unwrap_or_default());
        }
        for out in report["out"].as_array().into_iter().flatten() {
            let _ = writeln!(page, "\nOut: {} ({}).", word(&out["name"]), word(&out["why"]));
        }
        targets(page, report, "", explained);
    }
}

/// What came of the targets of a report, and where it is said why not more.
fn targets(page: &mut String, report: &Value, whom: &str, explained: &Explained<'_>) {
    let targets: Vec<_> = report["targets"].as_array().into_iter().flatten().collect();
    if !targets.is_empty() {
        page.push('\n');
    }
    for target in targets {
        let measured = target["measured"].as_f64().map_or_else(String::new, short);
        let (who, of, bound) = (word(&target["contestant"]), word(&target["of"]), word(&target["bound"]));
        let _ = if target["met"] == true {
            writeln!(page, "- met: {whom}{who}, {of} {bound}; is {measured}")
        } else {
            let why = explained.pointer(word(&report["engine"]), word(&report["part"]), of);
            writeln!(page, "- **missed**: {whom}{who}, {of} {bound}; is {measured}\n  ({why})")
        };
    }
}

/// What does not depend on the machine.
fn counts(run: &Value) -> String {
    let Some(report) = workloads(run).find(|report| report["part"] == "counts") else { return String::new() };
    let columns = ["allocations/cycle", "bytes/cycle", "verbs/cycle", "syscalls/cycle"];
    let mut text = format!("\n## What a cycle takes in this process\n\n| | {} |\n|---", columns.join(" | "));
    text.push_str(&"|---:".repeat(columns.len()));
    text.push_str("|\n");
    for row in report["rows"].as_array().into_iter().flatten() {
        let figures = columns.map(|column| row["figures"][column].as_f64().map_or("-".to_owned(), short));
        let _ = writeln!(text, "| {} | {} |", word(&row["name"]), figures.join(" | "));
    }
    text
}

/// The table of the README: what `tenure` does on each engine.
fn summary(run: &Value) -> String {
    let mut text =
        "| engine | cycles/s, one task | hand-offs/s, 16 waiters in 4 processes | hand-offs/s, 64 tasks \
                    in a process |\n|---|---:|---:|---:|\n"
            .to_owned();
    for engine in ALL {
        let cell = |part: &str, name: &str, figure: &str| {
            let report = of_part(run, part).into_iter().find(|report| report["engine"] == engine.name)?;
            let row = report["rows"].as_array()?.iter().find(|row| row["name"] == name)?;
            row["figures"][figure].as_f64().map(short)
        };
        let cells = [
            cell("w1", TENURE, "cycles/s").or_else(|| cell("local-w1", TENURE, "cycles/s")),
            cell("w3, hold 0", STRICT, "handoffs/s").or_else(|| cell("w3, hold 0", TENURE, "handoffs/s")),
            cell("w4", TENURE, "handoffs/s"),
        ];
        // A slow network is no other engine.
        if cells.iter().any(Option::is_some) && engine.name != SLOW.name {
            let cells = cells.map(|cell| cell.unwrap_or_else(|| "-".to_owned()));
            let _ = writeln!(text, "| {} | {} |", engine.name, cells.join(" | "));
        }
    }
    text
}

/// The text with `table` between its two marks, if it has them.
fn spliced(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once("<!-- bench -->\n")?;
    let (_, after) = rest.split_once("<!-- end of bench -->")?;
    Some(format!("{before}<!-- bench -->\n{table}<!-- end of bench -->{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_readme_is_put_between_its_marks() {
        let text = "a\n<!-- bench -->\nold\n<!-- end of bench -->\nb\n";
        assert_eq!(spliced(text, "new\n").unwrap(), "a\n<!-- bench -->\nnew\n<!-- end of bench -->\nb\n");
        assert_eq!(spliced("a", "new"), None);
    }

    #[test]
    fn the_page_is_what_the_recorded_run_and_the_pages_of_the_engines_say() {
        let docs = places::root().join("docs");
        let run = serde_json::from_slice(&std::fs::read(recorded()).unwrap()).unwrap();
        let written = std::fs::read_to_string(docs.join("performance.md")).unwrap();
        assert!(written == page(&run, &docs), "write it anew by `cargo xtask bench --page`");
    }

    #[test]
    fn a_section_has_a_row_for_each_who_took_part() {
        let report = json!({
            "engine": "redis", "part": "w1",
            "rows": [{ "name": "tenure", "figures": { "cycles/s": 5000.0 }, "anchor": "raw", "ratio": 0.5 }],
            "targets": [
                { "contestant": "tenure", "of": "ratio", "bound": "at least 0.9", "measured": 0.5, "met": false },
            ],
        });
        let mut page = String::new();
        let docs = tempfile::tempdir().unwrap();
        section_text(&mut page, &SECTIONS[0], &[&report], &Explained::in_docs(docs.path()));
        assert!(page.contains("| tenure | 5000 |") && page.contains("0.50 x raw |"), "{page}");
        assert!(page.contains("at least 0.9; is 0.50\n  (unexplained)"), "{page}");

        std::fs::create_dir(docs.path().join("engines")).unwrap();
        let text = "## Where the time goes\n`w1` waits for the network.\n";
        std::fs::write(docs.path().join("engines/redis.md"), text).unwrap();
        section_text(&mut page, &SECTIONS[0], &[&report], &Explained::in_docs(docs.path()));
        let pointer = "(see [Where the time goes](engines/redis.md#where-the-time-goes))";
        assert!(page.contains(pointer), "{page}");
    }
}
