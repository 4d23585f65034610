//! `fieldgate doctor` by its own binary, against what it is for: a real broker with mutual TLS
//! that is right or wrong in one way, ports that are missing or held, a store that is nearly
//! full, a configuration that is wrong; beside a running agent and without one.
//!
//! Needs mosquitto with its clients and python3: `tests/run` installs them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic, its helpers too")]

#[path = "e2e/agent.rs"]
#[allow(dead_code)]
mod agent;
#[path = "e2e/certs.rs"]
#[allow(dead_code)]
mod certs;
mod kit;
#[path = "e2e/mosquitto.rs"]
#[allow(dead_code)]
mod mosquitto;
#[path = "e2e/wait.rs"]
#[allow(dead_code)]
mod wait;

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use agent::Agent;
use certs::{Authority, Pair, Server};
use mosquitto::Mosquitto;
use serde_json::Value;
use tempfile::TempDir;
use wait::{Process, free_port, until_true};

/// A gateway in a folder of its own, and the broker that it reaches over mutual TLS.
struct Bench {
    // Dropped in this order.
    agent: Agent,
    broker: Mosquitto,
    authority: Authority,
    dir: TempDir,
}

/// `bus`: what stands below `[[bus]]`, name aside, with its device.
fn configuration(dir: &Path, authority: &Authority, client: &Pair, url: &str, rest: &str) -> String {
    let home = dir.display();
    format!(
        "[gateway]\nname = \"gw-1\"\nstatus_socket = \"{home}/status.sock\"\n\
         [uplink]\nurl = \"{url}\"\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\nconnect_timeout = \"3s\"\n\
         reconnect_min = \"100ms\"\n\
         [store]\npath = \"{home}/state/fieldgate.db\"\nmax_size = \"2MiB\"\n\
         [log]\nformat = \"text\"\n{rest}",
        authority.certificate.display(),
        client.certificate.display(),
        client.key.display(),
    )
}

fn endpoint(port: u16) -> String {
    format!(
        "[[bus]]\nname = \"hall\"\ntransport = \"tcp\"\nhost = \"127.0.0.1\"\nport = {port}\n\
         [[device]]\nname = \"meter-1\"\nbus = \"hall\"\nunit_id = 1\nresponse_timeout = \"200ms\"\n\
         [[device.point]]\nname = \"p\"\ntable = \"holding\"\naddress = 0\ntype = \"uint16\"\n"
    )
}

fn line(path: &Path) -> String {
    format!(
        "[[bus]]\nname = \"line-1\"\ntransport = \"serial\"\npath = \"{}\"\nbaud = 9600\n\
         [[device]]\nname = \"meter-1\"\nbus = \"line-1\"\nunit_id = 1\n\
         [[device.point]]\nname = \"p\"\ntable = \"holding\"\naddress = 0\ntype = \"uint16\"\n",
        path.display()
    )
}

impl Bench {
    fn new(server: Server, rest: &str) -> Bench {
        Bench::reaching(server, rest, |port| format!("mqtts://localhost:{port}"))
    }

    fn reaching(server: Server, rest: &str, url: impl Fn(u16) -> String) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path(), "cloud");
        let broker = Mosquitto::start(dir.path(), &authority, &authority.server(server));
        let client = authority.client("gw-1");
        std::fs::set_permissions(&client.key, Permissions::from_mode(0o600)).unwrap();
        let state = dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        std::fs::set_permissions(&state, Permissions::from_mode(0o700)).unwrap();
        let url = url(broker.tls_port);
        let agent = Agent::new(dir.path(), &configuration(dir.path(), &authority, &client, &url, rest));
        Bench { agent, broker, authority, dir }
    }

    /// Every finding, after asking whether the exit code says the same.
    #[track_caller]
    fn examine(&self) -> Findings {
        let (code, text) = self.agent.tell(&["doctor", "--json"]);
        let all: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let failed = all.iter().any(|f| f["result"] == "failed");
        assert_eq!(code, i32::from(failed), "{text}");
        Findings(all)
    }
}

struct Findings(Vec<Value>);

impl Findings {
    /// One of this name has this result, and words and advice hold these.
    #[track_caller]
    fn check(&self, name: &str, result: &str, words: &str, advice: &str) {
        let text = |f: &Value, key: &str| f[key].as_str().unwrap_or_default().to_owned();
        let fits = |f: &&Value| {
            f["name"] == name
                && f["result"] == result
                && (text(f, "found") + &text(f, "subject")).contains(words)
                && text(f, "advice").contains(advice)
        };
        assert!(self.0.iter().any(|f| fits(&f)), "no {name} {result} {words:?} {advice:?} in {:#?}", self.0);
    }
}

/// Accepts connections and never answers.
fn mute_device() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn a_good_machine_without_an_agent_logs_in_and_tries_its_endpoints() {
    let (_device, port) = mute_device();
    let bench = Bench::new(Server::Right, &endpoint(port));
    let found = bench.examine();
    found.check("configuration", "ok", "1 device, 1 point, 1 bus", "");
    found.check("files", "ok", "modes and owners are right", "");
    found.check("clock", "ok", "20", "");
    found.check("certificate", "ok", "CN=gw-1 is valid for", "");
    found.check("agent", "warning", "does not run", "systemctl start");
    found.check("store", "skipped", "first start", "");
    found.check("modbus-endpoint", "ok", "accepts connections", "");
    found.check("broker-dns", "ok", "127.0.0.1", "");
    found.check("broker-tcp", "ok", "answers within", "");
    found.check("broker-tls", "ok", "TLS 1.3, the chain is good", "");
    found.check("broker-login", "ok", "accepts the login", "");
    let names: Vec<&Value> = found.0.iter().map(|f| &f["name"]).collect();
    assert_eq!(names[0], "configuration");
    assert_eq!(names[names.len() - 1], "broker-login");
    // People see the same.
    let (_, text) = bench.agent.tell(&["doctor"]);
    assert!(text.contains("ok       broker-login       gw-1: the broker accepts the login"), "{text}");
}

#[test]
fn beside_a_running_agent_nothing_is_taken_from_it() {
    let (_device, port) = mute_device();
    let mut bench = Bench::new(Server::Right, &endpoint(port));
    bench.agent.start();
    let status =
        |bench: &Bench| -> Value { serde_json::from_str(&bench.agent.ask("status")).unwrap_or_default() };
    until_true("the agent to be online", || status(&bench)["uplink"]["state"] == "online");
    until_true("the device to be silent", || status(&bench)["devices"][0]["state"] == "timeout");
    let found = bench.examine();
    found.check("agent", "ok", "it runs since", "");
    found.check("devices", "failed", "timeout", "wiring");
    found.check("modbus-endpoint", "ok", "the agent is connected", "");
    found.check("store", "ok", "it opens", "");
    found.check("store-integrity", "ok", "whole", "");
    found.check("store-room", "ok", "of 2.0 MiB used", "");
    found.check("broker-tls", "ok", "the chain is good", "");
    found.check("broker-login", "ok", "the agent is online (1 connect in", "");
    // A second login with its client id would have thrown it out.
    bench.agent.assert_running();
    assert_eq!(status(&bench)["uplink"]["connects"], 1);
    assert_eq!(status(&bench)["uplink"]["disconnects"], 0);
}

#[test]
fn a_broker_that_shows_the_wrong_certificate_is_told_by_its_reason() {
    let check = |server: Server, words: &str, advice: &str| {
        let found = Bench::new(server, "").examine();
        found.check("broker-tcp", "ok", "", "");
        found.check("broker-tls", "failed", words, advice);
        found.check("broker-tls", "failed", "issued by CN=cloud", "");
        found.check("broker-login", "skipped", "the steps before it failed", "");
    };
    check(Server::Expired, "has expired", "needs a new certificate");
    check(Server::WrongName, "is not valid for the host name", "uplink.server_name");
    // The broker still takes our certificate: it is we who must refuse.
    let mut bench = Bench::new(Server::Right, "");
    let stranger = Authority::new(bench.dir.path(), "stranger").server(Server::Right);
    bench.broker.restart_with(&bench.authority, &stranger);
    let found = bench.examine();
    found.check("broker-tls", "failed", "unknown issuer", "uplink.ca");
    found.check("broker-tls", "failed", "issued by CN=stranger", "");
}

#[test]
fn a_certificate_of_ours_that_the_broker_refuses_or_that_is_of_another_key() {
    let bench = Bench::new(Server::Right, "");
    let file = bench.dir.path().join("fieldgate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    // Of a CA that the broker does not know.
    let stranger = Authority::new(bench.dir.path(), "stranger").client("gw-1");
    std::fs::write(&file, text.replace("cloud-ca-client", "stranger-ca-client")).unwrap();
    let found = bench.examine();
    assert!(stranger.key.exists());
    found.check("broker-tls", "failed", "our certificate", "registered at the broker");
    found.check("files", "failed", "every user of this machine can open this secret", "chmod 0600");
    std::fs::write(&file, text.replace("cloud-ca-client.key", "stranger-ca-client.key")).unwrap();
    let found = bench.examine();
    found.check("certificate", "failed", "do not fit together", "one pair");
    found.check("broker-tls", "failed", "do not fit together", "one pair");
}

#[test]
fn a_broker_that_is_not_there_is_told_step_by_step() {
    let port = free_port();
    let found = Bench::reaching(Server::Right, "", |_| format!("mqtts://localhost:{port}")).examine();
    found.check("broker-dns", "ok", "", "");
    found.check("broker-tcp", "failed", "refuses", "no broker listens");
    found.check("broker-tls", "skipped", "no connection", "");
    found.check("broker-login", "skipped", "before", "");
    let found =
        Bench::reaching(Server::Right, "", |port| format!("mqtts://no-such-host.invalid:{port}")).examine();
    found.check("broker-dns", "failed", "not found", "uplink.url");
    found.check("broker-tcp", "skipped", "name", "");
}

#[test]
fn a_port_is_missing_or_held_and_an_endpoint_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let near = dir.path().join("near");
    let mut terminal = terminal(&near);
    let bench = Bench::new(Server::Right, &line(&near));
    bench.examine().check("serial-port", "ok", "may open it, and nobody holds it", "");

    let held = std::fs::File::open(&near).unwrap();
    let mut holder = Process::start(&mut command_with(held));
    let found = bench.examine();
    found.check(
        "serial-port",
        "failed",
        &format!("sleep (pid {}) holds it", holder.child.id()),
        "stop sleep",
    );
    holder.kill();
    bench.examine().check("serial-port", "ok", "nobody holds it", "");

    terminal.kill();
    let rest = line(&dir.path().join("gone")) + &endpoint(free_port()).replace("meter-1", "meter-2");
    let found = Bench::new(Server::Right, &rest).examine();
    found.check("serial-port", "failed", "it is not there", "plug it in");
    found.check("modbus-endpoint", "failed", "refuses the connection", "another master");
}

/// A pseudo terminal whose name leads to an end that nobody has open.
fn terminal(link: &Path) -> Process {
    let script = "import os, pty, sys, time\nmaster, slave = pty.openpty()\n\
                  os.symlink(os.ttyname(slave), sys.argv[1])\nos.close(slave)\ntime.sleep(600)";
    let process = Process::start(Command::new("python3").args(["-c", script]).arg(link));
    until_true("the terminal to be made", || link.exists());
    process
}

/// Has the terminal as its second open file: `Process::start` takes the first.
fn command_with(tty: std::fs::File) -> Command {
    let mut command = Command::new("sleep");
    command.arg("600").stdout(tty);
    command
}

#[test]
fn a_store_that_is_nearly_full_or_newer_is_told() {
    let bench = Bench::new(Server::Right, "");
    let file = bench.dir.path().join("state/fieldgate.db");
    let store = fieldgate::store::Store::open(&file, 64 << 20, None, kit::NOW).unwrap();
    let layout = kit::layout(&store, "meter-1");
    let fill = |until: f64| {
        while (store.bytes_used().unwrap() as f64) < until * f64::from(2 << 20) {
            store.commit(&[kit::row(layout, 1, 2000, kit::NOW)]).unwrap();
        }
    };
    fill(0.75);
    bench.examine().check("store-room", "warning", "of 2.0 MiB used", "store.max_size");
    fill(0.95);
    bench.examine().check("store-room", "failed", "it is full", "bring the broker back");
    store.close().unwrap();
    drop(store);
    // The schema's number stands at byte 60 of the file.
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[63] = 99;
    std::fs::write(&file, bytes).unwrap();
    bench.examine().check("store", "failed", "a newer fieldgate wrote it (schema 99", "that version");
}

#[test]
fn a_wrong_configuration_is_told_and_the_rest_is_looked_at_all_the_same() {
    let bench = Bench::new(Server::Right, "[[bus]]\nname = \"b\"\nbaud = \"fast\"\n");
    let found = bench.examine();
    found.check("configuration", "failed", "baud", "");
    found.check("clock", "ok", "", "");
    found.check("files", "ok", "", "");
    found.check("broker-login", "skipped", "the configuration is wrong", "mend it");
    found.check("serial-port", "skipped", "the configuration is wrong", "mend it");
}

/// What waits at the broker for the agent is still there after the doctor was.
#[test]
fn a_login_leaves_the_session_of_the_agent_as_it_was() {
    let (_device, port) = mute_device();
    let mut bench = Bench::new(Server::Right, &format!("[shadow]\ndialect = \"plain\"\n{}", endpoint(port)));
    let status =
        |bench: &Bench| -> Value { serde_json::from_str(&bench.agent.ask("status")).unwrap_or_default() };
    bench.agent.start();
    until_true("the agent to be online", || status(&bench)["uplink"]["state"] == "online");
    // It subscribes behind the CONNACK; its first answer shows that it has.
    let topic = "$aws/things/gw-1/shadow/update";
    let port = bench.broker.plain_port.to_string();
    let publish = |text: &str| {
        let done = Command::new("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", topic, "-m", text])
            .status();
        assert!(done.unwrap().success());
    };
    let shadow = |bench: &Bench| bench.agent.tell(&["shadow", "get", "gw-1"]).1;
    until_true("a first update to arrive", || {
        publish("{\"state\":{\"desired\":{\"a\":1}}}");
        shadow(&bench).contains("\"a\"")
    });
    assert_eq!(bench.agent.stop(), Some(0));
    publish("{\"state\":{\"desired\":{\"while-away\":2}}}");
    bench.examine().check("broker-login", "ok", "accepts the login", "");
    bench.agent.start();
    until_true("what waited to arrive", || shadow(&bench).contains("while-away"));
}
