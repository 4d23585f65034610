//! What `status` tells, as one value. PURE.
//!
//! Taken from the counters and the configuration's names at one moment, so that people, JSON
//! and the watchdog's line for systemd all say the same.

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::metrics::Metrics;
use crate::model::time::Timestamp;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub gateway: String,
    /// RFC 3339.
    pub now: String,
    pub uptime_s: u64,
    pub buses: Vec<BusStatus>,
    pub devices: Vec<DeviceStatus>,
    pub store: StoreStatus,
    pub uplink: UplinkStatus,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BusStatus {
    pub bus: String,
    /// `open`, `closed`, or why it cannot be opened; empty before the first try.
    pub state: String,
    pub opened: u64,
    pub requests: u64,
    pub timeouts: u64,
    pub exceptions: u64,
    pub garbled: u64,
    pub late: u64,
    pub lines: u64,
    pub noise: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    pub device: String,
    /// `good`, or why the device is silent; empty before the first poll.
    pub state: String,
    pub polls: u64,
    pub polls_skipped: u64,
    pub polls_failed: u64,
    pub readings: u64,
    /// RFC 3339; absent until the first good answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_good: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_good_age_s: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Why nothing can be written now; absent while it can.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stuck: String,
    pub commits: u64,
    pub readings: u64,
    pub rows_waiting: u64,
    pub readings_waiting: u64,
    pub readings_dropped: u64,
    pub bytes_used: u64,
    pub bytes_max: u64,
    /// RFC 3339; absent when nothing waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<String>,
    /// How long the store would last without the cloud; absent until that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hours_left: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// `online`, `connecting`, `offline: <why>`.
    pub state: String,
    pub connects: u64,
    pub disconnects: u64,
    pub messages_sent: u64,
    pub messages_acked: u64,
    pub readings_acked: u64,
    pub bytes_sent: u64,
    pub dead_lettered: u64,
    pub window_used: u64,
    /// Of the things with a connection of their own.
    #[serde(default)]
    pub things_online: u64,
    #[serde(default)]
    pub things_offline: u64,
}

pub fn take(config: &Config, metrics: &Metrics, now: Timestamp, uptime_s: u64) -> Status {
    let buses = config.buses.iter().zip(&metrics.buses).map(|(bus, m)| BusStatus {
        bus: bus.name.to_string(),
        state: m.state.get(),
        opened: m.opened.get(),
        requests: m.requests.get(),
        timeouts: m.timeouts.get(),
        exceptions: m.exceptions.get(),
        garbled: m.garbled.get(),
        late: m.late.get(),
        lines: m.lines.get(),
        noise: m.noise.get(),
    });
    let devices = config.devices.iter().zip(&metrics.devices).map(|(device, m)| {
        let last = moment(m.last_good_ms.get());
        DeviceStatus {
            device: device.name.to_string(),
            state: m.state.get(),
            polls: m.polls.get(),
            polls_skipped: m.polls_skipped.get(),
            polls_failed: m.polls_failed.get(),
            readings: m.readings.get(),
            last_good: last.map(|t| t.to_string()),
            last_good_age_s: last.map(|t| now.millis_since(t) / 1000),
        }
    });
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        gateway: config.gateway.name.to_string(),
        now: now.to_string(),
        uptime_s,
        buses: buses.collect(),
        devices: devices.collect(),
        store: store(config, metrics, uptime_s),
        uplink: uplink(metrics),
    }
}

fn store(config: &Config, metrics: &Metrics, uptime_s: u64) -> StoreStatus {
    let m = &metrics.store;
    let (waiting, used) = (level(m.readings_waiting.get()), level(m.bytes_used.get()));
    StoreStatus {
        stuck: m.stuck.get(),
        commits: m.commits.get(),
        readings: m.readings.get(),
        rows_waiting: level(m.rows_waiting.get()),
        readings_waiting: waiting,
        readings_dropped: m.readings_dropped.get(),
        bytes_used: used,
        bytes_max: config.store.bytes_max,
        oldest: moment(m.oldest_ms.get()).map(|t| t.to_string()),
        hours_left: hours_left(Stock {
            bytes_free: config.store.bytes_max.saturating_sub(used),
            bytes_used: used,
            readings_waiting: waiting,
            readings_taken: m.readings.get(),
            taken_over_s: uptime_s as f64,
        }),
    }
}

fn uplink(metrics: &Metrics) -> UplinkStatus {
    let m = &metrics.uplink;
    UplinkStatus {
        state: m.state.get(),
        connects: m.connects.get(),
        disconnects: m.disconnects.get(),
        messages_sent: m.messages_sent.get(),
        messages_acked: m.messages_acked.get(),
        readings_acked: m.readings_acked.get(),
        bytes_sent: m.bytes_sent.get(),
        dead_lettered: m.dead_lettered.get(),
        window_used: level(m.window_used.get()),
        things_online: level(m.things_online.get()),
        things_offline: level(m.things_offline.get()),
    }
}

/// What is needed to tell how long the room will last.
#[derive(Clone, Copy, Debug)]
pub struct Stock {
    pub bytes_free: u64,
    pub bytes_used: u64,
    pub readings_waiting: u64,
    /// Readings that came in within `taken_over_s` seconds.
    pub readings_taken: u64,
    pub taken_over_s: f64,
}

/// Fewer readings than this have a size that says nothing: the file has pages of its own.
const READINGS_FOR_SIZE_MIN: u64 = 1000;

/// Bytes of a reading on disk until the store can show its own: packed rows of a few values.
const BYTES_PER_READING_ASSUMED: f64 = 25.0;

/// A rate of less than this many seconds is chance.
const RATE_OVER_MIN_S: f64 = 10.0;

/// Hours until the store is full if nothing leaves it and readings come as they came.
pub fn hours_left(stock: Stock) -> Option<f64> {
    if stock.readings_taken == 0 || stock.taken_over_s < RATE_OVER_MIN_S {
        return None;
    }
    let bytes_per_reading = if stock.readings_waiting >= READINGS_FOR_SIZE_MIN {
        stock.bytes_used as f64 / stock.readings_waiting as f64
    } else {
        BYTES_PER_READING_ASSUMED
    };
    let bytes_per_hour = bytes_per_reading * stock.readings_taken as f64 / stock.taken_over_s * 3600.0;
    let hours = stock.bytes_free as f64 / bytes_per_hour;
    // One digit is more than the estimate knows.
    hours.is_finite().then(|| (hours * 10.0).round() / 10.0)
}

/// A gauge that counts things.
fn level(gauge: i64) -> u64 {
    u64::try_from(gauge).unwrap_or(0)
}

/// A gauge that holds a time, 0 for none.
fn moment(ms: i64) -> Option<Timestamp> {
    (ms > 0).then_some(Timestamp(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_left_is_told_only_when_it_can_be_known() {
        let check = |used, waiting, taken, over, expected| {
            let stock = Stock {
                bytes_free: 90_000_000,
                bytes_used: used,
                readings_waiting: waiting,
                readings_taken: taken,
                taken_over_s: over,
            };
            assert_eq!(hours_left(stock), expected, "{stock:?}");
        };
        // 100 readings/s of 50 bytes are 18 MB an hour.
        check(500_000, 10_000, 360_000, 3600.0, Some(5.0));
        // Nearly nothing waits: the assumed size.
        check(40_960, 3, 360_000, 3600.0, Some(10.0));
        check(0, 0, 0, 3600.0, None);
        check(0, 0, 50, 0.5, None);
    }
}
