//! No engine and no rule escapes the suite.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tenure_conformance::catalogue;

/// Engines that wrap another one, or stand in for the network: what they wrap is in the suite.
const WRAPPERS: [&str; 3] = ["Distant", "Faulty", "Net"];

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the folder of all crates").to_owned()
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The sources or the tests of all crates of the workspace.
fn sources(part: &str) -> BTreeMap<PathBuf, String> {
    let krates = std::fs::read_dir(crates()).unwrap();
    krates.flat_map(|krate| sources_in(&krate.unwrap().path().join(part))).collect()
}

fn sources_in(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut files = Vec::new();
    rust_files(folder, &mut files);
    files.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// The types for which a text implements the contract.
fn engines(text: &str) -> BTreeSet<String> {
    let headers = text.lines().filter(|line| line.starts_with("impl"));
    let engines = headers.filter_map(|line| line.split_once(" Engine for ").map(|(_, name)| name));
    engines.map(|name| name.chars().take_while(|c| c.is_alphanumeric()).collect()).collect()
}

/// The names of the engines on which a test target runs the suite.
fn runs(text: &str) -> BTreeSet<String> {
    // In two parts, so that this line is not a call itself.
    let call = concat!("tenure_conformance::", "run(");
    let calls = text.split(call).skip(1);
    let names = calls.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
    names.map(str::to_owned).collect()
}

/// The skips of each engine, with their reasons.
fn expected_skips() -> BTreeMap<String, BTreeMap<String, String>> {
    toml::from_str(include_str!("../conformance.toml")).unwrap()
}

#[test]
fn no_engine_escapes_the_suite() {
    let engines: BTreeSet<String> = sources("src").values().flat_map(|text| engines(text)).collect();
    assert!(
        engines.contains("Memory") && engines.contains("Faulty"),
        "the search finds nothing: {engines:?}"
    );
    let targets = sources("tests");
    let targets: BTreeMap<String, &PathBuf> = targets
        .iter()
        .flat_map(|(path, text)| runs(text).into_iter().map(move |name| (name, path)))
        .collect();
    let expected: BTreeSet<String> = engines
        .iter()
        .filter(|name| !WRAPPERS.contains(&name.as_str()))
        .map(|name| name.to_lowercase())
        .collect();
    let tried: BTreeSet<String> = targets.keys().cloned().collect();
    assert_eq!(tried, expected, "each engine has one test target that runs the suite, of its name");
    for (name, path) in targets {
        let krate = path.ancestors().find(|folder| folder.join("Cargo.toml").exists()).unwrap();
        let manifest = std::fs::read_to_string(krate.join("Cargo.toml")).unwrap();
        let manifest: toml::Table = toml::from_str(&manifest).unwrap();
        // A site that several targets share is in a folder beside them.
        let mut mains = sources_in(&krate.join("tests"));
        mains
            .retain(|path, text| path.parent() == Some(&krate.join("tests")) && text.contains("\nfn main()"));
        assert!(!mains.is_empty(), "{}: nothing runs the suite of {name}", path.display());
        for target in mains.keys() {
            assert!(
                runs_by_itself(&manifest, target.file_stem().unwrap().to_str().unwrap()),
                "{}: with a harness the suite of {name} would not run",
                target.display()
            );
        }
    }
}

/// Whether a test target is run, and has no harness.
fn runs_by_itself(manifest: &toml::Table, target: &str) -> bool {
    let tests = manifest.get("test").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    tests.iter().any(|test| {
        test.get("name").and_then(toml::Value::as_str) == Some(target)
            && test.get("harness").and_then(toml::Value::as_bool) == Some(false)
            && test.get("test").and_then(toml::Value::as_bool) != Some(false)
    })
}

#[test]
fn every_rule_of_the_contract_is_tried_on_every_engine() {
    let contract = std::fs::read_to_string(crates().join("tenure-core/src/engine/mod.rs")).unwrap();
    let rules = contract.lines().skip_while(|line| *line != "//! # The rules");
    let numbers = rules.take_while(|line| line.starts_with("//!")).filter_map(|line| {
        line.strip_prefix("//! ")?.split_once(". ").and_then(|(number, _)| number.parse::<usize>().ok())
    });
    let numbers: Vec<usize> = numbers.collect();
    assert!(numbers.len() >= 8 && numbers.iter().copied().eq(1..=numbers.len()), "{numbers:?}");
    for (engine, skips) in expected_skips() {
        for number in &numbers {
            let rule = format!("rule_{number}_");
            let tried =
                catalogue().iter().any(|case| case.name.starts_with(&rule) && !skips.contains_key(case.name));
            assert!(tried, "no case of rule {number} runs on {engine}");
        }
    }
}

#[test]
fn trials_have_names_of_their_own() {
    let names: BTreeSet<_> = catalogue().iter().map(|case| case.name).collect();
    assert_eq!(names.len(), catalogue().len());
}

#[test]
fn every_expected_skip_names_a_trial_that_may_be_skipped() {
    for (engine, skips) in expected_skips() {
        for (name, reason) in skips {
            let known = catalogue().iter().any(|case| case.name == name && case.conditional);
            assert!(known, "[{engine}] {name} is no trial that depends on anything");
            assert!(!reason.is_empty());
        }
    }
}
