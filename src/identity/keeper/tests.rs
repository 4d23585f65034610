use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::*;
use crate::identity::authority::Authority;
use crate::identity::enroll::Enrollers;
use crate::identity::files::Folder;
use crate::identity::tls::Trust;
use crate::identity::wallet::Common;
use crate::model::time::{CLOCK_PLAUSIBLE_FROM, Timestamp};

const DAY: Duration = Duration::from_secs(86_400);

/// An enroller that answers as it is told, and counts how many ask at one time.
#[derive(Default)]
struct Scripted {
    answers: Mutex<Vec<Result<(), EnrollError>>>,
    asked: AtomicUsize,
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
    authority: Option<Arc<Authority>>,
    clock: Option<Clock>,
}

impl Enroller for Scripted {
    async fn enroll(&self, request: &EnrollRequest) -> Result<Enrolled, EnrollError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.at_once_max.fetch_max(now, Ordering::SeqCst);
        sleep(Duration::from_secs(1)).await;
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        if let Some(answer) = self.answers.lock().unwrap().pop() {
            answer?;
        }
        let authority = self.authority.as_ref().unwrap();
        let now = self.clock.as_ref().unwrap().now();
        let chain = authority.issue(&request.subject, &request.csr, now).unwrap();
        Ok(Enrolled { chain, key: None, thing_name: None })
    }
}

struct Rig {
    _directory: tempfile::TempDir,
    folder: Folder,
    wallets: Vec<Arc<Wallet>>,
    enroller: Arc<Scripted>,
    asks: mpsc::Sender<IdentityAsk>,
    serials: watch::Sender<Serials>,
    stop: CancellationToken,
}

fn subject(n: usize) -> Subject {
    Subject {
        thing: format!("meter-{n}"),
        gateway: "gw-1".into(),
        bus: "line-1".into(),
        unit_id: Some(1),
        serial: None,
    }
}

fn rig(things: usize, base: Timestamp, answers: Vec<Result<(), EnrollError>>) -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let folder = Folder::open(&directory.path().join("identity")).unwrap();
    let clock = Clock::Simulated { base, origin: Instant::now() };
    let authority = Arc::new(Authority::open(folder.path(), "gw-1", DAY * 10, None).unwrap());
    let _ = authority.ensure(base);
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, crate::identity::issue::Authority::new("test").unwrap().certificate).unwrap();
    let tls = crate::config::Tls {
        ca: Some(ca),
        certificate: None,
        key: None,
        server_name: "broker.test".into(),
        alpn: Vec::new(),
    };
    let common = Common { trust: Trust::new(&tls).unwrap(), alpn: Arc::new([]) };
    let wallets: Vec<_> =
        (0..things).map(|n| Wallet::kept(&subject(n).thing, folder.clone(), common.clone())).collect();
    let enroller = Arc::new(Scripted {
        answers: Mutex::new(answers),
        authority: Some(authority),
        clock: Some(clock.clone()),
        ..Scripted::default()
    });
    let (asks, received) = mpsc::channel(8);
    let identities =
        wallets.iter().enumerate().map(|(n, w)| Kept { subject: subject(n), wallet: Arc::clone(w) });
    let serials = watch::Sender::default();
    let keeper = Keeper {
        identities: identities.collect(),
        enroller: Arc::clone(&enroller),
        enrols: true,
        policy: Policy { renew_at: 0.66, key_type: KeyType::EcP256, binds_serial: true },
        clock,
        asks: received,
        serials: serials.subscribe(),
    };
    let stop = CancellationToken::new();
    tokio::spawn(keeper.run(stop.clone()));
    Rig { _directory: directory, folder, wallets, enroller, asks, serials, stop }
}

impl Rig {
    fn asked(&self) -> usize {
        self.enroller.asked.load(Ordering::SeqCst)
    }

    async fn ask(&self, what: IdentityWanted) -> Result<String, String> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(IdentityAsk { what, answer }).await.unwrap();
        answered.await.unwrap()
    }

    /// The next generation of the first wallet, and its CONNACK.
    async fn connected(&self) -> String {
        let shown = self.candidate().await;
        self.wallets[0].accepted(shown.generation).unwrap();
        shown.certificate
    }

    async fn candidate(&self) -> crate::identity::wallet::Presented {
        let mut changes = self.wallets[0].changes();
        loop {
            if let Some(shown) = self.wallets[0].present().unwrap().filter(|p| p.is_candidate) {
                return shown;
            }
            changes.changed().await.unwrap();
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_made_and_what_is_due_is_renewed() {
    let rig = rig(1, CLOCK_PLAUSIBLE_FROM, vec![]);
    let first = rig.connected().await;
    assert!(rig.folder.read_key("meter-0").unwrap().is_none(), "the waiting key is still there");
    sleep(DAY * 5).await;
    assert_eq!(rig.asked(), 1, "it renews too early");
    let second = rig.connected().await;
    assert_ne!(first, second);
    let previous = rig.folder.read("meter-0", Slot::Previous).unwrap().unwrap();
    assert_eq!(previous.facts().unwrap().id, first);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_says_which_device_it_is_for_as_soon_as_that_is_known() {
    let rig = rig(1, CLOCK_PLAUSIBLE_FROM, vec![]);
    rig.connected().await;
    let told = |serial: &str| Serials::new([("meter-0".to_owned(), serial.to_owned())].into());
    for serial in ["Eastron SDM120 1", "Eastron SDM120 2"] {
        rig.serials.send_replace(told(serial));
        rig.connected().await;
        let current = rig.folder.read("meter-0", Slot::Current).unwrap().unwrap().facts().unwrap();
        assert_eq!(current.device_serial.as_deref(), Some(serial));
    }
    rig.serials.send_replace(told("Eastron SDM120 2"));
    sleep(DAY).await;
    assert_eq!(rig.asked(), 3, "it is known already");
}

#[tokio::test(start_paused = true)]
async fn without_a_clock_nothing_is_made() {
    let rig = rig(1, Timestamp(86_400_000), vec![]);
    sleep(DAY * 30).await;
    assert_eq!(rig.asked(), 0);
    assert_eq!(rig.wallets[0].present().unwrap().map(|p| p.generation), None);
}

#[tokio::test(start_paused = true)]
async fn few_at_one_time_and_all_in_the_end() {
    let rig = rig(9, CLOCK_PLAUSIBLE_FROM, vec![]);
    for wallet in &rig.wallets {
        let mut changes = wallet.changes();
        while *changes.borrow_and_update() == 0 {
            changes.changed().await.unwrap();
        }
    }
    assert_eq!(rig.enroller.at_once_max.load(Ordering::SeqCst), AT_ONCE);
    assert_eq!(rig.asked(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_failure_backs_off_with_the_same_key_and_is_told() {
    let away = || Err(EnrollError::Retryable("the cloud is away".into()));
    let rig = rig(1, CLOCK_PLAUSIBLE_FROM, vec![away(), away(), away()]);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(rig.asked(), 1);
    assert_eq!(rig.wallets[0].state().fault.as_deref(), Some("no new certificate: the cloud is away"));
    let key = rig.folder.read_key("meter-0").unwrap().unwrap();
    rig.connected().await;
    assert_eq!(rig.asked(), 4);
    assert_eq!(rig.wallets[0].state().fault, None);
    let pair = rig.folder.read("meter-0", Slot::Current).unwrap().unwrap();
    assert_eq!(pair.key.pem(), key.pem());
}

#[tokio::test(start_paused = true)]
async fn a_refused_certificate_is_not_replaced_at_once() {
    let rig = rig(1, CLOCK_PLAUSIBLE_FROM, vec![]);
    rig.connected().await;
    let answer = rig.ask(IdentityWanted::Renew { thing: "meter-0".into() }).await.unwrap();
    assert!(answer.contains("identity show meter-0"), "{answer}");
    let candidate = rig.candidate().await;
    assert_eq!(rig.asked(), 2);
    rig.wallets[0].refused(candidate.generation, "unknown").unwrap();
    sleep(DAY).await;
    // The pair in use is not due, so nothing is tried before it is.
    assert_eq!(rig.asked(), 2);
    assert!(!rig.wallets[0].present().unwrap().unwrap().is_candidate);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_renewed_says_why() {
    let rig = rig(1, CLOCK_PLAUSIBLE_FROM, vec![]);
    let error = rig.ask(IdentityWanted::Renew { thing: "nobody".into() }).await.unwrap_err();
    assert!(error.contains("no thing \"nobody\""), "{error}");
    rig.candidate().await;
    let error = rig.ask(IdentityWanted::Renew { thing: "meter-0".into() }).await.unwrap_err();
    assert!(error.contains("next connection proves"), "{error}");
}

#[tokio::test]
async fn each_enroller_says_what_has_to_happen() {
    let request = EnrollRequest { subject: subject(0), csr: String::new() };
    let waiting = Enrollers::Csr.enroll(&request).await.unwrap_err();
    assert!(
        matches!(&waiting, EnrollError::Waiting(t) if t.contains("identity import meter-0")),
        "{waiting}"
    );
    let directory = tempfile::tempdir().unwrap();
    let authority = Arc::new(Authority::open(&directory.path().join("i"), "g", DAY, None).map(|_| ()).err());
    assert!(authority.is_some(), "a CA without its parent folder");
    let folder = Folder::open(&directory.path().join("i")).unwrap();
    let authority = Arc::new(Authority::open(folder.path(), "g", DAY, None).unwrap());
    let clock = Clock::Simulated { base: Timestamp(5), origin: Instant::now() };
    let early = Enrollers::LocalCa(authority, clock).enroll(&request).await.unwrap_err();
    assert!(matches!(early, EnrollError::Retryable(_)), "{early:?}");
}
