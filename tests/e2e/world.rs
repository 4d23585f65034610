//! One case's world: a broker, the route to it, the eye behind it, devices, and the agent.

use std::path::Path;

use tempfile::TempDir;

use super::account::{Allowed, Sample, settle};
use super::agent::Agent;
use super::certs::{Authority, Server};
use super::foreign::Device;
use super::mosquitto::Mosquitto;
use super::relay::{Carries, Relay};
use super::subscriber::Subscriber;
use super::wait::until_true;

/// The agent's window in every case: small, so that the bound on repetitions says something.
pub const WINDOW: usize = 20;

/// Milliseconds between polls.
pub const INTERVAL_MS: usize = 100;

/// Polls that an outage lasts: 5 s, or a minute with `FIELDGATE_E2E_LONG`.
pub fn outage_polls() -> usize {
    let seconds = if std::env::var_os("FIELDGATE_E2E_LONG").is_some() { 60 } else { 5 };
    seconds * 1000 / INTERVAL_MS
}

/// The agent's end of a device: what goes into the configuration.
pub struct Line {
    /// Keys of `[[bus]]` but the name.
    pub bus: String,
    /// Unit ids; none for a device that speaks lines.
    pub units: Vec<u8>,
    pub points: usize,
    /// Further keys of each `[[device]]`.
    pub extra: String,
}

impl Line {
    pub fn tcp(port: u16, units: &[u8], points: usize) -> Line {
        let bus = format!("transport = \"tcp\"\nhost = \"127.0.0.1\"\nport = {port}");
        Line { bus, units: units.to_vec(), points, extra: String::new() }
    }

    pub fn serial(tty: &Path, units: &[u8], points: usize) -> Line {
        let bus = format!(
            "transport = \"serial\"\npath = \"{}\"\nbaud = 19200\nparity = \"none\"\nstop_bits = 1",
            tty.display()
        );
        Line { bus, units: units.to_vec(), points, extra: String::new() }
    }

    pub fn with(mut self, extra: &str) -> Line {
        self.extra.push_str(extra);
        self
    }

    fn toml(&self, name: &str) -> String {
        let mut text = format!("\n[[bus]]\nname = \"{name}\"\nreconnect_min = \"100ms\"\n{}\n", self.bus);
        let extra = &self.extra;
        if self.units.is_empty() {
            text += &format!(
                "\n[[device]]\nname = \"scale\"\nbus = \"{name}\"\nprotocol = \"line\"\nformat = \"json\"\n\
                 delimiter = \"\\n\"\n{extra}\n\n[[device.point]]\nname = \"p0\"\n"
            );
        }
        for unit in &self.units {
            text += &format!(
                "\n[[device]]\nname = \"dev{unit:02}\"\nbus = \"{name}\"\nunit_id = {unit}\n\
                 interval = \"{INTERVAL_MS}ms\"\n{extra}\n"
            );
            for k in 0..self.points {
                text += &format!(
                    "\n[[device.point]]\nname = \"p{k}\"\ntable = \"holding\"\naddress = {}\ntype = \"uint32\"\n",
                    2 * k
                );
            }
        }
        text
    }
}

/// How the agent reaches the broker.
pub enum Route {
    /// Mutual TLS, as in the field.
    Tls,
    /// Plain MQTT, where the relay must see packets.
    Plain,
}

pub struct World {
    // Fields are dropped in this order: the agent first.
    pub agent: Agent,
    pub relay: Relay,
    pub cloud: Subscriber,
    pub broker: Mosquitto,
    pub authority: Authority,
    pub dir: TempDir,
}

impl World {
    /// Everything is up but the agent, which has its configuration.
    pub fn new(dir: TempDir, lines: &[Line], route: Route, extra: &str) -> World {
        World::with_server(dir, lines, route, extra, Server::Right)
    }

    pub fn with_server(dir: TempDir, lines: &[Line], route: Route, extra: &str, server: Server) -> World {
        let authority = Authority::new(dir.path(), "cloud");
        let broker = Mosquitto::start(dir.path(), &authority, &authority.server(server));
        let cloud = Subscriber::start(broker.plain_port);
        let client = authority.client("gw-1");
        let (relay, reach) = match route {
            Route::Plain => {
                let relay = Relay::start(broker.plain_port, Carries::Mqtt);
                let reach = format!("url = \"mqtt://127.0.0.1:{}\"\ninsecure = true", relay.port);
                (relay, reach)
            }
            Route::Tls => {
                let relay = Relay::start(broker.tls_port, Carries::Opaque);
                let reach = format!(
                    "url = \"mqtts://localhost:{}\"\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"",
                    relay.port,
                    authority.certificate.display(),
                    client.certificate.display(),
                    client.key.display()
                );
                (relay, reach)
            }
        };
        let home = dir.path().display();
        let mut text = format!(
            "[gateway]\nname = \"gw-1\"\nstatus_socket = \"{home}/status.sock\"\n\n\
             [uplink]\n{reach}\nwindow = {WINDOW}\nkeep_alive = \"5s\"\nconnect_timeout = \"3s\"\n\
             reconnect_min = \"100ms\"\nreconnect_max = \"1s\"\n\n\
             [store]\npath = \"{home}/fieldgate.db\"\n{extra}\n\n\
             [log]\nlevel = \"info\"\nformat = \"text\"\n"
        );
        for (i, line) in lines.iter().enumerate() {
            text += &line.toml(&format!("bus-{i}"));
        }
        let agent = Agent::new(dir.path(), &text);
        World { agent, relay, cloud, broker, authority, dir }
    }

    /// The plain case: two units of pymodbus behind one TCP connection, agent running,
    /// readings flowing.
    pub fn flowing(route: Route) -> (World, Device) {
        let dir = tempfile::tempdir().unwrap();
        let (device, port) = Device::modbus_tcp(dir.path(), &[1, 2], 4);
        let mut world = World::new(dir, &[Line::tcp(port, &[1, 2], 4)], route, "");
        world.agent.start();
        world.wait_arrived(40);
        (world, device)
    }

    /// Waits until so many further values arrived.
    #[track_caller]
    pub fn wait_arrived(&mut self, more: usize) {
        let goal = self.cloud.arrived().samples.len() + more;
        let World { agent, cloud, .. } = self;
        until_true("readings to arrive", || {
            agent.assert_running();
            cloud.arrived().samples.len() >= goal
        });
    }

    #[track_caller]
    pub fn settle(&self, served: impl Fn() -> Vec<Sample>, allowed: Allowed) {
        settle(served, &self.cloud, WINDOW, allowed);
    }
}

/// Waits until the device answered so many more polls of its first point.
#[track_caller]
pub fn wait_polls(served: impl Fn() -> Vec<Sample>, more: usize) {
    let polls = || {
        let all = served();
        let first = all.first().map(|s| (s.device.clone(), s.point.clone()));
        all.iter().filter(|s| Some((s.device.clone(), s.point.clone())) == first).count()
    };
    let goal = polls() + more;
    until_true("the device to be polled", || polls() >= goal);
}
