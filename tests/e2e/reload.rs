//! Another configuration while the agent runs: against mosquitto over mTLS and pymodbus.

use serde_json::{Value, json};

use super::agent::Agent;
use super::certs::{Authority, Server};
use super::foreign::Device;
use super::mosquitto::Mosquitto;
use super::subscriber::Subscriber;
use super::wait::until_true;

/// Fields are dropped in this order: the agent first.
struct Plant {
    agent: Agent,
    app: Subscriber,
    _devices: [(Device, u16); 2],
    broker: Mosquitto,
    authority: Authority,
    dir: tempfile::TempDir,
}

/// What stands in the file beside the broker.
struct Wanted {
    gateway: &'static str,
    keep_alive: &'static str,
    level: &'static str,
    /// Points of `dev01`, and which of the devices there are.
    points: usize,
    devices: &'static [usize],
}

const FIRST: Wanted = Wanted { gateway: "gw-1", keep_alive: "5s", level: "info", points: 1, devices: &[1] };

impl Plant {
    fn new() -> Plant {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path(), "cloud");
        let broker = Mosquitto::start(dir.path(), &authority, &authority.server(Server::Right));
        authority.client("gw-1");
        let devices = ["one", "two"].map(|name| {
            let home = dir.path().join(name);
            std::fs::create_dir(&home).unwrap();
            Device::modbus_tcp(&home, &[if name == "one" { 1 } else { 2 }], 2)
        });
        let app = Subscriber::watching(broker.plain_port, "the-app", &["$aws/#", "dt/#"]);
        let agent = Agent::new(dir.path(), "");
        let mut plant = Plant { agent, app, _devices: devices, broker, authority, dir };
        plant.write(&FIRST);
        plant.agent.start();
        plant.wait_good("dev01");
        plant
    }

    fn write(&self, wanted: &Wanted) {
        let home = self.dir.path().display();
        let client = self.authority.client("gw-1");
        let mut text = format!(
            "[gateway]\nname = \"{}\"\nstatus_socket = \"{home}/status.sock\"\n[store]\npath = \"{home}/fieldgate.db\"\n\
             [log]\nformat = \"text\"\nlevel = \"{}\"\n[shadow]\ndialect = \"plain\"\ninterval = \"100ms\"\n\
             [uplink]\nurl = \"mqtts://localhost:{}\"\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\n\
             keep_alive = \"{}\"\nconnect_timeout = \"3s\"\nreconnect_min = \"100ms\"\n",
            wanted.gateway,
            wanted.level,
            self.broker.tls_port,
            self.authority.certificate.display(),
            client.certificate.display(),
            client.key.display(),
            wanted.keep_alive,
        );
        for unit in wanted.devices {
            let port = self._devices[unit - 1].1;
            text += &format!(
                "\n[[bus]]\nname = \"line-{unit}\"\ntransport = \"tcp\"\nhost = \"127.0.0.1\"\nport = {port}\n\
                 reconnect_min = \"100ms\"\n[[device]]\nname = \"dev0{unit}\"\nbus = \"line-{unit}\"\nunit_id = {unit}\n\
                 interval = \"100ms\"\n"
            );
            for k in 0..if *unit == 1 { wanted.points } else { 1 } {
                text += &format!(
                    "[[device.point]]\nname = \"p{k}\"\ntable = \"holding\"\naddress = {}\ntype = \"uint32\"\n",
                    2 * k
                );
            }
        }
        self.overwrite(&text);
    }

    fn overwrite(&self, text: &str) {
        std::fs::write(self.dir.path().join("fieldgate.toml"), text).unwrap();
    }

    #[track_caller]
    fn reload(&self, expected: &str) {
        assert_eq!(self.agent.tell(&["reload"]), (0, format!("reloaded: {expected}\n")));
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.agent.ask("status")).unwrap()
    }

    /// New good polls of this device, from now on.
    #[track_caller]
    fn wait_good(&mut self, device: &str) {
        let readings = |plant: &Plant| plant.app.payloads(&format!("{device}/telemetry")).len();
        let before = readings(self);
        until_true(&format!("readings of {device}"), || {
            self.agent.assert_running();
            readings(self) > before + 2
        });
    }

    /// How often the line of `bus` was opened, and how often the broker was connected to.
    fn opened(&self, bus: &str) -> (u64, u64) {
        let status = self.status();
        let buses = status["buses"].as_array().unwrap();
        let bus = buses.iter().find(|b| b["bus"] == bus).unwrap_or_else(|| panic!("no {bus} in {status}"));
        (bus["opened"].as_u64().unwrap(), status["uplink"]["connects"].as_u64().unwrap())
    }

    fn devices(&self) -> Vec<String> {
        let status = self.status();
        status["devices"].as_array().unwrap().iter().map(|d| d["device"].as_str().unwrap().into()).collect()
    }
}

#[test]
fn what_changed_is_taken_over_and_what_did_not_goes_on() {
    let mut plant = Plant::new();
    plant.reload("nothing changed");
    // A second device on a line of its own.
    plant.write(&Wanted { devices: &[2, 1], ..FIRST });
    plant.reload("new: dev02; lines opened anew: line-2");
    plant.wait_good("dev02");
    assert_eq!(plant.devices(), ["dev02", "dev01"]);
    assert_eq!(plant.opened("line-1"), (1, 1));
    // Its shadow is served on the connection that stood all the time.
    plant.app.publish("$aws/things/dev02/shadow/get", &json!({ "clientToken": "new" }));
    until_true("the shadow of dev02", || {
        let answers = plant.app.payloads("dev02/shadow/get/accepted");
        answers.iter().any(|a| a["clientToken"] == "new" && a["state"]["reported"]["p0"].is_number())
    });
    // One more point: its line is opened anew, the neighbour's is not.
    plant.write(&Wanted { devices: &[2, 1], points: 2, ..FIRST });
    plant.reload("changed: dev01; lines opened anew: line-1");
    until_true("the new point", || {
        let told = plant.app.payloads("dev01/telemetry");
        told.iter().any(|t| t["readings"][0]["values"]["p1"].is_number())
    });
    assert_eq!((plant.opened("line-2"), plant.opened("line-1")), ((1, 1), (2, 1)));
    // Reading and asking by name find the right device, whatever its place.
    let (code, text) = plant.agent.tell(&["read", "dev01", "p1"]);
    assert_eq!(code, 0, "{text}");
    plant.write(&Wanted { points: 2, ..FIRST });
    plant.reload("gone: dev02");
    assert_eq!(plant.devices(), ["dev01"]);
    plant.wait_good("dev01");
    // Back again: its numbers go on where they were.
    plant.write(&Wanted { devices: &[1, 2], points: 2, ..FIRST });
    plant.reload("new: dev02; lines opened anew: line-2");
    plant.wait_good("dev02");
    assert_eq!(plant.opened("line-1"), (2, 1));
    assert_eq!(plant.agent.stop(), Some(0));
    for device in ["dev01", "dev02"] {
        let mut next = 0;
        for told in plant.app.payloads(&format!("{device}/telemetry")) {
            let seq = |i: usize| told["seq"][i].as_u64().unwrap();
            assert!(seq(0) >= next, "{device}: {} is followed by {}", next, seq(0));
            next = seq(1) + 1;
        }
    }
    let arrived = plant.app.arrived();
    assert_eq!(arrived.hole(), None);
    assert_eq!(arrived.repeated, 0);
}

#[test]
fn the_connection_is_made_anew_when_its_section_changed() {
    let mut plant = Plant::new();
    plant.write(&Wanted { keep_alive: "7s", level: "error", ..FIRST });
    plant.reload("uplink connected anew; log level error");
    until_true("the second connection", || plant.opened("line-1") == (1, 2));
    plant.wait_good("dev01");
    plant.write(&Wanted { keep_alive: "7s", ..FIRST });
    plant.reload("log level info");
    plant.agent.wait_log("the log to speak again", "log level info");
    assert!(!plant.agent.log().contains("log level error"), "{}", plant.agent.log());
    // The window was empty when the first one ended.
    assert_eq!(plant.app.arrived().repeated, 0);
}

#[test]
fn a_wrong_configuration_is_named_and_the_old_one_goes_on() {
    let mut plant = Plant::new();
    let (code, text) = {
        plant.overwrite(
            "[gateway]\nname = \"gw-1\"\n[uplink]\nurl = \"mqtts://localhost\"\nkeep_alife = \"5s\"\n",
        );
        plant.agent.tell(&["reload"])
    };
    assert!(code == 64 && text.contains("keep_alife"), "{code}: {text}");
    // The agent reads for itself, too: a signal asks it without looking at the file first.
    plant.agent.signal("HUP");
    plant.agent.wait_log("the refusal", "reload refused: the configuration is wrong.*\n(.*\n)*.*keep_alife");
    plant.wait_good("dev01");
    // What only a restart can change is refused as a whole.
    plant.write(&Wanted { gateway: "gw-2", devices: &[1, 2], ..FIRST });
    let (code, text) = plant.agent.tell(&["reload"]);
    assert!(code == 1 && text.contains("[gateway]") && text.contains("systemctl restart"), "{code}: {text}");
    assert_eq!(plant.devices(), ["dev01"]);
    plant.wait_good("dev01");
    assert_eq!(plant.opened("line-1"), (1, 1));
    // And a right one still goes.
    plant.write(&Wanted { devices: &[1, 2], ..FIRST });
    plant.agent.signal("HUP");
    plant.wait_good("dev02");
}
