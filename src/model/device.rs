//! Devices and lines as the validated configuration describes them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::ids::{BusName, CommandName, DeviceIndex, DeviceName, PointIndex, PointName};
use super::line::{FieldPoint, Framing, LineFormat};
use super::register::RegisterPoint;
use super::report::Report;
use super::thing::{THING_NAME_BYTES_MAX, ThingName};
use super::write::{ShadowMember, WriteRules};

/// One line or endpoint with the devices behind it. One task owns it.
#[derive(Clone, Debug, PartialEq)]
pub struct Bus {
    pub name: BusName,
    pub transport: Transport,
    pub timing: BusTiming,
    /// In the order of the configuration.
    pub devices: Vec<DeviceIndex>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Transport {
    /// A tty: Modbus RTU and line-speaking devices.
    Serial(SerialPort),
    /// Modbus TCP.
    Tcp(TcpEndpoint),
    /// RTU frames (or lines of text) through a serial-to-TCP converter.
    RtuOverTcp(TcpEndpoint),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpEndpoint {
    pub host: Host,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Address(IpAddr),
    Name(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct SerialPort {
    pub path: PathBuf,
    pub baud: u32,
    pub data_bits: u8,
    pub parity: Parity,
    pub stop_bits: u8,
    /// Ask the kernel to switch the transceiver (`TIOCSRS485`).
    pub rs485: Option<Rs485>,
    /// The adapter hears itself: drop as many bytes as were sent, after comparing them.
    pub local_echo: bool,
}

impl SerialPort {
    /// Bits on the wire per character: start, data, parity, stop.
    pub fn character_bits(&self) -> u32 {
        1 + u32::from(self.data_bits) + u32::from(self.parity != Parity::None) + u32::from(self.stop_bits)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    None,
    Even,
    Odd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rs485 {
    pub rts_on_send: bool,
    pub rts_after_send: bool,
    pub rx_during_tx: bool,
    pub delay_before_send_ms: u32,
    pub delay_after_send_ms: u32,
}

/// Timing of a whole line.
#[derive(Clone, Debug, PartialEq)]
pub struct BusTiming {
    pub connect_timeout: Duration,
    /// After the port or connection opened, before the first request.
    pub pause_after_connect: Duration,
    /// Between the end of an answer and the next request, on top of the silence.
    pub pause_between_requests: Duration,
    /// RTU silence between frames; `None`: 3.5 characters, 1.75 ms above 19200 baud.
    pub silence: Option<Duration>,
    /// Close the connection after each round of polls.
    pub close_after_poll: bool,
    pub reconnect_min: Duration,
    pub reconnect_max: Duration,
}

/// A device behind a bus.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    pub name: DeviceName,
    /// Its name in the cloud; unique.
    pub thing: ThingName,
    pub protocol: Protocol,
    pub points: Arc<[Point]>,
    pub commands: Arc<[DeviceCommand]>,
    /// Which function tells who it is. A point may tell it too ([`Point::fingerprint`]).
    pub fingerprint: Fingerprint,
    /// `None`: as the rest of the configuration suggests.
    pub uplink: Option<UplinkChoice>,
}

impl Device {
    /// A device that is only read, with a thing of its own name.
    pub fn new(name: DeviceName, protocol: Protocol, points: Arc<[Point]>) -> Device {
        Device {
            thing: thing_of(&name),
            name,
            protocol,
            points,
            commands: Arc::from([]),
            fingerprint: Fingerprint::None,
            uplink: None,
        }
    }
}

/// The thing that a device is unless the configuration names another. Device names know a
/// dot, thing names do not.
pub fn thing_of(device: &DeviceName) -> ThingName {
    let fits = |c: char| if c.is_ascii_alphanumeric() || "_-:".contains(c) { c } else { '-' };
    let mut text: String = device.as_str().chars().map(fits).take(THING_NAME_BYTES_MAX).collect();
    if text.is_empty() {
        text.push('-');
    }
    #[allow(clippy::expect_used, reason = "every character was made to fit")]
    ThingName::parse(&text).expect("a thing name")
}

/// How a Modbus device is asked who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fingerprint {
    #[default]
    None,
    /// Function 17, report server id.
    ServerId,
    /// Function 43/14, read device identification, basic objects.
    DeviceId,
}

/// By which connection a thing speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkChoice {
    /// One of its own, with its own identity.
    Own,
    /// The gateway's.
    Gateway,
}

/// Something to be done once when asked for: a reset, a start. Written to its point.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceCommand {
    pub name: CommandName,
    /// A point that may be written.
    pub point: PointIndex,
    /// Written whatever the request says; `None`: the request brings the value. It fits the
    /// point.
    pub value: Option<serde_json::Value>,
    /// How old a request may be when it is executed.
    pub expiry: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Protocol {
    Modbus(ModbusDevice),
    Line(LineDevice),
}

#[derive(Clone, Debug, PartialEq)]
pub struct ModbusDevice {
    pub unit_id: u8,
    pub limits: RequestLimits,
    pub response_timeout: Duration,
    /// How long an answer that missed the timeout is still waited for and swallowed.
    pub late_window: Duration,
    /// More tries after a timeout or a garbled answer, within the same poll.
    pub retries: u8,
    /// More tries after exception 6 (busy) or 5 (acknowledge), with this pause between.
    pub busy_retries: u8,
    pub busy_pause: Duration,
    pub pause_after_write: Duration,
    /// Failed polls in a row after which the device is silent and backs off alone.
    pub silent_after: u8,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// How long a learned bad address is left alone before it is tried again.
    pub hole_retry: Duration,
    /// Force function 6 or 16 (5 or 15 for coils) for writes.
    pub write_function: WriteFunction,
}

/// What the planner has to respect for one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Registers per request, 1..=125.
    pub max_registers: u16,
    /// Bits per request, 1..=2000.
    pub max_bits: u16,
    /// Unneeded registers (bits) that may be read along to save a request.
    pub max_gap_registers: u16,
    pub max_gap_bits: u16,
    /// Addresses that may never be read, not even as a gap.
    pub forbidden: Vec<AddressRange>,
    pub one_request_per_point: bool,
}

impl Default for RequestLimits {
    fn default() -> Self {
        RequestLimits {
            max_registers: 125,
            max_bits: 2000,
            max_gap_registers: 16,
            max_gap_bits: 256,
            forbidden: Vec::new(),
            one_request_per_point: false,
        }
    }
}

/// `first..=last` of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressRange {
    pub table: super::register::Table,
    pub first: u16,
    pub last: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteFunction {
    /// 6 (5) for one register (coil), 16 (15) for more.
    #[default]
    Auto,
    Single,
    Multiple,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LineDevice {
    pub framing: Framing,
    pub format: LineFormat,
    /// Only lines that contain this text belong to the device; `None`: every line.
    pub matching: Option<String>,
    /// No line for this long: the device is silent.
    pub silent_after: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    pub name: PointName,
    /// As the payload shows it, for instance `V`.
    pub unit: Option<String>,
    pub source: Source,
    /// Zero: as often as the line allows. Lines arrive when they arrive.
    pub interval: Duration,
    pub report: Report,
    /// `None`: the point is only read.
    pub write: Option<WriteRules>,
    /// `None`: the point does not stand in the shadow.
    pub shadow: Option<ShadowMember>,
    /// The value is the device's serial number.
    pub fingerprint: bool,
}

impl Point {
    /// Its value can be asked for.
    pub fn is_readable(&self) -> bool {
        self.write.as_ref().is_none_or(|rules| rules.readable)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    Register(RegisterPoint),
    Field(FieldPoint),
}
