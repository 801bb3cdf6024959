//! From a URL to options: `redis://`, `rediss://`, `redis+unix://`, `redis+sentinel://` and `redis+cluster://`.

use std::path::Path;

use tenure_core::engine::url::{self, percent_decoded_text};

use crate::options::{AcksOn, Address, Eviction, Node, RedisOptions};

pub(crate) fn read(url: &str) -> Result<RedisOptions, RedisUrlError> {
    let scheme = url.split(':').next().unwrap_or_default();
    let rest = url.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
    let rest = rest.ok_or_else(|| RedisUrlError::Scheme(scheme.to_owned()))?;
    if rest.contains('#') {
        return Err(RedisUrlError::Fragment);
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let options = match scheme {
        "redis" => server(place)?,
        "rediss" => server(place)?.with_tls(),
        "redis+unix" => socket(place)?,
        "redis+sentinel" => sentinel(place)?,
        "rediss+sentinel" => sentinel(place)?.with_tls(),
        "redis+cluster" => cluster(place)?,
        "rediss+cluster" => cluster(place)?.with_tls(),
        _ => return Err(RedisUrlError::Scheme(scheme.to_owned())),
    };
    let options = query.split('&').filter(|pair| !pair.is_empty()).try_fold(options, option)?;
    if matches!(options.address, Address::Cluster(_)) && options.database != 0 {
        return Err(RedisUrlError::Database(format!("{} of a cluster", options.database)));
    }
    Ok(options)
}

fn server(place: &str) -> Result<RedisOptions, RedisUrlError> {
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (login, address) = split_login(authority);
    let Node { host, port } = node(address, 6379)?;
    numbered(logged_in(RedisOptions::tcp(host, port), login)?, database)
}

fn sentinel(place: &str) -> Result<RedisOptions, RedisUrlError> {
    let (authority, path) = place.split_once('/').unwrap_or((place, ""));
    let (primary, database) = path.split_once('/').unwrap_or((path, ""));
    let primary =
        percent_decoded_text(primary).filter(|name| !name.is_empty()).ok_or(RedisUrlError::Primary)?;
    let (login, addresses) = split_login(authority);
    let options = RedisOptions::sentinel(primary, nodes(addresses, 26379)?);
    numbered(logged_in(options, login)?, database)
}

fn cluster(place: &str) -> Result<RedisOptions, RedisUrlError> {
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (login, addresses) = split_login(authority);
    numbered(logged_in(RedisOptions::cluster(nodes(addresses, 6379)?), login)?, database)
}

fn split_login(authority: &str) -> (Option<&str>, &str) {
    match authority.rsplit_once('@') {
        Some((login, address)) => (Some(login), address),
        None => (None, authority),
    }
}

fn logged_in(options: RedisOptions, login: Option<&str>) -> Result<RedisOptions, RedisUrlError> {
    let Some(login) = login else { return Ok(options) };
    let (user, password) = login.split_once(':').ok_or(RedisUrlError::Login)?;
    let user = percent_decoded_text(user).ok_or(RedisUrlError::Login)?;
    let password = percent_decoded_text(password).ok_or(RedisUrlError::Login)?;
    Ok(options.with_login((!user.is_empty()).then_some(user), password))
}

fn numbered(options: RedisOptions, database: &str) -> Result<RedisOptions, RedisUrlError> {
    if database.is_empty() {
        return Ok(options);
    }
    let database = database.parse().map_err(|_| RedisUrlError::Database(database.to_owned()))?;
    Ok(options.with_database(database))
}

fn nodes(addresses: &str, usual_port: u16) -> Result<Vec<(String, u16)>, RedisUrlError> {
    let each = addresses.split(',').map(|address| node(address, usual_port));
    each.map(|node| node.map(|Node { host, port }| (host, port))).collect()
}

fn node(address: &str, usual_port: u16) -> Result<Node, RedisUrlError> {
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(|| bad_port(port))?)),
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let host = percent_decoded_text(host).filter(|host| !host.is_empty()).ok_or(RedisUrlError::Host)?;
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(|| bad_port(port))?,
        None => usual_port,
    };
    Ok(Node::new(host, port))
}

/// What stands where a port should be is a password whose host was forgotten, unless it has digits only.
fn bad_port(port: &str) -> RedisUrlError {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    RedisUrlError::Port(if digits { port.to_owned() } else { "***".to_owned() })
}

fn socket(place: &str) -> Result<RedisOptions, RedisUrlError> {
    let path = percent_decoded_text(place).filter(|path| Path::new(path).is_absolute());
    path.map(RedisOptions::unix).ok_or_else(|| RedisUrlError::Socket(place.to_owned()))
}

fn option(options: RedisOptions, pair: &str) -> Result<RedisOptions, RedisUrlError> {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    let bad = || RedisUrlError::Value { option: name.to_owned(), value: value.to_owned() };
    let number = || value.parse::<u32>().map_err(|_| bad());
    let millis = || url::millis(value).ok_or_else(bad);
    Ok(match name {
        "acks" => RedisOptions { acks: number()?, ..options },
        "acks-on" if value == "memory" => options.with_acks_on(AcksOn::Memory),
        "acks-on" if value == "disk" => options.with_acks_on(AcksOn::Disk),
        "acks-timeout-ms" => RedisOptions { acks_timeout: millis()?, ..options },
        "timeout-ms" => options.with_response_timeout(millis()?),
        "connect-timeout-ms" => options.with_connect_timeout(millis()?),
        "database" => RedisOptions { database: number()?, ..options },
        "sentinel-user" | "sentinel-password" => return sentinel_login(options, name, value),
        "allow" if value == "eviction" => options.with_eviction(Eviction::Allow),
        "ca" if options.tls.is_some() && !value.is_empty() => {
            options.with_ca(percent_decoded_text(value).ok_or_else(bad)?)
        }
        "acks-on" | "allow" | "ca" => return Err(bad()),
        _ => return Err(RedisUrlError::Option(name.to_owned())),
    })
}

/// Who we are to the sentinels. A user alone waits for its password.
fn sentinel_login(mut options: RedisOptions, name: &str, value: &str) -> Result<RedisOptions, RedisUrlError> {
    let Address::Sentinel { user, password, .. } = &mut options.address else {
        return Err(RedisUrlError::Option(name.to_owned()));
    };
    let part = if name == "sentinel-user" { user } else { password };
    *part = Some(percent_decoded_text(value).ok_or(RedisUrlError::Login)?);
    Ok(options)
}

/// Why a URL is not one of a Redis server. Never shows a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedisUrlError {
    /// It begins with something else.
    #[error(
        "{0:?} is no scheme of a Redis server: write redis://host, rediss://host, redis+unix:///path, \
         redis+sentinel://host,host/primary or redis+cluster://host,host"
    )]
    Scheme(String),
    /// The host is missing or has a broken escape.
    #[error("a Redis URL needs a host: write redis://host:6379")]
    Host,
    /// The sentinels are not told whom they are asked for.
    #[error("the name of the primary is missing: write redis+sentinel://host,host,host/name")]
    Primary,
    /// The port is no port.
    #[error("{0:?} is no port: write a number from 1 to 65535, or nothing for the usual one")]
    Port(String),
    /// The database is no number.
    #[error(
        "{0:?} is no database: Redis numbers them, write for instance redis://host/0; a cluster has only 0"
    )]
    Database(String),
    /// User and password cannot be told apart, or have a broken escape.
    #[error(
        "user and password cannot be read: write redis://user:password@host, with % as %25, @ as %40 and / as %2f"
    )]
    Login,
    /// The path of the socket is not absolute.
    #[error("{0:?} is no path of a socket: write redis+unix:///absolute/path")]
    Socket(String),
    /// It has a fragment.
    #[error("a Redis URL has no fragment: write # as %23")]
    Fragment,
    /// An option is unknown.
    #[error(
        "a Redis URL has no option {0:?}: it has acks, acks-on, acks-timeout-ms, timeout-ms, connect-timeout-ms, \
         database, allow and ca, and with sentinels sentinel-user and sentinel-password"
    )]
    Option(String),
    /// An option has an unknown value.
    #[error("{value:?} is no value for {option} in this Redis URL: see docs/engines/redis.md")]
    Value {
        /// The option.
        option: String,
        /// Its value.
        value: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_url_names_server_login_database_and_terms() {
        let options = RedisOptions::from_url("redis://db").unwrap();
        assert_eq!(options, RedisOptions::tcp("db", 6379));
        let options =
            RedisOptions::from_url("rediss://app:p%40ss@[::1]:7000/3?ca=/etc/ca.pem&timeout-ms=250").unwrap();
        let expected = RedisOptions::tcp("::1", 7000)
            .with_ca("/etc/ca.pem")
            .with_login(Some("app".into()), "p@ss")
            .with_database(3)
            .with_response_timeout(Duration::from_millis(250));
        assert_eq!(options, expected);
        let options =
            RedisOptions::from_url("redis://:pw@h?acks=2&acks-on=disk&acks-timeout-ms=100&allow=eviction")
                .unwrap();
        let expected = RedisOptions::tcp("h", 6379).with_login(None, "pw").with_eviction(Eviction::Allow);
        assert_eq!(options, expected.with_acks(2, Duration::from_millis(100)).with_acks_on(AcksOn::Disk));
        let options = RedisOptions::from_url("redis+unix:///run/redis.sock?database=1").unwrap();
        assert_eq!(options, RedisOptions::unix("/run/redis.sock").with_database(1));
    }

    #[test]
    fn a_bad_url_is_refused_by_the_part_that_is_bad() {
        let refused = |url: &str| RedisOptions::from_url(url).unwrap_err();
        assert_eq!(refused("http://x"), RedisUrlError::Scheme("http".into()));
        assert_eq!(refused("redis:x"), RedisUrlError::Scheme("redis".into()));
        assert_eq!(refused("redis://"), RedisUrlError::Host);
        for (port, shown) in [("0", "0"), ("65536", "65536"), ("x", "***"), ("", "")] {
            assert_eq!(refused(&format!("redis://h:{port}/0")), RedisUrlError::Port(shown.into()));
        }
        assert_eq!(refused("redis://h/zero"), RedisUrlError::Database("zero".into()));
        assert_eq!(refused("redis://secret@h"), RedisUrlError::Login);
        assert_eq!(refused("redis://u:%zz@h"), RedisUrlError::Login);
        assert_eq!(refused("redis+unix://relative"), RedisUrlError::Socket("relative".into()));
        assert_eq!(refused("redis://h?speed=high"), RedisUrlError::Option("speed".into()));
        assert_eq!(refused("redis://h#x"), RedisUrlError::Fragment);
        for (option, value) in
            [("acks", "many"), ("acks-on", "paper"), ("timeout-ms", "0"), ("allow", "all"), ("ca", "/x")]
        {
            let error = RedisUrlError::Value { option: option.into(), value: value.into() };
            assert_eq!(refused(&format!("redis://h?{option}={value}")), error);
        }
    }

    #[test]
    fn a_url_names_sentinels_or_nodes_of_a_cluster() {
        let url = "redis+sentinel://app:pw@h1:1,h2,[::1]:3/orders/2?sentinel-user=s&sentinel-password=p%40";
        let sentinels = [("h1", 1), ("h2", 26379), ("::1", 3)];
        let expected = RedisOptions::sentinel("orders", sentinels)
            .with_login(Some("app".into()), "pw")
            .with_database(2)
            .with_sentinel_login(Some("s".into()), "p@");
        assert_eq!(RedisOptions::from_url(url).unwrap(), expected);
        let options = RedisOptions::from_url("rediss+cluster://h1,h2:7000?ca=/ca.pem&acks=1").unwrap();
        let expected = RedisOptions::cluster([("h1", 6379), ("h2", 7000)]).with_ca("/ca.pem");
        assert_eq!(options, expected.with_acks(1, Duration::from_millis(500)));
        for (url, error) in [
            ("redis+sentinel://h1,h2", RedisUrlError::Primary),
            ("redis+sentinel://h1,/m", RedisUrlError::Host),
            ("redis+sentinel://h1,h2:0/m", RedisUrlError::Port("0".into())),
            ("redis+cluster://", RedisUrlError::Host),
            ("redis+cluster://h/1", RedisUrlError::Database("1 of a cluster".into())),
            ("redis+cluster://h?database=1", RedisUrlError::Database("1 of a cluster".into())),
            ("redis://h?sentinel-user=x", RedisUrlError::Option("sentinel-user".into())),
        ] {
            assert_eq!(RedisOptions::from_url(url).unwrap_err(), error, "{url}");
        }
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        for url in ["redis://u:hunter2@h", "redis+sentinel://u:hunter2@h/m?sentinel-password=hunter2"] {
            assert!(!format!("{:?}", RedisOptions::from_url(url).unwrap()).contains("hunter2"));
        }
        for url in [
            "redis://u:hunter2@h:x",
            "redis://u:hunter2@h/x",
            "redis://u:hunter2@",
            "redis://u:hunter2",
            "nope://u:hunter2@h",
        ] {
            let error = RedisOptions::from_url(url).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{url}");
        }
    }
}
