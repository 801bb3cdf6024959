//! The slots of a cluster: which one a name belongs to, and which ones a node serves.

use std::ops::RangeInclusive;

/// How many slots every cluster has.
pub(crate) const SLOTS: u16 = 16_384;

/// The slot of a key or channel: of its hash tag, if it has one that is not empty.
pub(crate) fn slot_of(name: &[u8]) -> u16 {
    let tag = name.iter().position(|byte| *byte == b'{').and_then(|open| {
        let inner = &name[open + 1..];
        let length = inner.iter().position(|byte| *byte == b'}')?;
        (length > 0).then(|| &inner[..length])
    });
    crc16(tag.unwrap_or(name)) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes
        .iter()
        .fold(0, |crc: u16, byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) ^ u16::from(*byte)) & 0xff])
}

const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut crc = (at as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
};

/// What a server keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// It is alone, and keeps everything.
    All,
    /// It keeps these slots of a cluster.
    Slots(Vec<RangeInclusive<u16>>),
}

impl Served {
    /// How often as many names are tried as it takes on average to meet a slot that is served.
    const PATIENCE: u32 = 32;

    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Slots(ranges) => {
                let slot = slot_of(name.as_bytes());
                ranges.iter().any(|range| range.contains(&slot))
            }
        }
    }

    /// The first of the numbers whose name is served here; none when this node serves nothing.
    pub(crate) fn first(
        &self,
        mut numbers: impl FnMut() -> u64,
        name: impl Fn(u64) -> String,
    ) -> Option<u64> {
        let slots: u32 = match self {
            Self::All => SLOTS.into(),
            Self::Slots(ranges) => {
                ranges.iter().map(|range| u32::from(range.end() - range.start()) + 1).sum()
            }
        };
        let tries = (Self::PATIENCE * u32::from(SLOTS)).checked_div(slots).unwrap_or(0);
        (0..tries).map(|_| numbers()).find(|number| self.has(&name(*number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names;

    #[test]
    fn c072_slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // As `CLUSTER KEYSLOT` says.
        for (name, slot) in
            [("a", 15_495), ("b", 3_300), ("foo{}{bar}", slot_of(b"foo{}{bar}")), ("x{a}y", 15_495)]
        {
            assert_eq!(slot_of(name.as_bytes()), slot, "{name}");
        }
        assert_ne!(slot_of(b"foo{}{bar}"), slot_of(b"bar"), "an empty tag is none");
        assert_eq!(slot_of(b"foo{{bar}}"), slot_of(b"{bar"));
    }

    #[test]
    fn a_name_is_found_for_a_node_with_a_single_slot() {
        let served = Served::Slots(vec![77..=77]);
        let mut next = 0;
        let mut numbers = || {
            next += 1;
            next
        };
        let found = served.first(&mut numbers, names::channel_of).unwrap();
        assert_eq!(slot_of(names::channel_of(found).as_bytes()), 77);
        assert_eq!(Served::Slots(Vec::new()).first(|| 7, names::channel_of), None);
    }
}
