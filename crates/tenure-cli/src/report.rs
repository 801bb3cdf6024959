//! What `tenure` says of itself: on stderr, as sentences or as JSON lines.
//!
//! While a command runs, nothing may block whoever guards it. A pager or a full pipe behind stderr would; so the
//! lines are written by a thread of their own, which only starts with the first line.

use std::io::Write;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use serde_json::{Value, json};
use tenure::event::{Event, What};

use crate::duration::human;
use crate::exit::Failure;
use crate::view;

/// How long the last lines may take to be written.
const PATIENCE: Duration = Duration::from_millis(500);

/// How much is said, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Only what changes the outcome.
    Terse,
    /// All there is.
    Verbose,
    /// All there is, for machines.
    Json,
}

/// How much a message matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// It explains the outcome.
    Word,
    /// Nice to know.
    Detail,
}

/// What speaks for one `tenure run`.
pub(crate) struct Report {
    style: Style,
    name: String,
    writer: Option<(Sender<String>, Receiver<()>)>,
}

impl Report {
    pub(crate) fn new(style: Style, name: &str) -> Self {
        Self { style, name: name.to_owned(), writer: None }
    }

    pub(crate) fn is_chatty(&self) -> bool {
        self.style != Style::Terse
    }

    /// Says what happened: `text` for people, `event` with `fields` for machines.
    pub(crate) fn tell(
        &mut self,
        weight: Weight,
        event: &str,
        fields: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
    ) {
        let line = match self.style {
            Style::Terse if weight == Weight::Detail => return,
            Style::Terse | Style::Verbose => format!("tenure: {}\n", view::clean(&text())),
            Style::Json => json_line(event, &self.name, fields()),
        };
        // Without a writer there is nobody to tell that there is none.
        let _ = self.writer().send(line);
    }

    /// Hears the events of the client that explain an outcome.
    pub(crate) fn observer(&mut self) -> impl Fn(&Event) + Send + Sync + 'static {
        let (style, name) = (self.style, self.name.clone());
        let writer = std::sync::Mutex::new(self.writer().clone());
        move |event: &Event| {
            let Some((kind, fields, text)) = explain(&event.what) else { return };
            let line = match style {
                Style::Json => json_line(kind, &name, fields),
                _ => format!("tenure: {}\n", view::clean(&text)),
            };
            if let Ok(writer) = writer.lock() {
                let _ = writer.send(line);
            }
        }
    }

    fn writer(&mut self) -> &Sender<String> {
        let (sender, _) = self.writer.get_or_insert_with(|| {
            let (sender, lines) = mpsc::channel::<String>();
            let (done, written) = mpsc::channel();
            // A machine that cannot start a thread has other troubles than our words.
            let _ = std::thread::Builder::new().name("tenure-report".to_owned()).spawn(move || {
                for line in lines {
                    let empty = line.is_empty();
                    let _ = std::io::stderr().write_all(line.as_bytes());
                    if empty {
                        let _ = done.send(());
                    }
                }
            });
            (sender, written)
        });
        sender
    }

    /// Lets the last lines be written, but does not wait for a reader that is stuck.
    pub(crate) fn finish(self) {
        if let Some((sender, written)) = self.writer {
            let _ = sender.send(String::new());
            let _ = written.recv_timeout(PATIENCE);
        }
    }

    /// Says why nothing was done, or not all: the last words.
    pub(crate) fn failed(json: bool, failure: &Failure) {
        let message = view::clean(&failure.message);
        let line = if json {
            format!("{}\n", json!({"event": "error", "code": failure.code.number(), "message": message}))
        } else {
            format!("tenure: {message}\n")
        };
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

fn json_line(event: &str, name: &str, fields: Value) -> String {
    let mut line = json!({"event": event, "name": name});
    if let (Value::Object(line), Value::Object(fields)) = (&mut line, fields) {
        line.extend(fields);
    }
    format!("{line}\n")
}

/// What an event of the client tells about the outcome, if anything.
fn explain(what: &What) -> Option<(&'static str, Value, String)> {
    Some(match what {
        What::RenewalFailed { error } => (
            "renewal_failed",
            json!({"message": error}),
            format!("cannot renew, and will try again: {error}"),
        ),
        What::NearMiss { left } => (
            "near_miss",
            json!({"left": left.as_secs_f64()}),
            format!("renewed with only {} left", human(*left)),
        ),
        What::Suspect { left } => (
            "suspect",
            json!({"left": left.as_secs_f64()}),
            format!("the engine is silent, and the hold ends in {}", human(*left)),
        ),
        What::Stalled { gap } => (
            "stalled",
            json!({"gap": gap.as_secs_f64()}),
            format!("this process was not run for {}", human(*gap)),
        ),
        What::WithdrawFailed { error, .. } => {
            ("release_failed", json!({"message": error}), format!("cannot give the place back: {error}"))
        }
        _ => return None,
    })
}

/// Writes data to stdout. A reader that went away has seen enough.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::internal(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}
