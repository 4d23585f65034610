//! A look at the file from outside, while the agent runs or not: `fieldgate outbox`, `doctor`
//! and `bundle`. Never writes, and whatever may take long has a limit in time.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{Error, connect, ledger, outbox, schema};
use crate::model::time::Timestamp;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inspection {
    /// How many migrations have made this file.
    pub schema: i64,
    pub rows: u64,
    pub readings: u64,
    /// Of the file's pages, those that hold something.
    pub bytes: u64,
    pub oldest: Option<Timestamp>,
    pub newest: Option<Timestamp>,
    pub taken: u64,
    pub delivered: u64,
    pub ledger: Vec<LedgerEntry>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LedgerEntry {
    pub device: String,
    pub reason: String,
    pub count: u64,
    pub first: Timestamp,
    pub last: Timestamp,
}

pub fn inspect(path: &Path) -> Result<Inspection, Error> {
    schema::refuse_newer(path)?;
    let db = open(path)?;
    // One transaction, so that the sums fit together while the agent goes on.
    db.execute_batch("BEGIN")?;
    let at = |order: &str| -> Result<Option<Timestamp>, Error> {
        let mut st = db.prepare(&format!("SELECT first_ms FROM outbox ORDER BY id {order} LIMIT 1"))?;
        let mut rows = st.query([])?;
        Ok(rows.next()?.map(|r| r.get(0)).transpose()?.map(Timestamp))
    };
    let tally = outbox::read_tally(&db)?;
    Ok(Inspection {
        schema: schema::version(&db)?,
        rows: tally.rows_waiting().max(0) as u64,
        readings: tally.readings_waiting().max(0) as u64,
        bytes: outbox::used(&db)?,
        oldest: at("ASC")?,
        newest: at("DESC")?,
        taken: tally.taken as u64,
        delivered: tally.delivered as u64,
        ledger: ledger::read(&db)?,
    })
}

/// How many migrations have made this file.
pub fn schema_version(path: &Path) -> Result<i64, Error> {
    schema::version(&open(path)?)
}

/// What SQLite finds wrong with pages and indices, the first few of it; nothing: the file is
/// whole. `None`: the time was over first.
pub fn integrity(path: &Path, limit: Duration) -> Result<Option<Vec<String>>, Error> {
    let found = within(&open(path)?, limit, |db| {
        let mut st = db.prepare(&format!("PRAGMA integrity_check({FAULTS_MAX})"))?;
        let rows = st.query_map([], |r| r.get(0))?;
        rows.collect::<Result<Vec<String>, _>>()
    })?;
    Ok(found.map(|lines| lines.into_iter().filter(|line| line != "ok").collect()))
}

/// Rows of every table and the file's pages, by name; no content. `None`: see [`integrity`].
pub fn statistics(path: &Path, limit: Duration) -> Result<Option<Vec<(String, i64)>>, Error> {
    within(&open(path)?, limit, |db| {
        let mut found = Vec::new();
        for pragma in ["user_version", "page_size", "page_count", "freelist_count"] {
            found.push((pragma.to_owned(), db.pragma_query_value(None, pragma, |r| r.get(0))?));
        }
        let mut st = db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")?;
        let tables = st.query_map([], |r| r.get(0))?.collect::<Result<Vec<String>, _>>()?;
        for table in tables {
            let quoted = table.replace('"', "\"\"");
            let rows = db.query_row(&format!("SELECT count(*) FROM \"{quoted}\""), [], |r| r.get(0))?;
            found.push((format!("rows of {table}"), rows));
        }
        Ok(found)
    })
}

fn open(path: &Path) -> Result<Connection, Error> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

/// `None`: the work was stopped when the time was over.
fn within<T>(
    db: &Connection,
    limit: Duration,
    work: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
) -> Result<Option<T>, Error> {
    let handle = db.get_interrupt_handle();
    let (done, waits) = sync_channel::<()>(1);
    let watch = std::thread::spawn(move || {
        if waits.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            handle.interrupt();
        }
    });
    let result = work(db);
    drop(done);
    // It only waits and calls.
    let _ = watch.join();
    match result {
        Err(e) if e.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => Ok(None),
        other => Ok(Some(other?)),
    }
}

/// More than this says nothing more.
const FAULTS_MAX: usize = 3;
