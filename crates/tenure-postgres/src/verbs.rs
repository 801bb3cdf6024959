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
        let texts = [("attempt", 12), ("renew", 5), ("restamp", 6), ("withdraw", 6), ("evict", 3)]
            .map(|(name, count)| verb(name, count));
        // A hold that is alone in its line lies in its key's row.
        let ends = |row: &str, holds: &str| {
            format!(
                "CASE WHEN {row}.session = 0{holds} THEN {row}.ends_us WHEN {schema}.tenure_alive({row}.session) \
                 THEN greatest({row}.ends_us, (SELECT {schema}.tenure_now()) + 1000000) ELSE 0 END"
            )
        };
        let (alone, waits) = (ends("k", ""), ends("p", " OR p.state <> 'holds'"));
        let inspect = format!(
            "SELECT (SELECT {schema}.tenure_now()), k.last_token, l.* \
             FROM {schema}.tenure_keys k LEFT JOIN LATERAL (SELECT \
             k.claim, k.mode, k.lim, k.term_us, k.spare, k.floor, 'holds' AS state, {alone} AS ends_us, k.token, \
             k.last_token - k.token AS spare_granted, 0::bigint AS slot, k.since_us, k.channel, k.identity, \
             0::bigint AS seq WHERE k.claim IS NOT NULL UNION ALL \
             SELECT p.claim, p.mode, p.lim, p.term_us, p.spare, p.floor, p.state, {waits}, p.token, p.spare_granted, \
             p.slot, p.since_us, p.channel, p.identity, p.seq FROM {schema}.tenure_places p WHERE p.key = k.key \
             ) l ON true WHERE k.key = $1 ORDER BY l.seq"
        );
        let lives = |row: &str, holds: &str| {
            format!(
                "starts_with({row}.key, $1) AND {row}.key > $2 AND CASE WHEN {row}.session = 0{holds} \
                 THEN {row}.ends_us > (SELECT {schema}.tenure_now()) ELSE {schema}.tenure_alive({row}.session) END"
            )
        };
        let (alone, waits) = (lives("k", ""), lives("p", " OR p.state <> 'holds'"));
        let keys = format!(
            "SELECT k.key FROM {schema}.tenure_keys k WHERE k.claim IS NOT NULL AND {alone} UNION \
             SELECT p.key FROM {schema}.tenure_places p WHERE {waits} ORDER BY key LIMIT $3"
        );
        let sweep = format!("SELECT {schema}.tenure_sweep($1, $2, $3)");
        Self { texts, number, inspect: inspect.into(), keys: keys.into(), sweep: sweep.into() }
    }

    pub(crate) fn text(&self, verb: Verb) -> Arc<str> {
        Arc::clone(&self.texts[verb as usize])
    }
}
