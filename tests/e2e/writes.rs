//! Writes and fingerprints against a server that we did not write: each function once, over
//! TCP and on a tty, by the bus itself.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fieldgate::bus::line::Dial;
use fieldgate::bus::{BusTask, OBSERVATIONS_MAX, READS_MAX, WRITES_MAX, WriteRequest};
use fieldgate::config::Config;
use fieldgate::config::load::load_with;
use fieldgate::metrics::Metrics;
use fieldgate::modbus::write::plan;
use fieldgate::model::device::Protocol;
use fieldgate::model::ids::{DeviceIndex, PointIndex};
use fieldgate::model::observation::{Observation, Seen};
use fieldgate::model::time::Clock;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::foreign::{Cable, Device};

/// Longer than anything here takes, so that a hang fails.
const DEADLINE: Duration = Duration::from_secs(30);

const UNITS: &str = r#"
[[device]]
name = "auto"
bus = "line"
unit_id = 1
response_timeout = "500ms"
late_window = "100ms"
backoff_min = "100ms"
backoff_max = "100ms"
fingerprint = "server-id"
point = [
  { name = "switch", table = "coil", address = 3, access = "read-write" },
  { name = "word", table = "holding", address = 10, type = "int16", scale = 0.1, access = "read-write" },
  { name = "float", table = "holding", address = 12, type = "float32", order = "CDAB", access = "read-write" },
  { name = "bit", table = "holding", address = 20, type = "bit", bit = 1, access = "read-write" },
  { name = "field", table = "holding", address = 21, type = "bitfield", start = 4, length = 4, access = "read-write" },
  { name = "half", table = "holding", address = 22, type = "uint8", half = "high", access = "read-write" },
  { name = "clamped", table = "holding", address = 50, type = "uint16", access = "read-write" },
  { name = "locked", table = "holding", address = 60, type = "uint16", access = "read-write" },
  { name = "blind", table = "holding", address = 30, type = "uint16", access = "write" },
]

[[device]]
name = "multiple"
bus = "line"
unit_id = 2
response_timeout = "500ms"
late_window = "100ms"
backoff_min = "100ms"
backoff_max = "100ms"
fingerprint = "device-id"
write_function = "multiple"
point = [
  { name = "switch", table = "coil", address = 4, access = "read-write" },
  { name = "word", table = "holding", address = 10, type = "int16", access = "read-write" },
]
"#;

fn config(dir: &Path, bus: &str) -> Config {
    let file = dir.join("fieldgate.toml");
    let text = format!(
        "[gateway]\nname = \"g\"\n[uplink]\nurl = \"mqtts://b\"\n[[bus]]\nname = \"line\"\n{bus}\n{UNITS}"
    );
    std::fs::write(&file, text).unwrap();
    load_with(&file, std::iter::empty()).unwrap_or_else(|e| panic!("{e}"))
}

struct Master {
    config: Config,
    wanted: mpsc::Sender<WriteRequest>,
    told: mpsc::Receiver<Observation>,
    fingerprints: Vec<(u32, String)>,
    next: u64,
}

impl Master {
    fn start(config: Config, stop: CancellationToken) -> Master {
        let (observations, told) = mpsc::channel(OBSERVATIONS_MAX);
        let (_, reads) = mpsc::channel(READS_MAX);
        let (wanted, writes) = mpsc::channel(WRITES_MAX);
        let devices = (0..).map(DeviceIndex).zip(config.devices.iter().cloned()).collect();
        let task = BusTask {
            bus: config.buses[0].clone(),
            devices,
            clock: Clock::System,
            observations,
            reads,
            writes,
            metrics: Arc::new(Metrics::new(1, config.devices.len())),
            bus_index: 0,
            seed: 1,
            dial: Dial::Transport,
        };
        tokio::spawn(task.run(stop));
        Master { config, wanted, told, fingerprints: Vec::new(), next: 1 }
    }

    async fn hear(&mut self) -> Observation {
        let seen = tokio::time::timeout(DEADLINE, self.told.recv()).await;
        let seen = seen.expect("the bus says nothing").expect("the bus ended");
        if let Seen::Fingerprint(text) = &seen.seen {
            self.fingerprints.push((seen.device.0, text.clone()));
        }
        seen
    }

    /// Both devices answered and told who they are.
    async fn ready(&mut self) {
        while self.fingerprints.len() < 2 {
            self.hear().await;
        }
    }

    async fn write(&mut self, device: u32, name: &str, value: Value) -> String {
        let of = &self.config.devices[device as usize];
        let at = of.points.iter().position(|p| p.name.as_str() == name).unwrap();
        let Protocol::Modbus(modbus) = &of.protocol else { panic!("{name} is of no Modbus device") };
        let plan = plan(modbus, &of.points[at], &value).unwrap_or_else(|e| panic!("{e}"));
        let id = self.next;
        self.next += 1;
        let (device, point) = (DeviceIndex(device), PointIndex(at as u16));
        self.wanted.send(WriteRequest { id, device, point, plan }).await.unwrap();
        loop {
            if let Seen::Wrote(wrote) = self.hear().await.seen {
                assert_eq!((wrote.id, wrote.point), (id, point));
                return format!("{:?}", wrote.outcome);
            }
        }
    }
}

fn check(config: Config, device: &Device) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stop = CancellationToken::new();
    let fingerprints = runtime.block_on(async {
        let mut master = Master::start(config, stop.clone());
        master.ready().await;
        for (device, point, value, outcome) in [
            (0, "switch", json!(true), "Verified"),
            (1, "switch", json!(true), "Verified"),
            (0, "word", json!(-21.5), "Verified"),
            (1, "word", json!(77), "Verified"),
            (0, "float", json!(231.4), "Verified"),
            (0, "bit", json!(true), "Verified"),
            (0, "bit", json!(false), "Verified"),
            (0, "field", json!(3), "Verified"),
            (0, "half", json!(1), "Verified"),
            (0, "clamped", json!(101), "NotTaken { read: Good(Uint(100)) }"),
            (0, "locked", json!(1), "Rejected { code: 2 }"),
            (0, "blind", json!(9), "Accepted"),
            (0, "switch", json!(false), "Verified"),
        ] {
            assert_eq!(master.write(device, point, value).await, outcome, "{device} {point}");
        }
        stop.cancel();
        while master.told.recv().await.is_some() {}
        master.fingerprints
    });
    // Unit, function, address, words as the server holds them after the write: of the bits
    // only those of the point changed in 0xA5A5.
    let expected = [
        "1 5 3 1".to_owned(),
        "2 15 4 1".to_owned(),
        format!("1 6 10 {}", -215_i16 as u16),
        "2 16 10 77".to_owned(),
        format!("1 16 12 {},{}", 0x6666, 0x4367),
        format!("1 22 20 {}", 0xA5A7),
        format!("1 22 20 {}", 0xA5A5),
        format!("1 22 21 {}", 0xA535),
        format!("1 22 22 {}", 0x01A5),
        "1 6 50 101".to_owned(),
        "1 6 60 1".to_owned(),
        "1 6 30 9".to_owned(),
        "1 5 3 0".to_owned(),
    ];
    assert_eq!(device.noted(), expected);
    let of = |wanted: u32| {
        fingerprints.iter().find(|(device, _)| *device == wanted).map(|(_, text)| text.as_str())
    };
    assert_eq!(of(0), Some("Acme-PM-5-1.2"), "function 17");
    assert_eq!(of(1), Some("Acme/PM-5"), "function 43/14");
}

#[test]
fn a_foreign_server_is_written_and_named_over_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let (device, port) = Device::memory_tcp(dir.path());
    let bus = format!("transport = \"tcp\"\nhost = \"127.0.0.1\"\nport = {port}");
    check(config(dir.path(), &bus), &device);
}

#[test]
fn a_foreign_server_is_written_and_named_on_a_tty() {
    let dir = tempfile::tempdir().unwrap();
    let cable = Cable::new(dir.path(), "line");
    let device = Device::memory_rtu(dir.path(), &cable);
    let bus = format!(
        "transport = \"serial\"\npath = {:?}\nbaud = 19200\nparity = \"none\"\nreconnect_min = \"100ms\"",
        cable.near.display().to_string()
    );
    check(config(dir.path(), &bus), &device);
}
