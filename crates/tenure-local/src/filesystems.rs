//! Which file systems can be trusted with a lock, by the number that `statfs` reports.
//!
//! On a network or FUSE file system `flock` may hold on one machine only, vanish when the server restarts, or do
//! nothing and report success. Each has let two holders in. So the list names what is allowed, not what is refused:
//! a file system that nobody here knows is not trusted.

/// What is known of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileSystem {
    pub(crate) name: &'static str,
    pub(crate) trust: Trust,
}

/// What a lock on it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The kernel decides, and files outlive a restart of the machine.
    Disk,
    /// The kernel decides, and a restart of the machine empties it.
    Memory,
    /// Somebody else decides, or nobody knows who.
    None,
}

/// What is known of the file system with this number.
pub(crate) fn by_magic(magic: u64) -> FileSystem {
    // The field of `statfs` is signed on some machines; the numbers have 32 bits.
    let magic = magic & 0xffff_ffff;
    let known = KNOWN.iter().find(|(number, ..)| *number == magic);
    known.map_or(FileSystem { name: "of an unknown type", trust: Trust::None }, |(_, name, trust)| {
        FileSystem { name, trust: *trust }
    })
}

/// From `linux/magic.h` and the sources of each file system.
const KNOWN: &[(u64, &str, Trust)] = &[
    (0x0000_ef53, "ext", Trust::Disk),
    (0x5846_5342, "xfs", Trust::Disk),
    (0x9123_683e, "btrfs", Trust::Disk),
    (0x794c_7630, "overlayfs", Trust::Disk),
    (0x2fc1_2fc1, "zfs", Trust::Disk),
    (0xf2f5_2010, "f2fs", Trust::Disk),
    (0xca45_1a4e, "bcachefs", Trust::Disk),
    (0x3153_464a, "jfs", Trust::Disk),
    (0x5265_4973, "reiserfs", Trust::Disk),
    (0x0000_3434, "nilfs", Trust::Disk),
    (0x2405_1905, "ubifs", Trust::Disk),
    (0x0102_1994, "tmpfs", Trust::Memory),
    (0x8584_58f6, "ramfs", Trust::Memory),
    (0x0000_6969, "nfs", Trust::None),
    (0x0000_517b, "smb", Trust::None),
    (0xff53_4d42, "cifs", Trust::None),
    (0xfe53_4d42, "smb2", Trust::None),
    (0x6573_5546, "fuse", Trust::None),
    (0x0102_1997, "9p", Trust::None),
    (0x00c3_6400, "ceph", Trust::None),
    (0x0bd0_0bd0, "lustre", Trust::None),
    (0x4750_4653, "gpfs", Trust::None),
    (0x1983_0326, "beegfs", Trust::None),
    (0x2003_0528, "orangefs", Trust::None),
    (0x5346_414f, "afs", Trust::None),
    (0x6b41_4653, "afs", Trust::None),
    (0x7375_7245, "coda", Trust::None),
    (0x7461_636f, "ocfs2", Trust::None),
    (0x0116_1970, "gfs2", Trust::None),
    (0x786f_4256, "vboxsf", Trust::None),
    (0xbacb_acbc, "vmhgfs", Trust::None),
    (0x0000_4d44, "fat", Trust::None),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c096_only_file_systems_known_to_be_local_are_trusted() {
        for (magic, name) in
            [(0xef53, "ext"), (0x5846_5342, "xfs"), (0x9123_683e, "btrfs"), (0x794c_7630, "overlayfs")]
        {
            assert_eq!(by_magic(magic), FileSystem { name, trust: Trust::Disk });
        }
        assert_eq!(by_magic(0x0102_1994), FileSystem { name: "tmpfs", trust: Trust::Memory });
        for (magic, name) in [
            (0x6969, "nfs"),
            (0xff53_4d42, "cifs"),
            (0x6573_5546, "fuse"),
            (0x0102_1997, "9p"),
            (0x00c3_6400, "ceph"),
            (0x0bd0_0bd0, "lustre"),
            (0x1234_5678, "of an unknown type"),
            (0, "of an unknown type"),
        ] {
            assert_eq!(by_magic(magic), FileSystem { name, trust: Trust::None });
        }
    }

    #[test]
    fn c096_a_signed_number_is_recognised() {
        assert_eq!(by_magic(i64::from(0x9123_683e_u32.cast_signed()).cast_unsigned()).name, "btrfs");
    }

    #[test]
    fn no_number_is_listed_twice() {
        for (at, (magic, ..)) in KNOWN.iter().enumerate() {
            assert!(KNOWN[at + 1..].iter().all(|(other, ..)| other != magic), "{magic:#x}");
        }
    }
}
