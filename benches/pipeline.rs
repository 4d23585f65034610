//! The whole path against its limits, measured in the same run on the same machine:
//!
//! - drain: the outbox to mosquitto over mutual TLS, against a bare rumqttc client that sends
//!   the same payloads with QoS 1 and the same window;
//! - ingest: observations through the hub onto the disk, against bare SQLite that inserts the
//!   same readings, a row each, in transactions of the same size with `synchronous=FULL`; for
//!   information also against bare SQLite that is handed the rows already packed;
//! - polling: a bus that reads one device as often as it can, against bare tokio-modbus calls
//!   to the same server.
//!
//! Each pair is measured in turns and the median is taken, because other work on the machine
//! hits both alike. `cargo bench --bench pipeline`; needs mosquitto.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use fieldgate::bus::line::Dial;
use fieldgate::bus::{self, BusTask};
use fieldgate::config::{self, Config, Durability};
use fieldgate::hub::Hub;
use fieldgate::hub::apply::{self, State};
use fieldgate::hub::things::Things;
use fieldgate::metrics::Metrics;
use fieldgate::model::ids::{DeviceIndex, PointIndex};
use fieldgate::model::observation::{Observation, Seen};
use fieldgate::model::reading::{Measured, Reading};
use fieldgate::model::row::{OutboxId, Route};
use fieldgate::model::time::{Clock, Timestamp};
use fieldgate::model::value::Value;
use fieldgate::store::Store;
use fieldgate::store::inspect::inspect;
use fieldgate::uplink::Uplink;
use fieldgate::uplink::link::{Identity, MqttLink};
use fieldgate::uplink::pacer::Pacer;
use fieldgate::wire::payload::{Head, Telemetry};
use fieldgate::wire::topics::Template;
use rumqttc::v5;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const ROUNDS: usize = 3;
const DEVICES: u32 = 20;
const POINTS: u16 = 50;
const OBSERVATIONS: u32 = 200_000;
/// Readings that bare SQLite inserts, a row each.
const PLAIN_ROWS: usize = 1_000_000;
const WINDOW: u16 = 100;
const POLLING: Duration = Duration::from_secs(3);

fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(folder.path())?;
    let device = ModbusServer::start()?;
    let config = configuration(folder.path(), &broker, device.port)?;
    // As the agent runs.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
    let readings = u64::from(OBSERVATIONS) * u64::from(POINTS);
    println!("{readings} readings of {DEVICES} devices, {ROUNDS} rounds in turns, median");
    let (mut ingest, mut packed) = (Pair::default(), Pair::default());
    let (mut drain, mut poll) = (Pair::default(), Pair::default());
    for round in 0..ROUNDS {
        let place = folder.path().join(format!("round-{round}"));
        std::fs::create_dir(&place)?;
        let file = place.join("outbox.db");
        let (took, commits) = runtime.block_on(ingest_ours(&config, &file))?;
        ingest.ours.push(readings as f64 / took);
        let per_commit = readings as usize / commits.max(1) as usize;
        ingest.bare.push(PLAIN_ROWS as f64 / ingest_plain(&place.join("plain.db"), per_commit)?);
        packed.ours.push(readings as f64 / took);
        packed.bare.push(readings as f64 / ingest_packed(&file, &place.join("packed.db"), commits)?);
        let payloads = payloads(&config, &file)?;
        drain.bare.push(readings as f64 / runtime.block_on(drain_bare(&config, payloads))?);
        drain.ours.push(readings as f64 / runtime.block_on(drain_ours(&config, &file))?);
        poll.bare.push(runtime.block_on(poll_bare(device.port))?);
        poll.ours.push(runtime.block_on(poll_ours(&config))?);
        std::fs::remove_dir_all(&place)?;
    }
    packed.print("durable ingest, readings/s", "bare SQLite, packed", 0.0);
    let fine = [
        ingest.print("durable ingest, readings/s", "bare SQLite, FULL", 0.7),
        drain.print("drain over mutual TLS, readings/s", "bare rumqttc, QoS 1", 0.8),
        poll.print("Modbus TCP polls/s", "bare tokio-modbus", 0.9),
    ];
    ensure!(fine.iter().all(|f| *f), "a target is missed");
    Ok(())
}

#[derive(Default)]
struct Pair {
    ours: Vec<f64>,
    bare: Vec<f64>,
}

impl Pair {
    fn print(&mut self, what: &str, limit: &str, target: f64) -> bool {
        let (ours, bare) = (median(&mut self.ours), median(&mut self.bare));
        let ratio = ours / bare;
        let word = match target {
            0.0 => "for information",
            _ if ratio >= target => "ok",
            _ => "MISSED",
        };
        println!(
            "{what:36} {ours:>12.0}   {limit:20} {bare:>12.0}   ratio {ratio:.2} (target {target}) {word}"
        );
        ratio >= target
    }
}

fn median(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

// --- ingest -------------------------------------------------------------------------------

/// Seconds, and in how many commits.
async fn ingest_ours(config: &Config, file: &Path) -> anyhow::Result<(f64, u64)> {
    let clock = Clock::System;
    let store = Arc::new(Store::open(file, config.store.bytes_max, None, clock.now())?);
    let metrics = Arc::new(Metrics::new(1, config.devices.len()));
    let mut devices = Vec::new();
    for device in &config.devices {
        let layout = store.layout(&device.name, &apply::layout(device))?;
        devices.push((device.clone(), layout, Route::GATEWAY));
    }
    let (observations, observed) = mpsc::channel(bus::OBSERVATIONS_MAX);
    let hub = Hub {
        things: Things::none(),
        serials: tokio::sync::watch::Sender::default(),
        asks: mpsc::channel(1).1,
        writes: Default::default(),
        changes: mpsc::channel(1).1,
        started: tokio::time::Instant::now(),
        state: State::new(
            config.gateway.name.clone(),
            store.boot().to_string(),
            config.uplink.payload_max,
            devices.into_iter(),
        ),
        gateway: config.gateway.name.clone(),
        store: Arc::clone(&store),
        durability: Durability::Commit { batch_window: Duration::from_millis(2) },
        observations: observed,
        clock: clock.clone(),
        metrics: Arc::clone(&metrics),
    };
    let start = clock.now();
    let begun = Instant::now();
    let task = tokio::spawn(hub.run());
    for n in 0..OBSERVATIONS {
        observations.send(observation(n, start)).await.ok().context("the hub ended")?;
    }
    drop(observations);
    task.await??;
    let took = begun.elapsed().as_secs_f64();
    store.close()?;
    Ok((took, metrics.store.commits.get()))
}

fn observation(n: u32, start: Timestamp) -> Observation {
    let value = |p: u16| Measured::Good(Value::Uint(u64::from(n) * 7 % 60_000 + u64::from(p)));
    let readings = (0..POINTS).map(|p| Reading { point: PointIndex(p), measured: value(p) });
    Observation {
        device: DeviceIndex(n % DEVICES),
        at: Timestamp(start.0 + i64::from(n / DEVICES)),
        seen: Seen::Readings(readings.collect()),
    }
}

/// A row a reading, as one would write them without packing, in transactions of the same size.
fn ingest_plain(to: &Path, per_commit: usize) -> anyhow::Result<f64> {
    let mut db = rusqlite::Connection::open(to)?;
    db.execute_batch(
        "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
         CREATE TABLE reading (id INTEGER PRIMARY KEY, device INTEGER, point INTEGER, t INTEGER, value INTEGER)",
    )?;
    let begun = Instant::now();
    let mut n = 0i64;
    while (n as usize) < PLAIN_ROWS {
        let t = db.transaction()?;
        {
            let sql = "INSERT INTO reading (device, point, t, value) VALUES (?1, ?2, ?3, ?4)";
            let mut st = t.prepare_cached(sql)?;
            for _ in 0..per_commit.max(1) {
                let (point, poll) = (n % i64::from(POINTS), n / i64::from(POINTS));
                st.execute(rusqlite::params![
                    poll % i64::from(DEVICES),
                    point,
                    poll,
                    poll * 7 % 60_000 + point
                ])?;
                n += 1;
            }
        }
        t.commit()?;
    }
    Ok(begun.elapsed().as_secs_f64() * PLAIN_ROWS as f64 / n as f64)
}

/// The rows of that file again, already packed, into a table of the same shape, in as many transactions.
fn ingest_packed(from: &Path, to: &Path, commits: u64) -> anyhow::Result<f64> {
    let old = rusqlite::Connection::open(from)?;
    let columns = "id, kind, layout, boot, seq, readings, first_ms, span_ms, payload";
    let rows: Vec<([i64; 8], Vec<u8>)> = old
        .prepare(&format!("SELECT {columns} FROM outbox ORDER BY id"))?
        .query_map([], |r| {
            let mut numbers = [0; 8];
            for (i, n) in numbers.iter_mut().enumerate() {
                *n = r.get(i)?;
            }
            Ok((numbers, r.get(8)?))
        })?
        .collect::<Result<_, _>>()?;
    let sql: String =
        old.query_row("SELECT sql FROM sqlite_schema WHERE name = 'outbox'", [], |r| r.get(0))?;
    let mut new = rusqlite::Connection::open(to)?;
    new.execute_batch("PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL")?;
    new.execute_batch(&sql)?;
    let begun = Instant::now();
    for batch in rows.chunks(rows.len().div_ceil(commits.max(1) as usize)) {
        let t = new.transaction()?;
        {
            let mut st = t.prepare_cached(&format!(
                "INSERT INTO outbox ({columns}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
            ))?;
            for (n, payload) in batch {
                st.execute(rusqlite::params![n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], payload])?;
            }
        }
        t.commit()?;
    }
    Ok(begun.elapsed().as_secs_f64())
}

// --- drain --------------------------------------------------------------------------------

/// Everything that waits in the file, as it goes over the wire.
fn payloads(config: &Config, file: &Path) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let store = Store::open(file, config.store.bytes_max, None, Clock::System.now())?;
    let topic = Template::parse(&config.uplink.topic, &config.gateway.name)?;
    let mut all = Vec::new();
    for row in store.peek(Route::GATEWAY, OutboxId(0), OutboxId(i64::MAX), 1 << 30, usize::MAX)? {
        let head = Head {
            gateway: &config.gateway.name,
            device: &row.layout.device,
            boot: &row.boot.to_string(),
            seq: (row.seq, row.seq + u64::from(row.readings) - 1),
        };
        let mut telemetry = Telemetry::new(head, &row.layout.points, 0);
        let mut reader = fieldgate::packed::Reader::new(&row.payload, row.first);
        while let Some((at, n)) = reader.group()? {
            let mut next = 0;
            telemetry.group(at, (0..n).map_while(|_| reader.reading(&mut next).ok()));
        }
        all.push((topic.render(&row.layout.device), telemetry.finish()));
    }
    Ok(all)
}

async fn drain_bare(config: &Config, payloads: Vec<(String, Vec<u8>)>) -> anyhow::Result<f64> {
    let config::Security::Tls(tls) = &config.uplink.security else { anyhow::bail!("TLS is what we measure") };
    let mut options = v5::MqttOptions::new("bare", config.uplink.host.clone(), config.uplink.port);
    options.set_clean_start(true).set_outgoing_inflight_upper_limit(WINDOW);
    let tls = fieldgate::identity::tls::client_config(tls)?;
    options.set_transport(rumqttc::Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(tls)));
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    let expected = payloads.len();
    let begun = Instant::now();
    let (client, mut poller) = v5::AsyncClient::new(options, usize::from(WINDOW));
    let sender = tokio::spawn(async move {
        for (topic, payload) in payloads {
            client.publish(topic, v5::mqttbytes::QoS::AtLeastOnce, false, payload).await?;
        }
        Ok::<_, v5::ClientError>(client)
    });
    let mut acked = 0;
    while acked < expected {
        if let v5::Event::Incoming(v5::Incoming::PubAck(_)) = poller.poll().await? {
            acked += 1;
        }
    }
    let took = begun.elapsed().as_secs_f64();
    drop(sender.await??);
    Ok(took)
}

async fn drain_ours(config: &Config, file: &Path) -> anyhow::Result<f64> {
    let store = Arc::new(Store::open(file, config.store.bytes_max, None, Clock::System.now())?);
    let uplink = Arc::new(config.uplink.clone());
    let gateway = config.gateway.name.clone();
    let stop = CancellationToken::new();
    let task = Uplink {
        topic: Template::parse(&uplink.topic, &gateway)?,
        status_topic: Some("dt/bench/status".into()),
        link: MqttLink::new(Arc::clone(&uplink), Identity::gateway(&uplink)),
        route: Route::GATEWAY,
        name: "bench".into(),
        filters: tokio::sync::watch::channel(Vec::new()).1,
        asks: None,
        pacer: Arc::new(Pacer::new(uplink.connects_per_second)),
        config: uplink,
        gateway,
        store: Arc::clone(&store),
        clock: Clock::System,
        metrics: Arc::new(Metrics::new(1, config.devices.len())),
        seed: 1,
        grace: Duration::from_secs(1),
    };
    let expected = store.tally().rows_waiting() as u64;
    let metrics = Arc::clone(&task.metrics);
    let begun = Instant::now();
    let running = tokio::spawn(task.run(stop.clone()));
    // Acknowledged by the broker is what the bare client counts, too.
    while metrics.uplink.messages_acked.get() < expected {
        ensure!(!running.is_finished(), "the uplink ended");
        ensure!(begun.elapsed() < Duration::from_secs(300), "offline: {}", metrics.uplink.state.get());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let took = begun.elapsed().as_secs_f64();
    stop.cancel();
    running.await??;
    store.close()?;
    ensure!(inspect(file)?.rows == 0, "rows are left");
    Ok(took)
}

// --- polling ------------------------------------------------------------------------------

async fn poll_bare(port: u16) -> anyhow::Result<f64> {
    use tokio_modbus::client::{Reader as _, tcp};
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let mut device = tcp::attach_slave(stream, tokio_modbus::Slave(1));
    let begun = Instant::now();
    let mut polls = 0u32;
    while begun.elapsed() < POLLING {
        let words = device.read_holding_registers(0, POINTS).await??;
        ensure!(words.len() == usize::from(POINTS));
        polls += 1;
    }
    Ok(f64::from(polls) / begun.elapsed().as_secs_f64())
}

async fn poll_ours(config: &Config) -> anyhow::Result<f64> {
    let (observations, mut observed) = mpsc::channel(bus::OBSERVATIONS_MAX);
    let (_reads, reads) = mpsc::channel(bus::READS_MAX);
    let (_writes, writes) = mpsc::channel(bus::WRITES_MAX);
    let stop = CancellationToken::new();
    let task = BusTask {
        bus: config.buses[0].clone(),
        devices: vec![(DeviceIndex(0), config.devices[0].clone())],
        clock: Clock::System,
        observations,
        reads,
        writes,
        metrics: Arc::new(Metrics::new(1, config.devices.len())),
        bus_index: 0,
        seed: 1,
        dial: Dial::Transport,
    };
    let running = tokio::spawn(task.run(stop.clone()));
    // The first one has the connection behind it.
    observed.recv().await.context("the bus ended")?;
    let begun = Instant::now();
    let mut readings = 0;
    while begun.elapsed() < POLLING {
        let seen = observed.recv().await.context("the bus ended")?;
        let Seen::Readings(all) = seen.seen else { anyhow::bail!("{seen:?}") };
        ensure!(all.iter().all(|r| matches!(r.measured, Measured::Good(_))));
        readings += all.len();
    }
    let took = begun.elapsed().as_secs_f64();
    stop.cancel();
    drop(observed);
    let _ = running.await?;
    Ok(readings as f64 / f64::from(POINTS) / took)
}

// --- what stands around -------------------------------------------------------------------

fn configuration(folder: &Path, broker: &Broker, device: u16) -> anyhow::Result<Config> {
    let mut text = format!(
        "[gateway]\nname = \"bench\"\n\
         [uplink]\nurl = \"mqtts://localhost:{}\"\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\nwindow = {WINDOW}\n\
         [store]\npath = \"{}\"\nmax_size = \"4GiB\"\n\
         [[bus]]\nname = \"tcp\"\ntransport = \"tcp\"\nhost = \"127.0.0.1\"\nport = {device}\n",
        broker.port,
        broker.file("ca.pem"),
        broker.file("client.pem"),
        broker.file("client.key"),
        folder.join("unused.db").display(),
    );
    for d in 0..DEVICES {
        text += &format!(
            "[[device]]\nname = \"meter-{d}\"\nbus = \"tcp\"\nunit_id = {}\ninterval = \"0s\"\n",
            d + 1
        );
        for p in 0..POINTS {
            text += &format!(
                "[[device.point]]\nname = \"value_{p}\"\ntable = \"holding\"\naddress = {p}\ntype = \"uint16\"\nunit = \"V\"\n"
            );
        }
    }
    let file = folder.join("fieldgate.toml");
    std::fs::write(&file, text)?;
    config::load::load_with(&file, std::iter::empty()).map_err(|e| anyhow::anyhow!("{e}"))
}

struct Broker {
    process: Child,
    folder: PathBuf,
    port: u16,
}

impl Broker {
    fn start(folder: &Path) -> anyhow::Result<Broker> {
        certificates(folder)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let file = |name: &str| folder.join(name).display().to_string();
        let text = format!(
            "allow_anonymous true\nuser root\npersistence false\nlog_type error\nmax_queued_messages 0\n\
             max_inflight_messages {WINDOW}\nlistener {port} 127.0.0.1\n\
             cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
            file("ca.pem"),
            file("server.pem"),
            file("server.key"),
        );
        let configuration = folder.join("mosquitto.conf");
        std::fs::write(&configuration, text)?;
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        let process = Command::new("mosquitto")
            .env("PATH", path)
            .arg("-c")
            .arg(configuration)
            .stdout(Stdio::null())
            .spawn()
            .context("mosquitto is not installed")?;
        let broker = Broker { process, folder: folder.to_owned(), port };
        for _ in 0..100 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(broker);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        anyhow::bail!("mosquitto does not listen");
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn certificates(folder: &Path) -> anyhow::Result<()> {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut params = CertificateParams::default();
    // A leaf of the same name would look self-signed to OpenSSL.
    params.distinguished_name.push(rcgen::DnType::CommonName, "bench CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    std::fs::write(folder.join("ca.pem"), params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);
    for (name, host) in [("server", "localhost"), ("client", "bench")] {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([host.to_owned()])?.signed_by(&key, &issuer)?;
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem())?;
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
    }
    Ok(())
}

/// Answers function 3 in a thread per connection, faster than any client can ask.
struct ModbusServer {
    port: u16,
    stop: Arc<AtomicBool>,
}

impl ModbusServer {
    fn start() -> anyhow::Result<ModbusServer> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let server = ModbusServer { port: listener.local_addr()?.port(), stop: Arc::default() };
        let stop = Arc::clone(&server.stop);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::spawn(move || serve(stream));
            }
        });
        Ok(server)
    }
}

impl Drop for ModbusServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; 12];
    let mut answer = Vec::with_capacity(260);
    loop {
        stream.read_exact(&mut request)?;
        let count = u16::from_be_bytes([request[10], request[11]]);
        answer.clear();
        answer.extend_from_slice(&request[..4]);
        answer.extend_from_slice(&(3 + 2 * count).to_be_bytes());
        answer.extend_from_slice(&[request[6], request[7], (2 * count) as u8]);
        (0..count).for_each(|n| answer.extend_from_slice(&(1000 + n).to_be_bytes()));
        stream.write_all(&answer)?;
    }
}
