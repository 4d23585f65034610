use super::*;
use crate::identity::files::Pair;
use crate::identity::key::{Key, KeyType};

fn pair() -> Pair {
    let key = Key::generate(KeyType::EcP256).unwrap();
    let params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    let chain = params.self_signed(&key.pair().unwrap()).unwrap().pem();
    Pair::new(key, &chain).unwrap()
}

fn id(pair: &Pair) -> String {
    pair.facts().unwrap().id
}

struct Rig {
    _directory: tempfile::TempDir,
    folder: Folder,
    wallet: Arc<Wallet>,
}

fn common() -> Common {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, crate::identity::issue::Authority::new("test").unwrap().certificate).unwrap();
    let tls = crate::config::Tls {
        ca: Some(ca),
        certificate: None,
        key: None,
        server_name: "broker.test".into(),
        alpn: Vec::new(),
    };
    Common { trust: Trust::new(&tls).unwrap(), alpn: Arc::new(["x".to_owned()]) }
}

fn rig(slots: &[(Slot, &Pair)]) -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let folder = Folder::open(&directory.path().join("identity")).unwrap();
    let held = folder.lock().unwrap();
    for (slot, pair) in slots {
        folder.write(&held, "m", *slot, pair).unwrap();
    }
    drop(held);
    let wallet = Wallet::kept("m", folder.clone(), common()).unwrap();
    Rig { _directory: directory, folder, wallet }
}

impl Rig {
    fn shown(&self) -> Option<String> {
        self.wallet.present().unwrap().map(|p| p.certificate)
    }

    fn generation(&self) -> u64 {
        *self.wallet.changes().borrow()
    }

    fn candidate(&self, pair: &Pair) {
        let held = self.folder.lock().unwrap();
        self.folder.write(&held, "m", Slot::Next, pair).unwrap();
        drop(held);
        assert!(self.wallet.reload().unwrap());
    }

    fn on_disk(&self, slot: Slot) -> Option<String> {
        self.folder.read("m", slot).unwrap().map(|p| id(&p))
    }
}

#[test]
fn a_candidate_is_promoted_by_its_connack_and_keeps_its_connection() {
    let (old, new) = (pair(), pair());
    let rig = rig(&[(Slot::Current, &old)]);
    assert_eq!(rig.shown(), Some(id(&old)));
    let mut changes = rig.wallet.changes();
    changes.mark_unchanged();
    rig.candidate(&new);
    assert!(changes.has_changed().unwrap(), "the connection is not told");
    let shown = rig.wallet.present().unwrap().unwrap();
    assert!(shown.is_candidate && !shown.is_new && shown.certificate == id(&new));
    changes.mark_unchanged();
    rig.wallet.accepted(shown.generation).unwrap();
    assert!(!changes.has_changed().unwrap(), "it would reconnect for nothing");
    assert_eq!((rig.on_disk(Slot::Current), rig.on_disk(Slot::Next)), (Some(id(&new)), None));
    assert_eq!(rig.on_disk(Slot::Previous), Some(id(&old)));
    let after = rig.wallet.present().unwrap().unwrap();
    assert!(!after.is_candidate && after.generation == shown.generation);
    assert!(Arc::ptr_eq(&after.config, &shown.config));
}

#[test]
fn a_refused_candidate_gives_way_to_the_pair_in_use() {
    let (old, new) = (pair(), pair());
    let rig = rig(&[(Slot::Current, &old), (Slot::Next, &new)]);
    let shown = rig.wallet.present().unwrap().unwrap();
    assert_eq!(shown.certificate, id(&new));
    rig.wallet.refused(shown.generation, "bad certificate").unwrap();
    assert_eq!(rig.shown(), Some(id(&old)));
    assert_eq!((rig.on_disk(Slot::Current), rig.on_disk(Slot::Next)), (Some(id(&old)), None));
    let state = rig.wallet.state();
    assert_eq!((state.refusals, state.refused_because.as_deref()), (1, Some("bad certificate")));
    assert!(rig.generation() > shown.generation);
    // A late answer to the old generation moves nothing.
    rig.wallet.accepted(shown.generation).unwrap();
    rig.wallet.refused(shown.generation, "again").unwrap();
    assert_eq!((rig.shown(), rig.wallet.state().refusals), (Some(id(&old)), 1));
}

#[test]
fn a_new_identity_is_tried_until_it_is_accepted() {
    let first = pair();
    let rig = rig(&[]);
    assert_eq!((rig.shown(), rig.generation(), rig.wallet.is_new()), (None, 0, true));
    rig.candidate(&first);
    let generation = rig.generation();
    for _ in 0..9 {
        rig.wallet.dropped(generation, "closed").unwrap();
        rig.wallet.refused(generation, "unknown certificate").unwrap();
    }
    assert_eq!(rig.shown(), Some(id(&first)), "the only pair is gone");
    assert_eq!(rig.wallet.state().current_refused.as_deref(), Some("unknown certificate"));
    assert!(rig.wallet.present().unwrap().unwrap().is_new);
    rig.wallet.accepted(generation).unwrap();
    assert!(!rig.wallet.is_new());
    assert_eq!(rig.wallet.state().current_refused, None);
    assert_eq!(rig.on_disk(Slot::Current), Some(id(&first)));
}

#[test]
fn three_dropped_connections_are_a_refusal() {
    let (old, new) = (pair(), pair());
    let rig = rig(&[(Slot::Current, &old), (Slot::Next, &new)]);
    let generation = rig.generation();
    for _ in 0..2 {
        rig.wallet.dropped(generation, "closed").unwrap();
    }
    assert_eq!(rig.shown(), Some(id(&new)));
    rig.wallet.dropped(generation, "closed").unwrap();
    assert_eq!(rig.shown(), Some(id(&old)));
}

#[test]
fn files_that_change_are_found_and_files_that_do_not_are_not() {
    let (old, new) = (pair(), pair());
    let rig = rig(&[(Slot::Current, &old)]);
    assert!(!rig.wallet.reload().unwrap());
    rig.candidate(&new);
    assert!(!rig.wallet.reload().unwrap());
    let held = rig.folder.lock().unwrap();
    rig.folder.remove(&held, "m", Slot::Next).unwrap();
    rig.folder.remove(&held, "m", Slot::Current).unwrap();
    drop(held);
    assert!(rig.wallet.reload().unwrap());
    assert_eq!((rig.shown(), rig.generation()), (None, 0));
    rig.candidate(&new);
    assert!(rig.generation() > 2, "a number is used twice");
}

#[test]
fn a_given_pair_is_shown_and_its_exchange_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (directory.path().join("c.pem"), directory.path().join("k.pem"));
    let write = |pair: &Pair| {
        std::fs::write(&certificate, &pair.chain).unwrap();
        std::fs::write(&key, pair.key.pem()).unwrap();
    };
    let (one, two) = (pair(), pair());
    write(&one);
    let wallet = Wallet::given("m", certificate.clone(), key.clone(), common()).unwrap();
    assert_eq!(wallet.present().unwrap().unwrap().certificate, id(&one));
    write(&two);
    assert!(wallet.reload().unwrap());
    assert_eq!(wallet.present().unwrap().unwrap().certificate, id(&two));
    std::fs::write(&key, one.key.pem()).unwrap();
    assert!(wallet.reload().unwrap_err().to_string().contains("do not fit together"));
}

#[test]
fn debug_shows_no_key() {
    let one = pair();
    let rig = rig(&[(Slot::Current, &one)]);
    let shown = rig.wallet.present().unwrap();
    let secret = one.key.pem().lines().nth(1).unwrap();
    assert!(!format!("{:?} {shown:?}", rig.wallet).contains(secret));
}
