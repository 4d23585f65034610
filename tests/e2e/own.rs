//! Things that connect as themselves: a broker that holds each to its own topics, revoked and
//! foreign certificates, renewals under load and under `kill -9`, a device that was swapped.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::account::{Allowed, settle};
use super::agent::Agent;
use super::certs::{Authority, Pair, Server};
use super::foreign::Device;
use super::relay::{Carries, Mode, Relay};
use super::subscriber::Subscriber;
use super::wait::{Process, free_port, listens, until, until_true};

/// The window of a thing's connection.
const WINDOW: usize = 8;

const RIGHTS: &str = "user gw-1\ntopic write dt/gw-1/#\n\n\
    pattern write dt/%u/#\npattern readwrite $aws/things/%u/#\n";

struct Plant {
    agent: Agent,
    eye: Subscriber,
    device: Device,
    relay: Relay,
    broker: Option<Process>,
    server: Pair,
    authority: Authority,
    ports: (u16, u16),
    dir: tempfile::TempDir,
}

impl Plant {
    /// Everything is up, and both things have delivered something by their own connections.
    fn new(extra: &str) -> Plant {
        let mut plant = Plant::prepared(("100ms", "1s"), extra);
        plant.agent.start();
        plant.wait_delivered();
        plant
    }

    /// The agent does not run yet, and waits so long between two tries.
    fn prepared(reconnect: (&str, &str), extra: &str) -> Plant {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().display().to_string();
        let authority = Authority::new(dir.path(), "cloud");
        let (server, client) = (authority.server(Server::Right), authority.client("gw-1"));
        let ports = (free_port(), free_port());
        let relay = Relay::start(ports.1, Carries::Opaque);
        let (device, port) = Device::modbus_tcp(dir.path(), &[1, 2, 3], 2);
        let text = format!(
            "[gateway]\nname = \"gw-1\"\nstatus_socket = \"{home}/status.sock\"\n\
             [uplink]\nurl = \"mqtts://localhost:{}\"\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\n\
             keep_alive = \"5s\"\nconnect_timeout = \"3s\"\nreconnect_min = \"{}\"\nreconnect_max = \"{}\"\n\
             [thing]\nwindow = {WINDOW}\n[store]\npath = \"{home}/fieldgate.db\"\n[log]\nformat = \"text\"\n\
             [identity]\nenroller = \"local-ca\"\ndirectory = \"{home}/identity\"\n\
             [shadow]\ndialect = \"plain\"\nreported = false\n\
             [[bus]]\nname = \"line\"\ntransport = \"tcp\"\nhost = \"127.0.0.1\"\nport = {port}\n{}{}{extra}",
            relay.port,
            authority.certificate.display(),
            client.certificate.display(),
            client.key.display(),
            reconnect.0,
            reconnect.1,
            unit(1),
            unit(2),
        );
        let agent = Agent::new(dir.path(), &text);
        let (code, ca) = agent.tell(&["identity", "ca", "--create"]);
        assert_eq!(code, 0, "{ca}");
        let cloud = std::fs::read_to_string(&authority.certificate).unwrap();
        std::fs::write(dir.path().join("all.pem"), cloud + &ca).unwrap();
        std::fs::write(dir.path().join("rights"), RIGHTS).unwrap();
        let broker = Some(launch(dir.path(), &server, ports, ""));
        let eye = Subscriber::start(ports.0);
        Plant { agent, eye, device, relay, broker, server, authority, ports, dir }
    }

    #[track_caller]
    fn wait_delivered(&mut self) {
        self.wait("both things to deliver", |p| p.arrived("dev01") > 0 && p.arrived("dev02") > 0);
    }

    #[track_caller]
    fn wait(&mut self, what: &str, ready: impl Fn(&Plant) -> bool) {
        until_true(what, || {
            self.agent.assert_running();
            ready(self)
        });
    }

    fn identity(&self, thing: &str) -> Value {
        let (_, text) = self.agent.tell(&["identity", "show", thing, "--json"]);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// The id of the certificate in use.
    fn certificate(&self, thing: &str) -> String {
        self.identity(thing)["current"]["id"].as_str().unwrap_or_default().to_owned()
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("identity").join(name)
    }

    fn arrived(&self, thing: &str) -> usize {
        self.eye.payloads(&format!("dt/{thing}/telemetry")).len()
    }

    fn restart_broker(&mut self, extra: &str) {
        drop(self.broker.take());
        self.broker = Some(launch(self.dir.path(), &self.server, self.ports, extra));
        let n = self.eye.subscriptions() + 1;
        self.eye.wait_subscribed(n);
    }

    #[track_caller]
    fn settle(&self, allowed: Allowed) {
        settle(|| self.device.served(), &self.eye, WINDOW, allowed);
    }
}

fn unit(unit: u8) -> String {
    format!(
        "[[device]]\nname = \"dev0{unit}\"\nbus = \"line\"\nunit_id = {unit}\ninterval = \"100ms\"\n\
         point = [{{ name = \"p0\", table = \"holding\", address = 0, type = \"uint32\" }}, \
         {{ name = \"p1\", table = \"holding\", address = 2, type = \"uint32\" }}]\n"
    )
}

fn launch(dir: &Path, server: &Pair, ports: (u16, u16), extra: &str) -> Process {
    let home = dir.display();
    let text = format!(
        "user root\npersistence false\nper_listener_settings true\nmax_queued_messages 0\n\
         listener {} 127.0.0.1\nallow_anonymous true\n\
         listener {} 127.0.0.1\ncafile {home}/all.pem\ncertfile {}\nkeyfile {}\n\
         require_certificate true\nuse_identity_as_username true\nacl_file {home}/rights\n{extra}",
        ports.0,
        ports.1,
        server.certificate.display(),
        server.key.display()
    );
    std::fs::write(dir.join("mosquitto.conf"), text).unwrap();
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("mosquitto.log")).unwrap();
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let mut broker = Command::new("mosquitto");
    broker.env("PATH", path).arg("-c").arg(dir.join("mosquitto.conf"));
    let mut broker = Process::start(broker.stdout(Stdio::null()).stderr(Stdio::from(log)));
    until_true("mosquitto to listen", || {
        assert!(broker.is_running(), "mosquitto ended, see {home}");
        listens(ports.0) && listens(ports.1)
    });
    broker
}

/// A foreign client with this pair publishes; whether the broker took it.
fn publish_as(plant: &Plant, pair: &Path, topic: &str) -> bool {
    let output = Command::new("mosquitto_pub")
        .args(["-V", "5", "-q", "1", "-h", "localhost", "-p", &plant.ports.1.to_string()])
        .args(["-t", topic, "-m", "1", "--cafile"])
        .arg(&plant.authority.certificate)
        .arg("--cert")
        .arg(pair)
        .arg("--key")
        .arg(pair)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    output.status.success() && !said.contains("Not authorized")
}

#[test]
fn each_thing_speaks_as_itself_and_for_nobody_else() {
    let plant = Plant::new("");
    let own = plant.file("dev01.pem");
    assert!(publish_as(&plant, &own, "dt/dev01/note"));
    assert!(!publish_as(&plant, &own, "dt/dev02/note"));
    assert!(!publish_as(&plant, &own, "dt/gw-1/note"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&own.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let status: Value = serde_json::from_str(&plant.agent.ask("status")).unwrap();
    assert_eq!(
        (status["uplink"]["things_online"].as_u64(), status["uplink"]["state"].as_str()),
        (Some(2), Some("online"))
    );
    plant.settle(Allowed::default());
}

#[test]
fn a_revoked_certificate_is_refused_and_the_others_go_on() {
    let mut plant = Plant::new("");
    let revoked = plant.dir.path().join("stolen.pem");
    std::fs::copy(plant.file("dev01.pem"), &revoked).unwrap();
    let (code, crl) = plant.agent.tell(&["identity", "revoke", "dev01"]);
    assert_eq!(code, 0, "{crl}");
    // The broker wants a list of each of its authorities.
    std::fs::write(plant.dir.path().join("crl.pem"), crl + &plant.authority.crl()).unwrap();
    plant.restart_broker(&format!("crlfile {}\n", plant.dir.path().join("crl.pem").display()));
    assert!(!publish_as(&plant, &revoked, "dt/dev01/note"), "a stolen key still speaks");
    assert!(publish_as(&plant, &plant.file("dev02.pem"), "dt/dev02/note"));
    // The thing got a new certificate, and its neighbour never noticed.
    let before = (plant.arrived("dev01"), plant.arrived("dev02"));
    plant.wait("both to deliver", |p| p.arrived("dev01") > before.0 + 3 && p.arrived("dev02") > before.1 + 3);
    assert_ne!(plant.certificate("dev01"), "");
    let stranger = Authority::new(plant.dir.path(), "elsewhere").client("dev02");
    let both = std::fs::read_to_string(&stranger.certificate).unwrap()
        + &std::fs::read_to_string(&stranger.key).unwrap();
    let stranger = plant.dir.path().join("stranger.pem");
    std::fs::write(&stranger, both).unwrap();
    assert!(!publish_as(&plant, &stranger, "dt/dev02/note"), "anybody's authority is good enough");
}

#[test]
fn why_a_certificate_is_refused_is_told() {
    let mut plant = Plant::new("");
    // A card that was copied before the revocation comes back.
    plant.agent.kill();
    let copy = std::fs::read(plant.file("dev01.pem")).unwrap();
    let (code, crl) = plant.agent.tell(&["identity", "revoke", "dev01"]);
    assert_eq!(code, 0, "{crl}");
    std::fs::write(plant.dir.path().join("crl.pem"), crl + &plant.authority.crl()).unwrap();
    plant.restart_broker(&format!("crlfile {}\n", plant.dir.path().join("crl.pem").display()));
    keep_secret(&plant.file("dev01.pem"), &copy);
    let arrived = plant.arrived("dev01");
    plant.agent.start();
    plant.agent.wait_log("the log to say why", "uplink offline: TLS refused: .*revoked.*dev01");
    let told =
        until("the command to say why", || plant.identity("dev01")["trouble"][0].as_str().map(str::to_owned));
    assert!(told.contains("refused") && told.contains("revoked"), "{told}");
    let (_, text) = plant.agent.tell(&["identity", "show", "dev01"]);
    assert!(text.contains(&told), "{text}");
    let before = plant.arrived("dev02");
    plant.wait("the neighbour to deliver", |p| p.arrived("dev02") > before + 3);
    assert_eq!(plant.arrived("dev01"), arrived);
    assert_eq!(plant.identity("dev02")["trouble"], json!([]));
    // What the thing measured meanwhile waits for a certificate that counts.
    let (code, text) = plant.agent.tell(&["identity", "renew", "dev01"]);
    assert_eq!(code, 0, "{text}");
    plant.wait("its readings", |p| p.arrived("dev01") > arrived + 3);
    until_true("the trouble to be over", || plant.identity("dev01")["trouble"] == json!([]));
    plant.settle(Allowed { kills: 1, cuts: 2 });
}

/// As the agent would write it.
fn keep_secret(file: &Path, bytes: &[u8]) {
    let draft = file.with_extension("draft");
    std::fs::write(&draft, bytes).unwrap();
    std::fs::set_permissions(&draft, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::rename(draft, file).unwrap();
}

#[test]
fn a_cloud_that_drops_the_first_connections_of_a_certificate_is_tried_again_soon() {
    // Every other failure would be left alone for ten minutes.
    let mut plant = Plant::prepared(("10m", "10m"), "");
    plant.relay.set(Mode::CutAfterHello);
    plant.agent.start();
    // One for the gateway, which has to wait, and more than one for each thing.
    plant.wait("some connections to be dropped", |p| p.relay.accepted() > 6);
    plant.agent.wait_log("the log to say so", "does not know the new certificate yet.*dev01");
    let waiting = plant.identity("dev01")["next"]["id"].clone();
    assert!(waiting.is_string(), "{}", plant.identity("dev01"));
    plant.relay.set(Mode::Pass);
    plant.wait_delivered();
    assert_eq!(plant.certificate("dev01"), waiting, "the certificate that the cloud registered");
    plant.settle(Allowed::default());
}

#[test]
fn a_renewal_under_load_loses_nothing() {
    let mut plant = Plant::new("");
    for _ in 0..3 {
        let before = plant.certificate("dev01");
        let (code, text) = plant.agent.tell(&["identity", "renew", "dev01"]);
        assert_eq!(code, 0, "{text}");
        plant.wait("another certificate", |p| {
            let now = p.certificate("dev01");
            !now.is_empty() && now != before && !p.file("dev01.next.pem").exists()
        });
        let arrived = plant.arrived("dev01");
        plant.wait("readings by it", |p| p.arrived("dev01") > arrived + 3);
    }
    plant.settle(Allowed { kills: 0, cuts: 3 });
}

#[test]
fn a_candidate_that_the_broker_refuses_is_taken_back() {
    let mut plant = Plant::new("");
    let before = plant.certificate("dev01");
    let wrong = Authority::new(plant.dir.path(), "elsewhere").client("dev01");
    let pair =
        std::fs::read_to_string(&wrong.key).unwrap() + &std::fs::read_to_string(&wrong.certificate).unwrap();
    let next = plant.file("dev01.next.pem");
    keep_secret(&next, pair.as_bytes());
    // A renewal that is asked for now makes the keeper look at the files.
    let _ = plant.agent.tell(&["identity", "renew", "dev01"]);
    plant.wait("the candidate to go", |p| !p.file("dev01.next.pem").exists());
    let arrived = plant.arrived("dev01");
    plant.wait("readings by the old one", |p| p.arrived("dev01") > arrived + 3);
    assert_eq!(plant.certificate("dev01"), before);
    plant.agent.wait_log("the refusal to be told", "TLS refused: .*dev01");
    let told = plant.identity("dev01")["trouble"][0].as_str().unwrap_or_default().to_owned();
    assert!(told.contains("taken back") && told.contains("CA of our certificate"), "{told}");
}

#[test]
fn killed_in_the_middle_of_renewals_a_working_identity_is_left() {
    let mut plant = Plant::new("");
    for round in 0..6 {
        let before = plant.certificate("dev01");
        let _ = plant.agent.tell(&["identity", "renew", "dev01"]);
        // At another moment of the renewal each time: when its first, second, ... sign is there.
        let sign = ["dev01.key.pem", "dev01.next.pem", "dev01.prev.pem"][round % 3];
        until("a sign of the renewal", || {
            let there = plant.file(sign).exists() || plant.certificate("dev01") != before;
            there.then_some(())
        });
        plant.agent.kill();
        let arrived = plant.arrived("dev01");
        plant.agent.start();
        plant.wait("readings after the kill", |p| p.arrived("dev01") > arrived + 3);
    }
    plant.settle(Allowed { kills: 6, cuts: 12 });
}

#[test]
fn the_shadow_of_a_thing_is_served_by_its_own_connection() {
    let plant = Plant::new("");
    let app = Subscriber::watching(plant.ports.0, "the-app", &["$aws/#"]);
    let update = json!({ "state": { "desired": { "note": 1 } }, "clientToken": "t" });
    app.publish("$aws/things/dev02/shadow/update", &update);
    until_true("the answer", || {
        app.payloads("dev02/shadow/update/accepted").iter().any(|a| a["clientToken"] == "t")
    });
    // The gateway has no right to these topics, so it cannot have been the gateway.
    let (_, entries) = plant.agent.tell(&["shadow", "get", "dev02"]);
    assert!(entries.contains("\"note\": 1"), "{entries}");
}

#[test]
fn a_thing_leaves_and_comes_back_while_the_agent_runs() {
    let mut plant = Plant::new("");
    let file = plant.dir.path().join("fieldgate.toml");
    let with = std::fs::read_to_string(&file).unwrap();
    let reload = |plant: &Plant, text: &str, expected: &str| {
        std::fs::write(&file, text).unwrap();
        assert_eq!(plant.agent.tell(&["reload"]), (0, format!("reloaded: {expected}\n")));
    };
    let certificate = plant.certificate("dev01");
    // What waits for the connection of a thing that is gone leaves by the gateway's.
    plant.relay.set(Mode::Cut);
    let served = plant.device.served().len();
    plant.wait("readings to wait", |p| p.device.served().len() > served + 40);
    reload(&plant, &with.replace(&unit(2), ""), "gone: dev02; lines opened anew: line");
    plant.relay.set(Mode::Pass);
    plant.wait("what waited", |p| !p.eye.payloads("dt/gw-1/dev02/telemetry").is_empty());
    reload(&plant, &with, "new: dev02; lines opened anew: line");
    let before = plant.arrived("dev02");
    plant.wait("the thing to deliver as itself again", |p| p.arrived("dev02") > before + 3);
    // One more, which the gateway's CA enrols at once.
    reload(&plant, &format!("{with}{}", unit(3)), "new: dev03; lines opened anew: line");
    plant.wait("the new thing to deliver", |p| p.arrived("dev03") > 3);
    assert_ne!(plant.certificate("dev03"), "");
    assert_eq!(plant.certificate("dev01"), certificate);
    assert_eq!(plant.agent.tell(&["identity", "renew", "dev03"]).0, 0, "the new keeper is asked");
    reload(&plant, &with, "gone: dev03; lines opened anew: line");
    plant.settle(Allowed { kills: 0, cuts: 3 });
}
