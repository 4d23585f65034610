//! What a poll over Modbus TCP costs this process, next to the bare protocol library. CPU time
//! of the polling thread; the unit answers from another one, over a real socket.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use fieldgate::bus::line::Dial;
use fieldgate::bus::{BusTask, OBSERVATIONS_MAX, READS_MAX};
use fieldgate::metrics::Metrics;
use fieldgate::model::device::{
    Bus, BusTiming, Device, Host, ModbusDevice, Point, Protocol, RequestLimits, Source, TcpEndpoint,
    Transport, WriteFunction,
};
use fieldgate::model::ids::{BusName, DeviceIndex};
use fieldgate::model::register::{Encoding, Kind, Order, RegisterPoint, Table, Transform};
use fieldgate::model::time::Clock;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tokio_modbus::client::{Reader as _, tcp};
use tokio_util::sync::CancellationToken;

fn cpu() -> Duration {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// Answers every read with registers that hold their own address.
fn unit() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                let mut request = [0; 12];
                while stream.read_exact(&mut request).is_ok() {
                    let word = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
                    let (first, count) = (word(8), word(10));
                    let mut answer = request[..4].to_vec();
                    answer.extend((3 + 2 * count).to_be_bytes());
                    answer.extend([request[6], request[7], 2 * count as u8]);
                    answer.extend((first..first + count).flat_map(u16::to_be_bytes));
                    if stream.write_all(&answer).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

/// CPU time of `polls` polls of `count` points.
async fn polled(bus: &Bus, device: &Device, polls: u64) -> Duration {
    let (observations, mut told) = mpsc::channel(OBSERVATIONS_MAX);
    let (_reads, reads) = mpsc::channel(READS_MAX);
    let task = BusTask {
        bus: bus.clone(),
        devices: vec![(DeviceIndex(0), device.clone())],
        clock: Clock::System,
        observations,
        reads,
        metrics: Arc::new(Metrics::new(1, 1)),
        bus_index: 0,
        seed: 1,
        dial: Dial::Transport,
    };
    let stop = CancellationToken::new();
    let task = task.run(stop.clone());
    let listener = async {
        let mut start = Duration::ZERO;
        for n in 0..polls + 10 {
            told.recv().await.expect("the bus runs");
            if n == 9 {
                start = cpu();
            }
        }
        let spent = cpu() - start;
        stop.cancel();
        spent
    };
    let (ended, spent) = tokio::join!(task, listener);
    ended.expect("the hub was there");
    spent
}

async fn bare(address: SocketAddr, count: u16, polls: u64) -> Duration {
    let mut client = tcp::connect_slave(address, tokio_modbus::Slave(1)).await.expect("the unit");
    let start = cpu();
    for _ in 0..polls {
        let words = client.read_holding_registers(0, count).await.expect("the line").expect("no refusal");
        assert_eq!(words.len(), usize::from(count));
    }
    cpu() - start
}

fn bus(c: &mut Criterion) {
    let address = unit();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for count in [10, 125] {
        c.bench_function(&format!("bare {count} registers"), |b| {
            b.iter_custom(|n| runtime().block_on(bare(address, count, n)));
        });
        let (line, device) = plant(address, count);
        c.bench_function(&format!("bus {count} registers"), |b| {
            b.iter_custom(|n| runtime().block_on(polled(&line, &device, n)));
        });
    }
}

/// One unit whose points are always due.
fn plant(address: SocketAddr, count: u16) -> (Bus, Device) {
    let second = Duration::from_secs(1);
    let endpoint = TcpEndpoint { host: Host::Address(address.ip()), port: address.port() };
    let timing = BusTiming {
        connect_timeout: second,
        pause_after_connect: Duration::ZERO,
        pause_between_requests: Duration::ZERO,
        silence: None,
        close_after_poll: false,
        reconnect_min: second,
        reconnect_max: second,
    };
    let modbus = ModbusDevice {
        unit_id: 1,
        limits: RequestLimits::default(),
        response_timeout: second,
        late_window: second,
        retries: 1,
        busy_retries: 3,
        busy_pause: second,
        pause_after_write: Duration::ZERO,
        silent_after: 3,
        backoff_min: second,
        backoff_max: second,
        hole_retry: second,
        write_function: WriteFunction::Auto,
    };
    let point = |address: u16| Point {
        name: format!("p{address}").as_str().into(),
        unit: None,
        source: Source::Register(RegisterPoint {
            table: Table::Holding,
            address,
            encoding: Encoding { kind: Kind::Uint16, order: Order::big(2) },
            transform: Transform::default(),
            scale_factor: None,
        }),
        interval: Duration::ZERO,
        report: Default::default(),
        write: None,
        shadow: None,
        fingerprint: false,
    };
    let name = BusName::new("line");
    let devices = vec![DeviceIndex(0)];
    let bus = Bus { name, transport: Transport::Tcp(endpoint), timing, devices };
    let points = (0..count).map(point).collect();
    (bus, Device::new("unit".into(), Protocol::Modbus(modbus), points))
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = bus
}
criterion_main!(benches);
