//! A server process: started so that it cannot outlive us, frozen and killed at will.
//!
//! The kernel ends a child when the *thread* that started it ends, so one thread that lasts starts them all. The
//! program `setpriv`, which every Debian has, asks the kernel for that; without it, a child is only ended by its value.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex, PoisonError};

use rustix::process::{Pid, Signal};

use crate::{ServerError, until};

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct Program {
    name: OsString,
    package: &'static str,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    user: Option<&'static str>,
}

impl Program {
    /// A program by name or path, and the Debian package that has it.
    pub fn new(name: impl AsRef<OsStr>, package: &'static str) -> Self {
        let (args, envs) = (Vec::new(), Vec::new());
        Self { name: name.as_ref().to_owned(), package, args, envs, user: None }
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// With more arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// As what another program runs, which is given this one behind its own arguments.
    #[must_use]
    pub(crate) fn under(self, other: Self) -> Self {
        let mut under = other.arg(self.name).args(self.args);
        under.envs.extend(self.envs);
        under.user = under.user.or(self.user);
        under
    }

    /// As another user, when we are root: some servers refuse to run as root.
    #[must_use]
    pub fn as_user(mut self, user: &'static str) -> Self {
        self.user = Some(user);
        self
    }

    fn shown(&self) -> String {
        Path::new(&self.name).file_name().unwrap_or(&self.name).to_string_lossy().into_owned()
    }

    fn command(&self, guarded: bool) -> Command {
        let root = rustix::process::geteuid().is_root();
        let user = self.user.filter(|_| root);
        let mut command = if guarded || user.is_some() {
            let mut command = Command::new("setpriv");
            if guarded {
                command.args(["--pdeathsig", "KILL"]);
            }
            if let Some(user) = user {
                command.arg(format!("--reuid={user}")).arg(format!("--regid={user}")).arg("--clear-groups");
            }
            command.arg("--").arg(&self.name);
            command
        } else {
            Command::new(&self.name)
        };
        command
            .args(&self.args)
            .envs(self.envs.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Whether it is installed.
    fn is_there(&self) -> bool {
        if Path::new(&self.name).components().count() > 1 {
            return Path::new(&self.name).exists();
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(&self.name).exists())
    }

    /// Runs it to its end, for programs that set a server up.
    ///
    /// # Errors
    /// When it is missing or fails, with what it said.
    pub fn run(&self) -> Result<(), ServerError> {
        self.output().map(drop)
    }

    /// Runs it to its end, and gives what it said.
    ///
    /// # Errors
    /// When it is missing or fails, with what it said.
    pub fn output(&self) -> Result<String, ServerError> {
        self.require()?;
        let output =
            self.command(false).output().map_err(ServerError::step(format!("run {}", self.shown())))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = [output.stdout, output.stderr].concat();
        Err(ServerError::Silent { program: self.shown(), said: end_of(&said) })
    }

    /// Starts it, with all that it says in the file `log`.
    ///
    /// # Errors
    /// When it is missing or cannot be started.
    pub fn start(&self, log: &Path) -> Result<Child, ServerError> {
        self.require()?;
        let start = || -> io::Result<std::process::Child> {
            let file = File::options().create(true).append(true).open(log)?;
            let mut command = self.command(guards());
            command.stdout(file.try_clone()?).stderr(file);
            spawn(command)
        };
        let inner = start().map_err(ServerError::step(format!("start {}", self.shown())))?;
        Ok(Child { inner, program: self.shown(), log: log.to_owned() })
    }

    fn require(&self) -> Result<(), ServerError> {
        let missing = || ServerError::Missing { program: self.shown(), package: self.package };
        if self.is_there() { Ok(()) } else { Err(missing()) }
    }
}

/// Whether the kernel can be asked to end a child with us.
fn guards() -> bool {
    static GUARDS: LazyLock<bool> = LazyLock::new(|| Program::new("setpriv", "util-linux").is_there());
    *GUARDS
}

type Order = (Command, Sender<io::Result<std::process::Child>>);

/// Starts a process from a thread that lasts as long as we do.
fn spawn(command: Command) -> io::Result<std::process::Child> {
    static STARTER: LazyLock<Mutex<Sender<Order>>> = LazyLock::new(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                // Who has asked waits for it, unless it has panicked meanwhile; then the child is ended here.
                if let Err(unheard) = reply.send(command.spawn())
                    && let Ok(mut child) = unheard.0
                {
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
        });
        Mutex::new(orders)
    });
    let gone = || io::Error::other("the thread that starts processes has ended");
    let (reply, answer) = channel();
    let starter = STARTER.lock().unwrap_or_else(PoisonError::into_inner);
    starter.send((command, reply)).map_err(|_| gone())?;
    drop(starter);
    answer.recv().map_err(|_| gone())?
}

/// A server process of ours; killed when dropped.
#[derive(Debug)]
pub struct Child {
    inner: std::process::Child,
    program: String,
    log: PathBuf,
}

impl Child {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.inner.try_wait().ok().flatten()
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// When it ends first, or does not answer within [`crate::LIMIT`]; it is killed then.
    pub fn wait_ready(&mut self, mut answers: impl FnMut() -> bool) -> Result<(), ServerError> {
        let ready = until(|| self.ended().is_some() || answers());
        if ready && self.ended().is_none() {
            return Ok(());
        }
        self.kill();
        Err(ServerError::Silent { program: self.program.clone(), said: self.said() })
    }

    /// Kills it, as if its machine had gone.
    pub fn kill(&mut self) {
        // It may have ended by itself, which is what is wanted.
        let _ = self.inner.kill();
        let _ = self.inner.wait();
    }

    /// Asks it to end and waits until it has; kills it when it does not within [`crate::LIMIT`].
    pub fn terminate(&mut self, signal: Signal) {
        self.signal(signal);
        if !until(|| self.ended().is_some()) {
            self.kill();
        }
    }

    /// Freezes it; waits until it is frozen.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        until(|| self.state().is_none_or(|state| state == 'T'));
    }

    /// Lets a frozen one go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// The end of what it said.
    #[must_use]
    pub fn said(&self) -> String {
        std::fs::read(&self.log).map(|text| end_of(&text)).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // One that has ended needs no signal. It is not waited for elsewhere, so its id is still its own.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    fn state(&self) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a text.
fn end_of(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<_> = text.lines().rev().take(20).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
