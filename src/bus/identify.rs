//! Who a device is: functions 17 and 43/14, or a point that holds its serial number.
//!
//! Constraints: it is asked behind the poll that was answered, when the device answers for
//! the first time, after it was silent, and after the line was opened anew, because then it
//! may be another one. A device that hangs up after each answer is not asked each time. Who
//! does not know the question says so with an exception, and that is no fault.
//!
//! The way of a fingerprint: answer → `modbus::fingerprint` → an observation → the hub, which
//! compares.

use std::time::Duration;

use super::{Error, Work};
use crate::modbus::client::{self, Answer, Command};
use crate::modbus::fingerprint;
use crate::model::device::{Device, Fingerprint};
use crate::model::ids::{DeviceIndex, PointIndex};
use crate::model::observation::{Observation, Seen};
use crate::model::reading::{Measured, Reading};
use crate::model::time::Timestamp;

/// After a question without an answer, and between two openings of the line.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Answers of function 43/14 that are followed from one to the next.
const PAGES_MAX: usize = 8;
/// Bytes of a fingerprint at most.
const TEXT_MAX: usize = 256;

/// When a device is asked.
pub struct Asking {
    how: Fingerprint,
    /// `None`: not until something happens.
    due: Option<Duration>,
    asked: Option<Duration>,
    /// That it does not tell was said.
    said: bool,
    pub serial: Serial,
}

impl Asking {
    pub fn new(device: &Device) -> Asking {
        Asking {
            how: device.fingerprint,
            due: Some(Duration::ZERO),
            asked: None,
            said: false,
            serial: Serial::new(device),
        }
    }

    pub fn back(&mut self) {
        self.due = Some(Duration::ZERO);
        self.serial.forget();
    }

    pub fn reopened(&mut self, now: Duration) {
        if self.asked.is_none_or(|asked| asked + AGAIN_AFTER <= now) {
            self.back();
        }
    }

    fn is_due(&self, now: Duration) -> bool {
        self.how != Fingerprint::None && self.due.is_some_and(|due| due <= now)
    }
}

/// A point that holds the serial number.
pub struct Serial {
    point: Option<PointIndex>,
    known: Option<String>,
}

impl Serial {
    pub fn new(device: &Device) -> Serial {
        let at = device.points.iter().position(|p| p.fingerprint);
        let point = at.and_then(|at| u16::try_from(at).ok()).map(PointIndex);
        Serial { point, known: None }
    }

    /// It may be another device now.
    pub fn forget(&mut self) {
        self.known = None;
    }

    /// What these readings say of it, if that is news.
    pub fn of(&mut self, readings: &[Reading]) -> Option<String> {
        let point = self.point?;
        let Measured::Good(value) = &readings.iter().find(|r| r.point == point)?.measured else {
            return None;
        };
        let text = bounded(value.to_string().trim());
        if text.is_empty() || self.known.as_ref() == Some(&text) {
            return None;
        }
        self.known = Some(text.clone());
        Some(text)
    }
}

impl Work {
    /// Asks the device who it is, if that is due.
    pub(super) async fn identify(&mut self, device: usize) -> Result<(), Error> {
        let now = self.now();
        let asking = &mut self.stations[device].asking;
        if !asking.is_due(now) {
            return Ok(());
        }
        (asking.asked, asking.due) = (Some(now), None);
        let how = asking.how;
        let told = self.ask(device, how).await;
        let at = self.clock.now();
        let station = &mut self.stations[device];
        let (index, unit_id) = (station.index, station.modbus.unit_id);
        let cause = match told {
            Ok(Some(text)) => {
                station.asking.said = false;
                return self.tell_fingerprint(index, at, Some(bounded(&text))).await;
            }
            Ok(None) => None,
            Err(ref e) => Some(e.cause()),
        };
        let refused = matches!(told, Ok(None) | Err(client::Error::Exception(1..=3)));
        if !refused {
            station.asking.due = Some(now + AGAIN_AFTER);
        }
        if !std::mem::replace(&mut station.asking.said, true) {
            let cause = cause.map_or_else(|| "empty answer".to_owned(), |c| c.to_string());
            tracing::info!(
                bus = %self.bus.name, device = %station.name, unit_id, function = ?how, cause = %cause,
                "device does not tell who it is"
            );
        }
        Ok(())
    }

    async fn ask(&mut self, device: usize, how: Fingerprint) -> Result<Option<String>, client::Error> {
        let modbus = &self.stations[device].modbus;
        if how == Fingerprint::ServerId {
            let answer = self.line.transact(modbus, &Command::ServerId, modbus.retries, &self.stop).await?;
            let Answer::ServerId(data) = answer else { return Err(client::Error::Garbled) };
            return Ok(fingerprint::of_server_id(&data));
        }
        let (mut all, mut object) = (Vec::new(), 0);
        for _ in 0..PAGES_MAX {
            let command = Command::DeviceId { object };
            let answer = self.line.transact(modbus, &command, modbus.retries, &self.stop).await?;
            let Answer::DeviceId { objects, next } = answer else { return Err(client::Error::Garbled) };
            all.extend(objects);
            match next {
                // Never backwards, so that it ends.
                Some(next) if next > object => object = next,
                _ => break,
            }
        }
        Ok(fingerprint::of_device_id(&all))
    }

    pub(super) async fn tell_fingerprint(
        &mut self,
        device: DeviceIndex,
        at: Timestamp,
        text: Option<String>,
    ) -> Result<(), Error> {
        match text {
            Some(text) => self.send(Observation { device, at, seen: Seen::Fingerprint(text) }).await,
            None => Ok(()),
        }
    }
}

fn bounded(text: &str) -> String {
    let end = (0..=TEXT_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}
