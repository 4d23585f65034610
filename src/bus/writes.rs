//! Writes: the frame once, then the point read back until it shows what was written.
//!
//! Constraints:
//! - A write is never repeated here: a late answer, a damaged one and a broken connection
//!   may all mean that it was taken, and a command may be a pulse. Reading back tells; the
//!   hub, which knows what is wanted, decides what follows.
//! - A device that takes its time holds up nobody: between two looks at it the line polls on.
//! - Each write ends in exactly one outcome, within `verify_within` and one read.
//!
//! The way of a write: request → a silent device or a line that does not open fails it at once
//! → the frame → read back, with growing pauses → the reading, then the outcome → the hub.

use std::time::Duration;

use super::{Error, Work, poll};
use crate::channel::WriteRequest;
use crate::modbus::client;
use crate::modbus::write::WritePlan;
use crate::model::ids::{DeviceIndex, PointIndex};
use crate::model::observation::{Observation, Seen};
use crate::model::reading::{Measured, Reading};
use crate::model::value::Cause;
use crate::model::write::{WriteOutcome, Wrote};

/// Writes whose effect may be awaited at one time; more wait in the channel.
const VERIFYING_MAX: usize = 8;
/// The first pause is this share of `verify_within`; each is twice the one before.
const PAUSE_SHARE: u32 = 16;

/// A write whose effect did not show yet.
pub struct Verifying {
    id: u64,
    /// The place of its station.
    station: usize,
    point: PointIndex,
    plan: WritePlan,
    due: Duration,
    pause: Duration,
    until: Duration,
    /// What was read last, or why nothing was.
    last: Result<Measured, Cause>,
}

/// Which is to be read back next, and when.
pub fn next(verifying: &[Verifying]) -> Option<(usize, Duration)> {
    verifying.iter().enumerate().map(|(at, v)| (at, v.due)).min_by_key(|(_, due)| *due)
}

impl Work {
    pub(super) fn can_write(&self) -> bool {
        self.verifying.len() < VERIFYING_MAX
    }

    pub(super) async fn write(&mut self, request: WriteRequest) -> Result<(), Error> {
        let WriteRequest { id, device, point, plan } = request;
        let wrote = |outcome| Wrote { id, point, outcome };
        let Some(station) = self.stations.iter().position(|s| s.index == device) else {
            return self.tell_wrote(device, wrote(WriteOutcome::Failed(Cause::Missing))).await;
        };
        let superseded = self.verifying.iter().position(|v| v.station == station && v.point == point);
        if let Some(at) = superseded {
            self.conclude(at).await?;
        }
        if self.schedule.is_silent(station) {
            let cause = self.stations[station].silent.clone().unwrap_or(Cause::Timeout);
            return self.tell_wrote(device, wrote(WriteOutcome::Failed(cause))).await;
        }
        if let Err(e) = self.line.freshen().await {
            return self.tell_wrote(device, wrote(WriteOutcome::Failed(e.cause()))).await;
        }
        let modbus = &self.stations[station].modbus;
        let answer = self.line.write(modbus, &plan.command, &self.stop).await;
        tracing::debug!(
            bus = %self.bus.name, device = %self.stations[station].name, unit_id = modbus.unit_id,
            command = ?plan.command, ok = answer.is_ok(), "written"
        );
        let doubt = match answer {
            // "Acknowledge": it was taken, and takes its time.
            Ok(_) | Err(client::Error::Exception(5)) => None,
            // The gateway did not get it onto the line.
            Err(e @ client::Error::Exception(10)) => {
                return self.tell_wrote(device, wrote(WriteOutcome::Failed(e.cause()))).await;
            }
            Err(client::Error::Exception(code)) if code != 11 => {
                return self.tell_wrote(device, wrote(WriteOutcome::Rejected { code })).await;
            }
            Err(e) => Some(e.cause()),
        };
        if plan.read_back.is_none() {
            let outcome = doubt.map_or(WriteOutcome::Accepted, WriteOutcome::Failed);
            return self.tell_wrote(device, wrote(outcome)).await;
        }
        let (now, within) = (self.now(), self.verify_within(station, point));
        let last = Err(doubt.unwrap_or(Cause::Timeout));
        let (pause, until) = (within / PAUSE_SHARE, now + within);
        self.verifying.push(Verifying { id, station, point, plan, due: now, pause, until, last });
        self.verify(self.verifying.len() - 1).await
    }

    /// Reads back the write at this place.
    pub(super) async fn verify(&mut self, at: usize) -> Result<(), Error> {
        let v = &self.verifying[at];
        let (station, plan) = (v.station, v.plan.clone());
        let Some(point) = &plan.read_back else { return self.conclude(at).await };
        let modbus = &self.stations[station].modbus;
        let read = poll::read_now(modbus, point, 0, &mut self.line, &self.stop).await;
        let now = self.now();
        let v = &mut self.verifying[at];
        v.last = read.map_err(|e| e.cause());
        let met = v.last.as_ref().is_ok_and(|read| plan.is_met(read));
        if met || now >= v.until || self.stop.is_cancelled() {
            return self.conclude(at).await;
        }
        v.due = (now + v.pause).min(v.until);
        v.pause *= 2;
        Ok(())
    }

    /// What is known of the write at this place is its outcome.
    async fn conclude(&mut self, at: usize) -> Result<(), Error> {
        let Verifying { id, station, point, plan, last, .. } = self.verifying.swap_remove(at);
        let device = self.stations[station].index;
        let outcome = match last {
            Err(cause) => WriteOutcome::Failed(cause),
            Ok(read) => {
                let reading = Reading { point, measured: read.clone() };
                self.tell(station, self.clock.now(), vec![reading]).await?;
                if plan.is_met(&read) { WriteOutcome::Verified } else { WriteOutcome::NotTaken { read } }
            }
        };
        self.tell_wrote(device, Wrote { id, point, outcome }).await
    }

    /// The task ends: no write may be left without its outcome.
    pub(super) async fn conclude_all(&mut self) -> Result<(), Error> {
        while !self.verifying.is_empty() {
            self.conclude(0).await?;
        }
        Ok(())
    }

    fn verify_within(&self, station: usize, point: PointIndex) -> Duration {
        let rules = self.stations[station].points.get(point.at()).and_then(|p| p.write.as_ref());
        rules.map_or(Duration::ZERO, |rules| rules.verify_within)
    }

    async fn tell_wrote(&mut self, device: DeviceIndex, wrote: Wrote) -> Result<(), Error> {
        self.send(Observation { device, at: self.clock.now(), seen: Seen::Wrote(wrote) }).await
    }
}
