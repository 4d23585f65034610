//! The dialect plain, seen by a foreign application: the shadow client of the AWS IoT Device
//! SDK talks to fieldgate over mosquitto as it would to the cloud.

use serde_json::{Value, json};

use super::agent::Agent;
use super::certs::{Authority, Server};
use super::foreign::{Device, python_command};
use super::mosquitto::Mosquitto;
use super::subscriber::Subscriber;
use super::things::configuration;
use super::wait::until_true;

/// What the SDK handed over, in the order of its arrival.
struct Session(Vec<Value>);

impl Session {
    fn of(&self, token: &str) -> &Value {
        let answer = |e: &&Value| e["client_token"] == token && e["event"].as_str().unwrap().contains('/');
        let mut found = self.0.iter().filter(answer);
        let one = found.next().unwrap_or_else(|| panic!("no answer with {token}: {:#?}", self.0));
        assert_eq!(found.next(), None, "{token} was answered twice");
        one
    }

    #[track_caller]
    fn refused(&self, token: &str, end: &str, code: u16) {
        let answer = self.of(token);
        assert_eq!((&answer["event"], &answer["code"]), (&json!(format!("{end}/rejected")), &json!(code)));
        assert!(!answer["message"].as_str().unwrap().is_empty(), "{answer}");
    }

    #[track_caller]
    fn find(&self, what: &str, ready: impl Fn(&Value) -> bool) -> &Value {
        self.0.iter().find(|e| ready(e)).unwrap_or_else(|| panic!("no {what}: {:#?}", self.0))
    }
}

fn talk() -> Session {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "cloud");
    let broker = Mosquitto::start(dir.path(), &authority, &authority.server(Server::Right));
    let uplink = format!("url = \"mqtt://127.0.0.1:{}\"\ninsecure = true", broker.plain_port);
    let (_device, port) = Device::memory_tcp(dir.path());
    let mut agent = Agent::new(dir.path(), &configuration(dir.path(), &uplink, port, ""));
    let app = Subscriber::watching(broker.plain_port, "the-app", &["$aws/#"]);
    agent.start();
    until_true("something reported", || {
        agent.assert_running();
        !app.payloads("shadow/update/accepted").is_empty()
    });
    let (client, file) = (authority.client("the-sdk"), dir.path().join("sdk.events"));
    let mut command = python_command("shadow_client.py");
    command.arg(broker.tls_port.to_string()).arg(&authority.certificate);
    command.args([&client.certificate, &client.key]).arg("dev01").arg(&file);
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    let text = std::fs::read_to_string(file).unwrap_or_default();
    assert!(done.status.success(), "{said}\n{text}");
    Session(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn the_shadow_client_of_the_sdk_is_served_as_by_the_cloud() {
    let session = talk();
    let get = session.of("get-1");
    assert_eq!(get["event"], "get/accepted");
    assert!(get["state"]["reported"]["limit"].is_number() && get["state"].get("desired").is_none(), "{get}");
    assert!(get["metadata"]["reported"]["limit"]["timestamp"].as_u64().unwrap() > 1_700_000_000, "{get}");

    let update = session.of("update-1");
    assert_eq!(
        (&update["event"], &update["state"]["desired"]),
        (&json!("update/accepted"), &json!({ "mode": "night" }))
    );
    let version = update["version"].as_u64().unwrap();
    let delta = session.find("delta", |e| e["event"] == "delta" && e["client_token"] == "update-1");
    assert_eq!((&delta["state"], delta["version"].as_u64()), (&json!({ "mode": "night" }), Some(version)));
    assert!(delta["metadata"]["mode"]["timestamp"].is_u64(), "{delta}");
    let documents = session.find("documents", |e| e["current"]["version"].as_u64() == Some(version));
    assert_eq!(documents["previous"]["version"].as_u64(), Some(version - 1));
    assert!(documents["previous"]["state"].get("desired").is_none(), "{documents}");
    assert_eq!(documents["current"]["state"]["desired"], json!({ "mode": "night" }));

    let get = session.of("get-2");
    assert_eq!(get["state"]["reported"]["limit"], 21.5);
    assert_eq!(get["state"]["desired"], json!({ "mode": "night", "limit": 21.5 }));
    assert_eq!(get["state"]["delta"], json!({ "mode": "night" }), "the device has the limit");
    session.refused("stale", "update", 409);
    session.refused("deep", "update", 400);
    session.refused("large", "update", 413);
    assert_eq!(session.of("cleared")["event"], "update/accepted");
    let get = session.of("get-3");
    assert!(get["state"].get("desired").is_none() && get["state"].get("delta").is_none(), "{get}");
    assert_eq!(get["state"]["reported"]["limit"], 21.5);

    // A named shadow that no device knows of.
    session.refused("none", "get", 404);
    assert_eq!(session.of("named-1")["version"], 1);
    let get = session.of("named-get");
    let bread = json!({ "bread": { "minutes": 35 } });
    assert_eq!((&get["state"]["desired"], &get["state"]["reported"]), (&bread, &bread));
    assert!(get["state"].get("delta").is_none() && get["version"] == 2, "{get}");
    assert_eq!(session.of("named-delete")["event"], "delete/accepted");
    session.refused("gone", "get", 404);
    assert!(session.of("named-again")["version"].as_u64().unwrap() > 2, "the numbering goes on");
    assert_eq!(session.of("delete-1")["event"], "delete/accepted");
    assert!(session.0.iter().all(|e| e["shadow"] == "" || e["shadow"] == "recipe"));
}
