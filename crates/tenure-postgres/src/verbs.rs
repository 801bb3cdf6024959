//! The statements of the verbs: each calls one function of the migration.

use std::sync::Arc;

use crate::dial::quoted;

/// A verb that the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Attempt,
    Renew,
    Restamp,
    Withdraw,
    Evict,
}

/// The statements for one schema.
#[derive(Clone, Debug)]
pub(crate) struct Verbs {
    texts: [Arc<str>; 5],
    pub(crate) inspect: Arc<str>,
    pub(crate) keys: Arc<str>,
    pub(crate) sweep: Arc<str>,
}

impl Verbs {
    pub(crate) fn of(schema: &str) -> Self {
        let schema = quoted(schema);
        let verb = |name: &str, count: usize| {
            let values: Vec<_> = (1..=count).map(|n| format!("${n}")).collect();
            // Which process has answered tells whether a pooler is between.
            format!("SELECT {schema}.tenure_{name}({}), pg_backend_pid()", values.join(", ")).into()
        };
        let texts = [("attempt", 12), ("renew", 5), ("restamp", 6), ("withdraw", 5), ("evict", 3)]
            .map(|(name, count)| verb(name, count));
        let inspect = format!(
            "SELECT (SELECT {schema}.tenure_now()), k.last_token, p.claim, p.mode, p.lim, p.term_us, p.spare, p.floor, \
             p.state, CASE WHEN p.session = 0 OR p.state <> 'holds' THEN p.ends_us \
             WHEN {schema}.tenure_alive(p.session) THEN greatest(p.ends_us, (SELECT {schema}.tenure_now()) + 1000000) \
             ELSE 0 END, p.token, p.spare_granted, p.slot, p.since_us, p.channel, p.identity \
             FROM {schema}.tenure_keys k LEFT JOIN {schema}.tenure_places p ON p.key = k.key \
             WHERE k.key = $1 ORDER BY p.seq"
        );
        let keys = format!(
            "SELECT DISTINCT p.key FROM {schema}.tenure_places p WHERE starts_with(p.key, $1) AND p.key > $2 \
             AND CASE WHEN p.session = 0 OR p.state <> 'holds' THEN p.ends_us > (SELECT {schema}.tenure_now()) \
             ELSE {schema}.tenure_alive(p.session) END ORDER BY p.key LIMIT $3"
        );
        let sweep = format!("SELECT {schema}.tenure_sweep($1, $2, $3)");
        Self { texts, inspect: inspect.into(), keys: keys.into(), sweep: sweep.into() }
    }

    pub(crate) fn text(&self, verb: Verb) -> Arc<str> {
        Arc::clone(&self.texts[verb as usize])
    }
}
