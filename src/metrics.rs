//! Plain counters, made by `app` and passed by `Arc`. No global registry.
//!
//! A counter only ever grows; a gauge is the last thing its owner said. Everything here is
//! read by `status` and by the watchdog, written by one task each, and costs no lock. What
//! belongs to a bus or a device outlives a reload that leaves it alone.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn set(&self, n: i64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// For a gauge that many tasks share: each adds what it took and takes it back.
    pub fn shift(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The last state somebody stated in words, for instance why TLS was refused.
#[derive(Debug, Default)]
pub struct Word(Mutex<String>);

impl Word {
    pub fn set(&self, text: impl Into<String>) {
        // A poisoned word is still a word: the panic that poisoned it is reported elsewhere.
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = text.into();
    }

    pub fn get(&self) -> String {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// Everything that `status` can tell; `buses` and `devices` are in the configuration's order.
#[derive(Debug, Default)]
pub struct Metrics {
    pub buses: Vec<Arc<BusMetrics>>,
    pub devices: Vec<Arc<DeviceMetrics>>,
    pub store: Arc<StoreMetrics>,
    pub uplink: Arc<UplinkMetrics>,
}

impl Metrics {
    pub fn new(buses: usize, devices: usize) -> Metrics {
        Metrics {
            buses: (0..buses).map(|_| Arc::default()).collect(),
            devices: (0..devices).map(|_| Arc::default()).collect(),
            ..Metrics::default()
        }
    }
}

#[derive(Debug, Default)]
pub struct BusMetrics {
    /// `open`, `closed`, or why it cannot be opened.
    pub state: Word,
    pub opened: Counter,
    pub requests: Counter,
    pub timeouts: Counter,
    pub exceptions: Counter,
    pub garbled: Counter,
    /// Answers that came after their timeout and were swallowed.
    pub late: Counter,
    /// Lines taken, and bytes or lines that were noise.
    pub lines: Counter,
    pub noise: Counter,
}

#[derive(Debug, Default)]
pub struct DeviceMetrics {
    /// `good`, or why it is not: the cause for which it is silent, or the exception with which it
    /// refuses everything; empty before the first poll.
    pub state: Word,
    pub polls: Counter,
    /// Polls that were due but could not be made in time.
    pub polls_skipped: Counter,
    pub polls_failed: Counter,
    pub readings: Counter,
    /// Wall time in milliseconds of the last good answer.
    pub last_good_ms: Gauge,
}

#[derive(Debug, Default)]
pub struct StoreMetrics {
    pub commits: Counter,
    /// Readings committed since the process started.
    pub readings: Counter,
    pub rows_waiting: Gauge,
    pub readings_waiting: Gauge,
    pub bytes_used: Gauge,
    /// Wall time in milliseconds of the oldest reading that waits; 0 when none does.
    pub oldest_ms: Gauge,
    pub readings_dropped: Counter,
    /// Empty, or why nothing can be written now.
    pub stuck: Word,
}

#[derive(Debug, Default)]
pub struct UplinkMetrics {
    /// `online`, `connecting`, `offline: <why>`.
    pub state: Word,
    pub connects: Counter,
    pub disconnects: Counter,
    pub messages_sent: Counter,
    pub messages_acked: Counter,
    pub readings_acked: Counter,
    pub bytes_sent: Counter,
    pub dead_lettered: Counter,
    /// Letters that the broker would not take.
    pub mail_dropped: Counter,
    /// Messages that came from the broker.
    pub arrived: Counter,
    pub window_used: Gauge,
    /// Of the things that have a connection of their own.
    pub things_online: Gauge,
    pub things_offline: Gauge,
}
