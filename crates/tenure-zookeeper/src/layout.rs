//! Which nodes make a line: our own layout, and those that other clients of ZooKeeper share.
//!
//! A key has a node, its *folder*; each place is an ephemeral sequential child of it. In our own layout the folder of
//! `orders/42` is `/tenure/orders%2f42`, and a place is `<claim>-<mode>-<sequence>`, so that a list of the children is
//! all that the rule of the line needs. A child `<claim>-gone-<session>` says that no place of that claim counts any
//! more. In the layouts of Curator the key is the path itself, and a place is
//! `_c_<claim as UUID>-lock-<sequence>`, or `__READ__` and `__WRIT__` instead of `lock-`; the contenders of kazoo in
//! the same folder are respected.
//!
//! # Invariants
//! 1. Two keys have two folders, and no folder is within another of our own layout.
//! 2. The sequence is a 32-bit number that wraps: it is compared by the difference, never as text.

use std::num::NonZeroU32;

use tenure_core::engine::{Trouble, answers};
use tenure_core::{ClaimId, Key, Mode};

/// The folder of all our lines.
pub(crate) const ROOT: &str = "/tenure";

/// What stands between the claim and the session in the name of a grave.
const GRAVE: &str = "-gone-";

/// Whose nodes a line consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Layout {
    /// Our own: all modes, any key, and who claims.
    #[default]
    Tenure,
    /// That of Curator's `InterProcessMutex`; contenders of kazoo's `Lock` in the same place are respected, and respect
    /// us when they are made with `extra_lock_patterns=["-lock-"]`. A key is a path, and all claims are exclusive.
    Curator,
    /// That of Curator's `InterProcessReadWriteLock`, whose writers bear another name than its mutex. A key is a path,
    /// and there are no permits.
    CuratorReadWrite,
}

/// One child of a folder, as far as its name tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) mode: Mode,
    /// The claim; of a place of others the id in its name, or the sequence where it has none.
    pub(crate) claim: ClaimId,
    sequence: i32,
}

impl Layout {
    /// The folder of a key.
    pub(crate) fn folder(self, key: &Key) -> Result<String, Trouble> {
        match self {
            Self::Tenure => {
                let mut folder = String::with_capacity(ROOT.len() + key.as_str().len() + 8);
                folder.push_str(ROOT);
                folder.push('/');
                escape_into(&mut folder, key.as_str());
                Ok(folder)
            }
            Self::Curator | Self::CuratorReadWrite => {
                let path = key.as_str().strip_prefix('/').unwrap_or(key.as_str());
                let usable = |name: &str| !matches!(name, "" | "." | "..") && !name.chars().any(reserved);
                if path.split('/').all(usable) && !path.starts_with("zookeeper/") && path != "zookeeper" {
                    return Ok(format!("/{path}"));
                }
                Err(Trouble::unsupported(format!(
                    "{:?} is no path of ZooKeeper, which layout=curator needs: write names apart by single slashes",
                    key.as_str()
                )))
            }
        }
    }

    /// The key whose folder has this name among our lines.
    pub(crate) fn key_of(name: &str) -> Option<Key> {
        let bytes = tenure_core::engine::url::percent_decoded(name)?;
        let key = Key::new(String::from_utf8(bytes).ok()?).ok()?;
        let mut again = String::new();
        escape_into(&mut again, key.as_str());
        // Only one spelling of each key counts.
        (again == name).then_some(key)
    }

    /// What the name of a claim's node begins with; ZooKeeper appends the sequence.
    pub(crate) fn prefix(self, claim: ClaimId, mode: Mode) -> Result<String, Trouble> {
        match (self, mode) {
            (Self::Tenure, mode) => Ok(format!("{claim}-{}-", mode_word(mode))),
            (Self::Curator, Mode::Exclusive) => Ok(format!("_c_{}-lock-", uuid(claim))),
            (Self::CuratorReadWrite, Mode::Exclusive) => Ok(format!("_c_{}-__WRIT__", uuid(claim))),
            (Self::CuratorReadWrite, Mode::Shared) => Ok(format!("_c_{}-__READ__", uuid(claim))),
            (_, mode) => Err(Trouble::unsupported(format!(
                "no place of this layout is a {mode}: layout=curator has locks, layout=curator-rw read/write locks, \
                 and the layout of tenure has all"
            ))),
        }
    }

    /// What a session calls the child that says that no place of a claim counts; none where others would not know.
    pub(crate) fn grave(self, claim: ClaimId, session: i64) -> Option<String> {
        (self == Self::Tenure).then(|| format!("{claim}{GRAVE}{session:016x}"))
    }

    /// Whose grave a child of a folder is, if it is one.
    fn buried(self, name: &str) -> Option<ClaimId> {
        let (claim, session) = name.split_once(GRAVE).filter(|_| self == Self::Tenure)?;
        u64::from_str_radix(session, 16).ok()?;
        claim.parse().ok()
    }

    /// What a child of a folder is; none when it is no place of this layout.
    pub(crate) fn entry(self, name: &str) -> Option<Entry> {
        let (head, sequence) = split_sequence(name)?;
        let (claim, mode) = match self {
            Self::Tenure => {
                let (claim, mode) = head.strip_suffix('-')?.split_once('-')?;
                (claim.parse().ok()?, mode_of(mode)?)
            }
            Self::Curator | Self::CuratorReadWrite => {
                let kinds = [
                    ("__rlock__", Mode::Shared),
                    ("__READ__", Mode::Shared),
                    ("__WRIT__", Mode::Exclusive),
                    ("__lock__", Mode::Exclusive),
                    ("lock-", Mode::Exclusive),
                ];
                let (head, mode) =
                    kinds.iter().find_map(|(word, mode)| Some((head.strip_suffix(word)?, *mode)))?;
                (claim_of(head).unwrap_or_else(|| ClaimId::from_bits(sequence.unsigned_abs().into())), mode)
            }
        };
        Some(Entry { name: name.to_owned(), mode, claim, sequence })
    }

    /// The places among the children of a folder, in order of arrival.
    pub(crate) fn line(self, folder: &str, children: &[String]) -> Result<Vec<Entry>, Trouble> {
        // Folders may lie in folders there.
        let belongs = |child: &String| {
            self.entry(child).is_some()
                || self.buried(child).is_some()
                || self != Self::Tenure && split_sequence(child).is_none()
        };
        match children.iter().find(|child| !belongs(child)) {
            None => Ok(self.line_among(children)),
            Some(stranger) => Err(Trouble::foreign(format!(
                "{folder} has the child {stranger:?}, which is no place of this layout: use another chroot or layout"
            ))),
        }
    }

    /// The same, without a complaint about what does not belong there.
    pub(crate) fn line_among(self, children: &[String]) -> Vec<Entry> {
        let mut line: Vec<_> = children.iter().filter_map(|child| self.entry(child)).collect();
        for buried in children.iter().filter_map(|child| self.buried(child)) {
            line.retain(|entry| entry.claim != buried);
        }
        in_order(&mut line);
        line
    }
}

/// Puts places in order of arrival. The sequence wraps after 2^31 places; those alive at one time are much closer.
fn in_order(line: &mut [Entry]) {
    let Some(pivot) = line.first().map(|entry| entry.sequence) else { return };
    line.sort_by_key(|entry| entry.sequence.wrapping_sub(pivot));
}

/// A name without the sequence that ZooKeeper has appended: ten characters, or eleven with a sign.
fn split_sequence(name: &str) -> Option<(&str, i32)> {
    let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
    let start = name.len().checked_sub(10).filter(|_| digits >= 9)?;
    // With a sign there are nine digits or ten, and the sign is before them; a dash may also end the name proper.
    for start in [name.len().saturating_sub(11), start] {
        let (head, sequence) = name.split_at_checked(start)?;
        let signed = sequence.strip_prefix('-').is_some_and(|rest| rest.len() == 10 || rest.len() == 9);
        let plain = sequence.len() == 10 && sequence.bytes().all(|byte| byte.is_ascii_digit());
        // `-0000000012` after a name that has no dash of its own is a dash and a sequence.
        let signed = signed && (sequence.len() == 10 || head.ends_with('-') || head.ends_with('_'));
        if (signed || plain)
            && let Ok(sequence) = sequence.parse()
        {
            return Some((head, sequence));
        }
    }
    None
}

fn mode_word(mode: Mode) -> String {
    match answers::mode_words(mode) {
        (word, 0) => word.to_owned(),
        (word, limit) => format!("{word}{limit}"),
    }
}

fn mode_of(word: &str) -> Option<Mode> {
    let (kind, limit) = word.split_at_checked(1)?;
    let limit = if limit.is_empty() { 0 } else { limit.parse::<NonZeroU32>().ok()?.get() };
    answers::mode(kind, limit).filter(|mode| mode_word(*mode) == word)
}

/// A claim as other clients write ids.
fn uuid(claim: ClaimId) -> String {
    let hex = claim.to_string();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The id in the name of a place of Curator or kazoo.
fn claim_of(head: &str) -> Option<ClaimId> {
    let uuid = head.strip_prefix("_c_").unwrap_or(head);
    let hex: String = uuid.split('-').collect();
    hex.parse().ok()
}

/// What no node may be called by.
fn reserved(c: char) -> bool {
    c.is_control() || ('\u{e000}'..='\u{f8ff}').contains(&c) || ('\u{fff0}'..='\u{ffff}').contains(&c)
}

fn escape_into(out: &mut String, name: &str) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => out.push(char::from(byte)),
            b'.' if at > 0 => out.push('.'),
            _ => {
                out.push('%');
                out.push(char::from(DIGITS[usize::from(byte >> 4)]));
                out.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(line: &[Entry]) -> Vec<&str> {
        line.iter().map(|entry| entry.name.as_str()).collect()
    }

    #[test]
    fn a_place_is_read_from_its_name() {
        let id = ClaimId::from_bits(7);
        let limit = NonZeroU32::new(3).unwrap();
        for mode in [Mode::Exclusive, Mode::Shared, Mode::Permit { limit }] {
            for sequence in ["0000000012", "2147483647", "-2147483648", "-000000005"] {
                let name = Layout::Tenure.prefix(id, mode).unwrap() + sequence;
                let entry = Layout::Tenure.entry(&name).unwrap();
                assert_eq!((entry.claim, entry.mode), (id, mode), "{name}");
                assert_eq!(entry.sequence, sequence.parse::<i32>().unwrap(), "{name}");
            }
        }
        for foreign in
            ["x", "lock-0000000001", "_c_1-lock-0000000001", "0000000001", &format!("{id}-q-0000000001")]
        {
            assert_eq!(Layout::Tenure.entry(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn places_of_curator_and_kazoo_are_read_from_their_names() {
        let (lock, read) = (Mode::Exclusive, Mode::Shared);
        for (name, mode, sequence) in [
            ("_c_0b7a9a3c-52d4-4d8f-8d3c-0123456789ab-lock-0000000003", lock, 3),
            ("_c_0b7a9a3c-52d4-4d8f-8d3c-0123456789ab-__WRIT__0000000004", lock, 4),
            ("_c_0b7a9a3c-52d4-4d8f-8d3c-0123456789ab-__READ__0000000005", read, 5),
            ("lock-0000000006", lock, 6),
            ("d1b1a6f5c0a84be5a2f3d9d1b6c3ffee__lock__0000000007", lock, 7),
            ("d1b1a6f5c0a84be5a2f3d9d1b6c3ffee__rlock__0000000008", read, 8),
            ("d1b1a6f5c0a84be5a2f3d9d1b6c3ffee__lock__-2147483648", lock, i32::MIN),
            ("_c_0b7a9a3c-52d4-4d8f-8d3c-0123456789ab-lock--2147483647", lock, i32::MIN + 1),
        ] {
            let entry = Layout::Curator.entry(name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!((entry.mode, entry.sequence), (mode, sequence), "{name}");
            let anonymous = ClaimId::from_bits(6);
            assert_eq!(entry.claim == anonymous, name.starts_with("lock-"), "{name}");
        }
        let id = ClaimId::from_bits(0x0b7a_9a3c_52d4_4d8f_8d3c_0123_4567_89ab);
        let own = Layout::Curator.prefix(id, lock).unwrap() + "0000000009";
        assert_eq!(own, "_c_0b7a9a3c-52d4-4d8f-8d3c-0123456789ab-lock-0000000009");
        assert_eq!(Layout::Curator.entry(&own).unwrap().claim, id);
    }

    #[test]
    fn c108_a_sequence_that_wraps_keeps_the_order() {
        let name = |sequence: &str| format!("{}-x-{sequence}", ClaimId::from_bits(1));
        let arrived = ["2147483646", "2147483647", "-2147483648", "-2147483647"].map(name);
        for rotated in 0..arrived.len() {
            let mut children = arrived.to_vec();
            children.rotate_left(rotated);
            let line = Layout::Tenure.line("/f", &children).unwrap();
            assert_eq!(names(&line), arrived);
        }
    }

    #[test]
    fn a_child_of_another_layout_is_foreign() {
        let (ours, theirs) =
            (format!("{}-x-0000000001", ClaimId::from_bits(1)), "_c_x-lock-0000000002".to_owned());
        assert!(Layout::Tenure.line("/f", &[ours.clone(), theirs.clone()]).is_err());
        assert!(Layout::Curator.line("/f", &[ours, theirs.clone()]).is_err());
        assert_eq!(Layout::Curator.line("/f", &[theirs, "sub".to_owned()]).unwrap().len(), 1);
    }

    #[test]
    fn places_of_a_claim_that_has_a_grave_do_not_count() {
        let (one, two) = (ClaimId::from_bits(1), ClaimId::from_bits(2));
        let place = |claim, sequence: &str| Layout::Tenure.prefix(claim, Mode::Exclusive).unwrap() + sequence;
        for session in [0, 0x0100_2345_6789_0123, i64::MAX, -1] {
            let grave = Layout::Tenure.grave(one, session).unwrap();
            assert_eq!(Layout::Tenure.entry(&grave), None, "{grave}");
            let children =
                [place(one, "0000000001"), grave, place(two, "0000000002"), place(one, "0000000003")];
            let line = Layout::Tenure.line("/f", &children).unwrap();
            assert_eq!(names(&line), [&*children[2]]);
        }
        assert_eq!(Layout::Curator.grave(one, 0), None);
        assert!(Layout::Tenure.line("/f", &[format!("{one}-gone-x")]).is_err());
    }

    #[test]
    fn the_two_locks_of_curator_have_names_of_their_own() {
        let id = ClaimId::from_bits(1);
        let prefix = |layout: Layout, mode| layout.prefix(id, mode).ok();
        assert!(prefix(Layout::Curator, Mode::Shared).is_none());
        assert!(prefix(Layout::Curator, Mode::Exclusive).is_some_and(|name| name.ends_with("-lock-")));
        // Its readers look for this word alone.
        assert!(
            prefix(Layout::CuratorReadWrite, Mode::Exclusive).is_some_and(|name| name.ends_with("__WRIT__"))
        );
    }

    #[test]
    fn a_key_of_curator_is_a_path() {
        let folder = |name: &str| Layout::Curator.folder(&Key::new(name).unwrap());
        assert_eq!(folder("orders/42").unwrap(), "/orders/42");
        assert_eq!(folder("/orders/42").unwrap(), "/orders/42");
        for bad in ["a//b", "a/", "..", "a/./b", "/", "zookeeper/x"] {
            assert!(folder(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn c114_every_key_reads_back_from_its_folder_and_no_two_meet(name in "[a-cA-C./%~ ж2f-]{1,8}") {
            let key = Key::new(&name).unwrap();
            let folder = Layout::Tenure.folder(&key).unwrap();
            let last = folder.strip_prefix("/tenure/").unwrap();
            prop_assert!(!last.contains('/') && !last.starts_with('.') && last.is_ascii());
            prop_assert_eq!(Layout::key_of(last), Some(key));
        }
    }
}
