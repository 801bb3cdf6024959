//! Folders in which this session alone has made nodes lately: there the answer to a creation says who is before us.
//!
//! A server numbers the nodes of a folder by how many were made in it before. When our last node was seen to be alone
//! in its folder, has been deleted since, and the next one has the next number, nobody has made one in between, so
//! nobody is before us: the line need not be read.
//!
//! Numbers begin anew when the folder is removed and made again. Others must then make as many nodes as there were
//! before for ours to have the next number, and each of these writes has a zxid of its own. With fewer writes in the
//! whole ensemble than that, it is still the same folder.
//!
//! # Invariants
//! 1. Only a node that was seen to be alone, and whose deletion was answered, is noted.
//! 2. While a node of ours may be in the folder, nothing is noted of it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many folders are noted; then all are forgotten.
const FOLDERS_MAX: usize = 4_096;

/// A node as the answer to its creation describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) number: i64,
    pub(crate) zxid: i64,
}

/// A node that was seen to be alone in its folder; who came later has a higher number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alone {
    made: Made,
    /// Whether the one of ours before it was followed by it. Where others come and go in between, the line is read.
    again: bool,
}

/// The last nodes of this session, by their folders.
#[derive(Debug, Default)]
pub(crate) struct Solo(Mutex<HashMap<String, Alone>>);

impl Made {
    /// Whether the other was made in the same folder, and no other one in between.
    fn is_followed_by(self, next: Self) -> bool {
        let writes = next.zxid.saturating_sub(self.zxid);
        next.number == self.number.saturating_add(1) && (1..=next.number).contains(&writes)
    }
}

impl Alone {
    /// Whether the line need not be asked for together with the next creation.
    pub(crate) fn is_likely(last: Option<Self>) -> bool {
        last.is_some_and(|last| last.again)
    }

    /// The node as one that is alone, if that follows from the one before it.
    pub(crate) fn after(last: Option<Self>, made: Made) -> Option<Self> {
        last.filter(|last| last.made.is_followed_by(made)).map(|_| Self { made, again: true })
    }

    /// The node as one that was seen to be alone.
    pub(crate) fn seen(last: Option<Self>, made: Made) -> Self {
        Self::after(last, made).unwrap_or(Self { made, again: false })
    }
}

impl Solo {
    /// The last node in a folder, which is noted no more.
    pub(crate) fn take(&self, folder: &str) -> Option<Alone> {
        self.noted().remove(folder)
    }

    /// Notes a node that has been deleted.
    pub(crate) fn note(&self, folder: &str, last: Alone) {
        let mut noted = self.noted();
        if noted.len() >= FOLDERS_MAX {
            noted.clear();
        }
        noted.insert(folder.to_owned(), last);
    }

    fn noted(&self) -> MutexGuard<'_, HashMap<String, Alone>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(number: i64, zxid: i64) -> Made {
        Made { number, zxid }
    }

    #[test]
    fn the_next_number_means_that_nobody_came_in_between() {
        assert!(made(7, 100).is_followed_by(made(8, 102)));
        assert!(!made(7, 100).is_followed_by(made(9, 102)));
        assert!(!made(7, 100).is_followed_by(made(7, 102)));
    }

    /// A folder that was made again has the next number when others have made as many nodes in it as there were.
    #[test]
    fn the_next_number_of_another_folder_of_the_same_name_means_nothing() {
        for number in 0..50 {
            // Ours is deleted, the folder removed and made, and so many others are made before the next one.
            let least = 1 + 1 + 1 + (number + 1) + 1;
            for writes in least..least + 50 {
                assert!(
                    !made(number, 100).is_followed_by(made(number + 1, 100 + writes)),
                    "{number} {writes}"
                );
            }
        }
        assert!(!made(7, 100).is_followed_by(made(8, 1 << 32)), "another leader");
        assert!(!made(7, 100).is_followed_by(made(8, 50)), "an ensemble that was set back");
    }

    #[test]
    fn a_folder_is_believed_in_when_it_was_ours_twice() {
        let first = Alone::seen(None, made(7, 100));
        assert!(!Alone::is_likely(Some(first)));
        let second = Alone::seen(Some(first), made(8, 102));
        assert!(Alone::is_likely(Some(second)));
        assert_eq!(Alone::after(Some(second), made(9, 104)), Some(Alone { made: made(9, 104), again: true }));
        assert_eq!(Alone::after(Some(second), made(10, 104)), None);
        assert_eq!(Alone::after(None, made(9, 104)), None);
    }

    #[test]
    fn what_is_noted_is_bounded_and_told_once() {
        let (solo, alone) = (Solo::default(), Alone::seen(None, made(1, 2)));
        for folder in 0..=FOLDERS_MAX {
            solo.note(&folder.to_string(), alone);
        }
        assert_eq!(solo.noted().len(), 1);
        assert_eq!(solo.take(&FOLDERS_MAX.to_string()), Some(alone));
        assert_eq!(solo.take(&FOLDERS_MAX.to_string()), None);
    }
}
