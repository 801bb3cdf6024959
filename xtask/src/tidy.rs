//! The style that no other tool checks.
//!
//! A rule that nobody checks is a wish. Each check here is one function from what is in the repository to what is
//! wrong with it, so that a new rule is a few lines and has a test.

use std::path::{Path, PathBuf};

/// Files whose code without tests is longer than [`LINES_MAX`], each with its reason.
const LONG_FILES: &[(&str, &str)] = &[("crates/tenure-etcd/src/rpc/etcdserverpb.rs", "generated")];

/// The only crate that may contain `unsafe`, in at most one file: a child process needs settings that only
/// `pre_exec` can make.
const UNSAFE_CRATE: &str = "crates/tenure-cli/";

const LINES_MAX: usize = 500;
const COLUMNS_MAX: usize = 120;

/// What must not be in code; in two pieces each, so that this file passes.
const BANNED: &[(&str, &str)] = &[
    ("todo", "!("),
    ("unimplemented", "!("),
    ("dbg", "!("),
    ("#[ign", "ore"),
    ("TO", "DO"),
    ("FIX", "ME"),
    ("back", "end"), // The word is engine.
];

/// Names that others have given.
const FOREIGN: &[&str] =
    &["pg_backend_pid", "pg_terminate_backend", "pg_cancel_backend", "backend_start", "backend_type"];

/// Where people and machines keep their copies of a repository; none of them is anybody else's business.
const HOMES: &[&str] = &["root", "home", "Users", "work", "workspace", "builds"];

/// A text file of the repository, by its path from the root.
struct Text {
    path: String,
    text: String,
}

/// Checks the repository, prints what is wrong, and says whether nothing is.
pub(crate) fn check(root: &Path) -> bool {
    let texts = read_all(root);
    let mut wrong: Vec<String> = texts.iter().flat_map(|text| lines(text).chain(whole(text))).collect();
    wrong.extend(links(root, &texts));
    wrong.extend(decisions(&texts));
    wrong.extend(cited_tests(&texts));
    wrong.extend(manifests(&texts));
    wrong.extend(unsafe_code(&texts));
    wrong.sort();
    for line in &wrong {
        println!("{line}");
    }
    wrong.is_empty() && !texts.is_empty()
}

/// All text files but what is built or hidden.
fn read_all(root: &Path) -> Vec<Text> {
    let mut texts = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let is_hidden =
                name.starts_with('.') && ![".ci", ".cargo", ".gitignore"].contains(&name.as_str());
            if is_hidden || ["target", "out"].contains(&name.as_str()) {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let path = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                texts.push(Text { path, text });
            }
        }
    }
    texts
}

/// Line by line: width, blanks, banned words, paths of somebody's machine.
fn lines(text: &Text) -> impl Iterator<Item = String> {
    let is_code = text.path.ends_with(".rs");
    let is_prose = text.path.ends_with(".md");
    text.text.lines().enumerate().flat_map(move |(at, line)| {
        let is_table = is_prose && line.trim_start().starts_with('|');
        let mut wrong = Vec::new();
        if (is_code || is_prose) && !is_table && line.chars().count() > COLUMNS_MAX {
            wrong.push(format!("more than {COLUMNS_MAX} columns"));
        }
        if line.ends_with([' ', '\t']) || (line.contains('\t') && (is_code || is_prose)) {
            wrong.push("a tab, or a blank at the end".to_owned());
        }
        let banned =
            BANNED.iter().map(|(head, tail)| format!("{head}{tail}")).filter(|_| is_code || is_prose);
        let ours = FOREIGN.iter().fold(line.to_owned(), |line, name| line.replace(name, ""));
        wrong.extend(
            banned.filter(|word| ours.contains(word)).map(|word| format!("{word:?} is not to be used")),
        );
        let homes =
            HOMES.iter().map(|home| format!("/{home}/")).filter(|home| names_machine_path(line, home));
        wrong.extend(homes.map(|home| format!("a path on somebody's machine, {home}")));
        let path = text.path.clone();
        wrong.into_iter().map(move |what| format!("{path}:{}: {what}", at + 1))
    })
}

/// Whether a line has an absolute path that begins with `home`; `x/home/` and `https://x/home/` are none.
fn names_machine_path(line: &str, home: &str) -> bool {
    line.match_indices(home).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !"._-/*}>~$".contains(c))
    })
}

/// The file as a whole: its length, its last line, the vow of a crate root.
fn whole(text: &Text) -> Vec<String> {
    let path = &text.path;
    let mut wrong = Vec::new();
    if !text.text.is_empty() && !text.text.ends_with('\n') {
        wrong.push(format!("{path}: no newline at the end"));
    }
    let is_test = ["/tests/", "/src/cases/"].iter().any(|folder| path.contains(folder));
    let code = text.text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
    let excused = LONG_FILES.iter().any(|(long, _)| long == path);
    if path.ends_with(".rs") && !is_test && code > LINES_MAX && !excused {
        wrong.push(format!("{path}: {code} lines without tests: divide it, or give a reason in LONG_FILES"));
    }
    let is_root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs") || path.contains("/src/bin/");
    let vow =
        if path.starts_with(UNSAFE_CRATE) { "#![deny(unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
    let strict = text.text.contains("#![forbid(unsafe_code)]");
    if is_root && !text.text.contains(vow) && !strict {
        wrong.push(format!("{path}: a crate root has {vow}"));
    }
    wrong
}

/// Every relative link of the prose leads somewhere.
fn links(root: &Path, texts: &[Text]) -> Vec<String> {
    let mut wrong = Vec::new();
    for text in texts.iter().filter(|text| text.path.ends_with(".md")) {
        let folder: PathBuf = root.join(&text.path).parent().unwrap_or(root).to_owned();
        for target in link_targets(&text.text) {
            let file = target.split('#').next().unwrap_or_default();
            let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !is_elsewhere && !file.is_empty() && !folder.join(file).exists() {
                wrong.push(format!("{}: the link to {target} leads nowhere", text.path));
            }
        }
    }
    wrong
}

fn link_targets(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    let after = prose.flat_map(|prose| prose.split("](").skip(1));
    after.filter_map(|rest| rest.split([')', '\n']).next()).collect()
}

/// Decisions are numbered, none like another, and each is in their list. Numbers may be missing: several are taken at
/// the same time, and not all become a decision.
fn decisions(texts: &[Text]) -> Vec<String> {
    let is_decision = |name: &&str| name.ends_with(".md") && *name != "README.md";
    let names = texts.iter().filter_map(|text| text.path.strip_prefix("docs/adr/")).filter(is_decision);
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    let list = texts.iter().find(|text| text.path == "docs/adr/README.md").map_or("", |list| &list.text);
    let mut wrong = Vec::new();
    let mut last = String::new();
    for name in names {
        let (number, _) = name.split_once('-').unwrap_or((name, ""));
        if number.len() != 4 || number.parse::<u16>().is_err() {
            wrong.push(format!("docs/adr/{name}: a decision's name begins with its number, in four digits"));
        }
        if std::mem::replace(&mut last, number.to_owned()) == number {
            wrong.push(format!("docs/adr/{name}: another decision has this number"));
        }
        if !list.contains(&format!("({name})")) {
            wrong.push(format!("docs/adr/README.md: no link to {name}"));
        }
    }
    wrong
}

/// A test that the prose names exists. Whatever has three underscores or more in it is taken for one.
fn cited_tests(texts: &[Text]) -> Vec<String> {
    let prose = texts.iter().filter(|text| text.path.ends_with(".md"));
    let cited =
        prose.flat_map(|text| text.text.split('`').skip(1).step_by(2).map(move |word| (&text.path, word)));
    let is_name =
        |word: &str| word.bytes().all(|b| b == b'_' || b.is_ascii_lowercase() || b.is_ascii_digit());
    let tests = cited.filter(|(_, word)| is_name(word) && word.matches('_').count() >= 3);
    let exists = |name: &str| {
        let forms = [format!("fn {name}("), format!("fn {name}<"), format!("\"{name}\"")];
        texts.iter().any(|t| t.path.ends_with(".rs") && forms.iter().any(|form| t.text.contains(form)))
    };
    let missing = tests.filter(|(_, name)| !exists(name));
    missing.map(|(path, name)| format!("{path}: there is no test {name}")).collect()
}

/// One version for all crates, and the exact dependencies of what was tested.
fn manifests(texts: &[Text]) -> Vec<String> {
    let mut wrong = Vec::new();
    if !texts.iter().any(|text| text.path == "Cargo.lock") {
        wrong.push("Cargo.lock: is missing".to_owned());
    }
    if texts.iter().any(|text| text.path == ".gitignore" && text.text.contains("Cargo.lock")) {
        wrong.push(".gitignore: Cargo.lock is to be committed".to_owned());
    }
    for text in texts.iter().filter(|text| text.path.ends_with("/Cargo.toml")) {
        for inherited in ["version.workspace = true", "[lints]\nworkspace = true"] {
            if !text.text.contains(inherited) {
                wrong.push(format!("{}: {inherited:?} is missing", text.path));
            }
        }
    }
    wrong
}

/// `unsafe` is allowed in one file of one crate, and nowhere else.
fn unsafe_code(texts: &[Text]) -> Vec<String> {
    let allow = ["allow", "(unsafe_code"].concat();
    let allowing = texts.iter().filter(|text| text.path.ends_with(".rs") && text.text.contains(&allow));
    let (home, elsewhere): (Vec<_>, Vec<_>) = allowing.partition(|text| text.path.starts_with(UNSAFE_CRATE));
    let too_many = home.into_iter().skip(1);
    too_many.chain(elsewhere).map(|text| format!("{}: allows unsafe code", text.path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str, text: &str) -> Text {
        Text { path: path.to_owned(), text: text.to_owned() }
    }

    fn wrong_lines(path: &str, line: &str) -> usize {
        lines(&text(path, line)).count()
    }

    #[test]
    fn lines_that_nobody_wants_are_found_where_they_matter() {
        let banned = ["    to", "do!()"].concat();
        assert_eq!(wrong_lines("a.rs", &banned), 1);
        assert_eq!(wrong_lines("a.rs", "let a = 1; "), 1);
        assert_eq!(wrong_lines("a.md", "a\tb"), 1);
        assert_eq!(wrong_lines("a.rs", &"x".repeat(121)), 1);
        assert_eq!(wrong_lines("a.rs", &"é".repeat(120)), 0);
        assert_eq!(wrong_lines("a.md", &format!("| {} |", "x".repeat(200))), 0);
        assert_eq!(wrong_lines("Cargo.lock", &"x".repeat(200)), 0);
    }

    #[test]
    fn paths_of_a_machine_are_told_from_other_paths() {
        assert_eq!(wrong_lines("a.md", &["see /ho", "me/me/notes"].concat()), 1);
        assert_eq!(wrong_lines("a.md", &["`/ro", "ot/x`"].concat()), 1);
        for fine in
            ["https://x.example/home/page", "src/home/x.rs", "../home/x", "$DIR/root/x", "/run/lock/x"]
        {
            assert_eq!(wrong_lines("a.md", fine), 0, "{fine}");
        }
    }

    #[test]
    fn a_file_is_short_and_a_crate_root_vows_to_be_safe() {
        assert_eq!(whole(&text("a/src/x.rs", &"\n".repeat(501))).len(), 1);
        let tested = format!("{}#[cfg(test)]\n{}", "\n".repeat(500), "\n".repeat(500));
        assert!(whole(&text("a/src/x.rs", &tested)).is_empty());
        assert!(whole(&text("a/tests/x.rs", &"\n".repeat(501))).is_empty());
        assert_eq!(whole(&text("a/src/lib.rs", "fn f() {}\n")).len(), 1);
        assert!(whole(&text("a/src/lib.rs", "#![forbid(unsafe_code)]\n")).is_empty());
        assert!(whole(&text("crates/tenure-cli/src/main.rs", "#![deny(unsafe_code)]\n")).is_empty());
        assert_eq!(whole(&text("a.md", "no end")).len(), 1);
    }

    #[test]
    fn links_are_found_in_prose_and_not_in_code() {
        let prose = "[a](b.md#c) and ![d](e.svg)\n```rust\nf[0](x)\n```\n[g](h)";
        assert_eq!(link_targets(prose), ["b.md#c", "e.svg", "h"]);
    }

    #[test]
    fn decisions_are_numbered_and_listed() {
        let list = text("docs/adr/README.md", "[one](0001-one.md)\n");
        let one = text("docs/adr/0001-one.md", "");
        assert!(decisions(&[list, one]).is_empty());
        assert_eq!(decisions(&[text("docs/adr/three.md", "")]).len(), 2);
        let list = text("docs/adr/README.md", "[one](0003-one.md) and [two](0003-two.md)\n");
        let twice = [list, text("docs/adr/0003-one.md", ""), text("docs/adr/0003-two.md", "")];
        assert_eq!(decisions(&twice).len(), 1);
    }

    #[test]
    fn a_cited_test_must_exist() {
        let page = text("a.md", "`c001_it_is_so` and `not_one` and `Some_Thing_Of_Rust`");
        assert_eq!(cited_tests(&[page]).len(), 1);
        let page = text("a.md", "`c001_it_is_so`, `rule_1_it_is_named`");
        let code = text("a.rs", "fn c001_it_is_so() {}\nTrial::test(\"rule_1_it_is_named\", f)\n");
        assert!(cited_tests(&[page, code]).is_empty());
    }

    #[test]
    fn unsafe_code_has_one_place() {
        let allow = ["#![allow", "(unsafe_code)]"].concat();
        let home = |name: &str| text(&format!("{UNSAFE_CRATE}src/{name}"), &allow);
        assert!(unsafe_code(&[home("child.rs")]).is_empty());
        assert_eq!(unsafe_code(&[home("child.rs"), home("other.rs")]).len(), 1);
        assert_eq!(unsafe_code(&[text("crates/tenure/src/lib.rs", &allow)]).len(), 1);
    }
}
