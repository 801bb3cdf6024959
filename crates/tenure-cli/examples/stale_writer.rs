//! A holder that is stopped, broken, and wakes up to write: refused by the gate, or the update is lost.
//!
//! ```text
//! cargo run -p tenure-cli --example stale_writer             # with the gate: the stale write is refused
//! cargo run -p tenure-cli --example stale_writer -- --no-gate  # without: an update is lost
//! cargo run -p tenure-cli --example stale_writer -- --at redis://127.0.0.1  # with the lock on another engine
//! ```
//!
//! Two real processes add to one balance under the lock `account/7`. The first takes the lock, reads, and is stopped
//! (SIGSTOP, as a machine that pauses it would). On the local engine a living holder is never robbed by age, so an
//! operator runs `tenure break`; the second gets the lock, reads and writes. Then the first wakes: it is told of its
//! loss, and tries its write all the same.

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tenure::{FenceGate, FencingToken};

const LOCK: &str = "account/7";
const OPENING_BALANCE: i64 = 100;
const FIRST_ADDS: i64 = 30;
const SECOND_ADDS: i64 = 50;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        [] => tell(Gate::On, None),
        ["--no-gate"] => tell(Gate::Off, None),
        ["--at", at] => tell(Gate::On, Some(at)),
        ["--no-gate", "--at", at] => tell(Gate::Off, Some(at)),
        ["worker", name, adds, directory, gate, at] => {
            Worker::new(name, adds, directory, gate, at).and_then(Worker::run)
        }
        _ => Err("usage: stale_writer [--no-gate] [--at URL]".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stale_writer: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the balance checks tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    On,
    Off,
}

/// Sets the stage, and plays the machine that pauses and the operator that breaks.
fn tell(gate: Gate, at: Option<&str>) -> Result<()> {
    let stage = Stage::new(gate, at)?;
    println!("the balance is {}", stage.balance()?);
    let mut first = stage.start("first", FIRST_ADDS)?;
    first.until("read")?;
    first.stop()?;
    println!("-- the first process is stopped; an operator breaks its hold:");
    stage.operator_breaks()?;
    let mut second = stage.start("second", SECOND_ADDS)?;
    second.until("released")?;
    println!("-- the first process wakes up:");
    first.go_on()?;
    first.until("done")?;
    let (found, expected) = (stage.balance()?, OPENING_BALANCE + SECOND_ADDS);
    println!("the balance is {found}");
    match gate {
        Gate::On if found == expected => println!("=> the gate refused the stale write; nothing was lost"),
        Gate::Off if found == OPENING_BALANCE + FIRST_ADDS => {
            println!(
                "=> without the gate the stale write went through: the {SECOND_ADDS} of the second are lost"
            );
        }
        _ => return Err(format!("the balance should be {expected} with the gate").into()),
    }
    Ok(())
}

/// A directory with a lock, a balance and a gate.
struct Stage {
    scratch: PathBuf,
    gate: Gate,
    /// The engine with the lock.
    at: String,
}

impl Stage {
    fn new(gate: Gate, at: Option<&str>) -> Result<Self> {
        let scratch = std::env::temp_dir().join(format!("tenure-stale-writer-{}", std::process::id()));
        std::fs::create_dir(&scratch)?;
        let at = at.map_or_else(|| format!("local://{}", scratch.join("locks").display()), str::to_owned);
        let stage = Self { scratch, gate, at };
        std::fs::write(stage.scratch.join("balance"), OPENING_BALANCE.to_string())?;
        Ok(stage)
    }

    fn balance(&self) -> Result<i64> {
        Ok(std::fs::read_to_string(self.scratch.join("balance"))?.trim().parse()?)
    }

    fn start(&self, name: &str, adds: i64) -> Result<Actor> {
        let gate = if self.gate == Gate::On { "gate" } else { "no-gate" };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["worker", name, &adds.to_string()]).arg(&self.scratch).arg(gate).arg(&self.at);
        let mut process = command.stdout(Stdio::piped()).spawn()?;
        let said = process.stdout.take().ok_or("the worker has no output")?;
        Ok(Actor { process, said: BufReader::new(said).lines() })
    }

    /// The real command line, as an operator types it.
    fn operator_breaks(&self) -> Result<()> {
        let mut command = match std::env::var_os("TENURE_PROGRAM") {
            Some(program) => Command::new(program),
            None => {
                let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
                let mut command = Command::new(cargo);
                command.args(["run", "--quiet", "-p", "tenure-cli", "--"]);
                command
            }
        };
        println!("$ tenure break --yes {LOCK}");
        let broken =
            command.args(["break", "--yes", "--at", &self.at, LOCK]).stdin(Stdio::null()).status()?;
        if broken.success() { Ok(()) } else { Err(format!("tenure break failed: {broken}").into()) }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Ours alone, made above.
        drop(std::fs::remove_dir_all(&self.scratch));
    }
}

/// A worker as the stage sees it. Ended when dropped.
struct Actor {
    process: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Actor {
    /// Repeats what it says until it has said a line with `word`.
    fn until(&mut self, word: &str) -> Result<()> {
        for line in self.said.by_ref() {
            let line = line?;
            println!("{line}");
            if line.contains(word) {
                return Ok(());
            }
        }
        Err(format!("a worker ended before it said {word:?}").into())
    }

    fn stop(&self) -> Result<()> {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::STOP)?;
        waitpid(Some(pid), WaitOptions::UNTRACED)?;
        Ok(())
    }

    fn go_on(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.process), Signal::CONT)?)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// One process that adds to the balance.
struct Worker {
    name: String,
    adds: i64,
    directory: PathBuf,
    gate: Option<FenceGate>,
    at: String,
}

impl Worker {
    fn new(name: &str, adds: &str, directory: &str, gate: &str, at: &str) -> Result<Self> {
        let directory = Path::new(directory).to_owned();
        let gate = if gate == "gate" { Some(FenceGate::open(directory.join("gate"))?) } else { None };
        Ok(Self { name: name.to_owned(), adds: adds.parse()?, directory, gate, at: at.to_owned() })
    }

    fn run(self) -> Result<()> {
        let tenure = tenure::blocking::connect(&self.at)?;
        let guard = tenure.lock(LOCK).acquire()?;
        let token = guard.token();
        self.say(&format!("holds {LOCK} with token {token}"));
        if let Some(gate) = &self.gate {
            // Before the read: from here on the balance refuses every older token.
            gate.enter(token)?;
        }
        let balance: i64 = std::fs::read_to_string(self.balance())?.trim().parse()?;
        self.say(&format!("has read {balance}"));
        if self.name == "first" {
            // The work in between, during which this process is stopped.
            let loss = guard.lost();
            self.say(&format!("is told: {loss}"));
        }
        self.say(&format!("writes {}", balance + self.adds));
        self.write(token, balance + self.adds)?;
        guard.release()?;
        self.say("has released; it is done");
        Ok(())
    }

    fn write(&self, token: FencingToken, balance: i64) -> Result<()> {
        let write = || std::fs::write(self.balance(), balance.to_string());
        match &self.gate {
            None => write()?,
            Some(gate) => match gate.write(token, write) {
                Ok(written) => written?,
                Err(refused) => self.say(&format!("is refused: {refused}")),
            },
        }
        Ok(())
    }

    fn balance(&self) -> PathBuf {
        self.directory.join("balance")
    }

    fn say(&self, what: &str) {
        println!("{:>7} {what}", self.name);
    }
}
