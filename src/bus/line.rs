//! The line a bus task owns: opening, pacing, one transaction at a time, and coming back
//! after it went away.
//!
//! Constraints:
//! - Silence before each RTU frame counts from the last byte heard; whatever is heard
//!   between transactions is taken away first, so that it cannot pass for an answer.
//! - After an answer that never came, or not whole, an RTU line is drained until it is quiet
//!   and the late window over, and a TCP connection is dropped: nothing late may reach the
//!   next call.
//! - On a serial port an answer is read in a few pieces, at its beginning and at its end, and
//!   not character by character; the last one is awaited itself, for the silence runs from it.
//!   (The kernel may still wake the process for each.)
//! - A connection that served and then broke is opened again at once, because devices hang
//!   up idle connections; one that never served is opened again by backoff.
//! - Every state change of the line is said once, in the log and in the metrics.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::wire::{Stream, Wire};
use crate::backoff::Backoff;
use crate::metrics::{BusMetrics, Metrics};
use crate::modbus::client::{Answer, Client, Command, Error, Patience};
use crate::model::device::{Bus, BusTiming, Host, ModbusDevice, SerialPort, TcpEndpoint, Transport};
use crate::model::ids::BusName;
use crate::serial::pause::Pause;
use crate::serial::port::Port;

/// How the transport is opened.
pub enum Dial {
    /// As the configuration says.
    Transport,
    /// A scripted or simulated line; frames are those of the configured transport.
    With(Dialler),
}

/// Opens a line in memory.
pub struct Dialler(pub Box<dyn FnMut() -> Dialled + Send>);

/// The line that a [`Dialler`] is opening.
pub struct Dialled(pub Pin<Box<dyn Future<Output = io::Result<DuplexStream>> + Send>>);

impl Dial {
    pub fn with<F, O>(mut open: F) -> Dial
    where
        F: FnMut() -> O + Send + 'static,
        O: Future<Output = io::Result<DuplexStream>> + Send + 'static,
    {
        Dial::With(Dialler(Box::new(move || Dialled(Box::pin(open())))))
    }
}

/// Quiet for this long after trouble: nothing of it is still on its way. USB adapters hold
/// bytes back for up to 16 ms.
const DRAIN_QUIET: Duration = Duration::from_millis(50);
/// A line that never falls quiet is used again after this long.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// Bytes that may wait for the line-speaking devices between two transactions.
const HEARD_MAX: usize = 64 * 1024;

pub struct Line {
    name: BusName,
    transport: Transport,
    timing: BusTiming,
    dial: Dial,
    link: Link,
    backoff: Backoff,
    metrics: Arc<Metrics>,
    bus: usize,
    /// Somebody wants what is heard between transactions.
    listening: bool,
    heard: Vec<u8>,
    /// Opened or reopened since somebody asked.
    reopened: bool,
    said_gone: bool,
}

enum Link {
    Open(Open),
    /// Opened when somebody needs it.
    Closed,
    Gone {
        again_at: Instant,
        why: String,
    },
}

struct Open {
    wire: Wire,
    client: Client<Wire>,
    pause: Pause,
    not_before: Instant,
    /// It answered since it was opened.
    proven: bool,
}

impl Line {
    pub fn new(bus: &Bus, dial: Dial, metrics: Arc<Metrics>, at: usize, listening: bool, seed: u64) -> Line {
        Line {
            name: bus.name.clone(),
            transport: bus.transport.clone(),
            timing: bus.timing.clone(),
            dial,
            link: Link::Closed,
            backoff: Backoff::new(bus.timing.reconnect_min, bus.timing.reconnect_max, seed),
            metrics,
            bus: at,
            listening,
            heard: Vec::new(),
            reopened: false,
            said_gone: false,
        }
    }

    /// When the line has to be opened without anybody asking for a transaction; `None`: it
    /// is open, or may stay closed.
    pub fn open_due(&self, wanted: bool) -> Option<Instant> {
        match &self.link {
            Link::Open(_) => None,
            Link::Closed => (self.listening || wanted).then(Instant::now),
            Link::Gone { again_at, .. } => Some(*again_at),
        }
    }

    /// Opens the line if it is not open and its backoff allows.
    pub async fn open(&mut self) -> Result<(), Error> {
        match &self.link {
            Link::Open(_) => return Ok(()),
            Link::Gone { again_at, why } if *again_at > Instant::now() => {
                return Err(Error::BusGone(io::Error::other(why.clone())));
            }
            Link::Closed | Link::Gone { .. } => {}
        }
        let opened = match timeout(self.timing.connect_timeout, self.dial()).await {
            Ok(opened) => opened,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "not open within connect_timeout")),
        };
        match opened {
            Ok(stream) => {
                self.opened(stream);
                Ok(())
            }
            Err(e) => {
                let again_at = Instant::now() + self.backoff.next();
                self.gone(&e, again_at);
                Err(Error::BusGone(e))
            }
        }
    }

    /// Whether the line was opened since this was last asked.
    pub fn take_reopened(&mut self) -> bool {
        std::mem::take(&mut self.reopened)
    }

    /// One transaction with its retries. `stop` ends the retries, never a call.
    pub async fn transact(
        &mut self,
        device: &ModbusDevice,
        command: &Command,
        retries: u8,
        stop: &CancellationToken,
    ) -> Result<Answer, Error> {
        let (mut retries, mut busy_retries) = (retries, device.busy_retries);
        let mut reopen = self.is_proven();
        loop {
            let error = match self.once(device, command).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if stop.is_cancelled() {
                return Err(error);
            }
            match &error {
                Error::Exception(5 | 6) if busy_retries > 0 => {
                    busy_retries -= 1;
                    tokio::time::sleep(device.busy_pause).await;
                }
                Error::Timeout | Error::Garbled if retries > 0 => retries -= 1,
                Error::BusGone(_) if reopen => reopen = false,
                _ => return Err(error),
            }
        }
    }

    /// One write, made once. Only "busy" (6) says that it was not taken and may come again;
    /// whether a write without an answer was taken, reading back tells.
    pub async fn write(
        &mut self,
        device: &ModbusDevice,
        command: &Command,
        stop: &CancellationToken,
    ) -> Result<Answer, Error> {
        let mut busy_retries = device.busy_retries;
        loop {
            match self.once(device, command).await {
                Err(Error::Exception(6)) if busy_retries > 0 && !stop.is_cancelled() => {
                    busy_retries -= 1;
                    tokio::time::sleep(device.busy_pause).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Opens the line, and opens it again if it is already known to be closed by the other
    /// side, so that a write does not fall into it.
    pub async fn freshen(&mut self) -> Result<(), Error> {
        // What this finds shows below.
        let stray = self.sweep().unwrap_or(false);
        if stray && matches!(self.transport, Transport::Tcp(_)) {
            // An answer that nobody waits for.
            self.link = Link::Closed;
        }
        self.open().await
    }

    /// Waits for bytes that nobody asked for. Safe to drop. Never returns while the line is
    /// not open.
    pub async fn listen(&mut self) {
        let Link::Open(open) = &self.link else { return std::future::pending().await };
        let mut wire = open.wire.clone();
        let mut buffer = [0; 1024];
        match wire.read(&mut buffer).await {
            Ok(n) => self.overheard(&buffer[..n]),
            Err(e) => self.lost(&e),
        }
    }

    /// What was heard between transactions, for the line-speaking devices.
    pub fn heard(&mut self) -> &mut Vec<u8> {
        &mut self.heard
    }

    /// Closes a line whose configuration wants it closed between polls.
    pub fn rest(&mut self) {
        if self.timing.close_after_poll && !self.listening && matches!(self.link, Link::Open(_)) {
            self.link = Link::Closed;
            self.metrics().state.set("closed");
        }
    }

    /// A line-speaking device was heard: the line serves.
    pub fn prove(&mut self) {
        if let Link::Open(open) = &mut self.link {
            open.proven = true;
        }
        self.backoff.reset();
    }

    fn is_proven(&self) -> bool {
        matches!(&self.link, Link::Open(open) if open.proven)
    }

    fn metrics(&self) -> &BusMetrics {
        &self.metrics.buses[self.bus]
    }

    async fn dial(&mut self) -> io::Result<Stream> {
        match &mut self.dial {
            Dial::With(dialler) => Ok(Stream::Memory((dialler.0)().0.await?)),
            Dial::Transport => match &self.transport {
                Transport::Serial(port) => Ok(Stream::Port(Port::open(port)?)),
                Transport::Tcp(endpoint) | Transport::RtuOverTcp(endpoint) => {
                    let stream = connect(endpoint).await?;
                    stream.set_nodelay(true)?;
                    Ok(Stream::Tcp(stream))
                }
            },
        }
    }

    fn opened(&mut self, stream: Stream) {
        let pause = match stream {
            Stream::Memory(_) => Pause::Coarse,
            Stream::Port(_) | Stream::Tcp(_) => Pause::exact(),
        };
        let (character, echo) = match &self.transport {
            Transport::Serial(port) => (character(port), port.local_echo),
            Transport::Tcp(_) | Transport::RtuOverTcp(_) => (Duration::ZERO, false),
        };
        let wire = Wire::new(stream, character, echo);
        let client = match self.transport {
            Transport::Tcp(_) => Client::tcp(wire.clone()),
            Transport::Serial(_) | Transport::RtuOverTcp(_) => Client::rtu(wire.clone()),
        };
        let not_before = Instant::now() + self.timing.pause_after_connect;
        self.link = Link::Open(Open { wire, client, pause, not_before, proven: false });
        self.reopened = true;
        self.metrics().opened.add(1);
        self.metrics().state.set("open");
        if std::mem::take(&mut self.said_gone) {
            tracing::info!(bus = %self.name, "line open again");
        } else if self.metrics().opened.get() == 1 {
            tracing::info!(bus = %self.name, "line open");
        }
    }

    /// The open line broke.
    fn lost(&mut self, why: &io::Error) {
        let wait = if self.is_proven() { Duration::ZERO } else { self.backoff.next() };
        self.gone(why, Instant::now() + wait);
    }

    fn gone(&mut self, why: &io::Error, again_at: Instant) {
        let proven = self.is_proven();
        self.link = Link::Gone { again_at, why: why.to_string() };
        self.metrics().state.set(why.to_string());
        // Hanging up an idle connection is a habit, not news; what follows it may be.
        if !proven && !std::mem::replace(&mut self.said_gone, true) {
            tracing::warn!(bus = %self.name, cause = %why, "line gone");
        }
    }

    async fn once(&mut self, device: &ModbusDevice, command: &Command) -> Result<Answer, Error> {
        self.open().await?;
        self.wait_for_silence().await?;
        let Link::Open(open) = &mut self.link else {
            return Err(Error::BusGone(io::Error::other("not open")));
        };
        let (request, answer) = command.frame_bytes();
        // Of an answer whose length is its own, reading is not held.
        let expected = command.answer_bytes().unwrap_or(0);
        let on_the_line = match &self.transport {
            Transport::Serial(port) => character(port) * (request + answer),
            Transport::Tcp(_) | Transport::RtuOverTcp(_) => Duration::ZERO,
        };
        let patience = Patience { response: device.response_timeout + on_the_line, late: device.late_window };
        let wire = open.wire.clone();
        wire.mark(expected);
        let deadline = Instant::now() + patience.response;
        let reply = {
            let mut call = std::pin::pin!(open.client.call(device.unit_id, command, patience));
            loop {
                tokio::select! {
                    biased;
                    reply = &mut call => break reply,
                    () = wire.held(&open.pause) => {}
                }
            }
        };
        wire.release();
        let metrics = &self.metrics.buses[self.bus];
        metrics.requests.add(1);
        metrics.late.add(reply.late.into());
        let rtu = !matches!(self.transport, Transport::Tcp(_));
        let result = match reply.result {
            Err(Error::Timeout) if rtu && !reply.late && wire.received() > 0 => Err(Error::Garbled),
            other => other,
        };
        match &result {
            Ok(_) => {}
            Err(Error::Timeout) => metrics.timeouts.add(1),
            Err(Error::Exception(_)) => metrics.exceptions.add(1),
            Err(Error::Garbled) => metrics.garbled.add(1),
            Err(Error::BusGone(_)) => {}
        }
        match &result {
            Ok(answer) => {
                open.proven = true;
                self.backoff.reset();
                open.not_before = Instant::now();
                if *answer == Answer::Done {
                    open.not_before += device.pause_after_write;
                }
                open.not_before += self.timing.pause_between_requests;
            }
            Err(Error::BusGone(e)) => {
                let copy = io::Error::new(e.kind(), e.to_string());
                self.lost(&copy);
            }
            Err(_) => {
                open.proven |= reply.settled;
                open.not_before = Instant::now() + self.timing.pause_between_requests;
                if !reply.settled && rtu {
                    // What was heard has the head and the length of the answer: it was the
                    // answer, damaged. Else that may still come.
                    let came = wire.heard_exactly(device.unit_id, command.function(), expected);
                    let late = if came { Duration::ZERO } else { patience.late };
                    self.drain(deadline + late).await;
                } else if !reply.settled {
                    // Answers to come would answer other questions.
                    self.link = Link::Closed;
                }
            }
        }
        result
    }

    /// The pauses before a request, and away with what was heard meanwhile.
    async fn wait_for_silence(&mut self) -> Result<(), Error> {
        let silence = match &self.transport {
            Transport::Serial(port) => self.timing.silence.unwrap_or_else(|| default_silence(port)),
            Transport::Tcp(_) | Transport::RtuOverTcp(_) => self.timing.silence.unwrap_or_default(),
        };
        let rtu = !matches!(self.transport, Transport::Tcp(_));
        // A line that never falls silent is spoken on all the same, in the end.
        for _ in 0..4 {
            let Link::Open(open) = &self.link else { break };
            let moment = open.not_before.max(open.wire.quiet_since() + silence);
            open.pause.until(moment).await;
            if !rtu || !self.sweep()? {
                break;
            }
        }
        Ok(())
    }

    /// Takes what is here; whether there was anything.
    fn sweep(&mut self) -> Result<bool, Error> {
        let mut any = false;
        let mut buffer = [0; 1024];
        // Bounded, so that a line full of noise cannot hold the task.
        for _ in 0..16 {
            let Link::Open(open) = &self.link else { break };
            match open.wire.take_waiting(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    any = true;
                    self.overheard(&buffer[..n]);
                }
                Err(e) => {
                    let copy = io::Error::new(e.kind(), e.to_string());
                    self.lost(&e);
                    return Err(Error::BusGone(copy));
                }
            }
        }
        Ok(any)
    }

    /// Swallows until the line is quiet and `earliest` is past.
    async fn drain(&mut self, earliest: Instant) {
        let end = earliest.max(Instant::now()) + DRAIN_MAX;
        let mut buffer = [0; 1024];
        loop {
            let Link::Open(open) = &self.link else { return };
            let mut wire = open.wire.clone();
            let quiet_at = (wire.quiet_since() + DRAIN_QUIET).max(earliest);
            if Instant::now() >= quiet_at.min(end) {
                return;
            }
            match timeout_at(quiet_at.min(end), wire.read(&mut buffer)).await {
                Ok(Ok(n)) => self.overheard(&buffer[..n]),
                Ok(Err(e)) => return self.lost(&e),
                Err(_) => {}
            }
        }
    }

    fn overheard(&mut self, bytes: &[u8]) {
        let room = if self.listening { HEARD_MAX - self.heard.len() } else { 0 };
        let kept = bytes.len().min(room);
        self.heard.extend_from_slice(&bytes[..kept]);
        self.metrics().noise.add((bytes.len() - kept) as u64);
    }
}

async fn connect(endpoint: &TcpEndpoint) -> io::Result<TcpStream> {
    match &endpoint.host {
        Host::Address(address) => TcpStream::connect((*address, endpoint.port)).await,
        Host::Name(name) => TcpStream::connect((name.as_str(), endpoint.port)).await,
    }
}

fn character(port: &SerialPort) -> Duration {
    Duration::from_nanos(1_000_000_000 * u64::from(port.character_bits()) / u64::from(port.baud.max(1)))
}

/// 3.5 characters; fixed above 19200 baud, as the specification recommends.
fn default_silence(port: &SerialPort) -> Duration {
    let least = if port.baud > 19_200 { Duration::from_micros(1750) } else { character(port) * 7 / 2 };
    // Two clocks never agree to the microsecond: a fourteenth more (a quarter of a character)
    // keeps a device that counts a little slower from taking two frames for one.
    least + least / 14
}
