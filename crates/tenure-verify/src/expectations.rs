//! What an engine cannot rule out: the only exclusion violations that do not fail a run.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Whether two holders at once fail a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Exclusion {
    Never,
    Tolerated,
}

/// The expectations, by engine and kind of fault.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Expectations(BTreeMap<String, BTreeMap<String, Exclusion>>);

const TEXT: &str = include_str!("expectations.toml");

/// Of some kinds of fault, those that may let two holders in on an engine.
pub(crate) fn tolerated(engine: &str, kinds: &[String]) -> Vec<String> {
    // The file is part of the program, and a test reads it; without it, nothing is tolerated.
    let Ok(Expectations(all)) = toml::from_str::<Expectations>(TEXT) else { return Vec::new() };
    let of_engine = all.get(engine);
    let is_tolerated = |kind: &&String| of_engine.and_then(|of| of.get(*kind)) == Some(&Exclusion::Tolerated);
    kinds.iter().filter(is_tolerated).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nemesis::Kind;

    #[test]
    fn the_file_is_sound_and_names_kinds_that_exist() {
        let Expectations(all) = toml::from_str(TEXT).unwrap();
        for kind in all.values().flat_map(BTreeMap::keys) {
            assert!(kind.parse::<Kind>().is_ok(), "{kind}");
        }
    }

    #[test]
    fn what_is_not_named_is_never_tolerated() {
        let kinds = Kind::ALL.map(|kind| kind.to_string());
        assert_eq!(tolerated("local", &kinds), Vec::<String>::new());
        assert_eq!(tolerated("memory", &kinds), ["failover"]);
        assert_eq!(tolerated("redis", &kinds), ["clock", "restart"]);
        for replicated in ["redis+sentinel", "redis+cluster"] {
            assert_eq!(tolerated(replicated, &kinds), ["restart", "freeze", "failover"], "{replicated}");
        }
    }
}
