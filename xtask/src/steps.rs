//! Which steps make a proof.
//!
//! All tests run with all features: a test of a planted flaw that needs a feature would otherwise be left out without
//! a word, and one build serves all. That users get none of these features is a step of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo;

/// How much is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Everything.
    Whole,
    /// What the inner loop of work needs.
    Quick,
}

/// One step of a proof.
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) what: What,
}

/// What a step does.
pub(crate) enum What {
    /// The style that no other tool checks.
    Tidy,
    /// The servers that tests start are there, or are installed.
    Servers,
    /// A command that passes or fails, with what to say when it cannot even be asked for its version.
    Gate(Command, Option<Tool>),
    /// A command that runs tests, which are counted.
    Tests(Command),
    /// Left out of this extent, for this reason.
    LeftOut(String),
}

/// A part of the toolchain that may be missing.
#[derive(Clone, Copy)]
pub(crate) struct Tool {
    /// The subcommand of cargo.
    pub(crate) command: &'static str,
    /// What to do when it is missing.
    pub(crate) remedy: &'static str,
}

const FMT: Tool = Tool { command: "fmt", remedy: "install rustfmt: rustup component add rustfmt" };
const CLIPPY: Tool = Tool { command: "clippy", remedy: "install clippy: rustup component add clippy" };

/// The crate whose tests are searches of whole state spaces.
const MODELS: &str = "tenure-models";

/// The crates whose tests start servers.
const WITH_SERVERS: &[&str] = &[
    "tenure-verify",
    "tenure-servers",
    "tenure-redis",
    "tenure-etcd",
    "tenure-zookeeper",
    "tenure-postgres",
    "tenure-mysql",
    "tenure-examples",
];

/// The steps of a proof, in the order of what fails soonest.
pub(crate) fn of(extent: Extent, root: &Path) -> Vec<Step> {
    let mut steps = vec![
        Step::new("tidy", What::Tidy),
        Step::new("rustfmt", What::Gate(command(&["fmt", "--all", "--check"]), Some(FMT))),
        Step::new("clippy", What::Gate(clippy(), Some(CLIPPY))),
    ];
    match extent {
        Extent::Whole => {
            steps.push(Step::new("reference", What::Gate(docs(), None)));
            steps.push(Step::new("features of users", What::Gate(users(), None)));
            steps.push(Step::new("servers", What::Servers));
            let all = command(&["test", "--workspace", "--all-features", "--no-fail-fast"]);
            steps.push(Step::new("tests", What::Tests(all)));
            steps.extend(examples(root).into_iter().map(|example| example.step(root)));
        }
        Extent::Quick => quick(&mut steps, root),
    }
    steps
}

fn quick(steps: &mut Vec<Step>, root: &Path) {
    let mut tests = command(&["test", "--workspace", "--all-features", "--no-fail-fast", "--lib", "--bins"]);
    tests.args(["--exclude", MODELS]);
    tests.args(WITH_SERVERS.iter().flat_map(|package| ["--exclude", package]));
    let mut left_out = vec![
        ("reference".to_owned(), "takes long".to_owned()),
        ("features of users".to_owned(), "takes long".to_owned()),
        (format!("tests of {MODELS}"), "exhaustive searches take long".to_owned()),
        ("examples in the documentation".to_owned(), "each is a program to build".to_owned()),
    ];
    let servers = WITH_SERVERS.iter();
    left_out.extend(servers.map(|package| (format!("tests of {package}"), "they start servers".to_owned())));
    for (package, name, main) in targets(root, "tests") {
        match says(&main, "Slow") {
            _ if package == MODELS || WITH_SERVERS.contains(&package.as_str()) => {}
            Some(reason) => left_out.push((format!("tests of {package}, {name}"), reason)),
            None => {
                tests.args(["--test", &name]);
            }
        }
    }
    let names = examples(root).into_iter().map(|example| format!("example {}", example.name));
    left_out.extend(names.map(|name| (name, "has its own pace".to_owned())));
    steps.push(Step::new("tests", What::Tests(tests)));
    steps.extend(left_out.into_iter().map(|(name, reason)| Step::new(name, What::LeftOut(reason))));
}

/// What a target says of itself in a line `//! Slow: reason` or `//! By hand: reason` of its own.
fn says(target: &Path, what: &str) -> Option<String> {
    let text = std::fs::read_to_string(target).unwrap_or_default();
    let mut lines = text.lines();
    lines.find_map(|line| Some(line.strip_prefix("//! ")?.strip_prefix(what)?.strip_prefix(": ")?.to_owned()))
}

impl Step {
    fn new(name: impl Into<String>, what: What) -> Self {
        Self { name: name.into(), what }
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = cargo();
    command.args(args);
    command
}

fn clippy() -> Command {
    command(&["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"])
}

/// The reference of all libraries; programs have a manual instead.
pub(crate) fn docs() -> Command {
    let mut docs = command(&["doc", "--workspace", "--lib", "--no-deps", "--all-features"]);
    docs.env("RUSTDOCFLAGS", "-D warnings");
    docs
}

/// The facade as small as it gets: features that are off must not be missed.
fn users() -> Command {
    command(&["check", "-p", "tenure", "--no-default-features"])
}

/// An example, which runs to its end without arguments unless it is one to be run by hand.
struct Example {
    name: String,
    main: PathBuf,
}

impl Example {
    /// Runs what `cargo test` has built: another build would have other features, and take as long again.
    fn step(self, root: &Path) -> Step {
        let name = format!("example {}", self.name);
        if let Some(reason) = says(&self.main, "By hand") {
            return Step::new(name, What::LeftOut(reason));
        }
        let built = std::env::current_exe().unwrap_or_default().with_file_name("examples").join(self.name);
        let mut run = Command::new(built);
        run.current_dir(root);
        Step::new(name, What::Gate(run, None))
    }
}

/// Every example of every crate.
fn examples(root: &Path) -> Vec<Example> {
    targets(root, "examples").into_iter().map(|(_, name, main)| Example { name, main }).collect()
}

/// The targets in a folder of each crate: package, name and main file.
fn targets(root: &Path, folder: &str) -> Vec<(String, String, PathBuf)> {
    let target = |(package, path): (String, PathBuf)| {
        let name = path.file_stem()?.to_string_lossy().into_owned();
        let main = if path.is_dir() { path.join("main.rs") } else { path };
        (main.is_file() && main.extension()? == "rs").then_some((package, name, main))
    };
    inside(root, folder).into_iter().filter_map(target).collect()
}

/// What is in the folder `folder` of each crate, in order.
fn inside(root: &Path, folder: &str) -> Vec<(String, PathBuf)> {
    let crates = list(&root.join("crates")).into_iter().chain([root.join("xtask"), root.join("bench")]);
    let each = crates.flat_map(|package| {
        let name = package.file_name().unwrap_or_default().to_string_lossy().into_owned();
        list(&package.join(folder)).into_iter().map(move |path| (name.clone(), path))
    });
    each.collect()
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}
