//! What the bench is asked for.

use std::path::PathBuf;

use crate::harness::Plan;
use crate::workloads::{ALL, Workload};

/// What to run.
pub(crate) struct Args {
    pub(crate) workloads: Vec<&'static Workload>,
    pub(crate) plan: Plan,
    pub(crate) json: Option<PathBuf>,
}

/// What the arguments mean.
pub(crate) enum Asked {
    Run(Args),
    Help(String),
    Wrong(String),
}

impl Args {
    pub(crate) fn parse(args: &[String]) -> Asked {
        let mut asked = Self { workloads: Vec::new(), plan: Plan { quick: false }, json: None };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match (arg.as_str(), ALL.iter().find(|workload| workload.name == arg)) {
                ("--help" | "-h", _) => return Asked::Help(help()),
                ("--quick", _) => asked.plan.quick = true,
                ("--json", _) => match args.next() {
                    Some(file) => asked.json = Some(file.into()),
                    None => return Asked::Wrong(format!("--json needs the name of a file\n\n{}", help())),
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
            asked.workloads.extend(&ALL);
        }
        Asked::Run(asked)
    }
}

fn help() -> String {
    let mut help = "cargo xtask bench [WORKLOAD…] [--quick] [--json FILE]\n\n".to_owned();
    for workload in &ALL {
        help.push_str(&format!("  {:<12} {}\n", workload.name, workload.about));
    }
    help + "\nAll workloads unless some are named; --quick takes less than a minute.\n"
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
        let Asked::Run(some) = parse(&["w4", "--quick", "--json", "x"]) else { panic!("not understood") };
        assert_eq!((some.workloads.len(), some.plan.quick, some.json), (1, true, Some("x".into())));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let Asked::Wrong(text) = parse(&["w5"]) else { panic!("taken for right") };
        assert!(text.contains("\"w5\" is neither"), "{text}");
        assert!(matches!(parse(&["--json"]), Asked::Wrong(_)));
    }
}
