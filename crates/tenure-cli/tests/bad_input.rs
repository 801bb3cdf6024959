//! What cannot be right: each is refused in one line that names it, with its code, and leaves nothing behind.

mod support;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use support::{Bench, Ended};

#[track_caller]
fn refused(bench: &Bench, arguments: &[&str], code: i32, part: &str) {
    let ended = bench.end_of(arguments);
    assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
    assert!(ended.stderr.contains(part), "{arguments:?}: {part:?} is not in {}", ended.stderr);
    assert_one_line(&ended);
    assert_eq!(ended.stdout, "", "{arguments:?}");
}

#[track_caller]
fn assert_one_line(ended: &Ended) {
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert!(ended.stderr.starts_with("tenure: ") && ended.stderr.len() < 1_000, "{}", ended.stderr);
    assert!(!ended.stderr.trim_end().chars().any(char::is_control), "{:?}", ended.stderr);
}

#[test]
fn c114_a_name_that_cannot_be_one_is_refused() {
    let bench = Bench::new();
    let huge = "x".repeat(100_000);
    for (name, part) in [
        ("", "cannot be empty"),
        ("a\nb", "control character"),
        ("a\r\nb", "control character"),
        ("a\u{1b}[2Jb", "control character"),
        (huge.as_str(), "at most 512 bytes, this one has 100000"),
    ] {
        for verb in ["status", "break"] {
            refused(&bench, &[verb, name], 64, part);
        }
        refused(&bench, &["run", name, "--", "true"], 64, part);
    }
    let ended =
        bench.end_of([OsStr::new("run"), OsStr::from_bytes(b"a\xff"), "--".as_ref(), "true".as_ref()]);
    assert_one_line(&ended);
    assert!(ended.with_code(64).stderr.contains("UTF-8"));
    assert!(!bench.path("locks").exists(), "nothing was touched");
}

#[test]
fn c114_a_hostile_name_is_only_a_name() {
    let bench = Bench::new();
    let long = "x".repeat(512);
    for name in [
        "..",
        "/",
        "../../etc/passwd",
        "a/b",
        "{}",
        "%2f",
        "a b",
        "ключ",
        "🔒",
        "*",
        "$(id)",
        ".",
        long.as_str(),
    ] {
        let shown = bench.end_of(["run", "-n", name, "-c", "printf %s \"$TENURE_NAME\""]).with_code(0);
        assert_eq!(shown.stdout, name);
        bench.end_of(["status", name]).with_code(0);
    }
    bench.end_of(["run", "-n", "--", "-rf", "true"]).with_code(0);
}

#[test]
fn c021_durations_that_cannot_be_are_refused() {
    let bench = Bench::new();
    for bad in ["0", "0s", "-1", "-5s", "49ms", "8d", "1e12", "1000000000000s", "soon", ""] {
        refused(&bench, &["run", "--ttl", bad, "a", "--", "true"], 64, "--ttl");
    }
    for bad in ["0", "-1", "soon", "nan"] {
        refused(&bench, &["run", "--max-hold", bad, "a", "--", "true"], 64, "--max-hold");
    }
    for bad in ["-1", "inf", "1 month", "1e400"] {
        refused(&bench, &["run", "-w", bad, "a", "--", "true"], 64, "--wait");
        refused(&bench, &["run", "--grace", bad, "a", "--", "true"], 64, "--grace");
    }
    for good in ["0.5", "1.5s", "7d", "50ms"] {
        bench.end_of(["run", "--ttl", good, "a", "--", "true"]).with_code(0);
    }
    for huge in ["1000000000000", "1e18", "0.000001"] {
        bench
            .end_of(["run", "-w", huge, "--grace", huge, "--max-hold", "1e12", "a", "--", "true"])
            .with_code(0);
    }
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let bench = Bench::new();
    for bad in ["0", "-1", "4294967296", "many"] {
        refused(&bench, &["run", "--slots", bad, "a", "--", "true"], 64, "--slots");
    }
    for bad in ["256", "-1", "x"] {
        refused(&bench, &["run", "-E", bad, "a", "--", "true"], 64, "--conflict-exit-code");
    }
    refused(&bench, &["break", "--claim", "17", "a"], 64, "--claim");
}

#[test]
fn flags_that_contradict_are_refused() {
    let bench = Bench::new();
    refused(&bench, &["run", "-s", "-x", "a", "--", "true"], 64, "--exclusive");
    refused(&bench, &["run", "-s", "--slots", "2", "a", "--", "true"], 64, "--slots");
    refused(&bench, &["run", "-n", "-w", "1", "a", "--", "true"], 64, "--wait");
    refused(&bench, &["run", "a", "-c", "true", "--", "true"], 64, "--command");
    refused(&bench, &["run", "--sloots", "2", "a", "--", "true"], 64, "--sloots");
    refused(&bench, &["run", "a"], 64, "COMMAND");
    refused(&bench, &["run", "a", "--", ""], 127, "not found");
    refused(&bench, &["walk"], 64, "walk");
    bench.assert_free("a");
}

#[test]
fn an_engine_that_cannot_be_is_refused() {
    let bench = Bench::new();
    for (url, part) in [
        ("carrier-pigeon://loft", "carrier-pigeon"),
        ("nothing", "no scheme"),
        ("", "--at is empty"),
        ("local:relative/path", "relative"),
        ("local://host/path", "host"),
        ("local:?speed=high", "speed"),
        ("memory:more", "memory:"),
    ] {
        refused(&bench, &["run", "--at", url, "a", "--", "true"], 64, part);
        refused(&bench, &["list", "--at", url], 64, part);
    }
    let mut command = bench.tenure(["list"]);
    let ended = bench.start(command.env("TENURE_URL", "")).ended().with_code(64);
    assert!(ended.stderr.contains("TENURE_URL is empty"), "{}", ended.stderr);
    let ended = bench.start(command.env("TENURE_URL", OsStr::from_bytes(b"\xff"))).ended().with_code(64);
    assert!(ended.stderr.contains("TENURE_URL"), "{}", ended.stderr);
}

#[test]
fn a_directory_that_cannot_be_used_is_refused() {
    let bench = Bench::new();
    let at = |name: &str| format!("local://{}", bench.path(name).display());
    refused(&bench, &["run", "--at", &at("no/such/parent"), "a", "--", "true"], 122, "no/such/parent");
    std::fs::write(bench.path("file"), "text").unwrap();
    refused(&bench, &["run", "--at", &at("file"), "a", "--", "true"], 123, "file");
    std::fs::create_dir(bench.path("foreign")).unwrap();
    std::fs::write(bench.path("foreign/thesis.tex"), "precious").unwrap();
    refused(&bench, &["run", "--at", &at("foreign"), "a", "--", "true"], 123, "foreign");
    assert_eq!(std::fs::read_to_string(bench.path("foreign/thesis.tex")).unwrap(), "precious");
    std::fs::create_dir(bench.path("open")).unwrap();
    std::fs::set_permissions(bench.path("open"), std::fs::Permissions::from_mode(0o777)).unwrap();
    refused(&bench, &["run", "--at", &at("open"), "a", "--", "true"], 123, "open");
    refused(&bench, &["run", "--at", "local:///proc/tenure", "a", "--", "true"], 122, "/proc/tenure");
}

#[test]
fn c099_a_corrupt_lock_file_is_refused_and_kept() {
    let bench = Bench::new();
    bench.end_of(["run", "a", "--", "true"]).with_code(0);
    let file = bench.path("locks/keys/a");
    std::fs::write(&file, "garbage").unwrap();
    refused(&bench, &["run", "a", "--", "true"], 123, "locks/keys/a");
    refused(&bench, &["status", "a"], 123, "locks/keys/a");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "garbage");
    bench.end_of(["run", "b", "--", "true"]).with_code(0);
}

#[test]
fn help_and_version_are_no_errors() {
    let bench = Bench::new();
    let help = bench.end_of(["run", "--help"]).with_code(0);
    for part in ["Exit codes:", "TENURE_TOKEN", "Examples:", "124"] {
        assert!(help.stdout.contains(part), "{part}");
    }
    bench.end_of(["--version"]).with_code(0);
    bench.end_of::<&str>([]).with_code(64);
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let bench = Bench::new();
    let held = bench.hold(&[], "a");
    let script = format!("{} list | true", env!("CARGO_BIN_EXE_tenure"));
    let mut command = std::process::Command::new("bash");
    command.args(["-o", "pipefail", "-c", &script]).env("TENURE_URL", bench.url());
    bench.start(&mut command).ended().with_code(0);
    held.release();
}
