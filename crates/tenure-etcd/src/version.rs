//! Which etcd answers, and what is known to be wrong with it.

use std::fmt;

/// The version of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32, u32);

impl Version {
    /// The oldest server whose transactions and watches do what we need.
    pub(crate) const OLDEST: Self = Self(3, 4, 0);

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(['.', '-', '+']).map(|part| part.parse().ok());
        Some(Self(parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
    }

    pub(crate) fn serves(self) -> bool {
        self >= Self::OLDEST
    }

    /// What its users should know: bugs that are mended in later versions.
    pub(crate) fn cautions(self) -> Vec<String> {
        let mut cautions = Vec::new();
        let revokes = self < Self(3, 4, 31) || (Self(3, 5, 0)..Self(3, 5, 13)).contains(&self);
        if revokes {
            cautions.push(format!(
                "etcd {self} lets a stalled former leader revoke leases that live, so a hold may be lost early \
                 (etcd issue 15247): upgrade to 3.4.31, 3.5.13 or newer"
            ));
        }
        if (Self(3, 5, 0)..Self(3, 5, 3)).contains(&self) {
            cautions.push(format!(
                "etcd {self} may corrupt its data when it is killed under load (etcd issue 13766): upgrade to 3.5.3 or \
                 newer"
            ));
        }
        cautions
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c025_servers_with_known_bugs_are_told_apart() {
        let cautions = |text: &str| Version::parse(text).unwrap().cautions().len();
        for (version, count) in [
            ("3.4.23", 1),
            ("3.4.30", 1),
            ("3.4.31", 0),
            ("3.5.0", 2),
            ("3.5.2", 2),
            ("3.5.3", 1),
            ("3.5.12", 1),
            ("3.5.13", 0),
            ("3.6.0-rc.1", 0),
            ("4.0", 0),
        ] {
            assert_eq!(cautions(version), count, "{version}");
        }
    }

    #[test]
    fn c074_a_server_that_is_too_old_is_refused_by_its_version() {
        for (version, serves) in [("3.3.27", false), ("2.3", false), ("3.4.0", true), ("10.0.0", true)] {
            assert_eq!(Version::parse(version).unwrap().serves(), serves, "{version}");
        }
        assert_eq!(Version::parse("three"), None);
    }
}
