//! Where the page says why a target was missed: in the page of the engine, under one heading.
//!
//! A section explains a miss if it names the workload and, where the miss is not about time, the figure. On a slow
//! network it must name that as well. Nothing else is asked of the text: whether it is true, readers judge.

use std::path::Path;

/// The heading of the section.
const HEADING: &str = "Where the time goes";
/// The same in an address.
const ANCHOR: &str = "where-the-time-goes";
/// How the figures end that say how long it takes to have a lock.
const OF_TIME: [&str; 4] = ["cycles/s", "handoffs/s", " us", "ratio"];

/// The pages of the engines, read when they are asked for.
pub(super) struct Explained<'a> {
    /// Where the documentation is.
    docs: &'a Path,
}

impl<'a> Explained<'a> {
    pub(super) fn in_docs(docs: &'a Path) -> Self {
        Self { docs }
    }

    /// What follows a missed target: a link to its explanation, or that there is none.
    pub(super) fn pointer(&self, engine: &str, part: &str, figure: &str) -> String {
        let (engine, network) = engine.split_once(", ").unwrap_or((engine, ""));
        let page = format!("engines/{engine}.md");
        let text = std::fs::read_to_string(self.docs.join(&page)).unwrap_or_default();
        if explains(&text, part, network, figure) {
            format!("see [{HEADING}]({page}#{ANCHOR})")
        } else {
            "unexplained".to_owned()
        }
    }
}

fn explains(page: &str, part: &str, network: &str, figure: &str) -> bool {
    let section = section(page);
    let workload = part.split(',').next().unwrap_or(part);
    let names = |word: &str| word.is_empty() || has_word(section, word);
    let is_time = OF_TIME.iter().any(|end| figure.ends_with(end));
    names(workload) && names(network) && (is_time || names(figure))
}

/// The text under the heading, up to the next one of its rank; empty if there is none.
fn section(page: &str) -> &str {
    let rank = |line: &str| line.len() - line.trim_start_matches('#').len();
    let (mut at, mut begin) = (0, None);
    for line in page.split_inclusive('\n') {
        let heads = rank(line) > 0 && line[rank(line)..].starts_with(' ');
        match begin {
            None if heads && line[rank(line)..].trim() == HEADING => begin = Some((at, rank(line))),
            Some((from, of)) if heads && rank(line) <= of => return &page[from..at],
            _ => {}
        }
        at += line.len();
    }
    begin.map_or("", |(from, _)| &page[from..])
}

/// Whether a text has a word that is no part of another.
fn has_word(text: &str, word: &str) -> bool {
    let part_of_word = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.match_indices(word).any(|(at, _)| {
        let bytes = text.as_bytes();
        !part_of_word(bytes[..at].last()) && !part_of_word(bytes.get(at + word.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Engine\nw1\n## Where the time goes\nOf `w2`, on a slow network too.\n### Memory\n\
                        `scale`: KiB/hold.\n## Limits\nw3\n";

    #[test]
    fn a_section_ends_before_the_next_of_its_rank() {
        assert!(section(PAGE).starts_with("## Where the time goes\n"));
        assert!(section(PAGE).ends_with("KiB/hold.\n"));
        assert_eq!(section("# Engine\n**Where the time goes.** w1\n"), "");
    }

    #[test]
    fn a_miss_is_explained_by_a_section_that_names_it() {
        let explains = |part, network, figure| explains(PAGE, part, network, figure);
        assert!(explains("w2", "", "cycles/s"));
        assert!(explains("w2", "slow network", "cycle p50 us"));
        assert!(!explains("w3, hold 0", "", "cycles/s"), "it is named by another section");
        assert!(explains("scale, 1000 held", "", "KiB/hold"));
        assert!(!explains("scale, 1000 waiters", "", "Jain of best"), "the figure is not named");
        assert!(!has_word("local-w12 xw1", "w1") && has_word("local-w1, w12", "w1"));
    }
}
