//! What stands outside of the gateway: a broker, a device on TCP, one on a serial line.

use std::path::Path;

use tempfile::TempDir;

use super::account::{Allowed, Sample, settle};
use super::bed::{Bed, Options};
use super::certs::{Authority, Pair, Server};
use super::foreign::{Cable, Device};
use super::mosquitto::Mosquitto;
use super::subscriber::Subscriber;
use super::wait::until_true;

/// The serial port as the machine sees it.
pub const PORT: &str = "/dev/ttyS1";
pub const WINDOW: usize = 20;
const POINTS: usize = 2;

pub struct Plant {
    pub cloud: Subscriber,
    pub broker: Mosquitto,
    pub authority: Authority,
    pub client: Pair,
    pub tcp: (Device, u16),
    pub rtu: Device,
    pub cable: Cable,
    dir: TempDir,
}

/// What the configuration says; the rest is the same everywhere.
pub struct Wanted {
    pub units: &'static [u8],
    /// The gateway's key.
    pub key: &'static str,
    pub port: &'static str,
    /// More lines, at the end.
    pub more: String,
}

pub const KEY: &str = "/etc/fieldgate/gw-1.key";
pub const BOTH: Wanted = Wanted { units: &[1, 2], key: KEY, port: PORT, more: String::new() };

impl Plant {
    /// Unit 1 and 3 answer on TCP, unit 2 on the line.
    pub fn new() -> Plant {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path(), "cloud");
        let broker = Mosquitto::start(dir.path(), &authority, &authority.server(Server::Right));
        let cloud = Subscriber::start(broker.plain_port);
        let client = authority.client("gw-1");
        let tcp = Device::modbus_tcp(dir.path(), &[1, 3], POINTS);
        let cable = Cable::new(dir.path(), "line");
        let rtu = Device::modbus_rtu(dir.path(), &cable, &[2], POINTS);
        Plant { cloud, broker, authority, client, tcp, rtu, cable, dir }
    }

    /// A machine that sees the line.
    pub fn boot(&self, inside: &str) -> Bed {
        self.boot_with(inside, false)
    }

    pub fn boot_with(&self, inside: &str, no_network: bool) -> Bed {
        let tty = std::fs::canonicalize(&self.cable.near).unwrap();
        let bed = Bed::boot(&Options { binds: vec![(tty, inside.into())], no_network });
        bed.sh(&format!("chgrp dialout {inside}; chmod 0660 {inside}"));
        bed
    }

    /// Everything that an operator puts into /etc/fieldgate; nothing is restarted.
    pub fn configure(&self, bed: &Bed, wanted: &Wanted) {
        bed.copy_in(&self.authority.certificate, "/etc/fieldgate/ca.pem");
        bed.copy_in(&self.client.certificate, "/etc/fieldgate/gw-1.pem");
        if wanted.key == KEY {
            bed.copy_in(&self.client.key, KEY);
            bed.sh(&format!("chown fieldgate: {KEY}; chmod 0600 {KEY}"));
        }
        bed.write("/etc/fieldgate/fieldgate.toml", self.toml(wanted));
    }

    pub fn toml(&self, wanted: &Wanted) -> String {
        let Wanted { units, key, port, more } = wanted;
        let mut text = format!(
            "[gateway]\nname = \"gw-1\"\n\n[uplink]\nurl = \"mqtts://localhost:{}\"\nca = \"/etc/fieldgate/ca.pem\"\n\
             certificate = \"/etc/fieldgate/gw-1.pem\"\nkey = \"{key}\"\nwindow = {WINDOW}\nkeep_alive = \"5s\"\n\
             connect_timeout = \"5s\"\nreconnect_min = \"100ms\"\nreconnect_max = \"1s\"\n\n\
             [[bus]]\nname = \"plc\"\ntransport = \"tcp\"\nhost = \"localhost\"\nport = {}\n\
             reconnect_min = \"100ms\"\nreconnect_max = \"1s\"\n",
            self.broker.tls_port, self.tcp.1
        );
        if units.contains(&2) {
            text += &format!(
                "\n[[bus]]\nname = \"line\"\ntransport = \"serial\"\npath = \"{port}\"\nbaud = 19200\n\
                 parity = \"none\"\nstop_bits = 1\nreconnect_min = \"100ms\"\nreconnect_max = \"1s\"\n"
            );
        }
        for unit in *units {
            let bus = if *unit == 2 { "line" } else { "plc" };
            text += &format!(
                "\n[[device]]\nname = \"dev{unit:02}\"\nbus = \"{bus}\"\nunit_id = {unit}\ninterval = \"200ms\"\n"
            );
            for k in 0..POINTS {
                text += &format!(
                    "[[device.point]]\nname = \"p{k}\"\ntable = \"holding\"\naddress = {}\ntype = \"uint32\"\n",
                    2 * k
                );
            }
        }
        text + more
    }

    /// Installed, configured, running, both devices' readings at the broker.
    pub fn flowing() -> (Bed, Plant) {
        let plant = Plant::new();
        let bed = plant.boot(PORT);
        bed.installed();
        plant.configure(&bed, &BOTH);
        bed.sh("systemctl restart fieldgate");
        plant.wait_arrived(&bed, 2);
        (bed, plant)
    }

    /// What the devices handed out.
    pub fn served(&self) -> Vec<Sample> {
        [self.tcp.0.served(), self.rtu.served()].concat()
    }

    pub fn arrived(&self, device: &str) -> usize {
        self.cloud.arrived().samples.iter().filter(|s| s.device == device).count()
    }

    /// So many further values of both devices.
    #[track_caller]
    pub fn wait_arrived(&self, bed: &Bed, more: usize) {
        for device in ["dev01", "dev02"] {
            self.wait_arrived_of(bed, device, more);
        }
    }

    #[track_caller]
    pub fn wait_arrived_of(&self, bed: &Bed, device: &str, more: usize) {
        let goal = self.arrived(device) + more;
        let arrived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until_true("readings", || self.arrived(device) >= goal);
        }));
        assert!(arrived.is_ok(), "no readings of {device}\n{}", bed.last_words());
    }

    /// Every value that was handed out is at the broker, without a hole in the numbers.
    #[track_caller]
    pub fn settle(&self, allowed: Allowed) {
        settle(|| self.served(), &self.cloud, WINDOW, allowed);
    }

    pub fn folder(&self) -> &Path {
        self.dir.path()
    }
}
