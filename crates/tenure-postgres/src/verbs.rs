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

impl Verb {
    pub(crate) const COUNT: usize = 5;
}

/// The statements for one schema.
#[derive(Clone, Debug)]
pub(crate) struct Verbs {
    texts: [Arc<str>; Verb::COUNT],
    /// What the last value of a verb must be, where it is prepared.
    pub(crate) number: Option<i64>,
    pub(crate) inspect: Arc<str>,
    pub(crate) keys: Arc<str>,
    pub(crate) sweep: Arc<str>,
}

impl Verbs {
    /// With a number, a verb does nothing unless its last value is that number. A statement that is prepared by name is
    /// so never taken for another of that name on another connection.
    pub(crate) fn of(schema: &str, number: Option<i64>) -> Self {
        let schema = quoted(schema);
        let verb = |name: &str, count: usize| {
            let values: Vec<_> = (1..=count).map(|n| format!("${n}")).collect();
            let call = format!("{schema}.tenure_{name}({})", values.join(", "));
            let call = match number {
                Some(number) => format!("CASE ${} WHEN '{number}'::bigint THEN {call} END", count + 1),
                None => call,
            };
            // Which process has answered tells whether a pooler is between.
            format!("SELECT {call}, pg_backend_pid()").into()
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
        Self { texts, number, inspect: inspect.into(), keys: keys.into(), sweep: sweep.into() }
    }

    pub(crate) fn text(&self, verb: Verb) -> Arc<str> {
        Arc::clone(&self.texts[verb as usize])
    }
}
