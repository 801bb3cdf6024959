//! What the bench is asked for.

use std::path::PathBuf;

use crate::engines;
use crate::harness::Plan;
use crate::workloads::{ALL, Run, Workload};

/// What the page shows of the workloads that run on no engine's server.
const RECORDED_ALONE: [&str; 3] = ["local-w1", "cli", "counts"];

/// What to run.
pub(crate) struct Args {
    pub(crate) workloads: Vec<&'static Workload>,
    pub(crate) plan: Plan,
    pub(crate) json: Option<PathBuf>,
}

/// What the arguments mean.
pub(crate) enum Asked {
    Run(Args),
    /// The page anew, of the run that is recorded.
    Page,
    Help(String),
    Wrong(String),
}

impl Args {
    pub(crate) fn parse(args: &[String]) -> Asked {
        let mut asked = Self { workloads: Vec::new(), plan: Plan::default(), json: None };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match (arg.as_str(), ALL.iter().find(|workload| workload.name == arg)) {
                ("--help" | "-h", _) => return Asked::Help(help()),
                ("--page", _) => return Asked::Page,
                ("--quick", _) => asked.plan.quick = true,
                ("--peers", _) => asked.plan.peers = true,
                ("--record", _) => (asked.plan.record, asked.plan.peers) = (true, true),
                ("--json", _) => match args.next() {
                    Some(file) => asked.json = Some(file.into()),
                    None => return Asked::Wrong(format!("--json needs the name of a file\n\n{}", help())),
                },
                ("--engine", _) => match args.next() {
                    Some(name) if engines::ALL.iter().any(|engine| engine.name == name) => {
                        asked.plan.engines.push(name.clone());
                    }
                    _ => return Asked::Wrong(format!("--engine needs the name of one\n\n{}", help())),
                },
                (_, Some(workload)) => asked.workloads.push(workload),
                (other, None) => {
                    return Asked::Wrong(format!(
                        "{other:?} is neither a workload nor an option\n\n{}",
                        help()
                    ));
                }
            }
        }
        if asked.workloads.is_empty() {
            let shown = |workload: &Workload| {
                matches!(workload.run, Run::OnEngines(_)) || RECORDED_ALONE.contains(&workload.name)
            };
            let recorded = |workload: &&Workload| !asked.plan.record || shown(workload);
            asked.workloads.extend(ALL.iter().filter(recorded));
        }
        Asked::Run(asked)
    }
}

fn help() -> String {
    let mut help =
        "cargo xtask bench [WORKLOAD…] [--engine NAME]… [--peers] [--quick] [--json FILE] [--record]\n\
         cargo xtask bench --page\n\n"
            .to_owned();
    for workload in &ALL {
        help.push_str(&format!("  {:<12} {}\n", workload.name, workload.about));
    }
    help.push_str(
        "\nw1 to w5, scale and ttl run on each of these engines that is installed, unless some are named:\n",
    );
    for engine in engines::ALL {
        let entrants: Vec<_> = engine.entrants.iter().map(|entrant| entrant.name).collect();
        help.push_str(&format!("  {:<12} {}\n", engine.name, entrants.join(", ")));
    }
    help + "\nAll workloads unless some are named; --quick takes some two minutes for each engine.\n\
         --peers also runs those in other languages, whose packages it fetches.\n\
         --record runs what docs/performance.md shows, in some twelve minutes, and writes that page, its plots and the \
         table of\nthe README.\n\
         --page writes them anew from the run that was recorded: after the text of a page of an engine has changed.\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Asked {
        Args::parse(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn all_workloads_run_unless_some_are_named() {
        let Asked::Run(all) = parse(&[]) else { panic!("not understood") };
        assert_eq!(all.workloads.len(), ALL.len());
        let Asked::Run(some) = parse(&["w4", "--quick", "--json", "x", "--engine", "local"]) else {
            panic!("not understood")
        };
        assert_eq!((some.workloads.len(), some.plan.quick, some.json), (1, true, Some("x".into())));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let Asked::Wrong(text) = parse(&["w6"]) else { panic!("taken for right") };
        assert!(text.contains("\"w6\" is neither"), "{text}");
        assert!(matches!(parse(&["--json"]), Asked::Wrong(_)));
        assert!(matches!(parse(&["--page"]), Asked::Page));
        assert!(matches!(parse(&["--engine", "paper"]), Asked::Wrong(_)));
    }
}
