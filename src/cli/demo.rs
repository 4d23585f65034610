//! `fieldgate demo`: the whole path in one process, with nothing installed.
//!
//! Constraints: no broker, no hardware, no root; everything simulated is at the edges, the
//! agent between them is the real one, started from a configuration file as ever. The sum at
//! the end is counted at the far end (`proof`), not by the agent.
//!
//! The way of a demonstration: certificates and configuration into a directory of its own →
//! devices and cloud → agent → readings arrive → the cloud is cut → the backlog grows → the
//! cloud is back → the backlog drains → agent stopped in order → the sum.

mod cloud;
mod devices;
mod proof;
mod show;

use std::fs::{DirBuilder, write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::cloud::Cloud;
use self::devices::Samples;
use self::proof::Proof;
use self::show::{Show, Sum};
use super::{Failure, exit};
use crate::app::App;
use crate::identity::issue::{Authority, Use};
use crate::metrics::Metrics;
use crate::serial::port::Port;

#[derive(clap::Args)]
pub struct Args {
    /// How long it takes, about a third of it without the cloud
    #[arg(long, default_value_t = 25, value_name = "N", value_parser = clap::value_parser!(u64).range(6..=3600))]
    seconds: u64,
}

pub fn run(args: &Args, json: bool) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let holds = runtime.block_on(perform(args.seconds, Show::new(json)))?;
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

/// As the configuration names them.
const DEVICES: [&str; 3] = ["meter", "sensor", "scale"];

/// How long the backlog may take to drain beyond the time that was asked for.
const DRAIN_MAX: Duration = Duration::from_secs(30);

async fn perform(seconds: u64, show: Show) -> anyhow::Result<bool> {
    let room = Room::new()?;
    let authority = Authority::new("fieldgate demo")?;
    let server = authority.issue("cloud", &["localhost", "127.0.0.1"], Use::Server)?;
    let gateway = authority.issue("gw", &[], Use::Client)?;
    for (name, pem) in
        [("ca.pem", &authority.certificate), ("gw.pem", &gateway.certificate), ("gw.key", &gateway.key)]
    {
        write(room.path.join(name), pem).with_context(|| format!("writing {name}"))?;
    }
    let cloud = Cloud::open(&server, &authority).await?;
    let plant = Plant::start().await?;
    let file = room.path.join("demo.toml");
    write(&file, configuration(&room.path, &cloud, &plant)).context("writing the configuration")?;
    let config =
        crate::config::load::load(Some(&file)).map_err(|e| Failure::new(exit::CONFIG, e.to_string()))?;
    let app = App::build(config).context("starting")?;
    let stage = Stage { cloud, plant, show, metrics: app.metrics(), backlog_max: 0, started: Instant::now() };
    tokio::select! {
        biased;
        // The directory with its key is removed on this way too.
        _ = tokio::signal::ctrl_c() => Err(Failure::new(exit::FAILED, "interrupted").into()),
        holds = stage.play(app, Duration::from_secs(seconds)) => holds,
    }
}

/// Everything that a running demonstration holds.
struct Stage {
    cloud: Cloud,
    plant: Plant,
    show: Show,
    metrics: Arc<Metrics>,
    backlog_max: u64,
    started: Instant,
}

impl Stage {
    async fn play(mut self, app: App, length: Duration) -> anyhow::Result<bool> {
        let store = app.store();
        let proof = Arc::new(Mutex::new(Proof::default()));
        let arriving = self.count(Arc::clone(&proof));
        let stop = CancellationToken::new();
        let agent = tokio::spawn(app.run(stop.clone()));

        self.show
            .say("start", "A meter on Modbus TCP, a sensor on RS-485 and a scale, read and sent over TLS:");
        self.watch(&proof, self.started + length * 3 / 10).await;
        self.cloud.cut().await;
        self.show.say("cut", "The cloud is cut. Readings go on, into the store:");
        self.watch(&proof, self.started + length * 6 / 10).await;
        self.cloud.mend().await?;
        self.show.say("mended", "The cloud is back. The backlog drains beside the live readings:");
        self.watch(&proof, self.started + length).await;
        self.drained(&proof).await;

        stop.cancel();
        let ended = agent.await.context("the agent")?;
        ended.map_err(|e| Failure::new(exit::FAILED, e.to_string()))?;
        self.plant.tasks.shutdown().await;
        self.cloud.cut().await;
        // What the broker had taken when the agent left is on its way through the queue.
        let tally = store.tally();
        let delivered = u64::try_from(tally.taken - tally.readings_waiting() - tally.dropped).unwrap_or(0);
        let all = async {
            while lock(&proof).readings() < delivered {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = timeout(Duration::from_secs(2), all).await;
        arriving.abort();
        let proof = lock(&proof);
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        let sum = Sum {
            taken: count(tally.taken),
            delivered: proof.readings(),
            waiting: count(tally.readings_waiting()),
            ledger: count(tally.dropped),
            missing: proof.missing(),
            too_late: self.metrics.buses.iter().map(|b| b.timeouts.get() + b.garbled.get()).sum(),
            backlog_max: self.backlog_max,
            dropped_by_cloud: self.cloud.dropped(),
            silent: DEVICES
                .into_iter()
                .filter(|d| proof.device(d).is_none_or(|d| d.samples() == 0))
                .collect(),
        };
        self.show.sum(&sum);
        Ok(sum.holds())
    }

    /// Takes every message out of the broker, as an application in the cloud would.
    fn count(&self, proof: Arc<Mutex<Proof>>) -> tokio::task::JoinHandle<()> {
        let arriving = self.cloud.subscribe("dt/+/+/#");
        tokio::spawn(async move {
            loop {
                let message = arriving.next().await;
                if !message.topic.ends_with("/status") {
                    lock(&proof).take(&message.payload);
                }
            }
        })
    }

    async fn watch(&mut self, proof: &Mutex<Proof>, until: Instant) {
        let mut tick = interval(Duration::from_secs(1));
        tick.tick().await;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(until) => return,
                _ = tick.tick() => self.progress(proof),
            }
        }
    }

    /// A backlog that needs longer than was planned gets its time.
    async fn drained(&mut self, proof: &Mutex<Proof>) {
        let latest = Instant::now() + DRAIN_MAX;
        while self.metrics.store.rows_waiting.get() > 20 && Instant::now() < latest {
            self.watch(proof, Instant::now() + Duration::from_millis(1500)).await;
        }
    }

    fn progress(&mut self, proof: &Mutex<Proof>) {
        let waiting = u64::try_from(self.metrics.store.readings_waiting.get()).unwrap_or(0);
        self.backlog_max = self.backlog_max.max(waiting);
        self.show.progress(self.started.elapsed().as_secs(), &self.metrics, &lock(proof));
    }
}

/// A proof whose counter panicked is still what has arrived.
fn lock(proof: &Mutex<Proof>) -> std::sync::MutexGuard<'_, Proof> {
    proof.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The simulated devices, and where they are reached.
struct Plant {
    tasks: JoinSet<()>,
    meter_port: u16,
    sensor_path: PathBuf,
    scale_path: PathBuf,
    /// The devices' ends of the lines stay open, so that a line lives before the agent opens it.
    _lines: [Port; 2],
}

impl Plant {
    async fn start() -> anyhow::Result<Plant> {
        let mut tasks = JoinSet::new();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("listening for the meter")?;
        let meter_port = listener.local_addr()?.port();
        tasks.spawn(devices::meter(listener, Samples::new()));
        let (far, sensor_line) = Port::pair().context("making a pseudo terminal")?;
        tasks.spawn(async { drop(devices::sensor(far, Samples::new()).await) });
        let (far, scale_line) = Port::pair().context("making a pseudo terminal")?;
        tasks.spawn(async { drop(devices::scale(far, Samples::new()).await) });
        let path = |line: &Port| line.path().context("the pseudo terminal has no name");
        let (sensor_path, scale_path) = (path(&sensor_line)?, path(&scale_line)?);
        Ok(Plant { tasks, meter_port, sensor_path, scale_path, _lines: [sensor_line, scale_line] })
    }
}

/// A directory of our own that is gone when the demonstration is.
struct Room {
    path: PathBuf,
}

impl Room {
    fn new() -> anyhow::Result<Room> {
        let name = format!("fieldgate-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        // Not even for a moment can anyone else read the key.
        DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Room { path })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn configuration(room: &Path, cloud: &Cloud, plant: &Plant) -> String {
    let (room, port) = (room.display(), cloud.address.port());
    let Plant { meter_port, sensor_path, scale_path, .. } = plant;
    let (sensor_path, scale_path, unit) = (sensor_path.display(), scale_path.display(), devices::SENSOR_UNIT);
    format!(
        r#"
[gateway]
name = "gw"
stop_grace = "5s"

[uplink]
url = "mqtts://localhost:{port}"
ca = "{room}/ca.pem"
certificate = "{room}/gw.pem"
key = "{room}/gw.key"
reconnect_min = "500ms"
reconnect_max = "2s"

[store]
path = "{room}/fieldgate.db"

[[bus]]
name = "lan"
transport = "tcp"
host = "127.0.0.1"
port = {meter_port}

[[bus]]
name = "rs485"
transport = "serial"
path = "{sensor_path}"
baud = 19200

[[bus]]
name = "scale"
transport = "serial"
path = "{scale_path}"

[[device]]
name = "meter"
bus = "lan"
unit_id = 1
interval = "200ms"

[[device.point]]
name = "voltage"
table = "input"
address = 0
type = "float32"
decimals = 1
unit = "V"

[[device.point]]
name = "current"
table = "input"
address = 2
type = "float32"
decimals = 2
unit = "A"

[[device.point]]
name = "power"
table = "input"
address = 4
type = "float32"
decimals = 0
unit = "W"

[[device.point]]
name = "sample"
table = "input"
address = 6
type = "uint32"

[[device]]
name = "sensor"
bus = "rs485"
unit_id = {unit}
interval = "500ms"

[[device.point]]
name = "temperature"
table = "holding"
address = 0
type = "int16"
scale = 0.1
decimals = 1
unit = "°C"

[[device.point]]
name = "humidity"
table = "holding"
address = 1
type = "uint16"
scale = 0.1
decimals = 1
unit = "%"

[[device.point]]
name = "sample"
table = "holding"
address = 2
type = "uint32"

[[device]]
name = "scale"
bus = "scale"
protocol = "line"
format = "regex"
pattern = '^ST,GS,\+ *(?P<weight>\d+\.\d+) kg,(?P<sample>\d+)$'
delimiter = "\r\n"

[[device.point]]
name = "weight"
unit = "kg"

[[device.point]]
name = "sample"
"#
    )
}
