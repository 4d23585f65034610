//! What the tests of the outbox, the hub and the uplink share: rows, and stores in a folder
//! that goes away by itself.
#![allow(dead_code, clippy::unwrap_used)] // Each test file uses its own part.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fieldgate::model::ids::{DeviceName, PointIndex, PointName};
use fieldgate::model::reading::{Measured, Reading};
use fieldgate::model::row::{Dropped, Kind, LayoutId, NewRow, OutboxId, Route, Row};
use fieldgate::model::time::Timestamp;
use fieldgate::model::value::Value;
use fieldgate::packed;
use fieldgate::store::{Error, Store};

/// A moment at which clocks are set.
pub const NOW: Timestamp = Timestamp(1_800_000_000_000);
/// More than any test needs, unless it is about the limit.
pub const ROOMY: u64 = 256 << 20;

pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("outbox.db")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn open(&self) -> Store {
        self.try_open(ROOMY, None).unwrap()
    }

    pub fn try_open(&self, bytes_max: u64, age_max: Option<Duration>) -> Result<Store, Error> {
        Store::open(&self.file(), bytes_max, age_max, NOW)
    }

    /// The names of the files beside the store.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.folder())
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

pub fn layout(store: &Store, device: &str) -> LayoutId {
    store.layout(&DeviceName::new(device), &[(PointName::new("a"), Some("V".into()))]).unwrap()
}

/// A row of `readings` readings of one point, the first of them numbered `seq`.
pub fn row(layout: LayoutId, seq: u64, readings: u32, at: Timestamp) -> NewRow {
    let mut writer = packed::Writer::default();
    for n in 0..readings {
        let reading =
            Reading { point: PointIndex(0), measured: Measured::Good(Value::Uint(seq + u64::from(n))) };
        writer.push(Timestamp(at.0 + i64::from(n)), std::iter::once(&reading));
    }
    let (first, last) = if readings == 0 { (at, at) } else { (writer.first(), writer.last()) };
    NewRow {
        kind: Kind::Telemetry,
        route: Route::GATEWAY,
        layout,
        seq,
        readings,
        first,
        last,
        payload: writer.into_bytes(),
    }
}

pub fn peek_all(store: &Store) -> Vec<Row> {
    store.peek(Route::GATEWAY, OutboxId(0), OutboxId(i64::MAX), usize::MAX >> 1, usize::MAX).unwrap()
}

pub fn ids(store: &Store) -> Vec<i64> {
    peek_all(store).iter().map(|r| r.id.0).collect()
}

pub fn no_gap(_: &Dropped) -> Vec<u8> {
    b"{}".to_vec()
}

/// taken = delivered + dropped + waiting, where waiting is what really stands in the file and
/// dropped is what the ledger says.
pub fn check_sums(store: &Store) {
    let tally = store.tally();
    let rows = peek_all(store);
    let waiting: i64 = rows.iter().map(|r| i64::from(r.readings)).sum();
    let ledger: u64 = store.ledger().unwrap().iter().map(|e| e.count).sum();
    assert_eq!(tally.rows_waiting(), rows.len() as i64, "rows: {tally:?}");
    assert_eq!(tally.readings_waiting(), waiting, "readings waiting: {tally:?}");
    assert_eq!(tally.dropped, ledger as i64, "ledger: {tally:?}");
    assert_eq!(tally.taken, tally.delivered + tally.dropped + waiting, "{tally:?}");
}
