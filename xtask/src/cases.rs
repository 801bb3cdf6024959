//! Which tests show which case of the catalogue of failures: a table made of the names of the tests.
//!
//! A test that is about a case has its number in its name, `c026`. So the table cannot say what is not so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where a case is shown, and by which test.
type Cases = BTreeMap<u32, BTreeSet<(String, String)>>;

/// Prints the table.
pub(crate) fn print(root: &Path) -> ExitCode {
    let mut cases = Cases::new();
    let mut files = Vec::new();
    rust_files(&root.join("crates"), &mut files);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let place = file.strip_prefix(root.join("crates")).unwrap_or(&file).display().to_string();
        tests(&text).for_each(|test| {
            for case in cases_in(test) {
                cases.entry(case).or_default().insert((place.clone(), test.to_owned()));
            }
        });
    }
    for (case, shown) in &cases {
        for (place, test) in shown {
            println!("{case:>4}  {place}  {test}");
        }
    }
    println!("{} cases, {} tests", cases.len(), cases.values().map(BTreeSet::len).sum::<usize>());
    ExitCode::SUCCESS
}

/// The names of the functions of a file.
fn tests(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let name = line.trim_start().trim_start_matches("async ").strip_prefix("fn ")?;
        name.split(['(', '<']).next()
    })
}

/// The numbers of cases in a name.
fn cases_in(name: &str) -> impl Iterator<Item = u32> {
    name.split('_').filter_map(|word| {
        let digits = word.strip_prefix('c')?;
        let whole = digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
        if whole { digits.parse().ok() } else { None }
    })
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_cases_are_read_from_the_names_of_tests() {
        let text =
            "#[test]\nfn c026_a_reply_is_lost() {\n}\n    async fn rule_1_x_c031_c032<S: Site>(s: &S) {\n";
        let names: Vec<_> = super::tests(text).collect();
        assert_eq!(names, ["c026_a_reply_is_lost", "rule_1_x_c031_c032"]);
        let numbers = |name| cases_in(name).collect::<Vec<_>>();
        assert_eq!(numbers(names[0]), [26]);
        assert_eq!(numbers(names[1]), [31, 32]);
        assert!(numbers("c1_cases_call_c12x").is_empty());
    }
}
