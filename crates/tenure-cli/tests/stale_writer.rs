//! The story of the stale writer comes out as it is told, with the gate and without.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::process::Output;

use support::tell;

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn c001_a_stale_writer_is_told_and_refused_by_the_gate() {
    let output = tell(&[]);
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    for expected in [
        "an operator broke it",
        "is refused: fencing token",
        "the balance is 150\n=> the gate refused the stale write",
    ] {
        assert!(said.contains(expected), "{expected:?} in\n{said}");
    }
}

#[test]
fn c001_without_the_gate_an_update_is_lost() {
    let output = tell(&["--no-gate"]);
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("the balance is 130\n=> without the gate"), "{said}");
    assert!(!said.contains("is refused"), "{said}");
}
