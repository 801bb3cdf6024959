//! What one process sees: the rules of the contract, and files that somebody has tampered with.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use futures_executor::block_on;
use proptest::prelude::*;
use support::*;
use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineErrorKind, Exclusion, Gone, Liveness, Renewal, Restamp, Retry,
    Stray, TokenDurability, Validity, Withdrawn,
};
use tenure_core::{IfBusy, Mode};
use tenure_local::{Local, LocalOptions, SyncMode};

fn refused(directory: &Path) -> EngineErrorKind {
    Local::open(&LocalOptions::at(directory)).map(|_| ()).unwrap_err().kind()
}

fn key_file(directory: &Path, name: &str) -> std::path::PathBuf {
    directory.join("locks/keys").join(name)
}

#[test]
fn a_claim_holds_renews_restamps_and_leaves() {
    let directory = tempfile::tempdir().unwrap();
    let local = open(directory.path());
    let facts = local.facts();
    assert_eq!(
        (facts.engine, facts.liveness, facts.exclusion),
        ("local", Liveness::Process, Exclusion::Always)
    );
    assert_eq!(facts.token_durability, TokenDurability::Process);
    let (mut holder, grant) = hold(&local, "k");
    assert_eq!(grant.validity, Validity::Lifetime);
    assert_eq!(granted(&mut holder), grant, "an attempt never makes a second place");
    assert_eq!(block_on(holder.renew()).unwrap(), Renewal::Renewed(Validity::Lifetime));
    let Restamp::Fresh(fresh) = block_on(holder.restamp()).unwrap() else { panic!() };
    assert!(fresh.first > grant.tokens.last());
    assert_eq!(block_on(holder.withdraw(Stray::Impossible)).unwrap(), Withdrawn::Held);
    assert_eq!(block_on(holder.withdraw(Stray::Impossible)).unwrap(), Withdrawn::Absent);
    assert_eq!(block_on(holder.renew()).unwrap(), Renewal::Gone(Gone::Absent));
    let (_, next) = hold(&local, "k");
    assert!(next.tokens.first > fresh.last());
}

#[test]
fn a_withdrawal_whose_attempt_is_still_on_its_way_refuses_it() {
    let directory = tempfile::tempdir().unwrap();
    let local = open(directory.path());
    let mut late = local.contend(claim("k"));
    assert_eq!(block_on(late.withdraw(Stray::Possible)).unwrap(), Withdrawn::Absent);
    assert!(matches!(block_on(late.attempt()), Ok(Attempt::Gone(Gone::Withdrawn))));
    hold(&local, "k");
}

#[test]
fn readers_share_and_permits_agree_on_their_limit() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (open(directory.path()), open(directory.path()));
    let join = |local: &Local, name, mode| local.contend(with(claim(name), mode, IfBusy::Join));
    granted(&mut join(&one, "rw", Mode::Shared));
    granted(&mut join(&two, "rw", Mode::Shared));
    assert_eq!(waits(&mut join(&two, "rw", Mode::Exclusive)).ahead, 2);
    let permit = |limit| Mode::Permit { limit: std::num::NonZeroU32::new(limit).unwrap() };
    assert_eq!(granted(&mut join(&one, "s", permit(2))).slot, 0);
    assert_eq!(granted(&mut join(&two, "s", permit(2))).slot, 1);
    waits(&mut join(&one, "s", permit(2)));
    let error = block_on(join(&two, "s", permit(3)).attempt()).unwrap_err();
    assert!(matches!(error.kind(), EngineErrorKind::LimitMismatch { stored } if stored.get() == 2));
}

#[test]
fn dropping_an_instance_ends_its_holds_and_wakes_who_waits() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (open(directory.path()), open(directory.path()));
    let held = hold(&one, "k");
    let mut waiter = two.contend(claim("k"));
    waits(&mut waiter);
    drop((held, one));
    woken(&mut waiter, std::time::Duration::from_millis(700)).expect("the end is heard");
    granted(&mut waiter);
}

#[test]
fn a_line_grows_behind_its_page_and_shrinks_again() {
    let directory = tempfile::tempdir().unwrap();
    let local = open(directory.path());
    let mut line: Vec<_> = (0..300).map(|_| local.contend(claim("k"))).collect();
    let mut last = granted(&mut line[0]).tokens.first;
    for (at, waiter) in line.iter_mut().enumerate().skip(1) {
        assert_eq!(waits(waiter).ahead, at);
    }
    release(&mut line[0]);
    for waiter in &mut line[1..] {
        let token = granted(waiter).tokens.first;
        assert!(token > last);
        last = token;
        release(waiter);
    }
    assert_eq!(fs::metadata(key_file(directory.path(), "k")).unwrap().len(), 4096);
}

#[test]
fn a_few_thousand_keys_are_listed_in_order_while_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let local = open(directory.path());
    let long = "y".repeat(512);
    let held: Vec<_> = (0..2_000).map(|n| hold(&local, &format!("k/{n:04}"))).collect();
    let (_other, _long) = (hold(&local, "other"), hold(&local, &long));
    let keys = |prefix: &str, after: Option<&str>, limit| {
        let keys = block_on(local.keys(prefix, after.map(key).as_ref(), limit)).unwrap();
        keys.iter().map(|key| key.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys("k/", None, 3), ["k/0000", "k/0001", "k/0002"]);
    assert_eq!(keys("k/", Some("k/1997"), 9), ["k/1998", "k/1999"]);
    assert_eq!(keys("", Some("k/1999"), 9), ["other".to_owned(), long]);
    assert_eq!(keys("", None, 9_999).len(), 2_002);
    for (mut contender, _) in held {
        release(&mut contender);
    }
    assert_eq!(keys("k/", None, 9), [] as [&str; 0]);
}

#[test]
fn c075_a_foreign_directory_is_refused_and_untouched() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("precious.txt"), "mine").unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(refused(directory.path()), EngineErrorKind::Foreign);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn c075_a_directory_of_another_version_is_refused_and_untouched() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path());
    let format = directory.path().join("locks/FORMAT");
    for other in ["tenure local 2 flock\n", "", "garbage", "tenure local 1 flock\nmore"] {
        fs::write(&format, other).unwrap();
        assert_eq!(refused(&directory.path().join("locks")), EngineErrorKind::Foreign, "{other:?}");
        assert_eq!(fs::read_to_string(&format).unwrap(), other);
    }
}

#[test]
fn c075_a_foreign_file_at_a_key_is_refused_and_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let local = open(directory.path());
    let refused = |name: &str| {
        let error = block_on(local.contend(claim(name)).attempt()).unwrap_err();
        assert_eq!((error.effect(), error.retry()), (Effect::None, Retry::Useless), "{error}");
        error.kind()
    };
    fs::write(key_file(directory.path(), "text"), "a note").unwrap();
    assert_eq!(refused("text"), EngineErrorKind::Foreign);
    assert_eq!(fs::read_to_string(key_file(directory.path(), "text")).unwrap(), "a note");
    fs::create_dir(key_file(directory.path(), "folder")).unwrap();
    assert_eq!(refused("folder"), EngineErrorKind::Foreign);
    symlink("/etc/passwd", key_file(directory.path(), "link")).unwrap();
    assert_eq!(refused("link"), EngineErrorKind::Foreign);
    let _held = hold(&local, "one");
    fs::copy(key_file(directory.path(), "one"), key_file(directory.path(), "two")).unwrap();
    assert_eq!(refused("two"), EngineErrorKind::Foreign, "a copy of another key's file");
}

#[test]
fn c091_a_deleted_key_file_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let local = open(directory.path());
    let (mut holder, first) = hold(&local, "k");
    fs::remove_file(key_file(directory.path(), "k")).unwrap();
    assert_eq!(block_on(holder.renew()).unwrap(), Renewal::Gone(Gone::Absent));
    let (_, second) = hold(&local, "k");
    assert!(second.tokens.first > first.tokens.first, "the clock keeps tokens rising");
}

#[test]
fn c091_a_process_whose_member_file_was_deleted_knows_that_it_holds_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let local = open(directory.path());
    let (mut holder, _) = hold(&local, "k");
    fs::remove_dir_all(directory.path().join("locks/members")).unwrap();
    assert_eq!(block_on(holder.renew()).unwrap(), Renewal::Gone(Gone::Absent));
    until("an attempt notices", || block_on(holder.attempt()).is_err());
}

#[test]
fn a_directory_that_anybody_can_write_or_that_is_missing_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let open_to_all = directory.path().join("all");
    fs::create_dir(&open_to_all).unwrap();
    fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(refused(&open_to_all), EngineErrorKind::Denied);
    let error = Local::open(&LocalOptions::at(directory.path().join("a/b/c"))).unwrap_err();
    assert!(error.to_string().contains("/a/b does not exist"), "{error}");
    fs::write(directory.path().join("file"), "").unwrap();
    assert_eq!(refused(&directory.path().join("file")), EngineErrorKind::Foreign);
    symlink("nowhere", directory.path().join("link")).unwrap();
    assert!(Local::open(&LocalOptions::at(directory.path().join("link"))).is_err());
}

#[test]
fn files_have_the_rights_of_their_directory() {
    let directory = tempfile::tempdir().unwrap();
    let locks = directory.path().join("locks");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let _held = hold(&open(directory.path()), "k");
    assert_eq!((mode(&locks), mode(&locks.join("keys/k"))), (0o700, 0o600));
    let shared = directory.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o770)).unwrap();
    let local = Local::open(&LocalOptions::at(&shared)).unwrap();
    let _held = hold(&local, "k");
    assert_eq!((mode(&shared.join("members")), mode(&shared.join("keys/k"))), (0o770, 0o660));
}

#[test]
fn sync_always_is_refused_where_nothing_is_kept() {
    let directory = tempfile::tempdir_in("/dev/shm").expect("Linux has a tmpfs at /dev/shm");
    let options = LocalOptions::at(directory.path().join("locks"));
    assert!(Local::open(&options).is_ok());
    let error = Local::open(&options.with_sync(SyncMode::Always)).unwrap_err();
    assert_eq!(error.kind(), EngineErrorKind::Unsupported);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn c099_a_tampered_file_gives_a_typed_error_or_the_line(
        at in 0usize..4_096, byte in any::<u8>(), cut in prop::option::of(1u64..4_096),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let local = open(directory.path());
        let (holder, grant) = hold(&local, "k");
        let _second = { let mut waiter = local.contend(claim("k")); waits(&mut waiter); waiter };
        let path = key_file(directory.path(), "k");
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] = byte;
        fs::write(&path, bytes).unwrap();
        if let Some(cut) = cut {
            fs::File::options().write(true).open(&path).unwrap().set_len(cut).unwrap();
        }
        let mut thief = local.contend(with(claim("k"), Mode::Exclusive, IfBusy::Leave));
        match block_on(thief.attempt()) {
            Ok(attempt) => prop_assert!(matches!(attempt, Attempt::Busy(_)), "{:?}", attempt),
            Err(error) => prop_assert_eq!(error.kind(), EngineErrorKind::Foreign),
        }
        if let Ok(line) = block_on(local.inspect(&key("k"))) {
            prop_assert_eq!(line.places[0].claim, grant.claim);
        }
        drop(holder);
    }
}

#[test]
fn c094_opening_and_closing_the_files_does_not_free_the_lock() {
    let directory = tempfile::tempdir().unwrap();
    let local = open(directory.path());
    let (_holder, _) = hold(&local, "a");
    for _ in 0..20 {
        for part in ["keys", "members"] {
            for entry in std::fs::read_dir(directory.path().join("locks").join(part)).unwrap() {
                // The socket of a member cannot be opened; whatever can is, and is closed again.
                drop(std::fs::OpenOptions::new().read(true).write(true).open(entry.unwrap().path()));
            }
        }
    }
    let other = open(directory.path());
    let mut contender = other.contend(with(claim("a"), Mode::Exclusive, IfBusy::Leave));
    assert!(matches!(block_on(contender.attempt()).unwrap(), Attempt::Busy(_)));
}

#[test]
fn c095_a_directory_of_another_locking_mechanism_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    let format = directory.path().join("locks/FORMAT");
    std::fs::write(&format, "tenure local 1 ofd\n").unwrap();
    let error = Local::open(&LocalOptions::at(directory.path().join("locks"))).unwrap_err();
    assert_eq!(error.kind(), EngineErrorKind::Foreign);
    assert!(error.to_string().contains("ofd") && error.to_string().contains("flock"), "{error}");
    assert_eq!(std::fs::read_to_string(&format).unwrap(), "tenure local 1 ofd\n");
}
