//! One task per line or endpoint, the one owner of its transport.
//!
//! Constraints:
//! - Reads of one line never overlap, and a frame on the wire is never abandoned: the stop
//!   is looked at between calls.
//! - Up blocks: when the hub cannot keep up, the task waits with its observation in hand,
//!   and the polls that become due meanwhile are skipped and counted.
//! - A dead unit costs its neighbours one request per attempt, at the pace of its own
//!   backoff. A dead line costs nobody anything but the attempts to open it.
//!
//! The way of a reading: `schedule` says which device is due → `plans` says which requests
//! that takes → `line` makes one transaction at a time → `poll` decodes → an observation
//! with the time of its answer → the hub. Lines of text: `line` overhears → `lines` frames
//! and parses → the same observation.

pub mod identify;
pub mod line;
pub mod lines;
pub mod plans;
pub mod poll;
pub mod schedule;
pub mod wire;
pub mod writes;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::line::{Dial, Line};
use self::lines::Speaker;
use self::poll::Station;
use self::schedule::{Change, Due, Pace, Schedule};
use self::writes::Verifying;
use crate::backoff::Backoff;
pub use crate::channel::{OBSERVATIONS_MAX, READS_MAX, ReadRequest, WRITES_MAX, What, WriteRequest};
use crate::metrics::{DeviceMetrics, Metrics};
use crate::model::device::{Bus, Device, ModbusDevice, Protocol, RequestLimits, WriteFunction};
use crate::model::ids::DeviceIndex;
use crate::model::observation::{Observation, Seen};
use crate::model::reading::{Measured, Reading};
use crate::model::time::{Clock, Timestamp};
use crate::model::value::Cause;

/// A device of interval zero whose addresses are all refused is told of this often.
const NOTHING_TO_ASK: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody takes the observations any more: the process is going down.
    #[error("the hub is gone")]
    HubGone,
}

/// Everything a bus needs to run.
pub struct BusTask {
    pub bus: Bus,
    /// The devices of this bus with their places in the configuration.
    pub devices: Vec<(DeviceIndex, Device)>,
    pub clock: Clock,
    /// Of capacity [`OBSERVATIONS_MAX`].
    pub observations: mpsc::Sender<Observation>,
    /// Of capacity [`READS_MAX`].
    pub reads: mpsc::Receiver<ReadRequest>,
    /// Of capacity [`WRITES_MAX`].
    pub writes: mpsc::Receiver<WriteRequest>,
    pub metrics: Arc<Metrics>,
    /// The place of this bus in `metrics.buses`.
    pub bus_index: usize,
    /// Of the jitter; the same seed gives the same day.
    pub seed: u64,
    pub dial: Dial,
}

impl BusTask {
    /// Until `stop`, which ends the task between two calls.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let (mut work, mut reads, mut writes) = Work::new(self, stop);
        let (mut reads_open, mut writes_open) = (true, true);
        while !work.stop.is_cancelled() {
            while let Ok(request) = reads.try_recv() {
                work.serve(request).await;
            }
            // One of them between two polls, so that many cannot hold up the polls.
            if work.can_write()
                && let Ok(request) = writes.try_recv()
            {
                work.write(request).await?;
            }
            match work.decide() {
                Step::Open => work.open().await,
                Step::Poll(due) => work.poll(due).await?,
                Step::Verify(at) => work.verify(at).await?,
                Step::Heard => work.tell_heard().await?,
                Step::Silent(speaker) => work.tell_speaker_silent(speaker).await?,
                Step::Wait(until) => {
                    work.line.rest();
                    tokio::select! {
                        biased;
                        () = work.stop.cancelled() => {}
                        request = reads.recv(), if reads_open => match request {
                            Some(request) => work.serve(request).await,
                            None => reads_open = false,
                        },
                        request = writes.recv(), if writes_open && work.can_write() => match request {
                            Some(request) => work.write(request).await?,
                            None => writes_open = false,
                        },
                        () = work.line.listen(), if work.listening => {}
                        () = until_moment(until) => {}
                    }
                }
            }
        }
        work.conclude_all().await
    }
}

/// Opens the line of `bus`, makes one read and closes it: for when no agent runs.
pub async fn read_once(bus: &Bus, devices: &[Device], what: What) -> Result<Measured, String> {
    // Without points nothing is polled, and the devices still lend their timing.
    let bare = |i: &DeviceIndex| Some((*i, Device { points: Arc::from([]), ..devices.get(i.at())?.clone() }));
    let (observations, _) = mpsc::channel(1);
    let (answer, answered) = tokio::sync::oneshot::channel();
    let (_, reads) = mpsc::channel(1);
    let (_, writes) = mpsc::channel(1);
    let task = BusTask {
        bus: bus.clone(),
        devices: bus.devices.iter().filter_map(bare).collect(),
        clock: Clock::System,
        observations,
        reads,
        writes,
        metrics: Arc::new(Metrics::new(1, devices.len())),
        bus_index: 0,
        seed: 0,
        dial: Dial::Transport,
    };
    let (mut work, ..) = Work::new(task, CancellationToken::new());
    work.line.open().await.map_err(|e| e.to_string())?;
    work.serve(ReadRequest { what, answer }).await;
    answered.await.unwrap_or_else(|_| Err("the line gave no answer".to_owned()))
}

async fn until_moment(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

enum Step {
    Open,
    Poll(Due),
    /// A write is to be read back.
    Verify(usize),
    /// Bytes wait for the line-speaking devices.
    Heard,
    /// This line-speaking device was not heard for too long.
    Silent(usize),
    Wait(Option<Instant>),
}

struct Work {
    bus: Bus,
    line: Line,
    stations: Vec<Station>,
    speakers: Vec<Speaker>,
    schedule: Schedule,
    /// The groups of the poll at hand.
    groups: Vec<u16>,
    /// Writes whose effect does not show yet.
    verifying: Vec<Verifying>,
    /// There are line-speaking devices.
    listening: bool,
    start: Instant,
    clock: Clock,
    observations: mpsc::Sender<Observation>,
    metrics: Arc<Metrics>,
    bus_index: usize,
    stop: CancellationToken,
}

type Reads = mpsc::Receiver<ReadRequest>;
type Writes = mpsc::Receiver<WriteRequest>;

impl Work {
    fn new(task: BusTask, stop: CancellationToken) -> (Work, Reads, Writes) {
        let mut random = fastrand::Rng::with_seed(task.seed);
        let (mut stations, mut speakers, mut paces) = (Vec::new(), Vec::new(), Vec::new());
        for (index, device) in &task.devices {
            let modbus = match &device.protocol {
                Protocol::Modbus(modbus) => modbus,
                Protocol::Line(line) => {
                    speakers.push(Speaker::new(*index, device, line.clone()));
                    continue;
                }
            };
            let (intervals, groups) = poll::groups(&device.points);
            stations.push(Station::new(*index, device, modbus.clone(), &groups));
            paces.push(Pace {
                intervals,
                silent_after: modbus.silent_after,
                backoff: Backoff::new(modbus.backoff_min, modbus.backoff_max, random.u64(..)),
            });
        }
        let listening = !speakers.is_empty();
        let line =
            Line::new(&task.bus, task.dial, task.metrics.clone(), task.bus_index, listening, random.u64(..));
        let work = Work {
            bus: task.bus,
            line,
            stations,
            speakers,
            schedule: Schedule::new(paces),
            groups: Vec::new(),
            verifying: Vec::new(),
            listening,
            start: Instant::now(),
            clock: task.clock,
            observations: task.observations,
            metrics: task.metrics,
            bus_index: task.bus_index,
            stop,
        };
        (work, task.reads, task.writes)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// What to do next. The only place that decides, and it waits for nothing.
    fn decide(&mut self) -> Step {
        let now = self.now();
        if self.line.take_reopened() {
            self.schedule.line_is_back(now);
            self.stations.iter_mut().for_each(|s| s.asking.reopened(now));
            self.speakers.iter_mut().for_each(Speaker::reset);
        }
        if !self.line.heard().is_empty() {
            return Step::Heard;
        }
        let silent_at = |s: &(usize, &Speaker)| s.1.silent_at().unwrap_or(Duration::MAX);
        let next_silent = self.speakers.iter().enumerate().min_by_key(silent_at);
        let next_silent = next_silent.and_then(|(n, s)| Some((n, s.silent_at()?)));
        if let Some((speaker, _)) = next_silent.filter(|(_, at)| *at <= now) {
            return Step::Silent(speaker);
        }
        let waiting_for_line = !self.stations.is_empty() && self.schedule.next_due().is_none();
        let open_at = self.line.open_due(waiting_for_line);
        if open_at.is_some_and(|at| at <= Instant::now()) {
            return Step::Open;
        }
        let verify = writes::next(&self.verifying);
        if let Some((at, _)) = verify.filter(|(_, due)| *due <= now) {
            return Step::Verify(at);
        }
        if let Some(due) = self.schedule.take(now, &mut self.groups) {
            return Step::Poll(due);
        }
        let poll_at = self.schedule.next_due().map(|due| self.start + due);
        let silent_at = next_silent.map(|(_, at)| self.start + at);
        let verify_at = verify.map(|(_, due)| self.start + due);
        Step::Wait([open_at, poll_at, silent_at, verify_at].into_iter().flatten().min())
    }

    async fn open(&mut self) {
        // Whether it worked shows at the next poll; the line itself says so in the log.
        let _ = self.line.open().await;
    }

    async fn poll(&mut self, due: Due) -> Result<(), Error> {
        let was_silent = self.schedule.is_silent(due.device);
        let now = self.now();
        let mut poll = self.stations[due.device].begin(&self.groups, now, was_silent);
        let empty = poll.is_empty();
        self.device(due.device).polls.add(1);
        self.device(due.device).polls_skipped.add(due.skipped);
        let (mut answered, mut told_good) = (false, false);
        let (mut cause, mut refusal) = (None, None);
        loop {
            let station = &mut self.stations[due.device];
            let outcome = station.step(&mut poll, &self.bus.name, &mut self.line, &self.stop).await;
            let at = self.clock.now();
            if outcome.answered && !answered {
                answered = true;
                if self.schedule.answered(due.device) == Some(Change::Back) {
                    self.tell_back(due.device, at).await?;
                }
            }
            told_good |= outcome.readings.iter().any(|r| r.measured.value().is_some());
            refusal = refusal.or_else(|| outcome.readings.iter().find_map(refused));
            cause = outcome.cause.or(cause);
            // What a silent device does not answer was said once.
            if !outcome.readings.is_empty() && (answered || !was_silent) {
                self.tell(due.device, at, outcome.readings).await?;
            }
            if outcome.last || self.stop.is_cancelled() {
                break;
            }
        }
        let now = self.now();
        let rest = if empty { NOTHING_TO_ASK } else { Duration::ZERO };
        self.schedule.finished(due.device, now + rest);
        if told_good {
            self.device(due.device).last_good_ms.set(self.clock.now().as_millis());
        } else {
            self.device(due.device).polls_failed.add(1);
        }
        if answered {
            self.note_answer(due.device, refusal);
        }
        if let (false, Some(cause)) = (answered, cause) {
            let gone = cause == Cause::BusGone;
            if self.schedule.failed(due.device, now, gone) == Some(Change::Silent) {
                self.tell_silent(due.device, cause).await?;
            }
        }
        if answered && !self.stop.is_cancelled() {
            self.identify(due.device).await?;
        }
        Ok(())
    }

    async fn tell_heard(&mut self) -> Result<(), Error> {
        let bytes = std::mem::take(self.line.heard());
        let (now, at) = (self.now(), self.clock.now());
        for n in 0..self.speakers.len() {
            let heard = self.speakers[n].hear(&bytes, now);
            let bus = &self.metrics.buses[self.bus_index];
            bus.noise.add(heard.noise);
            bus.lines.add(heard.lines.len() as u64);
            if heard.lines.is_empty() {
                continue;
            }
            self.line.prove();
            let speaker = &mut self.speakers[n];
            let (index, was_silent) = (speaker.index, std::mem::take(&mut speaker.silent));
            let news = !std::mem::replace(&mut speaker.known, true) || was_silent;
            let metrics = &self.metrics.devices[index.at()];
            if news {
                metrics.state.set("good");
            }
            metrics.polls.add(heard.lines.len() as u64);
            metrics.readings.add(heard.lines.iter().map(|l| l.len() as u64).sum());
            metrics.last_good_ms.set(at.as_millis());
            if was_silent {
                tracing::info!(bus = %self.bus.name, device = %speaker.name, "device speaks again");
                self.send(Observation { device: index, at, seen: Seen::Back }).await?;
                self.speakers[n].serial.forget();
            }
            for readings in heard.lines {
                let serial = self.speakers[n].serial.of(&readings);
                self.tell_fingerprint(index, at, serial).await?;
                self.send(Observation { device: index, at, seen: Seen::Readings(readings) }).await?;
            }
        }
        Ok(())
    }

    async fn tell_speaker_silent(&mut self, speaker: usize) -> Result<(), Error> {
        let (cause, at) = (Cause::Timeout, self.clock.now());
        let speaker = &mut self.speakers[speaker];
        speaker.silent = true;
        let (device, bad) = (speaker.index, speaker.all_bad(&cause));
        tracing::warn!(bus = %self.bus.name, device = %speaker.name, cause = %cause, "device silent");
        let metrics = &self.metrics.devices[device.at()];
        metrics.state.set(cause.to_string());
        if !bad.is_empty() {
            metrics.readings.add(bad.len() as u64);
            self.send(Observation { device, at, seen: Seen::Readings(bad) }).await?;
        }
        self.send(Observation { device, at, seen: Seen::Silent(cause) }).await
    }

    async fn tell(&mut self, device: usize, at: Timestamp, readings: Vec<Reading>) -> Result<(), Error> {
        self.device(device).readings.add(readings.len() as u64);
        let index = self.stations[device].index;
        let serial = self.stations[device].asking.serial.of(&readings);
        self.tell_fingerprint(index, at, serial).await?;
        self.send(Observation { device: index, at, seen: Seen::Readings(readings) }).await
    }

    /// A device that has answered nothing but exceptions since the start is there, and not good.
    fn note_answer(&mut self, device: usize, refusal: Option<Cause>) {
        if let (0, Some(refusal)) = (self.device(device).last_good_ms.get(), refusal) {
            self.stations[device].good = false;
            self.device(device).state.set(refusal.to_string());
        } else if !std::mem::replace(&mut self.stations[device].good, true) {
            self.device(device).state.set("good");
        }
    }

    async fn tell_back(&mut self, device: usize, at: Timestamp) -> Result<(), Error> {
        let station = &mut self.stations[device];
        station.silent = None;
        station.asking.back();
        let (index, unit_id) = (station.index, station.modbus.unit_id);
        tracing::info!(bus = %self.bus.name, device = %station.name, unit_id, "device answers again");
        self.send(Observation { device: index, at, seen: Seen::Back }).await
    }

    async fn tell_silent(&mut self, device: usize, cause: Cause) -> Result<(), Error> {
        let station = &mut self.stations[device];
        station.good = false;
        station.silent = Some(cause.clone());
        let station = &self.stations[device];
        let (index, unit_id) = (station.index, station.modbus.unit_id);
        tracing::warn!(bus = %self.bus.name, device = %station.name, unit_id, cause = %cause, "device silent");
        self.device(device).state.set(cause.to_string());
        self.send(Observation { device: index, at: self.clock.now(), seen: Seen::Silent(cause) }).await
    }

    async fn send(&mut self, observation: Observation) -> Result<(), Error> {
        self.observations.send(observation).await.map_err(|_| Error::HubGone)
    }

    fn device(&self, device: usize) -> &DeviceMetrics {
        &self.metrics.devices[self.stations[device].index.at()]
    }

    /// A technician's read, between polls.
    async fn serve(&mut self, request: ReadRequest) {
        let read = match &request.what {
            What::Unit(unit_id, point) => {
                let unit = stranger(*unit_id);
                poll::read_now(&unit, point, unit.retries, &mut self.line, &self.stop).await
            }
            What::Point(device, point) => {
                let Some(station) = self.stations.iter().find(|s| s.index == *device) else {
                    let _ = request.answer.send(Err("the device has no registers".to_owned()));
                    return;
                };
                station.read_now(point, &mut self.line, &self.stop).await
            }
        };
        // Whoever asked may have gone away; then nobody misses the answer.
        let _ = request.answer.send(read.or_else(|e| match e.cause() {
            Cause::BusGone => Err(e.to_string()),
            cause => Ok(Measured::Bad(cause)),
        }));
    }
}

/// The timing for a unit that the configuration does not know.
fn stranger(unit_id: u8) -> ModbusDevice {
    ModbusDevice {
        unit_id,
        limits: RequestLimits::default(),
        response_timeout: Duration::from_secs(1),
        late_window: Duration::from_secs(1),
        retries: 1,
        busy_retries: 3,
        busy_pause: Duration::from_millis(100),
        pause_after_write: Duration::ZERO,
        silent_after: 1,
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(1),
        hole_retry: Duration::ZERO,
        write_function: WriteFunction::Auto,
    }
}

/// The exception with which a device refused a point.
fn refused(reading: &Reading) -> Option<Cause> {
    match &reading.measured {
        Measured::Bad(cause @ Cause::Exception(_)) => Some(cause.clone()),
        _ => None,
    }
}
