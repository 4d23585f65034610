//! The store: the only importer of rusqlite, the only meeting place of hub and uplink.
//!
//! Constraints: what was committed survives a power cut (WAL, `synchronous=FULL`); one
//! transaction per batch; a row leaves by its PUBACK, by the counted trim or by the counted
//! dead letter, and each of these is in the same transaction as its count; starting up reads
//! a handful of rows whatever waits; the file never outgrows its quota.
//!
//! The way of a row: `commit` appends it (and, in the same transaction, removes what was
//! acknowledged meanwhile) → `committed` tells the uplink → `peek` → on the PUBACK `ack`
//! notes its id in memory → the next commit, or the next tick, deletes it. A crash before
//! that sends it again: at least once, never lost.
//!
//! Every call blocks on the disk: tasks go through [`Store::run`], which hands the call to
//! tokio's blocking threads.

pub mod audit;
pub mod inspect;
pub mod ledger;
pub mod mail;
pub mod outbox;
pub mod routes;
pub mod salvage;
pub mod schema;
pub mod things;
pub mod trim;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::model::ids::DeviceName;
use crate::model::row::{Boot, Dropped, Layout, OutboxId, Route};
use crate::model::time::Timestamp;

/// Named by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Try again: another process holds the file.
    #[error("the store is busy: another program holds {0}")]
    Busy(String),
    /// Trim, then try again.
    #[error("the store is full")]
    Full,
    /// Stop; the next start sets the file aside, salvages what reads and begins anew.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// Stop: this program is older than its data.
    #[error(
        "the store was written by a newer fieldgate (schema {found}, this one knows {known}); install that version again, or move the file away"
    )]
    Newer { found: i64, known: i64 },
    #[error("store: {0}")]
    Io(#[from] std::io::Error),
    #[error("store: {0}")]
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for Error {
    fn from(e: rusqlite::Error) -> Error {
        use rusqlite::ErrorCode as Code;
        match e.sqlite_error_code() {
            Some(Code::DiskFull) => Error::Full,
            Some(Code::DatabaseBusy | Code::DatabaseLocked) => Error::Busy(e.to_string()),
            Some(Code::DatabaseCorrupt | Code::NotADatabase) => Error::Corrupt(e.to_string()),
            Some(_) => Error::Sql(e),
            // No fault of SQLite: what stands there is not what was written.
            None => match e {
                rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::Utf8Error(..)
                // Our statements are constants: one that does not fit meets a schema that is
                // not the one its version number says.
                | rusqlite::Error::SqlInputError { .. }
                | rusqlite::Error::QueryReturnedNoRows => Error::Corrupt(e.to_string()),
                _ => Error::Sql(e),
            },
        }
    }
}

/// The running sums. `taken = delivered + dropped + waiting`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub last_id: i64,
    /// Rows that left, by whatever way.
    pub rows_gone: i64,
    pub taken: i64,
    pub delivered: i64,
    pub dropped: i64,
    /// The last entry of the audit log, which has a row of its own.
    pub audit: audit::Head,
}

impl Tally {
    pub fn readings_waiting(&self) -> i64 {
        self.taken - self.delivered - self.dropped
    }

    pub fn rows_waiting(&self) -> i64 {
        self.last_id - self.rows_gone
    }
}

/// Where the store's work is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Disk {
    /// On a blocking thread: the tasks go on meanwhile.
    #[default]
    Thread,
    /// In the task that asks, at once: a simulated day then has one course only.
    Inline,
}

pub struct Store {
    disk: Disk,
    path: PathBuf,
    boot: Boot,
    bytes_max: u64,
    age_max: Option<Duration>,
    writer: Mutex<Writer>,
    reader: Mutex<Connection>,
    layouts: Mutex<HashMap<i64, Arc<Layout>>>,
    acked: Mutex<outbox::Acked>,
    /// In the ledger since a salvage, and not yet told to the cloud.
    unannounced: Mutex<Vec<Dropped>>,
    /// Delivered, and not yet deleted.
    mail_done: Mutex<Vec<i64>>,
    /// Where the rows of these devices go, if not by the gateway's connection.
    routes: Mutex<HashMap<DeviceName, Route>>,
    /// What is news for each connection of a thing.
    own: Mutex<HashMap<Route, routes::News>>,
    committed: watch::Sender<OutboxId>,
    mail_committed: watch::Sender<i64>,
}

struct Writer {
    db: Connection,
    tally: Tally,
}

impl Store {
    /// Opens or makes the file, migrates it, and begins a new boot. A file that a former run
    /// found damaged, or that does not open, is set aside and salvaged.
    pub fn open(
        path: &Path,
        bytes_max: u64,
        age_max: Option<Duration>,
        now: Timestamp,
    ) -> Result<Store, Error> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        if salvage::is_marked(path) {
            return salvage::open(path, bytes_max, age_max, now);
        }
        match Store::open_file(path, bytes_max, age_max) {
            Err(Error::Corrupt(why)) => {
                tracing::error!(file = %path.display(), %why, "the store does not open; setting it aside");
                salvage::mark(path)?;
                salvage::open(path, bytes_max, age_max, now)
            }
            other => other,
        }
    }

    fn open_file(path: &Path, bytes_max: u64, age_max: Option<Duration>) -> Result<Store, Error> {
        let mut db = connect(path, OpenFlags::default())?;
        let pages = bytes_max / PAGE_BYTES as u64;
        db.execute_batch(&format!(
            "PRAGMA page_size={PAGE_BYTES};
             PRAGMA auto_vacuum=INCREMENTAL;
             PRAGMA journal_mode=WAL;
             PRAGMA synchronous=FULL;
             PRAGMA wal_autocheckpoint={};
             PRAGMA journal_size_limit={WAL_BYTES_KEPT};",
            WAL_PAGES.min(pages / 8)
        ))?;
        schema::migrate(&mut db)?;
        // The hard stop lies a sixteenth above the trim's own limit, so that in good order it is
        // never met. The trim itself needs no room: it writes into the pages it freed.
        db.pragma_update(None, "max_page_count", pages as i64)?;
        let boot = outbox::begin_boot(&mut db)?;
        let tally = Tally { audit: audit::head(&db)?, ..outbox::read_tally(&db)? };
        // They answer, or wait for an answer, on a connection that is gone.
        mail::drop_requests(&db, None)?;
        let reader = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        Ok(Store {
            disk: Disk::default(),
            path: path.to_owned(),
            boot,
            bytes_max,
            age_max,
            committed: watch::Sender::new(OutboxId(tally.last_id)),
            writer: Mutex::new(Writer { db, tally }),
            reader: Mutex::new(reader),
            layouts: Mutex::default(),
            acked: Mutex::default(),
            unannounced: Mutex::default(),
            mail_done: Mutex::default(),
            routes: Mutex::default(),
            own: Mutex::default(),
            mail_committed: watch::Sender::new(0),
        })
    }

    pub fn boot(&self) -> Boot {
        self.boot
    }

    pub fn tally(&self) -> Tally {
        self.writer().tally
    }

    pub fn on(self, disk: Disk) -> Store {
        Store { disk, ..self }
    }

    /// Does `work` where the store's work is done. A panic in there is passed on.
    pub async fn run<T, F>(self: &Arc<Self>, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> T + Send + 'static,
    {
        match self.start(work).await {
            Ok(done) => done,
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        }
    }

    /// Begins `work` and does not wait for it.
    pub fn start<T, F>(self: &Arc<Self>, work: F) -> JoinHandle<T>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> T + Send + 'static,
    {
        let store = Arc::clone(self);
        match self.disk {
            Disk::Thread => tokio::task::spawn_blocking(move || work(&store)),
            Disk::Inline => tokio::spawn(std::future::ready(work(&store))),
        }
    }

    /// Empties the write-ahead log into the file: part of an orderly stop.
    pub fn close(&self) -> Result<(), Error> {
        self.flush_acks()?;
        self.writer().db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }

    /// Leaves a mark for the next start, which will set the file aside.
    pub fn mark_corrupt(&self) -> Result<(), Error> {
        salvage::mark(&self.path)
    }

    /// Whoever meets damage first leaves the mark, be it the hub, the uplink or the trim:
    /// without it the process would start, meet the damage and end, for ever.
    fn marked<T>(&self, done: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::Corrupt(why)) = &done {
            let marked = self.mark_corrupt();
            tracing::error!(
                file = %self.path.display(), %why, marked = marked.is_ok(),
                "the store is damaged; the next start begins a new one"
            );
        }
        done
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        lock(&self.writer)
    }
}

/// A panic while a lock was held left no half-made transaction behind (SQLite rolls back), so
/// the data behind a poisoned lock is as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, Error> {
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.set_prepared_statement_cache_capacity(32);
    Ok(db)
}

/// SQLite's usual page, also the usual block of a flash card's file system.
const PAGE_BYTES: usize = 4096;
/// Checkpoint after this many pages (4 MiB): larger logs only make single commits slow.
const WAL_PAGES: u64 = 1000;
/// A log that grew in a burst is cut back to this.
const WAL_BYTES_KEPT: usize = 1 << 20;
/// How long another program (a backup, `fieldgate outbox`) may hold the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
