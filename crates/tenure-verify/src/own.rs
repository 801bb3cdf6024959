//! Servers that a run starts for itself, and may therefore kill, stop, starve and misguide.

use std::fmt::Debug;
use std::time::Duration;

use tenure_servers::redis::RedisServer;
use tenure_servers::{ClockShim, ServerError, Step};

use crate::VerifyError;
use crate::nemesis::Kind;

/// Servers of our own.
pub(crate) trait Own: Debug + Send {
    /// Where they are.
    fn url(&self) -> String;
    /// What they say of themselves.
    fn server(&self) -> String;
    /// What can be done to them.
    fn possible(&self) -> Vec<Kind>;
    /// Whether what they have acknowledged may be forgotten then.
    fn forgets(&self, kind: Kind) -> bool;
    /// Does something to one of them; a seed decides what is left open.
    fn strike(&mut self, kind: Kind, victim: usize, dice: u32) -> Result<(), String>;
    /// Makes it good.
    fn heal(&mut self, kind: Kind, victim: usize) -> Result<(), String>;
}

/// Starts servers for an engine that is named by the scheme of its URLs.
pub(crate) fn start(scheme: &str, count: u32) -> Result<Box<dyn Own>, VerifyError> {
    let trouble = |error: ServerError| VerifyError::trouble(error.to_string());
    match (scheme, count) {
        ("redis", 1) => {
            // Without a C compiler there are no clocks to set, and `clock` is not possible.
            let clocks = match ClockShim::new() {
                Err(ServerError::Missing { .. }) => None,
                clocks => Some(clocks.map_err(trouble)?),
            };
            let program = RedisServer::program();
            let program = clocks.as_ref().map_or(program.clone(), |clocks| clocks.around(program));
            let server = RedisServer::start_program(program, &[]).map_err(trouble)?;
            Ok(Box::new(OneRedis { server, clocks }))
        }
        _ => {
            let message =
                format!("{count} servers of {scheme:?} cannot be started here: use `redis: --own-servers 1`");
            Err(VerifyError::Usage(message))
        }
    }
}

/// One Redis primary that keeps nothing on disk.
#[derive(Debug)]
struct OneRedis {
    server: RedisServer,
    clocks: Option<ClockShim>,
}

impl OneRedis {
    fn say(&self, command: &str) -> Result<String, String> {
        let said = self.server.say(command).map_err(|error| format!("our Redis does not answer: {error}"))?;
        if said.starts_with('-') { Err(format!("our Redis says {}", said.trim())) } else { Ok(said) }
    }
}

impl Own for OneRedis {
    fn url(&self) -> String {
        self.server.url()
    }

    fn server(&self) -> String {
        let info = self.say("INFO server").unwrap_or_default();
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        format!("Redis {}", version.unwrap_or("of an unknown version"))
    }

    fn possible(&self) -> Vec<Kind> {
        let clock = self.clocks.iter().map(|_| Kind::Clock);
        [Kind::Freeze, Kind::Flush, Kind::Memory, Kind::Restart].into_iter().chain(clock).collect()
    }

    fn forgets(&self, kind: Kind) -> bool {
        // A clock that is set forward ends leases, which looks the same.
        matches!(kind, Kind::Restart | Kind::Clock)
    }

    fn strike(&mut self, kind: Kind, _: usize, dice: u32) -> Result<(), String> {
        match kind {
            Kind::Freeze => self.server.process().freeze(),
            Kind::Flush => drop(self.say("SCRIPT FLUSH")?),
            Kind::Memory => drop(self.say("CONFIG SET maxmemory 1")?),
            Kind::Restart => self.server.kill(),
            Kind::Clock => {
                // By up to ten seconds, more often forward: back, nobody is granted for as long.
                let by = Duration::from_millis(u64::from(dice % 10_000));
                let step = if dice.is_multiple_of(4) { Step::Back(by / 10) } else { Step::Forward(by) };
                if let Some(clocks) = &self.clocks {
                    clocks.step(step).map_err(|error| error.to_string())?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn heal(&mut self, kind: Kind, _: usize) -> Result<(), String> {
        match kind {
            Kind::Freeze => self.server.process().thaw(),
            Kind::Memory => drop(self.say("CONFIG SET maxmemory 0")?),
            Kind::Restart => self.server.restart().map_err(|error| error.to_string())?,
            _ => {}
        }
        Ok(())
    }
}
