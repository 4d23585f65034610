//! The broker under clients that were written by others: mosquitto's tools and rumqttc, in
//! both protocol versions, always over TLS with client certificates.

#![allow(clippy::unwrap_used)]

use std::io::BufRead;
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fieldgate::broker::bus::{Bus, Subscriber};
use fieldgate::broker::core::{Act, Broker, Host, Limits, Principal, Taken};
use fieldgate::broker::listener::{self, Doors};
use fieldgate::broker::packet::{Connect, Message, Qos, Reason};
use fieldgate::identity::issue::{Authority, Issued, Use};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Long enough for a loaded machine; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything is allowed but what lies below `secret/`.
#[derive(Default)]
struct House {
    seen: Mutex<Vec<Principal>>,
}

impl Host for House {
    fn admit(&self, who: &Principal, connect: &Connect) -> Result<(), Reason> {
        self.seen.lock().unwrap().push(who.clone());
        if connect.client_id == "banned" { Err(Reason::NOT_AUTHORIZED) } else { Ok(()) }
    }

    fn may(&self, _: &Principal, _: &str, act: Act<'_>) -> bool {
        let (Act::Publish { topic, .. } | Act::Receive { topic } | Act::Subscribe { filter: topic }) = act;
        !topic.starts_with("secret/")
    }

    fn take(&self, _: &Principal, _: &str, _: &Message) -> Taken {
        Taken::Pass
    }
}

struct World {
    bus: Bus<House>,
    address: SocketAddr,
    authority: Authority,
    client: Issued,
    dir: TempDir,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl World {
    async fn new(limits: Limits, doors: Doors) -> World {
        let authority = Authority::new("test").unwrap();
        let server = authority.issue("broker", &["localhost", "127.0.0.1"], Use::Server).unwrap();
        let client = authority.issue("c1", &[], Use::Client).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in
            [("ca.pem", &authority.certificate), ("c1.pem", &client.certificate), ("c1.key", &client.key)]
        {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap()).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(server.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(server.key.as_bytes()).unwrap();
        let tls = Arc::new(listener::server_config(chain, key, Some(roots)).unwrap());
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let bus = Bus::new(Broker::new(House::default(), limits));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(listener::run(bus.clone(), tcp, tls, doors, stop.clone()));
        World { bus, address, authority, client, dir, stop, serving }
    }

    async fn plain() -> World {
        World::new(Limits::default(), Doors::default()).await
    }

    fn tool(&self, name: &str, version: &str, more: &[&str]) -> Command {
        let mut command = Command::new(format!("/usr/bin/{name}"));
        let dir = self.dir.path();
        command
            .args(["-h", "localhost", "-p", &self.address.port().to_string(), "-V", version])
            .arg("--cafile")
            .arg(dir.join("ca.pem"))
            .arg("--cert")
            .arg(dir.join("c1.pem"))
            .arg("--key")
            .arg(dir.join("c1.key"))
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Exit code and everything it said.
    async fn publish(&self, version: &str, more: &[&str]) -> (i32, String) {
        let out = finish(self.tool("mosquitto_pub", version, more)).await;
        let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        (out.status.code().unwrap_or(-1), text)
    }

    fn client_config(&self, with: Option<&Issued>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.certificate.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match with {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let chain = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        }
    }
}

async fn next(subscriber: &Subscriber<House>) -> String {
    let message = timeout(PATIENCE, subscriber.next()).await.expect("a message");
    format!("{}={}", message.topic, String::from_utf8_lossy(&message.payload))
}

/// Runs a tool to its end, beside the broker. A tool that hangs is ended with its test.
async fn finish(mut command: Command) -> Output {
    let child = command.spawn().expect("mosquitto's tools are installed");
    let id = child.id().to_string();
    let done = tokio::task::spawn_blocking(move || child.wait_with_output());
    let Ok(done) = timeout(PATIENCE, done).await else {
        Command::new("kill").arg(&id).status().unwrap();
        panic!("{command:?} did not come to an end")
    };
    done.unwrap().unwrap()
}

/// A running `mosquitto_sub`, of which the lines are read as they come.
struct Listening {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Listening {
    /// Returns when the subscription stands: a retained message has come through it.
    async fn new(world: &World, version: &str, more: &[&str]) -> Listening {
        let ready = Message {
            topic: "ready".into(),
            payload: "ready".into(),
            qos: Qos::AtMostOnce,
            retain: true,
            props: Default::default(),
        };
        world.bus.publish(ready);
        let more = [&["-v", "-t", "ready"], more].concat();
        let mut child = world.tool("mosquitto_sub", version, &more).spawn().unwrap();
        let out = std::io::BufReader::new(child.stdout.take().unwrap());
        let (said, lines) = mpsc::channel(100);
        std::thread::spawn(move || out.lines().map_while(Result::ok).all(|l| said.blocking_send(l).is_ok()));
        let mut listening = Listening { child, lines };
        assert_eq!(listening.next().await, "ready ready");
        listening
    }

    async fn next(&mut self) -> String {
        timeout(PATIENCE, self.lines.recv()).await.expect("a line").expect("not the end")
    }
}

#[tokio::test]
async fn what_mosquitto_pub_sends_arrives_and_mosquitto_sub_gets_it() {
    let w = World::plain().await;
    for version in ["311", "5"] {
        let inside = w.bus.subscribe("a/#");
        let mut outside = Listening::new(&w, version, &["-q", "1", "-t", "a/+"]).await;
        for qos in ["0", "1"] {
            let said = w.publish(version, &["-q", qos, "-t", "a/b", "-m", qos]).await;
            assert_eq!(said, (0, String::new()), "{version} at QoS {qos}");
            assert_eq!(next(&inside).await, format!("a/b={qos}"), "{version}");
            assert_eq!(outside.next().await, format!("a/b {qos}"), "{version}");
        }
    }
    let seen = w.bus.broker().host().seen.lock().unwrap().clone();
    let shown = CertificateDer::from_pem_slice(w.client.certificate.as_bytes()).unwrap();
    assert!(seen.iter().all(|p| p.certificate.as_deref() == Some(shown.as_ref())), "each by its certificate");
}

#[tokio::test]
async fn a_refusal_reaches_the_client() {
    let w = World::plain().await;
    let check = |version: &'static str, more: &'static [&'static str], code: i32, says: &'static str| {
        let w = &w;
        async move {
            let (exit, text) = w.publish(version, more).await;
            assert!(exit == code && text.contains(says), "{version} {more:?}: {exit} {text}");
        }
    };
    check("311", &["-i", "banned", "-t", "a", "-m", "x"], 5, "not authorised").await;
    check("5", &["-i", "banned", "-t", "a", "-m", "x"], 135, "Not authorized").await;
    // MQTT 5 says why in the PUBACK; 3.1.1 can only hang up, and never acknowledges.
    check("5", &["-q", "1", "-t", "secret/a", "-m", "x"], 0, "Not authorized").await;
    check("31", &["-t", "a", "-m", "x"], 1, "unacceptable protocol version").await;
    check("5", &["-q", "2", "-t", "a", "-m", "x"], 0, "QoS not supported on broker").await;
}

#[tokio::test]
async fn a_client_without_our_certificate_stays_outside() {
    let w = World::plain().await;
    let foreign = Authority::new("elsewhere").unwrap().issue("c1", &[], Use::Client).unwrap();
    for (with, expected) in [(None, false), (Some(&foreign), false), (Some(&w.client), true)] {
        let config = Arc::new(w.client_config(with));
        let tcp = TcpStream::connect(w.address).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let answer = async {
            let mut tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.ok()?;
            tls.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c").await.ok()?;
            let mut connack = [0u8; 4];
            tls.read_exact(&mut connack).await.ok()?;
            Some(connack)
        };
        let answer = timeout(PATIENCE, answer).await.expect("an end");
        assert_eq!(answer, expected.then_some([0x20, 2, 0, 0]));
    }
}

#[tokio::test]
async fn those_who_stall_in_the_door_harm_nobody() {
    let doors = Doors { patience: Duration::from_millis(500), ..Doors::default() };
    let w = World::new(Limits::default(), doors).await;
    let mut stalled = vec![];
    for _ in 0..20 {
        stalled.push(TcpStream::connect(w.address).await.unwrap());
    }
    assert_eq!(w.publish("5", &["-q", "1", "-t", "a", "-m", "x"]).await.0, 0);
    for mut stream in stalled {
        let mut rest = vec![];
        let closed = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "the broker hangs up on a client that says nothing");
    }
}

/// The way of the uplink: a fresh client for each connection, everything acknowledged.
#[tokio::test]
async fn rumqttc_publishes_in_order_in_both_versions() {
    const N: usize = 500;
    let w = World::plain().await;
    let inside = w.bus.subscribe("r/#");
    let tls = || {
        let config = Arc::new(w.client_config(Some(&w.client)));
        rumqttc::Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(config))
    };
    let mut options = rumqttc::MqttOptions::new("r4", "localhost", w.address.port());
    options.set_transport(tls());
    let (client, mut events) = rumqttc::AsyncClient::new(options, N);
    for i in 0..N {
        client.try_publish("r/4", rumqttc::QoS::AtLeastOnce, false, i.to_string()).unwrap();
    }
    let acks = async {
        let mut acked = 0;
        while acked < N {
            let event = events.poll().await.unwrap();
            acked += usize::from(matches!(event, rumqttc::Event::Incoming(rumqttc::Packet::PubAck(_))));
        }
    };
    timeout(PATIENCE, acks).await.expect("every PUBACK");
    for i in 0..N {
        assert_eq!(next(&inside).await, format!("r/4={i}"));
    }

    let mut options = rumqttc::v5::MqttOptions::new("r5", "localhost", w.address.port());
    options.set_transport(tls());
    let (client, mut events) = rumqttc::v5::AsyncClient::new(options, N);
    for i in 0..N {
        let qos = rumqttc::v5::mqttbytes::QoS::AtLeastOnce;
        client.try_publish(if i == 7 { "secret/5" } else { "r/5" }, qos, false, i.to_string()).unwrap();
    }
    let acks = async {
        use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason};
        let mut reasons = vec![];
        while reasons.len() < N {
            if let rumqttc::v5::Event::Incoming(Packet::PubAck(ack)) = events.poll().await.unwrap() {
                reasons.push(ack.reason);
            }
        }
        reasons.into_iter().filter(|r| *r == PubAckReason::NotAuthorized).count()
    };
    assert_eq!(timeout(PATIENCE, acks).await.expect("every PUBACK"), 1, "one was refused");
    for i in (0..N).filter(|i| *i != 7) {
        assert_eq!(next(&inside).await, format!("r/5={i}"));
    }
}

#[tokio::test]
async fn a_subscriber_that_was_away_gets_what_it_missed() {
    let w = World::plain().await;
    for version in ["311", "5"] {
        let mut session = vec!["-i", "keeper", "-c", "-q", "1", "-t", "q/#"];
        if version == "5" {
            session.extend(["-x", "600"]);
        }
        drop(Listening::new(&w, version, &session).await);
        for i in ["1", "2", "3"] {
            assert_eq!(w.publish(version, &["-q", "1", "-t", "q/x", "-m", i]).await.0, 0);
        }
        session.extend(["-v", "-C", "3"]);
        let out = finish(w.tool("mosquitto_sub", version, &session)).await;
        let text = String::from_utf8(out.stdout).unwrap();
        assert_eq!(text, "q/x 1\nq/x 2\nq/x 3\n", "{version}");
        w.bus.broker().kick(w.bus.now(), |_, id| id == "keeper", Reason::ADMINISTRATIVE, true);
    }
}

#[tokio::test]
async fn a_will_is_heard_when_its_client_is_gone() {
    let w = World::plain().await;
    let inside = w.bus.subscribe("will/#");
    let more = ["--will-topic", "will/x", "--will-payload", "gone", "-t", "none"];
    drop(Listening::new(&w, "5", &more).await);
    assert_eq!(next(&inside).await, "will/x=gone");
}

#[tokio::test]
async fn the_listener_stops_while_clients_are_connected() {
    let w = World::plain().await;
    let _outside = Listening::new(&w, "5", &["-t", "x"]).await;
    w.stop.cancel();
    timeout(PATIENCE, w.serving).await.expect("it stops").unwrap();
    assert!(TcpStream::connect(w.address).await.is_err(), "and refuses");
}

#[tokio::test]
async fn the_demonstration_loses_nothing_and_says_so() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fieldgate"));
    command.args(["demo", "--seconds", "6", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let out = timeout(3 * PATIENCE, tokio::task::spawn_blocking(move || command.output())).await;
    let out = out.expect("an end").unwrap().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let last = text.lines().last().expect("the sum");
    let sum: serde_json::Value = serde_json::from_str(last).expect(last);
    assert_eq!((out.status.code(), &sum["nothing_lost"]), (Some(0), &true.into()), "{text}");
    assert!(sum["backlog_max"].as_u64() > Some(0), "the cloud was cut: {text}");
    for event in ["start", "cut", "mended"] {
        assert!(text.contains(&format!("{{\"event\":\"{event}\"")), "{event}: {text}");
    }
}
