//! A look at the file from outside, while the agent runs or not: `fieldgate outbox`.

use std::path::Path;

use rusqlite::OpenFlags;

use super::{Error, connect, ledger, outbox, schema};
use crate::model::time::Timestamp;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inspection {
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
    let db = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // One transaction, so that the sums fit together while the agent goes on.
    db.execute_batch("BEGIN")?;
    let at = |order: &str| -> Result<Option<Timestamp>, Error> {
        let mut st = db.prepare(&format!("SELECT first_ms FROM outbox ORDER BY id {order} LIMIT 1"))?;
        let mut rows = st.query([])?;
        Ok(rows.next()?.map(|r| r.get(0)).transpose()?.map(Timestamp))
    };
    let tally = outbox::read_tally(&db)?;
    Ok(Inspection {
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
