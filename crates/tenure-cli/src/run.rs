//! `tenure run`: a command under a lock, from the wish to the release.

use std::ffi::OsString;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tenure::{Busy, Fairness, Guard, Identity, Lock, Options, Outcome, Released, Tenure};

use crate::args::Run;
use crate::child::{self, Child, End, Variable};
use crate::connect::{Connected, connect};
use crate::duration::human;
use crate::exit::{Code, Failure};
use crate::report::{Report, Style, Weight};
use crate::signals::Signals;
use crate::supervise::{Ended, Limits, Supervisor};
use crate::terminal::Terminal;
use crate::view;
use crate::waiting::{self, Mine};

/// How long a place that is given back may keep us from ending.
const DRAIN: Duration = Duration::from_millis(500);

/// How a run ended.
struct Done {
    code: Code,
    /// ^C ended the command: we end likewise, so that a script around us stops as well.
    interrupted: bool,
}

impl From<Code> for Done {
    fn from(code: Code) -> Self {
        Self { code, interrupted: false }
    }
}

pub(crate) async fn run(mut args: Run) -> Result<Code, Failure> {
    let program = match &args.line {
        Some(line) => child::shell(line),
        None => std::mem::take(&mut args.command),
    };
    let style = match (args.json, args.verbose) {
        (true, _) => Style::Json,
        (false, true) => Style::Verbose,
        (false, false) => Style::Terse,
    };
    let mut report = Report::new(style, args.name.as_str());
    let mine = Mine::default();
    let mut options = Options::default().identity(Identity::with_command(&spoken(&args, &program)));
    if report.is_chatty() {
        let (mine, observer) = (mine.clone(), report.observer());
        options = options.observer(move |event: &tenure::event::Event| {
            mine.hear(event);
            observer(event);
        });
    }
    let connected = connect(args.engine.at.take(), options).await?;
    for caution in &connected.tenure.facts().cautions {
        report.tell(Weight::Detail, "caution", || json!({ "caution": caution }), || caution.clone());
    }
    let done = under_lock(&args, &program, &connected, &mine, &mut report).await;
    connected.tenure.shutdown(DRAIN).await;
    report.finish();
    let done = done?;
    if done.interrupted {
        // The key reached the command's group only. The shell script that we may be in heeds it when it gets the
        // signal too, and sees that we ended by it. Where that fails, the code says the same.
        let _ = rustix::process::kill_current_process_group(Signal::INT);
        let _ = signal_hook::low_level::emulate_default_handler(Signal::INT.as_raw());
    }
    Ok(done.code)
}

/// The command as others read it in `tenure status`.
fn spoken(args: &Run, program: &[OsString]) -> String {
    match &args.line {
        Some(line) => line.to_string_lossy().into_owned(),
        None => program.join(" ".as_ref()).to_string_lossy().into_owned(),
    }
}

async fn under_lock(
    args: &Run,
    program: &[OsString],
    connected: &Connected,
    mine: &Mine,
    report: &mut Report,
) -> Result<Done, Failure> {
    let mut signals = Signals::ending()?;
    let lock = lock(args, &connected.tenure);
    let outcome = tokio::select! {
        // A signal that comes with the grant still finds nothing started.
        biased;
        signal = signals.next() => {
            report.tell(
                Weight::Detail,
                "gave_up",
                || json!({"signal": signal.as_raw()}),
                || format!("gave up waiting for {}: signal {}", args.name, signal.as_raw()),
            );
            return Ok(Code::of_signal(signal.as_raw()).into());
        }
        outcome = acquire(&lock, args) => outcome,
        () = progress(&connected.tenure, args, mine, report) => return Err(Failure::internal("unreachable")),
    };
    match outcome.map_err(|error| connected.place.failure(&error))? {
        Outcome::Busy(busy) => Ok(say_busy(args, &connected.tenure, busy, report).await.into()),
        Outcome::Acquired(guard) => {
            ask_for_a_whole_lease(&guard, args).await;
            let started = start(args, program, connected, &guard, &mut signals, report);
            match started {
                Ok(child) => Ok(guarded(args, child, guard, signals, report).await),
                Err(failure) => {
                    // Nothing runs. If the engine cannot be told now, the keeper goes on telling it.
                    let _ = guard.release().await;
                    Err(failure)
                }
            }
        }
    }
}

fn lock(args: &Run, tenure: &Tenure) -> Lock {
    let name = args.name.as_str();
    let lock = match args.slots {
        Some(slots) => tenure.semaphore(name, slots).permit(),
        None if args.shared => tenure.rw_lock(name).read(),
        None => tenure.lock(name),
    };
    // There is only one claim in this process: nothing to hand over.
    let lock = lock.ttl(args.ttl.duration()).fairness(Fairness::StrictFifo);
    match args.max_hold {
        Some(max_hold) => lock.max_hold(max_hold),
        None => lock,
    }
}

async fn acquire(lock: &Lock, args: &Run) -> Result<Outcome, tenure::Error> {
    match args.wait {
        _ if args.nonblock => lock.try_acquire().await,
        Some(patience) => lock.wait_for(patience).await,
        None => lock.acquire().await.map(Outcome::Acquired),
    }
}

/// A hold that was waited for may begin on a short lease, which would end the command's time as soon as it begins.
async fn ask_for_a_whole_lease(guard: &Guard, args: &Run) {
    if let Some(left) = guard.remaining()
        && left < args.ttl.duration() / 2
    {
        // If it does not come in time, the hold is as long as it says, and is watched all the same.
        let _ = tokio::time::timeout(left / 2, guard.verify()).await;
    }
}

/// Never returns.
async fn progress(tenure: &Tenure, args: &Run, mine: &Mine, report: &mut Report) {
    if report.is_chatty() {
        waiting::tell_progress(tenure, args.name.as_str(), mine, report).await;
    }
    std::future::pending().await
}

/// Says who has the lock that was not to be had.
async fn say_busy(args: &Run, tenure: &Tenure, busy: Busy, report: &mut Report) -> Code {
    let line = tenure.inspect(args.name.as_str()).await.ok();
    let timed_out = args.wait.is_some_and(|patience| !patience.is_zero());
    let holder = match &line {
        Some(line) if !line.places.is_empty() => view::held_by(line),
        // It was given back in between, or cannot be read.
        _ => format!("{} is held by somebody else", args.name),
    };
    report.tell(
        Weight::Word,
        if timed_out { "timed_out" } else { "busy" },
        || {
            let line = line.as_ref().map_or(Value::Null, view::line_json);
            json!({"waited": busy.waited.as_secs_f64(), "ahead": busy.ahead, "line": line})
        },
        || match timed_out {
            true => format!("not acquired within -w {}: {holder}", human(args.wait.unwrap_or_default())),
            false => holder,
        },
    );
    match args.conflict_exit_code {
        Some(code) => Code::of(code),
        None if timed_out => Code::TIMED_OUT,
        None => Code::BUSY,
    }
}

/// Starts the command, unless the hold is stale already.
fn start(
    args: &Run,
    program: &[OsString],
    connected: &Connected,
    guard: &Guard,
    signals: &mut Signals,
    report: &mut Report,
) -> Result<Child, Failure> {
    let environment = environment(args, guard);
    report.tell(
        Weight::Detail,
        "acquired",
        || {
            json!({
                "token": guard.token().get(),
                "claim": guard.claim().to_string(),
                "slot": args.slots.map(|_| guard.slot()),
                "remaining": guard.remaining().map(|left| left.as_secs_f64()),
            })
        },
        || format!("acquired {} with token {}", args.name, guard.token()),
    );
    signals.take_all()?;
    let bequest = connected.bequest()?;
    guard.check().map_err(|loss| Failure::new(Code::LOST, format!("{loss}: nothing was run")))?;
    let child = Child::spawn(program, &environment)?;
    drop(bequest);
    Ok(child)
}

/// What the command may know of its lock.
fn environment(args: &Run, guard: &Guard) -> [Variable; 4] {
    let now = Duration::from_micros(u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or(0));
    let left = args.max_hold.or_else(|| guard.remaining());
    let deadline = left.map(|left| now.saturating_add(left));
    let deadline = deadline.map(|at| format!("{}.{:06}", at.as_secs(), at.subsec_micros()));
    [
        ("TENURE_NAME", Some(args.name.to_string())),
        ("TENURE_TOKEN", Some(guard.token().to_string())),
        // Of a lock around us, these would be lies.
        ("TENURE_DEADLINE", deadline),
        ("TENURE_SLOT", args.slots.map(|_| guard.slot().to_string())),
    ]
}

/// Guards the command to its end, and gives the lock back.
async fn guarded(
    args: &Run,
    mut child: Child,
    guard: Guard,
    mut signals: Signals,
    report: &mut Report,
) -> Done {
    // An engine whose holds end with a session may grant less than was asked for.
    let granted = guard.remaining().map_or(args.ttl.duration(), |left| left.min(args.ttl.duration()));
    let limits = Limits { ttl: granted, grace: args.grace, max_hold: args.max_hold };
    let supervisor = Supervisor::new(&mut child, &guard, &mut signals, report, Terminal::find(), limits);
    let Ended { end, cut, had_terminal } = supervisor.watch().await;
    let token = guard.token();
    let released = guard.release().await;
    if cut.is_some() {
        return Code::LOST.into();
    }
    match released {
        Ok(Released::Cleanly) => report.tell(
            Weight::Detail,
            "released",
            || json!({"token": token.get(), "code": end.code().number()}),
            || format!("released {}; the command ended with {}", args.name, end.code().number()),
        ),
        Ok(Released::AlreadyLost(loss)) => {
            let code = end.code().number();
            report.tell(
                Weight::Word,
                "lost",
                || json!({"cause": loss.cause.as_str(), "message": loss.to_string(), "code": code}),
                || format!("{loss}, before the command ended with {code}"),
            );
            return Code::LOST.into();
        }
        Err(error) => report.tell(
            Weight::Word,
            "release_failed",
            || json!({"message": error.to_string()}),
            || format!("{error}; the lock is free when its lease ends"),
        ),
    }
    Done { code: end.code(), interrupted: had_terminal && end == End::Killed(Signal::INT.as_raw()) }
}
