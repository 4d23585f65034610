//! The scripted device and the wiring around the task.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::bus::line::Dial;
use crate::bus::{BusTask, READS_MAX, ReadRequest};
use crate::metrics::Metrics;
use crate::model::device::*;
use crate::model::ids::{BusName, DeviceIndex, PointIndex};
use crate::model::observation::{Observation, Seen};
use crate::model::reading::Measured;
use crate::model::register::*;
use crate::model::time::{Clock, Timestamp};

pub const SECOND: Duration = Duration::from_secs(1);

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// What the device was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub unit_id: u8,
    pub function: u8,
    pub address: u16,
    pub count: u16,
}

/// What it does.
#[derive(Clone, Debug)]
pub enum Act {
    /// Answers with each register holding its own address.
    Addresses,
    Words(Vec<u16>),
    Exception(u8),
    Mute,
    After(Duration, Box<Act>),
    /// These bytes, as they are.
    Raw(Vec<u8>),
    /// These bytes, then the answer.
    Noise(Vec<u8>, Box<Act>),
    /// A frame whose check fails.
    BadCheck,
    HangUp,
}

pub fn after(wait: Duration, act: Act) -> Act {
    Act::After(wait, Box::new(act))
}

/// Time since the start and the request: what the device saw.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<Vec<(Duration, Ask)>>>);

impl Log {
    pub fn asks(&self) -> Vec<Ask> {
        self.0.lock().unwrap().iter().map(|(_, ask)| *ask).collect()
    }

    pub fn times_of(&self, unit_id: u8) -> Vec<u128> {
        self.0
            .lock()
            .unwrap()
            .iter()
            .filter(|(_, a)| a.unit_id == unit_id)
            .map(|(t, _)| t.as_millis())
            .collect()
    }
}

pub struct Rig {
    pub transport: Transport,
    pub devices: Vec<Device>,
    pub capacity: usize,
    pub run: Duration,
    pub timing: BusTiming,
}

pub struct Told {
    pub seen: Vec<String>,
    pub log: Log,
    pub metrics: Arc<Metrics>,
}

impl Rig {
    pub fn new(transport: Transport, devices: Vec<Device>) -> Rig {
        Rig { transport, devices, capacity: 256, run: ms(2500), timing: timing() }
    }

    pub fn run(self, run: Duration) -> Rig {
        Rig { run, ..self }
    }

    /// The task, not started, with its ends.
    pub fn task(
        &self,
        dial: Dial,
    ) -> (BusTask, mpsc::Receiver<Observation>, mpsc::Sender<ReadRequest>, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new(1, self.devices.len()));
        let (observations, told) = mpsc::channel(self.capacity);
        let (asks, reads) = mpsc::channel(READS_MAX);
        let indices = (0..self.devices.len() as u32).map(DeviceIndex);
        let task = BusTask {
            bus: Bus {
                name: BusName::new("line"),
                transport: self.transport.clone(),
                timing: self.timing.clone(),
                devices: indices.clone().collect(),
            },
            devices: indices.zip(self.devices.iter().cloned()).collect(),
            clock: Clock::Simulated { base: Timestamp(0), origin: Instant::now() },
            observations,
            reads,
            metrics: metrics.clone(),
            bus_index: 0,
            seed: 7,
            dial,
        };
        (task, told, asks, metrics)
    }

    /// Runs the task for the rig's time and tells what the hub would have heard.
    pub async fn told(self, script: impl FnMut(Ask) -> Act + Clone + Send + 'static) -> Told {
        let log = Log::default();
        let rtu = !matches!(self.transport, Transport::Tcp(_));
        let (seen_by, start) = (log.clone(), Instant::now());
        let dial = Dial::with(move || {
            let (near, far) = tokio::io::duplex(4096);
            tokio::spawn(device(far, rtu, start, seen_by.clone(), script.clone()));
            async move { Ok(near) }
        });
        let (task, mut told, _asks, metrics) = self.task(dial);
        let stop = CancellationToken::new();
        let running = tokio::spawn(task.run(stop.clone()));
        let mut seen = Vec::new();
        let end = start + self.run;
        while let Ok(Some(observation)) = tokio::time::timeout_at(end, told.recv()).await {
            seen.push(describe(&observation));
        }
        stop.cancel();
        while let Some(observation) = told.recv().await {
            seen.push(describe(&observation));
        }
        running.await.unwrap().unwrap();
        Told { seen, log, metrics }
    }
}

/// `1000 d0 0=7 1=bad timeout`: milliseconds, device, its points.
pub fn describe(observation: &Observation) -> String {
    let seen = match &observation.seen {
        Seen::Silent(cause) => format!("silent {cause}"),
        Seen::Back => "back".to_owned(),
        Seen::Wrote(wrote) => format!("wrote {} {}={:?}", wrote.id, wrote.point.0, wrote.outcome),
        Seen::Fingerprint(text) => format!("is {text}"),
        Seen::Readings(readings) => {
            assert!(!readings.is_empty());
            assert!(readings.is_sorted_by_key(|r| r.point));
            let one = |r: &crate::model::reading::Reading| {
                let PointIndex(n) = r.point;
                match &r.measured {
                    Measured::Good(v) => format!("{n}={v}"),
                    Measured::Uncertain(v, c) => format!("{n}={v}? {c}"),
                    Measured::Bad(c) => format!("{n}=bad {c}"),
                }
            };
            readings.iter().map(one).collect::<Vec<_>>().join(" ")
        }
    };
    format!("{} d{} {seen}", observation.at.0, observation.device.0)
}

pub fn tcp() -> Transport {
    Transport::Tcp(TcpEndpoint { host: Host::Name("in-memory".to_owned()), port: 502 })
}

pub fn serial() -> SerialPort {
    SerialPort {
        path: "/dev/in-memory".into(),
        baud: 19_200,
        data_bits: 8,
        parity: Parity::Even,
        stop_bits: 1,
        rs485: None,
        local_echo: false,
    }
}

pub fn rtu() -> Transport {
    Transport::Serial(serial())
}

pub fn timing() -> BusTiming {
    BusTiming {
        connect_timeout: 5 * SECOND,
        pause_after_connect: Duration::ZERO,
        pause_between_requests: Duration::ZERO,
        silence: None,
        close_after_poll: false,
        reconnect_min: SECOND,
        reconnect_max: 60 * SECOND,
    }
}

pub fn modbus(unit_id: u8) -> ModbusDevice {
    ModbusDevice {
        unit_id,
        limits: RequestLimits::default(),
        response_timeout: ms(200),
        late_window: ms(200),
        retries: 0,
        busy_retries: 3,
        busy_pause: ms(100),
        pause_after_write: Duration::ZERO,
        silent_after: 3,
        backoff_min: 4 * SECOND,
        backoff_max: 60 * SECOND,
        hole_retry: 3600 * SECOND,
        write_function: WriteFunction::Auto,
    }
}

/// One holding register, an unsigned number.
pub fn point(address: u16, interval: Duration) -> Point {
    Point {
        name: format!("p{address}").as_str().into(),
        unit: None,
        source: Source::Register(RegisterPoint {
            table: Table::Holding,
            address,
            encoding: Encoding { kind: Kind::Uint16, order: Order::big(2) },
            transform: Transform::default(),
            scale_factor: None,
        }),
        interval,
        report: Default::default(),
        write: None,
        shadow: None,
        fingerprint: false,
    }
}

pub fn points(addresses: impl IntoIterator<Item = u16>) -> Vec<Point> {
    addresses.into_iter().map(|a| point(a, SECOND)).collect()
}

pub fn device_of(modbus: ModbusDevice, points: Vec<Point>) -> Device {
    Device::new(format!("unit-{}", modbus.unit_id).as_str().into(), Protocol::Modbus(modbus), points.into())
}

/// The far end of the line.
pub async fn device(
    mut line: DuplexStream,
    rtu: bool,
    start: Instant,
    log: Log,
    mut script: impl FnMut(Ask) -> Act,
) {
    let head_len = if rtu { 8 } else { 12 };
    let mut head = vec![0; head_len];
    while line.read_exact(&mut head).await.is_ok() {
        let body = if rtu { &head[..] } else { &head[6..] };
        let word = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
        let ask = Ask { unit_id: body[0], function: body[1], address: word(2), count: word(4) };
        log.0.lock().unwrap().push((start.elapsed(), ask));
        let mut acts = VecDeque::from([script(ask)]);
        while let Some(act) = acts.pop_front() {
            let pdu = match act {
                Act::After(wait, act) => {
                    sleep(wait).await;
                    acts.push_front(*act);
                    continue;
                }
                Act::Noise(bytes, act) => {
                    let _ = line.write_all(&bytes).await;
                    acts.push_front(*act);
                    continue;
                }
                Act::Raw(bytes) => {
                    let _ = line.write_all(&bytes).await;
                    continue;
                }
                Act::Mute => continue,
                Act::HangUp => return,
                Act::Addresses if matches!(ask.function, 1 | 2) => {
                    let bytes = ask.count.div_ceil(8);
                    let mut pdu = vec![ask.function, bytes as u8];
                    pdu.extend((0..bytes).map(|_| 0b0101_0101));
                    pdu
                }
                Act::Addresses => words(ask.function, (0..ask.count).map(|n| ask.address + n)),
                Act::Words(values) => words(ask.function, values),
                Act::Exception(code) => vec![ask.function | 0x80, code],
                Act::BadCheck => {
                    let mut frame = framed(rtu, &head, ask.unit_id, &words(ask.function, [0xBAD]));
                    let last = frame.len() - 1;
                    frame[last] ^= 0xFF;
                    let _ = line.write_all(&frame).await;
                    continue;
                }
            };
            if line.write_all(&framed(rtu, &head, ask.unit_id, &pdu)).await.is_err() {
                return;
            }
        }
    }
}

fn words(function: u8, values: impl IntoIterator<Item = u16>) -> Vec<u8> {
    let bytes: Vec<u8> = values.into_iter().flat_map(u16::to_be_bytes).collect();
    [vec![function, bytes.len() as u8], bytes].concat()
}

pub fn framed(rtu: bool, request: &[u8], unit_id: u8, pdu: &[u8]) -> Vec<u8> {
    if rtu {
        let mut frame = vec![unit_id];
        frame.extend(pdu);
        frame.extend(crc(&frame).to_le_bytes());
        return frame;
    }
    let mut frame = request[..4].to_vec();
    frame.extend((pdu.len() as u16 + 1).to_be_bytes());
    frame.push(unit_id);
    frame.extend(pdu);
    frame
}

pub fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 })
    })
}
