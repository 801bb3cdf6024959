//! The runner: trials from facts, visible skips, and a check that the skips are those expected.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use libtest_mimic::{Arguments, Completion, Trial};
use tenure_core::engine::Engine;

use crate::MemorySite;
use crate::cases::{self, Case};
use crate::site::Site;
use crate::stage::Stage;
use crate::tools;

/// How long a trial may take, on however busy a machine.
const TRIAL_LIMIT: Duration = Duration::from_secs(120);

/// Trials mostly wait for leases to end, so many run at once.
const THREADS: usize = 16;

thread_local! {
    static TRIAL: Cell<&'static str> = const { Cell::new("") };
}

/// The name of the trial for which a site is being opened on this thread. All keys of a trial have its name in theirs,
/// `conformance/<random>/<trial>/…`, so that sites that share a server can make it forget one trial alone.
#[must_use]
pub fn trial_name() -> &'static str {
    TRIAL.get()
}

/// Which skips are expected, with their reasons: `[engine]`, then `trial = "reason"`.
type Expected = BTreeMap<String, BTreeMap<String, String>>;

/// Runs the suite against the engine `name`, whose sites `open` opens, as the main function of a test target without
/// a harness.
///
/// # Panics
/// When a site cannot be opened: a missing server is a failure, not a skip.
pub fn run<S, F>(name: &'static str, open: impl Fn() -> F + Send + Sync + 'static) -> ExitCode
where
    S: Site,
    F: Future<Output = S>,
{
    run_variant(name, name, open)
}

/// The same for an engine that can be configured to promise something else: with the skips of another section of
/// conformance.toml than the one of its name.
///
/// # Panics
/// As [`run`].
pub fn run_variant<S, F>(
    name: &'static str,
    section: &'static str,
    open: impl Fn() -> F + Send + Sync + 'static,
) -> ExitCode
where
    S: Site,
    F: Future<Output = S>,
{
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let open = Arc::new(open);
    let planned = runtime().block_on(plan::<S, F>(name, open.as_ref()));
    if let Err(complaint) = check_skips(section, &planned) {
        eprintln!("{complaint}");
        return ExitCode::FAILURE;
    }
    let trials = planned.into_iter().map(|(case, skip)| trial(case, skip, Arc::clone(&open))).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Each trial, with the reason if it is to be skipped.
async fn plan<S: Site, F: Future<Output = S>>(
    name: &str,
    open: &impl Fn() -> F,
) -> Vec<(Case<S>, Option<String>)> {
    let site = open().await;
    let facts = Engine::facts(&site.client().await);
    assert_eq!(facts.engine, name, "the suite was asked to run {name} and was given {}", facts.engine);
    let planned = |case: Case<S>| {
        let why = case.needs.iter().find_map(|need| need.unmet(&facts, &site));
        (case, why)
    };
    cases::all::<S>().into_iter().map(planned).collect()
}

fn trial<S, F>(
    case: Case<S>,
    skip: Option<String>,
    open: Arc<impl Fn() -> F + Send + Sync + 'static>,
) -> Trial
where
    S: Site,
    F: Future<Output = S>,
{
    Trial::ignorable_test(case.name, move || {
        if let Some(why) = skip {
            return Ok(Completion::ignored_with(why));
        }
        TRIAL.set(case.name);
        let runtime = runtime();
        runtime.block_on(async {
            let trial = async {
                let stage = Stage::new(case.name, open().await).await;
                (case.run)(&stage).await;
                stage.assert_clean().await;
            };
            tokio::time::timeout(TRIAL_LIMIT, trial).await.map_err(|_| "the trial did not end".to_owned())
        })?;
        // Whatever still blocks one of its threads must not block the suite.
        runtime.shutdown_background();
        Ok(Completion::Completed)
    })
}

/// Runs one trial against the reference engine, on this thread alone, and says how it failed. For tests of the suite
/// itself: a flaw is planted in one thread.
///
/// # Errors
/// What the trial complained of.
///
/// # Panics
/// When there is no such trial.
pub fn try_on_memory(trial: &str) -> Result<(), String> {
    let case = cases::all::<MemorySite>().into_iter().find(|case| case.name == trial);
    let case = case.expect("a trial of the catalogue");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let trial = AssertUnwindSafe(async {
        let stage = Stage::new(case.name, MemorySite::default()).await;
        (case.run)(&stage).await;
    });
    tools::impatiently(|| runtime.block_on(trial.catch_unwind())).map_err(|complaint| {
        let text = complaint.downcast_ref::<String>().cloned();
        text.or_else(|| complaint.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// A skip that is not expected hides a promise that was dropped; an expected one that is gone hides nothing, but the
/// list must stay true.
fn check_skips<S: Site>(name: &str, planned: &[(Case<S>, Option<String>)]) -> Result<(), String> {
    let expected: Expected = toml::from_str(include_str!("../conformance.toml"))
        .map_err(|error| format!("conformance.toml cannot be read: {error}"))?;
    let expected = expected.get(name).ok_or_else(|| format!("conformance.toml has no section [{name}]"))?;
    let actual: BTreeMap<_, _> = planned
        .iter()
        .filter_map(|(case, skip)| skip.as_ref().map(|why| (case.name.to_owned(), why.clone())))
        .collect();
    if actual == *expected {
        return Ok(());
    }
    let mut complaint = format!("the skips of {name} are not those of conformance.toml\n");
    for (case, why) in actual.iter().filter(|(case, why)| expected.get(*case) != Some(why)) {
        complaint += &format!("  not expected: {case} = {why:?}\n");
    }
    for (case, why) in expected.iter().filter(|(case, why)| actual.get(*case) != Some(why)) {
        complaint += &format!("  expected:     {case} = {why:?}\n");
    }
    Err(complaint)
}
