use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::identity::key::KeyType;

/// A pair that signs for itself.
pub fn pair(name: &str) -> Pair {
    let key = Key::generate(KeyType::EcP256).unwrap();
    let params = rcgen::CertificateParams::new(vec![format!("{name}.test")]).unwrap();
    let chain = params.self_signed(&key.pair().unwrap()).unwrap().pem();
    Pair::new(key, &chain).unwrap()
}

fn folder() -> (tempfile::TempDir, Folder) {
    let directory = tempfile::tempdir().unwrap();
    let folder = Folder::open(&directory.path().join("identity")).unwrap();
    (directory, folder)
}

fn id(folder: &Folder, slot: Slot) -> Option<String> {
    folder.read("m", slot).unwrap().map(|pair| pair.facts().unwrap().id)
}

#[test]
fn folder_and_files_are_for_their_owner_alone() {
    let (_directory, folder) = folder();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(folder.path()), 0o700);
    let held = folder.lock().unwrap();
    folder.write(&held, "m", Slot::Current, &pair("m")).unwrap();
    let file = folder.path().join("m.pem");
    assert_eq!(mode(&file), 0o600);
    for open in [0o640, 0o604, 0o660] {
        fs::set_permissions(&file, fs::Permissions::from_mode(open)).unwrap();
        let error = folder.read("m", Slot::Current).unwrap_err().to_string();
        assert!(error.contains(&format!("run `chmod 0600 {}`", file.display())), "{error}");
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o750)).unwrap();
    let error = Folder::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("run `chmod 0700"), "{error}");
}

#[test]
fn a_name_cannot_leave_the_folder() {
    let (_directory, folder) = folder();
    for name in ["", "..", "a/b", "a.b", ".lock", "ä", &"x".repeat(129)] {
        assert!(matches!(folder.read(name, Slot::Current), Err(Error::Name(_))), "{name}");
    }
    assert!(folder.read("Meter_1:a-b", Slot::Current).unwrap().is_none());
}

#[test]
fn what_is_written_is_read_and_listed() {
    let (_directory, folder) = folder();
    let held = folder.lock().unwrap();
    let (one, two) = (pair("one"), pair("two"));
    folder.write(&held, "m", Slot::Current, &one).unwrap();
    folder.write(&held, "m", Slot::Next, &two).unwrap();
    folder.write_key(&held, "n", &one.key).unwrap();
    assert_eq!(folder.things().unwrap(), ["m", "n"]);
    assert_eq!(folder.read_key("n").unwrap().unwrap().pem(), one.key.pem());
    let before = folder.mark("m").unwrap();
    folder.promote(&held, "m").unwrap();
    assert_ne!(folder.mark("m").unwrap(), before);
    assert_eq!(id(&folder, Slot::Current).unwrap(), two.facts().unwrap().id);
    assert_eq!(id(&folder, Slot::Previous).unwrap(), one.facts().unwrap().id);
    assert_eq!(id(&folder, Slot::Next), None);
    assert!(matches!(folder.promote(&held, "m"), Err(Error::Missing { .. })));
}

#[test]
fn a_key_with_somebody_elses_certificate_is_refused() {
    let (one, two) = (pair("one"), pair("two"));
    assert!(Pair::new(one.key, &two.chain).unwrap_err().contains("do not belong together"));
}

/// Steps of an operation until it succeeds, each tried as the last one before the power cut.
fn cut_everywhere(
    prepare: impl Fn(&Folder),
    operation: impl Fn(&Folder) -> Result<(), Error>,
    check: impl Fn(&Folder, bool),
) {
    for steps in 0..100 {
        let (_directory, folder) = folder();
        prepare(&folder);
        folder.steps.live_for(steps);
        let done = operation(&folder).is_ok();
        // The agent starts again: another process, the same folder.
        let again = Folder::open(folder.path()).unwrap();
        drop(again.lock().unwrap());
        let left: Vec<_> = again.names().unwrap().into_iter().filter(|n| n.ends_with(".tmp")).collect();
        assert!(left.is_empty(), "after {steps} steps: {left:?}");
        check(&again, done);
        if done {
            assert!(steps > 3, "the operation has no steps");
            return;
        }
    }
    panic!("the operation never ends");
}

#[test]
fn a_power_cut_at_any_step_of_a_promotion_leaves_a_working_identity() {
    let (old, new) = (pair("old"), pair("new"));
    let ids = [old.facts().unwrap().id, new.facts().unwrap().id];
    cut_everywhere(
        |folder| {
            let held = folder.lock().unwrap();
            folder.write(&held, "m", Slot::Current, &old).unwrap();
            folder.write(&held, "m", Slot::Next, &new).unwrap();
        },
        |folder| folder.promote(&folder.lock()?, "m"),
        |folder, done| {
            let current = id(folder, Slot::Current).expect("there is no pair in use");
            assert!(ids.contains(&current));
            // The candidate is in one of the two places: a renewal is never half forgotten.
            let next = id(folder, Slot::Next);
            assert!(current == ids[1] || next.as_ref() == Some(&ids[1]));
            assert!(!done || current == ids[1]);
        },
    );
}

#[test]
fn a_power_cut_at_any_step_of_a_new_candidate_leaves_the_old_pair() {
    let (old, new) = (pair("old"), pair("new"));
    let id_of = |pair: &Pair| pair.facts().unwrap().id;
    cut_everywhere(
        |folder| {
            let held = folder.lock().unwrap();
            folder.write(&held, "m", Slot::Current, &old).unwrap();
            folder.write_key(&held, "m", &new.key).unwrap();
        },
        |folder| {
            // What an import does.
            let held = folder.lock()?;
            folder.write(&held, "m", Slot::Next, &new)?;
            folder.remove_key(&held, "m")
        },
        |folder, done| {
            assert_eq!(id(folder, Slot::Current), Some(id_of(&old)));
            let candidate = id(folder, Slot::Next);
            assert!(candidate.is_none() || candidate == Some(id_of(&new)));
            // The key is only given up when the candidate is safe.
            assert!(candidate.is_some() || folder.read_key("m").unwrap().is_some());
            assert!(!done || folder.read_key("m").unwrap().is_none());
        },
    );
}

#[test]
fn a_power_cut_while_a_candidate_is_taken_back_leaves_the_old_pair() {
    let (old, new) = (pair("old"), pair("new"));
    cut_everywhere(
        |folder| {
            let held = folder.lock().unwrap();
            folder.write(&held, "m", Slot::Current, &old).unwrap();
            folder.write(&held, "m", Slot::Next, &new).unwrap();
            folder.write_key(&held, "m", &new.key).unwrap();
        },
        |folder| {
            let held = folder.lock()?;
            folder.remove(&held, "m", Slot::Next)?;
            folder.remove_key(&held, "m")
        },
        |folder, _| assert_eq!(id(folder, Slot::Current), Some(old.facts().unwrap().id)),
    );
}

#[test]
fn the_lock_is_one_at_a_time() {
    let (_directory, folder) = folder();
    let held = folder.lock().unwrap();
    let other = File::open(folder.path().join(LOCK)).unwrap();
    let try_lock = || rustix::fs::flock(&other, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert!(try_lock().is_err());
    drop(held);
    assert!(try_lock().is_ok());
}

#[test]
fn debug_shows_no_key() {
    let pair = pair("m");
    let secret = pair.key.pem().lines().nth(1).unwrap().to_owned();
    assert!(!format!("{pair:?}").contains(&secret));
}

/// Only root can give anything away, so elsewhere there is nothing to see.
#[test]
fn what_root_makes_belongs_to_the_folder_it_is_in() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    const AGENT: u32 = 4242;
    let state = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(state.path(), Some(AGENT), Some(AGENT)).unwrap();
    let folder = Folder::open(&state.path().join("identity")).unwrap();
    let held = folder.lock().unwrap();
    folder.write(&held, "m", Slot::Current, &pair("m")).unwrap();
    for name in ["", LOCK, "m.pem"] {
        let found = fs::metadata(folder.path().join(name)).unwrap();
        assert_eq!((found.uid(), found.gid()), (AGENT, AGENT), "{name}");
    }
    drop(held);

    // What the agent's user puts in the way leads nowhere else.
    let other = state.path().join("other");
    fs::write(&other, "").unwrap();
    fs::remove_file(folder.path().join(LOCK)).unwrap();
    std::os::unix::fs::symlink(&other, folder.path().join(LOCK)).unwrap();
    assert!(folder.lock().is_err());
    assert_eq!(fs::metadata(&other).unwrap().uid(), 0);
}
