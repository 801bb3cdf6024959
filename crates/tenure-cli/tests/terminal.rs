//! Job control, at a real terminal with a real shell.

#![allow(clippy::unwrap_used, reason = "the helpers are for tests as well")]

mod support;

use std::io::{Read, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use support::{Bench, Running, until};

/// An interactive shell at a terminal of its own.
struct Session {
    keys: ChildStdin,
    screen: Arc<Mutex<String>>,
    seen: usize,
    _script: Running,
}

impl Session {
    fn open(bench: &Bench) -> Self {
        let mut command = Command::new("script");
        command.args(["-qec", "bash --norc --noprofile -i", "/dev/null"]);
        command
            .env("TENURE_URL", bench.url())
            .env("TERM", "dumb")
            .env("PS1", "ready> ")
            .env("SHELL", "/bin/sh");
        command.env("TENURE", env!("CARGO_BIN_EXE_tenure")).current_dir(bench.path("."));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut script = command
            .spawn()
            .unwrap_or_else(|error| panic!("script(1), of the essential package bsdutils: {error}"));
        let (keys, mut output) = (script.stdin.take().unwrap(), script.stdout.take().unwrap());
        let screen = Arc::new(Mutex::new(String::new()));
        let writer = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = output.read(&mut bytes) {
                writer.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..len]));
            }
        });
        let mut session = Self { keys, screen, seen: 0, _script: Running::of(script) };
        session.see("ready> ");
        session
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits until the screen shows the text, after all that was seen before.
    #[track_caller]
    fn see(&mut self, text: &str) {
        let screen = Arc::clone(&self.screen);
        let from = self.seen;
        let look = || screen.lock().unwrap()[from..].find(text).map(|at| from + at + text.len());
        self.seen = until(
            &format!("the screen shows {text:?} after {:?}", &self.screen.lock().unwrap()[from..].to_owned()),
            look,
        );
    }
}

#[test]
fn c102_a_command_has_the_terminal_and_gives_it_back_when_stopped() {
    let bench = Bench::new();
    let mut session = Session::open(&bench);
    session.press("$TENURE run a -c 'echo star''ted; cat'\n");
    session.see("started\r\n");
    session.press("one\n");
    session.see("one\r\none\r\n");
    session.press("\x1a");
    session.see("Stopped");
    session.see("ready> ");
    session.press("echo al''ive; $TENURE run -n a -- true; echo co''de=$?\n");
    session.see("alive");
    session.see("code=120");
    session.see("ready> ");
    session.press("fg\n");
    session.see("cat'\r\n");
    session.press("two\n");
    session.see("two\r\ntwo\r\n");
    session.press("\x03");
    session.see("ready> ");
    session.press("echo co''de=$?\n");
    session.see("code=130");
    bench.assert_free("a");
    session.press("exit\n");
}

#[test]
fn c102_a_command_that_was_broken_while_stopped_is_not_continued() {
    let bench = Bench::new();
    let mut session = Session::open(&bench);
    session.press("$TENURE run a -c 'echo star''ted; cat; echo went'' on'\n");
    session.see("started\r\n");
    // A shell between vfork and exec cannot be stopped: cat must be there.
    session.press("one\n");
    session.see("one\r\none\r\n");
    session.press("\x1a");
    session.see("Stopped");
    session.see("ready> ");
    session.press("$TENURE break a\n");
    session.see("Break it? [y/N] ");
    session.press("n\n");
    session.see("nothing was broken");
    session.see("ready> ");
    session.press("$TENURE break a\n");
    session.see("Break it? [y/N] ");
    session.press("y\n");
    session.see("broke the hold of");
    session.see("ready> ");
    session.press("fg; echo co''de=$?\n");
    session.see("an operator broke it");
    session.see("code=121");
    bench.assert_free("a");
    session.press("exit\n");
}

#[test]
fn an_interrupted_command_ends_the_script_around_it() {
    let bench = Bench::new();
    let mut session = Session::open(&bench);
    session.press("bash -c '$TENURE run a -c \"echo star\"ted\"; cat\"; echo went on > went'\n");
    session.see("started\r\n");
    session.press("\x03");
    session.see("ready> ");
    session.press("echo co''de=$?\n");
    session.see("code=130");
    assert!(!bench.path("went").exists());
    session.press("exit\n");
}

#[test]
fn a_pipeline_keeps_working_and_the_terminal_comes_on_demand() {
    let bench = Bench::new();
    let mut session = Session::open(&bench);
    // The command reads from the terminal although its output is a pipe.
    session.press("$TENURE run a -c 'read x; echo got $x' | cat\n");
    session.press("word\n");
    session.see("got word\r\n");
    session.press("echo do''ne\n");
    session.see("done\r\n");
    // Its input is a pipe; it asks for the terminal itself.
    session.press("echo piped | $TENURE run a -c 'cat; read x < /dev/tty; echo got $x'\n");
    session.see("piped\r\n");
    session.press("key\n");
    session.see("got key\r\n");
    session.press("exit\n");
}

#[test]
fn a_stop_in_a_script_stops_the_script() {
    let bench = Bench::new();
    let mut session = Session::open(&bench);
    session.press("sh -c '$TENURE run a -c \"echo star\"ted\"; cat\"; echo af''ter'\n");
    session.see("started\r\n");
    session.press("one\n");
    session.see("one\r\none\r\n");
    session.press("\x1a");
    session.see("Stopped");
    session.see("ready> ");
    session.press("fg\n");
    session.see("ter'\r\n");
    session.press("word\n");
    session.see("word\r\nword\r\n");
    session.press("\x04");
    session.see("after\r\n");
    session.press("exit\n");
}
