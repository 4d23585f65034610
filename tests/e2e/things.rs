//! Things end to end: shadows on a broker that knows nothing of them, writes on a foreign
//! Modbus server, identities against a broker that holds each to its own.

use std::path::Path;

use serde_json::{Value, json};

use super::agent::Agent;
use super::certs::{Authority, Server};
use super::foreign::Device;
use super::mosquitto::Mosquitto;
use super::subscriber::Subscriber;
use super::wait::{until, until_true};

/// One device of pymodbus with a memory, an agent for it, and an application that sees all
/// of its shadow. Fields are dropped in this order: the agent first.
struct Plant {
    agent: Agent,
    app: Subscriber,
    device: Device,
    broker: Mosquitto,
    port: u16,
    dir: tempfile::TempDir,
}

const SHADOW: &str = "$aws/things/dev01/shadow";

pub fn configuration(home: &Path, uplink: &str, port: u16, extra: &str) -> String {
    let home = home.display();
    format!(
        r#"
[gateway]
name = "gw-1"
status_socket = "{home}/status.sock"
[uplink]
{uplink}
keep_alive = "5s"
connect_timeout = "3s"
reconnect_min = "100ms"
reconnect_max = "1s"
[store]
path = "{home}/fieldgate.db"
[log]
format = "text"
[shadow]
dialect = "plain"
interval = "100ms"
{extra}
[[bus]]
name = "line"
transport = "tcp"
host = "127.0.0.1"
port = {port}
reconnect_min = "100ms"
[[device]]
name = "dev01"
bus = "line"
unit_id = 1
interval = "100ms"
response_timeout = "500ms"
late_window = "100ms"
backoff_min = "100ms"
backoff_max = "200ms"
fingerprint = "device-id"
point = [
  {{ name = "limit", table = "holding", address = 10, type = "int16", scale = 0.1, access = "read-write", write_max = 30 }},
  {{ name = "clamped", table = "holding", address = 50, type = "uint16", access = "read-write", shadow = "sub.clamped" }},
  {{ name = "locked", table = "holding", address = 60, type = "uint16", access = "read-write" }},
  {{ name = "switch", table = "coil", address = 3, access = "read-write" }},
]
command = [{{ name = "on", point = "switch", value = true }}]
"#
    )
}

impl Plant {
    fn new() -> Plant {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path(), "cloud");
        let broker = Mosquitto::start(dir.path(), &authority, &authority.server(Server::Right));
        let client = authority.client("gw-1");
        let uplink = format!(
            "url = \"mqtts://localhost:{}\"\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"",
            broker.tls_port,
            authority.certificate.display(),
            client.certificate.display(),
            client.key.display()
        );
        let (device, port) = Device::memory_tcp(dir.path());
        let app = Subscriber::watching(broker.plain_port, "the-app", &["$aws/#", "cmd/#"]);
        let mut agent = Agent::new(dir.path(), &configuration(dir.path(), &uplink, port, ""));
        agent.start();
        let mut plant = Plant { agent, app, device, broker, port, dir };
        plant.wait("something reported", |p| !p.app.payloads("shadow/update/accepted").is_empty());
        plant
    }

    #[track_caller]
    fn wait(&mut self, what: &str, ready: impl Fn(&Plant) -> bool) {
        until_true(what, || {
            self.agent.assert_running();
            ready(self)
        });
    }

    fn desire(&self, desired: Value, token: &str) {
        let update = json!({ "state": { "desired": desired }, "clientToken": token });
        self.app.publish(&format!("{SHADOW}/update"), &update);
    }

    /// The shadow as this machine sees it.
    fn get(&self, more: &[&str]) -> Value {
        let (code, text) = self.agent.tell(&[&["shadow", "get", "dev01"], more].concat());
        assert_eq!(code, 0, "{text}");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    #[track_caller]
    fn wait_state(&self, point: &str, state: &str) -> Value {
        until(&format!("{point} to be {state}"), || {
            let told = self.get(&["--name", "fieldgate"])["state"]["reported"]["writes"][point].clone();
            (told["state"] == state).then_some(told)
        })
    }

    fn answers(&self, ends: &str, token: &str) -> Vec<Value> {
        self.app.payloads(ends).into_iter().filter(|p| p["clientToken"] == token).collect()
    }
}

#[test]
fn what_an_application_desires_is_written_verified_and_reported() {
    let mut plant = Plant::new();
    plant.desire(json!({ "limit": 21.5 }), "t-1");
    plant.wait("the answer", |p| p.answers("shadow/update/accepted", "t-1").len() == 1);
    plant.wait("the delta", |p| {
        p.answers("shadow/update/delta", "t-1").iter().any(|d| d["state"] == json!({ "limit": 21.5 }))
    });
    plant.wait("the write", |p| p.device.noted().contains(&"1 6 10 215".to_owned()));
    plant.wait_state("limit", "verified");
    until_true("the delta to be empty", || {
        let state = plant.get(&[])["state"].clone();
        state["reported"]["limit"] == 21.5 && state.get("delta").is_none()
    });
    // What does not fit is refused with a reason, and nothing goes over the wire for it.
    let before = plant.device.noted().len();
    plant.desire(json!({ "limit": 31 }), "t-2");
    let told = plant.wait_state("limit", "rejected");
    assert!(told["why"].as_str().unwrap().contains("30"), "{told}");
    assert_eq!(plant.device.noted().len(), before);
    // The device clamps, or refuses with an exception.
    plant.desire(json!({ "sub": { "clamped": 500 } }), "t-3");
    let told = plant.wait_state("clamped", "accepted");
    assert_eq!((told["why"].as_str(), told["read"].as_u64()), (Some("write-not-taken"), Some(100)));
    plant.desire(json!({ "locked": 7 }), "t-4");
    assert_eq!(plant.wait_state("locked", "rejected")["code"], 2);
    // Nobody touched the log of it, and it names who asked.
    let (code, text) = plant.agent.tell(&["audit", "verify"]);
    assert!(code == 0 && text.starts_with("intact: "), "{text}");
    let (_, text) = plant.agent.tell(&["audit", "show"]);
    assert!(text.contains("write dev01 limit") && text.contains("verified (uplink gateway)"), "{text}");
}

#[test]
fn requests_are_answered_as_the_cloud_would() {
    let mut plant = Plant::new();
    let ask = |rest: &str, payload: Value| plant.app.publish(&format!("{SHADOW}/{rest}"), &payload);
    ask("get", json!({ "clientToken": "g" }));
    ask("update", json!({ "state": 5, "clientToken": "bad" }));
    ask("update", json!({ "state": { "desired": { "x": 1 } }, "version": 999_999, "clientToken": "old" }));
    ask("name/recipe/update", json!({ "state": { "desired": { "bread": 3 } }, "clientToken": "n" }));
    ask("name/none/delete", json!({ "clientToken": "d" }));
    plant.wait("the answers", |p| {
        p.answers("shadow/get/accepted", "g").len() == 1
            && p.answers("shadow/update/rejected", "bad").iter().any(|r| r["code"] == 400)
            && p.answers("shadow/update/rejected", "old").iter().any(|r| r["code"] == 409)
            && p.answers("name/recipe/update/accepted", "n").iter().any(|a| a["version"] == 1)
            && p.answers("name/none/delete/rejected", "d").iter().any(|r| r["code"] == 404)
    });
    let (_, names) = plant.agent.tell(&["shadow", "list", "dev01"]);
    assert_eq!(names, "fieldgate\nrecipe\n");
}

#[test]
fn a_shadow_works_offline_and_what_changed_is_told_afterwards() {
    let mut plant = Plant::new();
    plant.broker.kill();
    let update = r#"{"state":{"desired":{"limit":12}}}"#;
    let (code, text) = plant.agent.tell(&["shadow", "update", "dev01", update]);
    assert_eq!(code, 0, "{text}");
    plant.wait("the write", |p| p.device.noted().contains(&"1 6 10 120".to_owned()));
    plant.wait_state("limit", "verified");
    // The power goes, too.
    plant.agent.kill();
    plant.broker.restart();
    plant.app.wait_subscribed(2);
    plant.agent.start();
    plant.wait("the newest document", |p| {
        let documents = p.app.payloads("dev01/shadow/update/documents");
        documents.last().is_some_and(|d| d["current"]["state"]["reported"]["limit"] == 12)
    });
    let writes = plant.device.noted().iter().filter(|w| w.starts_with("1 6 10 ")).count();
    assert_eq!(writes, 1, "what is true already is not written again");
}

#[test]
fn a_command_is_executed_once_however_often_it_is_asked_for() {
    let mut plant = Plant::new();
    for _ in 0..3 {
        plant.app.publish("cmd/dev01/on", &json!({ "id": "c-1" }));
    }
    plant.wait("the answer", |p| {
        p.app.payloads("cmd/dev01/on/answer").iter().any(|a| a["id"] == "c-1" && a["state"] == "verified")
    });
    plant.app.publish("cmd/dev01/on", &json!({ "id": "c-1" }));
    plant.app.publish("cmd/dev01/off", &json!({ "id": "c-2" }));
    plant.wait("the answer to another one", |p| {
        p.app.payloads("cmd/dev01/off/answer").iter().any(|a| a["state"] == "rejected")
    });
    let writes = plant.device.noted().iter().filter(|w| w.starts_with("1 5 3 ")).count();
    assert_eq!(writes, 1);
}

#[test]
fn a_swapped_device_is_neither_reported_nor_written_to_until_it_is_approved() {
    let mut plant = Plant::new();
    let told = |plant: &Plant| plant.get(&["--name", "fieldgate"])["state"]["reported"]["identity"].clone();
    plant.wait("the fingerprint", |p| told(p)["approved"] == "Acme/PM-5");
    plant.device.kill();
    plant.wait("the device to be missed", |p| {
        p.get(&["--name", "fieldgate"])["state"]["reported"]["device"]["state"] == "silent"
    });
    plant.device = Device::memory_tcp_swapped(plant.dir.path(), plant.port, "PM-6");
    plant.wait("the quarantine", |p| told(p)["state"] == "quarantined" && told(p)["found"] == "Acme/PM-6");
    plant.desire(json!({ "limit": 5 }), "q");
    let state = plant.wait_state("limit", "pending");
    assert!(state["why"].as_str().unwrap().contains("quarantined"), "{state}");
    assert_eq!(plant.device.noted(), [""; 0]);
    let (code, text) = plant.agent.tell(&["identity", "approve", "dev01"]);
    assert_eq!(code, 0, "{text}");
    plant.wait("the write", |p| p.device.noted().contains(&"1 6 10 50".to_owned()));
    let (_, text) = plant.agent.tell(&["audit", "show"]);
    assert!(text.contains("\"Acme/PM-5\" -> \"Acme/PM-6\", approved (socket uid"), "{text}");
}

#[test]
fn a_message_that_came_while_the_agent_was_away_is_still_a_wish() {
    let mut plant = Plant::new();
    plant.agent.kill();
    plant.desire(json!({ "limit": 9 }), "away");
    plant.agent.start();
    plant.wait("the write", |p| p.device.noted().contains(&"1 6 10 90".to_owned()));
    plant.wait("the answer", |p| !p.answers("shadow/update/accepted", "away").is_empty());
}
