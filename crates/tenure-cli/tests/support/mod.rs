//! What the tests of the program share: a directory of locks, real processes, and waiting with a limit.

#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, reason = "it is all for tests")]

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

/// How long anything may take before a test gives up. Long, because machines of tests are slow and busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A directory of locks, with a workplace beside it.
pub(crate) struct Bench {
    directory: TempDir,
    /// The engine, if it is not the directory.
    url: Option<String>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), url: None }
    }

    /// A bench on another engine than a directory.
    pub(crate) fn at(url: String) -> Self {
        Self { url: Some(url), ..Self::new() }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone().unwrap_or_else(|| format!("local://{}", self.path("locks").display()))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `tenure` with these arguments, on this bench.
    pub(crate) fn tenure<A: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tenure"));
        command.args(arguments).env("TENURE_URL", self.url()).env_remove("TENURE_DEADLINE");
        // Shells differ in what they ignore; this one is plain.
        command.env("SHELL", "/bin/sh");
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    /// Runs `tenure` to its end.
    pub(crate) fn end_of<A: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ended {
        Ended::of(self.start(&mut self.tenure(arguments)).output())
    }

    /// Starts a command whose output is kept.
    pub(crate) fn start(&self, command: &mut Command) -> Running {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Running { child: Some(child) }
    }

    /// Starts a lock that is held until the returned value is dropped or released, by a command that ends then.
    pub(crate) fn hold(&self, options: &[&str], name: &str) -> Held<'_> {
        let gate = self.gate();
        let ready = self.path(&format!("ready{}", unique()));
        let script =
            format!("echo $$ > {0}.new; mv {0}.new {0}; read x < {1}", ready.display(), gate.path.display());
        let arguments = [&["run"], options, &[name, "-c", &script]].concat();
        let running = self.start(&mut self.tenure(arguments));
        let pid = self.content_of(&ready).trim().parse().unwrap();
        Held { running: Some(running), gate, command: Pid::from_raw(pid).unwrap(), bench: self }
    }

    /// A FIFO at which scripts wait.
    pub(crate) fn gate(&self) -> Gate {
        let path = self.path(&format!("gate{}", unique()));
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        Gate { path }
    }

    /// What a file says, as soon as it is there.
    pub(crate) fn content_of(&self, path: &Path) -> String {
        until(&format!("{} is there", path.display()), || std::fs::read_to_string(path).ok())
    }

    /// What `tenure status --json` says.
    pub(crate) fn status(&self, name: &str) -> String {
        let ended = self.end_of(["status", "--json", name]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stdout
    }

    /// How many wait for a lock.
    pub(crate) fn waiters(&self, name: &str) -> usize {
        let status = self.status(name);
        let waiters = &status[status.find("\"waiters\":").unwrap()..];
        waiters.matches("\"claim\":").count()
    }

    pub(crate) fn wait_for_waiters(&self, name: &str, count: usize) {
        until(&format!("{count} wait for {name}"), || (self.waiters(name) == count).then_some(()));
    }

    /// Asserts that nothing is left behind: the next one gets the lock at once.
    pub(crate) fn assert_free(&self, name: &str) {
        let ended = self.end_of(["run", "-n", name, "--", "true"]);
        assert_eq!(ended.code, Some(0), "{name} is not free: {}", ended.stderr);
    }
}

/// A FIFO at which scripts wait.
pub(crate) struct Gate {
    pub(crate) path: PathBuf,
}

impl Gate {
    /// Lets one reader go on. Does nothing when nobody reads.
    pub(crate) fn open(&self) {
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
        if let Ok(fifo) = rustix::fs::open(&self.path, flags, rustix::fs::Mode::empty()) {
            let _ = File::from(fifo).write_all(b"go\n");
        }
    }
}

/// A lock that is held by a command.
pub(crate) struct Held<'a> {
    running: Option<Running>,
    gate: Gate,
    /// The command, which leads its group.
    pub(crate) command: Pid,
    bench: &'a Bench,
}

impl Held<'_> {
    pub(crate) fn pid(&self) -> Pid {
        self.running.as_ref().unwrap().pid()
    }

    /// Ends the command.
    pub(crate) fn release(mut self) -> Ended {
        until("the holder reads", || {
            self.gate.open();
            self.running.as_mut().unwrap().has_ended().then_some(())
        });
        self.end()
    }

    /// Waits for an end that comes by itself.
    pub(crate) fn end(mut self) -> Ended {
        Ended::of(self.running.take().unwrap().output())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let _ = self.bench;
        drop(self.running.take());
    }
}

/// A process of a test; killed when the test fails before it ended.
pub(crate) struct Running {
    child: Option<Child>,
}

impl Running {
    pub(crate) fn of(child: Child) -> Self {
        Self { child: Some(child) }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.as_ref().unwrap().id()).unwrap()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// Waits for its end, with a limit.
    pub(crate) fn output(mut self) -> Output {
        let mut child = self.child.take().unwrap();
        // Read on threads, so that a full pipe cannot keep it from ending.
        let stdout = child.stdout.take().map(reader);
        let stderr = child.stderr.take().map(reader);
        self.child = Some(child);
        let status: ExitStatus = until("a process ends", || self.child.as_mut().unwrap().try_wait().unwrap());
        self.child = None;
        let join = |reader: Option<std::thread::JoinHandle<Vec<u8>>>| {
            reader.map_or_else(Vec::new, |reader| reader.join().unwrap())
        };
        Output { status, stdout: join(stdout), stderr: join(stderr) }
    }

    pub(crate) fn ended(self) -> Ended {
        Ended::of(self.output())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn reader(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// How a process ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts the code, showing what was said otherwise.
    #[track_caller]
    pub(crate) fn with_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }
}

/// Looks again and again until there is something, with a limit.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let pause = Duration::from_millis(5);
    let mut left = LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(!left.is_zero(), "waited {LIMIT:?} in vain until {what}");
        left = left.saturating_sub(pause);
        #[allow(clippy::disallowed_methods, reason = "looks again and again, with a limit")]
        std::thread::sleep(pause);
    }
}

/// Whether a process lives: zombies do not.
pub(crate) fn lives(pid: Pid) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// The state of a process as the kernel's letter.
pub(crate) fn state(pid: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    stat.rsplit(')').next()?.trim().chars().next()
}

pub(crate) fn pid_in(bench: &Bench, file: &Path) -> Pid {
    Pid::from_raw(bench.content_of(file).trim().parse().unwrap()).unwrap()
}

fn unique() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// What the program does on an engine that keeps its locks in tables, from the migration to a broken hold.
pub(crate) fn makes_tables_and_locks_in_them(bench: &Bench, url: &str) {
    let early = bench.end_of(["run", "--at", url, "nightly", "--", "true"]);
    assert_eq!(early.code, Some(123), "{}", early.stderr);
    assert!(early.stderr.contains("tenure migrate --at URL"), "{}", early.stderr);
    for _ in 0..2 {
        let migrated = bench.end_of(["migrate", "--at", url]);
        assert_eq!((migrated.code, migrated.stdout.as_str()), (Some(0), ""), "{}", migrated.stderr);
    }
    let ran = bench.end_of(["run", "--at", url, "nightly", "-c", "echo $TENURE_TOKEN"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.trim().parse::<u64>().unwrap() > 1 << 50, "{}", ran.stdout);

    let _held = bench.hold(&["--at", url], "nightly");
    let busy = bench.end_of(["run", "-n", "--at", url, "nightly", "--", "true"]);
    assert_eq!(busy.code, Some(120), "{}", busy.stderr);
    let status = bench.end_of(["status", "--at", url, "nightly"]);
    assert!(status.stdout.contains("holds"), "{}", status.stdout);
    let list = bench.end_of(["list", "--at", url]);
    assert!(list.stdout.contains("nightly"), "{}", list.stdout);
    let broken = bench.end_of(["break", "--yes", "--at", url, "nightly"]);
    assert_eq!(broken.code, Some(0), "{}", broken.stderr);
    let next = bench.end_of(["run", "-w", "20", "--at", url, "nightly", "--", "true"]);
    assert_eq!(next.code, Some(0), "{}", next.stderr);
}

/// Tells the story of the stale writer. Examples are built beside the tests: `target/PROFILE/examples` and
/// `target/PROFILE/deps`.
pub(crate) fn tell(args: &[&str]) -> Output {
    let here = std::env::current_exe().unwrap();
    let profile: PathBuf = here.parent().unwrap().parent().unwrap().to_owned();
    let story = profile.join("examples/stale_writer");
    let mut command = Command::new(&story);
    command.args(args).env("TENURE_PROGRAM", env!("CARGO_BIN_EXE_tenure")).stdin(Stdio::null());
    command.output().unwrap_or_else(|error| panic!("{} is not built: {error}", story.display()))
}
