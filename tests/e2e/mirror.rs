//! The dialect aws against a shadow service that we did not write: what changes on either
//! side, with both up or one away, is the same on both in the end.

use serde_json::{Value, json};

use super::agent::Agent;
use super::certs::{Authority, Server};
use super::foreign::{Device, python};
use super::mosquitto::Mosquitto;
use super::subscriber::Subscriber;
use super::things::configuration;
use super::wait::{Process, until, until_true};

struct Plant {
    agent: Agent,
    app: Subscriber,
    device: Device,
    _service: Process,
    _broker: Mosquitto,
    dir: tempfile::TempDir,
}

const SHADOW: &str = "$aws/things/dev01/shadow";

impl Plant {
    fn new() -> Plant {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path(), "cloud");
        let broker = Mosquitto::start(dir.path(), &authority, &authority.server(Server::Right));
        let uplink = format!("url = \"mqtt://127.0.0.1:{}\"\ninsecure = true", broker.plain_port);
        let (device, port) = Device::memory_tcp(dir.path());
        let app = Subscriber::watching(broker.plain_port, "the-app", &["$aws/#"]);
        let service = python(
            "shadow_service.py",
            &[&broker.plain_port.to_string(), "dev01,gw-1"],
            &dir.path().join("service.served"),
        );
        let text = configuration(dir.path(), &uplink, port, "").replace("\"plain\"", "\"aws\"");
        let agent = Agent::new(dir.path(), &text);
        let plant = Plant { agent, app, device, _service: service, _broker: broker, dir };
        // An application asks until the service is there.
        plant.cloud();
        plant
    }

    /// The document as the cloud has it; null if it has none.
    fn cloud(&self) -> Value {
        self.cloud_of("")
    }

    fn cloud_of(&self, named: &str) -> Value {
        let (mut tries, mut asked) = (0, String::new());
        until("the cloud's document", || {
            if tries % 100 == 0 {
                asked = format!("get-{tries}-{}", self.app.messages().len());
                self.app.publish(&format!("{SHADOW}{named}/get"), &json!({ "clientToken": asked }));
            }
            tries += 1;
            let answers = self.app.messages();
            let mut answers = answers.iter().filter(|m| m.payload["clientToken"] == asked.as_str());
            answers.find(|m| m.topic.ends_with("ed")).map(|m| m.payload["state"].clone())
        })
    }

    fn update(&self, state: Value) {
        self.app.publish(&format!("{SHADOW}/update"), &json!({ "state": state }));
    }

    fn local(&self) -> Value {
        let (code, text) = self.agent.tell(&["shadow", "get", "dev01"]);
        if code != 0 {
            return Value::Null;
        }
        serde_json::from_str::<Value>(&text).unwrap()["state"].clone()
    }

    fn local_update(&self, state: Value) {
        let (code, text) =
            self.agent.tell(&["shadow", "update", "dev01", &json!({ "state": state }).to_string()]);
        assert_eq!(code, 0, "{text}");
    }

    #[track_caller]
    fn converged(&self, what: &str, ready: impl Fn(&Value) -> bool) -> Value {
        until(what, || {
            let (local, cloud) = (self.local(), self.cloud());
            (local == cloud && ready(&local)).then_some(local)
        })
    }

    /// Requests to the service, with their codes.
    fn served(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("service.served")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn what_is_desired_in_the_cloud_ends_on_the_device_and_reported_in_the_cloud() {
    let mut plant = Plant::new();
    plant.update(json!({ "desired": { "limit": 21.5, "color": "red" } }));
    plant.agent.start();
    let state = plant.converged("both sides to agree", |s| s["reported"]["limit"] == 21.5);
    assert_eq!(state["desired"], json!({ "limit": 21.5, "color": "red" }));
    assert_eq!(state["delta"], json!({ "color": "red" }), "what is no point of the device is left alone");
    assert!(plant.device.noted().contains(&"1 6 10 215".to_owned()));
    plant.update(json!({ "desired": { "limit": 12, "color": null } }));
    plant.converged("the next wish", |s| s["reported"]["limit"] == 12 && s.get("delta").is_none());
    // How it fares is in the cloud as well.
    until_true("the state of the write in the cloud", || {
        plant.cloud_of("/name/fieldgate")["reported"]["writes"]["limit"]["state"] == "verified"
    });
}

#[test]
fn what_changed_on_both_sides_while_the_line_was_down_is_merged() {
    let mut plant = Plant::new();
    plant.agent.start();
    plant.update(json!({ "desired": { "a": 1, "b": 1, "c": 1 } }));
    plant.converged("a beginning", |s| s["desired"]["c"] == 1 && !s["reported"].is_null());
    // The agent is away, and the cloud changes. Then it is back, and the cloud is away.
    plant.agent.kill();
    plant.update(json!({ "desired": { "a": "cloud", "b": "cloud" } }));
    until_true("the cloud to have it", || plant.cloud()["desired"]["b"] == "cloud");
    plant._broker.kill();
    plant.agent.start();
    until_true("the agent to answer", || plant.local()["desired"]["c"] == 1);
    plant.local_update(json!({ "desired": { "b": "here", "c": "here" } }));
    plant._broker.restart();
    let state = plant.converged("both sides to agree again", |s| s["desired"]["a"] == "cloud");
    assert_eq!(
        state["desired"],
        json!({ "a": "cloud", "b": "cloud", "c": "here" }),
        "each side's own change, and the cloud's where both changed the same"
    );
    let log = plant.agent.log();
    assert!(log.contains("desired.b"), "the conflict is named in the log: {log}");
    let conflicts = plant.served().iter().filter(|line| line.ends_with(" 409")).count();
    assert!(conflicts < 5, "{conflicts} version conflicts: a loop?");
}

#[test]
fn a_shadow_deleted_in_the_cloud_is_made_anew_by_its_device() {
    let mut plant = Plant::new();
    plant.agent.start();
    plant.update(json!({ "desired": { "old": 1 } }));
    plant.converged("a beginning", |s| s["desired"]["old"] == 1 && !s["reported"]["limit"].is_null());
    plant.app.publish(&format!("{SHADOW}/delete"), &json!({}));
    until_true("the deletion here", || plant.local()["desired"].is_null());
    // A reading that changes makes it again.
    plant.app.publish(&format!("{SHADOW}/update"), &json!({ "state": { "desired": { "limit": 7 } } }));
    let state = plant.converged("a new one", |s| s["reported"]["limit"] == 7);
    assert_eq!(state["desired"], json!({ "limit": 7 }), "nothing of the old one came back");
}
