//! Fleet provisioning: our side over a real connection with a claim certificate, a Python
//! program with openssl as the cloud's service, and the broker as the judge of what comes out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fieldgate::config::load::load_with;
use fieldgate::identity::key::{Key, KeyType};
use fieldgate::identity::subject::Subject;
use fieldgate::uplink::claim::{Talking, provision};
use fieldgate::uplink::link::{Identity, Link, LinkError, MqttLink, Opening};
use fieldgate::wire::provisioning::{ProvisionError, Provisioned, Request};
use tempfile::TempDir;

use super::certs::{Authority, Pair, Server};
use super::foreign::python;
use super::mosquitto::Mosquitto;
use super::wait::{Process, until_true};

struct Cloud {
    service: Process,
    broker: Mosquitto,
    authority: Authority,
    claim: Pair,
    log: PathBuf,
    dir: TempDir,
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

impl Cloud {
    fn start() -> Cloud {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path(), "cloud");
        let broker = Mosquitto::start(dir.path(), &authority, &authority.server(Server::Right));
        let log = dir.path().join("service.log");
        let [port, ca, key] = [
            broker.plain_port.to_string(),
            authority.certificate.display().to_string(),
            authority.key.display().to_string(),
        ];
        let arguments = [port.as_str(), "--ca", ca.as_str(), "--ca-key", key.as_str(), "--template", "plant"];
        let service = python("provisioning_service.py", &arguments, &log);
        let claim = authority.client("claim");
        let cloud = Cloud { service, broker, authority, claim, log, dir };
        until_true("the service to subscribe", || cloud.events().iter().any(|e| e == "ready"));
        cloud
    }

    /// What the service has done.
    fn events(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn link(&self, certificate: &Path, key: &Path) -> MqttLink {
        let text = format!(
            "[gateway]\nname = \"gw-1\"\n[uplink]\nurl = \"mqtts://localhost:{}\"\nca = \"{}\"\n\
             certificate = \"{}\"\nkey = \"{}\"\nconnect_timeout = \"3s\"\n",
            self.broker.tls_port,
            self.authority.certificate.display(),
            certificate.display(),
            key.display(),
        );
        let file = self.dir.path().join("fieldgate.toml");
        std::fs::write(&file, text).unwrap();
        let config = load_with(&file, std::iter::empty()).unwrap_or_else(|e| panic!("{e}"));
        let identity = Identity::gateway(&config.uplink);
        MqttLink::new(config.uplink.into(), identity)
    }

    fn provision(&self, request: Request) -> Result<Provisioned, ProvisionError> {
        let mut link = self.link(&self.claim.certificate, &self.claim.key);
        block_on(async {
            let session = link.connect(Opening { will: None, receives: false }).await.unwrap();
            provision(&mut Talking::new(session), request, 7).await
        })
    }

    /// Whether the broker takes this certificate with this key.
    fn connects(&self, certificate: &str, key: &str) -> Result<(), LinkError> {
        let (files, write) = (["new.pem", "new.key"].map(|f| self.dir.path().join(f)), std::fs::write);
        write(&files[0], certificate).and_then(|()| write(&files[1], key)).unwrap();
        let mut link = self.link(&files[0], &files[1]);
        block_on(async {
            let session = link.connect(Opening { will: None, receives: false }).await?;
            // A refusal of TLS 1.3 comes only now.
            fieldgate::uplink::claim::Talk::subscribe(&mut Talking::new(session), &["x".to_owned()])
                .await
                .map(drop)
        })
    }
}

fn key() -> (Key, String) {
    let subject = Subject {
        thing: "gw-4711".into(),
        gateway: "gw-1".into(),
        bus: "line-1".into(),
        unit_id: None,
        serial: None,
    };
    let key = Key::generate(KeyType::EcP256).unwrap();
    let request = key.request(&subject).unwrap();
    (key, request)
}

fn request(csr_pem: Option<String>, serial: &str, allow_cloud_keys: bool) -> Request {
    let parameters = BTreeMap::from([("SerialNumber".to_owned(), serial.to_owned())]);
    Request { template: "plant".into(), csr_pem, parameters, allow_cloud_keys }
}

#[test]
fn a_signing_request_becomes_an_identity() {
    let cloud = Cloud::start();
    let (key, csr) = key();
    let done = cloud.provision(request(Some(csr), "4711", false)).unwrap();
    assert_eq!(done.thing_name.as_str(), "gw-4711");
    assert_eq!(done.private_key_pem, None);
    assert_eq!(done.device_configuration["site"], "north");
    assert_eq!(done.certificate_id.len(), 64);
    assert_eq!(cloud.connects(&done.certificate_pem, key.pem()), Ok(()));
    let events = cloud.events();
    assert!(events[1].starts_with("csr ") && events[1].contains("gw-4711"), "{events:?}");
    assert_eq!(events[2..], ["registered gw-4711"]);
    // The judge is awake: a certificate of somebody else is refused.
    let stranger = Authority::new(cloud.dir.path(), "stranger").client("gw-4711");
    let [certificate, key] =
        [stranger.certificate, stranger.key].map(|f| std::fs::read_to_string(f).unwrap());
    assert!(matches!(cloud.connects(&certificate, &key), Err(LinkError::TlsRefused(_))));
}

#[test]
fn a_key_of_the_cloud_becomes_an_identity_when_that_is_allowed() {
    let cloud = Cloud::start();
    let refused = cloud.provision(request(None, "4712", false)).unwrap_err();
    assert!(matches!(refused, ProvisionError::Fatal { .. }), "{refused}");
    let done = cloud.provision(request(None, "4712", true)).unwrap();
    let key = done.private_key_pem.as_ref().unwrap();
    assert_eq!(cloud.connects(&done.certificate_pem, key), Ok(()));
    // A request that the service cannot take leads there, too.
    let done = cloud.provision(request(Some("no request".into()), "4713", true)).unwrap();
    assert!(done.private_key_pem.is_some());
    assert_eq!(
        cloud.events()[1..],
        ["keys", "registered gw-4712", "rejected 400", "keys", "registered gw-4713"]
    );
}

#[test]
fn a_refusal_is_told_and_a_busy_service_asked_again() {
    let cloud = Cloud::start();
    let check = |serial: &str, words: &str| match cloud.provision(request(Some(key().1), serial, false)) {
        Err(ProvisionError::Fatal { why }) => assert!(why.contains(words), "{why}"),
        other => panic!("{serial}: {other:?}"),
    };
    check("denied", "403 AccessDenied: the hook says no");
    check("not a number", "400 InvalidParameters");
    let done = cloud.provision(request(Some(key().1), "busy-once", false)).unwrap();
    assert_eq!(done.thing_name.as_str(), "gw-busy-once");
    let of_last: Vec<String> = cloud.events().split_off(5).into_iter().map(|e| e[..8].to_owned()).collect();
    // One certificate, although the registration was asked for twice.
    assert_eq!(of_last, ["csr subj", "rejected", "register"]);
}

#[test]
fn a_service_that_is_away_is_tried_later() {
    let mut cloud = Cloud::start();
    cloud.service.kill();
    match cloud.provision(request(Some(key().1), "4711", false)) {
        Err(ProvisionError::Retryable { why }) => assert!(why.contains("does not answer"), "{why}"),
        other => panic!("{other:?}"),
    }
}
