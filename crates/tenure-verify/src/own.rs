//! Servers that a run starts for itself, and may therefore kill, stop, starve and misguide.

use std::fmt::Debug;

use tenure_servers::redis::RedisServer;

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
    let trouble = |error: tenure_servers::ServerError| VerifyError::trouble(error.to_string());
    match (scheme, count) {
        ("redis", 1) => Ok(Box::new(OneRedis { server: RedisServer::start(&[]).map_err(trouble)? })),
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
        vec![Kind::Freeze, Kind::Flush, Kind::Memory, Kind::Restart]
    }

    fn forgets(&self, kind: Kind) -> bool {
        kind == Kind::Restart
    }

    fn strike(&mut self, kind: Kind, _: usize, _: u32) -> Result<(), String> {
        match kind {
            Kind::Freeze => self.server.process().freeze(),
            Kind::Flush => drop(self.say("SCRIPT FLUSH")?),
            Kind::Memory => drop(self.say("CONFIG SET maxmemory 1")?),
            Kind::Restart => self.server.kill(),
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
