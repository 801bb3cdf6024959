//! The file in which people keep their passwords: `PGPASSFILE`, or `~/.pgpass`.
//!
//! A line is `host:port:database:user:password`; `*` stands for anything, and `\` makes what follows plain. The first
//! line that fits counts.

use std::path::{Path, PathBuf};

use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// There is such a file, and it is of no use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unusable {
    pub(crate) path: String,
    pub(crate) why: String,
}

/// The password for this connection, if there is a file and it has one.
pub(crate) fn password(
    config: &Config,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>, Unusable> {
    let named = environment("PGPASSFILE").map(PathBuf::from);
    let usual = || environment("HOME").map(|home| Path::new(&home).join(".pgpass"));
    let Some(path) = named.or_else(usual) else { return Ok(None) };
    let unusable = |why: String| Unusable { path: path.display().to_string(), why };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(error.to_string())),
    };
    if is_open(&path) {
        return Err(unusable("others may read it: chmod 600".to_owned()));
    }
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        _ => "localhost".to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432).to_string();
    let wanted =
        [&host, &port, config.get_dbname().unwrap_or_default(), config.get_user().unwrap_or_default()];
    Ok(text.lines().filter(|line| !line.starts_with('#')).find_map(|line| fitting(line, &wanted)))
}

/// Whether others than its owner may read it.
fn is_open(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0)
}

/// The password of a line, if the line is for this connection.
fn fitting(line: &str, wanted: &[&str; 4]) -> Option<String> {
    let (mut fields, mut field) = (Vec::new(), String::new());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => field.extend(rest.next()),
            ':' if fields.len() < 4 => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    let fits =
        fields.len() == 4 && fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
    fits.then_some(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let wanted = ["h", "5432", "d", "u"];
        assert_eq!(fitting("h:5432:d:u:pw", &wanted).as_deref(), Some("pw"));
        assert_eq!(fitting("*:*:*:u:a:b\\\\c\\:d", &wanted).as_deref(), Some("a:b\\c:d"));
        for other in ["", "h:5432:d:u", "x:5432:d:u:pw", "h:5433:d:u:pw", "h:5432:d:v:pw"] {
            assert_eq!(fitting(other, &wanted), None, "{other}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# ours\nother:*:*:*:no\n*:*:d:u:hunter2\n").unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let environment = move |name: &str| (name == "PGPASSFILE").then(|| path.clone());
        let mut config = Config::new();
        config.host("h").user("u").dbname("d");
        assert_eq!(password(&config, &environment), Ok(Some("hunter2".to_owned())));
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        let refused = password(&config, &environment).unwrap_err();
        assert_eq!(refused.path, file.path().to_str().unwrap());
        assert!(refused.why.contains("chmod 600") && !refused.why.contains("hunter2"), "{refused:?}");
    }
}
