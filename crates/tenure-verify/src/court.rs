//! How workers speak to the referee: directly inside one process, by lines over a Unix socket from another.
//!
//! Every word is answered before the speaker goes on. So what the referee hears of a grant comes after the grant, and
//! what it hears of a leave comes before the release.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::history::{Event, Life, write_line};
use crate::referee::{Answer, Referee};
use crate::worker::Plan;

/// Speaks to the referee.
pub(crate) trait Voice: Debug + Send + Sync {
    /// Says what happened, and hears the answer. An error means that the referee is gone, and so is the run.
    fn say(&self, event: Event) -> io::Result<Answer>;
}

impl Voice for Arc<Referee> {
    fn say(&self, event: Event) -> io::Result<Answer> {
        Ok(self.hear(event))
    }
}

/// What comes from a worker process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Call {
    /// Which life it is; it wants its plan.
    Hello(Life),
    Event(Event),
}

/// A connection of a worker process to the referee.
#[derive(Debug)]
pub(crate) struct Line(Mutex<(UnixStream, BufReader<UnixStream>)>);

impl Line {
    pub(crate) fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        let reader = BufReader::new(stream.try_clone()?);
        Ok(Self(Mutex::new((stream, reader))))
    }

    pub(crate) fn hello(&self, life: Life) -> io::Result<Plan> {
        self.call(&Call::Hello(life))
    }

    fn call<R: DeserializeOwned>(&self, call: &Call) -> io::Result<R> {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write_line(&mut line.0, call)?;
        let mut answer = String::new();
        if line.1.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&answer)?)
    }
}

impl Voice for Line {
    fn say(&self, event: Event) -> io::Result<Answer> {
        self.call(&Call::Event(event))
    }
}

/// Where worker processes find the referee.
#[derive(Debug)]
pub(crate) struct Court {
    socket: PathBuf,
    plans: Arc<Mutex<HashMap<Life, Plan>>>,
}

impl Court {
    /// Opens a socket in a directory that only we may enter.
    pub(crate) fn open(directory: &Path, referee: &Arc<Referee>) -> io::Result<Self> {
        let socket = directory.join("referee");
        let listener = UnixListener::bind(&socket)?;
        let plans = Arc::new(Mutex::new(HashMap::new()));
        let (referee, known) = (Arc::clone(referee), Arc::clone(&plans));
        // Ends with the process; a later run has a socket of its own.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (referee, plans) = (Arc::clone(&referee), Arc::clone(&known));
                std::thread::spawn(move || drop(serve(&stream, &referee, &plans)));
            }
        });
        Ok(Self { socket, plans })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Keeps a plan for a life that is about to begin.
    pub(crate) fn expect(&self, plan: Plan) {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).insert(plan.life, plan);
    }
}

/// Answers one connection until it ends.
fn serve(stream: &UnixStream, referee: &Referee, plans: &Mutex<HashMap<Life, Plan>>) -> io::Result<()> {
    for line in BufReader::new(stream).lines() {
        let mut answer = Vec::new();
        match serde_json::from_str(&line?)? {
            Call::Event(event) => write_line(&mut answer, &referee.hear(event))?,
            Call::Hello(life) => {
                let plan = plans.lock().unwrap_or_else(PoisonError::into_inner).get(&life).cloned();
                let plan = plan.ok_or_else(|| io::Error::other("nobody expects this life"))?;
                write_line(&mut answer, &plan)?;
            }
        }
        (&*stream).write_all(&answer)?;
    }
    Ok(())
}
